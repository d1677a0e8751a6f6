//! Which part of a report is evidence for which control. The wording of each control is shortened from its source;
//! whether the evidence is enough is for the organisation and its auditors to decide.

use pgproof_repository::report::v1::Report;

use super::figures;
use super::page::told_outcome;
use super::parts::Cell;
use crate::drill::names;

/// A control, what it asks for, and what here bears on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    pub clause: &'static Clause,
    pub evidence: String,
    pub checks: Vec<Cell>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    pub standard: &'static str,
    pub name: &'static str,
    pub asks: &'static str,
}

static BACKUP: Clause = Clause {
    standard: "ISO/IEC 27001:2022, Annex A",
    name: "A.8.13 Information backup",
    asks: "Backup copies are kept and tested regularly, as the topic's policy says.",
};
static OPERATION: Clause = Clause {
    standard: "SOC 2, Trust Services Criteria",
    name: "A1.2",
    asks: "Data backup processes and recovery infrastructure are operated, maintained and monitored to meet objectives.",
};
static RECOVERY_TEST: Clause = Clause {
    standard: "SOC 2, Trust Services Criteria",
    name: "A1.3",
    asks: "Recovery plan procedures are tested; so are the integrity and completeness of backup data.",
};
static RELIABILITY: Clause = Clause {
    standard: "NIST SP 800-53 Rev. 5",
    name: "CP-9(1) Testing for reliability and integrity",
    asks: "Backup information is tested for reliability of the media and integrity of the information.",
};
static SAMPLING: Clause = Clause {
    standard: "NIST SP 800-53 Rev. 5",
    name: "CP-9(2) Test restoration using sampling",
    asks: "A sample of backup information is restored as part of testing the contingency plan.",
};
static RECONSTITUTION: Clause = Clause {
    standard: "NIST SP 800-53 Rev. 5",
    name: "CP-10 System recovery and reconstitution",
    asks: "The system can be recovered to a known state within its recovery time and recovery point objectives.",
};

/// What one drill's report bears on each control. The evidence is named; how it turned out only the checks say, since a drill
/// that could not be run compared nothing.
pub(crate) fn of(report: &Report) -> Vec<Control> {
    let coverage = &report.coverage;
    let kept = format!(
        "This drill; what the policy keeps beside what is there; the coverage: {} of {} kept backups proved in {}.",
        figures::count(coverage.proved),
        figures::count(coverage.kept),
        figures::counted(coverage.window_days, "day", "days")
    );
    let sample = format!(
        "Which backup was drilled: by the rule “{}”, out of {}; whether it was restored, its checks tell.",
        report.choice.rule,
        figures::count(report.choice.candidates)
    );
    let control = |clause, evidence: &str, wanted: &[&str]| {
        let checks = report.checks.iter().filter(|check| wanted.contains(&check.name.as_str()));
        Control { clause, evidence: evidence.to_owned(), checks: checks.map(told_outcome).collect() }
    };
    vec![
        control(&BACKUP, &kept, &[names::SIGNATURE, names::RESTORE, names::TABLES]),
        control(
            &OPERATION,
            "The timeline with its gaps, the recovery point against its objective, and who holds the keys.",
            &[names::SIGNATURE, names::CHAIN],
        ),
        control(
            &RECOVERY_TEST,
            "A restore by the same code that operators run, its time, and the comparison of its rows, each as far as its check tells.",
            &[names::RESTORE, names::TABLES, names::RECOVERY_TIME],
        ),
        control(
            &RELIABILITY,
            "Whether stored objects are, read back, what was signed; whether tables have, counted and digested at both ends, equal rows.",
            &[names::OBJECTS, names::TABLES, names::INDEXES],
        ),
        control(&SAMPLING, &sample, &[names::SELECTION, names::RESTORE]),
        control(
            &RECONSTITUTION,
            "Recovery time and recovery point against their objectives, and the forecast.",
            &[names::RESTORE, names::GLOBALS, names::RECOVERY_TIME],
        ),
    ]
}

/// What all drills of a span bear on each control.
pub(super) fn of_period(drills: u64, proved: u64) -> Vec<Control> {
    let drills = format!(
        "{} in this span, of which {} proved a backup.",
        figures::counted(drills, "drill", "drills"),
        figures::count(proved)
    );
    let control =
        |clause, evidence: &str| Control { clause, evidence: evidence.to_owned(), checks: Vec::new() };
    vec![
        control(&BACKUP, &drills),
        control(&OPERATION, "The gaps between good backups, missed objectives, and who holds the keys."),
        control(&RECOVERY_TEST, &format!("{drills} Failures stand beside what followed them.")),
        control(&RELIABILITY, "The evidence: each report names the objects that were read, by their hashes."),
        control(&SAMPLING, "Which backups were drilled, and the coverage of those that are kept."),
        control(&RECONSTITUTION, "Recovery time and recovery point of each drill against the objectives."),
    ]
}

#[cfg(test)]
mod tests {
    use pgproof_repository::report::Outcome;
    use pgproof_repository::report::v1::OutcomeKind;

    use super::*;
    use crate::report::sample;

    #[test]
    fn nothing_is_claimed_that_the_checks_do_not_say() {
        let mut report = sample::rich();
        let not_run = || Outcome::NotRun { reason: "the store is away".to_owned() };
        for name in [names::OBJECTS, names::RESTORE, names::TABLES] {
            report.enter(name, true, not_run(), None);
        }
        let controls = of(&report);
        for Control { evidence, checks, .. } in &controls {
            for claim in ["restored whole", "every row", "rows compared", "read back and hashed"] {
                assert!(!evidence.contains(claim), "{evidence}");
            }
            assert!(!checks.is_empty(), "{evidence}");
        }
        let told =
            |name: &str| controls.iter().flat_map(|it| &it.checks).find(|it| it.text.starts_with(name));
        assert_eq!(told(names::TABLES).unwrap().tone, Some(OutcomeKind::NotRun.into()));
    }
}
