//! Signals, and readers that go away: every command ends soon, with its own code, whoever does not listen or answer.

use std::io::{PipeWriter, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use pgproof_tests::daemon::Daemon;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{SOURCE, Sandbox};

use crate::killed::ended;

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const USAGE: i32 = 2;
const INTERRUPTED: i32 = 130;

#[test]
fn a_standard_error_that_went_away_fails_nothing_and_hides_no_signal() {
    let sandbox = Sandbox::small().with_policy_lines("schedule = \"0 2 * * *\"\n");
    let deaf = |arguments: &[&str]| {
        let mut command = sandbox.command(arguments);
        command.stdout(Stdio::null()).stderr(that_nobody_reads());
        command.spawn().expect("pgproof")
    };
    let code = |child: Child| ended(child).code();
    assert_eq!(code(deaf(&["backup", SOURCE])), Some(0));
    assert_eq!(code(deaf(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"])), Some(0));
    assert_eq!(sandbox.server.psql("restored", "select count(*) from orders"), "20000");
    assert_eq!(code(deaf(&["list", "nope"])), Some(USAGE));

    sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("data.000"));
    let backup = deaf(&["backup", SOURCE, "--json"]);
    assert!(sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.faulty)));
    signal("INT", &backup);
    assert_eq!(code(backup), Some(INTERRUPTED));
    sandbox.proxy.abandon();

    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = sandbox.command(&["run"]);
    let daemon = command.stderr(writer).spawn().expect("pgproof");
    // The last one that could write into the pipe but for the daemon.
    drop(command);
    reader.read_exact(&mut [0]).expect("it says that it has begun");
    drop(reader);
    signal("TERM", &daemon);
    assert_eq!(code(daemon), Some(0));
}

#[test]
fn a_store_that_does_not_answer_keeps_no_command() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let id = &sandbox.good_ids()[0];
    let interrupted = |arguments: &[&str]| {
        sandbox.proxy.forget_seen();
        let mut command = sandbox.command(arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgproof");
        let is_asked = sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.faulty));
        assert!(is_asked, "{arguments:?} asks for nothing: {:#?}", sandbox.proxy.seen());
        signal("INT", &child);
        ended(child)
    };
    let assert_interrupted = |arguments: &[&str]| {
        let status: ExitStatus = interrupted(arguments);
        assert_eq!(status.code(), Some(INTERRUPTED), "{arguments:?}");
    };
    sandbox.proxy.add(Rule::new(Fault::Hold));
    for arguments in [
        &["list"][..],
        &["show", SOURCE, id],
        &["check"],
        &["prune", SOURCE, "--yes"],
        &["hold", SOURCE, id, "--reason", "a test"],
        &["release", SOURCE, id],
        &["audit"],
        &["status"],
        &["fleet"],
        &["restore-point", "list"],
        &["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"],
    ] {
        assert_interrupted(arguments);
    }
    sandbox.proxy.abandon();
    sandbox.proxy.add(Rule::new(Fault::Hold).method("GET").containing("data.000"));
    assert_interrupted(&["restore", SOURCE, "--at", "now", "--stdout"]);
    sandbox.proxy.abandon();
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn a_prune_that_is_interrupted_ends_after_the_backup_that_it_is_at() {
    let sandbox = Sandbox::small().with_retention("{ last = 1 }");
    for _ in 0..4 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    sandbox.proxy.add(Rule::new(Fault::Hold).method("DELETE").containing("/backups/"));
    sandbox.proxy.forget_seen();
    let prune = Daemon::start(sandbox.command(&["prune", SOURCE, "--yes"]));
    assert!(sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.faulty)));
    prune.signal("INT");
    prune.wait_for("stopping");
    sandbox.proxy.release();
    assert_eq!(prune.ended(), Some(INTERRUPTED));
    assert_eq!(sandbox.good_ids().len(), 3, "{:#?}", sandbox.objects());
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
    assert!(sandbox.run_well(&["audit", SOURCE]).text().contains("prune"), "it leaves no record");

    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    assert_eq!(sandbox.good_ids().len(), 1);
}

fn that_nobody_reads() -> PipeWriter {
    std::io::pipe().expect("a pipe").1
}

fn signal(name: &str, child: &Child) {
    succeed(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]));
}
