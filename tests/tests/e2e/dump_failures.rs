//! A dump that did not end well is no backup: no manifest, an aborted upload, a failed run on record.

use pgproof_tests::clients;
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};

#[test]
fn pg_dump_that_fails_before_its_first_byte() {
    is_no_backup("echo 'pg_dump: error: made to fail' >&2; exit 1", Some("made to fail"));
}

#[test]
fn pg_dump_that_fails_in_mid_stream() {
    is_no_backup("\"$real\" \"$@\" | head -c 3000000; echo 'made to fail' >&2; exit 1", Some("made to fail"));
}

#[test]
fn pg_dump_that_fails_after_its_last_byte() {
    is_no_backup("\"$real\" \"$@\"; echo 'made to fail' >&2; exit 1", Some("made to fail"));
}

#[test]
fn pg_dump_that_is_killed() {
    is_no_backup("\"$real\" \"$@\" | head -c 3000000; kill -9 $$", None);
}

#[test]
fn pg_dump_that_closes_its_output_early_and_reports_success() {
    is_no_backup("\"$real\" \"$@\" | head -c 3000000; exit 0", None);
}

#[test]
fn pg_dump_that_writes_nothing_and_reports_success() {
    is_no_backup("exit 0", None);
}

#[test]
fn pg_dump_that_goes_on_after_its_end() {
    is_no_backup("\"$real\" \"$@\"; echo surplus; exit 0", None);
}

#[test]
fn pg_dumpall_that_hangs_ends_with_its_time_limit() {
    let sandbox = Sandbox::small().with_policy_lines("no_progress_timeout = \"3s\"");
    let clients = clients::with_fake(&sandbox.path("clients"), "pg_dumpall", "exec sleep 600");
    let outcome = sandbox.with_clients(&clients).run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    for told in ["pg_dumpall answered nothing for 3s", "no_progress_timeout"] {
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.stderr);
    }
}

/// Only clients that are older than the server are to be found in the usual places.
#[test]
fn missing_pg_dump_is_named() {
    let sandbox = Sandbox::new(PostgresVersion::V18, RepositoryKind::S3);
    sandbox.server.create_database(SOURCE);
    let empty = sandbox.path("empty");
    std::fs::create_dir(&empty).expect("an empty folder");
    let sandbox = sandbox.with_clients(&empty);
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("pg_dump") && outcome.stderr.contains("18"), "{}", outcome.stderr);
}

#[test]
fn server_that_is_gone_is_one_line_and_a_hint() {
    let sandbox = Sandbox::small();
    sandbox.server.stop();
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: "), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(sandbox.good_ids().is_empty());
}

#[test]
fn policy_problems_are_told_together() {
    let sandbox = Sandbox::small();
    let text = std::fs::read_to_string(sandbox.policy()).expect("a policy");
    let text = text.replace("kind = \"postgres\"", "kind = \"oracle\"\nsurprise = 1");
    std::fs::write(sandbox.policy(), text).expect("a policy");
    let outcome = sandbox.run(&["policy", "check"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("oracle") && outcome.stderr.contains("surprise"), "{}", outcome.stderr);
}

/// Backs up with a `pg_dump` that runs this script, where `$real` is the true one; then with the true one.
fn is_no_backup(script: &str, told: Option<&str>) {
    let sandbox = Sandbox::small();
    let clients = clients::with_pg_dump(&sandbox.path("clients"), script);
    let sandbox = sandbox.with_clients(&clients);
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(1), "{}\n{}", outcome.text(), outcome.stderr);
    if let Some(told) = told {
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    }
    assert!(sandbox.objects_named("manifest.json").is_empty(), "{:#?}", sandbox.objects());
    assert!(sandbox.objects_named("data.000.zst.age").is_empty(), "{:#?}", sandbox.objects());
    assert!(sandbox.good_ids().is_empty());
    failed_run_is_recorded(&sandbox);

    let sandbox = sandbox.with_clients(&PostgresVersion::V15.programs());
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.good_ids().len(), 1);
}

fn failed_run_is_recorded(sandbox: &Sandbox) {
    let runs: Vec<String> = sandbox
        .objects()
        .into_iter()
        .filter(|name| name.contains("/runs/") && name.ends_with(".json"))
        .collect();
    assert_eq!(runs.len(), 1, "{:#?}", sandbox.objects());
    let run = std::fs::read(sandbox.repository_folder().join(&runs[0])).expect("the run's record");
    let run: serde_json::Value = serde_json::from_slice(&run).expect("JSON");
    assert_eq!(run["outcome"]["state"], "failed", "{run:#}");
}
