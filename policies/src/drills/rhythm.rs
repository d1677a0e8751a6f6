//! When runs of drills begin.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::policy::Verification;
use crate::schedule::{Schedule, ScheduleError};

/// How often a source is drilled, and how much of it.
#[derive(Clone, Debug)]
pub struct Rhythm {
    pub schedule: Schedule,
    /// A run begins up to so much after its time.
    pub jitter: SignedDuration,
    /// Within this span every kept backup is proved once.
    pub window: SignedDuration,
    /// Backups that one run drills beside the newest, at most.
    pub older_per_run_max: u32,
}

/// The run that is on at some time: from its beginning to that of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub begins_at: Timestamp,
    pub next_at: Timestamp,
}

impl Rhythm {
    /// # Errors
    /// When the section did not come from a policy that was checked.
    pub fn of(verification: &Verification) -> Result<Self, ScheduleError> {
        Ok(Self {
            schedule: verification.schedule.parse()?,
            jitter: verification.jitter,
            window: verification.window,
            older_per_run_max: verification.older_per_run_max,
        })
    }

    /// The run that is on at `now`. `randomness` moves each beginning within the jitter, for every verifier alike.
    pub fn run_at(&self, zone: &TimeZone, now: Timestamp, randomness: u64) -> Run {
        let begin = |occurrence| later(occurrence, self.delay(occurrence, randomness));
        let previous = |at: Timestamp| self.schedule.at_or_before(at, zone);
        let (mut at, mut next_at) = (now, None);
        while let Some(occurrence) = previous(at) {
            if begin(occurrence) <= now {
                let next_at = next_at.or_else(|| self.schedule.next_after(now, zone).map(begin));
                return Run { begins_at: begin(occurrence), next_at: next_at.unwrap_or(Timestamp::MAX) };
            }
            next_at = Some(begin(occurrence));
            at = occurrence.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MIN);
        }
        let next_at = next_at.or_else(|| self.schedule.next_after(now, zone).map(begin));
        Run { begins_at: Timestamp::MIN, next_at: next_at.unwrap_or(Timestamp::MAX) }
    }

    /// When later runs have begun for certain, soonest first, at most so many.
    pub(super) fn later_runs(&self, zone: &TimeZone, now: Timestamp, count: usize) -> Vec<Timestamp> {
        let first = self.schedule.next_after(now, zone);
        let runs = std::iter::successors(first, |run| self.schedule.next_after(*run, zone));
        runs.take(count).map(|run| later(run, self.jitter)).collect()
    }

    fn delay(&self, occurrence: Timestamp, randomness: u64) -> SignedDuration {
        let Ok(seconds) = u64::try_from(self.jitter.as_secs()) else { return SignedDuration::ZERO };
        let delay = randomness_of((randomness, occurrence.as_second())).checked_rem(seconds + 1);
        SignedDuration::from_secs(delay.and_then(|delay| i64::try_from(delay).ok()).unwrap_or(0))
    }
}

/// A number that looks random and is the same for the same things: in every process, so that two verifiers
/// agree without talking.
pub fn randomness_of(things: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    things.hash(&mut hasher);
    hasher.finish()
}

/// Past the end of time is its end.
pub(super) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
