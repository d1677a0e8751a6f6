//! What others wrote and the packages bring along: from one registry, under licences that deny.toml allows, and named.

use std::collections::BTreeSet;
use std::process::Command;

use pgproof_tests::binaries::workspace;
use pgproof_tests::postgres_server::succeed;
use serde_json::Value;
use spdx::{Expression, ParseMode};

/// The essentials of `cargo deny check`, which takes longer to install than all of this to run.
#[test]
fn dependencies_are_what_deny_toml_allows() {
    let text = std::fs::read_to_string(workspace().join("deny.toml")).expect("deny.toml");
    let deny: toml::Table = text.parse().expect("TOML");
    let allowed: BTreeSet<&str> = deny["licenses"]["allow"]
        .as_array()
        .expect("licences")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let denied: BTreeSet<&str> = deny["bans"]["deny"]
        .as_array()
        .expect("bans")
        .iter()
        .filter_map(|ban| ban["crate"].as_str())
        .collect();
    assert!(denied.contains("openssl-sys"), "{denied:?}");
    let packages = dependencies();
    assert!(packages.len() > 300, "{}", packages.len());
    for package in &packages {
        let name = text_of(&package["name"]);
        assert!(!denied.contains(name), "{name} is denied");
        let licence = text_of(&package["license"]);
        let expression = Expression::parse_mode(licence, ParseMode::LAX).expect(name);
        // An exception only takes conditions away.
        let is_allowed = expression
            .evaluate(|asked| asked.license.id().is_some_and(|licence| allowed.contains(licence.name)));
        assert!(is_allowed, "{name}: {licence}");
    }
    let sources: BTreeSet<&str> = packages.iter().map(|package| text_of(&package["source"])).collect();
    assert!(
        sources.len() == 1 && sources.iter().all(|source| source.starts_with("registry+")),
        "{sources:?}"
    );
}

#[test]
fn packages_name_what_is_linked_in() {
    for program in ["pgproof", "pgproof-verifier"] {
        let mut list = Command::new(workspace().join("packaging/debian/third-parties"));
        let told = String::from_utf8_lossy(&succeed(list.arg(program)).stdout).into_owned();
        let (names, texts) = told.split_once("=====\n").expect("texts below the names");
        for linked in ["age", "ring", "rustls", "tokio-postgres", "zstd-sys"] {
            assert!(names.contains(&format!("\n  {linked} ")), "{program}: {linked}");
        }
        for other in ["cc", "proptest", "serde_derive"] {
            assert!(!names.contains(&format!("\n  {other} ")), "{program}: {other}");
        }
        // What lies deeper than the crate's own folder, too: the C library in it.
        assert!(texts.contains("Meta Platforms, Inc. and affiliates. All rights reserved."), "{program}");
        assert!(texts.contains("Permission is hereby granted, free of charge"), "{program}");
    }
}

#[test]
fn bills_of_materials_name_what_is_linked_in_and_no_machine() {
    if !Command::new("cargo")
        .args(["cyclonedx", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("skipped: cargo-cyclonedx is not installed; only releases need it");
        return;
    }
    for program in ["pgproof", "pgproof-verifier"] {
        let mut bill = Command::new(workspace().join("packaging/debian/bill-of-materials"));
        let bill = succeed(bill.arg(program).env("SOURCE_DATE_EPOCH", "1700000000")).stdout;
        let bill: Value = serde_json::from_slice(&bill).expect("JSON");
        assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        assert_eq!(bill["metadata"]["component"]["name"], program);
        assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20.000000000Z");
        let parts = bill["components"].as_array().expect("components");
        let named = |name: &str| parts.iter().any(|part| part["name"] == name);
        assert!(["age", "ring", "rustls", "tokio-postgres", "zstd-sys"].into_iter().all(named), "{program}");
        assert!(!named("proptest") && !named("cc") && !named("pgproof-tests"), "{program}");
        assert!(!bill.to_string().contains(&*workspace().to_string_lossy()), "{program}");
    }
}

/// All that is compiled for Linux: also what only tests need.
fn dependencies() -> Vec<Value> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]);
    let metadata: Value =
        serde_json::from_slice(&succeed(cargo.current_dir(workspace())).stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().filter(|package| package["source"].is_string()).cloned().collect()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
