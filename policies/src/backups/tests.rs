use super::*;
use crate::pauses::{Pause, Pauses};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// A Tuesday, half an hour into the nightly run.
const NOW: &str = "2026-11-24T02:30:00Z";
/// When that run began.
const BEGAN: &str = "2026-11-24T02:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn nightly() -> Rhythm {
    let schedule = "0 2 * * *".parse().unwrap();
    let cadence = Cadence { schedule, jitter: SignedDuration::ZERO, pauses: Pauses::default() };
    Rhythm { cadence, deadline: None }
}

fn paused(days: &str, from: &str, to: &str) -> Rhythm {
    let (days, from, to) = (days.parse().unwrap(), from.parse().unwrap(), to.parse().unwrap());
    let pauses = Pauses::new(vec![Pause { days, from, to, reason: Some("reports".to_owned()) }]).unwrap();
    Rhythm { cadence: Cadence { pauses, ..nightly().cadence }, ..nightly() }
}

fn known(backups: &[Timestamp]) -> Known {
    Known { backups: backups.to_vec(), failed: Vec::new() }
}

/// An attempt that took a minute.
fn failed(started_at: Timestamp, cause: Cause) -> Attempt {
    Attempt { started_at, ended_at: started_at + MINUTE, cause }
}

fn planned(known: &Known, rhythm: &Rhythm, now: Timestamp) -> Plan {
    plan(known, rhythm, &TimeZone::UTC, now, 7)
}

/// After a good backup of the night before, and these.
fn after_failures(failed: &[Attempt], rhythm: &Rhythm, now: Timestamp) -> Step {
    let known = Known { backups: vec![at(BEGAN) - DAY], failed: failed.to_vec() };
    planned(&known, rhythm, now).step
}

#[test]
fn source_without_a_backup_is_due_at_once() {
    assert_eq!(planned(&Known::default(), &nightly(), at(NOW)).step, Step::BackUp(Reason::First));
}

#[test]
fn run_makes_one_backup_and_then_nothing_until_the_next() {
    let last_night = at(BEGAN) - DAY;
    assert_eq!(planned(&known(&[last_night]), &nightly(), at(BEGAN)).step, Step::BackUp(Reason::OnTime));
    let both = planned(&known(&[last_night, at(BEGAN)]), &nightly(), at(NOW));
    assert_eq!(both.step, Step::Wait { until: at(BEGAN) + DAY, why: Wait::Done(at(BEGAN)) });
    assert_eq!(both.wake_at(), Some(at(BEGAN) + DAY));
    assert_eq!(both.warnings, []);
}

#[test]
fn backup_by_hand_counts_for_the_run_that_is_on() {
    let by_hand = at(BEGAN) + HOUR * 5;
    let then = planned(&known(&[by_hand]), &nightly(), by_hand + HOUR);
    assert_eq!(then.step, Step::Wait { until: at(BEGAN) + DAY, why: Wait::Done(by_hand) });
}

#[test]
fn scheduler_that_was_dead_for_three_days_catches_up_once() {
    let known = known(&[at(BEGAN) - DAY * 3]);
    let late = planned(&known, &nightly(), at(NOW) + HOUR * 6);
    assert_eq!(late.step, Step::BackUp(Reason::CatchUp { missed: 2 }));
    let made = Known { backups: vec![at(NOW) + HOUR * 6], ..known };
    let then = planned(&made, &nightly(), at(NOW) + HOUR * 7);
    assert_eq!(then.wake_at(), Some(at(BEGAN) + DAY));
    // A daemon that was away for an hour missed no run, and is late for one.
    let late = planned(&self::known(&[at(BEGAN) - DAY]), &nightly(), at(BEGAN) + HOUR);
    assert_eq!(late.step, Step::BackUp(Reason::CatchUp { missed: 0 }));
}

#[test]
fn failed_attempt_is_tried_again_ever_later() {
    let mut attempts = vec![failed(at(BEGAN), Cause::Passing)];
    for failures in 1..8 {
        let ended_at = attempts.last().unwrap().ended_at;
        let wait = after_failures(&attempts, &nightly(), ended_at);
        let until = ended_at + RETRIES.after(failures);
        assert_eq!(wait, Step::Wait { until, why: Wait::Failed { failures, cause: Cause::Passing } });
        assert_eq!(after_failures(&attempts, &nightly(), until), Step::BackUp(Reason::Retry { failures }));
        attempts.push(failed(until, Cause::Passing));
    }
    // Tomorrow night is a new run, however it went.
    let tomorrow = at(BEGAN) + DAY;
    assert_eq!(after_failures(&attempts, &nightly(), tomorrow), Step::BackUp(Reason::CatchUp { missed: 1 }));
}

