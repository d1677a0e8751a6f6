//! The verifier on its schedule: what is due is drilled once, whoever is at it and however it ended the last time.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use pgproof_tests::clock;
use pgproof_tests::daemon::{Daemon, PATIENCE};
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::s3_proxy::{Fault, Rule, Seen};
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;

/// A drill of the small database is over by then.
const LEAD_SECONDS: u64 = 15;
/// An offset by which a minute that was to come has passed.
const BEHIND_IT: &str = "+150s";
/// Comes true so rarely that each source is due just once.
const YEARLY: &str = "0 0 1 1 *";

#[test]
fn run_once_drills_a_due_source_and_not_one_that_is_not() {
    let sandbox = with_two_sources();
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["backup", "other"]);
    let sandbox = only_other_verified(sandbox);
    assert_eq!(drilled(&sandbox), ["other"]);
    let sandbox = both_verified(sandbox);
    assert_eq!(drilled(&sandbox), [SOURCE]);
    assert_eq!(drilled(&sandbox), [""; 0]);
    let planned = sandbox.verify(&["plan", SOURCE, "--json"]).json();
    assert_eq!((&planned["due"], &planned["coverage"]["proved"]), (&Value::Array(vec![]), &1.into()));
    assert_eq!(planned["next_picks"][0]["reason"], "the newest", "{planned:#}");
    let report = &reports(&sandbox)[0];
    assert_eq!((&report["trigger"], &report["choice"]["rule"]), (&"scheduled".into(), &"newest".into()));
    assert_eq!(report["history"]["backups"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert_eq!(report["coverage"]["proved"], 1);
}

#[test]
fn drills_that_were_missed_are_made_up_for_by_one() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let sandbox = verified(sandbox, &minute_to_come());
    assert_eq!(drilled(&sandbox).len(), 1);
    let then = |arguments: &[&str]| clock::offset(&sandbox.verifier_command(arguments), BEHIND_IT);
    let planned = Outcome::of(&mut then(&["plan", SOURCE, "--json"])).json();
    assert_ne!(planned["due"], Value::Array(vec![]), "not due again");
    let printed = Outcome::of(&mut then(&["run", "--dry-run"]));
    assert!(printed.text().contains("due now"), "{}", printed.text());
    let drilled = || sources_of(Outcome::of(&mut then(&["run", "--once", "--json"])));
    assert_eq!(drilled().len(), 1);
    assert_eq!(drilled().len(), 0);
    is_whole(&sandbox, 2);
}

#[test]
fn two_verifiers_at_once_drill_each_backup_once() {
    // The S3 server of the tests has a moment between looking for an object and putting it; this store has none.
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    for _ in 0..3 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    // With one run in the window, all are due in it.
    let sandbox = verified(sandbox, &format!("{YEARLY}\"\nwindow = \"1d"));
    let start = || {
        let mut command = sandbox.verifier_command(&["run", "--once", "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pgproof-verifier")
    };
    let both = [start(), start()];
    let mut lines = 0;
    for verifier in both {
        let ended: Outcome = verifier.wait_with_output().expect("its end").into();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        lines += ended.text().lines().count();
    }
    assert_eq!(lines, 3);
    is_whole(&sandbox, 3);
    let backups: BTreeSet<String> =
        reports(&sandbox).iter().map(|report| report["backup"].to_string()).collect();
    assert_eq!(backups.len(), 3);
}

#[test]
fn daemon_that_is_asked_to_end_in_mid_drill_leaves_nothing() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let sandbox = verified(sandbox, YEARLY);
    let daemon = stuck_in_drill(&sandbox);
    daemon.signal("TERM");
    sandbox.proxy.release();
    assert_eq!(daemon.ended(), Some(0));
    let report = &reports(&sandbox)[0];
    assert_eq!(report["verdict"], "not_run", "{report:#}");
    let lease: Value = serde_json::from_slice(&read(&sandbox.object("drill.app.json"))).expect("a lease");
    assert_eq!(lease["released"], true, "{lease}");
    // Nothing is known of the backup yet, so that it is still to be drilled.
    let planned = sandbox.verify(&["plan", SOURCE, "--json"]).json();
    assert_eq!(planned["picks"].as_array().map(Vec::len), Some(1), "{planned:#}");
}

#[test]
fn daemon_keeps_its_policy_when_the_new_one_is_wrong() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let sandbox = verified(sandbox, &minute_to_come());
    let daemon = start_daemon(&sandbox);
    assert!(sandbox.proxy.wait_until(PATIENCE, |seen| stored_reports(seen) == 1), "no first drill");
    std::fs::write(sandbox.policy(), "[repository]\nlocation = 7\n").expect("own file");
    daemon.signal("HUP");
    daemon.wait_for("stays in force");
    assert!(sandbox.proxy.wait_until(PATIENCE, |seen| stored_reports(seen) == 2), "no second drill");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    is_whole(&sandbox, 2);
}

