//! Whether a source is to be backed up now, why, and when to look again.
//!
//! 1. A run of the schedule makes one backup. However many runs were missed, one makes up for them; the reason says how many.
//! 2. What counts is what lies in the repository: a whole backup that was started in the run's span, by whoever.
//! 3. An attempt that failed is tried again, ever later; where somebody has to mend something, later still. A run that was never
//!    tried is tried however late; one that failed is given up at its deadline, and the next run begins as planned.
//! 4. Nothing is begun in a pause. A run that would begin in one begins when it is over.
//! 5. Clocks go wrong. What is dated further in the future than clocks usually differ counts for nothing and is told of, so that
//!    it cannot silence the schedule; each backup that this leads to is dated rightly and counts, so that there is no loop.

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::cadence::{Cadence, Run, later};
use crate::policy::{Source, Timing};
use crate::schedule::ScheduleError;
use crate::turns::Backoff;

/// After attempts that failed for what may be over by itself: a server that restarts is there again in seconds.
pub const RETRIES: Backoff =
    Backoff { first: SignedDuration::from_secs(10), longest: SignedDuration::from_hours(1) };
/// After attempts that failed for what somebody has to mend: the next try is there to find that somebody did.
pub const RETRIES_OF_STANDING: Backoff =
    Backoff { first: SignedDuration::from_mins(30), longest: SignedDuration::from_hours(6) };
/// How far clocks of hosts differ that are usually set right. A clock that is an hour wrong was set to another zone's time.
const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_mins(90);
/// A run that begins so much late is one that was missed: a daemon that is there begins within moments.
const LATE: SignedDuration = SignedDuration::from_mins(5);

/// How often a source is backed up.
#[derive(Clone, Debug)]
pub struct Rhythm {
    pub cadence: Cadence,
    /// How long after a run was first tried it may be tried again; without it until the next one begins.
    pub deadline: Option<SignedDuration>,
}

/// What the repository holds of a source, in any order. Older things than the newest whole backup and the run that is on
/// need not be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// When whole backups were started.
    pub backups: Vec<Timestamp>,
    /// Attempts that made none.
    pub failed: Vec<Attempt>,
}

/// An attempt that made no backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub cause: Cause,
}

/// What a failure calls for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It may be over by itself.
    #[default]
    Passing,
    /// Somebody has to mend the policy, a permission, a password.
    Standing,
    /// It was stopped by a signal, and failed at nothing.
    Stopped,
}

/// What to do at `now`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub run: Run,
    pub step: Step,
    pub warnings: Vec<Warning>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    BackUp(Reason),
    /// Nothing before this time, at which to plan again.
    Wait {
        until: Timestamp,
        why: Wait,
    },
}

/// Why a source is backed up. `Display` is what a person reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no backup of it.
    First,
    /// A run's time came.
    OnTime,
    /// The run is late, and so many before it made no backup.
    CatchUp { missed: usize },
    /// So many attempts of this run failed.
    Retry { failures: u32 },
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The run has its backup, which was started then.
    Done(Timestamp),
    /// So many attempts of this run failed.
    Failed { failures: u32, cause: Cause },
    /// The run failed so often, and its deadline is over.
    GivenUp { failures: u32 },
    /// A pause is on; its span and reason as a person reads them.
    Paused(String),
}

/// What somebody should know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A backup is dated in the future: some clock is, or was, wrong.
    BackupFromTheFuture { started_at: Timestamp, counts: bool },
    /// So is the record of an attempt.
    AttemptFromTheFuture { started_at: Timestamp, counts: bool },
}

/// Decides for **one source** what its schedule asks for at `now`. The same `randomness` gives the same plan.
pub fn plan(known: &Known, rhythm: &Rhythm, zone: &TimeZone, now: Timestamp, randomness: u64) -> Plan {
    let run = rhythm.cadence.run_at(zone, now, randomness);
    let seen = Seen { known, run, now };
    let step = match seen.backup_of_run() {
        Some(started_at) => Step::Wait { until: run.next_at, why: Wait::Done(started_at) },
        None => match rhythm.cadence.pauses.at(now, zone) {
            Some(pause) => {
                let until = rhythm.cadence.pauses.over_at(now, zone).min(run.next_at);
                Step::Wait { until, why: Wait::Paused(pause.to_string()) }
            }
            None => rhythm.step(&seen, zone),
        },
    };
    Plan { run, step, warnings: seen.warnings() }
}

impl Rhythm {
    /// `None` for a source without a schedule.
    ///
    /// # Errors
    /// When the source did not come from a policy that was checked.
    pub fn of(source: &Source) -> Result<Option<Self>, ScheduleError> {
        let Some(schedule) = &source.schedule else { return Ok(None) };
        let Timing { jitter, deadline, pauses } = source.timing.clone();
        Ok(Some(Self { cadence: Cadence { schedule: schedule.parse()?, jitter, pauses }, deadline }))
    }

