use super::*;
use crate::cluster::{Cluster, ClusterOptions};
use crate::connection::Environment;
use crate::snapshot::ExportedSnapshot;
use secrecy::SecretString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const PASSWORD: &str = "planted-b4ckup-passw0rd";

fn spec() -> ConnectionSpec {
    let environment: Environment =
        [("PATH", "/usr/bin:/bin"), ("PGPASSWORD", PASSWORD)].into_iter().collect();
    ConnectionSpec::from_uri("postgresql://u@db/app", &environment, None).unwrap()
}

/// A program in place of `pg_dump`.
fn fake(script: &str) -> (tempfile::TempDir, DumpOrder) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pg_dump");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (directory, DumpOrder::everything(path, Some("0-1".to_owned())))
}

/// Reads the stream to its end, then asks how the program ended.
fn run(script: &str) -> (usize, Result<DumpOutcome, DumpError>) {
    let (_directory, order) = fake(script);
    let mut dump = order.start(&spec()).unwrap();
    let mut bytes = Vec::new();
    dump.take_stdout().unwrap().read_to_end(&mut bytes).unwrap();
    (bytes.len(), dump.wait())
}

#[test]
fn a_program_that_fails_is_no_dump_wherever_it_fails() {
    let fails = "echo 'pg_dump: error: out of luck' >&2; exit 1";
    for (before, bytes) in [("", 0), ("printf PGDMP;", 5), ("head -c 3000000 /dev/zero;", 3_000_000)] {
        let (read, result) = run(&format!("{before} {fails}"));
        let error = result.unwrap_err();
        assert_eq!(read, bytes);
        assert_eq!(error.to_string(), "pg_dump failed with exit code 1: out of luck");
    }
}

#[test]
fn a_killed_program_is_no_dump() {
    let (read, result) = run("printf PGDMP; kill -9 $$");
    assert_eq!(read, 5);
    let error = result.unwrap_err();
    assert!(matches!(error, DumpError::Killed { signal: 9, .. }), "{error}");
    assert!(error.hint().unwrap().contains("memory"));
}

#[test]
fn a_stream_closed_early_does_not_hide_how_the_program_ended() {
    let (read, result) = run("printf PGDMP; exec 1>&-; sleep 0.3; exit 3");
    assert_eq!(read, 5);
    assert!(matches!(result, Err(DumpError::Failed { code: 3, .. })), "{result:?}");
}

#[test]
fn a_program_that_hangs_is_stopped_with_all_that_it_started() {
    let (_directory, order) = fake("sleep 600 & echo $!; exec 1>&-; wait");
    let mut dump = order.start(&spec()).unwrap();
    let mut said = String::new();
    let stopper = dump.stopper();
    // The grandchild holds the stream open, so its end comes only with the stop.
    let mut stdout = io::BufReader::new(dump.take_stdout().unwrap());
    io::BufRead::read_line(&mut stdout, &mut said).unwrap();
    stopper.stop("no bytes for 5 minutes");
    let error = dump.wait().unwrap_err();
    assert_eq!(error.to_string(), "pg_dump was stopped: no bytes for 5 minutes");
    assert!(ends(said.trim()), "{said} is still running");
    stopper.stop("once more, when its number may be another's");
}

#[test]
fn a_dropped_dump_leaves_no_process() {
    let (_directory, order) = fake("echo $$; exec sleep 600");
    let mut dump = order.start(&spec()).unwrap();
    let mut said = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(dump.take_stdout().unwrap()), &mut said).unwrap();
    drop(dump);
    assert!(ends(said.trim()), "{said} is still running");
}

#[test]
fn warnings_are_no_failure() {
    let (_, result) = run("echo 'pg_dump: warning: circular foreign keys' >&2");
    assert_eq!(result.unwrap().messages.warnings, ["circular foreign keys"]);
}

#[test]
fn the_password_is_on_no_command_line_and_in_no_environment() {
    // The file that the password lies in is read back by the program itself; everything else is looked at from outside.
    let (_directory, order) = fake("cat \"$PGPASSFILE\"; exec 1>&-; read nothing < \"$0.gate\"");
    let gate = format!("{}.gate", order.pg_dump.display());
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let mut dump = order.start(&spec()).unwrap();
    let mut said = String::new();
    dump.take_stdout().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("*:*:*:*:{PASSWORD}\n"));
    let own = fs::read_to_string(format!("/proc/{}/environ", dump.process_id())).unwrap();
    assert!(own.contains("PGPASSFILE=") && !own.contains(PASSWORD));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(PASSWORD), "{:?}", entry.path());
    }
    fs::write(&gate, "go\n").unwrap();
    dump.wait().unwrap();
}

