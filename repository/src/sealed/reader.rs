//! Reading sealed objects: as one stream, or frame by frame.
//!
//! Everything here blocks, and is meant for threads of their own. Lengths and hashes come from the signed manifest and
//! its inventory; nothing the store says is believed without them.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::mpsc;
use std::{thread, vec};

use age::stream::StreamReader;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::frame::{FrameError, FrameOpener, FrameRecord};
use super::object::{Object, ObjectReader, ObjectStream, PendingRead, Tally};
use super::{BLOCK_BYTES_MAX, Ciphertext, Plaintext, WINDOW_LOG_MAX};
use crate::ids::{ObjectKey, PlaintextSha256};
use crate::keys::{Identities, KeyError, KnownFileKey};
use crate::store::{SharedStore, StoreError};

/// age encrypts chunks of 64 KiB, each with a tag of 16 bytes (<https://age-encryption.org/v1>).
const CHUNK_PLAIN_BYTES: u64 = 64 << 10;
const CHUNK_TAG_BYTES: u64 = 16;
const CHUNK_BYTES: u64 = CHUNK_PLAIN_BYTES + CHUNK_TAG_BYTES;
/// An age header takes about 150 bytes a recipient, 700 for an RSA key: the first guess holds twenty of those.
const HEAD_BYTES: u64 = 16 << 10;
const HEAD_BYTES_MAX: u64 = 1 << 20;
/// Consecutive frames fetched with one request.
const BATCH_SEALED_BYTES: u64 = 2 << 20;
/// While one batch is decoded others are on their way, until they hold this many bytes: a single request at a time waits
/// for the store's answer more than it receives.
const AHEAD_SEALED_BYTES: u64 = 8 << 20;

/// Most that is fetched at once: a batch, or the frame of a block that does not compress.
const RANGE_BYTES_MAX: u64 = BLOCK_BYTES_MAX as u64 + (1 << 20);

/// What a check hashes at a time, and how many such pieces wait for it.
const CHECK_PIECE_BYTES: u64 = 1 << 20;
const CHECK_PIECES: usize = 2;

/// What a signed manifest says of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub plaintext: Plaintext,
    pub ciphertext: Ciphertext,
}

/// An opened object. Cheap to clone: every worker gets its own, and the identity is not asked again.
#[derive(Debug, Clone)]
pub struct SealedReader {
    object: Object,
    expected: Expected,
    head: Bytes,
    key: KnownFileKey,
    /// Where age's first chunk begins.
    payload_start: u64,
    /// Length of the zstd stream.
    sealed_bytes: u64,
}

impl SealedReader {
    /// Compares the object's length with the manifest's, and unwraps its header.
    pub fn open(
        store: SharedStore,
        runtime: Handle,
        key: ObjectKey,
        expected: Expected,
        identities: &Identities,
    ) -> Result<Self, ReadError> {
        let object = Object { store, runtime, key, bytes: expected.ciphertext.bytes };
        let found = object.stored_bytes().map_err(|source| ReadError::Store { source })?;
        if found != object.bytes {
            let (key, expected) = (object.key.to_string(), object.bytes);
            return Err(ReadError::ObjectLength { key, found, expected });
        }
        let (head, payload_start) = fetch_head(&object)?;
        let key = KnownFileKey::unwrap(&head[..], identities).map_err(|source| ReadError::Key { source })?;
        let sealed_bytes = payload_plain_bytes(object.bytes - payload_start).ok_or(ReadError::CutShort)?;
        Ok(Self { object, expected, head, key, payload_start, sealed_bytes })
    }

    /// Length of the zstd stream, to which an inventory's frames must add up.
    pub fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    /// The whole plaintext, from one request.
    pub fn stream(&self) -> Result<PlaintextStream, ReadError> {
        let stream = self.object.stream();
        let tally = stream.tally();
        let decrypting = self.decrypt(stream)?;
        let decode = || {
            let buffered = BufReader::with_capacity(CHUNK_PLAIN_BYTES as usize, decrypting);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Ok(decoder)
        };
        let decoder = decode().map_err(read_error)?;
        let (expected, hash) = (self.expected, Sha256::new());
        Ok(PlaintextStream { decoder, tally, ended: None, expected, bytes: 0, hash })
    }

