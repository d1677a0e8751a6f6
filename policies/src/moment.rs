//! The instant an operator means.
//!
//! Under pressure people type local times and forget the zone. A time that can be read in two ways is
//! refused with both readings: restoring to the wrong hour is worse than typing once more.
//!
//! Zones are looked up in the time zone database that `jiff` finds on the machine, or else its own.

use std::fmt;

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    fmt::{
        friendly::SpanParser,
        temporal::{DateTimeParser, Pieces, TimeZoneAnnotationKind},
    },
    tz::{AmbiguousOffset, Offset, TimeZone},
};

/// Longest text looked at, in bytes: a full date, time and offset with the longest zone name has under 100.
pub const MOMENT_BYTES_MAX: usize = 128;
/// The first second of the year 1: what lies before it cannot be written in a form that is read again.
const EARLIEST_SECOND: i64 = -62_135_596_800;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MomentError {
    #[error("{given:?} is not a time that can be understood")]
    Unreadable { given: String },
    #[error("{zone:?} is not a known time zone")]
    UnknownZone { zone: String },
    #[error("{given:?} names no time zone and could be {}", either(readings))]
    NoZone { given: String, readings: Vec<Reading> },
    #[error("{given:?} happened twice in {zone}: {}", either(readings))]
    Ambiguous { given: String, zone: String, readings: Vec<Reading> },
    #[error("{given:?} never happened in {zone}, where clocks skipped it: {}", either(readings))]
    Skipped { given: String, zone: String, readings: Vec<Reading> },
    #[error("{given:?} is an offset that {zone} did not have then")]
    OffsetConflict { given: String, zone: String },
    #[error("{given:?} lies outside the years that can be counted")]
    OutOfRange { given: String },
}

/// One of the instants a text could mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub instant: Timestamp,
    /// The zone in which it was read, or the offset.
    pub reckoning: String,
}

/// Reads a time. Understood are:
/// - RFC 3339 and RFC 9557: `2026-11-24T01:30:00Z`, `2026-11-24T02:30[Europe/Berlin]`,
/// - a date, a time and a zone: `2026-11-24 01:30 UTC`, `2026-11-24 02:30 Europe/Berlin`,
/// - `now`, `2 hours ago`, `yesterday 02:00 UTC`, `today 02:00 +02:00`.
///
/// A time without a zone is read in `zone`, the policy's; if there is none either, it is refused with the
/// readings in UTC and in `system`, the zone of the machine.
pub fn parse(
    text: &str,
    zone: Option<&str>,
    system: &TimeZone,
    now: Timestamp,
) -> Result<Timestamp, MomentError> {
    let given = text.trim();
    let at = read(given, zone, system, now)?;
    let is_counted = at.as_second() >= EARLIEST_SECOND;
    is_counted.then_some(at).ok_or_else(|| MomentError::OutOfRange { given: given.to_owned() })
}

impl MomentError {
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreadable { .. } | Self::OutOfRange { .. } => {
                "Write a date, a time and a zone, such as \"2026-11-24 01:30 UTC\", or \"2 hours ago\"."
            }
            Self::UnknownZone { .. } => "Use a name such as Europe/Berlin, UTC, or an offset such as +02:00.",
            Self::NoZone { .. } => "Add the zone to the time, or set `zone` in the policy.",
            Self::Ambiguous { .. } | Self::Skipped { .. } => "Write one of these instants instead.",
            Self::OffsetConflict { .. } => "Leave out the offset or the zone.",
        };
        Some(hint.to_owned())
    }
}

fn read(
    given: &str,
    zone: Option<&str>,
    system: &TimeZone,
    now: Timestamp,
) -> Result<Timestamp, MomentError> {
    if given.len() > MOMENT_BYTES_MAX {
        return Err(unreadable(given.chars().take(MOMENT_BYTES_MAX / 2).collect::<String>().as_str()));
    }
    if given.eq_ignore_ascii_case("now") {
        return Ok(now);
    }
    let zone = zone.map(known_zone).transpose()?;
    // Zones end so, too: America/Chicago, America/Santiago.
    let is_span = given.to_ascii_lowercase().ends_with("ago") && !given.contains('/');
    if is_span {
        return ago(given, zone.unwrap_or(TimeZone::UTC), now);
    }
    let written = Written::read(given)?;
    match (&written.place, zone) {
        (Place::Offset(offset), _) => written.at_offset(*offset, now),
        (Place::Zone(zone), _) => written.in_zone(zone, now),
        (Place::OffsetInZone(offset, zone), _) => written.at_offset_of(*offset, zone, now),
        (Place::Unsaid, Some(zone)) => written.in_zone(&zone, now),
        (Place::Unsaid, None) => Err(written.refuse_without_zone(system, now)),
    }
}

/// What a text says, before a zone is applied to it.
struct Written<'a> {
    given: &'a str,
    day: Day,
    time: Time,
    place: Place,
}

enum Day {
    Civil(Date),
    Today,
    Yesterday,
}

enum Place {
    Offset(Offset),
    Zone(TimeZone),
    OffsetInZone(Offset, TimeZone),
    Unsaid,
}

impl<'a> Written<'a> {
    fn read(given: &'a str) -> Result<Self, MomentError> {
        let mut words: Vec<&str> = given.split_whitespace().collect();
        let place_word = words.pop_if(|word| !word.starts_with(|first: char| first.is_ascii_digit()));
        let place_word = match place_word {
            None => String::new(),
            Some(word) if word.starts_with(['+', '-', '[']) || word.eq_ignore_ascii_case("z") => {
                word.to_owned()
            }
            Some(word) => format!("[{word}]"),
        };
        let relative = match words.first().map(|word| word.to_ascii_lowercase()).as_deref() {
            Some("today") => Some(Day::Today),
            Some("yesterday") => Some(Day::Yesterday),
            _ => None,
        };
        if relative.is_some() {
            // Any date will do: it is replaced once the zone is known.
            words[0] = "2000-01-01";
        }
        let formal = format!("{}{place_word}", words.join("T"));
        let pieces = DateTimeParser::new().parse_pieces(&formal).map_err(|_| unreadable(given))?;
        // A date alone could mean its first or its last moment.
        let time = pieces.time().ok_or_else(|| unreadable(given))?;
        let day = relative.unwrap_or(Day::Civil(pieces.date()));
        Ok(Self { given, day, time, place: place_of(&pieces)? })
    }

