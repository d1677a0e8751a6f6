//! The bytes of one stored object for threads that block: by range with read-ahead, or as one stream.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Ciphertext;
use crate::ids::{CiphertextSha256, ObjectKey};
use crate::store::{SharedStore, StoreError};

/// First read-ahead of a reader nobody told what comes next; doubled while it reads on, up to the largest.
const READ_AHEAD_BYTES_MIN: u64 = 128 << 10;
const READ_AHEAD_BYTES_MAX: u64 = 8 << 20;
/// Pieces of a streamed body that wait for the reader. Stores give pieces of some 10 KiB up to 1 MiB.
const PIECES_WAITING: usize = 8;
/// Times a body is asked for again, from where it broke off, without any progress between. The store itself retries
/// within its own time.
const RESUMES_MAX: u32 = 4;

/// An object of known length. Cheap to clone; blocking calls, so not for threads of the runtime.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) store: SharedStore,
    pub(super) runtime: Handle,
    pub(super) key: ObjectKey,
    pub(super) bytes: u64,
}

impl Object {
    pub(super) fn stored_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.runtime.block_on(self.store.head(&self.key))?.bytes)
    }

    pub(super) fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.runtime.block_on(read_exactly(self.clone(), range))
    }

    /// Starts a read that goes on while the caller does something else.
    pub(super) fn start_read(&self, range: Range<u64>) -> PendingRead {
        PendingRead(self.runtime.spawn(read_exactly(self.clone(), range)))
    }

    pub(super) fn finish_read(&self, mut pending: PendingRead) -> Result<Bytes, StoreError> {
        match self.runtime.block_on(&mut pending.0) {
            Ok(result) => result,
            Err(source) => Err(StoreError::Refused {
                operation: "read",
                key: self.key.to_string(),
                source: Box::new(source),
            }),
        }
    }

    /// The whole object from its first byte, hashed as it passes.
    pub(super) fn stream(&self) -> ObjectStream {
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        let pump = self.runtime.spawn(pump(self.clone(), sender));
        let piece = Bytes::new();
        ObjectStream { object: self.clone(), pieces, piece, pump, read: 0, tally: Tally::default() }
    }
}

/// A read in the background; dropping it ends it.
#[derive(Debug)]
pub(super) struct PendingRead(JoinHandle<Result<Bytes, StoreError>>);

impl Drop for PendingRead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read_exactly(object: Object, range: Range<u64>) -> Result<Bytes, StoreError> {
    let expected = range.end - range.start;
    let bytes = object.store.get_range(&object.key, range).await?;
    match bytes.len() as u64 {
        got if got == expected => Ok(bytes),
        got => Err(StoreError::Short { operation: "read", key: object.key.to_string(), got, expected }),
    }
}

/// The object as a file to read and seek in, fetched by ranges. Store errors are inside the [`io::Error`].
#[derive(Debug)]
pub(super) struct ObjectReader {
    object: Object,
    /// The object's start, fetched when it was opened.
    head: Bytes,
    window: Bytes,
    window_start: u64,
    position: u64,
    read_ahead: u64,
}

impl ObjectReader {
    /// `window` holds the bytes from `window_start`, all that the caller is going to need.
    pub(super) fn new(object: Object, head: Bytes, window_start: u64, window: Bytes) -> Self {
        Self { object, head, window, window_start, position: 0, read_ahead: READ_AHEAD_BYTES_MIN }
    }

    fn available(&self) -> &[u8] {
        let behind = |bytes: &[u8], start: u64| -> Option<usize> {
            let offset = usize::try_from(self.position.checked_sub(start)?).ok()?;
            (offset < bytes.len()).then_some(offset)
        };
        if let Some(offset) = behind(&self.window, self.window_start) {
            return &self.window[offset..];
        }
        behind(&self.head, 0).map_or(&[], |offset| &self.head[offset..])
    }

