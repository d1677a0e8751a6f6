//! Version 1 of the stored manifest. Fields are only ever added, with a default; anything else is a version 2.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, CiphertextSha256, ManifestSha256, PlaintextSha256, RepositoryId};

pub const FORMAT: &str = "pgproof-manifest";
pub const VERSION: u32 = 1;

/// Plain JSON, readable by the host that holds no identity; so it names no table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    pub repository: RepositoryId,
    pub source: SourceName,
    pub id: BackupId,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub snapshot: Snapshot,
    pub programs: Programs,
    #[serde(flatten)]
    pub contents: Contents,
    pub objects: Vec<Object>,
    /// Public keys of those who can decrypt.
    pub recipients: Vec<String>,
    /// SHA-256 of the policy file's bytes.
    pub policy_sha256: String,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tags: BTreeMap<String, String>,
    pub previous: Previous,
    /// Where it was not dumped by pgproof: a file that somebody brought, and on whose word.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub imported: Option<Imported>,
    /// What did not fail the backup and should be known.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How to restore with stock tools only.
    pub restore: String,
}

/// What is backed up. The field `kind` says it, and what only that kind has stands beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Contents {
    Postgres(Box<Postgres>),
    Config(Config),
    Files(Files),
    /// Written by a newer version: listed and kept, and not restored.
    #[serde(other)]
    Unknown,
}

/// A dump that pgproof did not make. Nobody saw its snapshot: `snapshot.at` is what somebody said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Who said when it was taken.
    pub told_by: String,
    /// The file as it was given, which is the archive unless it was decompressed.
    pub file: Plaintext,
    /// Its data was compressed inside, and is not in the archive.
    pub decompressed: bool,
}

/// A database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Postgres {
    pub server: Server,
    pub archive: Archive,
}

/// Files and variables of a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub files: u64,
    pub variables: u64,
    /// Tells the host that made it what has changed since: see [`crate::configuration::Index`].
    pub index: String,
}

/// Folders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Files {
    pub tree: Tree,
    /// Of an incremental backup: what it follows, and where its other bytes lie.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub chain: Option<Chain>,
    /// Of a full backup, where the policy knows incremental ones: why it is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub full_because: Option<String>,
}

/// How an incremental backup hangs together with earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The full backup that the chain began with.
    pub full: BackupId,
    /// The backup with which the files were compared.
    pub parent: BackupId,
    /// Incremental backups in a row behind the full one, this one counted.
    pub depth: u32,
    /// The backups that hold bytes of this one. The index numbers them from 1; 0 is this one.
    pub bases: Vec<Base>,
    /// Files whose bytes are here, and those bytes.
    pub own_files: u64,
    pub own_bytes: u64,
}

/// An earlier backup, and exactly that one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    pub id: BackupId,
    pub manifest_sha256: ManifestSha256,
}

/// How much is in them, and nobody's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// Numbers of entries.
    pub files: u64,
    pub folders: u64,
    pub symlinks: u64,
    pub hard_links: u64,
    /// Of files' contents, holes left out.
    pub content_bytes: u64,
    /// Entries that are missing or damaged; the warnings say why, and the index which.
    pub losses: u64,
}

/// The moment all objects show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken; of a database by the server's clock.
    pub at: Timestamp,
    /// WAL position, `16/B374D848`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lsn: Option<String>,
    #[serde(default)]
    pub in_recovery: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub version: String,
    /// `server_version_num`, such as 150018.
    pub version_number: u32,
    /// `pg_control_system()`; absent where the role may not read it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system_identifier: Option<String>,
    pub database: String,
    pub database_bytes: u64,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub locale_provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub icu_locale: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub collation_version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Programs {
    pub pgproof: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pg_dump: Option<String>,
    pub zstd: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Archive {
    /// The version of `pg_dump`'s custom format, `1.14`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub format_version: Option<String>,
    /// Whether the inventory tells where each table's bytes lie; a backup without is restored serially.
    pub indexed: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_indexed_because: Option<String>,
    pub table_count: u64,
    pub row_count: u64,
    /// How long the snapshot was held on the server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// File name in the backup's folder.
    pub name: String,
    pub role: Role,
    pub plaintext: Plaintext,
    pub ciphertext: Ciphertext,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Archive,
    Globals,
    Inventory,
    Configuration,
    /// One line for each entry of an archive of files.
    Index,
    /// What the host itself knows of those files, sealed to it alone: see [`crate::host_secret`].
    HostIndex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plaintext {
    pub bytes: u64,
    pub sha256: PlaintextSha256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ciphertext {
    pub bytes: u64,
    pub sha256: CiphertextSha256,
}

/// The link to the backup before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Previous {
    /// The first of its source.
    None,
    Known {
        id: BackupId,
        manifest_sha256: ManifestSha256,
    },
    /// There was one and it could not be read or was not trusted.
    Unknown {
        reason: String,
    },
}

impl Server {
    /// What tells this server's database from that of `later`, as far as both are known; `None` where nothing does.
    pub fn difference_to(&self, later: &Self) -> Option<String> {
        let identifiers = self.system_identifier.as_ref().zip(later.system_identifier.as_ref());
        match identifiers {
            Some((before, now)) if before != now => {
                Some(format!("it is of another server: system identifier {now}, and {before} before"))
            }
            _ if self.database != later.database => Some(format!(
                "it is of another database: {:?}, and {:?} before",
                later.database, self.database
            )),
            _ => None,
        }
    }
}

impl Contents {
    /// The name of the kind, as policy and manifest have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Config(_) => "config",
            Self::Files(_) => "files",
            Self::Unknown => "unknown",
        }
    }
}

impl Manifest {
    /// The bytes that are signed and stored: indented JSON with a final newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest has only string keys");
        bytes.push(b'\n');
        bytes
    }

    /// What only the backup of a database says.
    pub fn postgres(&self) -> Option<&Postgres> {
        match &self.contents {
            Contents::Postgres(postgres) => Some(postgres),
            Contents::Config(_) | Contents::Files(_) | Contents::Unknown => None,
        }
    }

    /// What only the backup of an incremental kind says.
    pub fn chain(&self) -> Option<&Chain> {
        match &self.contents {
            Contents::Files(files) => files.chain.as_ref(),
            Contents::Postgres(_) | Contents::Config(_) | Contents::Unknown => None,
        }
    }

    /// The earlier backups without which this one cannot be restored.
    pub fn bases(&self) -> &[Base] {
        self.chain().map_or(&[], |chain| &chain.bases)
    }

    pub fn object(&self, role: Role) -> Option<&Object> {
        self.objects.iter().find(|object| object.role == role)
    }

    /// Bytes that the backup takes in the store.
    pub fn stored_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.ciphertext.bytes).sum()
    }

    /// Files or folders that the backup lacks, or has damaged.
    pub fn losses(&self) -> u64 {
        match &self.contents {
            Contents::Files(files) => files.tree.losses,
            Contents::Postgres(_) | Contents::Config(_) | Contents::Unknown => 0,
        }
    }
}
