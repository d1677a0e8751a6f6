//! What the commands tell that only look: list, show, check, and the archive for stock tools.

use std::io::Read;
use std::process::Stdio;

use pgproof_tests::sandbox::{SOURCE, Sandbox};

use crate::bad_days::is_told;

const NOTHING_FOUND: i32 = 3;

#[test]
fn list_shows_the_newest_and_says_how_to_see_more() {
    let sandbox = Sandbox::small();
    for _ in 0..3 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let ids = listed(&sandbox, &["--all"]);
    assert_eq!(ids.len(), 3);
    assert_eq!(listed(&sandbox, &[]), ids);
    let two = sandbox.run_well(&["list", "--limit", "2"]);
    assert!(two.text().contains(&ids[1]) && two.text().contains(&ids[2]), "{}", two.text());
    assert!(!two.text().contains(&ids[0]), "{}", two.text());
    let next = format!("pgproof list {SOURCE} --before {}", ids[1]);
    assert!(two.stderr.contains(&next), "{}", two.stderr);
    assert_eq!(listed(&sandbox, &["--before", &ids[1]]), ids[..1]);
    assert_eq!(listed(&sandbox, &["--before", "2099-01-01 00:00 UTC"]).len(), 3);
    let none = sandbox.run_well(&["list", "--before", "2020-01-01 00:00 UTC"]);
    assert!(none.text().contains("no backups before that"), "{}", none.text());
    let noted = sandbox.run_well(&["list", "--limit", "1", "--json"]);
    assert!(noted.stderr.contains("\"about\":\"older\""), "{}", noted.stderr);
    for wrong in [["--limit", "0"], ["--before", "yesterdy"]] {
        let refused = sandbox.run(&[&["list"][..], &wrong].concat());
        assert_ne!(refused.code, Some(0), "{wrong:?}");
        assert!(refused.stderr.contains("error: "), "{}", refused.stderr);
    }
}

/// The ids that a list shows, in its order.
fn listed(sandbox: &Sandbox, arguments: &[&str]) -> Vec<String> {
    let list = sandbox.run_well(&[&["list", SOURCE, "--json"], arguments].concat()).json();
    let ids =
        list.as_array().expect("a list").iter().map(|line| line["id"].as_str().expect("an id").to_owned());
    ids.collect()
}

#[test]
fn list_and_show_tell_what_an_operator_asks() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE, "--tag", "release=7", "--reason", "before the upgrade"]);
    let list = sandbox.run_well(&["list"]).text();
    for told in [
        "snapshot",
        "age",
        "ratio",
        "signed by",
        "backup-host@example.org",
        "release=7",
        "before the upgrade",
    ] {
        assert!(list.contains(told), "{told} is not in:\n{list}");
    }
    let id = sandbox.good_ids().remove(0);
    let shown = sandbox.run_well(&["show", SOURCE, &id, "--inventory"]).text();
    for told in [
        "signed by   backup-host@example.org",
        "public.orders: 20000 rows",
        "public.notes: 500 rows",
        "tag         release=7",
    ] {
        assert!(shown.contains(told), "{told} is not in:\n{shown}");
    }
}

#[test]
fn check_without_backups_is_no_good_news() {
    let sandbox = Sandbox::small();
    is_told(&sandbox.run(&["check"]), NOTHING_FOUND, &["there is no repository at"], "pgproof backup");
    sandbox.run_well(&["backup", SOURCE]);
    assert!(sandbox.run_well(&["check"]).text().contains("no problem"));
    for object in sandbox.objects().iter().filter(|name| name.contains("/backups/")) {
        std::fs::remove_file(sandbox.repository_folder().join(object)).expect("an object");
    }
    is_told(&sandbox.run(&["check"]), NOTHING_FOUND, &["there are no backups to check"], "pgproof backup");
}

/// As `| head` does.
#[test]
fn reader_that_has_seen_enough_ends_the_output_quietly() {
    let sandbox = Sandbox::bulky(20);
    sandbox.run_well(&["backup", SOURCE]);
    let id = sandbox.good_ids().remove(0);
    let restore = ["restore", SOURCE, "--at", "now", "--stdout"];
    for arguments in [&restore[..], &["show", SOURCE, &id, "--inventory"], &["list"], &["check"]] {
        let mut command = sandbox.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pgproof");
        let mut output = child.stdout.take().expect("a pipe");
        if arguments == restore {
            let mut magic = [0; 5];
            output.read_exact(&mut magic).expect("an archive");
            assert_eq!(&magic, b"PGDMP");
        }
        drop(output);
        let ended = child.wait_with_output().expect("an end");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {told}");
        assert!(!told.contains("error: ") && !told.contains("panicked"), "{arguments:?}: {told}");
    }
}

/// Without a terminal there are lines, and with `--json` numbers.
#[test]
fn progress_is_told_to_people_and_to_programs() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let restore = |into: &str, further: &[&str]| {
        let mut arguments = vec!["restore", SOURCE, "--at", "now", "--into", into, "--yes"];
        arguments.extend(further);
        sandbox.run_well(&arguments).stderr
    };
    let told = restore("first", &[]);
    for step in ["prepare", "pre-data", "load", "post-data", "analyze"] {
        assert!(told.lines().any(|line| line == format!("restore: {step}")), "{step} is not in:\n{told}");
    }
    let told = restore("second", &["--json"]);
    let steps: Vec<String> = told
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("no JSON: {line}"))
        })
        .filter_map(|line| line["progress"]["step"].as_str().map(str::to_owned))
        .collect();
    assert!(steps.iter().any(|step| step == "load"), "{told}");
}
