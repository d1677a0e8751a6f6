//! How long a restore will take as the data grows, from the drills so far.
//!
//! Two lines, each the median of the slopes between all pairs of drills (Theil-Sen), which one slow night does not bend: bytes by day, and
//! seconds by byte. Where the drills do not bear a line, that is said in place of a date.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

/// Two drills make a line of any noise.
pub const DRILLS_MIN: usize = 5;
/// Growth over less time is weather.
pub const SPAN_MIN: SignedDuration = SignedDuration::from_hours(14 * 24);
/// How far ahead anything is said.
pub const HORIZON: SignedDuration = SignedDuration::from_hours(HORIZON_YEARS * 365 * 24);
const HORIZON_YEARS: i64 = 5;
/// The newest so many drills are looked at: pairs grow with their square.
const DRILLS_MAX: usize = 200;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// What one drill measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub at: Timestamp,
    pub database_bytes: u64,
    pub recovery_seconds: f64,
}

/// What is to come. `Display` is what reports print.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forecast {
    /// The policy promises no recovery time.
    NoObjective,
    TooFewDrills {
        drills: usize,
    },
    TooShort {
        span: SignedDuration,
    },
    /// The data does not grow.
    NoGrowth {
        drills: usize,
    },
    /// More data did not take longer, so time does not follow from growth.
    NoRelation {
        drills: usize,
    },
    /// It takes longer than the objective allows already.
    MissedAlready {
        drills: usize,
    },
    NotWithinHorizon {
        drills: usize,
    },
    MissedFrom {
        at: Timestamp,
        bytes_per_day: f64,
        drills: usize,
    },
}

/// When a restore will take longer than `objective`, at the growth seen so far.
pub fn recovery_time(measured: &[Measured], objective: Option<SignedDuration>, now: Timestamp) -> Forecast {
    let Some(objective) = objective else { return Forecast::NoObjective };
    let mut measured: Vec<Measured> =
        measured.iter().copied().filter(|one| one.recovery_seconds.is_finite()).collect();
    measured.sort_by_key(|one| one.at);
    let measured = &measured[measured.len().saturating_sub(DRILLS_MAX)..];
    let drills = measured.len();
    let (Some(first), Some(last), true) = (measured.first(), measured.last(), drills >= DRILLS_MIN) else {
        return Forecast::TooFewDrills { drills };
    };
    let span = last.at.duration_since(first.at);
    if span < SPAN_MIN {
        return Forecast::TooShort { span };
    }
    let day = |at: Timestamp| at.duration_since(now).as_secs_f64() / SECONDS_PER_DAY;
    let growth = Line::through(measured.iter().map(|one| (day(one.at), bytes(one))));
    let effort = Line::through(measured.iter().map(|one| (bytes(one), one.recovery_seconds)));
    let Some(growth) = growth.filter(|growth| growth.slope > 0.0) else {
        return Forecast::NoGrowth { drills };
    };
    let Some(effort) = effort.filter(|effort| effort.slope > 0.0) else {
        return Forecast::NoRelation { drills };
    };
    let bytes_allowed = (objective.as_secs_f64() - effort.at_zero) / effort.slope;
    let days = (bytes_allowed - growth.at_zero) / growth.slope;
    if days <= 0.0 {
        return Forecast::MissedAlready { drills };
    }
    let ahead =
        SignedDuration::try_from_secs_f64(days * SECONDS_PER_DAY).ok().filter(|&ahead| ahead <= HORIZON);
    match ahead.and_then(|ahead| now.checked_add(ahead).ok()) {
        Some(at) => Forecast::MissedFrom { at, bytes_per_day: growth.slope, drills },
        None => Forecast::NotWithinHorizon { drills },
    }
}

impl Forecast {
    /// From when on the objective is missed.
    pub fn missed_from(&self) -> Option<Timestamp> {
        match self {
            Self::MissedFrom { at, .. } => Some(*at),
            _ => None,
        }
    }
}

fn bytes(measured: &Measured) -> f64 {
    // Above 2^53 bytes a forecast does not need the last one.
    measured.database_bytes as f64
}

