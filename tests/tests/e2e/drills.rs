//! Drills of whole and of damaged backups, as the verifier runs them.

use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};

#[test]
fn drill_of_a_whole_backup_passes_and_counts_as_proof() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let first = sandbox.drill(&[]);
    assert_eq!(first["verdict"], "passed", "{first:#}");
    assert_eq!((&first["number"], &first["previous"]["state"]), (&1.into(), &"none".into()));
    assert!(sandbox.good_backups()[0]["proved_at"].is_string());
    let second = sandbox.drill(&[]);
    assert_eq!((&second["number"], &second["previous"]["number"]), (&2.into(), &1.into()), "{second:#}");
}

#[test]
fn drill_of_a_backup_with_a_flipped_byte_fails() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.run_well(&["backup", SOURCE]);
    let path = sandbox.object("data.000.zst.age");
    let mut bytes = std::fs::read(&path).expect("the archive");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("a damaged archive");
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "failed", "{report:#}");
    assert!(sandbox.good_backups()[0]["failed_at"].is_string());
}
