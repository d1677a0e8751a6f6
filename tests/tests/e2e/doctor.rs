//! `pgproof doctor`: finds what is missing, says what to do, and leaves nothing behind. And stores that heed no conditions on
//! writes, where two processes must not hold one lease all the same.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgproof_tests::postgres_server::is_root;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::s3_server::BUCKET;
use pgproof_tests::sandbox::{Outcome, PREFIX, RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;

const FAILED: i32 = 1;
const BUSY: i32 = 5;
const INTERRUPTED: i32 = 130;
/// What the policy says where doctor found that conditions are ignored.
const IGNORED: &str = "conditional_writes = \"ignored\"\n";

#[test]
fn all_is_tried_and_nothing_is_left() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let before = sandbox.objects();
    let outcome = sandbox.run_as_host(&["doctor", "--json"]);
    assert_eq!(outcome.code, Some(0), "{}\n{}", outcome.text(), outcome.stderr);
    let found = outcome.json();
    assert_eq!(found["ok"], true);
    for check in ["put if absent", "replace if unchanged", "complete if absent", "upload in parts", "list"] {
        assert_eq!(verdict(&found, "store", check), "ok", "{check}");
    }
    for check in ["reached", "pg_dump", "reads everything", "time limits"] {
        assert_eq!(verdict(&found, "source app", check), "ok", "{check}");
    }
    assert_eq!(verdict(&found, "host", "cannot decrypt"), "warn", "the identity beside the key was not seen");
    assert_eq!(verdict(&found, "source app", "role"), "warn", "a superuser was not seen");
    assert_eq!(verdict(&found, "alerts", "routes"), "warn");
    assert_eq!(sandbox.objects(), before);
    sandbox.run_well(&["check", SOURCE, "--read-data"]);

    let plain = sandbox.run_as_host(&["doctor", SOURCE]);
    let told = plain.text();
    assert!(told.contains("\nok: store: put and get: "), "{told}");
    assert!(told.contains("warn: source app: role: postgres is a superuser"), "{told}");
    assert!(told.lines().last().is_some_and(|line| line.starts_with("0 fail, ")), "{told}");
    assert_eq!(sandbox.run(&["doctor", "none"]).code, Some(2));
}

#[test]
fn a_folder_is_tried_as_well() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    std::fs::create_dir_all(sandbox.repository_folder()).expect("own folder");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code, Some(0), "{}\n{}", outcome.text(), outcome.stderr);
    // The folder's own.
    assert_eq!(sandbox.objects(), [".tmp/lock"]);
}

#[test]
fn rights_are_tried_without_being_used() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let before = sandbox.objects();
    let found = sandbox.run(&["doctor", "--json"]).json();
    assert_eq!(verdict(&found, "rights to app", "delete no backups"), "warn");
    let found = sandbox.verify(&["doctor", "--json"]).json();
    assert_eq!(verdict(&found, "rights to app", "put no backups"), "warn");

    for operation in ["DeleteObject", "DeleteObjects"] {
        sandbox.s3.deny(operation, "");
    }
    let found = sandbox.run(&["doctor", "--json"]).json();
    assert_eq!(found["ok"], true, "{found:#}");
    assert_eq!(verdict(&found, "rights to app", "delete no backups"), "ok");
    assert_eq!(verdict(&found, "rights to app", "put backups"), "ok");
    let traces = line(&found, "store", "traces")["told"].to_string();
    assert!(traces.contains("small objects stay below doctor/"), "{traces}");
    let (left, kept): (Vec<_>, Vec<_>) =
        sandbox.objects().into_iter().partition(|name| name.starts_with("doctor/"));
    assert_eq!(kept, before);
    assert!(!left.is_empty());
    // What lies there is nothing to anybody else.
    sandbox.run_well(&["check", SOURCE]);
    sandbox.run_well(&["list"]);
    sandbox.run_well(&["audit"]);
    sandbox.run_well(&["prune", SOURCE]);

    for operation in ["PutObject", "CreateMultipartUpload", "UploadPart"] {
        sandbox.s3.deny(operation, "/app/backups/");
        sandbox.s3.deny(operation, "/doctor/");
    }
    let outcome = sandbox.verify(&["doctor", "--json"]);
    let found = outcome.json();
    assert_eq!(outcome.code, Some(0), "{found:#}");
    assert_eq!(verdict(&found, "rights to app", "put no backups"), "ok");
    assert_eq!(verdict(&found, "rights to app", "put reports"), "ok");
    assert_eq!(verdict(&found, "store", "put and get"), "not_tried");
    // Without another user for its server, that depends on the kernel.
    let isolated = verdict(&found, "source app", "isolation");
    assert!(isolated == "ok" || !is_root() && isolated == "warn", "{found:#}");
    let outcome = sandbox.run(&["doctor", "--json"]);
    assert_eq!(outcome.code, Some(FAILED));
    assert_eq!(verdict(&outcome.json(), "rights to app", "put backups"), "fail");
}