struct Line {
    slope: f64,
    at_zero: f64,
}

impl Line {
    /// `None` where all points lie above one another.
    fn through(points: impl Iterator<Item = (f64, f64)>) -> Option<Self> {
        let points: Vec<(f64, f64)> = points.collect();
        let pairs =
            points.iter().enumerate().flat_map(|(at, a)| points[at + 1..].iter().map(move |b| (a, b)));
        let slopes = pairs.filter(|(a, b)| a.0 != b.0).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0));
        let slope = median(slopes.collect())?;
        let at_zero = median(points.iter().map(|(x, y)| y - slope * x).collect())?;
        Some(Self { slope, at_zero })
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().checked_sub(1)? / 2)?;
    Some(lower + (upper - lower) / 2.0)
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoObjective => f.write_str("the policy names no recovery time"),
            Self::TooFewDrills { drills } => {
                write!(f, "not worked out: {drills} drill(s) measured a restore, it takes {DRILLS_MIN}")
            }
            Self::TooShort { span } => write!(
                f,
                "not worked out: the drills lie within {} day(s), it takes {}",
                span.as_hours() / 24,
                SPAN_MIN.as_hours() / 24
            ),
            Self::NoGrowth { drills } => {
                write!(f, "at the growth of {drills} drills not at all: the data does not grow")
            }
            Self::NoRelation { drills } => {
                write!(f, "not worked out: in {drills} drills more data did not take longer to restore")
            }
            Self::MissedAlready { drills } => {
                write!(f, "by the line through {drills} drills it is missed already")
            }
            Self::NotWithinHorizon { drills } => {
                write!(f, "at the growth of {drills} drills not within {HORIZON_YEARS} years")
            }
            Self::MissedFrom { at, bytes_per_day, drills } => write!(
                f,
                "at the growth of {drills} drills ({bytes_per_day:.0} bytes a day) from {} on",
                at.strftime("%Y-%m-%d")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

    fn now() -> Timestamp {
        "2026-11-24T00:00:00Z".parse().unwrap()
    }

    /// A drill each week up to now; `bytes` and `seconds` by the number of the week.
    fn weekly(count: i32, bytes: impl Fn(f64) -> f64, seconds: impl Fn(f64) -> f64) -> Vec<Measured> {
        let measured = |week: i32| Measured {
            at: now() - SignedDuration::from_hours(7 * 24 * i64::from(count - 1 - week)),
            database_bytes: bytes(f64::from(week)) as u64,
            recovery_seconds: seconds(f64::from(week)),
        };
        (0..count).map(measured).collect()
    }

    fn hours(hours: i64) -> Option<SignedDuration> {
        Some(SignedDuration::from_hours(hours))
    }

    #[test]
    fn steady_growth_has_its_day() {
        // A GiB a week, a minute for each GiB: an hour is reached at 60 GiB, after 10 and 40 further weeks.
        let measured = weekly(11, |week| (10.0 + week) * GIB, |week| (10.0 + week) * 60.0);
        let Forecast::MissedFrom { at, bytes_per_day, drills } = recovery_time(&measured, hours(1), now())
        else {
            panic!("no day")
        };
        assert_eq!(drills, 11);
        assert!((bytes_per_day - GIB / 7.0).abs() < 1.0, "{bytes_per_day}");
        let off = at.duration_since(now() + SignedDuration::from_hours(40 * 7 * 24)).abs();
        assert!(off < SignedDuration::from_mins(1), "{at}");
    }

    #[test]
    fn one_slow_night_does_not_move_it() {
        let even = weekly(11, |week| (10.0 + week) * GIB, |week| (10.0 + week) * 60.0);
        let mut uneven = even.clone();
        uneven[5].recovery_seconds *= 20.0;
        let day = |measured: &[Measured]| recovery_time(measured, hours(1), now()).missed_from().unwrap();
        assert!(day(&even).duration_since(day(&uneven)).abs() < SignedDuration::from_hours(7 * 24));
    }

    #[test]
    fn what_the_drills_do_not_bear_is_not_said() {
        let growing = |week: f64| (10.0 + week) * GIB;
        let slower = |week: f64| (10.0 + week) * 60.0;
        let told = |measured: &[Measured], objective| recovery_time(measured, objective, now());
        assert_eq!(told(&weekly(11, growing, slower), None), Forecast::NoObjective);
        assert_eq!(told(&weekly(4, growing, slower), hours(1)), Forecast::TooFewDrills { drills: 4 });
        let mut crowded = weekly(6, growing, slower);
        crowded.iter_mut().for_each(|one| one.at = now());
        assert!(matches!(told(&crowded, hours(1)), Forecast::TooShort { .. }));
        assert_eq!(told(&weekly(6, |_| GIB, slower), hours(1)), Forecast::NoGrowth { drills: 6 });
        assert_eq!(
            told(&weekly(6, growing, |week| 600.0 - week), hours(1)),
            Forecast::NoRelation { drills: 6 }
        );
        assert_eq!(
            told(&weekly(6, growing, slower), hours(24 * 365)),
            Forecast::NotWithinHorizon { drills: 6 }
        );
        let five_minutes = Some(SignedDuration::from_mins(5));
        assert_eq!(told(&weekly(6, growing, slower), five_minutes), Forecast::MissedAlready { drills: 6 });
        let broken = weekly(6, growing, |_| f64::NAN);
        assert_eq!(told(&broken, hours(1)), Forecast::TooFewDrills { drills: 0 });
    }

    #[test]
    fn restores_have_a_part_that_does_not_grow() {
        // Five minutes whatever there is, and a minute for each GiB: an hour is reached at 55 GiB.
        let measured = weekly(11, |week| (10.0 + week) * GIB, |week| 300.0 + (10.0 + week) * 60.0);
        let at = recovery_time(&measured, hours(1), now()).missed_from().unwrap();
        let off = at.duration_since(now() + SignedDuration::from_hours(35 * 7 * 24)).abs();
        assert!(off < SignedDuration::from_mins(1), "{at}");
    }

    #[test]
    fn two_weeks_of_drills_are_enough_and_a_level_line_relates_nothing() {
        let mut measured = weekly(6, |week| (10.0 + week) * GIB, |week| (10.0 + week) * 60.0);
        measured[0].at = now() - SPAN_MIN;
        for one in &mut measured[1..4] {
            one.at = now() - SignedDuration::from_hours(7 * 24);
        }
        let forecast = recovery_time(&measured, hours(24), now());
        assert!(!matches!(forecast, Forecast::TooShort { .. }), "{forecast:?}");
        let level = weekly(6, |week| (10.0 + week) * GIB, |_| 600.0);
        assert_eq!(recovery_time(&level, hours(1), now()), Forecast::NoRelation { drills: 6 });
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(vec![10.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!((median(vec![7.0]), median(vec![])), (Some(7.0), None));
    }

    #[test]
    fn only_a_day_is_a_day_and_all_else_is_said_in_words() {
        let drills = 6;
        let at = now();
        let told = [
            (Forecast::NoObjective, "the policy names no recovery time"),
            (
                Forecast::TooFewDrills { drills: 4 },
                "not worked out: 4 drill(s) measured a restore, it takes 5",
            ),
            (
                Forecast::TooShort { span: SignedDuration::from_hours(60) },
                "not worked out: the drills lie within 2 day(s), it takes 14",
            ),
            (Forecast::NoGrowth { drills }, "at the growth of 6 drills not at all: the data does not grow"),
            (
                Forecast::NoRelation { drills },
                "not worked out: in 6 drills more data did not take longer to restore",
            ),
            (Forecast::MissedAlready { drills }, "by the line through 6 drills it is missed already"),
            (Forecast::NotWithinHorizon { drills }, "at the growth of 6 drills not within 5 years"),
        ];
        for (forecast, text) in told {
            assert_eq!((forecast.to_string().as_str(), forecast.missed_from()), (text, None));
        }
        let day = Forecast::MissedFrom { at, bytes_per_day: 1000.4, drills };
        assert_eq!(day.missed_from(), Some(at));
        assert_eq!(day.to_string(), "at the growth of 6 drills (1000 bytes a day) from 2026-11-24 on");
    }
}
