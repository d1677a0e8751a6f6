//! The audit trail: every act is listed, and what was changed or removed shows.

use std::path::{Path, PathBuf};

use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;

const INTEGRITY: i32 = 4;

#[test]
fn every_act_is_listed_in_order_and_checks() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let ids = one_of_each(&sandbox);
    let audit = sandbox.run_well(&["audit", SOURCE, "--json"]).json();
    assert_eq!(audit["findings"], Value::Array(Vec::new()));
    let acts = audit["acts"].as_array().expect("acts");
    let kinds: Vec<&str> = acts.iter().map(|act| act["act"].as_str().expect("a kind")).collect();
    let expected = [
        "backup", "backup", "drill", "custody", "hold", "restore", "restore", "release", "removal", "policy",
        "prune",
    ];
    assert_eq!(kinds, expected, "{audit:#}");
    assert!(acts.iter().all(|act| act["who"] == "backup-host@example.org" && act["host"].is_string()));
    assert_eq!(acts[4]["outcome"], "evidence");
    assert!(acts[5]["outcome"].as_str().expect("told").starts_with("done: database restored"), "{audit:#}");
    assert!(acts[6]["outcome"].as_str().expect("told").starts_with("failed: "), "{audit:#}");
    assert_eq!((&acts[8]["backup"], &acts[0]["backup"]), (&ids[0].clone().into(), &ids[0].clone().into()));

    let text = sandbox.run_well(&["audit"]).text();
    assert!(text.contains("backup-host@example.org on "), "{text}");
    assert!(text.ends_with("11 act(s), all of which check\n"), "{text}");
    let later = sandbox.run_well(&["audit", "--since", "now", "--json"]).json();
    assert_eq!(later["acts"], Value::Array(Vec::new()));
}

#[test]
fn what_was_altered_or_removed_is_found() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let ids = one_of_each(&sandbox);
    let found = |what: &str| {
        let audit = sandbox.run(&["audit", SOURCE, "--json"]);
        assert_eq!(audit.code, Some(INTEGRITY), "{what}: {}", audit.text());
        audit.json()["findings"].to_string()
    };
    for record in records(&sandbox) {
        let put_back = std::fs::read(&record).expect("a record");
        let mut changed = put_back.clone();
        let host = changed.windows(7).position(|seven| seven == b"\"host\":").expect("a host") + 9;
        changed[host] ^= 1;
        std::fs::write(&record, changed).expect("altered");
        let name = record.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(found(&name).contains(&name), "{name}");
        std::fs::remove_file(&record).expect("removed");
        // Whether it is a finding depends on who names it; that it is told does not.
        let audit = sandbox.run(&["audit", SOURCE, "--json"]).json();
        let told = format!("{}{}", audit["findings"], audit["remains"]);
        assert!(told.contains("stands alone") && told.contains(&name), "{name}: {told}");
        std::fs::write(&record, put_back).expect("put back");
    }
    sandbox.run_well(&["audit", SOURCE]);
    // As a record that is named, and as one that is not: it may have died with its writer.
    for (record, code, told) in [
        (act(&sandbox, 2), INTEGRITY, "its record was removed, for act 3 followed it"),
        (
            sandbox.object(&format!("pruned/{}.json", ids[0])),
            INTEGRITY,
            "stands alone: its record was removed",
        ),
        (sandbox.object(&format!("runs/{}.json", ids[1])), 0, "nothing names its record"),
    ] {
        let kept = std::fs::read(&record).expect("a record");
        std::fs::remove_file(&record).expect("removed");
        let audit = sandbox.run(&["audit", SOURCE]);
        assert!(audit.code == Some(code) && audit.text().contains(told), "{}", audit.text());
        std::fs::write(&record, kept).expect("put back");
    }

    // With its signature, each as FORMAT.md promises.
    for (record, promised) in [
        (act(&sandbox, 2), "act 2 is missing"),
        (sandbox.object(&format!("pruned/{}.json", ids[0])), "its tombstone is gone"),
        (sandbox.object(&format!("pruned/{}.json", ids[0])), "committed and is gone"),
    ] {
        let kept = take_away(&record);
        assert!(found(promised).contains(promised), "{promised}: {}", found(promised));
        give_back(&record, &kept);
    }
    sandbox.run_well(&["hold", SOURCE, &ids[1], "--reason", "evidence"]);
    take_away(&sandbox.object("hold.json"));
    assert!(found("a hold").contains("nobody gave it back"));
}

#[test]
fn who_may_only_read_restores_and_is_told_that_no_record_was_left() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.proxy.add(Rule::new(Fault::Status(403)).method("PUT"));
    let restore = sandbox.run(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
    assert_eq!(restore.code, Some(0), "{}", restore.stderr);
    assert!(restore.stderr.contains("no pin could be left"), "{}", restore.stderr);
    assert!(restore.stderr.contains("no record of this act could be left"), "{}", restore.stderr);
    assert!(restore.stderr.contains("not permitted"), "{}", restore.stderr);
    assert_eq!(sandbox.server.psql("restored", "select count(*) from notes"), "500");
}

/// Two backups of which the older one is drilled, held, restored, given back and pruned by another policy.
fn one_of_each(sandbox: &Sandbox) -> Vec<String> {
    for _ in 0..2 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let ids = sandbox.good_ids();
    let drilled = sandbox.verify(&["drill", SOURCE, "--json"]);
    assert!(drilled.succeeded(), "{}", drilled.stderr);
    // The second key is not here, which is no failure of the record.
    let second = sandbox.path("second-identity.txt");
    let custody =
        sandbox.verify(&["restorability", SOURCE, "--identity", second.to_str().expect("UTF-8"), "--json"]);
    assert!(custody.succeeded(), "{}", custody.stderr);
    sandbox.run_well(&["hold", SOURCE, &ids[0], "--reason", "evidence"]);
    sandbox.run_well(&["restore", SOURCE, "--backup", &ids[0], "--into", "restored", "--yes"]);
    // There is one of that name now.
    assert!(
        !sandbox.run(&["restore", SOURCE, "--backup", &ids[0], "--into", "restored", "--yes"]).succeeded()
    );
    sandbox.run_well(&["release", SOURCE, &ids[0]]);
    let policy = std::fs::read_to_string(sandbox.policy()).expect("the policy");
    std::fs::write(sandbox.policy(), policy.replace("daily = 30", "last = 1")).expect("another policy");
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    ids
}

/// Every signed record but manifests.
fn records(sandbox: &Sandbox) -> Vec<PathBuf> {
    let named = sandbox.objects_named(".json").into_iter();
    named
        .filter(|path| {
            let name = path.to_string_lossy();
            ["/audit/", "/runs/", "/pruned/", "/verifications/", "/custody/"]
                .iter()
                .any(|it| name.contains(it))
        })
        .collect()
}

fn act(sandbox: &Sandbox, number: u64) -> PathBuf {
    sandbox.object(&format!("{number:08}.json"))
}

fn signature_of(record: &Path) -> PathBuf {
    let mut name = record.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Removes a record with its signature.
fn take_away(record: &Path) -> [Vec<u8>; 2] {
    [record.to_owned(), signature_of(record)].map(|path| {
        let bytes = std::fs::read(&path).expect("a record");
        std::fs::remove_file(path).expect("removed");
        bytes
    })
}

fn give_back(record: &Path, kept: &[Vec<u8>; 2]) {
    for (path, bytes) in [record.to_owned(), signature_of(record)].iter().zip(kept) {
        std::fs::write(path, bytes).expect("put back");
    }
}