#[test]
fn daemon_may_begin_before_its_repository_does() {
    let sandbox = verified(Sandbox::small(), YEARLY);
    sandbox.proxy.add(Rule::new(Fault::Status(403)));
    let daemon = start_daemon(&sandbox);
    daemon.wait_for("is not permitted");
    daemon.wait_for("trying again");
    sandbox.proxy.clear();
    daemon.signal("HUP");
    daemon.wait_for("there is no repository");
    daemon.wait_for("trying again");
    sandbox.run_well(&["backup", SOURCE]);
    daemon.signal("HUP");
    assert!(sandbox.proxy.wait_until(PATIENCE, |seen| stored_reports(seen) == 1), "no drill");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    is_whole(&sandbox, 1);
}

#[test]
fn daemon_that_waits_for_its_repository_can_be_stopped_and_a_wrong_policy_ends_it() {
    let sandbox = verified(Sandbox::small(), YEARLY);
    let daemon = start_daemon(&sandbox);
    daemon.wait_for("trying again");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    let daemon = start_daemon(&sandbox);
    daemon.wait_for("trying again");
    std::fs::write(sandbox.policy(), "[repository]\nlocation = 7\n").expect("own file");
    daemon.signal("HUP");
    assert_eq!(daemon.ended(), Some(2));
}

#[test]
fn killed_verifier_loses_its_lease_at_once() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let sandbox = verified(sandbox, YEARLY);
    let daemon = stuck_in_drill(&sandbox);
    daemon.signal("KILL");
    assert_eq!(daemon.ended(), None);
    sandbox.proxy.release();
    assert_eq!(drilled(&sandbox), [SOURCE]);
    let lease: Value = serde_json::from_slice(&read(&sandbox.object("drill.app.json"))).expect("a lease");
    // The killed one's, that of the drill, and that of the look which found nothing more.
    assert_eq!(lease["generation"], 3, "{lease}");
    is_whole(&sandbox, 1);
}

#[test]
fn rules_pick_their_backups_and_reports_say_so() {
    let sandbox = Sandbox::small();
    for _ in 0..3 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let sandbox =
        sandbox.with_policy_lines("objectives = { recovery_point = \"1s\", recovery_time = \"1h\" }");
    let ids = sandbox.good_ids();
    let oldest = sandbox.drill(&["--pick", "oldest"]);
    assert_eq!((oldest["backup"].as_str(), &oldest["choice"]["rule"]), (Some(&*ids[0]), &"oldest".into()));
    assert_eq!(oldest["choice"]["candidates"], 3);
    let unproved = sandbox.drill(&["--pick", "unproved"]);
    assert_ne!(unproved["backup"], oldest["backup"]);
    assert_eq!(unproved["coverage"]["proved"], 2, "{unproved:#}");
    // What was promised and not kept is a weaker proof, and no failure.
    assert_eq!(unproved["verdict"], "degraded", "{unproved:#}");
    let objectives = &unproved["objectives"];
    assert_eq!(
        (&objectives["recovery_point"]["met"], &objectives["recovery_time"]["met"]),
        (&false.into(), &true.into())
    );
    assert!(objectives["recovery_time"]["forecast"].as_str().is_some_and(|told| told.contains("2 drill(s)")));
    let random = sandbox.drill(&["--pick", "random"]);
    assert!(ids.iter().any(|id| random["backup"] == **id), "{random:#}");
}

#[test]
fn exception_makes_a_failing_check_a_weaker_proof_until_it_ends() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let until = |day: &str| {
        format!(
            "{YEARLY}\"\nchecks = [{{ name = \"many\", sql = \"select count(*) from notes\", at_least = 1000 }}]\n\
             exceptions = [{{ check = 'check \"many\"', reason = \"half a year\", until = \"{day}\" }}]\nwindow = \"90d"
        )
    };
    let sandbox = verified(sandbox, &until("2999-12-31"));
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    assert_eq!(report["exceptions"][0]["used"], true);
    let sandbox = verified(sandbox, &until("2020-12-31"));
    let report = sandbox.drill(&[]);
    assert_eq!((&report["verdict"], &report["exceptions"][0]["expired"]), (&"failed".into(), &true.into()));
    assert_eq!(report["coverage"]["proved"], 0, "{report:#}");
    // A bad backup is told once, and not drilled again and again.
    let planned = sandbox.verify(&["plan", SOURCE, "--json"]).json();
    assert_eq!(planned["picks"], Value::Array(vec![]), "{planned:#}");
}

#[test]
fn schedule_is_refused_to_a_verifier_whose_reports_nobody_trusts() {
    const USAGE: i32 = 2;
    let sandbox = verified(Sandbox::small(), YEARLY);
    sandbox.run_well(&["backup", SOURCE]);
    let sandbox = sandbox.trusting_only_a_stranger();
    let refused = sandbox.verify(&["run", "--once"]);
    assert_eq!(refused.code, Some(USAGE), "{}", refused.stderr);
    assert!(refused.stderr.contains("trusted_signers"), "{}", refused.stderr);
}

