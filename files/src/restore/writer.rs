//! Writes entry after entry into the target.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{self, Errno};
use rustix::process;
use sha2::{Digest, Sha256};

use super::target::{BEING_FILLED, Left, ON_THE_WAY, Target, Temporary};
use super::{Overwrite, Report, Restore, RestoreError};
use crate::archive::{ArchiveError, Contents};
use crate::entry::{Body, Content, Entry, Extent, Meta, Moment};
use crate::path::StoredPath;
use crate::tree;
use crate::watch::Watch;

const OWNERS: &str = "owners and groups were not all restored, which takes root";
const SPECIAL_BITS: &str = "set-user-id and set-group-id bits were not restored, which takes root and a flag";
const ATTRIBUTES: &str = "some extended attributes could not be set here";
const LINK_IN_THE_WAY: &str = "a link is not followed: where the source's own path leads through one, restore into another folder (--to), and move it from there";
const COPIES: &str = "some hard links were restored as files of their own";

/// Set-user-id, set-group-id.
const PRIVILEGES: u32 = 0o6000;
/// Sticky and permissions.
const PLAIN_BITS: u32 = 0o1777;
/// On a folder this only hands its group on.
const FOLDER_BITS: u32 = 0o3777;

pub(super) struct Writer<'a> {
    restore: &'a Restore,
    target: Target,
    contents: Contents<'a>,
    watch: &'a dyn Watch,
    is_root: bool,
    report: Report,
}

/// Why one entry was not restored.
enum Failure {
    /// The others can be, still.
    Here(Errno),
    Fatal(RestoreError),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Here(error)
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::Fatal(error.into())
    }
}

