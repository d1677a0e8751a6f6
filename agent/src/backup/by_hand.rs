//! How a backup of a database is restored with stock tools alone, as its manifest tells.

use std::fmt::Write as _;

use pgproof_repository::layout;

/// A line, or for a dump in several streams a script for a POSIX shell.
///
/// Rows come in before the indexes and constraints, which the main archive has. Its own data comes last, because archives of a
/// table's rows set the table's sequence, too, to a later value than the one that belongs to the backup. What `pg_restore` does
/// not need it does not read to the end, so that the programs before it in a pipe may complain: its own exit status counts.
pub(super) fn restore(archives: usize) -> String {
    let main = layout::archive_name(0);
    if archives == 1 {
        return format!("{} | pg_restore -d DATABASE", opened(&main));
    }
    let mut script = format!(
        "set -e; part() {{ {} | pg_restore --exit-on-error -d DATABASE --section=$2; }}",
        opened("$1")
    );
    let mut add = |archive: &str, section: &str| {
        let _ = write!(script, "\npart {archive} {section}");
    };
    add(&main, "pre-data");
    for number in (1..).take(archives - 1) {
        add(&layout::archive_name(number), "data");
    }
    add(&main, "data");
    add(&main, "post-data");
    script
}

fn opened(archive: &str) -> String {
    format!("age -d -i IDENTITY {archive} | zstd -d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_archive_takes_a_line() {
        assert_eq!(restore(1), "age -d -i IDENTITY data.000.zst.age | zstd -d | pg_restore -d DATABASE");
    }

    #[test]
    fn rows_come_between_tables_and_constraints() {
        let script = restore(3);
        let steps: Vec<&str> = script.lines().skip(1).collect();
        let expected = [
            "part data.000.zst.age pre-data",
            "part data.001.zst.age data",
            "part data.002.zst.age data",
            "part data.000.zst.age data",
            "part data.000.zst.age post-data",
        ];
        assert_eq!(steps, expected);
    }
}
