//! Rows of COPY text made into rows of binary COPY, which the server takes in with about half the work.
//!
//! Only types whose text has one plain form are converted, and only that form: whatever else comes up is
//! [`NotPlain`], and the piece is loaded as text, as it was dumped. What is digested is the text, before this.
//! Form of the stream and of each type: <https://www.postgresql.org/docs/current/sql-copy.html> (Binary Format) and the
//! `…recv` functions of PostgreSQL's `src/backend/utils/adt`.

use memchr::memchr;
use tokio_postgres::types::{Kind, Type};

/// Signature, no flags, no header extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A count of -1 fields.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;
const MICROSECONDS_A_DAY: i64 = 86_400_000_000;
/// A numeric's digits are stored in groups of four.
const GROUP: usize = 4;
/// Digits that a numeric's text may have here; longer ones are rare and go as text.
const NUMERIC_DIGITS_MAX: usize = 1_000;

/// How the text of a column becomes its binary form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Also character types, JSON and enums: their binary form is their text.
    Text,
    Jsonb,
    Date,
    /// With or without time zone: sessions are pinned to UTC.
    Timestamp {
        zoned: bool,
    },
    Uuid,
    Bytea,
}

impl Column {
    /// `None` for a type that is loaded as text.
    pub(super) fn of(column: &Type) -> Option<Self> {
        if matches!(column.kind(), Kind::Enum(_)) {
            return Some(Self::Text);
        }
        Some(match *column {
            Type::BOOL => Self::Bool,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::FLOAT4 => Self::Float4,
            Type::FLOAT8 => Self::Float8,
            Type::NUMERIC => Self::Numeric,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::JSON => Self::Text,
            Type::JSONB => Self::Jsonb,
            Type::DATE => Self::Date,
            Type::TIMESTAMP => Self::Timestamp { zoned: false },
            Type::TIMESTAMPTZ => Self::Timestamp { zoned: true },
            Type::UUID => Self::Uuid,
            Type::BYTEA => Self::Bytea,
            _ => return None,
        })
    }
}

/// Text in another form than the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotPlain;

/// Whole rows of COPY text as binary rows, appended to `binary`.
pub(super) fn encode_rows(text: &[u8], columns: &[Column], binary: &mut Vec<u8>) -> Result<(), NotPlain> {
    let count = i16::try_from(columns.len()).map_err(|_| NotPlain)?.to_be_bytes();
    let mut rest = text;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).ok_or(NotPlain)?;
        binary.extend_from_slice(&count);
        encode_row(&rest[..end], columns, binary)?;
        rest = &rest[end + 1..];
    }
    Ok(())
}

fn encode_row(row: &[u8], columns: &[Column], binary: &mut Vec<u8>) -> Result<(), NotPlain> {
    let Some((last, first)) = columns.split_last() else {
        return if row.is_empty() { Ok(()) } else { Err(NotPlain) };
    };
    let mut rest = row;
    for column in first {
        let end = memchr(b'\t', rest).ok_or(NotPlain)?;
        encode_field(&rest[..end], *column, binary)?;
        rest = &rest[end + 1..];
    }
    match memchr(b'\t', rest) {
        None => encode_field(rest, *last, binary),
        Some(_) => Err(NotPlain),
    }
}

fn encode_field(field: &[u8], column: Column, binary: &mut Vec<u8>) -> Result<(), NotPlain> {
    if field == b"\\N" {
        binary.extend_from_slice(&(-1_i32).to_be_bytes());
        return Ok(());
    }
    match column {
        Column::Bool => match field {
            b"t" => fixed(binary, [1]),
            b"f" => fixed(binary, [0]),
            _ => return Err(NotPlain),
        },
        Column::Int2 => fixed(binary, i16::try_from(integer(field)?).map_err(|_| NotPlain)?.to_be_bytes()),
        Column::Int4 => fixed(binary, i32::try_from(integer(field)?).map_err(|_| NotPlain)?.to_be_bytes()),
        Column::Int8 => fixed(binary, integer(field)?.to_be_bytes()),
        Column::Float4 => fixed(binary, float::<f32>(field)?.to_be_bytes()),
        Column::Float8 => fixed(binary, float::<f64>(field)?.to_be_bytes()),
        Column::Date => fixed(binary, date(field)?.to_be_bytes()),
        Column::Timestamp { zoned } => fixed(binary, timestamp(field, zoned)?.to_be_bytes()),
        Column::Uuid => fixed(binary, uuid(field)?),
        Column::Numeric => return sized(binary, |binary| numeric(field, binary)),
        Column::Text => return sized(binary, |binary| unescape(field, binary)),
        Column::Bytea => return sized(binary, |binary| bytes(field, binary)),
        Column::Jsonb => {
            return sized(binary, |binary| {
                // The version of the format: the text follows.
                binary.push(1);
                unescape(field, binary)
            });
        }
    }
    Ok(())
}

