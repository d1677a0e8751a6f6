//! A backup of files, opened: its index entry by entry, and contents from just the frames in which they lie, in this backup
//! or in an earlier one that holds them.
//!
//! Every frame is checked against its backup's inventory, and that against the signed manifest, before a byte of it is used.
//! Blocking, but for [`Archive::fetch`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter;
use std::ops::Range;

use pgproof_repository::contents::{self, ContentsError};
use pgproof_repository::ids::BackupId;
use pgproof_repository::keys::Identities;
use pgproof_repository::lineage::{self, LineageError};
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::Role;
use pgproof_repository::sealed::{FrameReader, FrameRecord, ReadError, SealedReader};
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::SharedStore;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::ahead::Ahead;
use crate::entry::{Content, Entry, LineError};
use crate::inventory::{self, Inventory, InventoryError};
use crate::path::StoredPath;
use crate::watch::Watch;

/// Tar and index of one backup, and the earlier ones that hold bytes of it.
#[derive(Debug, Clone)]
pub struct Archive {
    inventory: Inventory,
    data: SealedReader,
    index: SealedReader,
    data_frames: Vec<FrameRecord>,
    index_frames: Vec<FrameRecord>,
    /// In the order of their numbers, from 1.
    bases: Vec<(BackupId, Archive)>,
}

/// Frames of tars, by the number of the backup that they are in.
pub(crate) type WantedFrames = BTreeMap<u32, BTreeSet<usize>>;

impl Archive {
    /// Finds a backup with all that it needs, and opens it: nothing of it is missing, changed or badly signed.
    pub async fn fetch(
        store: &SharedStore,
        signed: &SignedManifest,
        signers: &TrustedSigners,
        identities: &Identities,
    ) -> Result<Self, ArchiveError> {
        let bases = lineage::bases_of(store, signed, signers).await;
        let bases = bases.map_err(|source| ArchiveError::Lineage { source })?;
        let own = Self::fetch_alone(store, signed, identities).await?;
        let mut opened = Vec::new();
        for base in &bases {
            let id = base.get().id.clone();
            let archive = Self::fetch_alone(store, base, identities).await;
            opened.push((id.clone(), archive.map_err(|source| ArchiveError::of_base(&id, source))?));
        }
        Ok(own.with_bases(opened))
    }

    async fn fetch_alone(
        store: &SharedStore,
        signed: &SignedManifest,
        identities: &Identities,
    ) -> Result<Self, ArchiveError> {
        let bytes = contents::inventory_bytes(store, signed, identities).await;
        let bytes = bytes.map_err(|source| ArchiveError::Contents { source })?;
        let inventory = inventory::parse(&bytes).map_err(|source| ArchiveError::Inventory { source })?;
        let (store, runtime) = (store.clone(), Handle::current());
        let (signed, identities) = (signed.clone(), identities.clone());
        let open = move |role| {
            let manifest = signed.get();
            let contents = |source| ArchiveError::Contents { source };
            let object = manifest.object(role).ok_or(ContentsError::Missing { role }).map_err(contents)?;
            let key = contents::object_key(&manifest.source, &manifest.id, object).map_err(contents)?;
            let expected = contents::expected(object);
            SealedReader::open(store.clone(), runtime.clone(), key, expected, &identities)
                .map_err(|source| ArchiveError::Read { source })
        };
        let opening = move || Self::new(open(Role::Archive)?, open(Role::Index)?, inventory);
        tokio::task::spawn_blocking(opening).await.expect("opening does not panic")
    }

    /// Of objects that were opened already, and that need no others.
    pub fn new(data: SealedReader, index: SealedReader, inventory: Inventory) -> Result<Self, ArchiveError> {
        let unsound = |source| ArchiveError::Inventory { source };
        let data_frames = inventory.data.records().map_err(unsound)?;
        let index_frames = inventory.index.records().map_err(unsound)?;
        Ok(Self { inventory, data, index, data_frames, index_frames, bases: Vec::new() })
    }

