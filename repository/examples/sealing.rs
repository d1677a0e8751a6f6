//! How fast sealing and reading back are here, and how much memory they take:
//! `cargo run --release -p pgproof-repository --example sealing -- [MiB] [workers] [level]`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pgproof_repository::keys::{Identities, NoPrompts, Recipients, generate_identity};
use pgproof_repository::sealed::{Expected, SealJob, SealedReader, Sealer};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::{PutCondition, Store};

const BLOCK_BYTES: usize = 4 << 20;
const PART_BYTES: u64 = 16 << 20;
/// Parts kept for reading back; the others are dropped, so that what is measured is the sealer's memory.
const KEPT_BYTES_MAX: usize = 256 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mebibytes = arguments.next().transpose()?.unwrap_or(1024);
    let workers = arguments.next().transpose()?.unwrap_or(2);
    let level = i32::try_from(arguments.next().transpose()?.unwrap_or(3))?;
    let keep = mebibytes << 20 <= KEPT_BYTES_MAX;

    let (secret, recipient) = generate_identity();
    let identities = Identities::parse(&secret, "example".as_ref(), Arc::new(NoPrompts))?;
    let rows = rows();
    let (mut sealer, mut parts) =
        Sealer::start(&Recipients::parse([recipient])?, level, workers, |_| PART_BYTES)?;
    let consumer = std::thread::spawn(move || {
        let mut kept: Vec<Bytes> = Vec::new();
        while let Some(part) = parts.blocking_recv() {
            if keep {
                kept.push(part);
            }
        }
        kept.concat()
    });
    let started = Instant::now();
    for _ in 0..(mebibytes << 20) / BLOCK_BYTES {
        let mut block = sealer.buffer();
        block.extend_from_slice(&rows);
        sealer.submit(SealJob::new(block, |_| ()))?;
    }
    let summary = sealer.finish()?;
    report("sealed", summary.plaintext.bytes, started);
    println!(
        "ratio {:.2}, peak memory {} MiB",
        summary.plaintext.bytes as f64 / summary.ciphertext.bytes as f64,
        peak_memory_mebibytes()
    );
    let object = consumer.join().expect("the consumer does not panic");
    if !keep {
        return Ok(());
    }

    let runtime = tokio::runtime::Runtime::new()?;
    let store = MemoryStore::new();
    let key: pgproof_repository::ids::ObjectKey = "object".parse()?;
    runtime.block_on(store.put(&key, object.into(), PutCondition::IfAbsent))?;
    let expected = Expected { plaintext: summary.plaintext, ciphertext: summary.ciphertext };
    let reader = SealedReader::open(Arc::new(store), runtime.handle().clone(), key, expected, &identities)?;
    let started = Instant::now();
    reader.stream()?.check()?;
    report("streamed and checked", summary.plaintext.bytes, started);
    let started = Instant::now();
    for frame in reader.read_frames(summary.frames.iter().map(|(frame, ())| *frame))? {
        frame?;
    }
    report("read by frames, one thread", summary.plaintext.bytes, started);
    Ok(())
}

/// A block of rows like those of a table of orders.
fn rows() -> Vec<u8> {
    let mut rows = Vec::with_capacity(BLOCK_BYTES);
    let mut state = 1_u64;
    while rows.len() < BLOCK_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let row = format!(
            "{}\t2026-11-{:02} {:02}:{:02}:00+00\tcustomer {}\t{}.{:02}\t\\N\tshipped\n",
            rows.len() / 60,
            state >> 60,
            (state >> 50) % 24,
            (state >> 40) % 60,
            state >> 44,
            (state >> 30) % 5000,
            (state >> 20) % 100
        );
        rows.extend_from_slice(row.as_bytes());
    }
    rows.truncate(BLOCK_BYTES);
    rows
}

fn report(what: &str, bytes: u64, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / seconds);
}

/// Linux only; elsewhere 0.
fn peak_memory_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
