//! When runs begin: a schedule's times, moved by jitter and out of pauses.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::pauses::Pauses;
use crate::schedule::Schedule;

/// How often something is done.
#[derive(Clone, Debug)]
pub struct Cadence {
    pub schedule: Schedule,
    /// A run begins up to so much after its time.
    pub jitter: SignedDuration,
    /// A run that would begin in one of these begins when it is over.
    pub pauses: Pauses,
}

/// The run that is on at some time: from its beginning to that of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub begins_at: Timestamp,
    pub next_at: Timestamp,
}

impl Cadence {
    /// The run that is on at `now`. `randomness` moves each beginning within the jitter, for every process alike.
    pub fn run_at(&self, zone: &TimeZone, now: Timestamp, randomness: u64) -> Run {
        let begin = |occurrence| self.begin(occurrence, zone, randomness);
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

    pub(crate) fn begin(&self, occurrence: Timestamp, zone: &TimeZone, randomness: u64) -> Timestamp {
        self.pauses.over_at(later(occurrence, self.delay(occurrence, randomness)), zone)
    }

    fn delay(&self, occurrence: Timestamp, randomness: u64) -> SignedDuration {
        let Ok(seconds) = u64::try_from(self.jitter.as_secs()) else { return SignedDuration::ZERO };
        let delay = randomness_of((randomness, occurrence.as_second())).checked_rem(seconds + 1);
        SignedDuration::from_secs(delay.and_then(|delay| i64::try_from(delay).ok()).unwrap_or(0))
    }
}

/// A number that looks random and is the same for the same things: in every process, so that two of them
/// agree without talking.
pub fn randomness_of(things: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    things.hash(&mut hasher);
    hasher.finish()
}

/// Past the end of time is its end.
pub(crate) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
