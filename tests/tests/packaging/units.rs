//! The systemd units: what systemd itself says of them, offline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use pgproof_tests::binaries::{pgproof, pgproof_verifier, workspace};
use pgproof_tests::postgres_server::succeed;

/// In tenths: systemd calls up to 4.9 fine, and a unit without any protection 9.6.
const EXPOSURE_MAX: &str = "20";

#[test]
fn systemd_finds_no_fault_with_a_unit() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let programs = [("/usr/bin/pgproof-verifier ", pgproof_verifier()), ("/usr/bin/pgproof ", pgproof())];
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for path in units("").into_values() {
        let mut text = std::fs::read_to_string(&path).expect("a unit");
        for (installed, built) in programs {
            text = text.replace(installed, &format!("{} ", built.display()));
        }
        let copy = folder.path().join(path.file_name().expect("a unit's name"));
        std::fs::write(&copy, text).expect("own file");
        verify.arg(copy);
    }
    // It ends well although it found something, so that what it says counts.
    let output = succeed(&mut verify);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn services_are_exposed_to_little() {
    let services = units(".service");
    assert_eq!(services.len(), 6, "{services:?}");
    for path in services.into_values() {
        is_within(&path);
    }
}

/// With what an administrator may add, too.
#[test]
fn reading_all_files_exposes_to_little_more() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let merged = folder.path().join("pgproof.service");
    let unit = std::fs::read_to_string(&units(".service")["pgproof.service"]).expect("a unit");
    let drop_in =
        std::fs::read_to_string(units_folder().join("drop-ins/read-all-files.conf")).expect("a drop-in");
    std::fs::write(&merged, format!("{unit}\n{drop_in}")).expect("own file");
    is_within(&merged);
}

/// Each unit stands for itself, so that what is said twice must be the same.
#[test]
fn services_of_one_program_have_the_same_protection() {
    for program in ["pgproof", "pgproof-verifier"] {
        let mut protections = BTreeSet::new();
        for path in units(".service").into_values() {
            let text = std::fs::read_to_string(&path).expect("a unit");
            if text.contains(&format!("User={program}\n")) {
                let from = text.find("NoNewPrivileges=").expect("the first line of its protection");
                let own =
                    text[from..].split("\n[Install]").next().expect("a first part").trim_end().to_owned();
                protections.insert(own);
            }
        }
        assert_eq!(protections.len(), 1, "{program}: {protections:#?}");
    }
}

fn is_within(unit: &std::path::Path) {
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX]);
    succeed(security.arg(unit));
}

fn units_folder() -> PathBuf {
    workspace().join("packaging/systemd")
}

/// The units whose names end so, by name.
fn units(ending: &str) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(units_folder()).expect("the units").map(|entry| entry.expect("a file"));
    let files = entries.filter(|entry| entry.path().is_file());
    let named = files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named.filter(|(name, _)| name.ends_with(ending)).collect()
}
