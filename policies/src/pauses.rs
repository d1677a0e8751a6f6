//! Times of the week in which no backup is begun.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{DateTime, Weekday};
use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};

const MINUTES_PER_DAY: u32 = 24 * 60;
const DAYS_PER_WEEK: u32 = 7;
const MINUTES_PER_WEEK: u32 = DAYS_PER_WEEK * MINUTES_PER_DAY;

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// The pauses of a source, in the policy's zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(Vec<Pause>);

/// One span of the day on some days of the week. One that ends before it starts goes on into the next day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    pub days: Days,
    pub from: TimeOfDay,
    pub to: TimeOfDay,
    pub reason: Option<String>,
}

/// Days of the week: `mon-fri`, `sat,sun`, `fri-mon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days([bool; DAYS_PER_WEEK as usize]);

/// A minute of the day as a clock shows it, `00:00` to `24:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pauses leave no time of the week for a backup")]
pub struct NoTimeLeft;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    #[error("days are named mon, tue, wed, thu, fri, sat and sun")]
    Days,
    #[error("a time of day is HH:MM, 00:00 to 24:00")]
    Time,
}

impl Pauses {
    /// # Errors
    /// When no minute of the week is left.
    pub fn new(pauses: Vec<Pause>) -> Result<Self, NoTimeLeft> {
        let is_free = |minute| !pauses.iter().any(|pause| pause.holds(minute));
        if (0..MINUTES_PER_WEEK).any(is_free) { Ok(Self(pauses)) } else { Err(NoTimeLeft) }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pause that is on.
    pub fn at(&self, at: Timestamp, zone: &TimeZone) -> Option<&Pause> {
        let minute = minute_of_week(&at.to_zoned(zone.clone()));
        self.0.iter().find(|pause| pause.holds(minute))
    }

    /// The first time from `at` on without a pause.
    pub fn over_at(&self, at: Timestamp, zone: &TimeZone) -> Timestamp {
        let mut free = at;
        // Each step leads to the end of a pause, or a minute on in the hour that a clock shows twice.
        for _ in 0..MINUTES_PER_WEEK {
            let Some(pause) = self.at(free, zone) else { break };
            free = pause.end_after(free, zone);
        }
        free
    }
}

impl Pause {
    fn holds(&self, minute_of_week: u32) -> bool {
        let (day, minute) = (minute_of_week / MINUTES_PER_DAY, minute_of_week % MINUTES_PER_DAY);
        let before = (day + DAYS_PER_WEEK - 1) % DAYS_PER_WEEK;
        let holds_on = |day: u32| self.days.0[day as usize];
        match self.is_overnight() {
            false => holds_on(day) && (self.from.0..self.to.0).contains(&minute),
            true => (holds_on(day) && minute >= self.from.0) || (holds_on(before) && minute < self.to.0),
        }
    }

    fn is_overnight(&self) -> bool {
        self.to.0 <= self.from.0
    }

    /// The end of the pause that is on at `at`.
    fn end_after(&self, at: Timestamp, zone: &TimeZone) -> Timestamp {
        let local = at.to_zoned(zone.clone());
        let is_next_day = self.is_overnight() && minute_of_day(&local) >= self.from.0;
        let midnight = local.date().to_datetime(jiff::civil::Time::midnight());
        let minutes = self.to.0 + if is_next_day { MINUTES_PER_DAY } else { 0 };
        let end = midnight.checked_add(SignedDuration::from_mins(minutes.into())).unwrap_or(DateTime::MAX);
        let a_minute_on = at.checked_add(SignedDuration::from_mins(1)).unwrap_or(Timestamp::MAX);
        end.to_zoned(zone.clone()).map_or(a_minute_on, |end| end.timestamp().max(a_minute_on))
    }
}

impl Days {
    pub const ALL: Self = Self([true; DAYS_PER_WEEK as usize]);
}

impl FromStr for Days {
    type Err = PauseError;

    fn from_str(text: &str) -> Result<Self, PauseError> {
        let mut days = [false; DAYS_PER_WEEK as usize];
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (mut day, last) = (day_of_week(first)?, day_of_week(last)?);
            days[day] = true;
            while day != last {
                day = (day + 1) % days.len();
                days[day] = true;
            }
        }
        Ok(Self(days))
    }
}

impl FromStr for TimeOfDay {
    type Err = PauseError;

