//! How fast blocks become frames, frames an age file, and parts an object:
//! `cargo bench --workspace --bench sealing`.

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::keys::{Recipients, generate_identity};
use pgproof_repository::lifecycle::upload_parts;
use pgproof_repository::sealed::{SealJob, Sealer};
use pgproof_repository::store::memory::MemoryStore;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const BLOCK_BYTES: usize = 4 << 20;
const BLOCKS: usize = 8;
const PART_BYTES: usize = 8 << 20;
const PARTS: usize = 8;
/// As the agent uploads.
const UPLOADS_IN_FLIGHT: usize = 3;
/// The fastest, and the one that backups have by default.
const LEVELS: [i32; 2] = [1, 3];

fn main() {
    divan::main();
}

/// A frame is compressed, decoded again and compared, and hashed, all on one worker; age, which is several times as fast,
/// has a thread of its own.
#[divan::bench(args = LEVELS, sample_count = 10)]
fn frames_of_rows(bencher: Bencher<'_, '_>, level: i32) {
    let block = rows();
    bencher.counter(BytesCount::new(BLOCKS * BLOCK_BYTES)).bench(|| seal(black_box(&block), level));
}

#[divan::bench(args = LEVELS, sample_count = 10)]
fn frames_of_random_bytes(bencher: Bencher<'_, '_>, level: i32) {
    let block = noise();
    bencher.counter(BytesCount::new(BLOCKS * BLOCK_BYTES)).bench(|| seal(black_box(&block), level));
}

#[divan::bench(sample_count = 20)]
fn age_writer(bencher: Bencher<'_, '_>) {
    let (recipients, bytes) = (recipients(), noise());
    bencher.counter(BytesCount::of_slice(&bytes)).bench(|| {
        let mut writer = recipients.encrypt_writer(io::sink()).expect("a recipient");
        writer.write_all(black_box(&bytes)).expect("a sink takes all");
        writer.finish().expect("a sink takes all")
    });
}

/// What putting parts side by side costs by itself: the store takes them as they are, without copying or hashing a byte.
#[divan::bench(sample_count = 20)]
fn part_uploader(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().expect("a runtime");
    let part = Bytes::from(noise().repeat(PART_BYTES / BLOCK_BYTES));
    bencher.counter(ItemsCount::new(PARTS)).bench(|| runtime.block_on(upload(black_box(&part))));
}

fn seal(block: &[u8], level: i32) -> u64 {
    let part_bytes = |_| PART_BYTES as u64;
    let (mut sealer, mut parts) = Sealer::start(&recipients(), level, 1, part_bytes).expect("threads");
    let taker = thread::spawn(move || while parts.blocking_recv().is_some() {});
    for _ in 0..BLOCKS {
        let mut bytes = sealer.buffer();
        bytes.extend_from_slice(block);
        sealer.submit(SealJob::new(bytes, |_| ())).expect("somebody takes the parts");
    }
    let summary = sealer.finish().expect("somebody takes the parts");
    taker.join().expect("taking parts does not panic");
    summary.ciphertext.bytes
}

async fn upload(part: &Bytes) {
    let (sender, parts) = mpsc::channel(1);
    let key: ObjectKey = "object".parse().expect("a key");
    let uploading = tokio::spawn(upload_parts(Arc::new(MemoryStore::new()), key, parts, UPLOADS_IN_FLIGHT));
    for _ in 0..PARTS {
        sender.send(part.clone()).await.expect("the uploader takes parts");
    }
    drop(sender);
    let parts = uploading.await.expect("uploading does not panic").expect("memory takes all");
    parts.abort_or_tell().await;
}

fn recipients() -> Recipients {
    Recipients::parse([generate_identity().1]).expect("a recipient")
}

/// A block of rows like those of a table of orders.
fn rows() -> Vec<u8> {
    let mut rows = Vec::with_capacity(BLOCK_BYTES);
    let mut numbers = Numbers(1);
    while rows.len() < BLOCK_BYTES {
        let (at, customer, price) = (numbers.next(), numbers.next(), numbers.next());
        writeln!(
            rows,
            "{}\t2026-11-{:02} {:02}:{:02}:00+00\tcustomer {}\t{}.{:02}\t\\N\tshipped",
            rows.len() / 60,
            1 + at % 28,
            (at >> 8) % 24,
            (at >> 16) % 60,
            customer % 100_000,
            price % 5000,
            (price >> 16) % 100
        )
        .expect("memory takes all");
    }
    rows.truncate(BLOCK_BYTES);
    rows
}

fn noise() -> Vec<u8> {
    let mut numbers = Numbers(7);
    (0..BLOCK_BYTES / 8).flat_map(|_| numbers.next().to_le_bytes()).collect()
}

/// Numbers that nothing can compress, the same in every run (<https://prng.di.unimi.it/splitmix64.c>).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
