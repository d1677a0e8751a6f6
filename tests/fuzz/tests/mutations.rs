//! Sound inputs with damage in them: bytes flipped, taken out, put in, repeated, cut off, and numbers made huge.

use std::time::Instant;

use peak_alloc::PeakAlloc;
use pgproof_fuzz::{PATIENCE, TARGETS, seeds};
use pgproof_repository::sealed::unseal_bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Damaged inputs for each target.
const CASES: u32 = 2_000;
/// Memory that a reader may take whatever it is given, in bytes: windows and tables of decoders, and time zones.
const MEMORY_BYTES: usize = 24 << 20;
/// What it may take for each byte of its input. Documents are held as trees, and written and read once more.
const MEMORY_PER_BYTE: usize = 200;
/// Damages to one input.
const DAMAGES_MAX: usize = 6;
/// Bytes that readers of lengths and of texts trip over.
const NASTY: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'\n', b'{', b'[', b'9', b'-'];

#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Nasty(Index, Index),
    Remove(Index, usize),
    Repeat(Index, usize),
    Insert(Index, Vec<u8>),
    Huge(Index),
    Cut(Index),
}

impl Damage {
    fn make(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        let span = |at: &Index, wanted: usize| {
            let start = at.index(length);
            start..(start + wanted).min(length)
        };
        match self {
            Self::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Self::Nasty(at, which) => bytes[at.index(length)] = NASTY[which.index(NASTY.len())],
            Self::Remove(at, count) => drop(bytes.drain(span(at, *count))),
            Self::Repeat(at, count) => {
                let range = span(at, *count);
                let piece = bytes[range.clone()].to_vec();
                bytes.splice(range.start..range.start, piece);
            }
            Self::Insert(at, piece) => {
                let start = at.index(length);
                bytes.splice(start..start, piece.iter().copied());
            }
            Self::Huge(at) => {
                let range = span(at, 4);
                bytes[range].fill(0xff);
            }
            Self::Cut(at) => bytes.truncate(at.index(length)),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 1u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        4 => (any::<Index>(), any::<Index>()).prop_map(|(at, which)| Damage::Nasty(at, which)),
        2 => (any::<Index>(), 1usize..40).prop_map(|(at, count)| Damage::Remove(at, count)),
        2 => (any::<Index>(), 1usize..400).prop_map(|(at, count)| Damage::Repeat(at, count)),
        2 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, piece)| Damage::Insert(at, piece)),
        1 => any::<Index>().prop_map(Damage::Huge),
        1 => any::<Index>().prop_map(Damage::Cut),
    ]
}

fn survives(target: &str) {
    let (_, read) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let seeds = seeds::of(target);
    assert!(!seeds.is_empty());
    // What is made once belongs to no input.
    seeds.iter().for_each(|seed| read(seed));
    let inputs = (prop::sample::select(seeds), prop::collection::vec(damage(), 1..=DAMAGES_MAX));
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let outcome = runner.run(&inputs, |(mut bytes, damages)| {
        damages.iter().for_each(|damage| damage.make(&mut bytes));
        let (before, since) = (ALLOCATED.current_usage(), Instant::now());
        ALLOCATED.reset_peak_usage();
        read(&bytes);
        let taken = ALLOCATED.peak_usage().saturating_sub(before);
        prop_assert!(
            taken <= MEMORY_BYTES + MEMORY_PER_BYTE * bytes.len(),
            "{taken} bytes for {}",
            bytes.len()
        );
        prop_assert!(since.elapsed() < PATIENCE.unsigned_abs(), "took {:?}", since.elapsed());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{target}: {failure}");
    }
}

#[test]
fn every_target_has_a_test_and_a_fuzzer() {
    let here = include_str!("mutations.rs");
    let cargo = include_str!("../Cargo.toml");
    for (target, _) in TARGETS {
        assert!(here.contains(&format!("survives(\"{target}\")")), "{target}");
        assert!(cargo.contains(&format!("fuzz_targets/{target}.rs")), "{target}");
    }
}

#[test]
fn sound_seeds_are_taken() {
    let signature = seeds::of("signature").remove(0);
    let text = std::str::from_utf8(&signature).unwrap();
    assert!(seeds::signers().verify(seeds::NAMESPACE, seeds::MESSAGE, text, seeds::at()).is_ok());
    let plain = unseal_bytes(seeds::identities(), &seeds::of("sealed")[0], 1 << 20, None).unwrap();
    assert_eq!(plain, b"a row\n".repeat(200));
}

#[test]
fn damaged_archive() {
    survives("archive");
}

#[test]
fn damaged_manifest() {
    survives("manifest");
}

#[test]
fn damaged_inventory() {
    survives("inventory");
}

#[test]
fn damaged_report() {
    survives("report");
}

#[test]
fn damaged_files_index() {
    survives("files_index");
}

#[test]
fn damaged_policy() {
    survives("policy");
}

#[test]
fn damaged_globals() {
    survives("globals");
}

#[test]
fn damaged_moment() {
    survives("moment");
}

#[test]
fn damaged_trusted_signers() {
    survives("trusted_signers");
}

#[test]
fn damaged_signature() {
    survives("signature");
}

#[test]
fn damaged_sealed() {
    survives("sealed");
}
