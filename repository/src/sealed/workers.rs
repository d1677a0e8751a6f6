//! The threads that compress, and the room that blocks and parts have in memory: what the streams of one backup share,
//! so that several take hardly more than one.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::frame::{FrameError, FrameMaker};
use super::parts::PARTS_WAITING;
use super::room::{Place, Room};
use super::writer::{SealError, SealJob, Sealer};
use crate::keys::Recipients;

/// What parts in memory come to together, as long as they are not so large that this would leave too few of them.
const PARTS_BYTES: u64 = 64 << 20;
/// Parts beside those that are being filled, however large they are: with one upload at a time, each would wait for the
/// answer to the one before.
const UPLOADS_IN_FLIGHT_MIN: usize = 2;
/// A block that the age writer is at, beside those that the workers have.
const BLOCKS_AT_WRITER: usize = 1;

/// Threads that make frames of the blocks of any number of streams. They end with the last of these.
pub struct Workers<T> {
    pub(super) count: usize,
    pub(super) jobs: Sender<Work<T>>,
    pub(super) blocks: Pool,
    pub(super) frames: Pool,
    /// For blocks on their way from a stream to its age writer.
    pub(super) room: Room,
    /// For parts in memory, from the first byte to the end of their upload.
    pub(super) parts: Option<Room>,
}

impl<T: Send + 'static> Workers<T> {
    /// The threads of a single stream, whose parts nobody counts: their channel and their uploads bound them.
    pub fn start(level: i32, count: usize) -> Result<Self, SealError> {
        let count = count.max(1);
        let (blocks, frames) = (Pool::new(count), Pool::new(count));
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..count {
            let maker = FrameMaker::new(level).map_err(|source| SealError::Frame { block: 0, source })?;
            let worker =
                Worker { queue: queue.clone(), maker, blocks: blocks.clone(), frames: frames.clone() };
            spawn("seal-worker", move || worker.run())?;
        }
        let room = Room::new(count + BLOCKS_AT_WRITER);
        Ok(Self { count, jobs, blocks, frames, room, parts: None })
    }

    /// The threads of one stream or several, which have at most [`parts_in_memory`] parts together. A part counts until its
    /// last byte was dropped, so whoever takes parts must not keep them.
    pub fn shared_by(
        level: i32,
        count: usize,
        streams: usize,
        uploads_in_flight: usize,
    ) -> Result<Self, SealError> {
        let most = most_parts(streams, uploads_in_flight);
        let parts = Some(Room::within(most, PARTS_BYTES, UPLOADS_IN_FLIGHT_MIN));
        Ok(Self { parts, ..Self::start(level, count)? })
    }

    /// Starts to seal a stream. Part `n`, from 1, gets `part_bytes(n)` bytes; the last one what is left.
    pub fn sealer(
        &self,
        recipients: &Recipients,
        part_bytes: impl FnMut(u32) -> u64 + Send + 'static,
    ) -> Result<(Sealer<T>, mpsc::Receiver<Bytes>), SealError> {
        Sealer::with(self, recipients, part_bytes)
    }
}

/// Parts of this size that `streams` hold at the same time: as many as 64 MiB hold, and one each that is being filled
/// with two beside, however large they are.
pub fn parts_in_memory(streams: usize, uploads_in_flight: usize, part_bytes: u64) -> usize {
    let most = most_parts(streams, uploads_in_flight);
    let fitting = usize::try_from(PARTS_BYTES / part_bytes.max(1)).unwrap_or(usize::MAX);
    fitting.max(streams + UPLOADS_IN_FLIGHT_MIN).min(most)
}

/// Those that are uploaded, and one each that is being filled; a single stream fills the next one while its last one waits.
fn most_parts(streams: usize, uploads_in_flight: usize) -> usize {
    uploads_in_flight + streams.max(1 + PARTS_WAITING)
}

/// Blocks that `streams` hold at the same time: one each that is being cut, and those on their way to the age writers.
pub fn blocks_in_memory(streams: usize, workers: usize) -> usize {
    streams + workers + BLOCKS_AT_WRITER
}

impl<T> fmt::Debug for Workers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("room", &self.room).finish_non_exhaustive()
    }
}

/// A block for the workers.
pub(super) struct Work<T> {
    pub(super) job: SealJob<T>,
    pub(super) result: SyncSender<Result<Made<T>, FrameError>>,
    pub(super) place: Place,
}

/// A block's frame.
pub(super) struct Made<T> {
    pub(super) frame: Vec<u8>,
    pub(super) plain_bytes: u32,
    pub(super) sha256_128: [u8; 16],
    pub(super) found: T,
    /// Given back once the frame is written.
    pub(super) place: Place,
}

struct Worker<T> {
    queue: Arc<Mutex<Receiver<Work<T>>>>,
    maker: FrameMaker,
    blocks: Pool,
    frames: Pool,
}

impl<T> Worker<T> {
    fn run(mut self) {
        while let Some(Work { job, result, place }) = self.next() {
            let SealJob { bytes, inspect } = job;
            let found = inspect(&bytes);
            let mut frame = self.frames.take();
            let made = self.maker.make(&bytes, &mut frame).map(|sha256_128| Made {
                frame,
                plain_bytes: bytes.len() as u32,
                sha256_128,
                found,
                place,
            });
            self.blocks.put(bytes);
            // Nobody waits any more when the age writer has stopped; the queue then ends by itself.
            let _ = result.send(made);
        }
    }

    fn next(&self) -> Option<Work<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

pub(super) fn spawn<R: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> R + Send + 'static,
) -> Result<JoinHandle<R>, SealError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|source| SealError::Thread { source })
}

/// Buffers that are used again, so that memory stays flat and pages stay warm.
#[derive(Clone)]
pub(super) struct Pool {
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
    kept_max: usize,
}

impl Pool {
    fn new(kept_max: usize) -> Self {
        Self { buffers: Arc::default(), kept_max }
    }

    pub(super) fn take(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn put(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < self.kept_max {
            buffers.push(buffer);
        }
    }
}
