//! Reports of drills: signed, chained, with fixed fields, and the only ground on which a backup counts as proved.
//!
//! A drill enters its checks and concludes; [`Proofs`] is what all reports of a backup say together; [`chain`] tells
//! whether a report was removed, changed or slipped in; [`by_time`] finds the newest.

pub mod by_time;
pub mod chain;
mod text;
pub mod v1;

use std::fmt;

use jiff::{SignedDuration, Timestamp};

pub use v1::{Report, Verdict};

use crate::ids::{BackupId, ManifestSha256};
use v1::OutcomeKind;

/// The checks, by the names that drills give them, that an exception may excuse and not replace: that every byte is what
/// was signed, that it restores, and that the rows are those that were dumped.
pub const HEART_OF_PROOF: [&str; 3] = ["objects", "restore", "tables"];

/// How a check ended, with the reason where it did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed { reason: String },
    Degraded { reason: String },
    NotRun { reason: String },
}

impl Report {
    /// Enters what became of a check, in place of what stood there before.
    pub fn enter(&mut self, name: &str, required: bool, outcome: Outcome, detail: Option<String>) {
        let (outcome, reason) = outcome.into_parts();
        let check = v1::Check { name: name.to_owned(), required, outcome, reason, detail };
        match self.checks.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = check,
            None => self.checks.push(check),
        }
    }

    /// Every failed check counts; a check that was not made counts when there is no proof without it. A verifier that
    /// fails its own test comes before all: then no other verdict means anything.
    pub fn conclude(&mut self, now: Timestamp) {
        let any = |wanted: fn(&v1::Check) -> bool| self.checks.iter().any(wanted);
        self.verdict = if self.negative_control.outcome == OutcomeKind::Failed {
            Verdict::VerifierFailed
        } else if any(|check| check.outcome == OutcomeKind::Failed) {
            Verdict::Failed
        } else if self.checks.is_empty()
            || any(|check| check.required && check.outcome == OutcomeKind::NotRun)
        {
            Verdict::NotRun
        } else if any(|check| check.outcome == OutcomeKind::Degraded) {
            Verdict::Degraded
        } else {
            Verdict::Passed
        };
        self.finished_at = now;
    }

    /// Whether the bytes, the restore or the rows fell short, and only an exception of the policy let that pass. The
    /// operator accepted the report; the backup was not proved by it.
    pub fn leans_on_an_exception(&self) -> bool {
        self.exceptions.iter().any(|it| it.used && HEART_OF_PROOF.contains(&it.check.as_str()))
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

/// What one report says of its backup, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    backup: BackupId,
    manifest: ManifestSha256,
    finished_at: Timestamp,
    /// `None` where it proves and refutes nothing.
    good: Option<bool>,
}

impl Proof {
    pub fn of(report: &Report) -> Self {
        let good = match report.verdict {
            Verdict::Passed | Verdict::Degraded => (!report.leans_on_an_exception()).then_some(true),
            Verdict::Failed => Some(false),
            Verdict::NotRun | Verdict::VerifierFailed => None,
        };
        let (backup, manifest) = (report.backup.clone(), report.manifest_sha256);
        Self { backup, manifest, finished_at: report.finished_at, good }
    }
}

impl Proofs {
    /// Takes one report into account.
    pub fn count(&mut self, report: &Report, backup: &BackupId, manifest: ManifestSha256) {
        self.weigh(&Proof::of(report), backup, manifest);
    }

