//! Exceptions of the policy: a check that may fall short for a while counts as a weaker proof.

use jiff::civil::Date;
use pgproof_policies::policy::{Exception, Verification};
use pgproof_repository::report::{Outcome, Report, v1};

/// Whether the policy lets a check fall short on `today`.
pub(super) fn covers(verification: Option<&Verification>, check: &str, today: Date) -> bool {
    let exceptions = verification.into_iter().flat_map(|verification| &verification.exceptions);
    exceptions.into_iter().any(|exception| exception.check == check && !has_ended(exception, today))
}

/// Applies what holds on `today`, and lists every exception. Those that ended change nothing, and stay to be seen.
pub(super) fn apply(report: &mut Report, verification: Option<&Verification>, today: Date) {
    for exception in verification.into_iter().flat_map(|verification| &verification.exceptions) {
        let expired = has_ended(exception, today);
        if !report.checks.iter().any(|check| check.name == exception.check) {
            let name = &exception.check;
            report.warnings.push(format!("an exception names {name:?}, which is no check of this report"));
        }
        let used = !expired && except(report, exception);
        report.exceptions.push(v1::Exception {
            check: exception.check.clone(),
            reason: exception.reason.clone(),
            until: exception.until,
            expired,
            used,
        });
    }
}

fn has_ended(exception: &Exception, today: Date) -> bool {
    today > exception.until
}

/// Whether the check fell short, and counts as degraded now.
fn except(report: &mut Report, exception: &Exception) -> bool {
    let Some(check) = report.checks.iter_mut().find(|check| check.name == exception.check) else {
        return false;
    };
    let (Outcome::Failed { reason } | Outcome::Degraded { reason } | Outcome::NotRun { reason }) =
        check.outcome()
    else {
        return false;
    };
    let reason = format!("excepted until {} ({}): {reason}", exception.until, exception.reason);
    (check.outcome, check.reason) = Outcome::Degraded { reason }.into_parts();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgproof_repository::report::Verdict;

    fn excepted(outcome: Outcome, today: &str) -> Report {
        let golden = include_bytes!("../../../repository/fixtures/report.v1.json");
        let mut report: Report = serde_json::from_slice(golden).unwrap();
        report.checks.clear();
        report.exceptions.clear();
        report.enter("collations", true, outcome, None);
        let text = include_str!("../../../policies/examples/nightly.toml");
        let policy = pgproof_policies::Policy::parse(text, "nightly.toml").unwrap();
        let mut verification = policy.sources.values().next().unwrap().verification.clone().unwrap();
        verification.exceptions = vec![Exception {
            check: "collations".to_owned(),
            reason: "glibc is updated in spring".to_owned(),
            until: "2027-03-31".parse().unwrap(),
        }];
        let today = today.parse().unwrap();
        apply(&mut report, Some(&verification), today);
        assert_eq!(covers(Some(&verification), "collations", today), !report.exceptions[0].expired);
        assert!(!covers(Some(&verification), "amcheck", today));
        report.conclude(jiff::Timestamp::UNIX_EPOCH);
        report
    }

    #[test]
    fn what_falls_short_is_degraded_up_to_the_last_day() {
        let why = || "differs".to_owned();
        let told = "excepted until 2027-03-31 (glibc is updated in spring): differs";
        for outcome in [
            Outcome::Failed { reason: why() },
            Outcome::NotRun { reason: why() },
            Outcome::Degraded { reason: why() },
        ] {
            let report = excepted(outcome, "2027-03-31");
            assert_eq!((report.verdict, report.checks[0].reason.as_deref()), (Verdict::Degraded, Some(told)));
            assert!(report.exceptions[0].used && !report.exceptions[0].expired);
        }
    }

    #[test]
    fn one_that_ended_changes_nothing_and_one_that_is_not_needed_is_not_used() {
        let ended = excepted(Outcome::Failed { reason: "differs".to_owned() }, "2027-04-01");
        assert_eq!(ended.verdict, Verdict::Failed);
        assert!(ended.exceptions[0].expired && !ended.exceptions[0].used);
        let passed = excepted(Outcome::Passed, "2027-03-31");
        assert_eq!(passed.verdict, Verdict::Passed);
        assert!(!passed.exceptions[0].used);
    }
}
