//! Archives written by hand, cut in every way, put together again, truncated and damaged.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Result as IoResult};

use pgproof_postgres::archive::{ArchiveError, ArchiveIndex, CutBlock, Cutter, DataKind, Limits, Outcome};
use pgproof_postgres::digest::{RowDigest, RowHasher, digest_block};
use pgproof_postgres::payload::{CopyText, chunks_in_block};
use proptest::prelude::*;
use support::synthetic::{Archive, Data, archive};

/// A reader that gives at most so many bytes at a time, as a pipe does.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> IoResult<usize> {
        let most = into.len().min(self.1.max(1));
        self.0.read(&mut into[..most])
    }
}

fn small() -> Limits {
    Limits { target: 256, hard: 512, share: 64 }
}

fn cut(bytes: &[u8], limits: Limits, step: usize) -> Result<(Vec<CutBlock>, Outcome), ArchiveError> {
    let mut cutter = Cutter::with_limits(Dribble(bytes, step), limits);
    let mut blocks = Vec::new();
    while let Some(block) = cutter.next_block()? {
        blocks.push(block);
    }
    Ok((blocks, cutter.finish()?))
}

fn cut_indexed(bytes: &[u8], limits: Limits, step: usize) -> (Vec<CutBlock>, ArchiveIndex) {
    match cut(bytes, limits, step).expect("a sound archive") {
        (blocks, Outcome::Indexed(index)) => (blocks, *index),
        (_, Outcome::Uncut { reason, .. }) => panic!("uncut: {reason}"),
    }
}

fn rows(count: usize, length: usize) -> Vec<Vec<u8>> {
    (0..count).map(|row| format!("{row}\t{}", "x".repeat(length)).into_bytes()).collect()
}

/// Everything that is promised of any cut.
fn check(sound: &Archive, limits: Limits, step: usize) {
    let (blocks, index) = cut_indexed(&sound.bytes, limits, step);
    let recomposed: Vec<u8> = blocks.iter().flat_map(|block| block.bytes.clone()).collect();
    assert!(recomposed == sound.bytes, "the blocks are not what was read");
    assert_eq!(index.head_bytes as usize, sound.head);
    assert_eq!(index.archive_bytes as usize, sound.bytes.len());
    assert_eq!(index.large_objects, sound.large_objects);
    let mut digests: BTreeMap<i32, RowDigest> = index.giant_rows.clone();
    let mut offset = 0;
    for block in &blocks {
        assert_eq!(block.layout.plain_offset, offset);
        assert!(!block.bytes.is_empty() && block.bytes.len() <= limits.hard + 16, "{}", block.bytes.len());
        offset += block.bytes.len() as u64;
        for (id, digest) in digest_block(block).expect("chunks that the cutter read") {
            *digests.entry(id).or_default() += digest;
        }
    }
    for (id, range, expected) in &sound.tables {
        let span = index.data.iter().find(|span| span.dump_id == *id).expect("the table's place");
        assert_eq!((span.start as usize, span.end as usize), (range.start, range.end));
        assert_eq!(digests.get(id).copied().unwrap_or_default(), *expected, "table {id}");
        assert_eq!(read_in_runs(&blocks, &(span.start..span.end)), *expected, "table {id} in runs");
    }
    check_sharing(&blocks);
}

/// Reads a table as a restore does: each run of blocks from a row start on by itself.
fn read_in_runs(blocks: &[CutBlock], table: &std::ops::Range<u64>) -> RowDigest {
    let mut total = RowDigest::default();
    let mut run: Option<(CopyText, RowHasher)> = None;
    for block in blocks {
        let layout = &block.layout;
        let end = layout.plain_offset + block.bytes.len() as u64;
        if end <= table.start || layout.plain_offset >= table.end {
            continue;
        }
        let starts_inside = layout.plain_offset > table.start;
        if !(starts_inside && layout.starts_mid_row) {
            total +=
                run.take().map_or_else(RowDigest::default, |(_, rows)| rows.finish().expect("whole rows"));
            let open_chunk = if starts_inside { layout.open_chunk } else { 0 };
            run = Some((CopyText::resume(open_chunk, false), RowHasher::default()));
        }
        let (text, rows) = run.as_mut().expect("a run begins at a row");
        let range = chunks_in_block(layout.plain_offset, block.bytes.len(), table);
        for piece in text.pieces(&block.bytes[range]) {
            rows.update(piece.expect("sound chunks"));
        }
    }
    let (text, rows) = run.expect("the table has blocks");
    assert!(text.ended());
    total + rows.finish().expect("whole rows")
}

