//! The days that a period report covers. Days are those of UTC, as all times in reports.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// From the first day's start to the last day's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Days {
    pub first: Date,
    pub last: Date,
}

/// Days that cannot be counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DaysError {
    #[error("{given:?} is not a {what}")]
    Form { given: String, what: &'static str },
    #[error("{last} is before {first}")]
    Reversed { first: Date, last: Date },
}

impl Days {
    pub(crate) fn new(first: Date, last: Date) -> Result<Self, DaysError> {
        if last < first { Err(DaysError::Reversed { first, last }) } else { Ok(Self { first, last }) }
    }

    /// `2026-11`
    pub(crate) fn month(text: &str) -> Result<Self, DaysError> {
        let bad = || DaysError::Form { given: text.to_owned(), what: "month such as 2026-11" };
        let first: Date = format!("{text}-01").parse().map_err(|_| bad())?;
        let well_formed = text.len() == "2026-11".len();
        well_formed.then(|| Self { first, last: first.last_of_month() }).ok_or_else(bad)
    }

    /// `2026-Q4`
    pub(crate) fn quarter(text: &str) -> Result<Self, DaysError> {
        let bad = || DaysError::Form { given: text.to_owned(), what: "quarter such as 2026-Q4" };
        let (year, quarter) = text.split_once("-Q").ok_or_else(bad)?;
        let year: i16 = year.parse().ok().filter(|year| (1..=9998).contains(year)).ok_or_else(bad)?;
        let quarter: i8 = quarter.parse().ok().filter(|quarter| (1..=4).contains(quarter)).ok_or_else(bad)?;
        let first = Date::new(year, quarter * 3 - 2, 1).map_err(|_| bad())?;
        let last = Date::new(year, quarter * 3, 1).map_err(|_| bad())?.last_of_month();
        Ok(Self { first, last })
    }

    /// The first instant.
    pub(crate) fn start(self) -> Timestamp {
        midnight(self.first)
    }

    /// The first instant that no longer belongs to it.
    pub(crate) fn end(self) -> Timestamp {
        self.last.checked_add(1.day()).map_or(Timestamp::MAX, midnight)
    }

    pub(crate) fn contains(self, at: Timestamp) -> bool {
        self.start() <= at && at < self.end()
    }
}

fn midnight(day: Date) -> Timestamp {
    day.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn months_and_quarters_end_on_their_last_day() {
        for (month, first, last) in [
            ("2026-11", "2026-11-01", "2026-11-30"),
            ("2028-02", "2028-02-01", "2028-02-29"),
            ("2026-12", "2026-12-01", "2026-12-31"),
        ] {
            assert_eq!(Days::month(month), Ok(Days { first: day(first), last: day(last) }));
        }
        assert_eq!(Days::quarter("2026-Q4"), Ok(Days { first: day("2026-10-01"), last: day("2026-12-31") }));
        assert_eq!(Days::quarter("2026-Q1").unwrap().last, day("2026-03-31"));
    }

    #[test]
    fn the_last_day_belongs_to_the_span_and_the_next_does_not() {
        let days = Days::month("2026-11").unwrap();
        for (at, inside) in [
            ("2026-10-31T23:59:59.999Z", false),
            ("2026-11-01T00:00:00Z", true),
            ("2026-11-30T23:59:59.999Z", true),
            ("2026-12-01T00:00:00Z", false),
        ] {
            assert_eq!(days.contains(at.parse().unwrap()), inside, "{at}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for bad in ["", "2026", "2026-13", "2026-1", "2026-11-01", "november", "2026-00"] {
            assert!(Days::month(bad).is_err(), "{bad}");
        }
        for bad in ["", "2026-Q5", "2026-Q0", "Q4", "2026Q4", "-Q1", "99999-Q1", "9999-Q4"] {
            assert!(Days::quarter(bad).is_err(), "{bad}");
        }
        assert!(Days::new(day("2026-11-02"), day("2026-11-01")).is_err());
        assert!(Days::new(day("2026-11-01"), day("2026-11-01")).is_ok());
    }
}