    fn from_str(text: &str) -> Result<Self, PauseError> {
        let number = |digits: &str| {
            let is_pair = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
            if is_pair { digits.parse::<u32>().ok() } else { None }
        };
        let (hours, minutes) = text.trim().split_once(':').ok_or(PauseError::Time)?;
        let (hours, minutes) = number(hours).zip(number(minutes)).ok_or(PauseError::Time)?;
        let time = hours * 60 + minutes;
        if minutes < 60 && time <= MINUTES_PER_DAY { Ok(Self(time)) } else { Err(PauseError::Time) }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ", {reason}"))
    }
}

fn day_of_week(name: &str) -> Result<usize, PauseError> {
    let name = name.trim();
    WEEKDAYS.iter().position(|(known, _)| known.eq_ignore_ascii_case(name)).ok_or(PauseError::Days)
}

fn minute_of_week(local: &Zoned) -> u32 {
    let day = WEEKDAYS.iter().position(|(_, weekday)| *weekday == local.weekday()).unwrap_or_default();
    day as u32 * MINUTES_PER_DAY + minute_of_day(local)
}

fn minute_of_day(local: &Zoned) -> u32 {
    u32::from(local.hour().unsigned_abs()) * 60 + u32::from(local.minute().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(days: &str, from: &str, to: &str) -> Pause {
        Pause {
            days: days.parse().unwrap(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            reason: None,
        }
    }

    /// When pauses are over that are on at `at`, in Berlin.
    fn over(pauses: &[Pause], at: &str) -> String {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        Pauses::new(pauses.to_vec()).unwrap().over_at(at.parse().unwrap(), &zone).to_string()
    }

    #[test]
    fn a_pause_is_over_at_its_end_by_the_clock_on_the_wall() {
        let office = [pause("mon-fri", "08:00", "18:00")];
        assert_eq!(over(&office, "2026-11-24T07:00:00Z"), "2026-11-24T17:00:00Z");
        assert_eq!(over(&office, "2026-07-14T07:00:00Z"), "2026-07-14T16:00:00Z");
        // Before, at the end, and on a Sunday there is none.
        for free in ["2026-11-24T06:59:59Z", "2026-11-24T17:00:00Z", "2026-11-22T10:00:00Z"] {
            assert_eq!(over(&office, free), free);
        }
    }

    #[test]
    fn a_pause_over_midnight_belongs_to_the_day_on_which_it_starts() {
        let night = [pause("fri", "22:00", "06:00")];
        assert_eq!(over(&night, "2026-11-27T22:30:00Z"), "2026-11-28T05:00:00Z");
        assert_eq!(over(&night, "2026-11-27T01:00:00Z"), "2026-11-27T01:00:00Z");
        assert_eq!(over(&night, "2026-11-28T01:00:00Z"), "2026-11-28T05:00:00Z");
    }

    #[test]
    fn pauses_that_follow_one_another_are_one() {
        let both = [pause("mon-sun", "08:00", "24:00"), pause("sat,sun", "00:00", "08:00")];
        assert_eq!(over(&both, "2026-11-27T20:00:00Z"), "2026-11-29T23:00:00Z");
        assert_eq!(
            over(&[pause("sat-mon", "00:00", "24:00")], "2026-11-28T12:00:00Z"),
            "2026-11-30T23:00:00Z"
        );
    }

    #[test]
    fn a_pause_in_the_hour_that_comes_twice_comes_twice() {
        let pauses = [pause("sun", "02:00", "02:30")];
        assert_eq!(over(&pauses, "2026-10-25T00:10:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(over(&pauses, "2026-10-25T01:10:00Z"), "2026-10-25T01:30:00Z");
    }

    #[test]
    fn what_leaves_no_time_is_refused() {
        assert_eq!(Pauses::new(vec![pause("mon-sun", "00:00", "24:00")]), Err(NoTimeLeft));
        let halves = vec![pause("mon-sun", "08:00", "20:00"), pause("mon-sun", "20:00", "08:00")];
        assert_eq!(Pauses::new(halves), Err(NoTimeLeft));
        assert!(!Pauses::new(vec![pause("mon-sun", "00:00", "23:59")]).unwrap().is_empty());
        assert!(Pauses::default().is_empty());
    }

    #[test]
    fn days_and_times_are_read_strictly() {
        assert_eq!("mon,tue,wed,thu,fri,sat,sun".parse::<Days>(), Ok(Days::ALL));
        assert_eq!("Sat - Mon".parse::<Days>(), "mon,sat,sun".parse());
        for bad in ["", "monday", "mon-", "1-5"] {
            assert_eq!(bad.parse::<Days>(), Err(PauseError::Days), "{bad:?}");
        }
        for bad in ["", "8:00", "24:01", "12:60", "12", "-1:00", "12:00:00"] {
            assert_eq!(bad.parse::<TimeOfDay>(), Err(PauseError::Time), "{bad:?}");
        }
    }
}
