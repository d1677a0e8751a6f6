//! Where drills run, what keeps the restored database in, and whose fault it is when one cannot run.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{SOURCE, Sandbox};
use serde_json::Value;

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const INTERRUPTED: i32 = 130;
/// Where private servers live.
const CLUSTERS: &str = "/tmp";
const PREFIX: &str = "pgproof_drill_";

#[test]
fn drill_says_what_its_private_server_is_cut_off_from() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "passed", "{report:#}");
    assert_eq!(report["scratch"]["kind"], "private cluster");
    let isolation = report["scratch"]["isolation"].as_str().expect("words");
    assert!(isolation.contains("unix socket only, "), "{isolation}");
    assert!(isolation.contains("no network") || isolation.contains("network not cut off: "), "{isolation}");
    let files = ["files confined to its folder", "files not confined: "];
    assert!(files.iter().any(|words| isolation.contains(words)), "{isolation}");
}

#[test]
fn drill_asked_to_end_leaves_a_report_and_nothing_else() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let drill = stuck_in_restore(&sandbox);
    let folder = cluster_of(&drill);
    succeed(Command::new("kill").args(["-TERM", &drill.id().to_string()]));
    sandbox.proxy.release();
    let (status, report) = ended(drill);
    assert_eq!(status.code(), Some(INTERRUPTED), "{status}");
    assert_eq!(report["verdict"], "not_run", "{report:#}");
    assert!(report["warnings"].to_string().contains("stopped by a signal"), "{report:#}");
    assert!(!folder.exists() && !anything_runs_in(&folder));
    let backup = report["backup"].as_str().expect("an id");
    let of_it = |name: &&String| name.contains("/verifications/") && name.contains(backup);
    assert_eq!(sandbox.objects().iter().filter(of_it).count(), 3, "a report, its signature and its name");
    assert!(newest(&sandbox)["failed_at"].is_null());
}

#[test]
fn what_a_killed_drill_leaves_is_swept_by_the_next() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let mut drill = stuck_in_restore(&sandbox);
    let folder = cluster_of(&drill);
    drill.kill().expect("kill -9");
    drill.wait().expect("its end");
    assert!(folder.exists() && anything_runs_in(&folder));
    sandbox.proxy.release();
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "passed", "{report:#}");
    assert!(!folder.exists() && !anything_runs_in(&folder));
}

#[test]
fn drill_on_a_scratch_server_passes_and_leaves_nothing() {
    let other = scratch_server();
    let sandbox = Sandbox::small().with_policy_lines(&verification(&scratch(&other)));
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    assert_eq!(report["scratch"]["kind"], "scratch server");
    let globals = check(&report, "globals");
    assert_eq!(globals["outcome"], "degraded", "{report:#}");
    assert!(globals["reason"].as_str().expect("a reason").contains("without owners"), "{globals:#}");
    assert_eq!(check(&report, "tables")["outcome"], "passed");
    assert_eq!(scratch_databases(&other), [HOME]);
}

#[test]
fn the_sources_own_server_is_no_scratch_server() {
    let sandbox = Sandbox::small();
    sandbox.server.create_database(HOME);
    let lines = verification(&scratch(&sandbox.server));
    let sandbox = sandbox.with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    refused(&sandbox, &report, "server that the backup was taken from");
    assert_eq!(scratch_databases(&sandbox.server), [HOME]);
}

#[test]
fn a_connection_to_a_database_without_the_prefix_is_refused() {
    let other = scratch_server();
    let lines = verification(&scratch(&other).replace(HOME, "postgres"));
    let sandbox = Sandbox::small().with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    refused(&sandbox, &report, "does not start with");
}

#[test]
fn a_database_that_a_killed_drill_left_is_swept_and_others_are_not() {
    let other = scratch_server();
    let sandbox = Sandbox::small().with_policy_lines(&verification(&scratch(&other)));
    sandbox.run_well(&["backup", SOURCE]);
    let mut drill = stuck_in_restore(&sandbox);
    drill.kill().expect("kill -9");
    drill.wait().expect("its end");
    let left = scratch_databases(&other);
    assert_eq!(left.len(), 2, "{left:?}");
    other.create_database("pgproof_drill_of_somebody_else");
    sandbox.proxy.release();
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    assert_eq!(scratch_databases(&other), [HOME, "pgproof_drill_of_somebody_else"]);
}

