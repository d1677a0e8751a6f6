//! Drills of whole and of damaged backups, as the verifier runs them.

use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};

const CHECK_FAILED: i32 = 4;

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

/// The first drill tests the verifier's own alarm, later ones when their turn comes or when asked.
#[test]
fn negative_control_calls_every_damaged_copy_bad() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["backup", SOURCE]);
    let before = sandbox.objects();
    let first = sandbox.drill(&[]);
    let control = &first["negative_control"];
    assert_eq!(control["outcome"], "passed", "{control:#}");
    let damages = control["damages"].as_array().expect("damages");
    assert!(damages.len() >= 6 && damages.iter().all(|damage| damage["noticed"] == true), "{control:#}");
    assert_eq!(first["verdict"], "passed", "what was damaged is a copy: {first:#}");
    let unchanged = |name: &&String| {
        !["/verifications/", "/pins/"].iter().any(|folder| name.contains(folder))
            && !name.starts_with("leases/")
    };
    let after = sandbox.objects();
    assert!(after.iter().filter(unchanged).eq(before.iter().filter(unchanged)), "{after:#?}");
    sandbox.run_well(&["check", SOURCE, "--read-data"]);

    let second = sandbox.drill(&[]);
    assert_eq!(second["negative_control"]["outcome"], "not_run", "{second:#}");
    assert_eq!(second["negative_control"]["last_made"], 1);
    let asked = sandbox.drill(&["--negative-control"]);
    assert_eq!(asked["negative_control"]["outcome"], "passed", "{asked:#}");
    assert_eq!(asked["negative_control"]["last_made"], 3);
}

#[test]
fn a_newest_backup_without_a_signature_is_passed_over_and_named() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.run_well(&["backup", SOURCE]);
    let signed = sandbox.good_ids().remove(0);
    sandbox.run_well(&["backup", SOURCE]);
    let newest = sandbox.good_ids().into_iter().find(|id| *id != signed).expect("a second backup");
    let signature = sandbox.objects_named("manifest.json.sig");
    let signature = signature.iter().find(|path| path.to_string_lossy().contains(&newest));
    std::fs::remove_file(signature.expect("the newest one's signature")).expect("own file");
    let report = sandbox.drill(&[]);
    assert_eq!((&report["verdict"], &report["backup"]), (&"degraded".into(), &signed.into()), "{report:#}");
    let selection = check(&report, "selection");
    assert!(selection["reason"].as_str().expect("a reason").contains(&newest), "{selection:#}");
    let asked = sandbox.verify(&["drill", SOURCE, "--backup", &newest]);
    assert_eq!(asked.code, Some(CHECK_FAILED), "{}", asked.stderr);
    assert!(asked.stderr.contains("is not signed"), "{}", asked.stderr);
}

#[test]
fn a_hole_in_the_chain_that_no_tombstone_explains_degrades_the_drill() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    for _ in 0..3 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let lost = sandbox.good_ids().remove(1);
    let folder = sandbox.repository_folder().join(SOURCE).join("backups").join(&lost);
    std::fs::remove_dir_all(folder).expect("own folder");
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    let chain = check(&report, "chain");
    assert_eq!(chain["outcome"], "degraded");
    assert!(chain["reason"].as_str().expect("a reason").contains(&lost), "{chain:#}");
}

fn check<'a>(report: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}