#[test]
fn what_is_out_of_reach_is_told_and_the_rest_is_tried() {
    let sandbox = Sandbox::small().with_connection("postgresql://nobody@127.0.0.1:1/none");
    let outcome = sandbox.run(&["doctor", "--json"]);
    let found = outcome.json();
    assert_eq!(outcome.code, Some(FAILED));
    assert_eq!(verdict(&found, "source app", "reached"), "fail");
    assert_eq!(verdict(&found, "store", "put and get"), "ok");

    sandbox.proxy.outage(true);
    let outcome = sandbox.run(&["doctor", "--json"]);
    let found = outcome.json();
    assert_eq!(outcome.code, Some(FAILED));
    assert_eq!(verdict(&found, "store", "reached"), "fail");
    assert_eq!(verdict(&found, "host", "policy"), "ok");
}

#[test]
fn a_signal_leaves_nothing_behind() {
    let sandbox = Sandbox::small();
    sandbox.proxy.add(Rule::new(Fault::Hold).method("GET").containing("doctor/"));
    let mut command = sandbox.command(&["doctor"]);
    let doctor = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pgproof");
    assert!(sandbox.proxy.wait_until(Duration::from_secs(60), |seen| {
        seen.iter().any(|seen| seen.method == "GET" && seen.target.contains("doctor/") && seen.faulty)
    }));
    assert!(sandbox.objects().iter().any(|name| name.starts_with("doctor/")));
    let pid = doctor.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    let outcome: Outcome = doctor.wait_with_output().expect("pgproof ends").into();
    assert_eq!(outcome.code, Some(INTERRUPTED), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("stopped by a signal"), "{}", outcome.stderr);
    sandbox.proxy.release();
    assert_eq!(sandbox.objects(), Vec::<String>::new());
}