    /// With the backups that hold bytes of it, as they are numbered.
    #[must_use]
    pub fn with_bases(self, bases: Vec<(BackupId, Archive)>) -> Self {
        Self { bases, ..self }
    }

    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Every entry, in the tar's order, with the number of the index's frame it stands in.
    pub fn entries(&self) -> Result<Entries, ArchiveError> {
        self.entries_of(0..self.index_frames.len())
    }

    /// The index's frames that can hold these paths, what is in them, and the folders they lie in; `None` if that takes all.
    pub(crate) fn index_frames_for(&self, paths: &[StoredPath]) -> Option<BTreeSet<usize>> {
        let starts = &self.inventory.index_starts;
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

    /// Reads the content of every file that is here, and compares its hash with the index. Of the others it finds that the
    /// backups which hold them say the same of them; those are checked by themselves. Answers the names of what differs.
    pub fn check(&self, watch: &dyn Watch) -> Result<Vec<String>, ArchiveError> {
        let mut contents = self.contents([(0, (0..self.data_frames.len()).collect())].into());
        let mut holders = Vec::new();
        for (id, base) in &self.bases {
            let entries = base.entries().map_err(|source| ArchiveError::of_base(id, source))?;
            holders.push((id, entries.peekable()));
        }
        let (mut found, mut differing) = (inventory::Totals::default(), Vec::new());
        for item in self.entries()? {
            let (_, entry) = item?;
            found.add(&entry);
            if watch.is_cancelled() {
                return Err(ArchiveError::Cancelled);
            }
            let Some(content) = entry.content() else { continue };
            self.frames_of(content)?;
            if let Some(place) = content.base.checked_sub(1) {
                let (id, entries) = &mut holders[place as usize];
                let is_held = holds(entries, &entry.path, content);
                if !is_held.map_err(|source| ArchiveError::of_base(id, source))? {
                    differing.push(entry.path.to_string());
                }
                continue;
            }
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
        match found == self.inventory.totals {
            true => Ok(differing),
            false => Err(ArchiveError::Totals),
        }
    }

    /// Contents from these frames of tars, fetched in their order, and from any other as it is asked for.
    pub(crate) fn contents(&self, mut frames: WantedFrames) -> Contents<'_> {
        let tars = iter::once((None, self)).chain(self.bases.iter().map(|(id, base)| (Some(id), base)));
        let tar = |(number, (id, archive))| {
            let numbers = frames.remove(&number).unwrap_or_default().into_iter().collect();
            Tar { id, archive, numbers, ahead: None, current: None }
        };
        let tars = (0..).zip(tars).map(tar).collect();
        Contents { archive: self, tars }
    }

    /// The frames in which a content lies, of the tar of the backup that holds it.
    pub(crate) fn frames_of(&self, content: &Content) -> Result<Range<usize>, ArchiveError> {
        let frames = match content.base.checked_sub(1) {
            None => &self.data_frames,
            Some(place) => match self.bases.get(place as usize) {
                Some((_, base)) => &base.data_frames,
                None => return Err(ArchiveError::NoSuchBase { number: content.base }),
            },
        };
        let (start, end) = (content.offset, content.offset + content.stored_bytes());
        if end > frames.last().map_or(0, FrameRecord::plain_end) {
            return Err(ArchiveError::OutOfArchive { end });
        }
        if start == end {
            return Ok(0..0);
        }
        let first = frames.partition_point(|frame| frame.plain_end() <= start);
        let last = frames.partition_point(|frame| frame.plain_offset < end);
        Ok(first..last)
    }
}

/// Whether a backup has just this content at `path`. Paths must be asked for in their order.
fn holds(
    entries: &mut iter::Peekable<Entries>,
    path: &StoredPath,
    content: &Content,
) -> Result<bool, ArchiveError> {
    let is_before =
        |item: &Result<(usize, Entry), _>| item.as_ref().is_ok_and(|(_, entry)| entry.path < *path);
    while entries.next_if(is_before).is_some() {}
    let is_there =
        |item: &Result<(usize, Entry), _>| !item.as_ref().is_ok_and(|(_, entry)| entry.path != *path);
    let Some((_, entry)) = entries.next_if(is_there).transpose()? else { return Ok(false) };
    Ok(entry.content().is_some_and(|held| *held == Content { base: 0, ..content.clone() }))
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
    /// By the numbers of their backups.
    tars: Vec<Tar<'a>>,
}

impl Contents<'_> {
    /// Gives the stored bytes of a content, piece by piece.
    pub(crate) fn read<E: From<ArchiveError>>(
        &mut self,
        content: &Content,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (start, end) = (content.offset, content.offset + content.stored_bytes());
        let frames = self.archive.frames_of(content)?;
        let tar = &mut self.tars[content.base as usize];
        for number in frames {
            let offset = tar.archive.data_frames[number].plain_offset;
            let frame = tar.frame(number)?;
            let within = |position: u64| (position.max(offset) - offset).min(frame.len() as u64) as usize;
            take(&frame[within(start)..within(end)])?;
        }
        Ok(())
    }
}

