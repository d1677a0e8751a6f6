//! The walk: folder by folder, by handles, each entry at once into tar and index.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::vec;

use pgproof_repository::sealed::Sealer;
use rustix::fs::{self, CWD, FileType, OFlags, Stat};
use rustix::io::{self, Errno};
use sha2::{Digest, Sha256};

use super::{Backed, BackupError, INDEX_FRAME_BYTES, Memory, Own, Root};
use crate::blocks::Blocks;
use crate::entry::{Body, Content, Entry, Extent, LINE_BYTES_MAX, Meta, Moment, Note};
use crate::inventory::Totals;
use crate::path::StoredPath;
use crate::pax::{self, Head, HeadKind};
use crate::selection::Filter;
use crate::watch::Watch;
use crate::{sparse, tree};

/// Folders inside each other that are followed. Each holds a handle, of which a process usually has 1,024.
pub(super) const DEPTH_MAX: usize = 512;
/// Read at once.
const READ_BYTES: usize = 256 << 10;
/// A file of this size has frames of its own, so that restoring it fetches little else; smaller ones share frames, so that
/// they compress.
const OWN_FRAMES_BYTES: u64 = 1 << 20;
/// A frame of small files ends here at the first file's end.
const SHARED_FRAME_BYTES: usize = 2 << 20;

pub(super) struct Walk<'a> {
    filter: &'a Filter,
    one_file_system: bool,
    watch: &'a dyn Watch,
    data: Blocks,
    index: Blocks,
    index_starts: Vec<StoredPath>,
    totals: Totals,
    own: Own,
    memory: Option<Memory>,
    /// Files of several names that were stored under one of them, and how many of the others are still to come.
    linked: HashMap<(u64, u64), Linked>,
    buffer: Vec<u8>,
    line: Vec<u8>,
}

/// A number is given to another file as soon as the last name of the first is gone, and a file may be written to between
/// the visits of its names: so the second one must show what the first one did.
struct Linked {
    first: StoredPath,
    looks: Looks,
    content: Content,
    /// Whether it was read without anything in between.
    is_sure: bool,
    to_come: u64,
}

/// What a file shows that is the same under each of its names, until it is written to. Its time of change is not: a name
/// more or less sets that, too.
#[derive(PartialEq, Eq)]
struct Looks {
    size: u64,
    mtime: Moment,
    /// No program can set it; not every file system has it.
    born: Option<Moment>,
}

impl Looks {
    fn of(stat: &Stat, file: BorrowedFd<'_>) -> Self {
        Self { size: tree::size(stat), mtime: tree::mtime(stat), born: tree::born(file) }
    }
}

/// A folder in which the walk is.
struct Level {
    handle: OwnedFd,
    path: Option<StoredPath>,
    names: vec::IntoIter<CString>,
    /// Whether it matched `include`, so that all in it does.
    included: bool,
}

