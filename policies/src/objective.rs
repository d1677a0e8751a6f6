//! Whether a policy can meet its own objectives, told before a backup was ever missed; and what was met of them.

use std::fmt;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::drills::Rhythm;
use crate::names::SourceName;
use crate::policy::{Policy, Source};
use crate::retention::Retention;
use crate::schedule::Schedule;

/// A source whose policy promises more than it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Between two scheduled backups more is lost than the recovery point allows.
    ScheduleTooSparse { source: SourceName, longest_gap: SignedDuration, recovery_point: SignedDuration },
    /// There is an objective and no schedule at all.
    NoSchedule { source: SourceName, recovery_point: SignedDuration },
    /// More backups are kept than the drills of a window can prove. `kept` is absent where nothing ever goes.
    VerificationTooSparse {
        source: SourceName,
        kept: Option<usize>,
        provable: usize,
        runs: usize,
        window: SignedDuration,
        older_per_run_max: u32,
    },
}

/// What was lost at worst, had the source been lost when it was worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// The longest time between two good backups, or since the newest.
    pub achieved: SignedDuration,
    pub worst_gap_from: Timestamp,
    pub newest_age: SignedDuration,
}

/// What was found in the window from `since` on. `snapshots`: of all good backups that were made, those that retention
/// has removed since as well, in any order. `None` where there never was one.
pub fn recovery_point(
    snapshots: impl IntoIterator<Item = Timestamp>,
    since: Timestamp,
    now: Timestamp,
) -> Option<RecoveryPoint> {
    let mut snapshots: Vec<Timestamp> = snapshots.into_iter().collect();
    let newest = *snapshots.iter().max()?;
    // What lies before the window is known in part only: of a gap that began there, what lies within counts.
    snapshots.iter_mut().for_each(|snapshot| *snapshot = (*snapshot).max(since));
    snapshots.push(now.max(newest));
    snapshots.sort();
    let gaps = snapshots.windows(2).map(|two| (two[1].duration_since(two[0]), two[0]));
    let (achieved, worst_gap_from) = gaps.max_by_key(|(gap, _)| *gap)?;
    let newest_age = now.duration_since(newest).max(SignedDuration::ZERO);
    Some(RecoveryPoint {
        achieved: achieved.max(newest_age),
        worst_gap_from: worst_gap_from.min(newest),
        newest_age,
    })
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ScheduleTooSparse { source, longest_gap, recovery_point } => write!(
                f,
                "sources.{source}: its schedule leaves up to {longest_gap:#} between backups, \
                 so it cannot meet the recovery point of {recovery_point:#}"
            ),
            Self::NoSchedule { source, recovery_point } => {
                write!(
                    f,
                    "sources.{source}: nothing is scheduled, so the recovery point of {recovery_point:#} is met by hand or not at all"
                )
            }
            Self::VerificationTooSparse { source, kept, provable, runs, window, older_per_run_max } => {
                match kept {
                    Some(kept) => write!(f, "sources.{source}: up to {kept} backups are kept")?,
                    None => write!(f, "sources.{source}: every backup is kept, more and more of them")?,
                }
                write!(
                    f,
                    ", and {runs} run(s) of verification in {} days, each of at most {older_per_run_max} older \
                     backup(s), prove {provable} of them: raise `older_per_run_max`, or verify more often",
                    window.as_hours() / 24
                )
            }
        }
    }
}

/// Every objective that the policy's schedules cannot meet, looking ahead from `now`.
pub fn shortfalls(policy: &Policy, now: Timestamp) -> Vec<Shortfall> {
    let zone = policy.time_zone();
    let of = |source| [sparse_schedule(source, &zone, now), sparse_verification(source, &zone, now)];
    policy.sources.values().flat_map(of).flatten().collect()
}

fn sparse_schedule(source: &Source, zone: &TimeZone, now: Timestamp) -> Option<Shortfall> {
    let recovery_point = source.objectives.recovery_point?;
    let name = source.name.clone();
    let Some(schedule) = source.schedule.as_ref().and_then(|text| text.parse::<Schedule>().ok()) else {
        return Some(Shortfall::NoSchedule { source: name, recovery_point });
    };
    let longest_gap = schedule.longest_gap(zone, now)?;
    let sparse = Shortfall::ScheduleTooSparse { source: name, longest_gap, recovery_point };
    (longest_gap > recovery_point).then_some(sparse)
}

fn sparse_verification(source: &Source, zone: &TimeZone, now: Timestamp) -> Option<Shortfall> {
    let rhythm = Rhythm::of(source.verification.as_ref()?).ok()?;
    let kept = kept_at_most(source, zone, now);
    let (window, older_per_run_max) = (rhythm.window, rhythm.older_per_run_max);
    let runs = rhythm.cadence.schedule.count_within(now, window, zone);
    // The newest is among those that are kept, and each run proves it.
    let newest = usize::from(runs > 0);
    let older = usize::try_from(older_per_run_max).unwrap_or(usize::MAX);
    let provable = runs.saturating_mul(older).saturating_add(newest);
    let source = source.name.clone();
    let sparse = Shortfall::VerificationTooSparse { source, kept, provable, runs, window, older_per_run_max };
    kept.is_none_or(|kept| kept > provable).then_some(sparse)
}

