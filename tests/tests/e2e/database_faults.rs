//! PostgreSQL behind a bad line: a clean failure that says what, nothing half-done, and the next try gets through.

use std::process::{Command, Stdio};
use std::time::Duration;

use pgproof_tests::comparison;
use pgproof_tests::postgres_proxy::{Fault, Moment, PostgresProxy, Rule};
use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};

use crate::bad_days::is_told;

const FAILED: i32 = 1;
const INTERRUPTED: i32 = 130;
/// A database as drills may have one on a server of others.
const HOME: &str = "pgproof_drill_home";
const PATIENCE: Duration = Duration::from_secs(60);
/// In the midst of the rows of the largest table.
const IN_THE_ROWS: Moment = Moment::Copied(1_000_000);
/// After the greeting, in the midst of what the agent asks first.
const IN_THE_QUESTIONS: Moment = Moment::Answered(1_500);
/// After the greeting, in the names of roles; behind what `SELECT 1` is answered.
const IN_A_SHORT_ANSWER: Moment = Moment::Answered(700);

#[test]
fn backup_over_a_bad_line_fails_clean_and_then_succeeds() {
    let sandbox = Sandbox::small();
    let line = PostgresProxy::start(sandbox.server.host());
    let sandbox =
        sandbox.with_connection(&line.uri(SOURCE)).with_policy_lines("no_progress_timeout = \"3s\"");
    let days = [
        (Fault::Cut, Moment::Start, "cannot connect to", "is the server running"),
        (Fault::Hang, Moment::Start, "no connection to", "filters packets"),
        (Fault::Cut, IN_THE_QUESTIONS, "connection closed", "the connection to the server ended"),
        (Fault::Hang, IN_THE_QUESTIONS, "answered nothing for 3s", "no_progress_timeout"),
        (Fault::Cut, IN_THE_ROWS, "pg_dump", "the connection to the server ended"),
        (Fault::Hang, IN_THE_ROWS, "pg_dump sent nothing for 3s", "no_progress_timeout"),
    ];
    for (fault, moment, said, hint) in days {
        line.clear();
        line.add(Rule::new(fault, moment));
        let outcome = within(PATIENCE, sandbox.command(&["backup", SOURCE]));
        assert!(line.struck() > 0, "{fault:?} {moment:?} struck nothing: {}", outcome.stderr);
        is_told(&outcome, FAILED, &[said], hint);
        for name in ["manifest.json", "data.000.zst.age"] {
            assert!(sandbox.objects_named(name).is_empty(), "{:#?}", sandbox.objects());
        }
    }
    let uploads = |method: &str| {
        let seen = sandbox.proxy.seen();
        let of = |target: &str| target.contains("?uploads") || target.contains("uploadId=");
        seen.iter().filter(|seen| seen.method == method && of(&seen.target)).count()
    };
    assert_eq!(uploads("POST"), uploads("DELETE"), "an upload was left behind");

    line.clear();
    line.add(Rule::new(Fault::Delay(Duration::from_millis(1)), Moment::Answered(0)));
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn restore_and_drill_over_a_bad_line_blame_the_line() {
    let sandbox = Sandbox::small();
    let line = PostgresProxy::start(sandbox.server.host());
    sandbox.run_well(&["backup", SOURCE]);
    let target = line.uri("postgres");
    let restore = ["restore", SOURCE, "--at", "now", "--into", "restored", "--target", &target, "--yes"];
    for (moment, said) in
        [(Moment::Start, "cannot connect to"), (IN_THE_ROWS, "cannot load table public.orders")]
    {
        line.clear();
        line.add(Rule::new(Fault::Cut, moment));
        let outcome = within(PATIENCE, sandbox.command(&restore));
        is_told(&outcome, FAILED, &[said], "server");
        assert!(!sandbox.server.has_database("restored"), "a half-made database is left");
    }
    // A line that stands still is given up in the end; an operator can end it before.
    let sandbox = sandbox.with_policy_lines("no_progress_timeout = \"3s\"");
    for (moment, said) in [(IN_A_SHORT_ANSWER, "cannot "), (IN_THE_ROWS, "cannot load table public.orders")] {
        line.clear();
        line.add(Rule::new(Fault::Hang, moment));
        let outcome = within(PATIENCE, sandbox.command(&restore));
        assert!(line.struck() > 0, "{moment:?} struck nothing: {}", outcome.stderr);
        assert!(outcome.stderr.contains("answered nothing for 3 s"), "{}", outcome.stderr);
        is_told(&outcome, FAILED, &[said], "the connection to the server ended");
    }
    line.clear();
    let sandbox = sandbox.with_policy_lines("");
    sandbox.server.psql("postgres", "drop database if exists restored");
    line.clear();
    line.add(Rule::new(Fault::Hang, IN_THE_ROWS));
    let mut command = sandbox.command(&restore);
    let stuck = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pgproof");
    assert!(line.wait_until_struck(PATIENCE));
    succeed(Command::new("kill").args(["-INT", &stuck.id().to_string()]));
    let outcome: Outcome = stuck.wait_with_output().expect("its end").into();
    assert_eq!(outcome.code, Some(INTERRUPTED), "{}", outcome.stderr);
    assert!(!sandbox.server.has_database("restored"), "a half-made database is left");
    line.clear();
    sandbox.run_well(&restore);
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));

    let other = PostgresServer::start(sandbox.server.version());
    other.create_database(HOME);
    let line = PostgresProxy::start(other.host());
    let verification = |time_limit: &str| {
        format!(
            "[sources.{SOURCE}.verification]\nschedule = \"0 3 * * *\"\nattempts = 1\n\
         time_limit = \"{time_limit}\"\n[sources.{SOURCE}.verification.scratch]\nconnection = \"{}\"\n",
            line.uri(HOME)
        )
    };
    let sandbox = sandbox.with_policy_lines(&verification("1h"));
    line.add(Rule::new(Fault::Cut, IN_THE_ROWS));
    let report = sandbox.drill(&[]);
    assert!(line.struck() > 0, "{report:#}");
    assert_eq!(report["verdict"], "not_run", "{report:#}");
    let checks = report["checks"].as_array().expect("checks");
    let restore = checks.iter().find(|check| check["name"] == "restore").expect("a check of the restore");
    let reason = restore["reason"].as_str().expect("a reason");
    assert!(restore["outcome"] == "not_run" && reason.contains("connection"), "{restore:#}");
    let newest = sandbox.good_backups().pop().expect("a backup");
    assert!(newest["proved_at"].is_null() && newest["failed_at"].is_null(), "{newest:#}");
    // What hangs otherwise does not hang for ever, and its report says why.
    line.clear();
    line.add(Rule::new(Fault::Hang, IN_THE_ROWS));
    let sandbox = sandbox.with_policy_lines(&verification("12s"));
    let report = sandbox.drill(&[]);
    assert!(line.struck() > 0 && report["verdict"] == "not_run", "{report:#}");
    let reasons =
        report["checks"].as_array().expect("checks").iter().filter_map(|check| check["reason"].as_str());
    assert!(reasons.clone().any(|reason| reason.contains("`time_limit`")), "{report:#}");
    line.clear();
    let sandbox = sandbox.with_policy_lines(&verification("1h"));
    assert_eq!(sandbox.drill(&[])["verdict"], "degraded", "globals are not applied on a shared server");
}

/// How a program ended that must end by itself.
fn within(patience: Duration, command: Command) -> Outcome {
    let mut limited = Command::new("timeout");
    limited.arg("--signal=KILL").arg(patience.as_secs().to_string());
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        limited.current_dir(folder);
    }
    limited.stdin(Stdio::null()).output().expect("a program").into()
}
