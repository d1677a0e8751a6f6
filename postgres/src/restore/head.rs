//! The archive's head in a private file: all that `pg_restore` needs for the sections without data.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::RestoreError;
use super::object::ArchiveObject;
use crate::archive::selection::Selection;
use crate::archive::toc::{TocEntry, list_file};
use crate::archive::{Header, Toc};
use crate::private_dir::{self, PrivateDir};

/// First part of the names of the directories in which heads lie.
const DIRECTORY_KIND: &str = "pgproof-restore";

/// A private directory for the restore's small files; removed when dropped.
#[derive(Debug)]
pub(crate) struct Workspace {
    directory: PrivateDir,
}

impl Workspace {
    /// First removes those of restores that were killed before they could.
    pub(crate) fn create(root: &Path) -> Result<Self, RestoreError> {
        sweep_abandoned(root);
        let failed =
            |source| RestoreError::File { doing: "make a directory in", path: root.to_owned(), source };
        Ok(Self { directory: PrivateDir::create(root, DIRECTORY_KIND).map_err(failed)? })
    }

    /// Writes a file that only we can read.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, RestoreError> {
        let path = self.directory.path().join(name);
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(bytes)
        };
        write().map_err(|source| RestoreError::File { doing: "write", path: path.clone(), source })?;
        Ok(path)
    }

    /// Writes a list for `pg_restore --use-list`.
    pub(crate) fn write_list(&self, name: &str, ids: &[i32]) -> Result<PathBuf, RestoreError> {
        self.write(name, list_file(ids.iter().copied()).as_bytes())
    }
}

/// What another restore left is no reason for this one to fail.
fn sweep_abandoned(root: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for path in private_dir::abandoned(root, DIRECTORY_KIND, &[own]).unwrap_or_default() {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!("cannot remove {}, which a killed restore left: {error}", path.display());
        }
    }
}

/// The head's bytes and what they say; blocks.
pub(crate) fn read_head(archive: &ArchiveObject, head_bytes: u64) -> Result<(Vec<u8>, Toc), RestoreError> {
    let mut head = Vec::new();
    archive.each_piece(&(0..head_bytes), |piece| {
        head.extend_from_slice(&piece);
        true
    })?;
    let (toc, length) = Toc::parse(&head).map_err(|source| RestoreError::Archive { source })?;
    if length != head.len() {
        return Err(RestoreError::Inventory { why: "it misplaces the end of the contents".to_owned() });
    }
    Ok((head, toc))
}

/// The entries that a selection restores.
pub(crate) fn selected<'a>(toc: &'a Toc, selection: &'a Selection) -> impl Iterator<Item = &'a TocEntry> {
    let ids: BTreeSet<i32> =
        [&selection.pre_data, &selection.table_data, &selection.other_data, &selection.post_data]
            .into_iter()
            .flatten()
            .copied()
            .collect();
    toc.entries.iter().filter(move |entry| ids.contains(&entry.dump_id))
}

/// The major version of the `pg_dump` that wrote an archive: no older `pg_restore` reads it.
pub(crate) fn dump_major(header: &Header) -> Option<u32> {
    let version: crate::client::Version = header.dump_version.as_deref()?.parse().ok()?;
    Some(version.major)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_restore_left_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let killed = root.path().join(format!("{DIRECTORY_KIND}-4194999-17-abcdef"));
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join("head"), "names of tables").unwrap();
        let alive = Workspace::create(root.path()).unwrap();
        let another = Workspace::create(root.path()).unwrap();
        assert!(!killed.exists());
        assert!(alive.directory.path().exists() && another.directory.path().exists());
    }
}