#[test]
fn a_drill_asked_to_end_drops_its_database() {
    let other = scratch_server();
    let sandbox = Sandbox::small().with_policy_lines(&verification(&scratch(&other)));
    sandbox.run_well(&["backup", SOURCE]);
    let drill = stuck_in_restore(&sandbox);
    assert_eq!(scratch_databases(&other).len(), 2);
    succeed(Command::new("kill").args(["-TERM", &drill.id().to_string()]));
    sandbox.proxy.release();
    let (status, report) = ended(drill);
    assert_eq!((status.code(), &report["verdict"]), (Some(INTERRUPTED), &"not_run".into()), "{report:#}");
    assert_eq!(scratch_databases(&other), [HOME]);
}

#[test]
fn a_full_disk_is_tried_again_and_then_passes() {
    let sandbox = Sandbox::small().with_policy_lines(&verification(""));
    sandbox.run_well(&["backup", SOURCE]);
    let clients = Clients::of(sandbox.server.programs(), &sandbox.path("clients"));
    clients.replace(
        "pg_restore",
        "if [ ! -e \"$here/full\" ]; then touch \"$here/full\"\n\
         echo 'pg_restore: error: could not execute query: ERROR:  could not extend file \"base/5/1259\": \
         No space left on device' >&2; exit 1; fi",
    );
    let sandbox = sandbox.with_clients(&clients.folder);
    let report = sandbox.drill(&[]);
    assert_eq!((&report["verdict"], &report["attempts"]), (&"passed".into(), &2.into()), "{report:#}");
    assert!(report["warnings"].to_string().contains("No space left on device"), "{report:#}");
}

#[test]
fn a_scratch_server_that_goes_away_says_nothing_about_the_backup() {
    let other = scratch_server();
    let lines = verification(&scratch(&other)).replace("attempts = 2", "attempts = 1");
    let sandbox = Sandbox::small().with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    let drill = stuck_in_restore(&sandbox);
    other.stop();
    sandbox.proxy.release();
    let (_, report) = ended(drill);
    assert_eq!(report["verdict"], "not_run", "{report:#}");
    nothing_is_known_of(&newest(&sandbox));
    other.start_again();
}

#[test]
fn a_store_that_refuses_says_nothing_about_the_backup() {
    let sandbox = Sandbox::small().with_policy_lines(&verification(""));
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.proxy.add(Rule::new(Fault::Status(403)).method("GET").containing(ARCHIVE));
    let report = sandbox.drill(&[]);
    sandbox.proxy.clear();
    assert_eq!((&report["verdict"], &report["attempts"]), (&"not_run".into(), &1.into()), "{report:#}");
    assert_eq!(check(&report, "objects")["outcome"], "not_run");
    nothing_is_known_of(&newest(&sandbox));
}

#[test]
fn objects_of_a_role_that_cannot_be_made_are_told_and_no_failure() {
    let sandbox = Sandbox::small();
    // `pg_dumpall` leaves such roles out, and no server lets one be made.
    sandbox.server.psql(SOURCE, "create role odd; alter table notes owner to odd");
    sandbox.server.psql(SOURCE, "update pg_authid set rolname = 'pg_odd' where rolname = 'odd'");
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    assert!(check(&report, "globals")["reason"].as_str().expect("a reason").contains("pg_odd"), "{report:#}");
}

/// The database that the policy's connection to a scratch server names.
const HOME: &str = "pgproof_drill_home";

fn scratch_server() -> PostgresServer {
    let server = PostgresServer::start(PostgresVersion::V15);
    server.create_database(HOME);
    server
}

fn scratch(server: &PostgresServer) -> String {
    format!("[sources.{SOURCE}.verification.scratch]\nconnection = \"{}\"\n", server.uri(HOME))
}

fn verification(further: &str) -> String {
    format!("[sources.{SOURCE}.verification]\nschedule = \"0 3 * * *\"\nattempts = 2\n{further}")
}

fn scratch_databases(server: &PostgresServer) -> Vec<String> {
    let query = format!("select datname from pg_database where starts_with(datname, '{PREFIX}') order by 1");
    server.psql("postgres", &query).lines().map(str::to_owned).collect()
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
}

