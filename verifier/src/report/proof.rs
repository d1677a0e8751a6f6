//! What a drill proved and what it did not: its checks in four groups, each with its reason.

use pgproof_repository::report::v1::{Check, OutcomeKind, Report};

use super::parts::Tone;
use crate::drill::names;

/// What no report of this kind can show, whatever it says.
pub(crate) const LIMITS: [&str; 4] = [
    "Whether the data were right at the source: equal rows are what was there, mistakes included.",
    "Whether newer reports were taken away: the chain shows gaps, and only age shows a missing end.",
    "Whether applications work on the restored data, beyond the checks that the policy names.",
    "Backups that were not drilled, beyond the coverage given here.",
];

/// Checks that ended alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group<'a> {
    pub title: &'static str,
    pub tone: Tone,
    /// What stands in place of the list when there is none.
    pub none: &'static str,
    pub checks: Vec<Line<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub name: &'a str,
    /// What the check asks, where it is one of ours.
    pub asks: Option<&'static str>,
    pub detail: Option<&'a str>,
    /// Always there unless it passed.
    pub reason: Option<&'a str>,
    pub required: bool,
}

/// The failed ones first: they are what has to be read.
pub(crate) fn groups(report: &Report) -> [Group<'_>; 4] {
    let group = |title, outcome: OutcomeKind, none| {
        let checks = report.checks.iter().filter(|check| check.outcome == outcome).map(line).collect();
        Group { title, tone: outcome.into(), none, checks }
    };
    [
        group("Failed", OutcomeKind::Failed, "No check failed."),
        group("Weaker than it should be", OutcomeKind::Degraded, "Nothing is weaker than it should be."),
        group("Not checked", OutcomeKind::NotRun, "Every check was made."),
        group("Proved", OutcomeKind::Passed, "No check passed."),
    ]
}

fn line(check: &Check) -> Line<'_> {
    let reason = match (check.outcome, check.reason.as_deref()) {
        (OutcomeKind::Passed, reason) => reason,
        (_, reason) => Some(reason.unwrap_or("no reason was given")),
    };
    Line {
        name: &check.name,
        asks: asks(&check.name),
        detail: check.detail.as_deref(),
        reason,
        required: check.required,
    }
}

/// What one of our own checks asks, in one sentence.
fn asks(name: &str) -> Option<&'static str> {
    Some(match name {
        names::SELECTION => "Is it the backup that was asked for?",
        names::SIGNATURE => "Is the backup's manifest signed by a trusted key?",
        names::CHAIN => "Does the backup follow the one before it?",
        names::OBJECTS => "Is every stored object, byte for byte, what was signed?",
        names::SERVER => "Is it restored with the same major version of PostgreSQL, away from the source?",
        names::GLOBALS => "Do roles and their memberships come back?",
        names::RESTORE => "Does the backup restore, with every step of PostgreSQL succeeding?",
        names::TABLES => "Do all tables have the rows that were counted and digested at the source?",
        names::INDEXES => "Are all indexes valid after the restore?",
        names::SEQUENCES => "Do sequences stand where the dump left them?",
        names::LARGE_OBJECTS => "Are large objects what they were?",
        names::STRUCTURE => {
            "Are all tables, columns, indexes, constraints, triggers, views and functions there, as they were?"
        }
        names::CONSTRAINTS => "Are there constraints that existing rows were never held against?",
        names::MATERIALIZED_VIEWS => "Are materialized views filled as they were?",
        names::EXTENSIONS => "Are the extensions there, in their versions?",
        names::COLLATIONS => "Does this machine sort texts as the source did?",
        names::AMCHECK => "Does PostgreSQL's own checker find every B-tree index sound?",
        names::RECOVERY_POINT => "Was there a good backup as often as the policy asks?",
        names::OWN_CHECKS => "Do the policy's own questions have the right answers?",
        names::RECOVERY_TIME => "Was it restored within the time that the policy allows?",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use pgproof_repository::report::Outcome;

    use super::*;
    use crate::report::sample;

    #[test]
    fn every_check_stands_in_exactly_one_group() {
        let report = sample::rich();
        let groups = groups(&report);
        let told: usize = groups.iter().map(|group| group.checks.len()).sum();
        assert_eq!(told, report.checks.len());
        assert_eq!(groups[0].title, "Failed");
        assert!(groups[3].checks.iter().any(|line| line.name == names::TABLES && line.asks.is_some()));
    }

    #[test]
    fn what_did_not_pass_has_a_reason_even_where_none_was_stored() {
        let mut report = sample::rich();
        report.enter("odd", false, Outcome::NotRun { reason: String::new() }, None);
        report.checks.last_mut().unwrap().reason = None;
        let groups = groups(&report);
        for group in &groups[..3] {
            assert!(group.checks.iter().all(|line| line.reason.is_some()), "{group:?}");
        }
    }
}