    /// Reading on behind the window doubles what is fetched at once; a jump starts small again.
    fn fetch(&mut self) -> io::Result<()> {
        let reads_on = self.position == self.window_start + self.window.len() as u64;
        let doubled = (self.read_ahead * 2).min(READ_AHEAD_BYTES_MAX);
        self.read_ahead = if reads_on { doubled } else { READ_AHEAD_BYTES_MIN };
        let end = self.object.bytes.min(self.position + self.read_ahead);
        self.window = self.object.read(self.position..end).map_err(io::Error::other)?;
        self.window_start = self.position;
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.position >= self.object.bytes {
            return Ok(0);
        }
        if self.available().is_empty() {
            self.fetch()?;
        }
        let available = self.available();
        let taken = available.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&available[..taken]);
        self.position += taken as u64;
        Ok(taken)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.object.bytes.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

/// The object's bytes in order. Ends without error only behind the last byte.
pub(super) struct ObjectStream {
    object: Object,
    pieces: mpsc::Receiver<Result<Bytes, StoreError>>,
    piece: Bytes,
    pump: JoinHandle<()>,
    read: u64,
    tally: Tally,
}

/// What was read of a stream so far. age keeps its input to itself, so this is held beside it.
#[derive(Clone, Default)]
pub(super) struct Tally(Arc<Mutex<(u64, Sha256)>>);

impl Tally {
    pub(super) fn ciphertext(&self) -> Ciphertext {
        let (bytes, hash) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ciphertext { bytes, sha256: CiphertextSha256::new(hash.finalize().into()) }
    }

    fn add(&self, piece: &[u8]) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tally.0 += piece.len() as u64;
        tally.1.update(piece);
    }
}

impl ObjectStream {
    pub(super) fn tally(&self) -> Tally {
        self.tally.clone()
    }

    fn next_piece(&mut self) -> io::Result<bool> {
        match self.pieces.blocking_recv() {
            Some(piece) => self.piece = piece.map_err(io::Error::other)?,
            None if self.read == self.object.bytes => return Ok(false),
            None => return Err(io::Error::other(short(&self.object, self.read))),
        }
        Ok(true)
    }
}

impl Read for ObjectStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if !self.next_piece()? {
                return Ok(0);
            }
        }
        let taken = self.piece.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&self.piece[..taken]);
        self.tally.add(&buffer[..taken]);
        self.read += taken as u64;
        let _ = self.piece.split_to(taken);
        Ok(taken)
    }
}

impl Drop for ObjectStream {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl fmt::Debug for ObjectStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStream").field("object", &self.object).field("read", &self.read).finish()
    }
}

/// Passes the body on piece by piece; one that breaks off is resumed where it broke.
async fn pump(object: Object, pieces: mpsc::Sender<Result<Bytes, StoreError>>) {
    let mut position = 0;
    let mut fruitless = 0;
    while position < object.bytes {
        let before = position;
        let Some(error) = pass_on(&object, &mut position, &pieces).await else { return };
        fruitless = if position > before { 0 } else { fruitless + 1 };
        if !error.is_transient() || fruitless > RESUMES_MAX {
            // Nobody listens any more if this fails.
            let _ = pieces.send(Err(error)).await;
            return;
        }
        tracing::warn!(key = %object.key, position, %error, "read broke off; reading on from there");
    }
}

/// `None` when the body or the listener is at its end.
async fn pass_on(
    object: &Object,
    position: &mut u64,
    pieces: &mpsc::Sender<Result<Bytes, StoreError>>,
) -> Option<StoreError> {
    let body = object.store.get_stream(&object.key, *position..object.bytes).await;
    let mut body = match body {
        Ok(body) => body,
        Err(error) => return Some(error),
    };
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => {
                *position += piece.len() as u64;
                pieces.send(Ok(piece)).await.ok()?;
            }
            Err(error) => return Some(error),
        }
    }
    (*position != object.bytes).then(|| short(object, *position))
}

fn short(object: &Object, got: u64) -> StoreError {
    StoreError::Short { operation: "read", key: object.key.to_string(), got, expected: object.bytes }
}