    fn local(&self, zone: &TimeZone, now: Timestamp) -> Result<DateTime, MomentError> {
        let today = || now.to_zoned(zone.clone()).date();
        let date = match self.day {
            Day::Civil(date) => date,
            Day::Today => today(),
            Day::Yesterday => today().yesterday().map_err(|_| self.out_of_range())?,
        };
        Ok(date.to_datetime(self.time))
    }

    fn at_offset(&self, offset: Offset, now: Timestamp) -> Result<Timestamp, MomentError> {
        let local = self.local(&offset.to_time_zone(), now)?;
        offset.to_timestamp(local).map_err(|_| self.out_of_range())
    }

    fn at_offset_of(
        &self,
        offset: Offset,
        zone: &TimeZone,
        now: Timestamp,
    ) -> Result<Timestamp, MomentError> {
        let instant = self.at_offset(offset, now)?;
        // RFC 9557: with `Z` the bracket only says where, not by which reckoning.
        if offset == Offset::UTC || zone.to_offset(instant) == offset {
            return Ok(instant);
        }
        Err(MomentError::OffsetConflict { given: self.given.to_owned(), zone: name_of(zone) })
    }

    fn in_zone(&self, zone: &TimeZone, now: Timestamp) -> Result<Timestamp, MomentError> {
        let local = self.local(zone, now)?;
        let instant = |offset: Offset| offset.to_timestamp(local).map_err(|_| self.out_of_range());
        let both = |first: Offset, second: Offset| -> Result<Vec<Reading>, MomentError> {
            let mut readings = Vec::new();
            for offset in [first, second] {
                readings.push(Reading { instant: instant(offset)?, reckoning: offset.to_string() });
            }
            readings.sort_by_key(|reading| reading.instant);
            Ok(readings)
        };
        let (given, zone_name) = (self.given.to_owned(), name_of(zone));
        match zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => instant(offset),
            AmbiguousOffset::Fold { before, after } => {
                Err(MomentError::Ambiguous { given, zone: zone_name, readings: both(before, after)? })
            }
            AmbiguousOffset::Gap { before, after } => {
                Err(MomentError::Skipped { given, zone: zone_name, readings: both(before, after)? })
            }
        }
    }

    fn refuse_without_zone(&self, system: &TimeZone, now: Timestamp) -> MomentError {
        let mut readings: Vec<Reading> = Vec::new();
        for zone in [&TimeZone::UTC, system] {
            let reckoning = name_of(zone);
            let instants = match self.in_zone(zone, now) {
                Ok(instant) => vec![instant],
                Err(MomentError::Ambiguous { readings, .. } | MomentError::Skipped { readings, .. }) => {
                    readings.iter().map(|reading| reading.instant).collect()
                }
                Err(other) => return other,
            };
            for instant in instants {
                if readings.iter().all(|known| known.instant != instant) {
                    readings.push(Reading { instant, reckoning: reckoning.clone() });
                }
            }
        }
        MomentError::NoZone { given: self.given.to_owned(), readings }
    }

    fn out_of_range(&self) -> MomentError {
        MomentError::OutOfRange { given: self.given.to_owned() }
    }
}

fn place_of(pieces: &Pieces<'_>) -> Result<Place, MomentError> {
    let offset = pieces.to_numeric_offset();
    let Some(annotation) = pieces.time_zone_annotation() else {
        return Ok(offset.map_or(Place::Unsaid, Place::Offset));
    };
    let named = match annotation.kind() {
        TimeZoneAnnotationKind::Named(name) => name.as_str().to_owned(),
        other => format!("{other:?}"),
    };
    let zone = annotation.to_time_zone().map_err(|_| MomentError::UnknownZone { zone: named })?;
    Ok(match offset {
        Some(offset) => Place::OffsetInZone(offset, zone),
        None => Place::Zone(zone),
    })
}

/// Days and longer are calendar days of the zone, hours are hours.
fn ago(given: &str, zone: TimeZone, now: Timestamp) -> Result<Timestamp, MomentError> {
    let span = SpanParser::new().parse_span(given.to_ascii_lowercase()).map_err(|_| unreadable(given))?;
    let then = now.to_zoned(zone).checked_add(span);
    then.map(|then| then.timestamp()).map_err(|_| MomentError::OutOfRange { given: given.to_owned() })
}

fn known_zone(name: &str) -> Result<TimeZone, MomentError> {
    TimeZone::get(name).map_err(|_| MomentError::UnknownZone { zone: name.to_owned() })
}

fn name_of(zone: &TimeZone) -> String {
    match (zone.iana_name(), zone.to_fixed_offset()) {
        (Some(name), _) => name.to_owned(),
        (None, Ok(offset)) => offset.to_string(),
        (None, Err(_)) => "the system's zone".to_owned(),
    }
}

fn unreadable(given: &str) -> MomentError {
    MomentError::Unreadable { given: given.to_owned() }
}

fn either(readings: &[Reading]) -> String {
    let all: Vec<String> = readings.iter().map(Reading::to_string).collect();
    all.join(" or ")
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.instant, self.reckoning)
    }
}

#[cfg(test)]
mod tests;
