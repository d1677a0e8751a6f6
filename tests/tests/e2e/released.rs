//! What released versions wrote is read, checked and restored by today's programs, for ever.

use std::fs;
use std::path::Path;

use pgproof_tests::binaries::workspace;
use pgproof_tests::released::{self, SETTINGS, UPLOADS, VARIABLE};
use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};
use serde_json::Value;

#[test]
fn repositories_of_every_released_version_are_read_and_restored() {
    let folders = released::folders();
    assert!(!folders.is_empty());
    for folder in folders {
        let sandbox = released::sandbox_with(&folder);
        let expected = released::expectations(&folder);
        is_listed_and_well_signed(&sandbox, &expected);
        database_is_restored(&sandbox, &expected["app"]);
        for backup in expected["uploads"].as_array().expect("backups") {
            files_are_restored(&sandbox, backup);
        }
        settings_are_restored(&sandbox, &expected["settings"]);
        report_is_read(&sandbox);
        goes_on(&sandbox, &expected["app"]["backup"]);
    }
}

#[test]
fn every_release_left_a_repository() {
    let changes = fs::read_to_string(workspace().join("CHANGELOG.md")).expect("the changelog");
    let headings = changes.lines().filter_map(|line| line.strip_prefix("## "));
    let versions = headings.filter_map(|heading| heading.split_whitespace().next());
    for version in versions.filter(|version| version.starts_with(|first: char| first.is_ascii_digit())) {
        let folder = workspace().join("tests/fixtures/repositories").join(version);
        assert!(folder.is_dir(), "{version} left none: see packaging/releasing.md");
    }
}

fn is_listed_and_well_signed(sandbox: &Sandbox, expected: &Value) {
    for (source, backups) in [(SOURCE, 1), (UPLOADS, 2), (SETTINGS, 1)] {
        let listed = sandbox.run_well(&["list", source, "--json"]).json();
        let good = listed.as_array().expect("a list").iter().filter(|line| line["standing"] == "good");
        assert_eq!(good.count(), backups, "{listed:#}");
        sandbox.run_well(&["check", source, "--read-data"]);
        sandbox.run_well(&["audit", source]);
    }
    let points = sandbox.run_well(&["restore-point", "list"]).text();
    assert!(points.contains("release"), "{points}");
    let listed = sandbox.run_well(&["list", SOURCE, "--json"]).json();
    assert_eq!((&listed[0]["id"], &listed[0]["held"]), (&expected["app"]["backup"], &Value::Bool(true)));
}

fn database_is_restored(sandbox: &Sandbox, expected: &Value) {
    sandbox.run_well(&["restore", SOURCE, "--backup", text(&expected["backup"]), "--into", "back", "--yes"]);
    assert_eq!(sandbox.server.psql("back", text(&expected["question"])), text(&expected["answer"]));
}

fn files_are_restored(sandbox: &Sandbox, expected: &Value) {
    let restored =
        restored_into_folder(sandbox, &["restore", UPLOADS, "--backup", text(&expected["backup"])]);
    assert_eq!(serde_json::json!(released::digests(restored.path())), expected["files"]);
}

fn settings_are_restored(sandbox: &Sandbox, expected: &Value) {
    let restored = restored_into_folder(sandbox, &["restore", SETTINGS, "--at", "now"]);
    let files = released::digests(&restored.path().join("files"));
    assert_eq!(serde_json::json!(files), expected["files"]);
    let variables = fs::read_to_string(restored.path().join("environment/01-file.env")).expect("variables");
    assert!(variables.contains(VARIABLE), "{variables}");
}

fn restored_into_folder(sandbox: &Sandbox, arguments: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut arguments = arguments.to_vec();
    arguments.extend(["--to", path(folder.path())]);
    sandbox.run_well(&arguments);
    folder
}

fn report_is_read(sandbox: &Sandbox) {
    let well = |outcome: Outcome| {
        assert!(outcome.succeeded(), "{}\n{}", outcome.text(), outcome.stderr);
        outcome
    };
    let shown = well(sandbox.verify(&["report", "show", SOURCE, "latest", "--json"])).json();
    assert_eq!(shown["verdict"], "passed", "{shown:#}");
    let folder = tempfile::tempdir().expect("a folder");
    let to = path(folder.path());
    well(sandbox.verify(&["report", "export", SOURCE, "--to", to]));
    let signers = sandbox.path("trusted_signers");
    well(sandbox.verify(&["report", "check", to, "--signers", path(&signers)]));
}

/// An older repository is not only read: it is written on.
fn goes_on(sandbox: &Sandbox, backup: &Value) {
    let drilled = sandbox.drill(&["--backup", text(backup)]);
    assert_eq!(drilled["verdict"], "passed", "{drilled:#}");
    assert_eq!(drilled["number"], 2, "{drilled:#}");
    sandbox.server.psql("postgres", &format!("alter database back rename to {SOURCE}"));
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.good_ids().len(), 2);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value:#}"))
}
