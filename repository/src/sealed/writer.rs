//! Blocks in, parts out: compression on worker threads, one age writer behind them.
//!
//! ```text
//! submit ─► workers (inspect, compress, check) ─► in order ─► age ─► parts ─► bounded channel
//! ```
//!
//! Streams of one backup share their [`Workers`], and the room for blocks and parts with them. [`Sealer::submit`] waits
//! when there is no room. When the receiver of the parts is dropped, everything ends and the next call says so. The
//! parts' channel ends on success and on failure alike: only [`Sealer::finish`] tells that the object is whole.

use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::frame::{BLOCK_BYTES_MAX, FrameError, FrameRecord};
use super::parts::{PARTS_WAITING, PartWriter};
use super::room::Room;
use super::workers::{Made, Pool, Work, Workers, spawn};
use super::{Ciphertext, Plaintext};
use crate::ids::PlaintextSha256;
use crate::keys::{KeyError, Recipients};

/// A block, and what to find out about it on a worker.
pub struct SealJob<T> {
    pub bytes: Vec<u8>,
    pub inspect: Inspect<T>,
}

/// Looks at a block's plaintext, on a worker thread.
pub type Inspect<T> = Box<dyn FnOnce(&[u8]) -> T + Send>;

impl<T> SealJob<T> {
    pub fn new(bytes: Vec<u8>, inspect: impl FnOnce(&[u8]) -> T + Send + 'static) -> Self {
        Self { bytes, inspect: Box::new(inspect) }
    }
}

/// What was sealed: each block's frame with what its inspection found, in order, and the whole stream's hashes.
#[derive(Debug)]
pub struct SealedSummary<T> {
    pub frames: Vec<(FrameRecord, T)>,
    pub plaintext: Plaintext,
    pub ciphertext: Ciphertext,
}

/// A stream that is being sealed. Dropping it before [`Sealer::finish`] leaves an age file that ends too early, which
/// every reader refuses.
pub struct Sealer<T> {
    jobs: Sender<Work<T>>,
    ordered: SyncSender<Ordered<T>>,
    sealing: Option<JoinHandle<Result<Finished<T>, SealError>>>,
    blocks: Pool,
    room: Room,
    hash: Sha256,
    bytes: u64,
}

impl<T: Send + 'static> Sealer<T> {
    /// Starts the threads of a single stream whose parts nobody counts. Part `n`, from 1, gets `part_bytes(n)` bytes; the last one what is left.
    pub fn start(
        recipients: &Recipients,
        level: i32,
        workers: usize,
        part_bytes: impl FnMut(u32) -> u64 + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<Bytes>), SealError> {
        Workers::start(level, workers)?.sealer(recipients, part_bytes)
    }

    /// Starts what a stream has alone: its age writer.
    pub(super) fn with(
        workers: &Workers<T>,
        recipients: &Recipients,
        part_bytes: impl FnMut(u32) -> u64 + Send + 'static,
    ) -> Result<(Self, mpsc::Receiver<Bytes>), SealError> {
        let encryptor = recipients.encryptor().map_err(|source| SealError::Recipients { source })?;
        let (parts, receiver) = mpsc::channel(PARTS_WAITING);
        let parts = PartWriter::new(Box::new(part_bytes), workers.parts.as_ref().map(Room::join), parts);
        // No stream is ahead of its age writer by more than one block a worker, also where workers have died.
        let (ordered, in_order) = sync_channel(workers.count);
        let frames = workers.frames.clone();
        let sealing = Some(spawn("seal-age", move || encrypt(encryptor, parts, &in_order, &frames))?);
        let (jobs, blocks, room) = (workers.jobs.clone(), workers.blocks.clone(), workers.room.clone());
        Ok((Self { jobs, ordered, sealing, blocks, room, hash: Sha256::new(), bytes: 0 }, receiver))
    }

    /// An empty buffer for the next block, with the memory of one that is done.
    pub fn buffer(&self) -> Vec<u8> {
        self.blocks.take()
    }

    /// Gives the next block away; waits while too many are in flight. After an error nothing more can be submitted.
    pub fn submit(&mut self, job: SealJob<T>) -> Result<(), SealError> {
        if job.bytes.len() > BLOCK_BYTES_MAX {
            let source = FrameError::TooLarge { bytes: job.bytes.len() as u64 };
            return Err(SealError::Frame { block: 0, source });
        }
        let place = self.room.take();
        let (result, awaited) = sync_channel(1);
        if self.ordered.send(Ordered::Frame(awaited)).is_err() {
            return Err(self.failure());
        }
        self.hash.update(&job.bytes);
        self.bytes += job.bytes.len() as u64;
        // Where no worker is left, the result's sender is dropped here, and the age writer finds that out.
        let _ = self.jobs.send(Work { job, result, place });
        Ok(())
    }

    /// Waits for what is in flight, ends the age file and hands on the last part.
    pub fn finish(mut self) -> Result<SealedSummary<T>, SealError> {
        if self.ordered.send(Ordered::End).is_err() {
            return Err(self.failure());
        }
        let finished = self.join()?;
        let plaintext =
            Plaintext { bytes: self.bytes, sha256: PlaintextSha256::new(self.hash.finalize().into()) };
        Ok(SealedSummary { frames: finished.frames, plaintext, ciphertext: finished.ciphertext })
    }

    fn failure(&mut self) -> SealError {
        self.join().err().unwrap_or(SealError::Stopped)
    }

    fn join(&mut self) -> Result<Finished<T>, SealError> {
        let sealing = self.sealing.take().ok_or(SealError::Stopped)?;
        sealing.join().map_err(|_| SealError::Panicked)?
    }
}

