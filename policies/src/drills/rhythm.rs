//! How often a source is drilled.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::cadence::{Cadence, later};
use crate::pauses::Pauses;
use crate::policy::Verification;
use crate::schedule::ScheduleError;

/// How often a source is drilled, and how much of it.
#[derive(Clone, Debug)]
pub struct Rhythm {
    pub cadence: Cadence,
    /// Within this span every kept backup is proved once.
    pub window: SignedDuration,
    /// Backups that one run drills beside the newest, at most.
    pub older_per_run_max: u32,
}

impl Rhythm {
    /// # Errors
    /// When the section did not come from a policy that was checked.
    pub fn of(verification: &Verification) -> Result<Self, ScheduleError> {
        let (schedule, jitter) = (verification.schedule.parse()?, verification.jitter);
        Ok(Self {
            cadence: Cadence { schedule, jitter, pauses: Pauses::default() },
            window: verification.window,
            older_per_run_max: verification.older_per_run_max,
        })
    }

    /// When later runs have begun for certain, soonest first, at most so many.
    pub(super) fn later_runs(&self, zone: &TimeZone, now: Timestamp, count: usize) -> Vec<Timestamp> {
        let Cadence { schedule, jitter, .. } = &self.cadence;
        let first = schedule.next_after(now, zone);
        let runs = std::iter::successors(first, |run| schedule.next_after(*run, zone));
        runs.take(count).map(|run| later(run, *jitter)).collect()
    }
}