/// As many as all rules keep together if no backup is kept by two of them; `None` where nothing ever goes.
fn kept_at_most(source: &Source, zone: &TimeZone, now: Timestamp) -> Option<usize> {
    let Retention { last, hourly, daily, weekly, monthly, yearly, within, keep_all, .. } = source.retention;
    if keep_all {
        return None;
    }
    let slots = [last, hourly, daily, weekly, monthly, yearly]
        .map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let schedule = source.schedule.as_ref().and_then(|text| text.parse::<Schedule>().ok());
    let young = schedule.zip(within).map_or(0, |(schedule, span)| schedule.count_within(now, span, zone));
    // The newest good one stays, whatever the rules say.
    Some(slots.into_iter().fold(young, usize::saturating_add).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Vec<Shortfall> {
        let text = format!(
            "[repository]\nlocation = \"file:///backups\"\n[keys]\n\
             recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
             single_recipient_waiver = \"a test\"\n[sources.app]\nkind = \"postgres\"\n\
             connection = \"postgresql:///app\"\nretention = {{ daily = 1 }}\n{lines}"
        );
        let policy = Policy::parse(&text, "pgproof.toml").unwrap();
        shortfalls(&policy, "2026-11-24T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_nightly_dump_cannot_give_an_hour() {
        let found = of("schedule = \"0 2 * * *\"\nobjectives = { recovery_point = \"1h\" }");
        assert!(
            matches!(&found[..], [Shortfall::ScheduleTooSparse { longest_gap, .. }] if *longest_gap >= SignedDuration::from_hours(24))
        );
    }

    #[test]
    fn an_hourly_one_can_and_no_objective_asks_nothing() {
        assert_eq!(of("schedule = \"0 * * * *\"\nobjectives = { recovery_point = \"1h\" }"), []);
        assert_eq!(of("schedule = \"0 2 * * *\""), []);
        assert!(matches!(of("objectives = { recovery_point = \"1h\" }")[..], [Shortfall::NoSchedule { .. }]));
    }

    #[test]
    fn a_month_of_days_needs_more_than_a_drill_a_month() {
        let verified = |rest: &str| {
            of(&format!(
                "schedule = \"0 2 * * *\"\n[sources.app.verification]\nschedule = \"0 4 * * 0\"\n{rest}"
            ))
        };
        assert_eq!(verified(""), []);
        let many = "older_per_run_max = 1\nwindow = \"14d\"";
        let text = |retention: &str| {
            format!(
                "[repository]\nlocation = \"file:///backups\"\n[keys]\n\
                 recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
                 single_recipient_waiver = \"a test\"\n[sources.app]\nkind = \"postgres\"\n\
                 connection = \"postgresql:///app\"\nschedule = \"0 2 * * *\"\nretention = {retention}\n\
                 [sources.app.verification]\nschedule = \"0 4 * * 0\"\n{many}"
            )
        };
        let told = |retention: &str| {
            let policy = Policy::parse(&text(retention), "pgproof.toml").unwrap();
            shortfalls(&policy, "2026-11-24T00:00:00Z".parse().unwrap())
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(told("{ daily = 3 }"), none);
        let too_many: Vec<String> = told("{ daily = 30, monthly = 12 }");
        assert!(too_many[0].contains("up to 42 backups are kept, and 2 run(s)"), "{too_many:?}");
        assert!(told("{ within = \"10d\" }")[0].contains("up to 10 backups"));
        assert!(told("{ keep_all = true }")[0].contains("every backup is kept"));
        // A window without a run proves nothing.
        let yearly = "schedule = \"0 2 * * *\"\n[sources.app.verification]\nschedule = \"0 4 1 6 *\"\nwindow = \"14d\"";
        let found = of(yearly);
        let [Shortfall::VerificationTooSparse { kept: Some(1), provable: 0, runs: 0, .. }] = found[..] else {
            panic!("{found:?}")
        };
    }

    #[test]
    fn the_recovery_point_is_the_longest_gap_with_that_to_now() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (since, now) = (at("2026-11-01T00:00:00Z"), at("2026-11-10T12:00:00Z"));
        let found = |snapshots: &[&str]| recovery_point(snapshots.iter().map(|text| at(text)), since, now);
        assert_eq!(found(&[]), None);
        let nightly = ["2026-11-09T02:00:00Z", "2026-11-08T02:00:00Z", "2026-11-10T02:00:00Z"];
        let best = found(&nightly).unwrap();
        assert_eq!(best.achieved, SignedDuration::from_hours(24));
        assert_eq!(best.newest_age, SignedDuration::from_hours(10));
        // One night without, and a silence that goes on.
        let missed =
            found(&["2026-11-07T02:00:00Z", "2026-11-09T02:00:00Z", "2026-11-10T02:00:00Z"]).unwrap();
        assert_eq!(
            (missed.achieved, missed.worst_gap_from),
            (SignedDuration::from_hours(48), at("2026-11-07T02:00:00Z"))
        );
        let silent = found(&["2026-11-04T12:00:00Z", "2026-11-03T12:00:00Z"]).unwrap();
        assert_eq!(
            (silent.achieved, silent.newest_age),
            (SignedDuration::from_hours(144), SignedDuration::from_hours(144))
        );
        // A gap that began before the window counts from its start, or whole when it goes on.
        let older = found(&["2026-08-01T00:00:00Z", "2026-11-10T00:00:00Z"]).unwrap();
        assert_eq!((older.achieved, older.worst_gap_from), (SignedDuration::from_hours(216), since));
        let forgotten = found(&["2026-08-01T12:00:00Z"]).unwrap();
        assert_eq!(
            (forgotten.achieved, forgotten.worst_gap_from),
            (forgotten.newest_age, at("2026-08-01T12:00:00Z"))
        );
    }
}
