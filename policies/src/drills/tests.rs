use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::cadence::Cadence;
use crate::pauses::Pauses;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// A Tuesday; the weekly run began two days before.
const NOW: &str = "2026-11-24T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn weekly(older_per_run_max: u32) -> Rhythm {
    let schedule = "0 4 * * 0".parse().unwrap();
    let cadence = Cadence { schedule, jitter: SignedDuration::ZERO, pauses: Pauses::default() };
    Rhythm { cadence, window: DAY * 90, older_per_run_max }
}

fn backup(id: &str, days_ago: i32) -> Backup {
    let snapshot_at = at(NOW) - DAY * days_ago;
    Backup { id: id.to_owned(), snapshot_at, proved_at: None, failed_at: None }
}

fn proved(id: &str, days_ago: i32, proved_days_ago: i32) -> Backup {
    Backup { proved_at: Some(at(NOW) - DAY * proved_days_ago), ..backup(id, days_ago) }
}

/// A drill that ended an hour later.
fn drill(backup: &str, trigger: Trigger, verdict: Verdict, started_at: Timestamp) -> Drill {
    Drill { backup: backup.to_owned(), started_at, finished_at: started_at + HOUR, trigger, verdict }
}

fn planned(backups: &[Backup], drills: &[Drill], rhythm: &Rhythm, now: Timestamp) -> Plan {
    plan(backups, drills, rhythm, &TimeZone::UTC, now, 7)
}

fn ids(plan: &Plan) -> Vec<&str> {
    plan.due().iter().map(|pick| pick.id.as_str()).collect()
}

#[test]
fn never_drilled_is_due_at_once_and_done_until_the_next_run() {
    let backups = [backup("a", 1)];
    let first = planned(&backups, &[], &weekly(4), at(NOW));
    assert_eq!(ids(&first), ["a"]);
    assert_eq!(first.picks[0].reason, Reason::Newest);
    let drills = [drill("a", Trigger::ScheduledNewest, Verdict::Good, at(NOW))];
    let then = planned(&backups, &drills, &weekly(4), at(NOW) + HOUR * 2);
    assert_eq!(ids(&then), [""; 0]);
    assert_eq!(then.wake_at(at(NOW) + HOUR * 2), at("2026-11-29T04:00:00Z"));
    assert_eq!(ids(&planned(&backups, &drills, &weekly(4), at("2026-11-29T04:00:00Z"))), ["a"]);
}

#[test]
fn nothing_to_drill_is_no_plan_and_a_drill_by_hand_is_no_run() {
    let nothing = planned(&[], &[], &weekly(4), at(NOW));
    assert_eq!((ids(&nothing), nothing.wake_at(at(NOW))), (vec![], at(NOW) + FIRST_BACKUP_WATCH));
    let by_hand = [drill("a", Trigger::Manual, Verdict::Good, at(NOW) - HOUR)];
    assert_eq!(ids(&planned(&[proved("a", 1, 0)], &by_hand, &weekly(4), at(NOW))), ["a"]);
}

#[test]
fn one_run_makes_up_for_many() {
    let long_ago = [drill("a", Trigger::ScheduledNewest, Verdict::Good, at(NOW) - DAY * 200)];
    let plan = planned(&[proved("a", 201, 200), backup("b", 1)], &long_ago, &weekly(4), at(NOW));
    assert_eq!(ids(&plan), ["b", "a"]);
    let done = [
        long_ago[0].clone(),
        drill("b", Trigger::ScheduledNewest, Verdict::Good, at(NOW)),
        drill("a", Trigger::ScheduledOlder, Verdict::Good, at(NOW) + HOUR),
    ];
    let after = [proved("a", 201, 0), proved("b", 1, 0)];
    assert_eq!(ids(&planned(&after, &done, &weekly(4), at(NOW) + HOUR * 3)), [""; 0]);
}

#[test]
fn a_run_that_was_cut_short_goes_on_and_takes_no_more_than_it_would_have() {
    let mut backups: Vec<_> = (0..30).map(|n| backup(&format!("{n:02}"), n)).collect();
    let rhythm = weekly(4);
    let before = planned(&backups, &[], &rhythm, at(NOW));
    // 29 older ones over 13 runs.
    assert_eq!(before.picks.len(), 1 + 3, "{:?}", before.picks);
    let mut drills = Vec::new();
    for (number, pick) in before.picks.iter().enumerate() {
        let started_at = at(NOW) + HOUR * i32::try_from(number).unwrap();
        let now = started_at + HOUR;
        let trigger =
            if pick.reason == Reason::Newest { Trigger::ScheduledNewest } else { Trigger::ScheduledOlder };
        drills.push(drill(&pick.id, trigger, Verdict::Good, started_at));
        backups.iter_mut().find(|backup| backup.id == pick.id).unwrap().proved_at = Some(now);
        let left: Vec<_> = before.picks[number + 1..].iter().map(|pick| pick.id.as_str()).collect();
        assert_eq!(ids(&planned(&backups, &drills, &rhythm, now)), left);
    }
    // Nor does a backup that came since open the run again.
    backups.push(Backup { snapshot_at: at(NOW) + DAY, ..backup("new", 0) });
    assert_eq!(ids(&planned(&backups, &drills, &rhythm, at(NOW) + DAY * 2)), [""; 0]);
}

