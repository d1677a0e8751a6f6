//! When something is due.

use std::{fmt, str::FromStr};

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// Occurrences looked at to find the longest gap: a year of an hourly schedule, in a few milliseconds.
const GAP_OCCURRENCES_MAX: usize = 9_000;
/// Span looked at to find the longest gap: it holds a leap day and every month.
const GAP_YEARS: i64 = 4;

/// Occurrences that are counted: more backups than this are kept nowhere.
const COUNTED_MAX: usize = 100_000;

/// Five cron fields that come true at least once.
///
/// They are read in a time zone. In the night the clocks go forward a skipped time moves behind the gap; when
/// they go back, a fixed time comes once.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    #[error("{given:?} is not a schedule of five cron fields: {why}")]
    Malformed { given: String, why: String },
    #[error("the schedule {given:?} never comes true")]
    Never { given: String },
}

impl Schedule {
    /// The first time strictly after `after`.
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let after = after.to_zoned(zone.clone());
        self.cron.find_next_occurrence(&after, false).ok().map(|next| next.timestamp())
    }

    /// The last time at or before `now`; `None` where it never came true before.
    pub fn at_or_before(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let now = now.to_zoned(zone.clone());
        self.cron.find_previous_occurrence(&now, true).ok().map(|last| last.timestamp())
    }

    /// How often it comes true within `span` from `from` on.
    pub fn count_within(&self, from: Timestamp, span: SignedDuration, zone: &TimeZone) -> usize {
        let until = from.checked_add(span).unwrap_or(Timestamp::MAX);
        let times = std::iter::successors(self.next_after(from, zone), |last| self.next_after(*last, zone));
        times.take_while(|at| *at <= until).take(COUNTED_MAX).count()
    }

    /// The longest time between two runs from `from` on: no recovery point shorter than this can be promised.
    pub fn longest_gap(&self, zone: &TimeZone, from: Timestamp) -> Option<SignedDuration> {
        self.gaps(zone, from).max()
    }

    /// The times between runs from `from` on, for a year of an hourly schedule or four years of a rarer one.
    pub fn gaps(&self, zone: &TimeZone, from: Timestamp) -> impl Iterator<Item = SignedDuration> {
        let until =
            from.checked_add(SignedDuration::from_hours(GAP_YEARS * 366 * 24)).unwrap_or(Timestamp::MAX);
        let first = self.next_after(from, zone);
        let starts = std::iter::successors(first, |last| self.next_after(*last, zone));
        let gap = |previous| Some(self.next_after(previous, zone)?.duration_since(previous));
        starts.take_while(move |start| *start <= until).take(GAP_OCCURRENCES_MAX).filter_map(gap)
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let given = text.trim();
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser
            .parse(given)
            .map_err(|error| ScheduleError::Malformed { given: given.to_owned(), why: error.to_string() })?;
        let schedule = Self { text: given.to_owned(), cron };
        match schedule.next_after(Timestamp::UNIX_EPOCH, &TimeZone::UTC) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never { given: schedule.text }),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
