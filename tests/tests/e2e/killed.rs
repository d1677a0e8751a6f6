//! A run that is ended from outside leaves no backup, no child and nothing that the next run trips over.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pgproof_tests::comparison;
use pgproof_tests::dice::Dice;
use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::s3_proxy::{Fault, Rule, Seen};
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

/// At requests that are drawn, before and after they take effect. Whatever was killed, the next process gets its work done.
#[test]
fn killed_at_any_request_a_process_stands_in_nobodys_way() {
    let sandbox = Sandbox::small().with_retention("{ last = 1, remove_share_max = 100 }");
    let mut dice = Dice::of_environment();
    let backup = ["backup", SOURCE];
    sandbox.run_well(&backup);
    for point in points(&sandbox, &mut dice, 3, |sandbox| drop(sandbox.run_well(&backup))) {
        kill_at(&sandbox, sandbox.command(&backup), point);
        sandbox.run_well(&["check", SOURCE, "--read-data"]);
        sandbox.run_well(&backup);
    }
    let restore = ["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"];
    let drop_restored = |sandbox: &Sandbox| {
        sandbox.server.psql("postgres", "drop database if exists restored with (force)");
    };
    for point in points(&sandbox, &mut dice, 2, |sandbox| drop(sandbox.run_well(&restore))) {
        drop_restored(&sandbox);
        kill_at(&sandbox, sandbox.command(&restore), point);
        let again = sandbox.run(&restore);
        if !again.succeeded() {
            // What a killed restore has made by then is for the operator to remove, and is never taken for a whole one.
            assert!(again.stderr.contains("restored") && again.stderr.contains("hint: "), "{}", again.stderr);
            drop_restored(&sandbox);
            sandbox.run_well(&restore);
        }
        comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
    }
    let prune = ["prune", SOURCE, "--yes"];
    let expire_two = |sandbox: &Sandbox| (0..2).for_each(|_| drop(sandbox.run_well(&backup)));
    let pruned = |sandbox: &Sandbox| {
        expire_two(sandbox);
        sandbox.proxy.forget_seen();
        sandbox.run_well(&prune);
    };
    sandbox.run_well(&prune);
    for point in points(&sandbox, &mut dice, 2, pruned) {
        expire_two(&sandbox);
        let gone = &sandbox.good_ids()[..2];
        kill_at(&sandbox, sandbox.command(&prune), point);
        sandbox.run_well(&prune);
        assert_eq!(sandbox.good_ids().len(), 1);
        // What killed backups left stays for a day.
        let of_the_gone =
            |name: &&String| name.contains("/backups/") && gone.iter().any(|id| name.contains(id));
        let left: Vec<_> = sandbox.objects().iter().filter(of_the_gone).cloned().collect();
        assert!(left.is_empty(), "of what was removed something is left: {left:?}");
    }
    // The first drill also tests the verifier's own alarm, which asks more.
    sandbox.drill(&[]);
    for point in points(&sandbox, &mut dice, 1, |sandbox| drop(sandbox.drill(&[]))) {
        kill_at(&sandbox, sandbox.verifier_command(&["drill", SOURCE, "--json"]), point);
        assert_eq!(sandbox.drill(&[])["verdict"], "passed");
    }
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
}

/// Deletes that take long do not cost prune its lease.
#[test]
fn prune_keeps_its_lease() {
    let sandbox = Sandbox::small().with_retention("{ last = 1 }");
    (0..2).for_each(|_| drop(sandbox.run_well(&["backup", SOURCE])));
    sandbox.proxy.add(Rule::new(Fault::Hold).method("DELETE"));
    sandbox.proxy.forget_seen();
    let mut command = sandbox.command(&["prune", SOURCE, "--yes"]);
    let prune = command.stdout(Stdio::null()).spawn().expect("pgproof");
    let renewed = sandbox.proxy.wait_until(PATIENCE, |seen| {
        let lease = |seen: &&Seen| seen.method == "PUT" && seen.target.contains("leases/prune.");
        seen.iter().filter(lease).count() >= 2
    });
    sandbox.proxy.release();
    assert!(ended(prune).success());
    assert!(renewed, "the lease was taken, and not renewed while deletes took long");
}

/// So many of the requests that an undisturbed run makes, with what becomes of each.
fn points(
    sandbox: &Sandbox,
    dice: &mut Dice,
    count: usize,
    undisturbed: impl Fn(&Sandbox),
) -> Vec<(usize, Fault)> {
    sandbox.proxy.forget_seen();
    undisturbed(sandbox);
    // Another run may make a few less: how often a lease is renewed is a matter of time.
    let requests = sandbox.proxy.seen().len() * 9 / 10;
    let way = |number| if number % 2 == 0 { Fault::HoldResponse } else { Fault::Hold };
    let points: Vec<_> = (0..count).map(|number| (dice.below(requests), way(number))).collect();
    println!("of {requests} requests: {points:?}");
    points
}

/// Kills a program once it has made a request of this number, which is then carried out or not.
fn kill_at(sandbox: &Sandbox, mut command: Command, (request, way): (usize, Fault)) {
    sandbox.proxy.forget_seen();
    sandbox.proxy.add(Rule::new(way).after(request).times(1));
    // It is dead: nothing that it asked for later comes about.
    sandbox.proxy.add(Rule::new(Fault::Hold).after(request));
    let mut program = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a program");
    let is_there = sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.faulty));
    program.kill().expect("kill -9");
    program.wait().expect("its end");
    sandbox.proxy.abandon();
    assert!(is_there, "it never made request {request}");
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

/// Waits for its end.
pub(crate) fn ended(mut child: Child) -> ExitStatus {
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
