//! How fast an archive is cut at its rows, and how fast the rows are counted and hashed:
//! `cargo bench --workspace --bench archive`.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use pgproof_postgres::archive::{CutBlock, Cutter};
use pgproof_postgres::digest::digest_block;

#[expect(dead_code, reason = "the tests compare more of an archive than its bytes")]
#[path = "../tests/support/synthetic.rs"]
mod synthetic;

/// Enough for several blocks of 4 MiB.
const ROWS_BYTES: usize = 32 << 20;
/// Narrow rows, rows of the usual width, and wide ones, in bytes.
const WIDTHS: [usize; 3] = [40, 250, 4 << 10];
const OBJECT_BYTES: usize = 1 << 20;
/// `pg_dump` writes a chunk for each row that the server sends.
const CHUNK_A_ROW: usize = 0;

fn main() {
    divan::main();
}

#[divan::bench(args = WIDTHS, sample_count = 20)]
fn cut_rows(bencher: Bencher<'_, '_>, width: usize) {
    let bytes = table(width);
    bencher.counter(BytesCount::of_slice(&bytes)).bench(|| blocks(black_box(&bytes)).len());
}

#[divan::bench(sample_count = 20)]
fn cut_large_objects(bencher: Bencher<'_, '_>) {
    // None is numbered 0, which ends them.
    let objects = (1..=ROWS_BYTES / OBJECT_BYTES).map(|id| (id as u32, row(id, OBJECT_BYTES)));
    let bytes = synthetic::archive(14, &[synthetic::Data::Blobs(objects.collect())]).bytes;
    bencher.counter(BytesCount::of_slice(&bytes)).bench(|| blocks(black_box(&bytes)).len());
}

#[divan::bench(args = WIDTHS, sample_count = 20)]
fn digest_rows(bencher: Bencher<'_, '_>, width: usize) {
    let bytes = table(width);
    let blocks = blocks(&bytes);
    bencher.counter(BytesCount::of_slice(&bytes)).bench(|| {
        let digests = blocks.iter().map(|block| digest_block(black_box(block)));
        digests.collect::<Result<Vec<_>, _>>().expect("rows that are whole")
    });
}

fn table(width: usize) -> Vec<u8> {
    let rows = (0..ROWS_BYTES / width).map(|number| row(number, width)).collect();
    synthetic::archive(14, &[synthetic::Data::Rows { rows, chunk: CHUNK_A_ROW }]).bytes
}

fn row(number: usize, width: usize) -> Vec<u8> {
    let mut row = format!("{number}\t2026-11-24 02:00:00+00\tshipped ").into_bytes();
    row.resize(width, b'x');
    row
}

fn blocks(archive: &[u8]) -> Vec<CutBlock> {
    let mut cutter = Cutter::new(archive);
    let blocks = std::iter::from_fn(|| cutter.next_block().expect("a whole archive")).collect();
    cutter.finish().expect("a whole archive");
    blocks
}
