//! What a drill found: a signed document with fixed fields, and the same as text.

use std::fmt::{self, Write};

use jiff::{SignedDuration, Timestamp};

pub(crate) use v1::{Outcome, Report, Verdict};

/// Version 1 of the stored report. Fields are only ever added, with a default; anything else is a version 2.
pub(crate) mod v1 {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use pgproof_policies::names::SourceName;
    use pgproof_repository::ids::{BackupId, ManifestSha256, RepositoryId};
    use pgproof_repository::records::Record;
    use pgproof_repository::signature::namespace;
    use serde::{Deserialize, Serialize};

    pub(crate) const FORMAT: &str = "pgproof-report";
    pub(crate) const VERSION: u32 = 1;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Report {
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
    pub(crate) enum Verdict {
        /// Every check passed.
        Passed,
        /// It restores, and something about the proof is weaker than it should be.
        Degraded,
        Failed,
        /// A check that the verdict needs could not be made: nothing is proved.
        NotRun,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Check {
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
    pub(crate) enum Outcome {
        Passed,
        Failed { reason: String },
        Degraded { reason: String },
        NotRun { reason: String },
    }

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub(crate) struct Table {
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
    pub(crate) struct Rows {
        pub rows: u64,
        /// 32 hexadecimal digits: the sum modulo 2^128 of XXH3-128 over the rows.
        pub digest: String,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub(crate) struct Phase {
        pub name: String,
        pub seconds: f64,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub(crate) struct Signer {
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
    pub(crate) fn enter(&mut self, name: &str, required: bool, outcome: Outcome, detail: Option<String>) {
        let check = v1::Check { name: name.to_owned(), required, outcome, detail };
        match self.checks.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = check,
            None => self.checks.push(check),
        }
    }

    /// Every failed check counts; a check that was not made counts when there is no proof without it.
    pub(crate) fn conclude(&mut self, now: Timestamp) {
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
    pub(crate) fn text(&self, key: Option<&str>) -> String {
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

/// The check of a recovery time against its objective.
pub(crate) fn against_objective(seconds: f64, objective: SignedDuration) -> Outcome {
    if seconds <= objective.as_secs_f64() {
        return Outcome::Passed;
    }
    let reason = format!("took {seconds:.1} s, the objective is {:.0} s", objective.as_secs_f64());
    Outcome::Degraded { reason }
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
