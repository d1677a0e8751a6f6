//! The folder that a restore writes into, by handles. Every name is looked up in the handle of its folder and never
//! through a link, so nothing that the backup holds, or that somebody puts there meanwhile, leads out of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::{self, Errno};

use super::RestoreError;
use crate::entry::Meta;
use crate::path::StoredPath;
use crate::tree;

/// Until a folder has all that belongs into it, it is for its owner alone.
pub(super) const BEING_FILLED: Mode = Mode::RWXU;
/// Of a folder that the backup knows by its name alone, because it lies above the source's paths. The umask takes from it.
pub(super) const ON_THE_WAY: Mode = Mode::from_raw_mode(0o755);

/// The target and the folders in it that are being filled.
#[derive(Debug)]
pub(super) struct Target {
    root: OwnedFd,
    /// Each in the one before.
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    name: Vec<u8>,
    handle: OwnedFd,
    /// What it gets when it is left: before that, its mode might forbid to write and its time would not last.
    pending: Option<(StoredPath, Meta)>,
}

/// A folder that was left, with what it is to get.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) handle: OwnedFd,
    pub(super) path: StoredPath,
    pub(super) meta: Meta,
}

impl Target {
    /// Opens the target, which is made if it is not there.
    pub(super) fn open(path: &Path, must_be_empty: bool) -> Result<Self, RestoreError> {
        let failed = |source| RestoreError::Target { path: path.to_owned(), source };
        // The way to the target is the operator's own choice, links in it too.
        if let Err(error) = std::fs::create_dir_all(path) {
            return Err(failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        if must_be_empty && !tree::names(root.as_fd()).map_err(failed)?.is_empty() {
            return Err(RestoreError::NotEmpty { path: path.to_owned() });
        }
        Ok(Self { root, open: Vec::new() })
    }

    /// Goes to a folder, making what is not there, the last one with `mode`; answers whether that one was made now. Folders that
    /// are left on the way are handed out.
    pub(super) fn enter(
        &mut self,
        folder: Option<&StoredPath>,
        mode: Mode,
        left: &mut Vec<Left>,
    ) -> io::Result<bool> {
        let names: Vec<&[u8]> = folder.map(|folder| folder.names().collect()).unwrap_or_default();
        let common = self.open.iter().zip(&names).take_while(|(open, name)| open.name == **name).count();
        self.leave_to(common, left);
        let mut is_new = false;
        for (depth, name) in names.iter().enumerate().skip(common) {
            let parent = self.current();
            let mode = if depth + 1 == names.len() { mode } else { ON_THE_WAY };
            is_new = match fs::mkdirat(parent, *name, mode) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error),
            };
            let handle = open_below(parent, name)?;
            self.open.push(Open { name: name.to_vec(), handle, pending: None });
        }
        Ok(is_new)
    }

    /// The folder that was entered last.
    pub(super) fn current(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root.as_fd(), |open| open.handle.as_fd())
    }

    /// What the folder that was entered last gets when it is left.
    pub(super) fn when_left(&mut self, path: StoredPath, meta: Meta) {
        if let Some(open) = self.open.last_mut() {
            open.pending = Some((path, meta));
        }
    }

    /// Opens a folder that is there, without going to it.
    pub(super) fn look_into(&self, folder: Option<&StoredPath>) -> io::Result<OwnedFd> {
        let mut handle =
            self.root.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        for name in folder.iter().flat_map(|folder| folder.names()) {
            handle = open_below(handle.as_fd(), name)?;
        }
        Ok(handle)
    }

    pub(super) fn leave_all(&mut self, left: &mut Vec<Left>) {
        self.leave_to(0, left);
    }

    /// Waits until all of it is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        fs::syncfs(&self.root)
    }

    fn leave_to(&mut self, depth: usize, left: &mut Vec<Left>) {
        while self.open.len() > depth {
            let Some(Open { handle, pending, .. }) = self.open.pop() else { return };
            left.extend(pending.map(|(path, meta)| Left { handle, path, meta }));
        }
    }
}

fn open_below(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(folder, name, flags, Mode::empty())
}

/// A file under a name of its own, which is removed again unless it gets its real one.
#[derive(Debug)]
pub(super) struct Temporary<'a> {
    folder: BorrowedFd<'a>,
    name: String,
}

impl<'a> Temporary<'a> {
    pub(super) fn new(folder: BorrowedFd<'a>) -> Self {
        Self { folder, name: format!(".pgproof-restore.{:016x}", rand::random::<u64>()) }
    }

    pub(super) fn folder(&self) -> BorrowedFd<'a> {
        self.folder
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A new file, for its owner alone.
    pub(super) fn create(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::openat(self.folder, &*self.name, flags, Mode::RUSR | Mode::WUSR)
    }

    /// Gives it its real name. Unless it `replaces`, a file that has come to be there stays, and the answer is `false`.
    pub(super) fn keep(self, name: &[u8], replaces: bool) -> io::Result<bool> {
        if replaces {
            fs::renameat(self.folder, &*self.name, self.folder, name)?;
            return Ok(true);
        }
        let renamed =
            fs::renameat_with(self.folder, &*self.name, self.folder, name, fs::RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            // Not on every file system; that nothing was there was seen before.
            Err(Errno::INVAL | Errno::NOSYS) => {
                fs::renameat(self.folder, &*self.name, self.folder, name).map(|()| true)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Gone already where it got its name; a link renamed over another link to the same file stays, though.
        let _ = fs::unlinkat(self.folder, &*self.name, AtFlags::empty());
    }
}
