//! Configuration beside the database: backed up on deployment, compared without values, restored into a folder.

use std::fs;

use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;

use crate::bad_days::is_told;

const SETTINGS: &str = "settings";
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOTHING_FOUND: i32 = 3;
const INTEGRITY: i32 = 4;
/// Stands in a file and in a variable, and nowhere in the repository.
const PLANTED: &str = "correct-horse-battery";

/// A database, and a source of two files and the variables of a third.
fn with_settings() -> Sandbox {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let folder = sandbox.path("app");
    fs::create_dir(&folder).expect("a folder");
    for (name, text) in [("a.toml", "a = 1\n"), ("b.toml", &format!("password = \"{PLANTED}\"\n"))] {
        fs::write(folder.join(name), text).expect("a file");
    }
    fs::write(folder.join(".env"), format!("APP_TOKEN={PLANTED}\nAPP_MODE=fast\nOTHER=1\n")).expect("a file");
    let folder = folder.display();
    sandbox.with_policy_lines(&format!(
        "[sources.{SETTINGS}]\n\
         kind = \"config\"\n\
         files = [\"{folder}/*.toml\"]\n\
         environment = {{ names = [\"APP_*\"], env_files = [\"{folder}/.env\"] }}\n\
         retention = {{ daily = 30 }}"
    ))
}

fn listed(sandbox: &Sandbox) -> Vec<String> {
    let list: Value = sandbox.run_well(&["list", SETTINGS, "--json"]).json();
    let backups = list["backups"].as_array().or_else(|| list.as_array()).expect("a list").clone();
    let id = |backup: &Value| backup["id"].as_str().expect("an id").to_owned();
    backups.iter().map(id).collect()
}

fn change(sandbox: &Sandbox, name: &str, text: &str) {
    fs::write(sandbox.path("app").join(name), text).expect("a file");
}

#[test]
fn what_changed_is_told_by_name_on_a_host_that_cannot_read_its_backups() {
    let sandbox = with_settings();
    let told = sandbox.run_well(&["backup", SETTINGS]).text();
    assert!(told.contains("2 files, 2 variables"), "{told}");
    let again = sandbox.run_as_host(&["backup", SETTINGS]);
    assert!(again.text().contains("nothing of settings has changed since"), "{again:?}");
    let first = listed(&sandbox);
    assert_eq!(first.len(), 1, "what has not changed is not backed up again");

    change(&sandbox, "a.toml", "a = 2\n");
    change(&sandbox, ".env", "APP_TOKEN=another\nAPP_NEW=1\n");
    let expected = |folder: std::path::Display<'_>| {
        format!(
            "removed  APP_MODE ({folder}/.env)\nadded    APP_NEW ({folder}/.env)\nchanged  APP_TOKEN ({folder}/.env)\n"
        )
    };
    let folder = sandbox.path("app");
    let live = sandbox.run_as_host(&["diff", &first[0]]).text();
    assert!(live.contains(&format!("changed  {}/a.toml", folder.display())), "{live}");
    for line in expected(folder.display()).lines() {
        assert!(live.contains(line), "{line} is not in:\n{live}");
    }
    sandbox.run_well(&["backup", SETTINGS]);
    let both = listed(&sandbox);
    let second = both.iter().find(|id| **id != first[0]).expect("another backup");
    assert_eq!(sandbox.run_as_host(&["diff", &first[0], second]).text(), live);
    assert!(sandbox.run_as_host(&["diff", &first[0], &first[0]]).text().contains("nothing has changed"));

    is_told(&sandbox.run_as_host(&["diff", &first[0], second, "--values"]), USAGE, &["identity"], "identity");
    let values = sandbox.run_well(&["diff", &first[0], second, "--values"]).text();
    for line in [&format!("  - {PLANTED}"), "  + another", "  - a = 1", "  + a = 2"] {
        assert!(values.contains(line), "{line} is not in:\n{values}");
    }
    nothing_is_shown(&sandbox, &[PLANTED, "APP_TOKEN", "a.toml"]);
}

