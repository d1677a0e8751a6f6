//! How the rows of a database are divided among the streams of its dump.
//!
//! What a complete dump holds, the table of contents of one says. The largest plain tables of it get streams of their
//! own; the main stream keeps everything else. What each stream then turns out to hold is held against that, table by
//! table, so that no table is ever in none, or in two.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::archive::{Toc, TocEntry};
use crate::dump::TableName;
use crate::snapshot::RelationFacts;

/// Tables with fewer bytes together stay in one stream: further ones take longer to begin than they save.
const DIVIDED_BYTES_MIN: u64 = 128 << 20;
/// A smaller table stays in the main stream: it is a block or less.
const MOVED_BYTES_MIN: u64 = 4 << 20;
/// Most tables that leave the main stream. Each is named on two command lines, which Linux ends at 2 MiB.
const MOVED_TABLES_MAX: usize = 2000;
/// Tables that an error names.
const NAMED_MAX: usize = 5;

/// Which rows each stream holds. The first stream is the main one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    streams: Vec<Stream>,
}

/// What one stream holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stream {
    /// Tables by their oids.
    tables: BTreeMap<u32, TableName>,
    /// What they take in the database, without indexes.
    pub bytes: u64,
}

/// A stream that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Misdivided {
    #[error("stream {stream} lacks the rows of {}", named(tables))]
    Missing { stream: usize, tables: Vec<TableName> },
    #[error("stream {stream} holds rows that belong to another, of {}", named(tables))]
    Surplus { stream: usize, tables: Vec<TableName> },
}

impl Division {
    /// Divides what a dump with these contents holds among at most `jobs` streams. Sizes are the relations', and those of
    /// large objects, which stay in the main stream like everything that is no plain table.
    pub fn of(contents: &Toc, relations: &[RelationFacts], large_object_bytes: u64, jobs: usize) -> Self {
        let rows: BTreeMap<u32, TableName> =
            contents.tables_with_rows().map(|entry| (entry.oid, name_of(entry))).collect();
        let movable = movable(contents, relations, &rows);
        let all: u64 = relations.iter().filter(|r| rows.contains_key(&r.oid)).map(|r| r.bytes).sum();
        let moved: u64 = movable.iter().map(|relation| relation.bytes).sum();
        let mut streams = vec![Stream::default(); jobs.max(1)];
        streams[0].bytes = all.saturating_sub(moved) + large_object_bytes;
        if moved < DIVIDED_BYTES_MIN {
            streams.truncate(1);
        }
        for relation in movable {
            let least = (0..streams.len()).min_by_key(|&at| (streams[at].bytes, at)).unwrap_or(0);
            streams[least].tables.insert(relation.oid, rows[&relation.oid].clone());
            streams[least].bytes += relation.bytes;
        }
        let others: BTreeSet<u32> =
            streams[1..].iter().flat_map(|stream| stream.tables.keys().copied()).collect();
        streams[0].tables = rows.into_iter().filter(|(oid, _)| !others.contains(oid)).collect();
        let mut at = 0;
        streams.retain(|stream| {
            at += 1;
            at == 1 || !stream.tables.is_empty()
        });
        Self { streams }
    }

    /// Whether it can come to more than one stream at all; asking costs nothing.
    pub fn is_worth_while(relations: &[RelationFacts], jobs: usize) -> bool {
        let bytes: u64 = relations.iter().filter(|r| is_plain(r)).map(|relation| relation.bytes).sum();
        jobs > 1 && bytes >= DIVIDED_BYTES_MIN
    }

    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// The tables whose rows are not in the main stream.
    pub fn moved(&self) -> Vec<TableName> {
        self.streams[1..].iter().flat_map(Stream::tables).cloned().collect()
    }

    /// Whether a stream holds what it should, by its own table of contents.
    pub fn check(&self, stream: usize, contents: &Toc) -> Result<(), Misdivided> {
        let mut missing = self.streams[stream].tables.clone();
        let found = contents.tables_with_rows();
        // What comes twice is surplus the second time.
        let surplus: Vec<_> =
            found.filter(|entry| missing.remove(&entry.oid).is_none()).map(name_of).collect();
        if !surplus.is_empty() {
            return Err(Misdivided::Surplus { stream, tables: surplus });
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Misdivided::Missing { stream, tables: missing.into_values().collect() }),
        }
    }
}

impl Stream {
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.tables.values()
    }
}

/// The tables that may leave the main stream, largest first.
fn movable<'a>(
    contents: &Toc,
    relations: &'a [RelationFacts],
    rows: &BTreeMap<u32, TableName>,
) -> Vec<&'a RelationFacts> {
    let made: BTreeSet<u32> =
        contents.entries.iter().filter(|entry| entry.desc == "TABLE").map(|entry| entry.oid).collect();
    let scattered: BTreeSet<u32> = contents
        .tables_with_rows()
        .filter(|entry| entry.goes_through_partition_root())
        .map(|entry| entry.oid)
        .collect();
    let mut movable: Vec<_> = relations
        .iter()
        .filter(|relation| is_plain(relation))
        .filter(|relation| made.contains(&relation.oid) && !scattered.contains(&relation.oid))
        // A name that is not UTF-8 was read with replacements, and could not be asked for.
        .filter(|relation| {
            rows.get(&relation.oid).is_some_and(|name| {
                (&name.schema, &name.name) == (&relation.schema, &relation.name)
                    && !format!("{name}").contains(char::REPLACEMENT_CHARACTER)
            })
        })
        .collect();
    movable.sort_by_key(|relation| (Reverse(relation.bytes), &relation.schema, &relation.name));
    movable.truncate(MOVED_TABLES_MAX);
    movable
}

/// An ordinary table, also a partition or one that inherits, of some size. An unlogged one has no rows on a standby.
fn is_plain(relation: &RelationFacts) -> bool {
    relation.kind == 'r'
        && relation.persistence == 'p'
        && !relation.of_extension
        && relation.bytes >= MOVED_BYTES_MIN
}

fn name_of(entry: &TocEntry) -> TableName {
    TableName { schema: entry.namespace.clone().unwrap_or_default(), name: entry.tag.clone() }
}

fn named(tables: &[TableName]) -> String {
    let mut names: Vec<String> = tables.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if tables.len() > NAMED_MAX {
        names.push(format!("{} more", tables.len() - NAMED_MAX));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests;
