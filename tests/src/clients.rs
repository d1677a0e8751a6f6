//! Client programs of which one is not what it should be.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::postgres_versions::PostgresVersion;

/// [`with_fake`] `pg_dump`.
#[must_use]
pub fn with_pg_dump(folder: &Path, script: &str) -> PathBuf {
    with_fake(folder, "pg_dump", script)
}

/// Makes `folder`, with all the true programs of PostgreSQL 15 but `fake`: in its place this script is run, for which
/// `$real` is the true one.
///
/// # Panics
/// When the folder is there already.
#[must_use]
pub fn with_fake(folder: &Path, fake: &str, script: &str) -> PathBuf {
    let true_ones = PostgresVersion::V15.programs();
    std::fs::create_dir(folder).expect("a folder");
    for name in ["pg_dump", "pg_restore", "pg_dumpall", "psql"].iter().filter(|name| **name != fake) {
        std::os::unix::fs::symlink(true_ones.join(name), folder.join(name)).expect("a link");
    }
    let program = folder.join(fake);
    let text = format!(
        "#!/bin/bash\nreal={}\n[[ \"$*\" == *--version* || \"$*\" == -V ]] && exec \"$real\" --version\n{script}\n",
        true_ones.join(fake).display()
    );
    std::fs::write(&program, text).expect("a script");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("own file");
    folder.to_owned()
}
