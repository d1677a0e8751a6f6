//! Which backups are drilled next, and why.
//!
//! 1. A run of the schedule drills the newest backup, and older ones so that each kept backup is proved once within the
//!    window. However many runs were missed, one makes up for them.
//! 2. A proof holds for a window. A backup that was never proved has a window's time from its snapshot on, or from the first drill
//!    of its source: the older backups of a source that is new to the verifier are spread over its first window.
//! 3. As many older ones are taken as levels the work out over the runs that are left before each proof falls due;
//!    a proof is renewed in the second half of its window. Those come first that no later run could still take in time; then
//!    those never proved, in random order; then those proved longest ago.
//! 4. A backup that was found bad is not taken again: only somebody who asks for it has it drilled.
//! 5. What a run has come to a verdict on is done. A drill that came to none is tried again, ever later, after the others.

mod demand;
mod past;
mod rhythm;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use demand::Demand;
use past::Past;
pub use rhythm::Rhythm;

use crate::cadence::{Run, later, randomness_of};
use crate::turns::Backoff;

/// After drills that came to no verdict, and so for whatever else the machine or the store prevented. An outage of a night
/// is over by the morning.
pub const RETRIES: Backoff =
    Backoff { first: SignedDuration::from_mins(1), longest: SignedDuration::from_hours(6) };

/// How often to look for the first backup of a source.
const FIRST_BACKUP_WATCH: SignedDuration = SignedDuration::from_mins(15);

/// One good backup that is kept, and what drills found of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub id: String,
    pub snapshot_at: Timestamp,
    pub proved_at: Option<Timestamp>,
    pub failed_at: Option<Timestamp>,
}

/// One drill of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    pub backup: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub trigger: Trigger,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Manual,
    /// By a run, as its newest backup.
    ScheduledNewest,
    /// By a run, as one of the older ones.
    ScheduledOlder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    /// It could not be run, so nothing is known of the backup.
    Open,
}

/// What is due in the run that is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub run: Run,
    /// In the order in which they are drilled. Empty when the run is done.
    pub picks: Vec<Pick>,
    /// A drill of this run came to no verdict: nothing is tried before this time.
    pub retry_at: Option<Timestamp>,
    /// The run has not drilled yet and there is no backup for it: one may come at any time.
    pub awaits_backup: bool,
    pub coverage: Coverage,
    pub shortfall: Option<Shortfall>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    pub id: String,
    pub snapshot_at: Timestamp,
    pub reason: Reason,
}

/// Why a backup is drilled. `Display` is what the plan prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Newest,
    NeverProved,
    LastProved(Timestamp),
    /// Later runs could not take it in time.
    DueBy {
        deadline: Timestamp,
        proved_at: Option<Timestamp>,
    },
}

/// How many of the kept backups are proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    pub window: SignedDuration,
    pub kept: usize,
    pub proved: usize,
}

/// More backups need a proof than the runs may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Backups that need a proof by `deadline`.
    pub needed: usize,
    /// Runs up to then, the one that is on included.
    pub runs: usize,
    pub deadline: Timestamp,
    pub older_per_run_max: u32,
    /// What it would have to be.
    pub older_per_run_needed: usize,
}

