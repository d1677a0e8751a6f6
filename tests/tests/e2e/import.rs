//! `pgproof import`: a dump by stock `pg_dump` becomes a backup like others, and says that it was brought.

use std::path::PathBuf;

use pgproof_tests::comparison;
use pgproof_tests::hard_cases;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};

use crate::bad_days::is_told;

const USAGE: i32 = 2;

/// `pg_dump -Fc` of the source as a cron job calls it, with these arguments beside.
fn dump(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> PathBuf {
    let path = sandbox.path(name);
    let mut pg_dump = sandbox.server.client("pg_dump");
    succeed(pg_dump.args(["-Fc", "-d", SOURCE]).args(arguments).arg("-f").arg(&path));
    path
}

fn import(sandbox: &Sandbox, file: &str, arguments: &[&str]) -> Outcome {
    let mut all = vec!["import", file, "--source", SOURCE];
    all.extend(arguments);
    sandbox.run(&all)
}

fn now() -> String {
    String::from_utf8(succeed(std::process::Command::new("date").args(["-u", "+%FT%TZ"])).stdout)
        .expect("a time")
        .trim()
        .to_owned()
}

#[test]
fn a_compressed_dump_of_everything_hard_is_restored_and_proved() {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::S3);
    hard_cases::load(&sandbox.server, SOURCE);
    let taken_at = now();
    dump(&sandbox, "nightly.dump", &[]);
    let globals = sandbox.path("globals.sql");
    let mut pg_dumpall = sandbox.server.client("pg_dumpall");
    succeed(pg_dumpall.args(["--globals-only", "-f"]).arg(&globals));
    sandbox.server.psql(SOURCE, "create table after_the_dump (id int)");
    sandbox.run_well(&["backup", SOURCE]);

    let outcome =
        import(&sandbox, "nightly.dump", &["--taken-at", &taken_at, "--globals", "globals.sql", "--json"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let manifest = outcome.json()["manifest"].clone();
    let imported = &manifest["imported"];
    assert_eq!(imported["decompressed"], true);
    let file = std::fs::metadata(sandbox.path("nightly.dump")).expect("a dump").len();
    assert_eq!(imported["file"]["bytes"].as_u64(), Some(file));
    assert!(imported["told_by"].as_str().is_some_and(|by| by.contains(" on ")), "{imported}");
    assert_eq!(
        (&manifest["snapshot"]["lsn"], &manifest["server"]["system_identifier"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(manifest["archive"]["indexed"], true);
    assert!(manifest["archive"]["row_count"].as_u64() > Some(1000));

    let backups = sandbox.good_backups();
    assert_eq!(backups.len(), 2);
    let (imports, own): (Vec<_>, Vec<_>) = backups.iter().partition(|backup| backup["imported"] == true);
    assert_eq!((imports.len(), own.len()), (1, 1), "{backups:?}");
    let id = imports[0]["id"].as_str().expect("an id").to_owned();

    let restored = sandbox.run_well(&["restore", SOURCE, "--at", &taken_at, "--into", "restored"]);
    assert!(restored.stderr.contains("it was imported"), "{}", restored.stderr);
    assert!(restored.text().contains("every row was counted"), "{}", restored.text());
    sandbox.server.psql(SOURCE, "drop table after_the_dump");
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));

    let report = sandbox.drill(&["--backup", &id]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    let checks = report["checks"].as_array().expect("checks");
    for name in ["tables", "globals", "sequences", "large objects", "restore"] {
        let check =
            checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"));
        assert_eq!(check["outcome"], "passed", "{check:#}");
    }
}

/// With its output redirected, `pg_dump` 18 leaves its table of contents behind the data once more.
#[test]
fn a_redirected_dump_of_version_18_is_taken_in() {
    let sandbox = Sandbox::new(PostgresVersion::V18, RepositoryKind::Directory);
    hard_cases::load(&sandbox.server, SOURCE);
    for (name, arguments) in [("packed.dump", &["-Fc"][..]), ("plain.dump", &["-Fc", "-Z0"])] {
        let taken_at = now();
        let file = std::fs::File::create(sandbox.path(name)).expect("own file");
        let mut pg_dump = sandbox.server.client("pg_dump");
        succeed_into(pg_dump.args(arguments).args(["-d", SOURCE]), file);
        let outcome = import(&sandbox, name, &["--taken-at", &taken_at, "--json"]);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let manifest = outcome.json()["manifest"].clone();
        assert_eq!(manifest["archive"]["indexed"], true, "{manifest:#}");
        let bytes = std::fs::metadata(sandbox.path(name)).expect("a dump").len();
        assert_eq!(manifest["imported"]["file"]["bytes"].as_u64(), Some(bytes));
        let id = manifest["id"].as_str().expect("an id").to_owned();
        let database = name.replace('.', "_");
        sandbox.run_well(&["restore", SOURCE, "--backup", &id, "--into", &database]);
        comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, &database));
    }
}

fn succeed_into(command: &mut std::process::Command, file: std::fs::File) {
    assert!(command.stdout(file).status().expect("it runs").success(), "{command:?}");
}

#[test]
fn the_schedule_goes_on_and_a_second_run_of_a_loop_changes_nothing() {
    let sandbox = Sandbox::small()
        .with_policy_lines("schedule = \"0 0 1 1 *\"\nobjectives = { recovery_point = \"1d\" }");
    let taken_at = now();
    dump(&sandbox, "a.dump", &["-Z0"]);
    let first = import(&sandbox, "a.dump", &["--taken-at", &taken_at]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let again = import(&sandbox, "a.dump", &["--taken-at", &taken_at]);
    assert!(again.text().contains("imported before"), "{}", again.text());
    assert_eq!(sandbox.good_ids().len(), 1);

    // A source that was only imported is due, and nobody heard of a run; its newest backup is as old as was said.
    let due = sandbox.run_well(&["backup", "--all", "--due", "--json"]);
    assert_eq!(sandbox.good_ids().len(), 2, "{}", due.text());
    assert!(
        !sandbox
            .objects()
            .iter()
            .any(|name| name.contains("/runs/") && name.contains(&sandbox.good_ids()[0]))
    );
    let audit = sandbox.run_well(&["audit", SOURCE]).text();
    assert!(audit.contains("imported, taken at") && audit.contains("all of which check"), "{audit}");
}

#[test]
fn a_dump_in_another_time_zone_is_compared_in_it() {
    let sandbox = Sandbox::small();
    sandbox.server.psql("postgres", "alter database app set timezone = 'Europe/Berlin'");
    sandbox.server.psql(
        SOURCE,
        "create table seen (id int, \"at\" timestamptz); insert into seen select n, '2026-01-01Z'::timestamptz + n * '1 day'::interval \
         from generate_series(1, 300) n",
    );
    let taken_at = now();
    dump(&sandbox, "berlin.dump", &[]);
    let refused = import(&sandbox, "berlin.dump", &["--taken-at", &taken_at]);
    is_told(&refused, USAGE, &["not made in time zone UTC", "+01"], "--time-zone");
    assert!(sandbox.good_ids().is_empty());

    let taken = import(&sandbox, "berlin.dump", &["--taken-at", &taken_at, "--time-zone", "Europe/Berlin"]);
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    assert!(taken.text().contains("ALTER DATABASE"), "its settings are named: {}", taken.text());
    let report = sandbox.drill(&[]);
    let tables = report["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "tables");
    assert_eq!(tables.expect("tables")["outcome"], "passed", "{report:#}");
}

#[test]
fn what_cannot_be_a_backup_is_refused_before_it_is_one() {
    let sandbox = Sandbox::small();
    let taken_at = now();
    let given = ["--taken-at", taken_at.as_str()];
    dump(&sandbox, "whole.dump", &[]);
    dump(&sandbox, "schema.dump", &["--schema-only"]);
    dump(&sandbox, "data.dump", &["--data-only"]);
    std::fs::write(sandbox.path("text.sql"), "create table t (id int);").expect("own file");
    let whole = std::fs::read(sandbox.path("whole.dump")).expect("a dump");
    std::fs::write(sandbox.path("short.dump"), &whole[..whole.len() - 100]).expect("own file");

    is_told(&import(&sandbox, "schema.dump", &given), USAGE, &["--schema-only"], "whole database");
    is_told(&import(&sandbox, "data.dump", &given), USAGE, &["--data-only"], "whole database");
    is_told(&import(&sandbox, "text.sql", &given), 1, &["not an archive"], "--format=custom");
    succeed(std::process::Command::new("mkfifo").arg(sandbox.path("pipe")));
    is_told(&import(&sandbox, "pipe", &given), USAGE, &["pipe is no file"], "one file");
    is_told(&import(&sandbox, "none.dump", &given), 1, &["none.dump", "No such file"], "");
    is_told(&import(&sandbox, "short.dump", &given), 1, &["short.dump", "ends"], "");
    let early = ["--taken-at", "2024-02-29T02:00:00Z"];
    is_told(&import(&sandbox, "whole.dump", &early), USAGE, &["began at"], "--trust-time");
    let late = ["--taken-at", "2124-02-29T02:00:00Z"];
    is_told(&import(&sandbox, "whole.dump", &late), USAGE, &["has not come"], "began");
    let late = ["--taken-at", "2124-02-29T02:00:00Z", "--trust-time"];
    is_told(&import(&sandbox, "whole.dump", &late), USAGE, &["has not come"], "began");
    let elsewhere = ["--taken-at", taken_at.as_str(), "--time-zone", "Europe/Atlantis"];
    is_told(&import(&sandbox, "whole.dump", &elsewhere), USAGE, &["Europe/Atlantis"], "SHOW TimeZone");
    let globals = ["--taken-at", taken_at.as_str(), "--globals", "text.sql"];
    is_told(&import(&sandbox, "whole.dump", &globals), USAGE, &["create table t"], "--globals-only");
    assert!(sandbox.good_ids().is_empty());
    assert!(!sandbox.objects().iter().any(|name| name.ends_with("manifest.json")), "{:?}", sandbox.objects());

    let trusted = ["--taken-at", "2024-02-29T02:00:00Z", "--trust-time"];
    assert_eq!(import(&sandbox, "whole.dump", &trusted).code, Some(0));
    assert_eq!(sandbox.good_backups()[0]["snapshot_at"], "2024-02-29T02:00:00Z");
}
