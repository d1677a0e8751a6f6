//! Version 1 of the stored report: plain JSON, signed, every field always present.
//!
//! Fields are only ever added, with a default; anything else is a version 2. What could not be found out is `null` or
//! says `not_run` with its reason. `verifier/report.schema.json` describes it for other programs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, CiphertextSha256, ManifestSha256, PlaintextSha256, ReportSha256, RepositoryId};
use crate::records::Record;
use crate::signature::namespace;

pub const FORMAT: &str = "pgproof-report";
pub const VERSION: u32 = 1;

/// SHA-256 in lower-case hexadecimal.
const SHA256_PATTERN: &str = "^[0-9a-f]{64}$";
/// Of an SSH key, as `ssh-keygen -l` prints it.
const FINGERPRINT_PATTERN: &str = "^SHA256:[A-Za-z0-9+/]{43}$";
/// See [`SourceName`].
const SOURCE_PATTERN: &str = "^[a-z0-9][a-z0-9_-]{0,62}$";

/// What one drill found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Report of a pgproof drill, version 1")]
pub struct Report {
    /// What kind of document this is.
    #[schemars(extend("const" = FORMAT))]
    pub format: String,
    /// Version of this format.
    #[schemars(extend("const" = VERSION))]
    pub version: u32,
    /// What all checks say together.
    pub verdict: Verdict,
    /// Place in the source's chain of reports, from 1 on without a gap.
    #[schemars(range(min = 1))]
    pub number: u64,
    pub previous: Previous,
    pub repository: RepositoryId,
    /// What is backed up, by its name in the policy.
    #[schemars(with = "String", regex(pattern = SOURCE_PATTERN))]
    pub source: SourceName,
    /// The backup that was drilled.
    pub backup: BackupId,
    /// Of exactly this manifest: a report of another proves nothing about the backup.
    pub manifest_sha256: ManifestSha256,
    /// The moment that the backup shows, by the server's clock.
    pub snapshot_at: Timestamp,
    /// By the verifier's clock.
    pub started_at: Timestamp,
    /// By the verifier's clock; the report's signature must be valid at this time.
    pub finished_at: Timestamp,
    /// Name of the machine that drilled.
    pub host: String,
    pub trigger: Trigger,
    pub choice: Choice,
    /// How often the drill was tried in all; more than once where the machine or the store failed.
    #[schemars(range(min = 1))]
    pub attempts: u32,
    /// The database as its backup describes it.
    pub database: Database,
    /// Where it was restored.
    pub scratch: Scratch,
    /// Everything that is checked, in the order in which the drill goes; what was not made says so.
    pub checks: Vec<Check>,
    /// Every table that was compared.
    pub tables: Vec<Table>,
    /// Seconds of the drill's parts, in their order.
    pub phases: Vec<Phase>,
    /// Seconds from the decision to restore to a database that can be used; absent when it was not restored.
    #[schemars(range(min = 0))]
    pub recovery_seconds: Option<f64>,
    pub objectives: Objectives,
    pub coverage: Coverage,
    /// What else there is: the backups that are kept and the drills of the window, oldest first.
    pub history: History,
    pub negative_control: NegativeControl,
    /// What the policy lets fall short for a while.
    pub exceptions: Vec<Exception>,
    /// Who can decrypt the backup, and when a key was last seen to do so.
    pub recipients: Vec<Recipient>,
    /// The objects that were read, by their hashes.
    pub evidence: Vec<Evidence>,
    /// Versions of the programs that took part.
    pub programs: BTreeMap<String, String>,
    /// Who signed the backup's manifest.
    pub backup_signer: Signer,
    /// Fingerprint of the key that signs this report.
    #[schemars(regex(pattern = FINGERPRINT_PATTERN))]
    pub report_signer: String,
    /// SHA-256 of the policy file's bytes.
    #[schemars(regex(pattern = SHA256_PATTERN))]
    pub policy_sha256: String,
    /// What did not decide the verdict and should be known.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check passed.
    Passed,
    /// It restores, and something about the proof is weaker than it should be.
    Degraded,
    /// A check found the backup not to be what was dumped, or not to restore.
    Failed,
    /// A check that the verdict needs could not be made: nothing is proved.
    NotRun,
    /// The verifier called a copy good that it had damaged itself: none of its verdicts counts.
    VerifierFailed,
}

/// The link to the report before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Previous {
    /// The first of its source.
    None,
    /// It was read and well signed.
    Known {
        /// Place of the report before in the chain.
        number: u64,
        /// Of the bytes of the report before.
        sha256: ReportSha256,
    },
    /// There are reports and the newest could not be read or was not trusted.
    Unknown {
        /// Why there is no link.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Somebody asked for it.
    Manual,
    /// It was due by the policy.
    Scheduled,
}