    /// One frame's plaintext, with one request.
    pub fn read_frame(&self, frame: &FrameRecord) -> Result<Vec<u8>, ReadError> {
        let sealed = self.read_sealed(frame.sealed_offset..frame.sealed_end(), None)?;
        let mut opener = FrameOpener::new().map_err(|source| frame_error(frame, source))?;
        opener.open(frame, &sealed).map_err(|source| frame_error(frame, source))
    }

    /// The plaintext of many frames, in the given order. Neighbours are fetched together, and the next ones while the
    /// last are decoded.
    pub fn read_frames(
        &self,
        frames: impl IntoIterator<Item = FrameRecord>,
    ) -> Result<FrameReader, ReadError> {
        let batches = batches(frames);
        let opener = FrameOpener::new().map_err(|source| ReadError::Frame { plain_offset: 0, source })?;
        let mut reader = FrameReader {
            reader: self.clone(),
            opener,
            batches: batches.into_iter(),
            ahead: VecDeque::new(),
            sealed: Vec::new(),
            sealed_start: 0,
            current: Vec::new().into_iter(),
            failed: false,
        };
        reader.prefetch()?;
        Ok(reader)
    }

    /// Decrypts a range of the zstd stream, from `fetched` ciphertext if there is some.
    fn read_sealed(&self, range: Range<u64>, fetched: Option<Bytes>) -> Result<Vec<u8>, ReadError> {
        let ciphertext = self.ciphertext_range(&range)?;
        let start = ciphertext.start;
        let window = match fetched {
            Some(window) => window,
            None => self.object.read(ciphertext).map_err(|source| ReadError::Store { source })?,
        };
        let mut stream =
            self.decrypt(ObjectReader::new(self.object.clone(), self.head.clone(), start, window))?;
        let mut sealed = vec![0; (range.end - range.start) as usize];
        let mut read = || {
            // Seeking to a chunk's first byte makes age read the object's end, to learn its length; seeking one byte
            // further and back does not.
            stream.seek(SeekFrom::Start(range.start + 1))?;
            stream.seek(SeekFrom::Start(range.start))?;
            stream.read_exact(&mut sealed)
        };
        read().map_err(read_error)?;
        Ok(sealed)
    }

    fn decrypt<R: Read>(&self, input: R) -> Result<StreamReader<R>, ReadError> {
        let open = || age::Decryptor::new(input)?.decrypt(std::iter::once(&self.key as _));
        match open() {
            Ok(stream) => Ok(stream),
            Err(age::DecryptError::Io(source)) => Err(read_error(source)),
            Err(source) => Err(ReadError::Key { source: KeyError::Header { source } }),
        }
    }

    /// The whole chunks in which a range of the zstd stream lies.
    fn ciphertext_range(&self, sealed: &Range<u64>) -> Result<Range<u64>, ReadError> {
        if sealed.is_empty() || sealed.end > self.sealed_bytes {
            let (start, end) = (sealed.start, sealed.end);
            return Err(ReadError::OutOfObject { start, end, sealed_bytes: self.sealed_bytes });
        }
        if sealed.end - sealed.start > RANGE_BYTES_MAX {
            let source = FrameError::TooLarge { bytes: sealed.end - sealed.start };
            return Err(ReadError::Frame { plain_offset: 0, source });
        }
        let first = sealed.start / CHUNK_PLAIN_BYTES;
        let last = (sealed.end - 1) / CHUNK_PLAIN_BYTES;
        let start = self.payload_start + first * CHUNK_BYTES;
        let end = self.payload_start + (last + 1) * CHUNK_BYTES;
        Ok(start..end.min(self.object.bytes))
    }
}

/// A sealed object's plaintext. Its end is reported only when the last age chunk, the last zstd frame, and both hashes
/// of the manifest were right; so a program at the other end of a pipe never takes a part for the whole.
pub struct PlaintextStream {
    decoder: zstd::stream::read::Decoder<'static, BufReader<StreamReader<ObjectStream>>>,
    tally: Tally,
    ended: Option<Result<(), Difference>>,
    expected: Expected,
    bytes: u64,
    hash: Sha256,
}

impl PlaintextStream {
    /// What was read, which is what the manifest says.
    pub fn finish(self) -> Result<Expected, ReadError> {
        match self.ended {
            Some(Ok(())) => Ok(self.found()),
            Some(Err(difference)) => Err(difference.into()),
            None => Err(ReadError::NotAtEnd),
        }
    }

