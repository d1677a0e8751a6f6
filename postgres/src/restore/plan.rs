//! What a restore will do, decided before anything is touched: which bytes are fetched, in which pieces.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use pgproof_repository::inventory::{Inventory, Table};

use super::error::RestoreError;
use super::frames::FrameMap;

/// Smallest piece of a table that is worth a connection of its own, in bytes of the archive: two frames.
const PIECE_BYTES_MIN: u64 = 8 << 20;
/// Pieces of the largest tables for each connection, so that the last ones end at about the same time.
const PIECES_PER_JOB: u64 = 4;
/// Connections from which on a large table is split. Two of them gain nothing on the two processors that they keep busy:
/// what the load gains, the index builds lose, whose rows then come in another order and not yet frozen (measured with
/// `tests/bench/main-job`).
const SPLIT_JOBS_MIN: usize = 3;
/// Small tables that share a frame are loaded by one worker, up to this many, to fetch the frame once.
const TABLES_PER_UNIT_MAX: usize = 64;
/// Data of a table without rows: the end of its COPY text and of its chunks, with headers, in bytes.
const EMPTY_TABLE_BYTES_MAX: u64 = 64;

/// The whole plan. Printing it is the dry run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub database: String,
    pub source: String,
    pub backup: String,
    pub snapshot_at: jiff::Timestamp,
    pub mode: Mode,
    pub tables: usize,
    pub rows: u64,
    /// Bytes of the archives that are loaded.
    pub plain_bytes: u64,
    /// Bytes fetched from the store for that.
    pub fetched_bytes: u64,
    pub pieces: usize,
    pub jobs: usize,
    pub large_objects: bool,
    pub selected: Option<String>,
}

/// How data gets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Pieces of tables over several connections.
    Parallel,
    /// The whole stream into one `pg_restore`, and why.
    Serial { reason: String },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "restore {} of source {} into new database {:?}",
            self.backup, self.source, self.database
        )?;
        writeln!(f, "  snapshot of    {}", self.snapshot_at)?;
        if let Some(selected) = &self.selected {
            writeln!(f, "  only           {selected}")?;
        }
        match &self.mode {
            Mode::Parallel => writeln!(
                f,
                "  load           {} tables, {} rows, in {} pieces over {} connections",
                self.tables, self.rows, self.pieces, self.jobs
            )?,
            Mode::Serial { reason } => writeln!(f, "  load           serially, because {reason}")?,
        }
        if self.large_objects {
            writeln!(f, "  large objects  yes")?;
        }
        writeln!(f, "  fetch          {} bytes, {} unpacked", self.fetched_bytes, self.plain_bytes)?;
        write!(f, "  then           indexes, constraints, triggers over {} connections, ANALYZE", self.jobs)
    }
}

/// A part of one table's data that one COPY loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Load {
    /// Index into the archive's tables.
    pub(crate) table: usize,
    pub(crate) range: Range<u64>,
    /// The load is all of the table.
    pub(crate) whole: bool,
}

impl Load {
    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// What one worker takes at a time: consecutive bytes of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Index into the inventory's archives.
    pub(crate) archive: usize,
    pub(crate) loads: Vec<Load>,
    pub(crate) bytes: u64,
}

/// Every unit of the inventory's wanted tables, largest first.
pub(crate) fn units(
    inventory: &Inventory,
    maps: &[FrameMap],
    wanted: &dyn Fn(usize, &Table) -> bool,
    jobs: usize,
) -> Vec<Unit> {
    let mut units = Vec::new();
    let loaded = |archive: usize, table: &Table| wanted(archive, table) && !is_empty(table);
    let all = inventory.archives.iter().enumerate();
    let bytes: u64 = all
        .flat_map(|(archive, described)| described.tables.iter().filter(move |table| loaded(archive, table)))
        .map(|table| table.end - table.start)
        .sum();
    let share = bytes / jobs.max(1) as u64;
    for (archive, map) in maps.iter().enumerate() {
        let tables = &inventory.archives[archive].tables;
        let mut order: Vec<usize> = (0..tables.len()).filter(|&i| loaded(archive, &tables[i])).collect();
        order.sort_by_key(|&i| tables[i].start);
        let mut small = SmallTables::new(archive);
        for index in order {
            let table = &tables[index];
            let frames = map.overlapping(&(table.start..table.end));
            if frames.len() == 1 {
                small.add(index, table, frames.start, &mut units);
            } else {
                units.extend(pieces(archive, index, table, map, jobs, share));
            }
        }
        small.flush(&mut units);
    }
    units.sort_by_key(|unit| std::cmp::Reverse(unit.bytes));
    units
}