/// One backup's tar, of which some frames are wanted.
#[derive(Debug)]
struct Tar<'a> {
    /// `None` for the backup itself.
    id: Option<&'a BackupId>,
    archive: &'a Archive,
    numbers: VecDeque<usize>,
    /// Begun with the first frame, so that tars that are not there yet take no memory.
    ahead: Option<Ahead>,
    current: Option<(usize, Vec<u8>)>,
}

impl Tar<'_> {
    fn frame(&mut self, number: usize) -> Result<&[u8], ArchiveError> {
        if self.current.as_ref().is_none_or(|(current, _)| *current != number) {
            let frame = self.fetch(number).map_err(|source| ArchiveError::Read { source });
            let frame = frame.map_err(|error| match self.id {
                Some(id) => ArchiveError::of_base(id, error),
                None => error,
            })?;
            self.current = Some((number, frame));
        }
        Ok(self.current.as_ref().map_or(&[], |(_, frame)| frame))
    }

    fn fetch(&mut self, number: usize) -> Result<Vec<u8>, ReadError> {
        let Archive { data, data_frames, .. } = self.archive;
        let ahead = match &mut self.ahead {
            Some(ahead) => ahead,
            None => {
                let wanted = || self.numbers.iter().map(|number| data_frames[*number]);
                self.ahead.insert(Ahead::start(|| data.read_frames(wanted()))?)
            }
        };
        while self.numbers.front().is_some_and(|next| *next < number) {
            self.numbers.pop_front();
            ahead.next().transpose()?;
        }
        match self.numbers.front() {
            Some(next) if *next == number => {
                self.numbers.pop_front();
                Ok(ahead.next().transpose()?.unwrap_or_default())
            }
            // One that was not expected, or lies behind.
            _ => data.read_frame(&data_frames[number]),
        }
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
    #[error("backup is not whole")]
    Lineage {
        #[source]
        source: LineageError,
    },
    #[error("backup {id}, which holds bytes of this one, cannot be read")]
    Base {
        id: BackupId,
        #[source]
        source: Box<ArchiveError>,
    },
    #[error("index names backup number {number}, and the manifest does not")]
    NoSuchBase { number: u32 },
    #[error("index names bytes up to {end}, behind the archive's end")]
    OutOfArchive { end: u64 },
    #[error("index does not hold as many entries as the inventory says")]
    Totals,
    #[error("stopped")]
    Cancelled,
}

impl ArchiveError {
    fn of_base(id: &BackupId, source: Self) -> Self {
        Self::Base { id: id.clone(), source: Box::new(source) }
    }
}