/// Decides for **one source** what its schedule asks for at `now`.
///
/// `backups` are its good and kept ones, `drills` all of its past, both in any order. The same `randomness` gives the same plan.
pub fn plan(
    backups: &[Backup],
    drills: &[Drill],
    rhythm: &Rhythm,
    zone: &TimeZone,
    now: Timestamp,
    randomness: u64,
) -> Plan {
    let run = rhythm.cadence.run_at(zone, now, randomness);
    let past = Past::of(drills, run, now);
    let newest = newest(backups);
    let mut candidates = past.candidates(backups, newest, rhythm.window, randomness);
    let runs = rhythm.later_runs(zone, now, candidates.len());
    let demand = Demand::of(&mut candidates, &runs, rhythm.older_per_run_max);
    let mut picks: Vec<Pick> = newest
        .filter(|_| !past.is_newest_done())
        .map(|backup| Pick::of(backup, Reason::Newest))
        .into_iter()
        .chain(demand.order(&candidates))
        .filter(|pick| pick.reason == Reason::Newest || !past.is_settled(&pick.id))
        .collect();
    // The sort keeps the order of those that were tried equally often.
    picks.sort_by_key(|pick| past.attempts(&pick.id));
    let mut places = demand.quota.saturating_sub(past.older_done());
    picks.retain(|pick| {
        pick.reason == Reason::Newest || places.checked_sub(1).inspect(|&left| places = left).is_some()
    });
    Plan {
        run,
        picks,
        retry_at: past.retry_at().filter(|&at| at > now),
        awaits_backup: newest.is_none() && !past.is_newest_done(),
        coverage: Coverage::of(backups, rhythm.window, now),
        shortfall: demand.shortfall,
    }
}

/// The order in which somebody who asks for an unproved backup gets one: never proved before proved longest ago, at random among
/// equals, and one that was found bad last of all.
pub fn least_proved(backups: &[Backup], randomness: u64) -> Option<&Backup> {
    let rank =
        |backup: &&Backup| (backup.is_refuted(), backup.proved_at, randomness_of((randomness, &backup.id)));
    backups.iter().min_by_key(rank)
}

impl Plan {
    /// What is to be drilled now.
    pub fn due(&self) -> &[Pick] {
        if self.retry_at.is_some() { &[] } else { &self.picks }
    }

    /// When to look again, once nothing is due at `now`.
    pub fn wake_at(&self, now: Timestamp) -> Timestamp {
        let retry_at = self.retry_at.filter(|_| !self.picks.is_empty());
        let for_a_backup = self.awaits_backup.then(|| later(now, FIRST_BACKUP_WATCH));
        [retry_at, for_a_backup].into_iter().flatten().fold(self.run.next_at, Timestamp::min)
    }
}

impl Backup {
    /// Whether the last drill that came to a verdict found it good.
    pub fn is_proved(&self) -> bool {
        self.proved_at.is_some() && self.proved_at > self.failed_at
    }

    /// Whether the last drill that came to a verdict found it bad.
    pub fn is_refuted(&self) -> bool {
        self.failed_at.is_some() && self.failed_at >= self.proved_at
    }
}

impl Coverage {
    pub fn of(backups: &[Backup], window: SignedDuration, now: Timestamp) -> Self {
        let holds = |backup: &&Backup| {
            backup.is_proved() && backup.proved_at.is_some_and(|at| later(at, window) > now)
        };
        Self { window, kept: backups.len(), proved: backups.iter().filter(holds).count() }
    }

    pub fn window_days(&self) -> u64 {
        u64::try_from(self.window.as_hours() / 24).unwrap_or(0)
    }
}

/// The newest backup that was not found bad.
fn newest(backups: &[Backup]) -> Option<&Backup> {
    backups.iter().filter(|backup| !backup.is_refuted()).max_by_key(|backup| (backup.snapshot_at, &backup.id))
}

impl Pick {
    fn of(backup: &Backup, reason: Reason) -> Self {
        Self { id: backup.id.clone(), snapshot_at: backup.snapshot_at, reason }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("the newest"),
            Self::NeverProved => f.write_str("never proved"),
            Self::LastProved(at) => write!(f, "last proved {}", day(*at)),
            Self::DueBy { deadline, proved_at: None } => write!(f, "never proved, due by {}", day(*deadline)),
            Self::DueBy { deadline, proved_at: Some(at) } => {
                write!(f, "last proved {}, due by {}", day(*at), day(*deadline))
            }
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} kept backups proved in {} days", self.proved, self.kept, self.window_days())
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, runs, deadline, older_per_run_max, older_per_run_needed } = self;
        write!(
            f,
            "{needed} older backups need a proof by {}, and {runs} run(s) of at most {older_per_run_max} are left: \
             it takes older_per_run_max = {older_per_run_needed}, or a denser schedule",
            day(*deadline)
        )
    }
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}