    /// What a run without a backup asks for outside of pauses.
    fn step(&self, seen: &Seen<'_>, zone: &TimeZone) -> Step {
        let Some(Failures { number: failures, first_at, last }) = seen.failures() else {
            return Step::BackUp(self.first_reason(seen, zone));
        };
        let retries = if last.cause == Cause::Standing { RETRIES_OF_STANDING } else { RETRIES };
        let retry_at = later(last.ended_at, retries.after(failures));
        let given_up_at = self.deadline.map(|deadline| later(first_at, deadline));
        if given_up_at.is_some_and(|at| seen.now.max(retry_at) >= at) {
            return Step::Wait { until: seen.run.next_at, why: Wait::GivenUp { failures } };
        }
        match retry_at <= seen.now {
            true => Step::BackUp(Reason::Retry { failures }),
            false => {
                let why = Wait::Failed { failures, cause: last.cause };
                Step::Wait { until: retry_at.min(seen.run.next_at), why }
            }
        }
    }

    /// Why a run is begun that was not tried yet.
    fn first_reason(&self, seen: &Seen<'_>, zone: &TimeZone) -> Reason {
        let Some(last) = seen.last_backup() else { return Reason::First };
        let span = seen.run.begins_at.duration_since(last);
        // The occurrences after the last backup, without that of this run.
        let missed = self.cadence.schedule.count_within(last, span, zone).saturating_sub(1);
        let late_by = seen.now.duration_since(seen.run.begins_at);
        if missed > 0 || late_by > LATE { Reason::CatchUp { missed } } else { Reason::OnTime }
    }
}

impl Plan {
    /// When to plan again; `None` when there is something to do now.
    pub fn wake_at(&self) -> Option<Timestamp> {
        match &self.step {
            Step::BackUp(_) => None,
            Step::Wait { until, .. } => Some(*until),
        }
    }
}

/// What is known, as the run that is on sees it.
struct Seen<'a> {
    known: &'a Known,
    run: Run,
    now: Timestamp,
}

/// The attempts of the run that failed, of which there is one at least. One that was stopped failed at nothing.
struct Failures {
    number: u32,
    first_at: Timestamp,
    last: Attempt,
}

impl Seen<'_> {
    fn is_believed(&self, at: Timestamp) -> bool {
        at <= later(self.now, CLOCKS_DIFFER_MAX)
    }

    fn is_of_run(&self, started_at: Timestamp) -> bool {
        self.is_believed(started_at) && (self.run.begins_at..self.run.next_at).contains(&started_at)
    }

    fn backup_of_run(&self) -> Option<Timestamp> {
        self.known.backups.iter().copied().filter(|at| self.is_of_run(*at)).max()
    }

    /// The newest one of earlier runs.
    fn last_backup(&self) -> Option<Timestamp> {
        self.known.backups.iter().copied().filter(|at| *at < self.run.begins_at).max()
    }

    fn failures(&self) -> Option<Failures> {
        let counts = |attempt: &&Attempt| {
            attempt.cause != Cause::Stopped
                && self.is_of_run(attempt.started_at)
                && self.is_believed(attempt.ended_at)
        };
        let of_run = || self.known.failed.iter().filter(counts);
        Some(Failures {
            number: u32::try_from(of_run().count()).unwrap_or(u32::MAX),
            first_at: of_run().map(|attempt| attempt.started_at).min()?,
            last: *of_run().max_by_key(|attempt| attempt.ended_at)?,
        })
    }

    fn warnings(&self) -> Vec<Warning> {
        let is_future = |at: &Timestamp| *at > self.now;
        let counts = |at| self.is_of_run(at);
        let backups = self.known.backups.iter().copied().filter(is_future);
        let attempts = self.known.failed.iter().map(|attempt| attempt.started_at).filter(is_future);
        let backups =
            backups.map(|started_at| Warning::BackupFromTheFuture { started_at, counts: counts(started_at) });
        let attempts = attempts
            .map(|started_at| Warning::AttemptFromTheFuture { started_at, counts: counts(started_at) });
        backups.chain(attempts).collect()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("there is no backup yet"),
            Self::OnTime => f.write_str("its time came"),
            Self::CatchUp { missed: 0 } => f.write_str("late"),
            Self::CatchUp { missed } => write!(f, "makes up for {missed} run(s) without a backup"),
            Self::Retry { failures } => write!(f, "again after {failures} failed attempt(s)"),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(started_at) => write!(f, "backed up at {started_at}"),
            Self::Failed { failures, cause: Cause::Standing } => {
                write!(f, "{failures} attempt(s) failed, and somebody has to mend it")
            }
            Self::Failed { failures, .. } => write!(f, "{failures} attempt(s) failed"),
            Self::GivenUp { failures } => {
                write!(f, "given up after {failures} failed attempt(s): its deadline is over")
            }
            Self::Paused(pause) => write!(f, "paused from {pause}"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, started_at, counts) = match self {
            Self::BackupFromTheFuture { started_at, counts } => ("a backup", started_at, counts),
            Self::AttemptFromTheFuture { started_at, counts } => ("a failed attempt", started_at, counts),
        };
        let counts = if *counts { "it counts for the run that is on" } else { "it counts for nothing" };
        write!(f, "{what} is dated {started_at}, which is in the future: {counts}; look at the clocks")
    }
}
