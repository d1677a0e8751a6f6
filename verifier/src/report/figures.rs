//! How numbers, spans and times are written for people.

use jiff::Timestamp;

/// What people read of a time in a sentence: `24 November 2026, 02:00 UTC`.
pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%-d %B %Y, %H:%M UTC").to_string()
}

/// A time in a column: `2026-11-24 02:00:00 UTC`.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A whole number in groups of three digits: `413,853`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number and what it counts: `1 table`, `12 tables`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A size in the unit that keeps it below 1,024: `1.0 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return counted(bytes, "byte", "bytes");
    }
    let (mut size, mut unit) = (bytes as f64 / 1024.0, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A span in its two largest units: `2 h 5 min`, `3 days 4 h`; below a minute with a tenth of a second.
pub(crate) fn span(seconds: f64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    if seconds < 0.0 {
        return format!("-{}", span(-seconds));
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let two = |large: u64, small: u64, large_unit: &str, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        small => format!("{large} {large_unit} {small} {small_unit}"),
    };
    let days = if whole / DAY == 1 { "day" } else { "days" };
    match whole {
        ..HOUR => two(whole / MINUTE, whole % MINUTE, "min", "s"),
        HOUR..DAY => two(whole / HOUR, whole % HOUR / MINUTE, "h", "min"),
        _ => two(whole / DAY, whole % DAY / HOUR, days, "h"),
    }
}

/// Seconds from one time to another.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_sizes_keep_their_unit() {
        for (number, told) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), told);
        }
        assert_eq!((bytes(1), bytes(1023)), ("1 byte".to_owned(), "1,023 bytes".to_owned()));
        assert_eq!((bytes(1024), bytes(1 << 30)), ("1.0 KiB".to_owned(), "1.0 GiB".to_owned()));
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn spans_are_told_in_their_two_largest_units() {
        for (seconds, told) in [
            (0.04, "0.0 s"),
            (59.9, "59.9 s"),
            (59.97, "1 min"),
            (93.5, "1 min 34 s"),
            (3600.0, "1 h"),
            (7_500.0, "2 h 5 min"),
            (86_400.0, "1 day"),
            (273_600.0, "3 days 4 h"),
            (-90.0, "-1 min 30 s"),
        ] {
            assert_eq!(span(seconds), told, "{seconds}");
        }
    }
}