#[test]
fn table_names_are_quoted_as_patterns() {
    let table = TableName { schema: "a.b".to_owned(), name: "odd \"*\" name".to_owned() };
    let scope = Scope::Everything { without_data_of: vec![table.clone()] };
    let mut order = DumpOrder { scope, ..DumpOrder::everything("pg_dump".into(), Some("0000-1".to_owned())) };
    let last = |order: &DumpOrder| order.arguments().pop().unwrap().into_string().unwrap();
    assert_eq!(last(&order), r#"--exclude-table-data="a.b"."odd ""*"" name""#);
    order.scope = Scope::RowsOf(vec![table]);
    assert_eq!(last(&order), r#"--table="a.b"."odd ""*"" name""#);
    assert!(order.arguments().contains(&OsString::from("--snapshot=0000-1")));
}

#[tokio::test]
async fn a_real_dump_reads_the_snapshot_over_a_password_and_names_an_odd_table() {
    let password = SecretString::from("p:w\\d 'x'");
    let (cluster, spec) = Cluster::on_loopback(Path::new(BIN), ClusterOptions::default(), &password).await;
    let admin = cluster.spec().connect().await.unwrap();
    let sql = "CREATE SCHEMA \"a.b\"; CREATE TABLE \"a.b\".\"odd \"\"*\"\" name\" AS SELECT 'seen' || n AS v FROM generate_series(1, 3) n";
    admin.batch_execute(sql).await.unwrap();
    let snapshot = ExportedSnapshot::open(&spec).await.unwrap();
    admin.batch_execute("INSERT INTO \"a.b\".\"odd \"\"*\"\" name\" VALUES ('too late')").await.unwrap();
    let table = TableName { schema: "a.b".to_owned(), name: "odd \"*\" name".to_owned() };
    let pg_dump = Path::new(BIN).join("pg_dump");
    let id = Some(snapshot.id().to_owned());
    let everything = DumpOrder::everything(pg_dump.clone(), id.clone());
    let without = Scope::Everything { without_data_of: vec![table.clone()] };
    let orders = [
        everything.clone(),
        DumpOrder { scope: without, ..everything.clone() },
        DumpOrder { scope: Scope::RowsOf(vec![table]), ..everything.clone() },
    ];
    for (order, rows) in orders.into_iter().zip([true, false, true]) {
        let spec = spec.clone();
        let text = tokio::task::spawn_blocking(move || dumped(&order, &spec)).await.unwrap();
        assert!(text.starts_with("PGDMP"));
        assert_eq!(["seen1\n", "seen2\n", "seen3\n"].iter().all(|row| text.contains(row)), rows);
        assert!(!text.contains("too late"));
    }
    let lost = DumpOrder { snapshot: Some("00000003-0000001B-1".to_owned()), ..everything };
    let target = spec.clone();
    let error = tokio::task::spawn_blocking(move || {
        let mut dump = lost.start(&target).unwrap();
        io::copy(&mut dump.take_stdout().unwrap(), &mut io::sink()).unwrap();
        dump.wait().unwrap_err()
    });
    let error = error.await.unwrap();
    assert!(error.to_string().contains("snapshot"), "{error}");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn globals_come_without_passwords_where_the_role_may_not_read_them() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let admin = cluster.spec().connect().await.unwrap();
    admin.batch_execute("CREATE ROLE app LOGIN PASSWORD 'x'").await.unwrap();
    admin.batch_execute("CREATE DATABASE \"odd='name\"").await.unwrap();
    for (role, whole) in [("postgres", true), ("app", false)] {
        let spec = cluster.spec().with_database("odd='name").with_account(role, None);
        let globals = tokio::task::spawn_blocking(move || {
            dump_globals(&Path::new(BIN).join("pg_dumpall"), &spec, drop)
        })
        .await
        .unwrap();
        let globals = globals.unwrap();
        assert!(globals.text.contains("CREATE ROLE app;"));
        assert_eq!(globals.text.contains("SCRAM-SHA-256$"), whole);
        assert_eq!(globals.degraded.is_none(), whole, "{:?}", globals.degraded);
    }
    cluster.stop().await.unwrap();
}

fn dumped(order: &DumpOrder, spec: &ConnectionSpec) -> String {
    let mut dump = order.start(spec).unwrap();
    let mut bytes = Vec::new();
    dump.take_stdout().unwrap().read_to_end(&mut bytes).unwrap();
    dump.wait().unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A kill is carried out when the killed are scheduled next, which on a busy machine is not at once.
fn ends(pid: &str) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !has_ended(pid) && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    has_ended(pid)
}

/// Gone, or dead and waiting for its parent, which after a kill is the system's first process.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}