#[test]
fn what_belongs_together_is_one_restore_point() {
    let sandbox = with_settings();
    let made =
        sandbox.run_well(&["snapshot", "--reason", "deploy", "--ref", "9fceb02d0ae5", "--json"]).json();
    let kinds: Vec<_> = made["members"]
        .as_array()
        .expect("members")
        .iter()
        .map(|m| m["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["config", "postgres"]);

    change(&sandbox, "a.toml", "a = 2\n");
    sandbox.server.psql(SOURCE, "truncate orders cascade");
    sandbox.run_well(&["snapshot", "--reason", "deploy", "--ref", "77aa11bb", "--source", SETTINGS]);
    sandbox.run_well(&["restore", SOURCE, "--before-deploy", "9fceb0", "--into", "restored"]);
    assert_eq!(sandbox.server.psql("restored", "select count(*) from orders"), "20000");
    let folder = sandbox.path("restored-settings").display().to_string();
    sandbox.run_well(&["restore", SETTINGS, "--before-deploy", "9fceb0", "--to", &folder]);
    let file = format!("{folder}/files{}", sandbox.path("app/a.toml").display());
    assert_eq!(fs::read_to_string(file).expect("a file"), "a = 1\n");
    let environment = fs::read_to_string(format!("{folder}/environment/01-file.env")).expect("variables");
    assert!(
        environment.contains(&format!("APP_TOKEN={PLANTED}\n")) && !environment.contains("OTHER"),
        "{environment}"
    );
    let again = sandbox.run(&["restore", SETTINGS, "--before-deploy", "9fceb0", "--to", &folder]);
    is_told(&again, FAILED, &["holds something already"], "does not exist yet");

    let without = sandbox.run(&["restore", SOURCE, "--before-deploy", "77aa11bb"]);
    is_told(&without, NOTHING_FOUND, &["has no backup of app"], "restore-point show");
    let shown = sandbox.run_well(&["restore-point", "show", "9fceb02d"]).text();
    assert!(shown.contains("9fceb02d0ae5") && shown.contains("config    settings"), "{shown}");
    let unchanged = sandbox.run_well(&["snapshot", "--reason", "again", "--source", SETTINGS]).text();
    assert!(unchanged.contains("unchanged since then"), "{unchanged}");
    assert_eq!(sandbox.run_well(&["restore-point", "list"]).text().lines().count(), 3);

    // Whoever can write the bucket cannot make one up.
    let point = sandbox.object(&format!("{}.json", made["id"].as_str().expect("an id")));
    let altered = fs::read_to_string(&point).expect("a record").replace("9fceb02d0ae5", "77aa11bb0000");
    fs::write(&point, altered).expect("a record");
    let list = sandbox.run(&["restore-point", "list"]);
    assert_eq!(list.code, Some(INTEGRITY), "{list:?}");
    let refused = sandbox.run(&["restore", SOURCE, "--before-deploy", "77aa11bb0000", "--into", "other"]);
    assert_eq!(refused.code, Some(NOTHING_FOUND), "{refused:?}");
    assert!(!sandbox.server.has_database("other"));
}

#[test]
fn configuration_that_is_not_whole_is_no_backup_and_no_restore_point() {
    let sandbox = with_settings();
    sandbox.run_well(&["backup", SETTINGS]);
    let shown = sandbox.run(&["show", SETTINGS, &listed(&sandbox)[0], "--inventory"]);
    is_told(&shown, USAGE, &["of kind config"], "--dry-run");
    let planned = sandbox.run_well(&["restore", SETTINGS, "--at", "now", "--dry-run", "--json"]);
    assert_eq!(planned.json()["files"].as_array().expect("files").len(), 2, "{}", planned.text());
    assert!(!planned.text().contains(PLANTED), "{}", planned.text());
    for name in ["a.toml", "b.toml"] {
        fs::remove_file(sandbox.path("app").join(name)).expect("a file");
    }
    is_told(&sandbox.run(&["backup", SETTINGS]), FAILED, &["no file is there by the name"], "must be there");
    let snapshot = sandbox.run(&["snapshot", "--reason", "deploy", "--ref", "9fceb02d"]);
    is_told(&snapshot, FAILED, &["no restore point: settings could not be backed up"], "must be there");
    assert!(
        sandbox
            .objects_named(".json")
            .iter()
            .all(|path| !path.display().to_string().contains("restore-points"))
    );
    assert_eq!(listed(&sandbox).len(), 1);
    let drill = sandbox.verify(&["drill", SETTINGS]);
    is_told(&drill, USAGE, &["no database"], "check --read-data");
    assert!(sandbox.run_well(&["check", SETTINGS, "--read-data"]).text().contains("no problem"));
}

/// Nobody who reads the bucket learns a value or a name.
fn nothing_is_shown(sandbox: &Sandbox, secrets: &[&str]) {
    for name in sandbox.objects() {
        let bytes = fs::read(sandbox.repository_folder().join(&name)).expect("an object");
        let text = String::from_utf8_lossy(&bytes);
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} stands in {name}");
        }
    }
}
