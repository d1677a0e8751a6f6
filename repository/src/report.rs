//! Reports of drills: signed, with fixed fields, and the only ground on which a backup counts as proved.
//!
//! A drill enters its checks and concludes; [`Proofs`] is what all reports of a backup say together.

use std::fmt::{self, Write};

use jiff::{SignedDuration, Timestamp};

pub use v1::{Outcome, Report, Verdict};

use crate::ids::{BackupId, ManifestSha256};

/// Version 1 of the stored report. Fields are only ever added, with a default; anything else is a version 2.
pub mod v1 {
    use std::collections::BTreeMap;

    use crate::ids::{BackupId, ManifestSha256, RepositoryId};
    use crate::records::Record;
    use crate::signature::namespace;
    use jiff::Timestamp;
    use pgproof_policies::names::SourceName;
    use serde::{Deserialize, Serialize};

    pub const FORMAT: &str = "pgproof-report";
    pub const VERSION: u32 = 1;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub struct Report {
        pub format: String,
        pub version: u32,
        pub verdict: Verdict,
        pub repository: RepositoryId,
        pub source: SourceName,
        pub backup: BackupId,
        pub manifest_sha256: ManifestSha256,
        /// The moment that the backup shows.
        pub snapshot_at: Timestamp,
        pub started_at: Timestamp,
        pub finished_at: Timestamp,
        pub host: String,
        pub checks: Vec<Check>,
        pub tables: Vec<Table>,
        /// Seconds of the drill's parts, in their order.
        pub phases: Vec<Phase>,
        /// From the decision to restore to a database that can be used; absent when it was not restored.
        pub recovery_seconds: Option<f64>,
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
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub struct Check {
        pub name: String,
        /// Whether there is no proof without it.
        pub required: bool,
        #[serde(flatten)]
        pub outcome: Outcome,
        /// What was looked at, such as how many.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pub detail: Option<String>,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(tag = "outcome", rename_all = "snake_case")]
    pub enum Outcome {
        Passed,
        Failed { reason: String },
        Degraded { reason: String },
        NotRun { reason: String },
    }

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Table {
        pub schema: String,
        pub name: String,
        pub expected: Rows,
        /// Absent where the table could not be read.
        pub found: Option<Rows>,
        pub equal: bool,
        #[serde(skip_serializing_if = "Option::is_none", default)]
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
}

impl Report {
    /// Enters what became of a check, in place of what stood there before.
    pub fn enter(&mut self, name: &str, required: bool, outcome: Outcome, detail: Option<String>) {
        let check = v1::Check { name: name.to_owned(), required, outcome, detail };
        match self.checks.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = check,
            None => self.checks.push(check),
        }
    }

    /// Every failed check counts; a check that was not made counts when there is no proof without it.
    pub fn conclude(&mut self, now: Timestamp) {
        let any = |wanted: fn(&v1::Check) -> bool| self.checks.iter().any(wanted);
        self.verdict = if any(|check| matches!(check.outcome, Outcome::Failed { .. })) {
            Verdict::Failed
        } else if self.checks.is_empty()
            || any(|check| check.required && matches!(check.outcome, Outcome::NotRun { .. }))
        {
            Verdict::NotRun
        } else if any(|check| matches!(check.outcome, Outcome::Degraded { .. })) {
            Verdict::Degraded
        } else {
            Verdict::Passed
        };
        self.finished_at = now;
    }

    /// The report as people read it: the verdict first.
    pub fn text(&self, key: Option<&str>) -> String {
        let mut text = String::new();
        let line = |text: &mut String, name: &str, value: &str| {
            let _ = writeln!(text, "  {name:<15} {value}");
        };
        let _ = writeln!(text, "{}: backup {} of {}", self.verdict, self.backup, self.source);
        let snapshot = self.snapshot_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        line(&mut text, "shows", &snapshot);
        if let Some(seconds) = self.recovery_seconds {
            line(&mut text, "recovered in", &format!("{seconds:.1} s"));
        }
        for check in &self.checks {
            let detail = check.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            line(&mut text, &check.name, &format!("{}{detail}", check.outcome));
        }
        for table in self.tables.iter().filter(|table| !table.equal) {
            let found =
                table.found.as_ref().map_or("unreadable".to_owned(), |found| format!("{} rows", found.rows));
            let problem = table.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            let told = format!(
                "{}.{}: {} rows dumped, {found}{problem}",
                table.schema, table.name, table.expected.rows
            );
            line(&mut text, "differs", &told);
        }
        for phase in &self.phases {
            line(&mut text, "took", &format!("{:.1} s {}", phase.seconds, phase.name));
        }
        for warning in &self.warnings {
            line(&mut text, "warning", warning);
        }
        if let Some(key) = key {
            line(&mut text, "report", &format!("{key}, signed by {}", self.report_signer));
        }
        text
    }
}

/// What the reports of one backup say together. Only reports that are well signed and name exactly this manifest count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proofs {
    /// When a drill last restored it and found it right.
    pub proved_at: Option<Timestamp>,
    /// When a drill last found it bad.
    pub failed_at: Option<Timestamp>,
    /// Reports that prove nothing: of drills that could not run, unreadable, badly signed, or of another manifest.
    pub without_weight: usize,
}

impl Proofs {
    /// Takes one report into account.
    pub fn count(&mut self, report: &Report, backup: &BackupId, manifest: ManifestSha256) {
        if report.backup != *backup || report.manifest_sha256 != manifest {
            self.without_weight += 1;
            return;
        }
        match report.verdict {
            Verdict::Passed | Verdict::Degraded => {
                self.proved_at = self.proved_at.max(Some(report.finished_at))
            }
            Verdict::Failed => self.failed_at = self.failed_at.max(Some(report.finished_at)),
            Verdict::NotRun => self.without_weight += 1,
        }
    }

