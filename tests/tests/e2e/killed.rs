//! A run that is ended from outside leaves no backup, no child and nothing that the next run trips over.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{SOURCE, Sandbox};

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const INTERRUPTED: i32 = 130;
/// Reads of the archive before its first table: the header of age, and the head.
const HEAD_READS: usize = 2;

#[test]
fn agent_killed_in_mid_upload_leaves_no_backup() {
    let (sandbox, mut backup) = stuck_in_upload();
    backup.kill().expect("kill -9");
    backup.wait().expect("its end");
    sandbox.proxy.release();
    assert!(sandbox.objects_named("manifest.json").is_empty());
    assert!(sandbox.good_ids().is_empty());
    no_session_is_left(&sandbox.server);

    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.good_ids().len(), 1);
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
}

#[test]
fn agent_asked_to_end_leaves_nothing() {
    let (sandbox, backup) = stuck_in_upload();
    succeed(Command::new("kill").args(["-TERM", &backup.id().to_string()]));
    // The upload itself may end: what is held back is let go once the signal is out.
    sandbox.proxy.release();
    let status = ended(backup);
    assert_eq!(status.code(), Some(INTERRUPTED), "{status}");
    assert!(sandbox.objects_named("manifest.json").is_empty());
    assert!(sandbox.objects_named("data.000.zst.age").is_empty());
    no_session_is_left(&sandbox.server);
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn server_that_dies_in_mid_dump_fails_the_backup() {
    let (sandbox, backup) = stuck_in_upload();
    sandbox.server.stop();
    sandbox.proxy.release();
    let status = ended(backup);
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(sandbox.objects_named("manifest.json").is_empty());
    sandbox.server.start_again();
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn restore_that_is_interrupted_leaves_no_database() {
    let sandbox = Sandbox::bulky(20);
    sandbox.run_well(&["backup", SOURCE]);
    // The first ranges are the archive's head; once a table is on its way, the database is there.
    let is_load = |method: &str, target: &str| method == "GET" && target.contains("data.000");
    sandbox.proxy.forget_seen();
    sandbox.proxy.add(Rule::new(Fault::Hold).method("GET").containing("data.000").after(HEAD_READS));
    let mut command = sandbox.command(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
    let restore = command.stdout(Stdio::null()).spawn().expect("pgproof");
    let stuck = sandbox.proxy.wait_until(PATIENCE, |seen| {
        seen.iter().filter(|seen| is_load(&seen.method, &seen.target)).any(|seen| seen.faulty)
    });
    assert!(stuck, "nothing is loaded: {:#?}", sandbox.proxy.seen());
    assert!(sandbox.server.has_database("restored"), "the database is not made yet");
    succeed(Command::new("kill").args(["-INT", &restore.id().to_string()]));
    let status = ended(restore);
    assert_eq!(status.code(), Some(INTERRUPTED), "{status}");
    assert!(!sandbox.server.has_database("restored"), "a half-made database is left");
    no_session_is_left(&sandbox.server);
}

#[test]
fn second_run_beside_a_running_one_is_refused() {
    const BUSY: i32 = 5;
    let (sandbox, backup) = stuck_in_upload();
    let second = sandbox.run(&["backup", SOURCE]);
    assert_eq!(second.code, Some(BUSY), "{}", second.stderr);
    sandbox.proxy.release();
    assert!(ended(backup).success());
    assert_eq!(sandbox.good_ids().len(), 1);
}

/// A backup whose upload does not get on, so that by and by everything before it stands still, `pg_dump` too.
fn stuck_in_upload() -> (Sandbox, Child) {
    let sandbox = Sandbox::bulky(150);
    sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("partNumber="));
    let mut command = sandbox.command(&["backup", SOURCE]);
    let backup = command.stdout(Stdio::null()).spawn().expect("pgproof");
    let stuck = sandbox
        .proxy
        .wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.target.contains("partNumber=")));
    assert!(stuck, "no part was uploaded: {:#?}", sandbox.proxy.seen());
    (sandbox, backup)
}

fn ended(mut child: Child) -> ExitStatus {
    let pid = child.id().to_string();
    let (ended, status) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait().expect("a child")));
    status.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        succeed(Command::new("kill").args(["-KILL", &pid]));
        panic!("still running after {PATIENCE:?}")
    })
}

/// The server sees children that are left: their sessions.
fn no_session_is_left(server: &PostgresServer) {
    let sessions = "select string_agg(application_name, ',') from pg_stat_activity \
         where backend_type = 'client backend' and pid <> pg_backend_pid()";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = server.psql("postgres", sessions);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "sessions are left: {left}");
    }
}
