//! Laws that hold for every schedule, outage and clock.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::pauses::{Pause, Pauses};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// A daemon looks at the clock so often at least.
const LOOK: SignedDuration = MINUTE;

/// Schedules with a jitter that is shorter than their shortest gap.
const SCHEDULES: [(&str, SignedDuration); 5] = [
    ("30 2 * * *", HOUR),
    ("*/20 * * * *", SignedDuration::from_mins(10)),
    ("0 4 * * 0", HOUR),
    ("0 6,18 * * 1-5", SignedDuration::ZERO),
    ("15 1-4 * * *", SignedDuration::from_mins(30)),
];
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"];

fn rhythm() -> impl Strategy<Value = Rhythm> {
    let (schedule, deadline) = (0..SCHEDULES.len(), prop_oneof![Just(None), Just(Some(HOUR * 2))]);
    (schedule, any::<bool>(), any::<bool>(), deadline).prop_map(|(schedule, jitters, pauses, deadline)| {
        let (text, jitter) = SCHEDULES[schedule];
        let pause = Pause {
            days: "mon-sat".parse().unwrap(),
            from: "22:00".parse().unwrap(),
            to: "03:00".parse().unwrap(),
            reason: None,
        };
        let cadence = Cadence {
            schedule: text.parse().unwrap(),
            jitter: if jitters { jitter } else { SignedDuration::ZERO },
            pauses: Pauses::new(if pauses { vec![pause] } else { vec![] }).unwrap(),
        };
        Rhythm { cadence, deadline }
    })
}

fn zone() -> impl Strategy<Value = TimeZone> {
    (0..ZONES.len()).prop_map(|zone| TimeZone::get(ZONES[zone]).unwrap())
}

/// Some minute of a year with every change of the clocks in it.
fn start() -> impl Strategy<Value = Timestamp> {
    (0..365 * 24 * 60_i64)
        .prop_map(|minute| "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + MINUTE * minute as i32)
}

/// A daemon with a clock of its own, and what the repository holds.
struct Daemon<'a> {
    rhythm: &'a Rhythm,
    zone: &'a TimeZone,
    known: Known,
    now: Timestamp,
    /// Backups by the beginning of their run.
    made: BTreeMap<Timestamp, Vec<Timestamp>>,
    /// What was said last of each run that made none.
    waits: BTreeMap<Timestamp, Step>,
}

impl<'a> Daemon<'a> {
    fn new(rhythm: &'a Rhythm, zone: &'a TimeZone, now: Timestamp) -> Self {
        let known = Known { backups: vec![now], failed: Vec::new() };
        Self { rhythm, zone, known, now, made: BTreeMap::new(), waits: BTreeMap::new() }
    }

    fn plan(&self) -> Plan {
        plan(&self.known, self.rhythm, self.zone, self.now, 11)
    }

    /// One look; a failed attempt takes a minute. Gives what was planned.
    fn look(&mut self, fails: Option<Cause>) -> Plan {
        let planned = self.plan();
        match (&planned.step, fails) {
            (Step::BackUp(_), None) => {
                self.made.entry(planned.run.begins_at).or_default().push(self.now);
                self.known.backups.push(self.now);
            }
            (Step::BackUp(_), Some(cause)) => {
                let (started_at, ended_at) = (self.now, self.now + MINUTE);
                self.known.failed.push(Attempt { started_at, ended_at, cause });
                self.waits.insert(planned.run.begins_at, planned.step.clone());
                self.now = ended_at;
            }
            (Step::Wait { .. }, _) => {
                self.waits.insert(planned.run.begins_at, planned.step.clone());
            }
        }
        planned
    }
}