fn fixed<const N: usize>(binary: &mut Vec<u8>, value: [u8; N]) {
    binary.extend_from_slice(&(N as i32).to_be_bytes());
    binary.extend_from_slice(&value);
}

/// What `write` appends, with its length in front.
fn sized(
    binary: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), NotPlain>,
) -> Result<(), NotPlain> {
    let at = binary.len();
    binary.extend_from_slice(&[0; 4]);
    write(binary)?;
    let length = i32::try_from(binary.len() - at - 4).map_err(|_| NotPlain)?;
    binary[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Takes back the escapes that COPY TO writes; it writes no other.
fn unescape(field: &[u8], binary: &mut Vec<u8>) -> Result<(), NotPlain> {
    let mut rest = field;
    while let Some(at) = memchr(b'\\', rest) {
        binary.extend_from_slice(&rest[..at]);
        binary.push(match rest.get(at + 1) {
            Some(b'\\') => b'\\',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'v') => 0x0b,
            _ => return Err(NotPlain),
        });
        rest = &rest[at + 2..];
    }
    binary.extend_from_slice(rest);
    Ok(())
}

/// `\\x00ff`: the backslash of the hexadecimal form is itself escaped.
fn bytes(field: &[u8], binary: &mut Vec<u8>) -> Result<(), NotPlain> {
    let digits = field.strip_prefix(b"\\\\x").filter(|digits| digits.len() % 2 == 0).ok_or(NotPlain)?;
    let at = binary.len();
    binary.resize(at + digits.len() / 2, 0);
    data_encoding::HEXLOWER.decode_mut(digits, &mut binary[at..]).map_err(|_| NotPlain)?;
    Ok(())
}

fn uuid(field: &[u8]) -> Result<[u8; 16], NotPlain> {
    let (mut digits, mut count) = ([0; 32], 0);
    for (at, byte) in field.iter().enumerate() {
        match (at, byte) {
            (8 | 13 | 18 | 23, b'-') => {}
            (8 | 13 | 18 | 23, _) => return Err(NotPlain),
            _ => {
                *digits.get_mut(count).ok_or(NotPlain)? = *byte;
                count += 1;
            }
        }
    }
    if count != digits.len() {
        return Err(NotPlain);
    }
    let mut value = [0; 16];
    data_encoding::HEXLOWER.decode_mut(&digits, &mut value).map_err(|_| NotPlain)?;
    Ok(value)
}

fn integer(field: &[u8]) -> Result<i64, NotPlain> {
    let (negative, digits) = sign(field);
    if digits.is_empty() {
        return Err(NotPlain);
    }
    // Counted downwards, where there is one number more.
    let mut value: i64 = 0;
    for byte in digits {
        let digit = i64::from(digit(*byte)?);
        value = value.checked_mul(10).and_then(|value| value.checked_sub(digit)).ok_or(NotPlain)?;
    }
    if negative { Ok(value) } else { value.checked_neg().ok_or(NotPlain) }
}

fn float<F: std::str::FromStr>(field: &[u8]) -> Result<F, NotPlain> {
    let (_, digits) = sign(field);
    let plain = digits.first().is_some_and(u8::is_ascii_digit) || digits == b"Infinity" || field == b"NaN";
    let text = std::str::from_utf8(field).map_err(|_| NotPlain)?;
    if plain { text.parse().map_err(|_| NotPlain) } else { Err(NotPlain) }
}

/// Days since 2000-01-01.
fn date(field: &[u8]) -> Result<i32, NotPlain> {
    match field {
        b"infinity" => Ok(i32::MAX),
        b"-infinity" => Ok(i32::MIN),
        _ if field.len() == 10 => i32::try_from(days(field)?).map_err(|_| NotPlain),
        _ => Err(NotPlain),
    }
}

/// Microseconds since 2000-01-01 00:00: `2026-11-24 02:00:00.25`, and with a zone `+00` behind it.
fn timestamp(field: &[u8], zoned: bool) -> Result<i64, NotPlain> {
    match field {
        b"infinity" => return Ok(i64::MAX),
        b"-infinity" => return Ok(i64::MIN),
        _ => {}
    }
    let local = if zoned { field.strip_suffix(b"+00").ok_or(NotPlain)? } else { field };
    let (day, time) = local.split_at_checked(10).ok_or(NotPlain)?;
    let [b' ', h1, h2, b':', m1, m2, b':', s1, s2, fraction @ ..] = time else { return Err(NotPlain) };
    let (hour, minute, second) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
    if hour > 23 || minute > 59 || second > 59 {
        return Err(NotPlain);
    }
    let seconds = (hour * 60 + minute) * 60 + second;
    Ok(days(day)? * MICROSECONDS_A_DAY + seconds * 1_000_000 + microseconds(fraction)?)
}

fn microseconds(fraction: &[u8]) -> Result<i64, NotPlain> {
    let digits = match fraction {
        [] => return Ok(0),
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => digits,
        _ => return Err(NotPlain),
    };
    let mut value = 0;
    for at in 0..6 {
        value = value * 10 + digits.get(at).map_or(Ok(0), |byte| digit(*byte).map(i64::from))?;
    }
    Ok(value)
}

/// Days from 2000-01-01 to `YYYY-MM-DD` in the Gregorian calendar, which PostgreSQL uses for all years.
fn days(text: &[u8]) -> Result<i64, NotPlain> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return Err(NotPlain) };
    let (year, month, day) = (two(*y1, *y2)? * 100 + two(*y3, *y4)?, two(*m1, *m2)?, two(*d1, *d2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return Err(NotPlain),
    };
    if !(1..=last).contains(&day) {
        return Err(NotPlain);
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year;
    /// From the first of March of the year 0 to 1970-01-01.
    const TO_1970: i64 = 719_468;
    Ok(days - TO_1970 - EPOCH_DAYS)
}

/// Number of groups, weight of the first, sign, digits after the point, and the groups of four digits.
fn numeric(field: &[u8], binary: &mut Vec<u8>) -> Result<(), NotPlain> {
    let mut head =
        |parts: [u16; 4]| parts.iter().for_each(|part| binary.extend_from_slice(&part.to_be_bytes()));
    let special = match field {
        b"NaN" => Some(0xC000),
        b"Infinity" => Some(0xD000),
        b"-Infinity" => Some(0xF000),
        _ => None,
    };
    if let Some(sign) = special {
        head([0, 0, sign, 0]);
        return Ok(());
    }
    let (negative, digits) = sign(field);
    let point = memchr(b'.', digits).unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or(&[]));
    let ends_in_point = point + 1 == digits.len();
    if whole.is_empty() || ends_in_point || digits.len() > NUMERIC_DIGITS_MAX {
        return Err(NotPlain);
    }
    let groups = whole.len().div_ceil(GROUP) + fraction.len().div_ceil(GROUP);
    let small = |value: usize| u16::try_from(value).map_err(|_| NotPlain);
    let sign = if negative { 0x4000 } else { 0 };
    let weight = small(whole.len().div_ceil(GROUP) - 1)?;
    head([small(groups)?, weight, sign, small(fraction.len())?]);
    // Groups are counted from the point: the first of the whole part and the last of the fraction may be short.
    let (first, rest) = whole.split_at(whole.len() % GROUP);
    if !first.is_empty() {
        binary.extend_from_slice(&group(first)?.to_be_bytes());
    }
    for digits in rest.chunks(GROUP) {
        binary.extend_from_slice(&group(digits)?.to_be_bytes());
    }
    for digits in fraction.chunks(GROUP) {
        let missing = [1, 10, 100, 1_000][GROUP - digits.len()];
        binary.extend_from_slice(&(group(digits)? * missing).to_be_bytes());
    }
    Ok(())
}