#[test]
fn a_bad_backup_is_left_to_people() {
    let bad = Backup { failed_at: Some(at(NOW) - DAY * 10), ..backup("bad", 0) };
    let plan = planned(&[bad.clone(), backup("good", 3)], &[], &weekly(4), at(NOW));
    assert_eq!(ids(&plan), ["good"]);
    assert_eq!((plan.coverage.kept, plan.coverage.proved), (2, 0));
    let found = [drill("bad", Trigger::ScheduledNewest, Verdict::Bad, at(NOW))];
    let bad = Backup { failed_at: Some(at(NOW) + HOUR), ..bad };
    assert_eq!(ids(&planned(std::slice::from_ref(&bad), &found, &weekly(4), at(NOW) + HOUR)), [""; 0]);
    assert_eq!(least_proved(&[bad.clone(), proved("good", 3, 1)], 1).unwrap().id, "good");
    assert_eq!(least_proved(&[bad], 1).unwrap().id, "bad");
}

#[test]
fn a_drill_without_verdict_is_tried_again_ever_later_and_after_the_others() {
    let backups = [backup("new", 0), backup("old", 30)];
    let failed = |hours: i32| drill("new", Trigger::ScheduledNewest, Verdict::Open, at(NOW) + HOUR * hours);
    let mut drills = vec![failed(0)];
    let waiting = planned(&backups, &drills, &weekly(4), at(NOW) + HOUR);
    assert_eq!((ids(&waiting), waiting.retry_at), (vec![], Some(at(NOW) + HOUR + RETRIES.first)));
    assert!(!waiting.awaits_backup);
    let retry_at = waiting.wake_at(at(NOW) + HOUR);
    assert_eq!(retry_at, at(NOW) + HOUR + RETRIES.first);
    assert_eq!(ids(&planned(&backups, &drills, &weekly(4), retry_at)), ["old", "new"]);
    drills.push(drill("old", Trigger::ScheduledOlder, Verdict::Open, at(NOW) + HOUR * 2));
    let longer = planned(&backups, &drills, &weekly(4), at(NOW) + HOUR * 3);
    assert_eq!(longer.retry_at, Some(at(NOW) + HOUR * 3 + RETRIES.first * 2));
    assert_eq!(
        ids(&planned(&backups, &drills, &weekly(4), longer.wake_at(at(NOW) + HOUR * 3))),
        ["new", "old"]
    );
}

#[test]
fn more_than_the_runs_can_take_is_said_with_numbers() {
    let backups: Vec<_> = (0..60).map(|n| backup(&format!("{n:02}"), 200 + n)).collect();
    let long_ago = [drill("gone", Trigger::ScheduledNewest, Verdict::Good, at(NOW) - DAY * 400)];
    let plan = planned(&backups, &long_ago, &weekly(4), at(NOW));
    let shortfall = plan.shortfall.unwrap();
    assert_eq!((shortfall.needed, shortfall.runs, shortfall.older_per_run_needed), (59, 1, 59));
    assert!(shortfall.to_string().contains("59 older backups need a proof by"), "{shortfall}");
    assert_eq!(plan.picks.len(), 1 + 4);
    assert_eq!(planned(&backups, &[], &weekly(5), at(NOW)).shortfall, None);
}

#[test]
fn a_proof_that_runs_out_comes_before_the_never_proved() {
    let mut backups: Vec<_> = (0..20).map(|n| backup(&format!("{n:02}"), n)).collect();
    backups.push(proved("monthly", 89, 88));
    let long_ago = [drill("monthly", Trigger::ScheduledOlder, Verdict::Good, at(NOW) - DAY * 88)];
    let plan = planned(&backups, &long_ago, &weekly(2), at(NOW));
    assert_eq!(plan.picks[1].id, "monthly", "{plan:?}");
    assert_eq!(plan.picks[1].reason.to_string(), "last proved 2026-08-28, due by 2026-11-26");
    assert_eq!(plan.picks[2].reason, Reason::NeverProved);
    // One is urgent, and so many may be taken.
    assert_eq!(plan.shortfall, None);
    let two = [backup("new", 0), proved("monthly", 89, 88)];
    assert_eq!(planned(&two, &long_ago, &weekly(1), at(NOW)).shortfall, None);
}

