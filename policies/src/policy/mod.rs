//! The policy: what is backed up, where to, when, and how long it is kept.
//!
//! [`Policy::parse`] reads the text of a policy file. Values that would lose data if they were guessed have
//! no default: their absence is a problem like any other, and all problems of a file are reported together.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::SignedDuration;

use crate::{names::SourceName, retention::Retention};

mod problems;

pub use problems::{PolicyProblems, Problem};

/// zstd level of a source that names none: the level zstd itself calls its default.
pub const COMPRESSION_LEVEL_DEFAULT: i32 = 3;
/// Streams per dump of a source that names no number: one, because each costs the server a connection.
pub const JOBS_DEFAULT: u32 = 1;
/// How long a dump may stand still before it is given up: long enough for a lock held by a migration.
pub const NO_PROGRESS_TIMEOUT_DEFAULT: SignedDuration = SignedDuration::from_mins(10);
/// Parts of one multipart upload that S3 allows.
pub const UPLOAD_PARTS_MAX: u32 = 10_000;

/// A checked policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub repository: Repository,
    /// Recipient lines as written: `age1…`, `ssh-ed25519 …`, `ssh-rsa …`.
    pub recipients: Vec<String>,
    /// Why one recipient is enough here. Without it there are at least two.
    pub recipients_waiver: Option<String>,
    /// Only on hosts that restore or verify.
    pub identity_files: Vec<PathBuf>,
    pub signing_key: Option<PathBuf>,
    pub trusted_signers: Option<PathBuf>,
    /// IANA name of the zone of schedules, calendar periods and `--at`.
    pub zone: Option<String>,
    pub sources: BTreeMap<SourceName, Source>,
    pub refuse_vulnerable_clients: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Repository {
    pub location: Location,
    /// Why plain http to another host is accepted here.
    pub allow_plain_http_reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Location {
    S3 {
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
        region: Option<String>,
        endpoint: Option<String>,
        path_style: bool,
        storage_class: Option<String>,
        sse: Option<Sse>,
        /// Profile of the shared credentials file.
        profile: Option<String>,
        max_parts: u32,
    },
    Directory {
        path: PathBuf,
    },
}

/// Encryption by the store, beside that by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    Aes256,
    Kms { key_id: Option<String> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub name: SourceName,
    pub kind: Kind,
    /// Five cron fields, in the policy's zone.
    pub schedule: Option<String>,
    pub objectives: Objectives,
    pub retention: Retention,
    pub compression_level: i32,
    pub jobs: u32,
    pub verification: Option<Verification>,
    pub no_progress_timeout: SignedDuration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Postgres(PostgresSource),
}

#[derive(Clone, Debug, PartialEq)]
pub struct PostgresSource {
    pub connection: Connection,
    pub password_file: Option<PathBuf>,
    /// Where client programs are looked for first.
    pub client_dirs: Vec<PathBuf>,
    /// Patterns of tables that are left out entirely.
    pub exclude_tables: Vec<String>,
    /// Patterns of tables whose rows are left out.
    pub exclude_table_data: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// A connection URI; never one with a password in it.
    Uri(String),
    /// A section of the connection service file.
    Service(String),
    /// `PGHOST`, `PGDATABASE` and so on.
    Environment,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// The newest good backup is never older than this.
    pub recovery_point: Option<SignedDuration>,
    /// A restore takes no longer than this.
    pub recovery_time: Option<SignedDuration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    pub schedule: String,
    pub checks: Vec<SqlCheck>,
}

/// A query on the restored database and the text its only value must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlCheck {
    pub name: String,
    pub sql: String,
    pub expect: String,
}