/// Whether a table's data holds no rows: there is nothing to fetch for it.
pub(crate) fn is_empty(table: &Table) -> bool {
    table.rows == 0 && table.end - table.start <= EMPTY_TABLE_BYTES_MAX
}

/// A large table's pieces: they begin where a frame begins with a row. A table that is no more than one connection's
/// `share` of all bytes stays whole: two connections that extend one table wait for each other, and only a whole table
/// can be written as already frozen.
fn pieces(archive: usize, index: usize, table: &Table, map: &FrameMap, jobs: usize, share: u64) -> Vec<Unit> {
    let bytes = table.end - table.start;
    let pieces = (jobs as u64 * PIECES_PER_JOB).max(1);
    let is_split = jobs >= SPLIT_JOBS_MIN && bytes > share;
    let goal = if is_split { (bytes / pieces).max(PIECE_BYTES_MIN) } else { u64::MAX };
    let frames = map.overlapping(&(table.start..table.end));
    let mut cuts = vec![table.start];
    for at in frames.skip(1) {
        let frame = map.get(at);
        let start = frame.record.plain_offset;
        let last = *cuts.last().unwrap_or(&table.start);
        if !frame.starts_mid_row && start - last >= goal && table.end - start >= goal / 2 {
            cuts.push(start);
        }
    }
    cuts.push(table.end);
    let whole = cuts.len() == 2;
    let unit = |ends: &[u64]| {
        let load = Load { table: index, range: ends[0]..ends[1], whole };
        Unit { archive, bytes: ends[1] - ends[0], loads: vec![load] }
    };
    cuts.windows(2).map(unit).collect()
}

/// Gathers small tables that lie in the same frame.
struct SmallTables {
    unit: Unit,
    frame: usize,
}

impl SmallTables {
    fn new(archive: usize) -> Self {
        Self { unit: Unit { archive, loads: Vec::new(), bytes: 0 }, frame: 0 }
    }

    fn add(&mut self, index: usize, table: &Table, frame: usize, units: &mut Vec<Unit>) {
        if frame != self.frame || self.unit.loads.len() >= TABLES_PER_UNIT_MAX {
            self.flush(units);
            self.frame = frame;
        }
        self.unit.bytes += table.end - table.start;
        self.unit.loads.push(Load { table: index, range: table.start..table.end, whole: true });
    }

    fn flush(&mut self, units: &mut Vec<Unit>) {
        let empty = Unit { archive: self.unit.archive, loads: Vec::new(), bytes: 0 };
        let unit = std::mem::replace(&mut self.unit, empty);
        if !unit.loads.is_empty() {
            units.push(unit);
        }
    }
}

/// Sealed bytes that the units fetch: frames are fetched once for each unit.
pub(crate) fn fetched_bytes(units: &[Unit], maps: &[FrameMap]) -> u64 {
    let of_unit = |unit: &Unit| {
        let map = &maps[unit.archive];
        let frames: HashSet<usize> =
            unit.loads.iter().flat_map(|load| map.overlapping(&load.range)).collect();
        frames.into_iter().map(|at| u64::from(map.get(at).record.sealed_bytes)).sum::<u64>()
    };
    units.iter().map(of_unit).sum()
}

