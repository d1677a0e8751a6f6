//! The kinds of calendar periods, and for how long the slot of one is sure to be kept.

use std::fmt;

use jiff::civil::Date;
use jiff::{SignedDuration, Span, Timestamp, ToSpan, Zoned, tz::TimeZone};

use super::{Reason, Retention};

/// A kind of period, the finest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Class {
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// As the policy writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// The period that a moment lies in.
    pub(super) fn period(self, local: &Zoned) -> String {
        match self {
            // With the offset, so that the two hours of the night the clocks go back are two periods.
            Self::Hourly => local.strftime("%Y-%m-%dT%H%:z"),
            Self::Daily => local.strftime("%Y-%m-%d"),
            // ISO 8601: the days around New Year belong to the week that holds their Thursday.
            Self::Weekly => local.strftime("%G-W%V"),
            Self::Monthly => local.strftime("%Y-%m"),
            Self::Yearly => local.strftime("%Y"),
        }
        .to_string()
    }

    pub(super) fn reason(self, period: String) -> Reason {
        match self {
            Self::Hourly => Reason::Hourly(period),
            Self::Daily => Reason::Daily(period),
            Self::Weekly => Reason::Weekly(period),
            Self::Monthly => Reason::Monthly(period),
            Self::Yearly => Reason::Yearly(period),
        }
    }

    /// Whether the period of `at` is past, so that it is known which backup was its newest.
    pub fn is_over(self, at: Timestamp, zone: &TimeZone, now: Timestamp) -> bool {
        let period = |at: Timestamp| self.period(&at.to_zoned(zone.clone()));
        at < now && period(at) != period(now)
    }

    /// The moment before which nothing can take the slot away from a backup of `at` that has one, if `count` of them are
    /// kept: only then can there be backups of so many later periods. `None` beyond what the calendar holds.
    pub fn kept_until(self, count: u32, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = at.to_zoned(zone.clone());
        let (date, count) = (local.date(), i64::from(count));
        let (first, span) = match self {
            Self::Hourly => {
                return start_of_hour(&local)?.checked_add(SignedDuration::from_hours(count)).ok();
            }
            Self::Daily => (date, Span::new().try_days(count)),
            Self::Weekly => (monday(date)?, Span::new().try_weeks(count)),
            Self::Monthly => (date.first_of_month(), Span::new().try_months(count)),
            Self::Yearly => (date.first_of_year(), Span::new().try_years(count)),
        };
        let first_free = first.checked_add(span.ok()?).ok()?;
        Some(first_free.to_zoned(zone.clone()).ok()?.timestamp())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Retention {
    /// How many backups of this class are kept.
    pub fn count(&self, class: Class) -> u32 {
        match class {
            Class::Hourly => self.hourly,
            Class::Daily => self.daily,
            Class::Weekly => self.weekly,
            Class::Monthly => self.monthly,
            Class::Yearly => self.yearly,
        }
    }

    /// The finest class of which any are kept: the one whose slot a new backup has for the surest.
    pub fn finest(&self) -> Option<Class> {
        Class::ALL.into_iter().find(|class| self.count(*class) > 0)
    }
}

impl Reason {
    /// The class whose slot it is.
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::Hourly(_) => Some(Class::Hourly),
            Self::Daily(_) => Some(Class::Daily),
            Self::Weekly(_) => Some(Class::Weekly),
            Self::Monthly(_) => Some(Class::Monthly),
            Self::Yearly(_) => Some(Class::Yearly),
            _ => None,
        }
    }
}

fn start_of_hour(local: &Zoned) -> Option<Timestamp> {
    let into = i64::from(local.minute()) * 60 + i64::from(local.second());
    let whole = Timestamp::from_second(local.timestamp().as_second()).ok()?;
    whole.checked_sub(SignedDuration::from_secs(into)).ok()
}

fn monday(date: Date) -> Option<Date> {
    date.checked_sub(date.weekday().to_monday_zero_offset().days()).ok()
}
