//! Spans of time as sentences have them.

use jiff::SignedDuration;

const UNITS: [(&str, i64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];

/// The two largest units, without a sign: `3 d 4 h`, `12 min 5 s`.
pub fn told(span: SignedDuration) -> String {
    let seconds = span.abs().as_secs();
    let first = UNITS.iter().position(|(_, size)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    let (unit, size) = UNITS[first];
    let head = format!("{} {unit}", seconds / size);
    match UNITS.get(first + 1).map(|(unit, size)| (unit, seconds % UNITS[first].1 / size)) {
        Some((unit, count)) if count > 0 => format!("{head} {count} {unit}"),
        _ => head,
    }
}
