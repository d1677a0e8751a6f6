//! A backup of files, opened: its index entry by entry, and contents from just the frames in which they lie.
//!
//! Every frame is checked against the inventory, and that against the signed manifest, before a byte of it is used.
//! Blocking, but for fetching the inventory.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use pgproof_repository::contents::{self, ContentsError};
use pgproof_repository::keys::Identities;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::Role;
use pgproof_repository::sealed::{FrameReader, FrameRecord, ReadError, SealedReader};
use pgproof_repository::store::SharedStore;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::entry::{Content, Entry, LineError};
use crate::inventory::{self, Inventory, InventoryError, Totals};
use crate::path::StoredPath;
use crate::watch::Watch;

/// Fetches a backup's inventory, and compares it with what was signed.
pub async fn inventory(
    store: &SharedStore,
    signed: &SignedManifest,
    identities: &Identities,
) -> Result<Inventory, ArchiveError> {
    let bytes = contents::inventory_bytes(store, signed, identities).await;
    let bytes = bytes.map_err(|source| ArchiveError::Contents { source })?;
    inventory::parse(&bytes).map_err(|source| ArchiveError::Inventory { source })
}

/// Tar and index of one backup.
#[derive(Debug, Clone)]
pub struct Archive {
    data: SealedReader,
    index: SealedReader,
    data_frames: Vec<FrameRecord>,
    index_frames: Vec<FrameRecord>,
    index_starts: Vec<StoredPath>,
    totals: Totals,
}

impl Archive {
    /// Opens both objects of a backup.
    pub fn open(
        store: &SharedStore,
        runtime: &Handle,
        signed: &SignedManifest,
        inventory: &Inventory,
        identities: &Identities,
    ) -> Result<Self, ArchiveError> {
        let manifest = signed.get();
        let open = |role| {
            let contents = |source| ArchiveError::Contents { source };
            let object = manifest.object(role).ok_or(ContentsError::Missing { role }).map_err(contents)?;
            let key = contents::object_key(&manifest.source, &manifest.id, object).map_err(contents)?;
            let expected = contents::expected(object);
            SealedReader::open(store.clone(), runtime.clone(), key, expected, identities)
                .map_err(|source| ArchiveError::Read { source })
        };
        Self::new(open(Role::Archive)?, open(Role::Index)?, inventory)
    }

    /// Of objects that were opened already.
    pub fn new(data: SealedReader, index: SealedReader, inventory: &Inventory) -> Result<Self, ArchiveError> {
        let unsound = |source| ArchiveError::Inventory { source };
        let data_frames = inventory.data.records().map_err(unsound)?;
        let index_frames = inventory.index.records().map_err(unsound)?;
        let (index_starts, totals) = (inventory.index_starts.clone(), inventory.totals.clone());
        Ok(Self { data, index, data_frames, index_frames, index_starts, totals })
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Every entry, in the tar's order, with the number of the index's frame it stands in.
    pub fn entries(&self) -> Result<Entries, ArchiveError> {
        self.entries_of(0..self.index_frames.len())
    }

    /// The index's frames that can hold these paths, what is in them, and the folders they lie in; `None` if that takes all.
    pub(crate) fn index_frames_for(&self, paths: &[StoredPath]) -> Option<BTreeSet<usize>> {
        let starts = &self.index_starts;
        if paths.is_empty() || starts.len() != self.index_frames.len() {
            return None;
        }
        let frame_of = |path: &StoredPath| starts.partition_point(|start| start <= path).saturating_sub(1);
        let mut frames = BTreeSet::new();
        for path in paths {
            frames.extend(path.and_folders().map(|path| frame_of(&path)));
            let behind = starts.iter().enumerate().skip(frame_of(path) + 1);
            let within = behind.take_while(|(_, start)| start.is_within(path));
            frames.extend(within.map(|(number, _)| number));
        }
        Some(frames.into_iter().filter(|number| *number < starts.len()).collect())
    }

    pub(crate) fn entries_of(
        &self,
        frames: impl IntoIterator<Item = usize>,
    ) -> Result<Entries, ArchiveError> {
        let numbers: VecDeque<usize> = frames.into_iter().collect();
        let records: Vec<_> = numbers.iter().map(|number| self.index_frames[*number]).collect();
        let frames = self.index.read_frames(records).map_err(|source| ArchiveError::Read { source })?;
        Ok(Entries { frames, numbers, number: 0, lines: Vec::new(), position: 0 })
    }

    /// Reads every file's content and compares its hash with the index. Answers the names of those that differ.
    pub fn check(&self, watch: &dyn Watch) -> Result<Vec<String>, ArchiveError> {
        let mut contents = self.contents((0..self.data_frames.len()).collect())?;
        let (mut found, mut differing) = (Totals::default(), Vec::new());
        for item in self.entries()? {
            let (_, entry) = item?;
            found.add(&entry);
            if watch.is_cancelled() {
                return Err(ArchiveError::Cancelled);
            }
            let Some(content) = entry.content() else { continue };
            let mut hash = Sha256::new();
            contents.read::<ArchiveError>(content, |piece| {
                hash.update(piece);
                watch.advance(piece.len() as u64);
                Ok(())
            })?;
            if <[u8; 32]>::from(hash.finalize()) != content.sha256 {
                differing.push(entry.path.to_string());
            }
        }
        match found == self.totals {
            true => Ok(differing),
            false => Err(ArchiveError::Totals),
        }
    }

    /// Contents from these frames of the tar, fetched in their order, and from any other as it is asked for.
    pub(crate) fn contents(&self, frames: BTreeSet<usize>) -> Result<Contents<'_>, ArchiveError> {
        let ahead = self.data.read_frames(frames.iter().map(|number| self.data_frames[*number]));
        let ahead = ahead.map_err(|source| ArchiveError::Read { source })?;
        Ok(Contents { archive: self, numbers: frames.into_iter().collect(), ahead, current: None })
    }

