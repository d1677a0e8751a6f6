//! The versions of PostgreSQL that tests run against. None is optional: one that is missing fails its tests.

use std::path::{Path, PathBuf};

use crate::binaries;

/// A version of PostgreSQL with all its programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresVersion {
    /// Debian 12's, with the contrib extensions.
    V15,
    /// Fetched by `tests/run`; no contrib, no ICU, no TLS.
    V16,
    /// Fetched by `tests/run`; no contrib, no ICU, no TLS.
    V18,
}

impl PostgresVersion {
    pub const ALL: [Self; 3] = [Self::V15, Self::V16, Self::V18];

    #[must_use]
    pub fn major(self) -> u32 {
        match self {
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V18 => 18,
        }
    }

    /// The contrib extensions come with the server's package.
    #[must_use]
    pub fn has_contrib(self) -> bool {
        self == Self::V15
    }

    /// The folder of its programs.
    ///
    /// # Panics
    /// When this version is not on the machine: a test that silently does nothing proves nothing.
    #[must_use]
    pub fn programs(self) -> PathBuf {
        let folder = match self {
            Self::V15 => Path::new("/usr/lib/postgresql/15/bin").to_owned(),
            Self::V16 | Self::V18 => {
                binaries::workspace().join(format!("target/testbed/pg{}/bin", self.major()))
            }
        };
        let folder = folder.canonicalize().unwrap_or(folder);
        assert!(
            folder.join("initdb").exists(),
            "PostgreSQL {} is missing: `tests/run --setup-only` provides it",
            self.major()
        );
        folder
    }
}