/// What happens at a look.
#[derive(Clone, Copy, Debug)]
enum Event {
    Well,
    Fails(Cause),
    /// Nobody looks for so many hours.
    Away(i32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => Just(Event::Well),
        2 => prop_oneof![Just(Cause::Passing), Just(Cause::Standing), Just(Cause::Stopped)].prop_map(Event::Fails),
        1 => (1..100_i32).prop_map(Event::Away),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Where nothing goes wrong, there is a backup for each time of the schedule, at its own beginning, and no other.
    #[test]
    fn every_time_of_the_schedule_has_its_backup(rhythm in rhythm(), zone in zone(), from in start()) {
        let mut daemon = Daemon::new(&rhythm, &zone, from);
        let until = from + DAY * 9;
        while daemon.now < until {
            let planned = daemon.look(None);
            daemon.now = planned.wake_at().unwrap_or(daemon.now);
        }
        let times = std::iter::successors(rhythm.cadence.schedule.next_after(from, &zone), |last| {
            rhythm.cadence.schedule.next_after(*last, &zone)
        });
        let begins: BTreeSet<Timestamp> = times
            .take_while(|time| *time < until - DAY)
            .map(|time| rhythm.cadence.run_at(&zone, rhythm.cadence.begin(time, &zone, 11), 11).begins_at)
            .collect();
        for begin in begins {
            let made = daemon.made.get(&begin);
            prop_assert_eq!(made, Some(&vec![begin]));
        }
    }

    /// Whatever fails, and however long nobody looks: no run has two backups, and none that was looked at goes without one
    /// and without a word.
    #[test]
    fn no_run_has_two_backups_and_none_is_skipped_in_silence(
        rhythm in rhythm(), zone in zone(), from in start(), events in events()
    ) {
        let mut daemon = Daemon::new(&rhythm, &zone, from);
        for event in events {
            let fails = if let Event::Fails(cause) = event { Some(cause) } else { None };
            let planned = daemon.look(fails);
            if let Some(wake_at) = planned.wake_at() {
                prop_assert!(wake_at > daemon.now && wake_at <= planned.run.next_at);
                daemon.now = wake_at;
            }
            if let Event::Away(hours) = event {
                daemon.now += HOUR * hours;
            }
        }
        for (run, made) in &daemon.made {
            prop_assert!(made.len() == 1 && made[0] >= *run, "{made:?}");
        }
        let has_deadline = rhythm.deadline.is_some();
        for (run, step) in daemon.waits.iter().filter(|(run, _)| !daemon.made.contains_key(run)) {
            match step {
                // It was the backup that there was at the start.
                Step::Wait { why: Wait::Done(at), .. } => prop_assert!(*at == from && run <= at),
                Step::Wait { why: Wait::GivenUp { .. }, .. } => prop_assert!(has_deadline),
                Step::Wait { why: Wait::Failed { .. } | Wait::Paused(_), .. } | Step::BackUp(_) => {}
            }
        }
    }

    /// A clock that jumps by a day, both ways, costs a backup more each time, and no more; and by the true time, no more than
    /// two days pass without one, and a day more for each time that the same day came again.
    #[test]
    fn clock_that_jumps_makes_neither_a_loop_nor_silence(
        zone in zone(), from in start(), jumps in prop::collection::vec((1..40_i32, any::<bool>()), 1..6)
    ) {
        let cadence = Cadence {
            schedule: "30 2 * * *".parse().unwrap(),
            jitter: SignedDuration::ZERO,
            pauses: Pauses::default(),
        };
        let rhythm = Rhythm { cadence, deadline: None };
        let mut daemon = Daemon::new(&rhythm, &zone, from);
        let (mut true_time, mut last_made, mut count, mut days_again) = (from, from, 0, 0);
        let number = jumps.len() as i64;
        for (hours, forward) in jumps {
            let until = true_time + HOUR * hours;
            while true_time < until {
                let before = daemon.now;
                let planned = daemon.look(None);
                if planned.wake_at().is_none() {
                    (last_made, count, days_again) = (true_time, count + 1, 0);
                }
                let step = daemon.now.duration_since(before).max(LOOK);
                daemon.now = before + step;
                true_time += step;
                let silence = true_time.duration_since(last_made);
                prop_assert!(silence <= DAY * (2 + days_again) + HOUR * 2, "silent since {last_made}");
            }
            daemon.now = if forward { daemon.now + DAY } else { daemon.now - DAY };
            days_again += i32::from(!forward);
        }
        let days = true_time.duration_since(from).as_hours() / 24;
        prop_assert!(count <= days + 2 + number, "{count} backups in {days} days");
    }
}