    /// The frames in which a content lies.
    pub(crate) fn frames_of(&self, content: &Content) -> Result<Range<usize>, ArchiveError> {
        let (start, end) = (content.offset, content.offset + content.stored_bytes());
        if end > self.data_frames.last().map_or(0, FrameRecord::plain_end) {
            return Err(ArchiveError::OutOfArchive { end });
        }
        if start == end {
            return Ok(0..0);
        }
        let first = self.data_frames.partition_point(|frame| frame.plain_end() <= start);
        let last = self.data_frames.partition_point(|frame| frame.plain_offset < end);
        Ok(first..last)
    }
}

/// The index, entry by entry.
#[derive(Debug)]
pub struct Entries {
    frames: FrameReader,
    numbers: VecDeque<usize>,
    number: usize,
    lines: Vec<u8>,
    position: usize,
}

impl Entries {
    fn next_entry(&mut self) -> Result<Option<(usize, Entry)>, ArchiveError> {
        while self.position >= self.lines.len() {
            let Some(frame) = self.frames.next() else { return Ok(None) };
            self.lines = frame.map_err(|source| ArchiveError::Read { source })?;
            self.number = self.numbers.pop_front().unwrap_or_default();
            self.position = 0;
        }
        let rest = &self.lines[self.position..];
        let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let entry = Entry::read_line(&rest[..length]).map_err(|source| ArchiveError::Line { source })?;
        self.position += length;
        Ok(Some((self.number, entry)))
    }
}

impl Iterator for Entries {
    type Item = Result<(usize, Entry), ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

/// Contents of files, from frames that are fetched ahead.
#[derive(Debug)]
pub(crate) struct Contents<'a> {
    archive: &'a Archive,
    numbers: VecDeque<usize>,
    ahead: FrameReader,
    current: Option<(usize, Vec<u8>)>,
}

impl Contents<'_> {
    /// Gives the stored bytes of a content, piece by piece.
    pub(crate) fn read<E: From<ArchiveError>>(
        &mut self,
        content: &Content,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (start, end) = (content.offset, content.offset + content.stored_bytes());
        for number in self.archive.frames_of(content)? {
            let offset = self.archive.data_frames[number].plain_offset;
            let frame = self.frame(number)?;
            let within = |position: u64| (position.max(offset) - offset).min(frame.len() as u64) as usize;
            take(&frame[within(start)..within(end)])?;
        }
        Ok(())
    }

    fn frame(&mut self, number: usize) -> Result<&[u8], ArchiveError> {
        let read = |source| ArchiveError::Read { source };
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            while self.numbers.front().is_some_and(|next| *next < number) {
                self.numbers.pop_front();
                self.ahead.next().transpose().map_err(read)?;
            }
            let frame = match self.numbers.front() {
                Some(next) if *next == number => {
                    self.numbers.pop_front();
                    self.ahead.next().transpose().map_err(read)?.unwrap_or_default()
                }
                // One that was not expected, or lies behind.
                _ => self.archive.data.read_frame(&self.archive.data_frames[number]).map_err(read)?,
            };
            self.current = Some((number, frame));
        }
        Ok(self.current.as_ref().map_or(&[], |(_, frame)| frame))
    }
}

/// Why a backup's tar or index cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    #[error("backup's contents cannot be read")]
    Contents {
        #[source]
        source: ContentsError,
    },
    #[error("inventory is not usable")]
    Inventory {
        #[source]
        source: InventoryError,
    },
    #[error("archive cannot be read")]
    Read {
        #[source]
        source: ReadError,
    },
    #[error("index is not usable")]
    Line {
        #[source]
        source: LineError,
    },
    #[error("index names bytes up to {end}, behind the archive's end")]
    OutOfArchive { end: u64 },
    #[error("index does not hold as many entries as the inventory says")]
    Totals,
    #[error("stopped")]
    Cancelled,
}