    /// Reads what is left and throws it away, for checks of an object. The plaintext is hashed on a second thread,
    /// which takes about as long as decoding it.
    pub fn check(mut self) -> Result<Expected, ReadError> {
        let (full, to_hash) = mpsc::sync_channel::<Vec<u8>>(CHECK_PIECES);
        let (empty, hashed) = mpsc::channel();
        let mut hash = std::mem::take(&mut self.hash);
        let hashing = thread::spawn(move || {
            for piece in to_hash {
                hash.update(&piece);
                // A reader that is done wants no more room.
                let _ = empty.send(piece);
            }
            hash
        });
        let mut read = || loop {
            let mut piece = hashed.try_recv().unwrap_or_default();
            piece.clear();
            let count = (&mut self.decoder).take(CHECK_PIECE_BYTES).read_to_end(&mut piece)?;
            self.bytes += count as u64;
            if count == 0 || full.send(piece).is_err() {
                return Ok(());
            }
        };
        let read = read();
        drop(full);
        self.hash = hashing.join().expect("hashing does not panic");
        read.map_err(read_error)?;
        self.ended = Some(self.compare());
        self.finish()
    }

    fn found(&self) -> Expected {
        let sha256 = PlaintextSha256::new(self.hash.clone().finalize().into());
        let plaintext = Plaintext { bytes: self.bytes, sha256 };
        Expected { plaintext, ciphertext: self.tally.ciphertext() }
    }

    fn compare(&self) -> Result<(), Difference> {
        let found = self.found();
        if found.ciphertext != self.expected.ciphertext {
            return Err(Difference::Ciphertext);
        }
        if found.plaintext != self.expected.plaintext {
            return Err(Difference::Plaintext);
        }
        Ok(())
    }
}

impl Read for PlaintextStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = match self.ended {
            Some(_) => 0,
            None => self.decoder.read(buffer)?,
        };
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        if read == 0 {
            let ended = self.ended.take().unwrap_or_else(|| self.compare());
            self.ended = Some(ended);
            ended.map_err(io::Error::other)?;
        }
        Ok(read)
    }
}

impl fmt::Debug for PlaintextStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlaintextStream").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// The frames asked for, one plaintext after the other. After an error it ends.
pub struct FrameReader {
    reader: SealedReader,
    opener: FrameOpener,
    batches: vec::IntoIter<Vec<FrameRecord>>,
    /// What is being fetched, in order.
    ahead: VecDeque<(Vec<FrameRecord>, PendingRead)>,
    sealed: Vec<u8>,
    current: vec::IntoIter<FrameRecord>,
    /// Where the first frame of `sealed` lies.
    sealed_start: u64,
    failed: bool,
}

impl FrameReader {
    fn next_frame(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        if self.current.len() == 0 && !self.next_batch()? {
            return Ok(None);
        }
        let Some(frame) = self.current.next() else { return Ok(None) };
        let start = (frame.sealed_offset - self.sealed_start) as usize;
        let sealed = &self.sealed[start..start + frame.sealed_bytes as usize];
        self.opener.open(&frame, sealed).map(Some).map_err(|source| frame_error(&frame, source))
    }

    fn next_batch(&mut self) -> Result<bool, ReadError> {
        let Some((frames, pending)) = self.ahead.pop_front() else { return Ok(false) };
        let fetched =
            self.reader.object.finish_read(pending).map_err(|source| ReadError::Store { source })?;
        self.prefetch()?;
        let range = span(&frames);
        self.sealed_start = range.start;
        self.sealed = self.reader.read_sealed(range, Some(fetched))?;
        self.current = frames.into_iter();
        Ok(true)
    }

    fn prefetch(&mut self) -> Result<(), ReadError> {
        let mut ahead: u64 = self.ahead.iter().map(|(frames, _)| length(frames)).sum();
        while ahead < AHEAD_SEALED_BYTES {
            let Some(frames) = self.batches.next() else { break };
            let range = self.reader.ciphertext_range(&span(&frames))?;
            ahead += length(&frames);
            self.ahead.push_back((frames, self.reader.object.start_read(range)));
        }
        Ok(())
    }
}