/// The drill did not run, said so, and tells nothing about the backup.
fn refused(sandbox: &Sandbox, report: &Value, why: &str) {
    assert_eq!((&report["verdict"], &report["attempts"]), (&"not_run".into(), &1.into()), "{report:#}");
    let server = check(report, "server");
    assert_eq!(server["outcome"], "not_run", "{report:#}");
    assert!(server["reason"].as_str().expect("a reason").contains(why), "{server:#}");
    nothing_is_known_of(&newest(sandbox));
}

fn newest(sandbox: &Sandbox) -> Value {
    sandbox.good_backups().pop().expect("a backup")
}

fn nothing_is_known_of(backup: &Value) {
    assert!(backup["proved_at"].is_null() && backup["failed_at"].is_null(), "{backup:#}");
}

/// A drill of a new backup that waits for rows while its database is there: the store holds back that read of the
/// archive which was the last one of a whole drill.
fn stuck_in_restore(sandbox: &Sandbox) -> Child {
    let reads = count_reads(sandbox);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.proxy.forget_seen();
    sandbox.proxy.add(Rule::new(Fault::Hold).method("GET").containing(ARCHIVE).after(reads - 1));
    let mut command = sandbox.verifier_command(&["drill", SOURCE, "--json", "--jobs", "1"]);
    let drill = command.stdout(Stdio::piped()).spawn().expect("pgproof-verifier");
    let stuck = sandbox
        .proxy
        .wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.faulty && seen.target.contains(ARCHIVE)));
    assert!(stuck, "the archive was not read: {:#?}", sandbox.proxy.seen());
    drill
}

const ARCHIVE: &str = "data.000.zst.age";

/// How often a whole drill reads the archive; the last time is for rows. Not the first drill: it also tests the
/// verifier's own alarm, which reads more.
fn count_reads(sandbox: &Sandbox) -> usize {
    sandbox.drill(&["--jobs", "1"]);
    sandbox.proxy.forget_seen();
    let report = sandbox.drill(&["--jobs", "1"]);
    assert!(matches!(report["verdict"].as_str(), Some("passed" | "degraded")), "{report:#}");
    let seen = sandbox.proxy.seen();
    seen.iter().filter(|seen| seen.method == "GET" && seen.target.contains(ARCHIVE)).count()
}

/// The folder of the private server that a running drill started.
fn cluster_of(drill: &Child) -> PathBuf {
    let prefix = format!("pgproof-cluster-{}-", drill.id());
    let entries = std::fs::read_dir(CLUSTERS).expect("the folder of clusters").flatten();
    let mut found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let folder = found.next().expect("a private server").path();
    assert!(anything_runs_in(&folder));
    folder
}

/// A server's working directory is its data directory.
fn anything_runs_in(folder: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut folders = processes.filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok());
    folders.any(|at| at.starts_with(folder))
}

/// How a drill ended, and its report.
fn ended(drill: Child) -> (ExitStatus, Value) {
    let pid = drill.id().to_string();
    let (ended, output) = mpsc::channel();
    std::thread::spawn(move || ended.send(drill.wait_with_output().expect("a child")));
    let output = output.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        succeed(Command::new("kill").args(["-KILL", &pid]));
        panic!("still running after {PATIENCE:?}")
    });
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: no report"));
    (output.status, report)
}

/// A folder of links to programs, some of which can be replaced.
struct Clients {
    folder: PathBuf,
    real: PathBuf,
}

impl Clients {
    fn of(programs: &Path, folder: &Path) -> Self {
        std::fs::create_dir(folder).expect("a new folder");
        for entry in std::fs::read_dir(programs).expect("the programs").flatten() {
            std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())).expect("a link");
        }
        Self { folder: folder.to_owned(), real: programs.to_owned() }
    }

    /// A shell script in place of a program, which does this first and then runs the program.
    fn replace(&self, program: &str, before: &str) {
        let path = self.folder.join(program);
        std::fs::remove_file(&path).expect("a link");
        let real = self.real.join(program);
        let text = format!(
            "#!/bin/sh\nhere=$(dirname \"$0\")\nif [ \"$1\" != --version ]; then\n{before}\nfi\nexec {} \"$@\"\n",
            real.display()
        );
        std::fs::write(&path, text).expect("own folder");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("own file");
    }
}
