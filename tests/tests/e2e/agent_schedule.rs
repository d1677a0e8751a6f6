//! The agent on its schedule: what is due is backed up once, whoever is at it, and whatever went wrong before.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pgproof_tests::clock;
use pgproof_tests::daemon::{Daemon, PATIENCE};
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;

/// Comes true so rarely that each source is due just once.
const YEARLY: &str = "schedule = \"0 0 1 1 *\"";
/// A backup of the small database is over by then.
const LEAD_SECONDS: u64 = 8;
/// An offset by which a minute that was to come has passed.
const BEHIND_IT: &str = "+70s";
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

#[test]
fn daemon_makes_what_is_due_and_then_nothing() {
    let sandbox = Sandbox::small().with_policy_lines(YEARLY);
    let printed = sandbox.run_well(&["run", "--dry-run"]);
    assert!(printed.text().contains("back up now (there is no backup yet)"), "{}", printed.text());
    let daemon = Daemon::start(sandbox.command(&["run"]));
    daemon.wait_for("its policy names `keys.identity_files`");
    daemon.wait_for("there is no backup yet");
    daemon.wait_for("backed up source=app");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    assert_eq!(sandbox.good_ids().len(), 1);
    let planned = sandbox.run_well(&["run", "--dry-run", "--json"]).json();
    let source = &planned["sources"][0];
    assert_eq!((&source["source"], &source["due"]), (&SOURCE.into(), &false.into()), "{planned:#}");
    assert!(source["next_run_begins_at"].as_str().is_some_and(|at| at.contains("-01-01T00:00:00Z")));
    let again = sandbox.run_well(&["backup", "--all", "--due"]);
    assert!(again.text().contains("nothing is due"), "{}", again.text());
    assert!(again.stderr.contains("identity_files"), "{}", again.stderr);
    let alone = sandbox.run_as_host(&["backup", "--all", "--due"]);
    assert!(alone.succeeded() && !alone.stderr.contains("identity_files"), "{}", alone.stderr);
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn runs_that_were_missed_are_made_up_for_by_one() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let sandbox = sandbox.with_policy_lines(&format!("schedule = \"{}\"", minute_to_come()));
    let is_due = |planned: Outcome| planned.json()["sources"][0]["due"] == Value::Bool(true);
    let then = |arguments: &[&str]| Outcome::of(&mut clock::offset(&sandbox.command(arguments), BEHIND_IT));
    const PLAN: [&str; 3] = ["run", "--dry-run", "--json"];
    assert!(!is_due(sandbox.run_well(&PLAN)), "due before its time");
    assert!(is_due(then(&PLAN)), "not due");
    for (arguments, count) in [(&["backup", SOURCE, "--due"][..], 2), (&["run", "--once"], 2)] {
        let ran = then(arguments);
        assert_eq!((ran.code, sandbox.good_ids().len()), (Some(0), count), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn two_daemons_make_one_backup() {
    // The S3 server of the tests has a moment between looking for an object and putting it; this store has none.
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_policy_lines(YEARLY);
    // In a folder no schedule begins a repository: it is begun for another source.
    let lines = format!(
        "{YEARLY}\n[sources.other]\nkind = \"config\"\nenvironment = {{ names = [\"PATH\"], process = true }}\nretention = {{ last = 1 }}"
    );
    let sandbox = sandbox.with_policy_lines(&lines);
    sandbox.run_well(&["backup", "other"]);
    let both = [(); 2].map(|()| Daemon::start(sandbox.command(&["run"])));
    let mut lines = both.iter().map(|daemon| daemon.wait_for("source=app"));
    // One of them may find that it has been done when it comes to look.
    assert!(lines.any(|line| line.contains("backing up") || line.contains("backed up")));
    wait_until("no backup", || sandbox.good_ids().len() == 1);
    for daemon in both {
        daemon.signal("TERM");
        assert_eq!(daemon.ended(), Some(0));
    }
    assert_eq!((sandbox.good_ids().len(), runs(&sandbox).len()), (1, 1), "{:#?}", runs(&sandbox));
}

#[test]
fn daemon_killed_in_mid_dump_delays_nobody() {
    let (sandbox, daemon) = stuck_in_upload();
    daemon.signal("KILL");
    assert_eq!(daemon.ended(), None);
    sandbox.proxy.release();
    sandbox.run_well(&["run", "--once"]);
    assert_eq!(sandbox.good_ids().len(), 1);
    assert_eq!(lease(&sandbox)["generation"], 2);
}

#[test]
fn daemon_asked_to_end_in_mid_dump_leaves_nothing() {
    let (sandbox, daemon) = stuck_in_upload();
    daemon.signal("TERM");
    sandbox.proxy.release();
    assert_eq!(daemon.ended(), Some(0));
    assert!(sandbox.objects_named("manifest.json").is_empty());
    assert!(sandbox.objects_named("data.000.zst.age").is_empty());
    assert_eq!(lease(&sandbox)["released"], true);
    let sessions = "select count(*) from pg_stat_activity \
                    where backend_type = 'client backend' and pid <> pg_backend_pid()";
    wait_until("sessions are left", || sandbox.server.psql("postgres", sessions) == "0");
    let run = &runs(&sandbox)[0]["outcome"];
    assert_eq!((&run["state"], &run["cause"]), (&"failed".into(), &"stopped".into()), "{run}");
    assert!(sandbox.path("on-failure").exists(), "what goes before a backup is not undone");
    // It failed at nothing, so that nothing is waited for.
    sandbox.run_well(&["run", "--once"]);
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn daemon_keeps_its_policy_until_there_is_a_better_one() {
    let sandbox = Sandbox::small().with_policy_lines(YEARLY);
    let daemon = Daemon::start(sandbox.command(&["run"]));
    daemon.wait_for("backed up source=app");
    let good = std::fs::read_to_string(sandbox.policy()).expect("own file");
    std::fs::write(sandbox.policy(), "[repository]\nlocation = 7\n").expect("own file");
    daemon.signal("HUP");
    let told = daemon.wait_for("stays in force");
    assert!(told.contains("ERROR") && told.contains("repository.location"), "{told}");
    let more = format!(
        "{good}\n[agent]\nconcurrency = 1\n[monitoring]\nlisten = \"127.0.0.1:0\"\n{}",
        other_source(&sandbox)
    );
    std::fs::write(sandbox.policy(), more).expect("own file");
    daemon.signal("HUP");
    daemon.wait_for("`monitoring.listen` is another now");
    daemon.wait_for("the policy was read again");
    daemon.wait_for("backed up source=other");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn server_that_is_away_is_tried_again_until_it_is_back() {
    let sandbox = Sandbox::small().with_policy_lines(YEARLY);
    sandbox.server.stop();
    let daemon = Daemon::start(sandbox.command(&["run"]));
    let told = daemon.wait_for("no backup: ");
    assert!(told.contains("cannot connect"), "{told}");
    sandbox.server.start_again();
    daemon.wait_for("failed attempt(s)");
    daemon.wait_for("backed up source=app");
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    let states: Vec<_> = runs(&sandbox).iter().map(|run| run["outcome"]["state"].clone()).collect();
    assert_eq!(states.last(), Some(&"committed".into()), "{states:?}");
    assert_eq!(runs(&sandbox)[0]["outcome"]["cause"], "passing");
}

#[test]
fn what_somebody_has_to_mend_is_recorded_as_such() {
    let sandbox = Sandbox::small();
    let uri = sandbox.server.uri("no_such_database");
    let sandbox = sandbox.with_connection(&uri).with_policy_lines(YEARLY);
    assert_eq!(sandbox.run(&["backup", "--all", "--due"]).code, FAILED);
    assert_eq!(runs(&sandbox)[0]["outcome"]["cause"], "standing");
    let waiting = sandbox.run_well(&["run", "--dry-run"]);
    assert!(waiting.text().contains("somebody has to mend it"), "{}", waiting.text());
    // Waiting for the next try is no failure.
    sandbox.run_well(&["backup", "--all", "--due"]);
    assert_eq!(runs(&sandbox).len(), 1);
}

#[test]
fn all_sources_at_once_and_the_worst_is_the_exit_code() {
    let sandbox = Sandbox::small();
    let lines = other_source(&sandbox);
    let sandbox = sandbox.with_policy_lines(&lines);
    // Two sources that make the repository at the same moment are too much for the tests' S3 server.
    sandbox.run_well(&["backup", SOURCE]);
    let both = sandbox.run_well(&["backup", "--all", "--json"]).json();
    for source in [SOURCE, "other"] {
        assert_eq!(both["sources"][source]["last"]["outcome"], "backed_up", "{both:#}");
    }
    let broken = lines.replace(&sandbox.server.uri(SOURCE), &sandbox.server.uri("no_such_database"));
    let sandbox = sandbox.with_policy_lines(&broken);
    let one = sandbox.run(&["backup", "--all", "--json"]);
    assert_eq!(one.code, FAILED, "{}", one.stderr);
    let told = one.json();
    assert_eq!(told["sources"][SOURCE]["last"]["outcome"], "backed_up", "{told:#}");
    assert_eq!(told["sources"]["other"]["last"]["outcome"], "failed", "{told:#}");
    assert_eq!(sandbox.good_ids().len(), 3);
    let unscheduled = sandbox.run(&["backup", SOURCE, "--due"]);
    assert_eq!(unscheduled.code, USAGE, "{}", unscheduled.stderr);
}

#[test]
fn whose_backups_nobody_trusts_makes_none() {
    let sandbox = Sandbox::small().trusting_only_a_stranger().with_policy_lines(YEARLY);
    for asked in [&["run", "--once"][..], &["backup", SOURCE]] {
        let refused = sandbox.run(asked);
        assert_eq!(refused.code, USAGE, "{}", refused.stderr);
        assert!(refused.stderr.contains("trusted_signers"), "{}", refused.stderr);
    }
    assert!(sandbox.objects_named("manifest.json").is_empty());
}

#[test]
fn hooks_run_around_a_backup_and_know_of_it() {
    let sandbox = with_hooks("true", "true", "");
    sandbox.run_well(&["backup", SOURCE]);
    let id = &sandbox.good_ids()[0];
    let expected = [format!("before {SOURCE} {id} starting "), format!("after {SOURCE} {id} committed ")];
    assert_eq!(told_by_hooks(&sandbox), expected);
}

#[test]
fn hook_that_fails_before_stops_the_backup() {
    let sandbox = with_hooks("exit 7", "true", "");
    let failed = sandbox.run(&["backup", SOURCE]);
    assert_eq!(failed.code, FAILED, "{}", failed.stderr);
    assert!(failed.stderr.contains("exit status: 7"), "{}", failed.stderr);
    assert!(sandbox.good_ids().is_empty());
    assert_eq!(runs(&sandbox)[0]["outcome"]["state"], "failed");
    let told = told_by_hooks(&sandbox);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].starts_with("on_failure app") && told[1].contains(" failed hook "), "{told:?}");
}

#[test]
fn hook_that_hangs_is_killed_and_stops_the_backup() {
    let sandbox = with_hooks("sleep 600", "true", ", time_limit = \"1s\"");
    let began = Instant::now();
    let failed = sandbox.run(&["backup", SOURCE]);
    assert_eq!(failed.code, FAILED, "{}", failed.stderr);
    assert!(failed.stderr.contains("took longer than 1s"), "{}", failed.stderr);
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(sandbox.good_ids().is_empty());
}

#[test]
fn daemon_asked_to_end_in_a_hook_leaves_no_child() {
    let sandbox = with_hooks("echo $$ > hook-pid; sleep 600", "true", "");
    let daemon = Daemon::start(sandbox.command(&["run"]));
    let pid = || std::fs::read_to_string(sandbox.path("hook-pid")).unwrap_or_default().trim().to_owned();
    wait_until("the hook does not run", || !pid().is_empty());
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    assert!(!Path::new("/proc").join(pid()).exists(), "the hook is still there");
    assert!(sandbox.good_ids().is_empty());
    assert_eq!(runs(&sandbox)[0]["outcome"]["cause"], "stopped");
    assert_eq!(told_by_hooks(&sandbox).len(), 2, "{:?}", told_by_hooks(&sandbox));
}

#[test]
fn hook_that_fails_after_leaves_a_good_backup_and_a_warning() {
    let sandbox = with_hooks("true", "exit 9", "");
    let failed = sandbox.run(&["backup", SOURCE]);
    assert_eq!(failed.code, FAILED, "{}", failed.stderr);
    assert!(failed.stderr.contains("the backup is good and stored"), "{}", failed.stderr);
    assert_eq!(sandbox.good_ids().len(), 1);
    let outcome = &runs(&sandbox)[0]["outcome"];
    assert_eq!(outcome["state"], "committed");
    assert!(outcome["warnings"].to_string().contains("exit status: 9"), "{outcome}");
}

/// Hooks that write down what they know, then do as these lines of shell say; and more of the table.
fn with_hooks(before: &str, after: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::small();
    let hook = |name: &str, script: &str| {
        let path = sandbox.path(name);
        let said = sandbox.path("said-by-hooks");
        let line = format!("{name} $PGPROOF_SOURCE $PGPROOF_BACKUP_ID $PGPROOF_OUTCOME $PGPROOF_ERROR");
        let text = format!(
            "#!/bin/sh\ntest -z \"$AWS_SECRET_ACCESS_KEY\" || exit 99\necho \"{line}\" >> {}\n{script}\n",
            said.display()
        );
        std::fs::write(&path, text).expect("own file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("own file");
        format!("{name} = [\"{}\"]", path.display())
    };
    let hooks = [hook("before", before), hook("after", after), hook("on_failure", "true")].join(", ");
    sandbox.with_policy_lines(&format!("{YEARLY}\nhooks = {{ {hooks}{more} }}"))
}

fn told_by_hooks(sandbox: &Sandbox) -> Vec<String> {
    let said = std::fs::read_to_string(sandbox.path("said-by-hooks")).expect("a hook ran");
    said.lines().map(str::to_owned).collect()
}

/// A daemon whose upload does not get on, so that by and by everything before it stands still, `pg_dump` too.
fn stuck_in_upload() -> (Sandbox, Daemon) {
    let sandbox = Sandbox::bulky(150);
    let touched = sandbox.path("on-failure").display().to_string();
    let hooks = format!("hooks = {{ on_failure = [\"/usr/bin/touch\", \"{touched}\"] }}");
    let sandbox = sandbox.with_policy_lines(&format!("{YEARLY}\n{hooks}"));
    sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("partNumber="));
    let daemon = Daemon::start(sandbox.command(&["run"]));
    let stuck = sandbox
        .proxy
        .wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.target.contains("partNumber=")));
    assert!(stuck, "no part was uploaded: {:#?}", sandbox.proxy.seen());
    (sandbox, daemon)
}

fn other_source(sandbox: &Sandbox) -> String {
    let uri = sandbox.server.uri(SOURCE);
    format!(
        "[sources.other]\nkind = \"postgres\"\nconnection = \"{uri}\"\nretention = {{ daily = 30 }}\n{YEARLY}\n"
    )
}

/// A daily schedule whose time comes soon, and not before a backup that starts now is over.
fn minute_to_come() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let minute = (now + LEAD_SECONDS).div_ceil(60);
    format!("{} {} * * *", minute % 60, minute / 60 % 24)
}

/// The records of the source's runs, oldest first.
fn runs(sandbox: &Sandbox) -> Vec<Value> {
    let mut files = sandbox.objects_named(".json");
    files.retain(|path| path.to_string_lossy().contains(&format!("/{SOURCE}/runs/")));
    let mut runs: Vec<Value> = files.iter().map(|path| json(path)).collect();
    runs.sort_by_key(|run| run["started_at"].to_string());
    runs
}

fn lease(sandbox: &Sandbox) -> Value {
    json(&sandbox.object("backup.app.json"))
}

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Each look runs a program, so that there is no need to wait between two of them.
fn wait_until(problem: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{problem}");
    }
}
