//! Walks a source's paths and writes the tar and its index, each into a sealer of its own. Blocking.
//!
//! The tar stays well formed whatever happens to the files meanwhile: a size once announced is filled, with zeros if
//! need be, and the entry's note says so. What cannot be stored is a note, too; only a path of the policy that is not
//! there, or a tree without anything in it, fails the backup.
//!
//! With a [`Memory`] of an earlier backup, a file that has not changed since is opened, so that one that cannot be read any
//! more is a loss, and not read: its entry says which backup holds its bytes.

mod measure;
mod memory;
mod walk;

use std::path::PathBuf;

use pgproof_policies::policy::FilesSource;
use pgproof_repository::sealed::{SealError, SealedSummary, Sealer};
use rustix::io::Errno;

use crate::host_index::HostIndexError;
use crate::inventory::Totals;
use crate::path::{PathError, StoredPath};
use crate::selection::{Filter, FilterError};
use crate::watch::Watch;

use self::walk::Walk;

pub use self::measure::{Size, measure};
pub use self::memory::Memory;

/// A frame of an index ends here at the first line's end.
const INDEX_FRAME_BYTES: usize = 1 << 20;

/// What was sealed.
#[derive(Debug)]
pub struct Backed {
    pub data: SealedSummary<()>,
    pub index: SealedSummary<()>,
    /// The first path in each frame of the index.
    pub index_starts: Vec<StoredPath>,
    pub totals: Totals,
    /// What was read and is stored here.
    pub own: Own,
    /// What was remembered, where something is.
    pub remembered: Option<Remembered>,
}

/// Of all files those whose bytes are in this backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    pub files: u64,
    pub bytes: u64,
}

/// What the next backup is to know.
#[derive(Debug)]
pub struct Remembered {
    pub host_index: SealedSummary<()>,
    /// The backups that hold bytes of this one, numbered here from 1, by their numbers in the earlier one's index, where 0 is
    /// that one itself.
    pub bases: Vec<u32>,
}

/// Reads all of `source`, or with a memory what of it changed, into the two sealers.
pub fn run(
    source: &FilesSource,
    data: Sealer<()>,
    index: Sealer<()>,
    memory: Option<Memory>,
    watch: &dyn Watch,
) -> Result<Backed, BackupError> {
    let filter = filter(source)?;
    let mut walk = Walk::new(&filter, source.one_file_system, data, index, memory, watch);
    for root in roots(&source.paths)? {
        walk.root(&root)?;
    }
    let backed = walk.finish()?;
    match backed.totals.is_empty() && !source.allow_empty {
        true => Err(BackupError::Empty),
        false => Ok(backed),
    }
}

fn filter(source: &FilesSource) -> Result<Filter, BackupError> {
    Filter::new(&source.include, &source.exclude).map_err(|source| BackupError::Pattern { source })
}

/// In the order of their names, without those that lie in another one.
fn roots(paths: &[PathBuf]) -> Result<Vec<Root>, BackupError> {
    let mut roots = Vec::new();
    for path in paths {
        let stored = StoredPath::below_root(path).map_err(|source| BackupError::RootPath { source })?;
        roots.push(Root { path: path.clone(), stored });
    }
    roots.sort_by(|a, b| a.stored.cmp(&b.stored));
    roots.dedup_by(|later, earlier| match (&later.stored, &earlier.stored) {
        (_, None) => true,
        (Some(later), Some(earlier)) => later.is_within(earlier),
        (None, Some(_)) => false,
    });
    Ok(roots)
}

/// A path of the policy.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// `None` for the root of the file system.
    stored: Option<StoredPath>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    #[error("path of the policy cannot be used")]
    RootPath {
        #[source]
        source: PathError,
    },
    #[error("policy has a pattern that cannot be used")]
    Pattern {
        #[source]
        source: FilterError,
    },
    #[error("{} does not exist", path.display())]
    RootMissing { path: PathBuf },
    #[error("{} is a symbolic link, which is never followed", path.display())]
    RootIsLink { path: PathBuf },
    #[error("{} is no folder and no file", path.display())]
    RootIsSpecial { path: PathBuf },
    #[error("{} cannot be read", path.display())]
    Root {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("there is not one file in any of the source's paths")]
    Empty,
    #[error("files cannot be sealed")]
    Seal {
        #[source]
        source: SealError,
    },
    #[error("what is known of the backup before cannot be used")]
    Memory {
        #[from]
        source: HostIndexError,
    },
    #[error("stopped")]
    Cancelled,
}

impl BackupError {
    /// Whether it stays the same however often the backup is tried.
    pub fn is_standing(&self) -> bool {
        !matches!(self, Self::Root { .. } | Self::Seal { .. } | Self::Memory { .. } | Self::Cancelled)
    }

    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::RootMissing { .. } => {
                "mount or make it, or take it out of `paths`: what is missing is never taken for empty"
            }
            Self::RootIsLink { .. } => "name the folder that it leads to in `paths`",
            Self::Root { source: Errno::ACCESS | Errno::PERM, .. } => {
                "run pgproof as a user that may read it, or give it CAP_DAC_READ_SEARCH"
            }
            Self::Empty => {
                "is a file system not mounted, or does `exclude` take everything? `allow_empty = true` accepts it"
            }
            _ => return None,
        })
    }
}

impl From<SealError> for BackupError {
    fn from(source: SealError) -> Self {
        Self::Seal { source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_inside_another_is_read_once() {
        let paths = ["/srv/b", "/srv/a/x", "/srv/a", "/srv/a-b", "/srv/a/"].map(PathBuf::from);
        let roots: Vec<_> = roots(&paths).unwrap().into_iter().map(|root| root.stored.unwrap()).collect();
        let expected = ["srv/a", "srv/a-b", "srv/b"].map(|path| StoredPath::new(path.into()).unwrap());
        assert_eq!(roots, expected);
        let all = super::roots(&["/srv".into(), "/".into()]).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].stored, None);
    }
}