/// Up to four digits as a number.
fn group(digits: &[u8]) -> Result<u16, NotPlain> {
    digits.iter().try_fold(0, |value, byte| Ok(value * 10 + u16::from(digit(*byte)?)))
}

fn sign(field: &[u8]) -> (bool, &[u8]) {
    match field {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    }
}

fn two(tens: u8, ones: u8) -> Result<i64, NotPlain> {
    Ok(i64::from(digit(tens)?) * 10 + i64::from(digit(ones)?))
}

fn digit(byte: u8) -> Result<u8, NotPlain> {
    let digit = byte.wrapping_sub(b'0');
    if digit <= 9 { Ok(digit) } else { Err(NotPlain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &str, column: Column) -> Result<Vec<u8>, NotPlain> {
        let mut binary = Vec::new();
        encode_field(text.as_bytes(), column, &mut binary)?;
        let (length, value) = binary.split_at(4);
        assert_eq!(i32::from_be_bytes(length.try_into().unwrap()), i32::try_from(value.len()).unwrap());
        Ok(value.to_vec())
    }

    #[test]
    fn rows_have_a_count_and_fields_with_their_lengths() {
        let mut binary = Vec::new();
        encode_rows(b"1\t\\N\n-2\tb\\tc\n", &[Column::Int2, Column::Text], &mut binary).unwrap();
        let first = [0, 2, 0, 0, 0, 2, 0, 1, 255, 255, 255, 255];
        let second = [0, 2, 0, 0, 0, 2, 255, 254, 0, 0, 0, 3, b'b', b'\t', b'c'];
        assert_eq!(binary, [&first[..], &second].concat());
        binary.clear();
        encode_rows(b"\n\n", &[], &mut binary).unwrap();
        assert_eq!(binary, [0; 4], "rows without columns are rows");
    }

    #[test]
    fn rows_of_another_shape_are_refused() {
        for text in ["1", "1\t2\t3\n", "1\n", "\n", "1\t2\n3"] {
            let columns = [Column::Int4, Column::Int4];
            assert_eq!(encode_rows(text.as_bytes(), &columns, &mut Vec::new()), Err(NotPlain), "{text:?}");
        }
    }

    #[test]
    fn numbers_reach_their_ends() {
        assert_eq!(field("-9223372036854775808", Column::Int8).unwrap(), i64::MIN.to_be_bytes());
        assert_eq!(field("9223372036854775807", Column::Int8).unwrap(), i64::MAX.to_be_bytes());
        assert_eq!(field("-32768", Column::Int2).unwrap(), i16::MIN.to_be_bytes());
        for (text, column) in [
            ("9223372036854775808", Column::Int8),
            ("32768", Column::Int2),
            ("2147483648", Column::Int4),
            ("", Column::Int4),
            ("-", Column::Int4),
            ("+1", Column::Int4),
            (" 1", Column::Int4),
            ("1e3", Column::Int4),
            ("inf", Column::Float8),
            ("nan", Column::Float8),
            ("", Column::Float8),
            ("true", Column::Bool),
        ] {
            assert_eq!(field(text, column), Err(NotPlain), "{text:?}");
        }
        assert_eq!(field("5e-324", Column::Float8).unwrap(), 5e-324_f64.to_be_bytes());
        assert_eq!(field("-0", Column::Float8).unwrap(), (-0.0_f64).to_be_bytes());
        assert_eq!(field("-Infinity", Column::Float4).unwrap(), f32::NEG_INFINITY.to_be_bytes());
    }

    #[test]
    fn numerics_are_cut_into_groups_of_four() {
        let numeric = |text| {
            let value = field(text, Column::Numeric).unwrap();
            value.chunks(2).map(|pair| u16::from_be_bytes(pair.try_into().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(numeric("0"), [1, 0, 0, 0, 0]);
        assert_eq!(numeric("-12.34"), [2, 0, 0x4000, 2, 12, 3400]);
        assert_eq!(numeric("123456789012345.67891"), [6, 3, 0, 5, 123, 4567, 8901, 2345, 6789, 1000]);
        assert_eq!(numeric("10000"), [2, 1, 0, 0, 1, 0]);
        assert_eq!(numeric("0.00001"), [3, 0, 0, 5, 0, 0, 1000]);
        assert_eq!(numeric("NaN"), [0, 0, 0xC000, 0]);
        for text in ["", "-", ".5", "1.", "1e5", "1.2.3", "--1", &"9".repeat(1_001)] {
            assert_eq!(field(text, Column::Numeric), Err(NotPlain), "{text:?}");
        }
    }

    #[test]
    fn moments_count_from_the_year_2000() {
        let timestamp = |text: &str| field(text, Column::Timestamp { zoned: true });
        let micros = |value: i64| Ok(value.to_be_bytes().to_vec());
        assert_eq!(timestamp("2000-01-01 00:00:00+00"), micros(0));
        assert_eq!(timestamp("1999-12-31 23:59:59.999999+00"), micros(-1));
        assert_eq!(timestamp("2000-03-01 00:00:00.5+00"), micros(60 * MICROSECONDS_A_DAY + 500_000));
        assert_eq!(timestamp("-infinity"), micros(i64::MIN));
        for text in [
            "2000-01-01 00:00:00",
            "2000-01-01 00:00:00+01",
            "0044-03-15 00:00:00+00 BC",
            "12000-01-01 00:00:00+00",
            "2001-02-29 00:00:00+00",
            "2000-13-01 00:00:00+00",
            "2000-01-01 24:00:00+00",
            "2000-01-01 00:00:00.1234567+00",
            "2000-01-01 00:00:00.+00",
        ] {
            assert_eq!(timestamp(text), Err(NotPlain), "{text}");
        }
        assert_eq!(field("2000-02-29", Column::Date).unwrap(), 59_i32.to_be_bytes());
        assert_eq!(field("0001-01-01", Column::Date).unwrap(), (-730_119_i32).to_be_bytes());
        assert_eq!(field("9999-12-31", Column::Date).unwrap(), 2_921_939_i32.to_be_bytes());
    }

    /// Against a calendar that others have tested.
    #[test]
    fn every_day_of_ten_thousand_years_has_its_number() {
        let epoch = jiff::civil::date(2000, 1, 1);
        let mut day = jiff::civil::date(1, 1, 1);
        loop {
            let expected = epoch.until(day).unwrap().get_days();
            assert_eq!(days(day.to_string().as_bytes()), Ok(i64::from(expected)), "{day}");
            match day.tomorrow() {
                Ok(next) => day = next,
                Err(_) => break,
            }
        }
    }

    #[test]
    fn bytes_uuids_and_documents() {
        assert_eq!(field("\\\\x00ff5c", Column::Bytea).unwrap(), [0, 255, 0x5c]);
        assert_eq!(field("\\\\x", Column::Bytea).unwrap(), b"");
        assert_eq!(field("\\\\x0", Column::Bytea), Err(NotPlain));
        assert_eq!(field("\\000", Column::Bytea), Err(NotPlain));
        let uuid = field("00000000-0000-0000-0000-0000000000ff", Column::Uuid).unwrap();
        assert_eq!(uuid, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255]);
        for text in ["", "00000000000000000000000000000000", "00000000-0000-0000-0000-0000000000ff0"] {
            assert_eq!(field(text, Column::Uuid), Err(NotPlain), "{text:?}");
        }
        assert_eq!(field("{\"a\": \"\\\\n\"}", Column::Jsonb).unwrap(), b"\x01{\"a\": \"\\n\"}");
        assert_eq!(field("\\x41", Column::Text), Err(NotPlain));
        assert_eq!(field("ends\\", Column::Text), Err(NotPlain));
    }
}
