//! What hostile bytes may do to a reader: be refused, or be read as something that is written back the same. Never a
//! panic, never more memory than the bytes are worth.
//!
//! Each function is a target of `cargo fuzz`, which `tests/fuzz/run` starts with the [`seeds`]; `tests/mutations.rs` runs the
//! same ones over damaged seeds with the ordinary tests.

pub mod seeds;

use std::fmt::Debug;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgproof_files::entry::Entry;
use pgproof_files::path::StoredPath;
use pgproof_policies::moment;
use pgproof_policies::policy::Policy;
use pgproof_postgres::archive::selection::Selection;
use pgproof_postgres::archive::{CutBlock, Cutter, Limits, Outcome, Toc};
use pgproof_postgres::digest::digest_block;
use pgproof_postgres::globals::Globals;
use pgproof_repository::report::Report;
use pgproof_repository::sealed::unseal_bytes;
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::{configuration, inventory as inventories, manifest as manifests};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Blocks small enough that a short input has many of them.
const LIMITS: Limits = Limits { target: 256, hard: 512, share: 64 };
/// Largest plaintext that a small sealed object may have here: a compressed bomb stops at it.
const PLAIN_BYTES_MAX: u64 = 1 << 20;

/// Reads bytes that anybody may have written; panics where that did something it must not.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 11] = [
    ("archive", archive),
    ("manifest", manifest),
    ("inventory", inventory),
    ("report", report),
    ("files_index", files_index),
    ("policy", policy),
    ("globals", globals),
    ("moment", moment),
    ("trusted_signers", trusted_signers),
    ("signature", signature),
    ("sealed", sealed),
];

/// An archive of `pg_dump`, cut as a backup cuts it: whatever comes, the blocks put together are what was read.
pub fn archive(bytes: &[u8]) {
    if let Ok((toc, length)) = Toc::parse(bytes) {
        assert!(length <= bytes.len());
        let _ = (toc.sequence_values(), Selection::everything(&toc));
    }
    let mut cutter = Cutter::with_limits(bytes, LIMITS);
    let mut so_far = 0;
    loop {
        match cutter.next_block() {
            Ok(Some(block)) => so_far = take(&block, bytes, so_far),
            Ok(None) => break,
            // What is refused fails the backup.
            Err(_) => return,
        }
    }
    assert_eq!(so_far, bytes.len(), "bytes were lost");
    if let Ok(Outcome::Indexed(index)) = cutter.finish() {
        assert_eq!(index.archive_bytes, bytes.len() as u64);
        assert!(index.data.iter().all(|span| span.start <= span.end && span.end <= index.archive_bytes));
    }
}

fn take(block: &CutBlock, bytes: &[u8], so_far: usize) -> usize {
    let end = so_far + block.bytes.len();
    assert_eq!(block.layout.plain_offset, so_far as u64);
    assert!(bytes.get(so_far..end) == Some(&block.bytes[..]), "a block is not what was read");
    // Rows of a damaged chunk are refused; of a sound one they are counted.
    let _ = digest_block(block);
    end
}

pub fn manifest(bytes: &[u8]) {
    reads_what_it_writes(bytes, manifests::parse);
}

pub fn inventory(bytes: &[u8]) {
    reads_what_it_writes(bytes, inventories::parse);
    reads_what_it_writes(bytes, configuration::Configuration::parse);
}

/// A report's text, which is looked at only after its signature.
pub fn report(bytes: &[u8]) {
    reads_what_it_writes(bytes, |bytes| serde_json::from_slice::<Report>(bytes));
}

/// The inventory of files and the lines of their index: no path that is read leaves the folder.
pub fn files_index(bytes: &[u8]) {
    reads_what_it_writes(bytes, pgproof_files::inventory::parse);
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(entry) = Entry::read_line(line) else { continue };
        stays_inside(&entry.path);
        let content = entry.content().map(|content| (content.extents(), content.stored_bytes()));
        let mut written = Vec::new();
        entry.write_line(&mut written);
        let again = Entry::read_line(&written).expect("an entry that was written");
        assert_eq!(entry, again);
        assert_eq!(content, again.content().map(|content| (content.extents(), content.stored_bytes())));
    }
}

fn stays_inside(path: &StoredPath) {
    let names: Vec<&[u8]> = path.names().collect();
    let sound =
        |name: &&[u8]| !matches!(*name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
    assert!(!names.is_empty() && names.iter().all(sound), "{path:?}");
}

pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(problems) = Policy::parse(text, "policy.toml") {
        assert!(!problems.to_string().is_empty());
    }
}

/// Roles and tablespaces out of a backup: whatever is taken is a statement of the few kinds on the list.
pub fn globals(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(globals) = Globals::parse(text) else { return };
    for statement in &globals.statements {
        // Alone it is taken for the same: nothing hides behind it.
        let alone = Globals::parse(&format!("{};", statement.shown())).expect("a statement that was taken");
        let kinds: Vec<_> = alone.statements.iter().map(|alone| (alone.kind, &alone.object)).collect();
        assert_eq!(kinds, [(statement.kind, &statement.object)]);
    }
}

/// A time that is understood is the same when it is written in full.
pub fn moment(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("a time");
    for zone in [None, Some("Europe/Berlin")] {
        match moment::parse(text, zone, &TimeZone::UTC, now) {
            Ok(at) => assert_eq!(moment::parse(&at.to_string(), zone, &TimeZone::UTC, now), Ok(at)),
            Err(error) => assert!(!error.to_string().is_empty() && error.hint().is_some()),
        }
    }
}

pub fn trusted_signers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(signers) = TrustedSigners::parse(text) {
        assert!(signers.len() <= text.lines().count());
    }
}

/// Nothing but the very signature is taken for one.
pub fn signature(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if seeds::signers().verify(seeds::NAMESPACE, seeds::MESSAGE, text, seeds::at()).is_ok() {
        let printed = |text: &str| text.split_ascii_whitespace().collect::<String>();
        assert_eq!(printed(text), printed(seeds::SIGNATURE), "a second form of one signature is accepted");
    }
}

/// A small sealed object: what opens has at most the allowed length.
pub fn sealed(bytes: &[u8]) {
    if let Ok(plain) = unseal_bytes(seeds::identities(), bytes, PLAIN_BYTES_MAX, None) {
        assert!(plain.len() as u64 <= PLAIN_BYTES_MAX);
    }
}

fn reads_what_it_writes<T, E>(bytes: &[u8], read: impl Fn(&[u8]) -> Result<T, E>)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
    E: Debug,
{
    let Ok(value) = read(bytes) else { return };
    let written = serde_json::to_vec(&value).expect("stored documents can be written");
    assert_eq!(read(&written).expect("what was written"), value);
}

/// How long one input may take in [`TARGETS`], for those who measure it.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(5);
