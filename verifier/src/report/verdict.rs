//! The verdict in sentences that need no knowledge of databases. They say no more than the checks do.

use pgproof_repository::report::Verdict;
use pgproof_repository::report::v1::{Check, OutcomeKind, Report};

use super::figures;
use super::parts::Tone;
use crate::drill::names;

/// What a board member reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub tone: Tone,
    pub heading: &'static str,
    pub sentences: Vec<String>,
}

impl Summary {
    pub(crate) fn of(report: &Report) -> Self {
        let sentences = [
            Some(restored(report)),
            Some(compared(report)),
            Some(age(report)),
            recovery(report),
            shortfalls(report),
        ];
        Self {
            tone: report.verdict.into(),
            heading: heading(report.verdict),
            sentences: sentences.into_iter().flatten().collect(),
        }
    }
}

pub(crate) fn heading(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "Restored and proved",
        Verdict::Degraded => "Restored, with a weaker proof",
        Verdict::Failed => "The drill found this backup bad",
        Verdict::NotRun => "Nothing was proved",
        Verdict::VerifierFailed => "The verifier failed its own test",
    }
}

/// A verdict in one word, as columns show it.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Degraded => "degraded",
        Verdict::Failed => "failed",
        Verdict::NotRun => "not run",
        Verdict::VerifierFailed => "verifier failed",
    }
}

fn restored(report: &Report) -> String {
    let what = format!(
        "The backup of the database {} as it was on {}",
        report.database.name,
        figures::moment(report.snapshot_at)
    );
    match check(report, names::RESTORE).map(|check| (check.outcome, reason(check))) {
        Some((OutcomeKind::Passed | OutcomeKind::Degraded, _)) => {
            let place = match report.scratch.kind.as_deref() {
                Some(kind) => format!("a {kind}"),
                None => "a scratch database".to_owned(),
            };
            format!("{what} was restored into {place}.")
        }
        Some((OutcomeKind::Failed, reason)) => format!("{what} could not be restored: {reason}."),
        Some((OutcomeKind::NotRun, reason)) => format!("{what} was not restored: {reason}."),
        None => format!("{what} was not restored."),
    }
}

fn compared(report: &Report) -> String {
    let tables = figures::counted(report.tables.len() as u64, "table", "tables");
    let rows: u64 = report.tables.iter().map(|table| table.expected.rows).sum();
    let rows = figures::counted(rows, "row", "rows");
    let different = report.tables.iter().filter(|table| !table.equal).count() as u64;
    match check(report, names::TABLES).map(|check| (check.outcome, reason(check))) {
        Some((OutcomeKind::Passed, _)) if different == 0 => {
            format!("Every row was compared with what was backed up: {rows} in {tables}, all equal.")
        }
        Some((OutcomeKind::NotRun, reason)) => format!("Its rows were not compared: {reason}."),
        Some((_, reason)) if different == 0 => format!("Its rows were compared, with doubts: {reason}."),
        Some(_) => {
            let different = figures::counted(different, "table is", "tables are");
            format!("Rows were compared: of {tables}, {different} not what was backed up.")
        }
        None => "Its rows were not compared.".to_owned(),
    }
}

fn age(report: &Report) -> String {
    let seconds = figures::seconds_between(report.snapshot_at, report.started_at);
    format!("That state of the data was {} old when the drill began.", figures::span(seconds))
}

fn recovery(report: &Report) -> Option<String> {
    let took = format!("Restoring it took {}", figures::span(report.recovery_seconds?));
    let objective = report.objectives.recovery_time.objective_seconds.map(figures::span);
    Some(match (report.objectives.recovery_time.met, objective) {
        (Some(true), Some(objective)) => format!("{took}, within the objective of {objective}."),
        (Some(false), Some(objective)) => format!("{took}, longer than the objective of {objective}."),
        _ => format!("{took}."),
    })
}

fn shortfalls(report: &Report) -> Option<String> {
    let of = |kind| report.checks.iter().filter(|check| check.outcome == kind).count() as u64;
    let told = [(OutcomeKind::Failed, "failed"), (OutcomeKind::Degraded, "is weaker than it should be")];
    let many = [(OutcomeKind::Failed, "failed"), (OutcomeKind::Degraded, "are weaker than they should be")];
    let mut parts: Vec<String> = Vec::new();
    for ((kind, one), (_, many)) in told.into_iter().zip(many) {
        match of(kind) {
            0 => {}
            1 => parts.push(format!("1 check {one}")),
            number => parts.push(format!("{} checks {many}", figures::count(number))),
        }
    }
    match of(OutcomeKind::NotRun) {
        0 => {}
        1 => parts.push("1 check was not made".to_owned()),
        number => parts.push(format!("{} checks were not made", figures::count(number))),
    }
    (!parts.is_empty()).then(|| format!("{}; the reasons stand below.", parts.join(", ")))
}

fn check<'a>(report: &'a Report, name: &str) -> Option<&'a Check> {
    report.checks.iter().find(|check| check.name == name)
}

fn reason(check: &Check) -> &str {
    check.reason.as_deref().unwrap_or("no reason was given")
}

#[cfg(test)]
mod tests {
    use pgproof_repository::report::Outcome;

    use super::*;
    use crate::report::sample;

    #[test]
    fn a_passed_drill_says_that_every_row_was_compared() {
        let mut report = sample::rich();
        report.verdict = Verdict::Passed;
        let summary = Summary::of(&report);
        assert_eq!((summary.tone, summary.heading), (Tone::Good, "Restored and proved"));
        let text = summary.sentences.join(" ");
        assert!(
            text.contains("as it was on 24 November 2026, 02:00 UTC was restored into a private cluster")
        );
        assert!(text.contains("Every row was compared with what was backed up: 413,853 rows in 12 tables"));
        assert!(text.contains("was 2 h old when the drill began"), "{text}");
        assert!(text.contains("Restoring it took 1 min 34 s, within the objective of 2 h."), "{text}");
    }

    #[test]
    fn nothing_is_said_to_be_compared_that_was_not() {
        let mut report = sample::rich();
        for outcome in [
            Outcome::NotRun { reason: "the drill did not get there".to_owned() },
            Outcome::Failed { reason: "two differ".to_owned() },
            Outcome::Degraded { reason: "one was skipped".to_owned() },
        ] {
            report.enter(names::TABLES, true, outcome, None);
            let text = Summary::of(&report).sentences.join(" ");
            assert!(!text.contains("Every row was compared"), "{text}");
            assert!(!text.contains("all equal"), "{text}");
        }
        report.tables[0].equal = false;
        report.enter(names::TABLES, true, Outcome::Failed { reason: "one differs".to_owned() }, None);
        let text = Summary::of(&report).sentences.join(" ");
        assert!(text.contains("of 12 tables, 1 table is not what was backed up"), "{text}");
        // A check that says passed over a table that differs is not believed.
        report.enter(names::TABLES, true, Outcome::Passed, None);
        assert!(!Summary::of(&report).sentences.join(" ").contains("all equal"));
    }

    #[test]
    fn a_restore_that_failed_says_why() {
        let mut report = sample::rich();
        report.recovery_seconds = None;
        report.enter(names::RESTORE, true, Outcome::Failed { reason: "disk full".to_owned() }, None);
        let text = Summary::of(&report).sentences.join(" ");
        assert!(text.contains("could not be restored: disk full."), "{text}");
        assert!(!text.contains("Restoring it took"), "{text}");
    }
}