/// A block never holds parts of two tables that are both longer than a block.
fn check_sharing(blocks: &[CutBlock]) {
    let mut seen: BTreeMap<i32, usize> = BTreeMap::new();
    let spans = || blocks.iter().flat_map(|block| block.layout.spans.iter());
    spans().for_each(|span| *seen.entry(span.dump_id).or_default() += 1);
    for block in blocks {
        let large = block.layout.spans.iter().filter(|span| seen[&span.dump_id] > 1);
        assert!(large.count() <= 1, "two large tables in one block");
    }
}

#[test]
fn every_version_is_read() {
    for minor in 12..=16 {
        let data = [Data::Rows { rows: rows(100, 20), chunk: 0 }, Data::Blobs(vec![(7, vec![1; 40_000])])];
        let sound = archive(minor, &data);
        check(&sound, Limits::default(), usize::MAX);
        check(&sound, small(), 7);
    }
}

#[test]
fn empty_rows_are_rows_and_the_trailer_is_not() {
    for chunk in 0..12 {
        let tables =
            [vec![], vec![vec![]; 3], vec![b"\\\\.".to_vec(), vec![], b"\\N".to_vec(), b"a\\\\".to_vec()]];
        let data: Vec<Data> = tables.iter().map(|rows| Data::Rows { rows: rows.clone(), chunk }).collect();
        check(&archive(14, &data), small(), 1);
    }
}

#[test]
fn a_row_longer_than_any_block_is_hashed_in_pieces() {
    for chunk in [0, 100, 1 << 20] {
        let giant = |length: usize| vec![b'g'; length];
        let mut table = rows(3, 10);
        table.extend([giant(5000), giant(1), giant(700), giant(490), giant(2000), giant(3000)]);
        let data = [
            Data::Rows { rows: table, chunk },
            Data::Rows { rows: vec![giant(5000)], chunk },
            Data::Rows { rows: rows(2, 3), chunk },
        ];
        for step in [1, 13, usize::MAX] {
            check(&archive(16, &data), small(), step);
        }
    }
}

#[test]
fn rows_of_twenty_megabytes_pass_through_the_usual_limits() {
    let big = |byte: u8| vec![byte; 20 << 20];
    let mut table = rows(10, 100);
    table.extend([big(b'a'), big(b'b')]);
    table.extend(rows(10, 100));
    let sound = archive(
        15,
        &[Data::Rows { rows: table, chunk: 128 << 10 }, Data::Rows { rows: rows(5, 5), chunk: 0 }],
    );
    check(&sound, Limits::default(), 64 << 10);
}

#[test]
fn a_large_table_is_cut_at_its_end_and_small_ones_share() {
    let many: Vec<Data> = (0..50).map(|_| Data::Rows { rows: rows(2, 2), chunk: 0 }).collect();
    let mut data = vec![Data::Rows { rows: rows(100, 30), chunk: 0 }];
    data.extend(many);
    let sound = archive(14, &data);
    let (blocks, index) = cut_indexed(&sound.bytes, Limits { target: 1024, hard: 2048, share: 512 }, 100);
    let end = index.data[0].end;
    assert!(blocks.iter().any(|block| block.layout.plain_offset == end));
    assert!(blocks.iter().any(|block| block.layout.spans.len() > 5), "small tables share blocks");
    assert_eq!(blocks.iter().filter(|block| block.layout.starts_mid_row).count(), 0);
    assert_eq!(index.data.iter().filter(|span| span.kind == DataKind::Table).count(), 51);
}

