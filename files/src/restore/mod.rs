//! Putting files back, all or some, into a folder and never anywhere else. Blocking.
//!
//! First the index is read: what it holds is planned, and whatever could not be carried out safely is refused before
//! anything is written. Then each file is written under a name of its own, compared with its hash and renamed, so that
//! whoever looks, or whatever interrupts, finds whole files only.

mod target;
mod writer;

use std::collections::BTreeSet;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::archive::{Archive, ArchiveError, WantedFrames};
use crate::entry::{Body, Entry, Note};
use crate::inventory::Totals;
use crate::path::StoredPath;
use crate::watch::Watch;

use self::target::Target;
use self::writer::Writer;

/// Problems that are told by name; the others are counted.
const PROBLEMS_TOLD_MAX: usize = 50;

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct Restore {
    pub target: PathBuf,
    /// Only these and what is in them; empty for everything.
    pub paths: Vec<StoredPath>,
    /// `None`: the target must be empty.
    pub overwrite: Option<Overwrite>,
    /// Keep set-user-id, set-group-id and file capabilities; root alone can.
    pub special_bits: bool,
}

/// What happens to a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It stays.
    Never,
    /// It is replaced where the backup's is newer.
    Older,
    Always,
}

/// What will be restored.
#[derive(Debug, Clone)]
pub struct Plan {
    pub totals: Totals,
    /// Entries that are not what was there, by name; as many as are told.
    pub noted: Vec<(StoredPath, Note)>,
    /// Frames of the index and of tars that are needed.
    index_frames: BTreeSet<usize>,
    data_frames: WantedFrames,
}

/// What was restored.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub restored: Totals,
    /// Files that were there and stayed.
    pub kept: u64,
    /// What could not be restored, by name; as many as are told.
    pub problems: Vec<String>,
    pub problem_count: u64,
    /// What is not as it was, for all of them together.
    pub notes: BTreeSet<&'static str>,
}

impl Restore {
    /// Reads the index, or what of it can be about what is wanted, and decides what is restored.
    pub fn plan(&self, archive: &Archive) -> Result<Plan, RestoreError> {
        let mut plan = Plan {
            totals: Totals::default(),
            noted: Vec::new(),
            index_frames: BTreeSet::new(),
            data_frames: WantedFrames::new(),
        };
        let mut missing: BTreeSet<&StoredPath> = self.paths.iter().collect();
        let mut all = Totals::default();
        let some = archive.index_frames_for(&self.paths);
        let is_whole = some.is_none();
        let entries = match some {
            Some(frames) => archive.entries_of(frames)?,
            None => archive.entries()?,
        };
        for item in entries {
            let (frame, entry) = item?;
            all.add(&entry);
            if let Some(content) = entry.content() {
                // Also of what is not wanted: an index that is wrong anywhere is not believed.
                archive.frames_of(content)?;
            }
            if !self.wants(&entry) {
                continue;
            }
            missing.retain(|path| !entry.path.is_within(path));
            plan.index_frames.insert(frame);
            plan.totals.add(&entry);
            if let Some(note) = entry.note
                && plan.noted.len() < PROBLEMS_TOLD_MAX
            {
                plan.noted.push((entry.path.clone(), note));
            }
            if let Some(content) = self.content_needed(&entry) {
                let frames = archive.frames_of(content)?;
                plan.data_frames.entry(content.base).or_default().extend(frames);
            }
        }
        if is_whole && all != archive.inventory().totals {
            return Err(ArchiveError::Totals.into());
        }
        match missing.first() {
            Some(path) => Err(RestoreError::NotInBackup { path: (*path).clone() }),
            None => Ok(plan),
        }
    }

    /// Bytes free where the target is or will be; `None` where that cannot be told.
    pub fn free_bytes(&self) -> Option<u64> {
        let is_there = |folder: &&std::path::Path| folder.as_os_str().is_empty() || folder.exists();
        let there = self.target.ancestors().find(is_there)?;
        let there = if there.as_os_str().is_empty() { std::path::Path::new(".") } else { there };
        let stat = rustix::fs::statvfs(there).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Carries the plan out.
    pub fn run(&self, archive: &Archive, plan: &Plan, watch: &dyn Watch) -> Result<Report, RestoreError> {
        let target = Target::open(&self.target, self.overwrite.is_none())?;
        let contents = archive.contents(plan.data_frames.clone());
        let mut writer = Writer::new(self, target, contents, watch);
        for item in archive.entries_of(plan.index_frames.iter().copied())? {
            let (_, entry) = item?;
            if watch.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            if self.wants(&entry) {
                writer.entry(&entry)?;
            }
        }
        writer.finish()
    }

    /// Folders on the way to what is wanted are, too, for their owner and mode.
    fn wants(&self, entry: &Entry) -> bool {
        let is_on_the_way = |path: &StoredPath| entry.body == Body::Folder && path.is_within(&entry.path);
        self.paths.is_empty()
            || self.paths.iter().any(|path| entry.path.is_within(path) || is_on_the_way(path))
    }

    /// A hard link needs no content where the file's first name is restored, too.
    fn content_needed<'e>(&self, entry: &'e Entry) -> Option<&'e crate::entry::Content> {
        match &entry.body {
            Body::HardLink { to, .. }
                if self.paths.is_empty() || self.paths.iter().any(|path| to.is_within(path)) =>
            {
                None
            }
            _ => entry.content(),
        }
    }
}

impl Report {
    fn problem(&mut self, path: &StoredPath, problem: &str) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_TOLD_MAX {
            self.problems.push(format!("{path}: {problem}"));
        }
    }
}

/// Why a restore ended early. What it had restored by then are whole files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    #[error(transparent)]
    Archive {
        #[from]
        source: ArchiveError,
    },
    #[error("the backup has no {path}")]
    NotInBackup { path: StoredPath },
    #[error("{} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} cannot be used as the target", path.display())]
    Target {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("{path} cannot be written")]
    Write {
        path: StoredPath,
        #[source]
        source: Errno,
    },
    #[error("{path} does not have the content that was stored: its hash differs")]
    Hash { path: StoredPath },
    #[error("stopped by a signal")]
    Cancelled,
}

impl RestoreError {
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotEmpty { .. } => {
                "name a new folder with --to, or say with --overwrite never, older or always what happens to files \
                 that are there"
            }
            Self::NotInBackup { .. } => "`pgproof show SOURCE BACKUP --inventory` lists what is in it",
            Self::Write { source: Errno::NOSPC | Errno::DQUOT, .. } => {
                "the target's disk is full; what was restored by then are whole files"
            }
            Self::Hash { .. } => {
                "restore another backup, and have this one checked with `pgproof check --read-data`"
            }
            Self::Cancelled => {
                "what was restored by then are whole files; `--overwrite never` goes on from there"
            }
            _ => return None,
        })
    }
}