#[test]
fn ignored_conditions_are_found_said_and_then_done_without() {
    let sandbox = Sandbox::small();
    sandbox.s3.ignore_conditions();
    let outcome = sandbox.run(&["doctor", "--json"]);
    let found = outcome.json();
    assert_eq!(outcome.code, Some(FAILED), "{found:#}");
    for check in ["put if absent", "replace if unchanged"] {
        let line = line(&found, "store", check);
        assert_eq!(line["verdict"], "fail", "{line}");
        assert!(line["hint"].to_string().contains("conditional_writes"), "{line}");
    }
    assert_eq!(verdict(&found, "store", "complete if absent"), "warn");

    let sandbox = sandbox.with_store_lines(IGNORED);
    let outcome = sandbox.run(&["doctor", "--json"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
    assert_eq!(verdict(&outcome.json(), "store", "put if absent"), "ok");

    let backup = sandbox.run_well(&["backup", SOURCE]);
    assert!(backup.stderr.contains("the store heeds no conditions on writes"), "{}", backup.stderr);
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
    assert_eq!(sandbox.drill(&[])["verdict"], "passed");
    let claims = sandbox.objects().into_iter().filter(|name| name.contains(".claims/")).count();
    assert_eq!(claims, 0, "{:#?}", sandbox.objects());
}

/// Processes that begin at one moment, again and again: no two of them back up at the same time, and those that do not back
/// up say who does.
#[test]
fn of_processes_that_race_for_a_lease_no_two_hold_it_without_conditions() {
    const ROUNDS: usize = 2;
    const RACERS: usize = 3;
    let sandbox = Sandbox::small().with_store_lines(IGNORED);
    sandbox.s3.ignore_conditions();
    sandbox.s3.deny("DeleteObject", "");
    sandbox.run_well(&["backup", SOURCE]);
    for round in 1..=ROUNDS {
        let racers: Vec<_> = (0..RACERS)
            .map(|_| {
                let mut command = sandbox.command(&["backup", SOURCE]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pgproof")
            })
            .collect();
        let outcomes: Vec<Outcome> =
            racers.into_iter().map(|racer| racer.wait_with_output().expect("pgproof ends").into()).collect();
        let ended = |code| outcomes.iter().filter(|outcome| outcome.code == Some(code)).count();
        assert!(ended(0) > 0 && ended(0) + ended(BUSY) == RACERS, "round {round}: {outcomes:#?}");
        assert!(ended(BUSY) > 0, "round {round}: nobody raced");
    }
    let times = |path: &PathBuf| -> (String, String) {
        let manifest: Value =
            serde_json::from_slice(&std::fs::read(path).expect("a manifest")).expect("JSON");
        let at = |field: &str| manifest[field].as_str().expect("a time").to_owned();
        (at("started_at"), at("finished_at"))
    };
    let mut spans: Vec<_> = sandbox.objects_named("manifest.json").iter().map(times).collect();
    spans.sort();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "two backed up at one time: {spans:#?}");
    // Claims that were withdrawn by somebody who may delete nothing are empty.
    let claims: Vec<PathBuf> = sandbox
        .objects_named(".json")
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(".claims/"))
        .collect();
    assert!(claims.len() > ROUNDS, "{claims:#?}");
    assert!(claims.iter().all(|path| path.metadata().expect("a claim").len() == 0), "{claims:#?}");
}

#[test]
fn init_tries_the_store_and_says() {
    for (ignores, told, written) in [
        (false, "it honours conditional writes", "conditional_writes"),
        (true, "it IGNORES conditional writes", "\nconditional_writes = \"ignored\"\n"),
    ] {
        let sandbox = Sandbox::small();
        if ignores {
            sandbox.s3.ignore_conditions();
        }
        std::fs::remove_file(sandbox.policy()).expect("a policy");
        let location = format!("s3://{BUCKET}/{PREFIX}");
        let (url, keys, connection) =
            (sandbox.proxy.url(), sandbox.path("keys").display().to_string(), sandbox.server.uri(SOURCE));
        let arguments = [
            "init",
            "--location",
            &location,
            "--endpoint",
            &url,
            "--provider",
            "minio",
            "--connection",
            &connection,
            "--keys",
            &keys,
            "--single-recipient-waiver",
            "a test",
        ];
        let outcome = sandbox.run_well(&arguments);
        assert!(outcome.text().contains(told), "{}", outcome.text());
        let text = std::fs::read_to_string(sandbox.policy()).expect("a policy");
        assert_eq!(text.contains(written), ignores, "{text}");
        assert_eq!(sandbox.objects(), Vec::<String>::new());
        sandbox.run_well(&["backup", SOURCE]);
    }
}

fn line(found: &Value, about: &str, check: &str) -> Value {
    let lines = found["lines"].as_array().expect("lines");
    let wanted = lines.iter().find(|line| line["about"] == about && line["check"] == check);
    wanted.unwrap_or_else(|| panic!("{about}: {check} in {found:#}")).clone()
}

fn verdict(found: &Value, about: &str, check: &str) -> Value {
    line(found, about, check)["verdict"].clone()
}