impl<T> fmt::Debug for Sealer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for SealJob<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealJob").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Why sealing ended without a whole object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    #[error("stream cannot be encrypted")]
    Recipients {
        #[source]
        source: KeyError,
    },
    #[error("block {block} cannot be sealed")]
    Frame {
        block: u64,
        #[source]
        source: FrameError,
    },
    #[error("upload stopped taking the sealed stream")]
    ConsumerGone,
    #[error("sealed stream cannot be written")]
    Write {
        #[source]
        source: io::Error,
    },
    #[error("sealing was given up before its end")]
    Abandoned,
    #[error("sealing has stopped")]
    Stopped,
    #[error("thread cannot be started")]
    Thread {
        #[source]
        source: io::Error,
    },
    #[error("sealing thread panicked")]
    Panicked,
}

enum Ordered<T> {
    Frame(Receiver<Result<Made<T>, FrameError>>),
    End,
}

struct Finished<T> {
    frames: Vec<(FrameRecord, T)>,
    ciphertext: Ciphertext,
}

/// The age thread: takes the frames in the order of their blocks.
fn encrypt<T>(
    encryptor: age::Encryptor,
    parts: PartWriter,
    in_order: &Receiver<Ordered<T>>,
    pool: &Pool,
) -> Result<Finished<T>, SealError> {
    let consumer = parts.consumer();
    let write_error = |source| match consumer.is_closed() {
        true => SealError::ConsumerGone,
        false => SealError::Write { source },
    };
    let mut output = encryptor.wrap_output(parts).map_err(write_error)?;
    let mut frames: Vec<(FrameRecord, T)> = Vec::new();
    loop {
        let awaited = match in_order.recv() {
            Ok(Ordered::Frame(awaited)) => awaited,
            Ok(Ordered::End) => break,
            Err(_) => return Err(SealError::Abandoned),
        };
        let made = awaited.recv().map_err(|_| SealError::Panicked)?;
        let made = made.map_err(|source| SealError::Frame { block: frames.len() as u64, source })?;
        output.write_all(&made.frame).map_err(write_error)?;
        let (sealed_offset, plain_offset) =
            frames.last().map_or((0, 0), |(last, _)| (last.sealed_end(), last.plain_end()));
        let record = FrameRecord {
            sealed_offset,
            sealed_bytes: made.frame.len() as u32,
            plain_offset,
            plain_bytes: made.plain_bytes,
            sha256_128: made.sha256_128,
        };
        frames.push((record, made.found));
        pool.put(made.frame);
        drop(made.place);
    }
    if frames.is_empty() {
        // Zero frames are no zstd file; stock `zstd -d` wants one, if an empty one.
        output.write_all(&empty_frame()?).map_err(write_error)?;
    }
    let ciphertext = output.finish().and_then(PartWriter::finish).map_err(write_error)?;
    Ok(Finished { frames, ciphertext })
}

fn empty_frame() -> Result<Vec<u8>, SealError> {
    zstd::bulk::compress(&[], 1).map_err(|source| SealError::Write { source })
}
