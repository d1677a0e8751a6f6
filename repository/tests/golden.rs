//! One golden file of each stored document and version: it reads for ever, and is written as it was.
//!
//! Documents whose types are private, or another crate's, are read beside them; this knows of their files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pgproof_repository::acts::{Act, What};
use pgproof_repository::catalog::Marker;
use pgproof_repository::configuration::Configuration;
use pgproof_repository::custody::{Challenge, Custody};
use pgproof_repository::inventory::Inventory;
use pgproof_repository::records::{Hold, Run, RunOutcome, Tombstone};
use pgproof_repository::restore_point::RestorePoint;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What lies in a repository, by the names of the golden files: with a dot behind it, one of several forms.
const DOCUMENTS: [&str; 19] = [
    "act",
    "alerts-sent",
    "challenge",
    "configuration",
    "custody",
    "files-inventory",
    "hold",
    "host-index",
    "index",
    "inventory",
    "lease",
    "lease-claim",
    "manifest",
    "pin",
    "report",
    "repository",
    "restore-point",
    "run",
    "tombstone",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Reads a golden file, and compares it with what is written today.
fn kept<T: Serialize + DeserializeOwned>(name: &str) -> T {
    let text = fs::read_to_string(folder().join(format!("{name}.v1.json"))).unwrap();
    let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::to_string_pretty(&read).unwrap() + "\n", text, "{name}");
    read
}

#[test]
fn every_document_has_a_golden_file_and_every_file_is_of_a_document() {
    let names =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let of = |name: String| {
        let (stem, version) =
            name.rsplit_once(".v1.json").unwrap_or_else(|| panic!("{name} is of no version"));
        assert!(matches!(version, "" | "l"), "{name}");
        stem.split('.').next().unwrap().to_owned()
    };
    let found: BTreeSet<String> = names.map(of).collect();
    let expected = DOCUMENTS.map(str::to_owned).into_iter().collect();
    assert_eq!(found, expected);
}

#[test]
fn how_runs_ended_reads_for_ever_and_is_written_as_it_was() {
    assert!(
        matches!(kept::<Run>("run.committed").outcome, RunOutcome::Committed { warnings } if warnings.len() == 1)
    );
    assert!(matches!(kept::<Run>("run.unchanged").outcome, RunOutcome::Unchanged { .. }));
    assert!(matches!(kept::<Run>("run.failed").outcome, RunOutcome::Failed { .. }));
    // As a version wrote it that noted less.
    let mut older: serde_json::Value = serde_json::to_value(kept::<Run>("run.failed")).unwrap();
    older.as_object_mut().unwrap().remove("policy_sha256");
    older["outcome"].as_object_mut().unwrap().remove("cause");
    let older: Run = serde_json::from_value(older).unwrap();
    assert_eq!(older.policy_sha256, None);
}

#[test]
fn records_read_for_ever_and_are_written_as_they_were() {
    assert_eq!(kept::<Hold>("hold").reason, "before the migration");
    assert_eq!(kept::<Tombstone>("tombstone").host, "pruner");
    assert_eq!(kept::<Custody>("custody").recipients.len(), 2);
    assert_eq!(kept::<Challenge>("challenge").canaries.len(), 1);
    let point: RestorePoint = kept("restore-point");
    assert_eq!(point.members.iter().map(|member| member.unchanged).collect::<Vec<_>>(), [false, true]);
    assert!(matches!(kept::<Act>("act").what, What::Restore { .. }));
    assert!(matches!(kept::<Act>("act.hold").what, What::Hold { .. }));
    assert!(matches!(kept::<Act>("act.release").what, What::Release { .. }));
    assert!(matches!(kept::<Act>("act.prune").what, What::Prune { confirmed: Some(1), .. }));
}

#[test]
fn documents_read_for_ever_and_are_written_as_they_were() {
    assert_eq!(kept::<Marker>("repository").version, 1);
    let inventory: Inventory = kept("inventory");
    assert_eq!((inventory.archives[0].frames.len(), inventory.sequences.unwrap().len()), (2, 1));
    assert_eq!(kept::<Configuration>("configuration").files[0].content.0, b"answer = 42\n");
}