#[test]
fn what_somebody_has_to_mend_is_tried_again_later_still() {
    let attempts = [failed(at(BEGAN), Cause::Standing)];
    let until = attempts[0].ended_at + RETRIES_OF_STANDING.first;
    let why = Wait::Failed { failures: 1, cause: Cause::Standing };
    assert_eq!(after_failures(&attempts, &nightly(), at(BEGAN) + MINUTE * 5), Step::Wait { until, why });
    assert!(RETRIES_OF_STANDING.first > RETRIES.after(4));
}

#[test]
fn attempt_that_was_stopped_failed_at_nothing() {
    let attempts = [failed(at(BEGAN), Cause::Stopped)];
    let then = at(BEGAN) + MINUTE * 2;
    assert_eq!(after_failures(&attempts, &nightly(), then), Step::BackUp(Reason::OnTime));
}

#[test]
fn deadline_ends_the_tries_and_not_a_run_that_was_never_tried() {
    let rhythm = Rhythm { deadline: Some(HOUR), ..nightly() };
    let attempts = [failed(at(BEGAN), Cause::Passing), failed(at(BEGAN) + MINUTE * 50, Cause::Passing)];
    let step = |now| after_failures(&attempts, &rhythm, now);
    assert_eq!(step(at(BEGAN) + MINUTE * 55), Step::BackUp(Reason::Retry { failures: 2 }));
    let given_up = Step::Wait { until: at(BEGAN) + DAY, why: Wait::GivenUp { failures: 2 } };
    assert_eq!(step(at(BEGAN) + HOUR), given_up);
    let never_tried = after_failures(&[], &rhythm, at(BEGAN) + HOUR * 9);
    assert_eq!(never_tried, Step::BackUp(Reason::CatchUp { missed: 0 }));
    // Its first try failed late, and is tried again as long as any other.
    let late = [failed(at(BEGAN) + HOUR * 9, Cause::Passing)];
    let again = after_failures(&late, &rhythm, at(BEGAN) + HOUR * 9 + MINUTE * 5);
    assert_eq!(again, Step::BackUp(Reason::Retry { failures: 1 }));
}

#[test]
fn retry_that_would_come_after_the_deadline_is_no_retry() {
    let rhythm = Rhythm { deadline: Some(MINUTE * 20), ..nightly() };
    let attempts = [failed(at(BEGAN), Cause::Standing)];
    let given_up = Step::Wait { until: at(BEGAN) + DAY, why: Wait::GivenUp { failures: 1 } };
    assert_eq!(after_failures(&attempts, &rhythm, at(BEGAN) + MINUTE * 2), given_up);
}

#[test]
fn run_that_falls_into_a_pause_begins_right_after_it() {
    let rhythm = paused("mon-fri", "01:00", "04:00");
    let plan = planned(&known(&[at(BEGAN) - DAY + HOUR * 2]), &rhythm, at(NOW));
    // Still that of the day before, which has its backup.
    assert_eq!(plan.wake_at(), Some(at(BEGAN) + HOUR * 2));
    let then = planned(&known(&[at(BEGAN) - DAY + HOUR * 2]), &rhythm, at(BEGAN) + HOUR * 2);
    assert_eq!(then.step, Step::BackUp(Reason::OnTime));
}

#[test]
fn pause_holds_back_what_was_missed_and_what_failed() {
    let rhythm = paused("mon-fri", "08:00", "18:00");
    let noon = at("2026-11-24T12:00:00Z");
    let Step::Wait { until, why: Wait::Paused(pause) } = after_failures(&[], &rhythm, noon) else {
        panic!("begun in a pause")
    };
    assert_eq!((until, pause.as_str()), (at("2026-11-24T18:00:00Z"), "08:00 to 18:00, reports"));
    let attempts = [failed(at("2026-11-24T07:59:00Z"), Cause::Passing)];
    assert!(matches!(after_failures(&attempts, &rhythm, noon), Step::Wait { why: Wait::Paused(_), .. }));
    assert_eq!(after_failures(&attempts, &rhythm, until), Step::BackUp(Reason::Retry { failures: 1 }));
}

#[test]
fn clock_set_back_by_a_day_makes_no_loop() {
    // Backed up at two o'clock; then the clock goes back by a day, to a time whose run was made long ago.
    let made = [at(BEGAN) - DAY, at(BEGAN)];
    let back = planned(&known(&made), &nightly(), at(NOW) - DAY);
    assert_eq!(back.step, Step::Wait { until: at(BEGAN), why: Wait::Done(at(BEGAN) - DAY) });
    // Where it was not, one backup is made, which counts.
    let first = planned(&known(&[at(BEGAN)]), &nightly(), at(NOW) - DAY);
    assert_eq!(first.step, Step::BackUp(Reason::First));
    let then = planned(&known(&[at(BEGAN), at(NOW) - DAY]), &nightly(), at(NOW) - DAY + MINUTE);
    assert_eq!(then.wake_at(), Some(at(BEGAN)));
}