#[test]
fn an_archive_that_ends_early_is_never_taken_for_whole() {
    let data = [
        Data::Rows { rows: rows(20, 30), chunk: 0 },
        Data::Rows { rows: rows(2, 900), chunk: 50 },
        Data::Blobs(vec![(u32::MAX, vec![7; 600]), (9, vec![])]),
        Data::Rows { rows: vec![], chunk: 0 },
    ];
    let sound = archive(16, &data);
    for length in 0..sound.bytes.len() {
        let error = cut(&sound.bytes[..length], small(), usize::MAX).expect_err("it is short");
        let known = matches!(error, ArchiveError::Truncated { .. } | ArchiveError::DataMissing { .. });
        assert!(known, "at {length}: {error}");
    }
    for garbage in [&b"\0"[..], b"\x01", b"PGDMP", b"\x01\0\x01\0\0\0\0\0\0\0\0"] {
        let longer = [&sound.bytes[..], garbage].concat();
        assert!(cut(&longer, small(), usize::MAX).is_err(), "{garbage:?}");
    }
}

#[test]
fn rows_after_the_end_marker_are_refused() {
    let table = [vec![b"\\.".to_vec()], rows(200, 20)].concat();
    let sound = archive(14, &[Data::Rows { rows: table, chunk: 0 }]);
    assert!(matches!(cut(&sound.bytes, small(), 64), Err(ArchiveError::Damaged { .. })));
}

#[test]
fn what_cannot_be_cut_passes_through_with_a_reason() {
    let sound = archive(16, &[Data::Rows { rows: rows(100, 30), chunk: 0 }]);
    let mut newer = sound.bytes.clone();
    newer[6] = 17;
    let mut compressed = sound.bytes.clone();
    compressed[11] = 1;
    for (bytes, words) in [(newer, "version 1.17"), (compressed, "compressed")] {
        let (blocks, outcome) = cut(&bytes, small(), 33).expect("it passes through");
        assert!(blocks.iter().flat_map(|block| block.bytes.clone()).eq(bytes.iter().copied()));
        let Outcome::Uncut { reason, archive_bytes } = outcome else { panic!("it was cut") };
        assert!(reason.contains(words), "{reason}");
        assert_eq!(archive_bytes as usize, bytes.len());
    }
    assert!(matches!(cut(b"-- SQL", small(), 9), Err(ArchiveError::NotCustom { .. })));
    assert!(matches!(cut(b"", small(), 9), Err(ArchiveError::Truncated { .. })));
}

fn any_row() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop::collection::vec(prop_oneof![Just(b'a'), Just(b'.'), Just(b'\t'), any::<u8>()], 0..40);
    let long = (0..3000usize).prop_map(|length| vec![b'l'; length]);
    let escaped = |row: Vec<u8>| {
        row.into_iter()
            .flat_map(|byte| match byte {
                b'\\' => b"\\\\".to_vec(),
                b'\n' => b"\\n".to_vec(),
                other => vec![other],
            })
            .collect::<Vec<u8>>()
    };
    prop_oneof![8 => plain, 1 => long].prop_map(escaped)
}

fn any_data() -> impl Strategy<Value = Data> {
    let chunk = prop_oneof![Just(0usize), 1..20usize, 100..2000usize];
    let rows =
        (prop::collection::vec(any_row(), 0..30), chunk).prop_map(|(rows, chunk)| Data::Rows { rows, chunk });
    let blob = (1..u32::MAX, prop::collection::vec(any::<u8>(), 0..2000));
    prop_oneof![4 => rows, 1 => prop::collection::vec(blob, 0..3).prop_map(Data::Blobs)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_archive_cut_anyhow_is_put_together_again(
        data in prop::collection::vec(any_data(), 0..6),
        minor in 12..=16u8,
        target in 64..1500usize,
        more in 64..1500usize,
        share in 0..1500usize,
        step in 1..400usize,
    ) {
        check(&archive(minor, &data), Limits { target, hard: target + more, share }, step);
    }

    #[test]
    fn damage_is_an_error_or_other_rows_and_never_a_panic(
        data in prop::collection::vec(any_data(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        step in 1..400usize,
    ) {
        let mut bytes = archive(16, &data).bytes;
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok((blocks, _)) = cut(&bytes, small(), step) {
            prop_assert!(blocks.iter().flat_map(|block| block.bytes.clone()).eq(bytes.iter().copied()));
            for block in &blocks {
                prop_assert!(digest_block(block).is_ok());
            }
        }
    }
}