enum Done {
    Restored,
    Kept,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        restore: &'a Restore,
        target: Target,
        contents: Contents<'a>,
        watch: &'a dyn Watch,
    ) -> Self {
        let is_root = process::geteuid().is_root();
        Self { restore, target, contents, watch, is_root, report: Report::default() }
    }

    pub(super) fn entry(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        self.watch.at(&entry.path);
        let written = match &entry.body {
            Body::LeftOut => return Ok(()),
            Body::Folder => self.folder(entry),
            Body::File(content) => {
                self.leaf(entry, |writer, temporary| writer.file(entry, content, temporary).map(|()| None))
            }
            Body::Symlink { target } => self.leaf(entry, |writer, temporary| {
                writer.symlink(&entry.meta, target, temporary).map(|()| None)
            }),
            Body::HardLink { to, content } => self.leaf(entry, |writer, temporary| {
                if writer.link(entry, to, content, temporary)? {
                    return Ok(None);
                }
                writer.file(entry, content, temporary)?;
                Ok(Some(COPIES))
            }),
        };
        match written {
            Ok(Done::Restored) => self.report.restored.add(entry),
            Ok(Done::Kept) => self.report.kept += 1,
            Err(Failure::Here(error)) if !ends_everything(error) => {
                if matches!(error, Errno::LOOP | Errno::NOTDIR) {
                    self.report.notes.insert(LINK_IN_THE_WAY);
                }
                self.report.problem(&entry.path, told(error));
            }
            Err(Failure::Here(source)) => {
                return Err(RestoreError::Write { path: entry.path.clone(), source });
            }
            Err(Failure::Fatal(error)) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Report, RestoreError> {
        let mut left = Vec::new();
        self.target.leave_all(&mut left);
        self.furnish(left);
        let target = || self.restore.target.clone();
        self.target.sync().map_err(|source| RestoreError::Target { path: target(), source })?;
        Ok(self.report)
    }

    fn folder(&mut self, entry: &Entry) -> Result<Done, Failure> {
        let is_new = self.enter(Some(&entry.path), BEING_FILLED)?;
        if is_new || self.restore.overwrite == Some(Overwrite::Always) {
            self.target.when_left(entry.path.clone(), entry.meta.clone());
        }
        Ok(Done::Restored)
    }

    fn enter(&mut self, folder: Option<&StoredPath>, mode: Mode) -> Result<bool, Failure> {
        let mut left = Vec::new();
        let entered = self.target.enter(folder, mode, &mut left);
        self.furnish(left);
        Ok(entered?)
    }

    /// Makes something under a temporary name with `make`, and gives it its own, unless what is there stays.
    fn leaf(
        &mut self,
        entry: &Entry,
        make: impl FnOnce(&mut Self, &Temporary<'_>) -> Result<Option<&'static str>, Failure>,
    ) -> Result<Done, Failure> {
        let (folder, name) = entry.path.split();
        self.enter(folder.as_ref(), ON_THE_WAY)?;
        // A handle of its own, because the writer goes on using its target meanwhile.
        let folder = self.target.current().try_clone_to_owned();
        let folder = folder.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let replaces = match fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error.into()),
            Ok(stat) if tree::kind(&stat) == FileType::Directory => return Err(Errno::ISDIR.into()),
            Ok(stat) => match self.restore.overwrite {
                Some(Overwrite::Always) => true,
                Some(Overwrite::Older) if tree::mtime(&stat) < entry.meta.mtime => true,
                _ => return Ok(Done::Kept),
            },
        };
        let temporary = Temporary::new(folder.as_fd());
        let note = make(self, &temporary)?;
        self.report.notes.extend(note);
        match temporary.keep(name, replaces)? {
            true => Ok(Done::Restored),
            false => Ok(Done::Kept),
        }
    }

    fn file(&mut self, entry: &Entry, content: &Content, temporary: &Temporary<'_>) -> Result<(), Failure> {
        let file = temporary.create()?;
        self.fill(&entry.path, content, &file)?;
        self.attributes(file.as_fd(), &entry.meta, PLAIN_BITS)?;
        Ok(())
    }

    /// Writes a file's bytes around its holes, and compares their hash.
    fn fill(&mut self, path: &StoredPath, content: &Content, file: &OwnedFd) -> Result<(), Failure> {
        fs::ftruncate(file, content.size)?;
        let watch = self.watch;
        let mut hash = Sha256::new();
        let mut extents = content.extents().into_iter();
        let mut extent = Extent(0, 0);
        self.contents.read::<Failure>(content, |mut piece| {
            if watch.is_cancelled() {
                return Err(Failure::Fatal(RestoreError::Cancelled));
            }
            hash.update(piece);
            watch.advance(piece.len() as u64);
            while !piece.is_empty() {
                if extent.1 == 0 {
                    // There are as many bytes as the extents have together.
                    extent = extents.next().ok_or(Errno::IO)?;
                    continue;
                }
                let now = usize::try_from(extent.1).map_or(piece.len(), |left| left.min(piece.len()));
                let written = io::pwrite(file, &piece[..now], extent.0)?;
                extent = Extent(extent.0 + written as u64, extent.1 - written as u64);
                piece = &piece[written..];
            }
            Ok(())
        })?;
        match <[u8; 32]>::from(hash.finalize()) == content.sha256 {
            true => Ok(()),
            false => Err(Failure::Fatal(RestoreError::Hash { path: path.clone() })),
        }
    }

    fn symlink(&mut self, meta: &Meta, target: &[u8], temporary: &Temporary<'_>) -> Result<(), Failure> {
        let (folder, name) = (temporary.folder(), temporary.name());
        fs::symlinkat(target, folder, name)?;
        let (user, group) = owner(meta);
        self.own(meta, fs::chownat(folder, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW))?;
        fs::utimensat(folder, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Links to the file's first name, if what has that name now is that file; answers whether it is.
    fn link(
        &mut self,
        entry: &Entry,
        to: &StoredPath,
        content: &Content,
        temporary: &Temporary<'_>,
    ) -> Result<bool, Failure> {
        let (folder, name) = to.split();
        let is_file = |stat: &fs::Stat| {
            tree::kind(stat) == FileType::RegularFile
                && tree::size(stat) == content.size
                && tree::mtime(stat) == entry.meta.mtime
        };
        let linked = self.target.look_into(folder.as_ref()).and_then(|folder| {
            if !is_file(&fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?) {
                return Ok(false);
            }
            fs::linkat(&folder, name, temporary.folder(), temporary.name(), AtFlags::empty())?;
            Ok(true)
        });
        match linked {
            Ok(linked) => Ok(linked),
            Err(error) if ends_everything(error) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Gives folders that have all their entries what is theirs.
    fn furnish(&mut self, left: Vec<Left>) {
        for Left { handle, path, meta } in left {
            if let Err(error) = self.attributes(handle.as_fd(), &meta, FOLDER_BITS) {
                self.report.problem(&path, told(error));
            }
        }
    }

    /// Owner, mode, extended attributes and times, in the order in which the one does not undo the other.
    fn attributes(&mut self, file: BorrowedFd<'_>, meta: &Meta, bits: u32) -> io::Result<()> {
        let (user, group) = owner(meta);
        self.own(meta, fs::fchown(file, Some(user), Some(group)))?;
        let privileged = self.is_root && self.restore.special_bits;
        let bits = if privileged { bits | PRIVILEGES } else { bits };
        if meta.mode & PRIVILEGES & !bits != 0 {
            self.report.notes.insert(SPECIAL_BITS);
        }
        fs::fchmod(file, Mode::from_raw_mode(meta.mode & bits))?;
        for (name, value) in &meta.xattrs {
            let is_privilege = name.starts_with(b"security.capability");
            if is_privilege && !privileged {
                self.report.notes.insert(SPECIAL_BITS);
                continue;
            }
            match fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(error) if ends_everything(error) => return Err(error),
                Err(_) => {
                    self.report.notes.insert(ATTRIBUTES);
                }
            }
        }
        fs::futimens(file, &times(meta))
    }

    /// A container's root may not give files away, or not to everybody; no file is withheld for that.
    fn own(&mut self, meta: &Meta, changed: io::Result<()>) -> io::Result<()> {
        match changed {
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => {
                let (user, group) = owner(meta);
                if user != process::geteuid() || group != process::getegid() {
                    self.report.notes.insert(OWNERS);
                }
                Ok(())
            }
            changed => changed,
        }
    }
}

fn owner(meta: &Meta) -> (Uid, Gid) {
    (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid))
}

fn times(meta: &Meta) -> Timestamps {
    let Moment(seconds, nanoseconds) = meta.mtime;
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

/// Whether the next entry would only meet the same.
fn ends_everything(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO)
}

fn told(error: Errno) -> &'static str {
    match error {
        Errno::LOOP | Errno::NOTDIR => "a link or a file is in the way of its folder, and is not followed",
        Errno::ISDIR => "a folder is in its place",
        Errno::ACCESS | Errno::PERM => "it may not be written by this user",
        Errno::NAMETOOLONG => "its name is too long for this file system",
        Errno::FBIG => "it is too large for this file system",
        Errno::INVAL | Errno::ILSEQ => "its name or its attributes are not possible on this file system",
        _ => "it could not be written",
    }
}