/// Refuses an inventory in which two tables claim the same bytes.
pub(crate) fn check_disjoint(inventory: &Inventory) -> Result<(), RestoreError> {
    for archive in &inventory.archives {
        let tables = archive.tables.iter().map(|t| (t.start, t.end));
        let mut ranges: Vec<_> = tables.chain(archive.blobs.iter().map(|b| (b.start, b.end))).collect();
        ranges.sort_unstable();
        if ranges.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(RestoreError::Inventory { why: "two entries' data overlap".to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use pgproof_repository::inventory::{Archive, FORMAT, Frame, VERSION};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn table(dump_id: i32, start: u64, end: u64, rows: u64) -> Table {
        let name = format!("t{dump_id}");
        Table {
            dump_id,
            schema: "public".into(),
            name,
            copy: String::new(),
            rows,
            digest: "0".repeat(32),
            start,
            end,
        }
    }

    fn inventory(tables: Vec<Table>, frames: &[(u32, bool)]) -> Inventory {
        let frames = frames.iter().map(|(bytes, mid)| Frame(*bytes, 100, 0, *mid, "0".repeat(32))).collect();
        let archive =
            Archive { object: "data.000.zst.age".into(), head_bytes: 0, tables, blobs: Vec::new(), frames };
        let settings = std::collections::BTreeMap::new();
        Inventory {
            format: FORMAT.into(),
            version: VERSION,
            archives: vec![archive],
            facts: serde_json::Value::Null,
            server_settings: settings,
            sequences: None,
            large_objects: None,
            structure: None,
            wording: None,
        }
    }

    fn units_of(inventory: &Inventory, jobs: usize) -> Vec<Unit> {
        let maps = vec![FrameMap::new(&inventory.archives[0]).unwrap()];
        units(inventory, &maps, &|_, _| true, jobs)
    }

    #[test]
    fn a_large_table_is_cut_where_frames_begin_with_a_row() {
        let frames: Vec<_> = (0..40).map(|i| (4 << 20, i % 4 == 2)).collect();
        let inventory = inventory(vec![table(1, 10, 160 * MIB, 9)], &frames);
        let units = units_of(&inventory, 3);
        assert!(units.len() > 6, "{}", units.len());
        let mut ranges: Vec<_> = units.iter().map(|u| u.loads[0].range.clone()).collect();
        ranges.sort_by_key(|r| r.start);
        assert_eq!((ranges[0].start, ranges.last().unwrap().end), (10, 160 * MIB));
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
            assert_ne!((pair[1].start / (4 * MIB)) % 4, 2, "a piece begins inside a row");
        }
        assert!(units.iter().all(|u| !u.loads[0].whole));
    }

    #[test]
    fn one_connection_or_small_tables_need_no_cuts() {
        let frames = [(4 << 20, false), (4 << 20, false), (4 << 20, false)];
        let tables =
            vec![table(1, 0, 10 * MIB, 9), table(2, 10 * MIB, 11 * MIB, 1), table(3, 11 * MIB, 12 * MIB, 1)];
        let inventory = inventory(tables, &frames);
        let units = units_of(&inventory, 1);
        assert_eq!(units.len(), 2);
        assert!(units.iter().flat_map(|u| &u.loads).all(|load| load.whole));
        assert_eq!(units[1].loads.len(), 2, "tables of one frame go together");
    }

    #[test]
    fn tables_without_rows_are_not_fetched_and_overlaps_are_refused() {
        let empty = inventory(vec![table(1, 0, 20, 0)], &[(100, false)]);
        assert!(units_of(&empty, 2).is_empty());
        let overlapping = inventory(vec![table(1, 0, 50, 1), table(2, 40, 60, 1)], &[(100, false)]);
        assert!(check_disjoint(&overlapping).is_err());
        let outside = inventory(vec![table(1, 0, 150, 1)], &[(100, false)]);
        assert!(FrameMap::new(&outside.archives[0]).is_err());
    }
}
