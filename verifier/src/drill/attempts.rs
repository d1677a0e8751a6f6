//! Trying a drill again when the machine, the store or a server was at fault, all inside one report.

use std::pin::pin;
use std::time::Duration;

use jiff::SignedDuration;
use pgproof_repository::report::Report;
use pgproof_repository::report::v1::{Check, OutcomeKind};
use tokio_util::sync::CancellationToken;

use super::work::Drill;

/// Before the second attempt: what a server needs to come up again.
const WAIT_FIRST: Duration = Duration::from_secs(5);
/// Each wait is so many times as long as the one before.
const WAIT_FACTOR: u32 = 4;
/// No wait is longer: a night has so many drills.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// What ending a drill may take whose time is up: a server is stopped, or a database dropped.
const END_WITHIN: Duration = Duration::from_secs(120);
/// Of a policy without a section on verification, drilled by hand.
const ATTEMPTS_UNLESS_NAMED: u32 = 1;

/// Works as [`work`] does, and ends what takes longer than the policy gives a drill.
pub(super) async fn work_within_limit(drill: &mut Drill, cancel: &CancellationToken) {
    let limit = drill.time_limit();
    let patience = Duration::try_from(limit).unwrap_or(Duration::MAX);
    let time_is_up = cancel.child_token();
    {
        let mut working = pin!(Box::pin(work(drill, &time_is_up)));
        if tokio::time::timeout(patience, &mut working).await.is_ok() {
            return;
        }
        tracing::warn!("the drill's time is up: it is ended");
        time_is_up.cancel();
        if tokio::time::timeout(END_WITHIN, working).await.is_err() {
            tracing::error!("what the drill waits for does not end, and is left to itself");
        }
    }
    time_was_up(&mut drill.report, limit);
}

/// Whatever was not checked was not for this reason.
fn time_was_up(report: &mut Report, limit: SignedDuration) {
    let reason = format!("the drill was ended after {limit:#}, the policy's `time_limit` of a drill");
    for check in &mut report.checks {
        if check.required && check.outcome == OutcomeKind::NotRun {
            check.reason = Some(reason.clone());
        }
    }
    report.warnings.push(reason);
}

/// Works until a drill comes to a verdict, or as often as the policy allows. Waiting ends with the token.
async fn work(drill: &mut Drill, cancel: &CancellationToken) {
    let blank = drill.report.clone();
    let verification = drill.source.verification.as_ref();
    let attempts = verification.map_or(ATTEMPTS_UNLESS_NAMED, |verification| verification.attempts);
    let mut earlier = Vec::new();
    loop {
        Box::pin(drill.work(cancel)).await;
        let made = drill.report.attempts;
        let Some(trouble) = drill.trouble.take().filter(|_| worth_another(&drill.report.checks)) else {
            break;
        };
        if made >= attempts || cancel.is_cancelled() {
            break;
        }
        tracing::warn!(trouble, attempt = made, "not the backup's fault: trying again");
        tokio::select! {
            () = tokio::time::sleep(wait_after(made)) => {}
            () = cancel.cancelled() => break,
        }
        earlier.push(format!("attempt {made} ended early: {trouble}"));
        drill.report = Report { attempts: made + 1, ..blank.clone() };
    }
    drill.report.warnings.extend(earlier);
}

/// What failed once will not pass by being asked again, and what was checked needs no second try.
fn worth_another(checks: &[Check]) -> bool {
    let lacks = |check: &Check| check.required && check.outcome == OutcomeKind::NotRun;
    checks.iter().any(lacks) && checks.iter().all(|check| check.outcome != OutcomeKind::Failed)
}

fn wait_after(attempts: u32) -> Duration {
    let factor = WAIT_FACTOR.saturating_pow(attempts.saturating_sub(1));
    WAIT_FIRST.saturating_mul(factor).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_drill_that_proved_and_refuted_nothing_is_tried_again() {
        use OutcomeKind::{Degraded, Failed, NotRun, Passed};
        let worth = |outcomes: &[(bool, OutcomeKind)]| {
            let check = |(required, outcome): &(bool, OutcomeKind)| {
                let (name, required, outcome) = (String::new(), *required, *outcome);
                Check { name, required, outcome, reason: None, detail: None }
            };
            worth_another(&outcomes.iter().map(check).collect::<Vec<_>>())
        };
        assert!(worth(&[(true, Passed), (true, NotRun)]));
        assert!(!worth(&[(true, Failed), (true, NotRun)]));
        assert!(!worth(&[(true, Passed), (true, Degraded), (false, NotRun)]));
    }

    #[test]
    fn waits_grow_to_a_bound() {
        let waits: Vec<u64> = (1..=5).map(|attempts| wait_after(attempts).as_secs()).collect();
        assert_eq!(waits, [5, 20, 80, 300, 300]);
        assert_eq!(wait_after(u32::MAX), WAIT_MAX);
    }
}