    /// The same of what is left of a report.
    pub fn weigh(&mut self, proof: &Proof, backup: &BackupId, manifest: ManifestSha256) {
        let good = proof.good.filter(|_| proof.backup == *backup && proof.manifest == manifest);
        match good {
            Some(true) => self.proved_at = self.proved_at.max(Some(proof.finished_at)),
            Some(false) => self.failed_at = self.failed_at.max(Some(proof.finished_at)),
            None => self.without_weight += 1,
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

impl v1::Check {
    pub fn outcome(&self) -> Outcome {
        let reason = self.reason.clone().unwrap_or_default();
        match self.outcome {
            OutcomeKind::Passed => Outcome::Passed,
            OutcomeKind::Failed => Outcome::Failed { reason },
            OutcomeKind::Degraded => Outcome::Degraded { reason },
            OutcomeKind::NotRun => Outcome::NotRun { reason },
        }
    }
}

impl Outcome {
    /// As it is stored.
    pub fn into_parts(self) -> (OutcomeKind, Option<String>) {
        match self {
            Self::Passed => (OutcomeKind::Passed, None),
            Self::Failed { reason } => (OutcomeKind::Failed, Some(reason)),
            Self::Degraded { reason } => (OutcomeKind::Degraded, Some(reason)),
            Self::NotRun { reason } => (OutcomeKind::NotRun, Some(reason)),
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
            Self::VerifierFailed => "VERIFIER FAILED",
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
pub(crate) mod tests {
    use super::*;

    pub(crate) const GOLDEN_V1: &[u8] = include_bytes!("../../fixtures/report.v1.json");

    /// A report of these checks.
    pub(super) fn report(checks: &[(bool, Outcome)]) -> Report {
        let mut report: Report = serde_json::from_slice(GOLDEN_V1).unwrap();
        report.checks.clear();
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
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        let report: Report = serde_json::from_slice(GOLDEN_V1).unwrap();
        let mut written = serde_json::to_vec_pretty(&report).unwrap();
        written.push(b'\n');
        assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(GOLDEN_V1.to_vec()).unwrap());
    }

    #[test]
    fn a_verifier_that_fails_its_own_test_proves_and_refutes_nothing() {
        let mut faulty = report(&[(true, Outcome::Passed)]);
        faulty.negative_control.outcome = OutcomeKind::Failed;
        faulty.conclude(Timestamp::UNIX_EPOCH);
        assert_eq!(faulty.verdict, Verdict::VerifierFailed);
        let mut proofs = Proofs::default();
        proofs.count(&faulty, &faulty.backup, faulty.manifest_sha256);
        assert_eq!(proofs, Proofs { without_weight: 1, ..Proofs::default() });
    }

    #[test]
    fn what_only_an_exception_let_pass_is_no_proof() {
        let degraded = Outcome::Degraded { reason: "excepted".to_owned() };
        for (check, proved) in [("tables", false), ("collation versions", true)] {
            let mut report = report(&[(true, Outcome::Passed)]);
            report.enter(check, true, degraded.clone(), None);
            report.conclude(Timestamp::UNIX_EPOCH);
            let (check, reason) = (check.to_owned(), "spring".to_owned());
            let until = "2027-03-31".parse().unwrap();
            report.exceptions = vec![v1::Exception { check, reason, until, expired: false, used: true }];
            assert_eq!(report.verdict, Verdict::Degraded);
            let mut proofs = Proofs::default();
            proofs.count(&report, &report.backup, report.manifest_sha256);
            assert_eq!(proofs.is_proved(), proved);
        }
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
        assert!(text.starts_with("PASSED: backup 20261124T020000Z-k3xyqa of app\n"), "{text}");
        assert!(text.contains("passed (3 objects)"), "{text}");
    }

    #[test]
    fn the_text_tells_what_the_alarms_test_came_to_and_only_tables_that_differ() {
        let mut report: Report = serde_json::from_slice(GOLDEN_V1).unwrap();
        assert!(report.tables.iter().all(|table| table.equal) && !report.tables.is_empty());
        let differing = |text: &str| text.lines().filter(|line| line.starts_with("  differs")).count();
        let text = report.text(None);
        assert!(differing(&text) == 0 && text.contains("not run: made with every 10th drill"), "{text}");
        report.tables[0].equal = false;
        report.negative_control.outcome = v1::OutcomeKind::Passed;
        let text = report.text(None);
        assert!(differing(&text) == 1 && text.contains("passed (0 damaged copies called bad)"), "{text}");
    }

    #[test]
    fn of_a_good_and_a_bad_drill_at_one_moment_the_bad_one_counts() {
        let at = Some("2026-11-24T02:00:00Z".parse().unwrap());
        let both = Proofs { proved_at: at, failed_at: at, ..Proofs::default() };
        assert!(!both.is_proved() && both.is_refuted());
    }

    #[test]
    fn an_objective_is_met_to_the_second() {
        let objective = SignedDuration::from_mins(1);
        assert_eq!(against_objective(60.0, objective), Outcome::Passed);
        let late = against_objective(60.1, objective);
        let reason = "took 60.1 s, the objective is 60 s".to_owned();
        assert_eq!(late, Outcome::Degraded { reason });
    }
}