#[test]
fn jitter_delays_each_run_by_its_own_bit_and_never_more() {
    let cadence = Cadence { jitter: HOUR, ..weekly(1).cadence };
    let mut delays = BTreeSet::new();
    for randomness in 0..50 {
        let run = cadence.run_at(&TimeZone::UTC, at(NOW), randomness);
        let delay = run.begins_at.duration_since(at("2026-11-22T04:00:00Z"));
        assert!((SignedDuration::ZERO..=HOUR).contains(&delay), "{delay}");
        assert_eq!(run, cadence.run_at(&TimeZone::UTC, run.begins_at, randomness));
        assert_eq!(run.next_at, cadence.run_at(&TimeZone::UTC, run.next_at, randomness).begins_at);
        let just_before = run.begins_at - SignedDuration::from_secs(1);
        assert_eq!(cadence.run_at(&TimeZone::UTC, just_before, randomness).next_at, run.begins_at);
        delays.insert(delay);
    }
    assert!(delays.len() > 40);
    let cadence_of_a_second = Cadence { jitter: SignedDuration::from_secs(1), ..weekly(1).cadence };
    let begins_at = |randomness| cadence_of_a_second.run_at(&TimeZone::UTC, at(NOW), randomness).begins_at;
    assert_eq!((0..50).map(begins_at).collect::<BTreeSet<_>>().len(), 2);
    // Longer than the time between two runs: they still come one after another.
    let cadence = Cadence { jitter: DAY * 20, ..weekly(1).cadence };
    assert!(cadence.run_at(&TimeZone::UTC, at(NOW), 3).begins_at <= at(NOW));
}

#[test]
fn coverage_counts_what_holds_within_the_window() {
    let refuted = Backup { failed_at: Some(at(NOW)), ..proved("bad", 50, 3) };
    let backups = [backup("a", 5), proved("b", 100, 10), proved("c", 100, 90), proved("d", 9, 8), refuted];
    let coverage = Coverage::of(&backups, DAY * 90, at(NOW));
    assert_eq!(coverage.to_string(), "2 of 5 kept backups proved in 90 days");
}

#[test]
fn the_last_verdict_counts_and_at_the_same_time_the_bad_one() {
    let of = |proved_days_ago, failed_days_ago| {
        let failed_at = Some(at(NOW) - DAY * failed_days_ago);
        let backup = Backup { failed_at, ..proved("a", 100, proved_days_ago) };
        (backup.is_proved(), backup.is_refuted())
    };
    assert_eq!(of(1, 2), (true, false));
    assert_eq!(of(2, 1), (false, true));
    assert_eq!(of(1, 1), (false, true));
    assert_eq!((backup("a", 1).is_proved(), backup("a", 1).is_refuted()), (false, false));
}

#[test]
fn a_proof_is_renewed_in_the_second_half_of_its_window() {
    let backups = [backup("new", 0), proved("first half", 100, 44), proved("second half", 100, 45)];
    let long_ago = [drill("gone", Trigger::ScheduledOlder, Verdict::Good, at(NOW) - DAY * 100)];
    assert_eq!(ids(&planned(&backups, &long_ago, &weekly(4), at(NOW))), ["new", "second half"]);
}

#[test]
fn a_run_that_begins_when_a_proof_falls_due_comes_too_late_for_it() {
    let next = at("2026-11-29T04:00:00Z");
    let due = Backup { proved_at: Some(next - DAY * 90), ..backup("due", 200) };
    let long_ago = [drill("due", Trigger::ScheduledOlder, Verdict::Good, at(NOW) - DAY * 100)];
    let plan = planned(&[backup("new", 0), due.clone()], &long_ago, &weekly(4), at(NOW));
    assert_eq!(plan.picks[1].reason, Reason::DueBy { deadline: next, proved_at: due.proved_at });
}

/// What a run has to do was settled when it began, by what was known of each backup itself.
#[test]
fn other_drills_and_those_without_verdict_make_a_run_no_shorter() {
    // One more than there are runs left for them: this one takes two.
    let mut backups = vec![backup("new", 0)];
    backups.extend((0..17).map(|n| backup(&format!("{n:02}"), 14)));
    backups.push(proved("proved", 40, 30));
    let month_ago = at(NOW) - DAY * 30;
    let mut drills = vec![drill("proved", Trigger::ScheduledOlder, Verdict::Good, month_ago)];
    let opens =
        backups[..15].iter().map(|it| drill(&it.id, Trigger::ScheduledOlder, Verdict::Open, month_ago));
    drills.extend(opens);
    let rhythm = Rhythm { window: DAY * 120, ..weekly(4) };
    let before = planned(&backups, &drills, &rhythm, at(NOW));
    assert_eq!(before.picks.len(), 1 + 2, "{:?}", before.picks);
    let triggers = [Trigger::ScheduledNewest, Trigger::ScheduledOlder];
    for (pick, trigger) in before.picks.iter().zip(triggers) {
        drills.push(drill(&pick.id, trigger, Verdict::Good, at(NOW)));
        backups.iter_mut().find(|it| it.id == pick.id).unwrap().proved_at = Some(at(NOW) + HOUR);
    }
    assert_eq!(ids(&planned(&backups, &drills, &rhythm, at(NOW) + HOUR * 2)), [&*before.picks[2].id]);
}

