//! Version 1 of the stored report: plain JSON, signed, every field always present.
//!
//! Fields are only ever added, with a default; anything else is a version 2. What could not be found out is `null` or
//! says `not_run` with its reason. `verifier/report.schema.json` describes it for other programs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, CiphertextSha256, ManifestSha256, PlaintextSha256, ReportSha256, RepositoryId};
use crate::records::Record;
use crate::signature::namespace;

pub const FORMAT: &str = "pgproof-report";
pub const VERSION: u32 = 1;

/// What one drill found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: String,
    pub version: u32,
    pub verdict: Verdict,
    /// Place in the source's chain of reports, from 1 on without a gap.
    pub number: u64,
    pub previous: Previous,
    pub repository: RepositoryId,
    pub source: SourceName,
    pub backup: BackupId,
    pub manifest_sha256: ManifestSha256,
    /// The moment that the backup shows.
    pub snapshot_at: Timestamp,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub host: String,
    pub trigger: Trigger,
    pub choice: Choice,
    /// How often the drill was tried in all; more than once where the machine or the store failed.
    pub attempts: u32,
    pub database: Database,
    /// Where it was restored.
    pub scratch: Scratch,
    pub checks: Vec<Check>,
    pub tables: Vec<Table>,
    /// Seconds of the drill's parts, in their order.
    pub phases: Vec<Phase>,
    /// From the decision to restore to a database that can be used; absent when it was not restored.
    pub recovery_seconds: Option<f64>,
    pub objectives: Objectives,
    pub coverage: Coverage,
    /// What else there is: the backups that are kept and the drills of the window, oldest first.
    pub history: History,
    pub negative_control: NegativeControl,
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
    pub report_signer: String,
    /// SHA-256 of the policy file's bytes.
    pub policy_sha256: String,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check passed.
    Passed,
    /// It restores, and something about the proof is weaker than it should be.
    Degraded,
    Failed,
    /// A check that the verdict needs could not be made: nothing is proved.
    NotRun,
    /// The verifier called a copy good that it had damaged itself: none of its verdicts counts.
    VerifierFailed,
}

/// The link to the report before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Previous {
    /// The first of its source.
    None,
    Known {
        number: u64,
        sha256: ReportSha256,
    },
    /// There are reports and the newest could not be read or was not trusted.
    Unknown {
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Somebody asked for it.
    Manual,
    Scheduled,
}

/// How this backup came to be drilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// `at`, `backup`, `newest`, `oldest`, `random` or `unproved`.
    pub rule: String,
    /// The time or id that was asked for.
    pub asked: Option<String>,
    /// Good backups that there were to choose from.
    pub candidates: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    pub name: String,
    pub server_version: String,
    pub encoding: String,
    pub bytes: u64,
    /// Of the archive before compression.
    pub plaintext_bytes: u64,
    /// Of all objects in the store.
    pub stored_bytes: u64,
    pub tables: u64,
    pub rows: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// `private cluster` or `scratch server`; absent when there was none.
    pub kind: Option<String>,
    pub server_version: Option<String>,
    /// What keeps the restored database from reaching anything, in words.
    pub isolation: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// Whether there is no proof without it.
    pub required: bool,
    pub outcome: OutcomeKind,
    /// Why it did not pass.
    pub reason: Option<String>,
    /// What was looked at, such as how many.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    Passed,
    Failed,
    Degraded,
    NotRun,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub expected: Rows,
    /// Absent where the table could not be read.
    pub found: Option<Rows>,
    pub equal: bool,
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    pub rows: u64,
    /// 32 hexadecimal digits: the sum modulo 2^128 of XXH3-128 over the rows.
    pub digest: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub seconds: f64,
}

/// What the policy promises, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objectives {
    pub recovery_point: RecoveryPoint,
    pub recovery_time: RecoveryTime,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    pub objective_seconds: Option<f64>,
    /// The longest time between two good backups of the window, or since the newest.
    pub achieved_seconds: Option<f64>,
    /// Where the longest gap begins.
    pub worst_gap_from: Option<Timestamp>,
    pub newest_age_seconds: Option<f64>,
    /// Absent where there is no objective.
    pub met: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecoveryTime {
    pub objective_seconds: Option<f64>,
    pub measured_seconds: Option<f64>,
    pub met: Option<bool>,
    /// When, at the growth of the drills so far, a restore will take longer than the objective allows.
    pub missed_from: Option<Timestamp>,
    /// How that was worked out, or why it could not be.
    pub forecast: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    pub window_days: u64,
    /// Good backups that are kept.
    pub kept: u64,
    /// Of these, proved by a drill within the window; this one included.
    pub proved: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    pub since: Timestamp,
    /// What the policy keeps, in words.
    pub retention: String,
    pub schedule: Option<String>,
    pub backups: Vec<HistoryBackup>,
    pub drills: Vec<HistoryDrill>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryBackup {
    pub id: BackupId,
    /// By the manifest; of a backup that cannot be used, by its id.
    pub snapshot_at: Timestamp,
    /// `good`, `unsigned`, `quarantined` or `incomplete`.
    pub standing: String,
    pub stored_bytes: Option<u64>,
    pub database_bytes: Option<u64>,
    pub held: bool,
    pub proved_at: Option<Timestamp>,
    pub failed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryDrill {
    pub number: u64,
    pub finished_at: Timestamp,
    pub backup: BackupId,
    pub verdict: Verdict,
    pub recovery_seconds: Option<f64>,
    pub database_bytes: u64,
}

/// The verifier's test of its own alarm: copies that it damaged itself must be called bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NegativeControl {
    pub outcome: OutcomeKind,
    pub reason: Option<String>,
    pub damages: Vec<Damage>,
    /// Number of the report that last held a control that was made; this one's own where it was made now.
    pub last_made: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What was done to the copy.
    pub name: String,
    /// Whether it was called bad, as it must be.
    pub noticed: bool,
    /// What the verifier said of it.
    pub told: String,
}

/// An exception of the policy, and whether this report rests on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    pub check: String,
    pub reason: String,
    /// The last day on which it holds, in the policy's zone.
    pub until: jiff::civil::Date,
    pub expired: bool,
    pub used: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The public key.
    pub key: String,
    /// When its private half last opened something of this repository before the verifier's eyes.
    pub shown_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub object: String,
    pub bytes: u64,
    pub sha256: CiphertextSha256,
    pub plaintext_bytes: u64,
    pub plaintext_sha256: PlaintextSha256,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    pub principal: String,
    pub fingerprint: String,
}

impl Record for Report {
    const NAMESPACE: &'static str = namespace::REPORT;

    fn at(&self) -> Timestamp {
        self.finished_at
    }
}
