//! The account that the services run as: root hands it what it needs by its group, as the package made the folder.

use std::fs::{DirBuilder, Permissions, metadata, set_permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::Context;

use crate::failure::{Exit, Failure};

/// The group of the service that reads from this folder: root's own, which just that group may enter, as the package
/// makes it.
pub(super) fn service_group(folder: &Path) -> Option<u32> {
    let metadata = metadata(folder).ok()?;
    let is_handed = metadata.uid() == 0 && metadata.gid() != 0 && metadata.mode() & 0o077 == 0o050;
    is_handed.then(|| metadata.gid())
}

/// A folder with those above it, for its owner alone; below one that a service reads from, the service reads from it, too.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<_> = folder.ancestors().take_while(is_missing).collect();
    let mut missing = missing.into_iter().rev();
    missing.try_for_each(|folder| {
        make(folder).or_else(|error| refused(format!("folder {} cannot be made", folder.display()), error))
    })
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let Some(group) = folder.parent().and_then(service_group) else { return Ok(()) };
    chown(folder, None, Some(group))?;
    set_permissions(folder, Permissions::from_mode(0o750))
}

/// What could not be made or written, and what to do where somebody else's folder was meant.
pub(super) fn refused(what: String, error: io::Error) -> anyhow::Result<()> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(error).context(what);
    }
    let hint = "run this as root, or name --policy and --keys in a folder of yours";
    Err(Failure::new(Exit::Failed, format!("{what}: {error}"), hint).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_owners_alone() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("new/keys");
        make_folder(&folder).unwrap();
        make_folder(&folder).unwrap();
        for made in [folder.as_path(), folder.parent().unwrap()] {
            assert_eq!((metadata(made).unwrap().mode() & 0o777, service_group(made)), (0o700, None));
        }
    }

    #[test]
    fn who_may_not_write_there_is_told_what_to_do() {
        let told = |kind: io::ErrorKind| refused("it cannot be made".to_owned(), kind.into()).unwrap_err();
        let denied = told(io::ErrorKind::PermissionDenied);
        assert!(crate::failure::hint(&denied).unwrap().contains("as root"));
        assert!(crate::failure::message(&denied).starts_with("it cannot be made: "));
        assert_eq!(crate::failure::hint(&told(io::ErrorKind::StorageFull)), None);
    }
}