/// An entry with the folder it lies in.
struct Place<'a> {
    folder: BorrowedFd<'a>,
    name: &'a CStr,
    path: StoredPath,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        filter: &'a Filter,
        one_file_system: bool,
        data: Sealer<()>,
        index: Sealer<()>,
        memory: Option<Memory>,
        watch: &'a dyn Watch,
    ) -> Self {
        Self {
            filter,
            one_file_system,
            watch,
            data: Blocks::new(data),
            index: Blocks::new(index),
            index_starts: Vec::new(),
            totals: Totals::default(),
            own: Own::default(),
            memory,
            linked: HashMap::new(),
            buffer: vec![0; READ_BYTES],
            line: Vec::new(),
        }
    }

    /// Stores a path of the policy with all that is in it.
    pub(super) fn root(&mut self, root: &Root) -> Result<(), BackupError> {
        let failed = |source| match source {
            Errno::NOENT => BackupError::RootMissing { path: root.path.clone() },
            source => BackupError::Root { path: root.path.clone(), source },
        };
        // Links on the way to it are the administrator's; the last name must be the thing itself.
        let path = without_slash(&root.path);
        let stat = fs::statat(CWD, &*path, fs::AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        match (tree::kind(&stat), &root.stored) {
            (FileType::Directory, stored) => {
                let handle = tree::open_folder(CWD, &path).map_err(failed)?;
                let stat = fs::fstat(&handle).map_err(failed)?;
                let level = self.level(handle, stored.clone(), false).map_err(failed)?;
                if let Some(stored) = stored {
                    self.folder(stored.clone(), &stat, level.handle.as_fd(), None)?;
                }
                self.walk(level, tree::identity(&stat).0)
            }
            (FileType::RegularFile, Some(stored)) => {
                // A file that the policy names and that cannot be read is no backup.
                tree::open(CWD, &path, OFlags::empty()).map_err(failed)?;
                self.file(&Place { folder: CWD, name: &path, path: stored.clone() })
            }
            (FileType::Symlink, _) => Err(BackupError::RootIsLink { path: root.path.clone() }),
            _ => Err(BackupError::RootIsSpecial { path: root.path.clone() }),
        }
    }

    pub(super) fn finish(mut self) -> Result<Backed, BackupError> {
        self.data.write(&pax::END)?;
        // An index that was not what it should be is found out before anything counts as whole.
        let remembered = self.memory.map(Memory::finish).transpose()?;
        let (data, index) = (self.data.finish()?, self.index.finish()?);
        let Self { index_starts, totals, own, .. } = self;
        Ok(Backed { data, index, index_starts, totals, own, remembered })
    }

    fn walk(&mut self, top: Level, device: u64) -> Result<(), BackupError> {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            if self.watch.is_cancelled() {
                return Err(BackupError::Cancelled);
            }
            let path = StoredPath::child(level.path.as_ref(), name.to_bytes());
            let path = path.map_err(|source| BackupError::RootPath { source })?;
            if self.filter.excludes(&path) {
                continue;
            }
            let included = self.filter.includes(&path, level.included);
            let is_deepest = levels.len() == DEPTH_MAX;
            let level = &levels[levels.len() - 1];
            let place = Place { folder: level.handle.as_fd(), name: &name, path };
            if let Some(below) = self.entry(&place, included, device, is_deepest)? {
                levels.push(below);
            }
        }
        Ok(())
    }

    /// Stores an entry; answers a folder that is to be walked next.
    fn entry(
        &mut self,
        place: &Place<'_>,
        included: bool,
        device: u64,
        is_deepest: bool,
    ) -> Result<Option<Level>, BackupError> {
        let stat = match tree::look(place.folder, place.name) {
            Ok(stat) => stat,
            Err(error) => return self.left_out(place, None, note_of(error)).map(|()| None),
        };
        match tree::kind(&stat) {
            FileType::Directory => return self.enter(place, &stat, included, device, is_deepest),
            _ if !included => {}
            FileType::RegularFile => self.file(place)?,
            FileType::Symlink => self.symlink(place, &stat)?,
            _ => self.left_out(place, Some(&stat), Note::Special)?,
        }
        Ok(None)
    }

    fn enter(
        &mut self,
        place: &Place<'_>,
        seen: &Stat,
        included: bool,
        device: u64,
        is_deepest: bool,
    ) -> Result<Option<Level>, BackupError> {
        let opened = tree::open_folder(place.folder, place.name).and_then(|handle| {
            let stat = fs::fstat(&handle)?;
            Ok((self.level(handle, Some(place.path.clone()), included)?, stat))
        });
        let (level, stat) = match opened {
            Ok(opened) => opened,
            // It was a folder a moment ago; if it is a link now, that is not followed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return self.left_out(place, None, Note::Vanished).map(|()| None);
            }
            Err(_) => {
                self.folder_without_handle(place, seen, Note::Unreadable)?;
                return Ok(None);
            }
        };
        let (handle, is_elsewhere) = (level.handle.as_fd(), tree::identity(&stat).0 != device);
        let note = match (is_elsewhere, is_deepest) {
            (true, _) if self.one_file_system || tree::is_made_up(handle) => Some(Note::OtherFileSystem),
            (_, true) if level.names.len() > 0 => Some(Note::TooDeep),
            _ => None,
        };
        self.folder(place.path.clone(), &stat, handle, note)?;
        Ok(note.is_none().then_some(level))
    }

    fn level(&self, handle: OwnedFd, path: Option<StoredPath>, included: bool) -> io::Result<Level> {
        let names = tree::names(handle.as_fd())?.into_iter();
        Ok(Level { handle, path, names, included })
    }

    fn folder(
        &mut self,
        path: StoredPath,
        stat: &Stat,
        handle: BorrowedFd<'_>,
        note: Option<Note>,
    ) -> Result<(), BackupError> {
        let (xattrs, unread) = or_noted(tree::xattrs(handle));
        let meta = tree::meta(stat, xattrs);
        self.head(&path, &meta, HeadKind::Folder)?;
        self.record(&Entry { path, meta, body: Body::Folder, note: note.or(unread) })
    }

    fn folder_without_handle(
        &mut self,
        place: &Place<'_>,
        stat: &Stat,
        note: Note,
    ) -> Result<(), BackupError> {
        let (path, meta) = (place.path.clone(), tree::meta(stat, Default::default()));
        self.head(&path, &meta, HeadKind::Folder)?;
        self.record(&Entry { path, meta, body: Body::Folder, note: Some(note) })
    }

    fn symlink(&mut self, place: &Place<'_>, stat: &Stat) -> Result<(), BackupError> {
        let target = match fs::readlinkat(place.folder, place.name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(error) => return self.left_out(place, Some(stat), note_of(error)),
        };
        let (path, meta) = (place.path.clone(), tree::meta(stat, Default::default()));
        self.head(&path, &meta, HeadKind::Symlink { target: &target })?;
        self.record(&Entry { path, meta, body: Body::Symlink { target }, note: None })
    }

    fn file(&mut self, place: &Place<'_>) -> Result<(), BackupError> {
        let opened = tree::open(place.folder, place.name, OFlags::empty())
            .and_then(|file| Ok((fs::fstat(&file)?, file)));
        let (stat, file) = match opened {
            Ok((stat, file)) if tree::kind(&stat) == FileType::RegularFile => (stat, file),
            Ok(_) => return self.left_out(place, None, Note::Vanished),
            Err(error) => return self.left_out(place, None, note_of(error)),
        };
        self.watch.at(&place.path);
        let (xattrs, unread) = or_noted(tree::xattrs(&file));
        let meta = tree::meta(&stat, xattrs);
        let looks = (stat.st_nlink > 1).then(|| Looks::of(&stat, file.as_fd()));
        if let Some(looks) = &looks
            && let Some((to, content, is_sure)) = self.known(tree::identity(&stat), looks)
        {
            self.remember(&place.path, &stat, &content, is_sure)?;
            self.head(&place.path, &meta, HeadKind::HardLink { to: to.as_bytes() })?;
            let body = Body::HardLink { to, content };
            return self.record(&Entry { path: place.path.clone(), meta, body, note: unread });
        }
        let (content, torn) = match self.recall(&place.path, &stat)? {
            Some(content) => (content, None),
            None => self.content(&place.path, &meta, &stat, file.as_fd())?,
        };
        self.remember(&place.path, &stat, &content, torn.is_none())?;
        if let Some(looks) = looks {
            let (first, content) = (place.path.clone(), content.clone());
            let to_come = u64::from(stat.st_nlink as u32) - 1;
            let linked = Linked { first, looks, content, is_sure: torn.is_none(), to_come };
            self.linked.insert(tree::identity(&stat), linked);
        }
        let body = Body::File(content);
        self.record(&Entry { path: place.path.clone(), meta, body, note: torn.or(unread) })
    }

    /// A file that was stored under another name; forgotten with its last one, and where it is no longer what was stored.
    fn known(&mut self, identity: (u64, u64), looks: &Looks) -> Option<(StoredPath, Content, bool)> {
        let linked = self.linked.get_mut(&identity)?;
        if linked.looks != *looks {
            self.linked.remove(&identity);
            return None;
        }
        linked.to_come -= 1;
        let found = (linked.first.clone(), linked.content.clone(), linked.is_sure);
        if linked.to_come == 0 {
            self.linked.remove(&identity);
        }
        Some(found)
    }

    /// The content of a file that has not changed since an earlier backup, which holds its bytes.
    fn recall(&mut self, path: &StoredPath, stat: &Stat) -> Result<Option<Content>, BackupError> {
        self.memory.as_mut().map_or(Ok(None), |memory| memory.recall(path, stat))
    }

    /// What was torn while it was read is read again the next time.
    fn remember(
        &mut self,
        path: &StoredPath,
        stat: &Stat,
        content: &Content,
        is_sure: bool,
    ) -> Result<(), BackupError> {
        match &mut self.memory {
            Some(memory) if is_sure => memory.keep(path, stat, content),
            _ => Ok(()),
        }
    }

    /// Writes a file's head and content. Whatever the file does meanwhile, as many bytes follow as the head announces.
    fn content(
        &mut self,
        path: &StoredPath,
        meta: &Meta,
        before: &Stat,
        file: BorrowedFd<'_>,
    ) -> Result<(Content, Option<Note>), BackupError> {
        let size = tree::size(before);
        let extents = sparse::extents(file, size, u64::try_from(before.st_blocks).unwrap_or(u64::MAX));
        let mut content = Content { base: 0, offset: 0, size, sha256: [0; 32], extents };
        let stored = content.stored_bytes();
        if stored >= OWN_FRAMES_BYTES {
            self.data.cut_if_longer(0)?;
        }
        let kind = match &content.extents {
            Some(extents) => HeadKind::Sparse { size, extents },
            None => HeadKind::File { size },
        };
        self.head(path, meta, kind)?;
        content.offset = self.data.position();
        let mut hash = Sha256::new();
        let mut torn = None;
        for extent in content.extents() {
            torn = torn.or(self.extent(file, extent, &mut hash)?);
        }
        content.sha256 = hash.finalize().into();
        self.own.files += 1;
        self.own.bytes += stored;
        self.data.write(pax::padding(stored))?;
        let enough = if stored >= OWN_FRAMES_BYTES { 0 } else { SHARED_FRAME_BYTES };
        self.data.cut_if_longer(enough)?;
        Ok((content, torn.or_else(|| changed(before, file))))
    }

    /// Reads a piece of a file; zeros stand for what cannot be read or is no longer there.
    fn extent(
        &mut self,
        file: BorrowedFd<'_>,
        Extent(start, bytes): Extent,
        hash: &mut Sha256,
    ) -> Result<Option<Note>, BackupError> {
        let (mut done, mut note) = (0, None);
        while done < bytes {
            if self.watch.is_cancelled() {
                return Err(BackupError::Cancelled);
            }
            let wanted = usize::try_from(bytes - done).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            let read = match note {
                None => io::pread(file, &mut self.buffer[..wanted], start + done),
                Some(_) => Ok(0),
            };
            let read = match read {
                Ok(0) => {
                    note = note.or(Some(Note::Cut));
                    self.buffer[..wanted].fill(0);
                    wanted
                }
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    note = Some(Note::ReadError);
                    continue;
                }
            };
            hash.update(&self.buffer[..read]);
            self.data.write(&self.buffer[..read])?;
            self.watch.advance(read as u64);
            done += read as u64;
        }
        Ok(note)
    }

    fn left_out(&mut self, place: &Place<'_>, stat: Option<&Stat>, note: Note) -> Result<(), BackupError> {
        let meta = stat.map_or_else(Meta::default, |stat| tree::meta(stat, Default::default()));
        self.record(&Entry { path: place.path.clone(), meta, body: Body::LeftOut, note: Some(note) })
    }

    fn head(&mut self, path: &StoredPath, meta: &Meta, kind: HeadKind<'_>) -> Result<(), BackupError> {
        self.line.clear();
        Head { path: path.as_bytes(), meta, kind }.write(&mut self.line);
        Ok(self.data.write(&self.line)?)
    }

    fn record(&mut self, entry: &Entry) -> Result<(), BackupError> {
        self.line.clear();
        entry.write_line(&mut self.line);
        if self.line.len() > LINE_BYTES_MAX && !entry.meta.xattrs.is_empty() {
            let meta = Meta { xattrs: Default::default(), ..entry.meta.clone() };
            return self.record(&Entry { meta, note: Some(Note::AttributesMissing), ..entry.clone() });
        }
        self.totals.add(entry);
        if let Some(note) = entry.note {
            self.watch.noted(&entry.path, note);
        }
        if self.index.is_at_start() {
            self.index_starts.push(entry.path.clone());
        }
        self.index.write(&self.line)?;
        Ok(self.index.cut_if_longer(INDEX_FRAME_BYTES)?)
    }
}

/// What a file that was just read became meanwhile.
fn changed(before: &Stat, file: BorrowedFd<'_>) -> Option<Note> {
    let after = match fs::fstat(file) {
        Ok(after) => after,
        Err(_) => return Some(Note::Changed),
    };
    let content_is_same = tree::mtime(before) == tree::mtime(&after);
    match tree::size(&after).cmp(&tree::size(before)) {
        std::cmp::Ordering::Greater => Some(Note::Grew),
        std::cmp::Ordering::Less => Some(Note::Cut),
        // Its attributes alone may have changed: a link more, another owner.
        std::cmp::Ordering::Equal => (!content_is_same).then_some(Note::Changed),
    }
}

fn note_of(error: Errno) -> Note {
    match error {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Note::Vanished,
        _ => Note::Unreadable,
    }
}

fn or_noted<T: Default>(read: io::Result<T>) -> (T, Option<Note>) {
    match read {
        Ok(value) => (value, None),
        Err(_) => (T::default(), Some(Note::AttributesMissing)),
    }
}

/// A slash at the end would follow a link.
pub(super) fn without_slash(path: &Path) -> CString {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(1, |last| last + 1);
    CString::new(&bytes[..end.min(bytes.len())]).expect("a stored path has no zero byte")
}
