//! The tables of a report as CSV, for spreadsheets.
//!
//! Times are text in UTC. A cell of text that a spreadsheet could take for a formula (it starts with `=`, `+`, `-`, `@`,
//! a tab or a carriage return) gets an apostrophe in front, and so does one that starts with an apostrophe: whoever reads
//! the file by program takes one leading apostrophe off and has the name as it was.

use std::borrow::Cow;

use pgproof_repository::report::v1::{Report, Table};

/// What a spreadsheet may take for the start of a formula (<https://owasp.org/www-community/attacks/CSV_Injection>),
/// and the guard itself.
const GUARDED: [char; 7] = ['=', '+', '-', '@', '\t', '\r', '\''];

const COLUMNS: [&str; 12] = [
    "source",
    "report",
    "backup",
    "snapshot_at_utc",
    "schema",
    "table",
    "rows_backed_up",
    "rows_restored",
    "digest_backed_up",
    "digest_restored",
    "equal",
    "problem",
];

/// A line for each table that was compared.
pub(crate) fn csv(report: &Report) -> String {
    let rows = report.tables.iter().map(|table| row(report, table));
    written(COLUMNS, rows)
}

/// CSV of these lines; every cell is guarded.
pub(super) fn written<const N: usize>(columns: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let memory = "memory takes all, and every line has as many cells";
    writer.write_record(columns).expect(memory);
    for row in rows {
        writer.write_record(row.iter().map(|cell| guarded(cell).into_owned())).expect(memory);
    }
    String::from_utf8(writer.into_inner().expect(memory)).expect("cells are text")
}

fn row(report: &Report, table: &Table) -> [String; COLUMNS.len()] {
    let found = table.found.as_ref();
    [
        report.source.to_string(),
        report.number.to_string(),
        report.backup.to_string(),
        report.snapshot_at.to_string(),
        table.schema.clone(),
        table.name.clone(),
        table.expected.rows.to_string(),
        found.map(|found| found.rows.to_string()).unwrap_or_default(),
        table.expected.digest.clone(),
        found.map(|found| found.digest.clone()).unwrap_or_default(),
        if table.equal { "yes" } else { "no" }.to_owned(),
        table.problem.clone().unwrap_or_default(),
    ]
}

/// The cell as a spreadsheet must read it: as text.
fn guarded(cell: &str) -> Cow<'_, str> {
    if cell.starts_with(GUARDED) { format!("'{cell}").into() } else { cell.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn formulas_become_text_and_the_guard_comes_off_again() {
        for hostile in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "'"] {
            let cell = guarded(hostile);
            assert_eq!(cell.strip_prefix('\''), Some(hostile), "{hostile:?}");
        }
        for plain in ["", "orders", "a=b", "Täble", " =1"] {
            assert_eq!(guarded(plain), plain);
        }
    }

    #[test]
    fn every_table_is_a_line_with_its_names_unspoilt() {
        let mut report = sample::rich();
        report.tables[0].name = "=HYPERLINK(\"x\",\"y\"), \n'quoted'".to_owned();
        report.tables[1].found = None;
        report.tables[1].equal = false;
        let text = csv(&report);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().len(), COLUMNS.len());
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), report.tables.len());
        assert_eq!(rows[0][5], format!("'{}", report.tables[0].name));
        assert_eq!((&rows[1][7], &rows[1][10]), ("", "no"));
        assert_eq!(&rows[2][3], "2026-11-24T02:00:00.25Z");
    }
}
