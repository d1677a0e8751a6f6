//! How much there is to be read, found by looking alone, before the first byte of it: no file is opened.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::vec;

use pgproof_policies::policy::FilesSource;
use rustix::fs::{self, CWD, FileType, Stat};
use rustix::io;

use super::walk::{DEPTH_MAX, without_slash};
use super::{BackupError, Root, filter, roots};
use crate::entry::Moment;
use crate::path::StoredPath;
use crate::selection::Filter;
use crate::tree;
use crate::watch::Watch;

/// A file system counts what a file takes in these.
const STAT_BLOCK_BYTES: u64 = 512;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Of all contents, holes left out.
    pub bytes: u64,
    /// Of the files that changed since a moment.
    pub changed_bytes: u64,
    /// The walk came to its end; otherwise there is at least so much.
    pub is_whole: bool,
}

/// Adds up what a backup of `source` would read now; what cannot be looked at counts nothing. With `since` it tells what changed
/// from then on, as far as the files' own times show it.
pub fn measure(source: &FilesSource, since: Option<Moment>, watch: &dyn Watch) -> Result<Size, BackupError> {
    let filter = filter(source)?;
    let size = Size { bytes: 0, changed_bytes: 0, is_whole: true };
    let one_file_system = source.one_file_system;
    let mut look = Look { filter: &filter, one_file_system, since, watch, linked: HashSet::new(), size };
    for root in roots(&source.paths)? {
        // The backup itself tells of one that is not there.
        let _ = look.root(&root);
    }
    Ok(look.size)
}

struct Look<'a> {
    filter: &'a Filter,
    one_file_system: bool,
    since: Option<Moment>,
    watch: &'a dyn Watch,
    /// Files of several names, which are stored once.
    linked: HashSet<(u64, u64)>,
    size: Size,
}

struct Level {
    handle: OwnedFd,
    path: Option<StoredPath>,
    names: vec::IntoIter<CString>,
    included: bool,
}

impl Look<'_> {
    fn root(&mut self, root: &Root) -> io::Result<()> {
        let path = without_slash(&root.path);
        let stat = tree::look(CWD, &path)?;
        match tree::kind(&stat) {
            FileType::Directory => {
                let top = level(CWD, &path, root.stored.clone(), false)?;
                let device = tree::identity(&fs::fstat(&top.handle)?).0;
                self.walk(top, device);
            }
            FileType::RegularFile => self.file(&stat),
            _ => {}
        }
        Ok(())
    }

    fn walk(&mut self, top: Level, device: u64) {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            if self.watch.is_cancelled() {
                self.size.is_whole = false;
                return;
            }
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let Ok(path) = StoredPath::child(level.path.as_ref(), name.to_bytes()) else { continue };
            if self.filter.excludes(&path) {
                continue;
            }
            let included = self.filter.includes(&path, level.included);
            let Ok(stat) = tree::look(level.handle.as_fd(), &name) else { continue };
            match tree::kind(&stat) {
                FileType::Directory if levels.len() < DEPTH_MAX => {
                    let folder = levels[levels.len() - 1].handle.as_fd();
                    let below = self::level(folder, &name, Some(path), included);
                    levels.extend(below.ok().filter(|level| self.is_entered(level, device)));
                }
                FileType::RegularFile if included => self.file(&stat),
                _ => {}
            }
        }
    }

    fn is_entered(&self, level: &Level, device: u64) -> bool {
        let handle = level.handle.as_fd();
        let is_elsewhere = fs::fstat(handle).is_ok_and(|stat| tree::identity(&stat).0 != device);
        !(is_elsewhere && (self.one_file_system || tree::is_made_up(handle)))
    }

    fn file(&mut self, stat: &Stat) {
        if stat.st_nlink > 1 && !self.linked.insert(tree::identity(stat)) {
            return;
        }
        let taken = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(STAT_BLOCK_BYTES);
        // Where the file system compresses, this is less than is read, and nearer to what is stored.
        let bytes = tree::size(stat).min(taken);
        self.size.bytes = self.size.bytes.saturating_add(bytes);
        if self.since.is_some_and(|since| tree::mtime(stat) >= since || tree::ctime(stat) >= since) {
            self.size.changed_bytes = self.size.changed_bytes.saturating_add(bytes);
        }
    }
}

fn level(
    folder: BorrowedFd<'_>,
    name: &CString,
    path: Option<StoredPath>,
    included: bool,
) -> io::Result<Level> {
    let handle = tree::open_folder(folder, name)?;
    let names = tree::names(handle.as_fd())?.into_iter();
    Ok(Level { handle, path, names, included })
}