fn verified(sandbox: Sandbox, schedule: &str) -> Sandbox {
    sandbox.with_policy_lines(&format!("[sources.{SOURCE}.verification]\nschedule = \"{schedule}\"\n"))
}

fn with_two_sources() -> Sandbox {
    let sandbox = Sandbox::small();
    let lines = other_source(&sandbox);
    sandbox.with_policy_lines(&lines)
}

fn only_other_verified(sandbox: Sandbox) -> Sandbox {
    let lines = format!("{}[sources.other.verification]\nschedule = \"{YEARLY}\"\n", other_source(&sandbox));
    sandbox.with_policy_lines(&lines)
}

fn both_verified(sandbox: Sandbox) -> Sandbox {
    let lines = format!(
        "{}[sources.other.verification]\nschedule = \"{YEARLY}\"\n[sources.{SOURCE}.verification]\nschedule = \"{YEARLY}\"\n",
        other_source(&sandbox)
    );
    sandbox.with_policy_lines(&lines)
}

fn other_source(sandbox: &Sandbox) -> String {
    let uri = sandbox.server.uri(SOURCE);
    format!("[sources.other]\nkind = \"postgres\"\nconnection = \"{uri}\"\nretention = {{ daily = 30 }}\n")
}

/// A daily schedule whose time comes soon, and not before a drill that starts now is over.
fn minute_to_come() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let minute = (now + LEAD_SECONDS).div_ceil(60);
    format!("{} {} * * *", minute % 60, minute / 60 % 24)
}

/// Does what is due, all of which must pass, and gives the sources in their order.
fn drilled(sandbox: &Sandbox) -> Vec<String> {
    sources_of(sandbox.verify(&["run", "--once", "--json"]))
}

fn sources_of(ran: Outcome) -> Vec<String> {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.text(), ran.stderr);
    let line = |line: &str| serde_json::from_str::<Value>(line).expect("a report a line");
    ran.text().lines().map(|text| line(text)["source"].as_str().expect("a source").to_owned()).collect()
}

fn start_daemon(sandbox: &Sandbox) -> Daemon {
    Daemon::start(sandbox.verifier_command(&["run"]))
}

/// A daemon whose drill waits for the archive.
fn stuck_in_drill(sandbox: &Sandbox) -> Daemon {
    sandbox.proxy.add(Rule::new(Fault::Hold).method("GET").containing("data.000.zst.age"));
    let before = sandbox.proxy.seen().len();
    let daemon = start_daemon(sandbox);
    let is_read = |seen: &Seen| seen.method == "GET" && seen.target.contains("data.000.zst.age");
    let stuck = sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().skip(before).any(is_read));
    assert!(stuck, "nothing was read: {:#?}", sandbox.proxy.seen());
    daemon
}

fn stored_reports(seen: &[Seen]) -> usize {
    let stored = |seen: &&Seen| {
        seen.method == "PUT"
            && seen.target.contains("/verifications/")
            && seen.target.split('?').next().is_some_and(|path| path.ends_with(".json"))
            && seen.status == Some(200)
    };
    seen.iter().filter(stored).count()
}

/// The source's reports in the order of their numbers.
fn reports(sandbox: &Sandbox) -> Vec<Value> {
    let mut reports: Vec<Value> = report_files(sandbox)
        .iter()
        .map(|path| serde_json::from_slice(&read(path)).expect("a report"))
        .collect();
    reports.sort_by_key(|report| report["number"].as_u64());
    reports
}

fn report_files(sandbox: &Sandbox) -> Vec<std::path::PathBuf> {
    let files = sandbox.objects_named(".json");
    let of_source = format!("/{SOURCE}/verifications/");
    files.into_iter().filter(|path| path.to_string_lossy().contains(&of_source)).collect()
}

/// So many reports, each of which names the one before by its hash.
fn is_whole(sandbox: &Sandbox, count: usize) {
    let hashes: Vec<String> = report_files(sandbox).iter().map(|path| sha256(path)).collect();
    let reports = reports(sandbox);
    let numbers: Vec<_> = reports.iter().map(|report| report["number"].as_u64()).collect();
    let expected: Vec<_> = (1..=count as u64).map(Some).collect();
    assert_eq!(numbers, expected);
    for (before, report) in reports.iter().zip(&reports[1..]) {
        let previous = &report["previous"];
        assert_eq!(previous["number"], before["number"]);
        assert!(hashes.iter().any(|hash| previous["sha256"] == **hash), "{previous}");
    }
}

fn sha256(path: &Path) -> String {
    let output = succeed(Command::new("sha256sum").arg(path));
    String::from_utf8_lossy(&output.stdout).chars().take(64).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