fn some_backups() -> impl Strategy<Value = Vec<Backup>> {
    let one = (0..400_i32, proptest::option::of(0..200_i32), proptest::option::weighted(0.1, 0..200_i32));
    proptest::collection::vec(one, 0..40).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        let backup = |(number, (age, proved, failed)): (usize, (i32, Option<i32>, Option<i32>))| Backup {
            proved_at: proved.map(|days| at(NOW) - DAY * days.min(age)),
            failed_at: failed.map(|days| at(NOW) - DAY * days.min(age)),
            ..backup(&format!("{number:02}"), age)
        };
        numbered.map(backup).collect()
    })
}

/// Follows the plan for so many runs, in which every drill finds its backup good. Gives when each was proved.
fn follow(backups: &mut [Backup], rhythm: &Rhythm, until: Timestamp) -> BTreeMap<String, Vec<Timestamp>> {
    let (mut now, mut drills, mut proofs) = (at(NOW), Vec::new(), BTreeMap::<String, Vec<Timestamp>>::new());
    while now <= until {
        let plan = planned(backups, &drills, rhythm, now);
        for pick in plan.due() {
            let trigger = if pick.reason == Reason::Newest {
                Trigger::ScheduledNewest
            } else {
                Trigger::ScheduledOlder
            };
            drills.push(Drill { finished_at: now, ..drill(&pick.id, trigger, Verdict::Good, now) });
            backups.iter_mut().find(|backup| backup.id == pick.id).unwrap().proved_at = Some(now);
            proofs.entry(pick.id.clone()).or_default().push(now);
        }
        now = plan.run.next_at;
    }
    proofs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn following_the_plan_proves_every_kept_backup_within_the_window(
        count in 1..50_usize, older_per_run_max in 1..6_u32, seed in any::<i32>(),
    ) {
        let mut backups: Vec<_> = (0..count)
            .map(|n| backup(&format!("{n:02}"), (seed.wrapping_mul(31 + i32::try_from(n).unwrap())).rem_euclid(400)))
            .collect();
        let rhythm = weekly(older_per_run_max);
        let reachable = planned(&backups, &[], &rhythm, at(NOW)).shortfall.is_none();
        let first_window = at(NOW) + rhythm.window;
        let mut later_on = backups.clone();
        let proved = follow(&mut backups, &rhythm, first_window).len();
        prop_assert!(!reachable || proved == count, "{proved} of {count}");
        // And no proof runs out in the windows after it, each of 12 runs.
        let sustainable = reachable && count <= 1 + 12 * older_per_run_max as usize;
        let proofs = follow(&mut later_on, &rhythm, at(NOW) + rhythm.window * 3);
        for times in proofs.values().filter(|_| sustainable) {
            let last = at(NOW) + rhythm.window * 3;
            let gaps = times.windows(2).map(|two| two[1].duration_since(two[0]));
            let longest = gaps.chain([last.duration_since(*times.last().unwrap())]).max().unwrap();
            prop_assert!(longest <= rhythm.window, "{longest:#}");
        }
    }

    #[test]
    fn a_plan_takes_good_ones_once_each_and_the_newest_first(
        backups in some_backups(), older_per_run_max in 0..6_u32, randomness in any::<u64>(),
    ) {
        let rhythm = weekly(older_per_run_max);
        let planned = |backups: &[Backup]| plan(backups, &[], &rhythm, &TimeZone::UTC, at(NOW), randomness);
        let found = planned(&backups);
        let distinct: BTreeSet<_> = found.picks.iter().map(|pick| &pick.id).collect();
        prop_assert_eq!(distinct.len(), found.picks.len());
        prop_assert!(found.picks.len() <= 1 + older_per_run_max as usize);
        for pick in &found.picks {
            prop_assert!(!backups.iter().find(|backup| backup.id == pick.id).unwrap().is_refuted());
        }
        let newest = newest(&backups).map(|backup| backup.id.as_str());
        prop_assert_eq!(found.picks.first().map(|pick| pick.id.as_str()), newest);
        let mut reversed = backups.clone();
        reversed.reverse();
        prop_assert_eq!(planned(&reversed), found);
    }
}
