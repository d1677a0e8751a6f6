//! In which time zone the rows of a dump were written. Nothing in an archive says so, and rows read back in another one are
//! other text, though they mean the same.
//!
//! `pg_dump` writes each `timestamp with time zone` with the offset that the server's `TimeZone` had then: so one row of a table is
//! enough to refute a zone that somebody named.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use thiserror::Error;

use super::{CutBlock, DataKind, Toc, TocEntry};
use crate::payload::CopyText;
use crate::quoting::CopyTarget;

/// Outside of these years zones are no matter of record, and two databases of zones may well differ.
const YEARS: std::ops::Range<i16> = 1975..2037;
/// How PostgreSQL writes the type in a table's definition.
const TYPE: &str = " timestamp with time zone";

/// Looks at rows as they pass.
#[derive(Debug)]
pub struct ZoneWitness {
    zone: TimeZone,
    name: String,
    /// Of the tables that have one: which field of a row is such a time.
    fields: HashMap<i32, usize>,
}

/// A row that was not written in the zone that was named.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("the dump was not made in time zone {zone}: a row has {found}")]
pub struct OtherZone {
    pub zone: String,
    pub found: String,
}

impl ZoneWitness {
    pub fn new(name: &str, zone: TimeZone) -> Self {
        Self { zone, name: name.to_owned(), fields: HashMap::new() }
    }

    /// Learns from the table of contents which fields to look at.
    pub fn learn(&mut self, toc: &Toc) {
        let tables = toc.entries.iter().filter(|entry| entry.desc == "TABLE");
        let definitions: HashMap<_, _> =
            tables.map(|entry| ((&entry.namespace, &entry.tag), entry.defn.as_deref())).collect();
        let field = |data: &TocEntry| {
            let definition = (*definitions.get(&(&data.namespace, &data.tag))?)?;
            let columns = CopyTarget::parse(data.copy_stmt.as_deref()?.trim())?;
            let mut columns = columns.column_list().split(", ");
            let position = columns.position(|column| is_zoned(definition, column))?;
            Some((data.dump_id, position))
        };
        self.fields = toc.entries.iter().filter(|entry| entry.is_table_data()).filter_map(field).collect();
    }

    /// Looks at the first whole row of each table in a block.
    pub fn look(&self, block: &CutBlock) -> Result<(), OtherZone> {
        let layout = &block.layout;
        for span in layout.spans.iter().filter(|span| span.kind == DataKind::Table) {
            let Some(field) = self.fields.get(&span.dump_id) else { continue };
            let is_continued = span.range.start == 0;
            if is_continued && layout.starts_mid_row {
                continue;
            }
            let open_chunk = if is_continued { layout.open_chunk } else { 0 };
            if let Some(row) = first_row(&block.bytes[span.range.clone()], open_chunk) {
                self.judge(row.split(|byte| *byte == b'\t').nth(*field).unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn judge(&self, field: &[u8]) -> Result<(), OtherZone> {
        let Some((instant, written)) = std::str::from_utf8(field).ok().and_then(read) else { return Ok(()) };
        match self.zone.to_offset(instant) == written {
            true => Ok(()),
            false => {
                Err(OtherZone { zone: self.name.clone(), found: String::from_utf8_lossy(field).into_owned() })
            }
        }
    }
}

/// The line of the definition that begins with the column.
fn is_zoned(definition: &str, column: &str) -> bool {
    let of_type =
        |line: &str| line.trim_start().strip_prefix(column).is_some_and(|rest| rest.starts_with(TYPE));
    definition.lines().any(of_type)
}

fn first_row(chunks: &[u8], open_chunk: u32) -> Option<Vec<u8>> {
    let mut text = CopyText::resume(open_chunk, false);
    let mut row = Vec::new();
    for piece in text.pieces(chunks) {
        let piece = piece.ok()?;
        match piece.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                row.extend_from_slice(&piece[..end]);
                return Some(row);
            }
            None => row.extend_from_slice(piece),
        }
    }
    None
}

/// Reads `2026-11-24 01:30:00.25+01`; nothing where it is no such time, or of no year that matters.
fn read(field: &str) -> Option<(Timestamp, Offset)> {
    let sign = field.rfind(['+', '-']).filter(|at| *at > "2026-11-24".len())?;
    let (clock, written) = field.split_at(sign);
    let clock = DateTime::strptime("%Y-%m-%d %H:%M:%S%.f", clock).ok()?;
    let offset = offset(written)?;
    let instant = offset.to_timestamp(clock).ok()?;
    YEARS.contains(&clock.year()).then_some((instant, offset))
}

/// Reads `+01`, `-03:30`, `+00:53:28`.
fn offset(written: &str) -> Option<Offset> {
    let mut seconds = 0;
    for (part, unit) in written.get(1..)?.split(':').zip([3600, 60, 1]) {
        seconds += part.parse::<i32>().ok()? * unit;
    }
    Offset::from_seconds(if written.starts_with('-') { -seconds } else { seconds }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witness(zone: &str) -> ZoneWitness {
        ZoneWitness::new(zone, TimeZone::get(zone).unwrap())
    }

    #[test]
    fn a_row_refutes_another_zone_and_its_own_passes() {
        let berlin = witness("Europe/Berlin");
        for row in ["2026-01-01 01:00:00+01", "2026-07-01 02:00:00.123456+02", "\\N", "infinity", "x"] {
            assert_eq!(berlin.judge(row.as_bytes()), Ok(()), "{row}");
        }
        let found = "2026-01-01 00:00:00+00".to_owned();
        let zone = "Europe/Berlin".to_owned();
        assert_eq!(berlin.judge(found.as_bytes()), Err(OtherZone { zone, found }));
        assert!(witness("UTC").judge(b"2026-01-01 01:00:00+01").is_err());
        assert!(witness("America/St_Johns").judge(b"2026-01-01 01:00:00-03:30").is_ok());
        // Local mean time, and years that no computer has seen.
        assert!(witness("UTC").judge(b"1890-01-01 01:00:00+00:53:28").is_ok());
    }

    #[test]
    fn a_column_is_known_by_its_line() {
        let definition = "CREATE TABLE public.t (\n    id integer NOT NULL,\n    \"at it\" timestamp with time zone NOT NULL,\n    \
                          plain timestamp without time zone\n);\n";
        assert!(is_zoned(definition, "\"at it\""));
        assert!(!is_zoned(definition, "plain") && !is_zoned(definition, "id") && !is_zoned(definition, "at"));
    }

    #[test]
    fn the_first_row_is_put_together_from_chunks() {
        let chunks = b"\0\x03\0\0\x001\t2\0\x04\0\0\0\t3\n4\0\0\0\0\0";
        assert_eq!(first_row(chunks, 0).unwrap(), b"1\t2\t3");
        assert_eq!(first_row(b"\0\x05\0\0\0\\.\n\n\n\0\0\0\0\0", 0), None);
    }
}