#[test]
fn clock_set_back_by_minutes_makes_no_second_backup() {
    let made = known(&[at(BEGAN) - DAY, at(BEGAN) + MINUTE * 5]);
    let then = planned(&made, &nightly(), at(BEGAN));
    assert_eq!(then.step, Step::Wait { until: at(BEGAN) + DAY, why: Wait::Done(at(BEGAN) + MINUTE * 5) });
    let started_at = at(BEGAN) + MINUTE * 5;
    assert_eq!(then.warnings, [Warning::BackupFromTheFuture { started_at, counts: true }]);
}

#[test]
fn backup_from_the_future_silences_nothing_and_is_told_of() {
    let future = at(NOW) + DAY * 1000;
    for future in [future, at(NOW) + HOUR * 5] {
        let planned = planned(&known(&[at(BEGAN) - DAY, future]), &nightly(), at(NOW));
        assert_eq!(planned.step, Step::BackUp(Reason::CatchUp { missed: 0 }));
        let warning = Warning::BackupFromTheFuture { started_at: future, counts: false };
        assert_eq!(planned.warnings, [warning]);
        assert!(warning.to_string().contains("in the future"), "{warning}");
    }
}

#[test]
fn attempts_from_the_future_delay_nothing() {
    let attempts = [failed(at(NOW) + DAY, Cause::Standing)];
    assert_eq!(after_failures(&attempts, &nightly(), at(NOW)), Step::BackUp(Reason::CatchUp { missed: 0 }));
}

#[test]
fn clock_set_forward_by_a_day_is_a_run_that_comes_early() {
    let made = [at(BEGAN)];
    let forward = planned(&known(&made), &nightly(), at(NOW) + DAY);
    assert_eq!(forward.step, Step::BackUp(Reason::CatchUp { missed: 0 }));
    // Set right again: the backup that this made is of tomorrow, and today's run has its own.
    let right = planned(&known(&[at(BEGAN), at(NOW) + DAY]), &nightly(), at(NOW) + MINUTE);
    assert_eq!(right.step, Step::Wait { until: at(BEGAN) + DAY, why: Wait::Done(at(BEGAN)) });
    assert_eq!(right.warnings.len(), 1);
}

#[test]
fn run_that_begins_five_minutes_late_is_on_time() {
    let known = known(&[at(BEGAN) - DAY]);
    let reason = |late: SignedDuration| planned(&known, &nightly(), at(BEGAN) + late).step;
    assert_eq!(reason(LATE), Step::BackUp(Reason::OnTime));
    assert_eq!(reason(LATE + MINUTE), Step::BackUp(Reason::CatchUp { missed: 0 }));
}

#[test]
fn what_is_dated_now_is_not_from_the_future() {
    assert_eq!(planned(&known(&[at(BEGAN)]), &nightly(), at(BEGAN)).warnings, []);
}

#[test]
fn plan_says_why() {
    let reasons = [
        (Reason::First, "there is no backup yet"),
        (Reason::OnTime, "its time came"),
        (Reason::CatchUp { missed: 0 }, "late"),
        (Reason::CatchUp { missed: 2 }, "makes up for 2 run(s) without a backup"),
        (Reason::Retry { failures: 3 }, "again after 3 failed attempt(s)"),
    ];
    for (reason, told) in reasons {
        assert_eq!(reason.to_string(), told);
    }
    let waits = [
        (Wait::Done(at(BEGAN)), "backed up at 2026-11-24T02:00:00Z"),
        (
            Wait::Failed { failures: 1, cause: Cause::Standing },
            "1 attempt(s) failed, and somebody has to mend it",
        ),
        (Wait::Failed { failures: 2, cause: Cause::Passing }, "2 attempt(s) failed"),
        (Wait::GivenUp { failures: 3 }, "given up after 3 failed attempt(s): its deadline is over"),
        (Wait::Paused("08:00 to 18:00".to_owned()), "paused from 08:00 to 18:00"),
    ];
    for (wait, told) in waits {
        assert_eq!(wait.to_string(), told);
    }
}

#[test]
fn rhythm_is_that_of_the_policy_and_without_a_schedule_there_is_none() {
    let rhythm = |policy: &str| {
        let policy = crate::policy::Policy::parse(policy, "pgproof.toml").unwrap();
        Rhythm::of(policy.sources.values().next().unwrap()).unwrap()
    };
    let nightly = rhythm(include_str!("../../examples/nightly.toml")).unwrap();
    assert_eq!(nightly.cadence.schedule.to_string(), "0 2 * * *");
    assert!(rhythm(include_str!("../../examples/directory.toml")).is_none());
}