/// How this backup came to be drilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// `at`, `backup`, `newest`, `oldest`, `random` or `unproved`.
    pub rule: String,
    /// The time or id that was asked for.
    pub asked: Option<String>,
    /// Good backups that there were to choose from.
    pub candidates: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Database {
    pub name: String,
    /// Version of PostgreSQL that it was dumped from.
    pub server_version: String,
    /// Character encoding, by PostgreSQL's name for it.
    pub encoding: String,
    /// Bytes on the source's disk when it was dumped.
    pub bytes: u64,
    /// Bytes of the archive before compression.
    pub plaintext_bytes: u64,
    /// Bytes of all objects in the store.
    pub stored_bytes: u64,
    /// Tables with rows in the archive.
    pub tables: u64,
    /// Rows of all tables together.
    pub rows: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scratch {
    /// `private cluster` or `scratch server`; absent when there was none.
    pub kind: Option<String>,
    /// Version of PostgreSQL that it was restored into.
    pub server_version: Option<String>,
    /// What keeps the restored database from reaching anything, in words.
    pub isolation: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// As exceptions of the policy name it.
    pub name: String,
    /// Whether there is no proof without it.
    pub required: bool,
    pub outcome: OutcomeKind,
    /// Why it did not pass; absent where it did.
    pub reason: Option<String>,
    /// What was looked at, such as how many.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    Passed,
    Failed,
    /// Weaker than it should be, and no failure.
    Degraded,
    /// It could not be checked, which is never a pass.
    NotRun,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    /// The PostgreSQL schema that it lies in.
    pub schema: String,
    pub name: String,
    /// What was counted while it was dumped.
    pub expected: Rows,
    /// What was counted after the restore; absent where the table could not be read.
    pub found: Option<Rows>,
    /// Whether both are the same.
    pub equal: bool,
    /// Why it could not be compared, where it could not.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rows {
    /// Number of rows.
    pub rows: u64,
    /// 32 hexadecimal digits: the sum modulo 2^128 of XXH3-128 over the rows.
    #[schemars(regex(pattern = "^[0-9a-f]{32}$"))]
    pub digest: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Phase {
    pub name: String,
    /// How long it took, in seconds.
    #[schemars(range(min = 0))]
    pub seconds: f64,
}

/// What the policy promises, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Objectives {
    pub recovery_point: RecoveryPoint,
    pub recovery_time: RecoveryTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecoveryPoint {
    /// Seconds of changes that may be lost at most, by the policy.
    pub objective_seconds: Option<f64>,
    /// Seconds: the longest time between two good backups of the window, or since the newest.
    pub achieved_seconds: Option<f64>,
    /// Where the longest gap begins.
    pub worst_gap_from: Option<Timestamp>,
    /// Seconds from the newest good backup's moment to this drill.
    pub newest_age_seconds: Option<f64>,
    /// Absent where there is no objective.
    pub met: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecoveryTime {
    /// Seconds that a restore may take at most, by the policy.
    pub objective_seconds: Option<f64>,
    /// Seconds that this one took.
    pub measured_seconds: Option<f64>,
    /// Absent where there is no objective or nothing was measured.
    pub met: Option<bool>,
    /// When, at the growth of the drills so far, a restore will take longer than the objective allows.
    pub missed_from: Option<Timestamp>,
    /// How that was worked out, or why it could not be.
    pub forecast: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Days within which the policy wants every kept backup proved.
    pub window_days: u64,
    /// Good backups that are kept.
    pub kept: u64,
    /// Of these, proved by a drill within the window; this one included.
    pub proved: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Where the window begins.
    pub since: Timestamp,
    /// What the policy keeps, in words.
    pub retention: String,
    /// When backups are due: five cron fields in the policy's zone.
    pub schedule: Option<String>,
    pub backups: Vec<HistoryBackup>,
    /// Drills before this one.
    pub drills: Vec<HistoryDrill>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryBackup {
    pub id: BackupId,
    /// By the manifest; of a backup that cannot be used, by its id.
    pub snapshot_at: Timestamp,
    /// `good`, `unsigned`, `quarantined` or `incomplete`.
    pub standing: String,
    /// Bytes of its objects in the store.
    pub stored_bytes: Option<u64>,
    /// Bytes of the database on the source's disk.
    pub database_bytes: Option<u64>,
    /// Whether a hold keeps it whatever retention says.
    pub held: bool,
    /// When a drill last found it good.
    pub proved_at: Option<Timestamp>,
    /// When a drill last found it bad.
    pub failed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryDrill {
    /// Of its report in the chain.
    pub number: u64,
    pub finished_at: Timestamp,
    pub backup: BackupId,
    pub verdict: Verdict,
    /// Seconds to a database that can be used; absent where it was not restored.
    pub recovery_seconds: Option<f64>,
    /// Bytes of the database on the source's disk.
    pub database_bytes: u64,
}

/// The verifier's test of its own alarm: copies that it damaged itself must be called bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NegativeControl {
    pub outcome: OutcomeKind,
    /// Why it did not pass or was not made.
    pub reason: Option<String>,
    pub damages: Vec<Damage>,
    /// Number of the report that last held a control that was made; this one's own where it was made now.
    pub last_made: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Damage {
    /// What was done to the copy.
    pub name: String,
    /// Whether it was called bad, as it must be.
    pub noticed: bool,
    /// What the verifier said of it.
    pub told: String,
}

/// An exception of the policy, and whether this report rests on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exception {
    /// The check that may fall short.
    pub check: String,
    /// Why, in the policy's words.
    pub reason: String,
    /// The last day on which it holds, in the policy's zone.
    pub until: jiff::civil::Date,
    /// Whether that day is over; then it excuses nothing.
    pub expired: bool,
    /// Whether a check of this report rests on it.
    pub used: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recipient {
    /// The public key.
    pub key: String,
    /// When its private half last opened something of this repository before the verifier's eyes.
    pub shown_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Its file name in the backup's folder.
    pub object: String,
    /// Size as it lies in the store.
    pub bytes: u64,
    /// Of the object as it lies in the store.
    pub sha256: CiphertextSha256,
    /// Size before compression and encryption.
    pub plaintext_bytes: u64,
    /// Of the bytes before compression and encryption.
    pub plaintext_sha256: PlaintextSha256,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Signer {
    /// Its name in the trusted signers.
    pub principal: String,
    #[schemars(regex(pattern = FINGERPRINT_PATTERN))]
    pub fingerprint: String,
}

impl Record for Report {
    const NAMESPACE: &'static str = namespace::REPORT;

    fn at(&self) -> Timestamp {
        self.finished_at
    }
}
