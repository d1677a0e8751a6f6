//! When something is due.

use std::{fmt, str::FromStr};

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// Occurrences looked at to find the longest gap: a year of an hourly schedule, in a few milliseconds.
const GAP_OCCURRENCES_MAX: usize = 9_000;
const A_DAY: SignedDuration = SignedDuration::from_hours(24);
/// Span looked at to find a gap: it holds a leap day and every month.
const GAP_SPAN: SignedDuration = SignedDuration::from_hours(4 * 366 * 24);
/// The shortest gap is looked for from the first midnight after this on; every year has the same months and weekdays.
const BEFORE_SOME_NEW_YEAR: Timestamp = Timestamp::constant(1_767_225_599, 0);

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
    /// A year of an hourly schedule is looked at, or four years of a rarer one.
    pub fn longest_gap(&self, zone: &TimeZone, from: Timestamp) -> Option<SignedDuration> {
        self.gaps(SignedDuration::ZERO, zone, from).take(GAP_OCCURRENCES_MAX).max()
    }

    /// The shortest time between two runs, while no clock is changed.
    pub fn shortest_gap(&self) -> Option<SignedDuration> {
        let times = self.times_of_day();
        let from_first_to_last = *times.last()? - *times.first()?;
        let shortest_night = A_DAY - from_first_to_last;
        let mut shortest = times.windows(2).map(|pair| pair[1] - pair[0]).min();
        if shortest.is_some_and(|shortest| shortest <= shortest_night) {
            return shortest;
        }
        // Every day that it comes true on has the same times: only the nights between them differ.
        for night in self.gaps(from_first_to_last, &TimeZone::UTC, BEFORE_SOME_NEW_YEAR) {
            shortest = Some(shortest.map_or(night, |shortest| shortest.min(night)));
            if night == shortest_night {
                break;
            }
        }
        shortest
    }

    /// When it comes true on a day that it comes true on, from midnight.
    fn times_of_day(&self) -> Vec<SignedDuration> {
        let minutes = self.cron.pattern.minutes.values();
        let of_hour = |hour: u16| {
            minutes
                .iter()
                .map(move |minute| SignedDuration::from_mins(i64::from(hour) * 60 + i64::from(*minute)))
        };
        self.cron.pattern.hours.values().into_iter().flat_map(of_hour).collect()
    }

    /// How long it is from `length` after a time to the next one, again and again.
    fn gaps(
        &self,
        length: SignedDuration,
        zone: &TimeZone,
        from: Timestamp,
    ) -> impl Iterator<Item = SignedDuration> {
        let until = from.checked_add(GAP_SPAN).unwrap_or(Timestamp::MAX);
        let gap = move |start: Timestamp| {
            let end = start.checked_add(length).ok()?;
            Some((end, self.next_after(end, zone)?))
        };
        std::iter::successors(self.next_after(from, zone).and_then(gap), move |(_, next)| gap(*next))
            .take_while(move |(end, _)| *end <= until)
            .map(|(end, next)| next.duration_since(end))
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