    /// Whether the last drill that came to a verdict found it good.
    pub fn is_proved(&self) -> bool {
        self.proved_at.is_some() && self.proved_at > self.failed_at
    }

    /// Whether the last drill that came to a verdict found it bad.
    pub fn is_refuted(&self) -> bool {
        self.failed_at.is_some() && self.failed_at >= self.proved_at
    }
}

/// The check of a recovery time against its objective.
pub fn against_objective(seconds: f64, objective: SignedDuration) -> Outcome {
    if seconds <= objective.as_secs_f64() {
        return Outcome::Passed;
    }
    let reason = format!("took {seconds:.1} s, the objective is {:.0} s", objective.as_secs_f64());
    Outcome::Degraded { reason }
}

impl Outcome {
    /// The same, with what it is about.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        let told = |reason: String| format!("{what}: {reason}");
        match self {
            Self::Passed => Self::Passed,
            Self::Failed { reason } => Self::Failed { reason: told(reason) },
            Self::Degraded { reason } => Self::Degraded { reason: told(reason) },
            Self::NotRun { reason } => Self::NotRun { reason: told(reason) },
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "PASSED",
            Self::Degraded => "DEGRADED",
            Self::Failed => "FAILED",
            Self::NotRun => "NOT RUN",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed { reason } => write!(f, "FAILED: {reason}"),
            Self::Degraded { reason } => write!(f, "degraded: {reason}"),
            Self::NotRun { reason } => write!(f, "not run: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(checks: &[(bool, Outcome)]) -> Report {
        let nothing = serde_json::json!({
            "format": v1::FORMAT, "version": v1::VERSION, "verdict": "passed",
            "repository": "aaaaaaaaaaaaaaaaaaaaaaaaaa", "source": "app",
            "backup": "20261124T010203Z-k3x9qa", "manifest_sha256": "00".repeat(32),
            "snapshot_at": "2026-11-24T01:02:03Z", "started_at": "2026-11-24T02:00:00Z",
            "finished_at": "2026-11-24T02:00:00Z", "host": "h", "checks": [], "tables": [], "phases": [],
            "recovery_seconds": null, "programs": {},
            "backup_signer": { "principal": "p", "fingerprint": "f" }, "report_signer": "f",
            "policy_sha256": "", "warnings": [],
        });
        let mut report: Report = serde_json::from_value(nothing).unwrap();
        for (number, (required, outcome)) in checks.iter().enumerate() {
            report.enter(&number.to_string(), *required, outcome.clone(), None);
        }
        report.conclude(Timestamp::UNIX_EPOCH);
        report
    }

    #[test]
    fn the_last_verdict_counts_and_only_of_this_manifest() {
        let passed = report(&[(true, Outcome::Passed)]);
        let failed = report(&[(true, Outcome::Failed { reason: "why".to_owned() })]);
        let at = |report: &Report, second| Report {
            finished_at: Timestamp::from_second(second).unwrap(),
            ..report.clone()
        };
        let (id, manifest) = (passed.backup.clone(), passed.manifest_sha256);
        let proofs = |reports: &[Report]| {
            let mut proofs = Proofs::default();
            reports.iter().for_each(|report| proofs.count(report, &id, manifest));
            proofs
        };
        assert!(!proofs(&[]).is_proved() && !proofs(&[]).is_refuted());
        assert!(proofs(&[at(&failed, 1), at(&passed, 2)]).is_proved());
        assert!(proofs(&[at(&passed, 1), at(&failed, 2)]).is_refuted());
        assert!(!proofs(&[at(&passed, 1), at(&failed, 2)]).is_proved());
        let other = Report { manifest_sha256: ManifestSha256::of(b"another"), ..at(&passed, 1) };
        assert_eq!(proofs(&[other]), Proofs { without_weight: 1, ..Proofs::default() });
        let not_run = report(&[]);
        assert_eq!(proofs(&[not_run]).without_weight, 1);
    }

    #[test]
    fn nothing_checked_is_never_a_pass() {
        let reason = || "why".to_owned();
        let not_run = || Outcome::NotRun { reason: reason() };
        assert_eq!(report(&[]).verdict, Verdict::NotRun);
        assert_eq!(report(&[(true, Outcome::Passed), (true, not_run())]).verdict, Verdict::NotRun);
        assert_eq!(report(&[(true, Outcome::Passed), (false, not_run())]).verdict, Verdict::Passed);
        let degraded = (true, Outcome::Degraded { reason: reason() });
        assert_eq!(report(&[(true, Outcome::Passed), degraded.clone()]).verdict, Verdict::Degraded);
        let failed = (false, Outcome::Failed { reason: reason() });
        assert_eq!(report(&[(true, not_run()), degraded, failed]).verdict, Verdict::Failed);
    }

    #[test]
    fn a_check_is_entered_once_and_the_verdict_is_told_first() {
        let mut report = report(&[(true, Outcome::NotRun { reason: "not yet".to_owned() })]);
        report.enter("0", true, Outcome::Passed, Some("3 objects".to_owned()));
        report.conclude(Timestamp::UNIX_EPOCH);
        assert_eq!(report.checks.len(), 1);
        let text = report.text(None);
        assert!(text.starts_with("PASSED: backup 20261124T010203Z-k3x9qa of app\n"), "{text}");
        assert!(text.contains("passed (3 objects)"), "{text}");
    }
}
