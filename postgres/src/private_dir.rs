//! Private directories whose names say who made them, so that those of a killed process can be found and removed.
//!
//! The name holds the maker's process id and start time: `<kind>-<pid>-<start>-<random>`. It exists from the first
//! moment of the directory's life, which no file inside it could. Since process ids mean nothing in another container,
//! with which the place may be shared, the maker also holds a lock on the directory, for as long as it lives.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::TempDir;

/// A directory of mode 0700, removed when dropped.
#[derive(Debug)]
pub(crate) struct PrivateDir {
    directory: TempDir,
    _lock: File,
}

impl PrivateDir {
    /// Makes it under `root`, with a name that tells of this process.
    pub(crate) fn create(root: &Path, kind: &str) -> io::Result<Self> {
        let pid = std::process::id();
        let start = start_time(pid).unwrap_or(0);
        let prefix = format!("{kind}-{pid}-{start}-");
        let private = fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().prefix(&prefix).permissions(private).tempdir_in(root)?;
        let lock = File::open(directory.path())?;
        // Shared, since NFS gives no other to who only reads. Where a file system knows no locks the name alone must do.
        let _ = flock(&lock, FlockOperation::NonBlockingLockShared);
        Ok(Self { directory, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Removes it, and says whether that could be done.
    pub(crate) fn close(self) -> io::Result<()> {
        self.directory.close()
    }

    /// Leaves it behind, as a process does that is killed.
    #[cfg(test)]
    pub(crate) fn abandon(self) -> PathBuf {
        self.directory.keep()
    }
}

/// The directories of `kind` under `root` whose maker is gone, and which belong to one of `owners`: what another
/// user put there is none of our business, and following it would let that user steer a process of ours.
pub(crate) fn abandoned(root: &Path, kind: &str, owners: &[u32]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let Some(maker) = entry.file_name().to_str().and_then(|name| maker(name, kind)) else { continue };
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        let is_ours = metadata.is_dir() && owners.contains(&metadata.uid());
        if is_ours && start_time(maker.0) != Some(maker.1) && !is_locked(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A directory that cannot be opened counts as somebody's.
fn is_locked(directory: &Path) -> bool {
    let Ok(directory) = File::open(directory) else { return true };
    flock(directory, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// When a process started, in ticks since boot: with its id, this names it for as long as the machine runs.
fn start_time(pid: u32) -> Option<u64> {
    /// Place of `starttime` in `/proc/<pid>/stat`, counted after the name's closing parenthesis (man 5 proc: field 22).
    const START_TIME_AFTER_NAME: usize = 19;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(START_TIME_AFTER_NAME)?.parse().ok()
}

fn maker(name: &str, kind: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(kind)?.strip_prefix('-')?.splitn(3, '-');
    let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().map(|_| (pid, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_dead_makers_and_our_own_are_abandoned() {
        let root = tempfile::tempdir().unwrap();
        let own = fs::metadata(root.path()).unwrap().uid();
        let alive = PrivateDir::create(root.path(), "thing").unwrap();
        let elsewhere = root.path().join("thing-4194999-17-container");
        fs::create_dir(&elsewhere).unwrap();
        let holder = File::open(&elsewhere).unwrap();
        flock(&holder, FlockOperation::NonBlockingLockShared).unwrap();
        let dead = root.path().join("thing-4194999-17-abcdef");
        let reused = root.path().join(format!("thing-{}-1-abcdef", std::process::id()));
        for path in [&dead, &reused] {
            fs::create_dir(path).unwrap();
        }
        fs::create_dir(root.path().join("thing-else")).unwrap();
        fs::create_dir(root.path().join("other-4194999-17-abcdef")).unwrap();
        let mut found = abandoned(root.path(), "thing", &[own]).unwrap();
        found.sort();
        let mut expected = vec![dead, reused];
        expected.sort();
        assert_eq!(found, expected);
        assert!(abandoned(root.path(), "thing", &[own + 1]).unwrap().is_empty());
        drop(holder);
        assert!(abandoned(root.path(), "thing", &[own]).unwrap().contains(&elsewhere));
        assert_eq!(fs::metadata(alive.path()).unwrap().mode() & 0o777, 0o700);
    }
}