impl Iterator for FrameReader {
    type Item = Result<Vec<u8>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.next_frame().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader").field("reader", &self.reader).finish_non_exhaustive()
    }
}

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("object cannot be fetched")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("object {key} has {found} bytes; the manifest says {expected}")]
    ObjectLength { key: String, found: u64, expected: u64 },
    #[error("object cannot be opened")]
    Key {
        #[source]
        source: KeyError,
    },
    #[error("object is cut short")]
    CutShort,
    #[error("object is damaged")]
    Damaged {
        #[source]
        source: io::Error,
    },
    #[error("frame at plaintext offset {plain_offset} is damaged")]
    Frame {
        plain_offset: u64,
        #[source]
        source: FrameError,
    },
    #[error("frame at {start}..{end} does not lie in the object's {sealed_bytes} bytes")]
    OutOfObject { start: u64, end: u64, sealed_bytes: u64 },
    #[error("object is not the one that the manifest names: its hash differs")]
    CiphertextDiffers,
    #[error("object does not hold what the manifest says: the plaintext's hash differs")]
    PlaintextDiffers,
    #[error("object was not read to its end")]
    NotAtEnd,
}

impl ReadError {
    /// What an operator can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store { source } => source.hint().map(str::to_owned),
            Self::Key { source } => source.hint(),
            Self::Damaged { .. } | Self::CutShort | Self::ObjectLength { .. } | Self::CiphertextDiffers => {
                Some("restore another backup, and find out what changed this object in the store".to_owned())
            }
            _ => None,
        }
    }
}

/// How a stream that was read to its end differs from the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Difference {
    #[error("ciphertext differs from the manifest's")]
    Ciphertext,
    #[error("plaintext differs from the manifest's")]
    Plaintext,
}

impl From<Difference> for ReadError {
    fn from(difference: Difference) -> Self {
        match difference {
            Difference::Ciphertext => Self::CiphertextDiffers,
            Difference::Plaintext => Self::PlaintextDiffers,
        }
    }
}

/// What is inside an I/O error that went through age and zstd.
fn read_error(error: io::Error) -> ReadError {
    let error = match error.downcast::<StoreError>() {
        Ok(source) => return ReadError::Store { source },
        Err(error) => error,
    };
    match error.downcast::<Difference>() {
        Ok(difference) => difference.into(),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => ReadError::CutShort,
        Err(source) => ReadError::Damaged { source },
    }
}

fn frame_error(frame: &FrameRecord, source: FrameError) -> ReadError {
    ReadError::Frame { plain_offset: frame.plain_offset, source }
}

/// The object's start with its whole age header, and where the payload begins.
fn fetch_head(object: &Object) -> Result<(Bytes, u64), ReadError> {
    let mut wanted = HEAD_BYTES;
    loop {
        let fetched = wanted.min(object.bytes);
        let head = object.read(0..fetched).map_err(|source| ReadError::Store { source })?;
        let mut cursor = Cursor::new(&head[..]);
        match age::Decryptor::new_buffered(&mut cursor) {
            Ok(_) => {
                let payload_start = cursor.position();
                return Ok((head, payload_start));
            }
            Err(_) if fetched < object.bytes && wanted < HEAD_BYTES_MAX => wanted *= 8,
            Err(age::DecryptError::Io(source)) if source.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(ReadError::CutShort);
            }
            Err(source) => return Err(ReadError::Key { source: KeyError::Header { source } }),
        }
    }
}

/// Length of what is encrypted in `payload` bytes of chunks; there is always a last chunk, and its tag.
fn payload_plain_bytes(payload: u64) -> Option<u64> {
    let chunks = payload.div_ceil(CHUNK_BYTES);
    let last = payload.checked_sub(chunks.checked_sub(1)? * CHUNK_BYTES)?;
    let last_plain = last.checked_sub(CHUNK_TAG_BYTES)?;
    Some((chunks - 1) * CHUNK_PLAIN_BYTES + last_plain)
}

/// Groups neighbours up to a batch's size.
fn batches(frames: impl IntoIterator<Item = FrameRecord>) -> Vec<Vec<FrameRecord>> {
    let mut batches: Vec<Vec<FrameRecord>> = Vec::new();
    for frame in frames {
        match batches.last_mut() {
            Some(batch) if joins(batch, &frame) => batch.push(frame),
            _ => batches.push(vec![frame]),
        }
    }
    batches
}

fn joins(batch: &[FrameRecord], frame: &FrameRecord) -> bool {
    let range = span(batch);
    frame.sealed_offset == range.end && frame.sealed_end().saturating_sub(range.start) <= BATCH_SEALED_BYTES
}

fn length(frames: &[FrameRecord]) -> u64 {
    let span = span(frames);
    span.end - span.start
}

fn span(frames: &[FrameRecord]) -> Range<u64> {
    let start = frames.first().map_or(0, |frame| frame.sealed_offset);
    start..frames.last().map_or(start, FrameRecord::sealed_end)
}
