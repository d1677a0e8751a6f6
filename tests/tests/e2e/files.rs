//! Sources of files, from backup to restore, with the built programs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgproof_tests::binaries;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::receiver::Receiver;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use pgproof_tests::trees;

/// The source of files beside the sandbox's database.
const UPLOADS: &str = "uploads";
/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: i32 = 1;
const WARNING: i32 = 1;
const USAGE: i32 = 2;
const NOTHING_FOUND: i32 = 3;
const INTEGRITY: i32 = 4;
const INCOMPLETE: i32 = 7;
const INTERRUPTED: i32 = 130;

/// A sandbox with a folder of files and a policy for it.
struct Files {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
}

impl Files {
    fn new(kind: RepositoryKind) -> Self {
        Self::with_lines(kind, "")
    }

    /// With further lines at the end of the policy.
    fn with_lines(kind: RepositoryKind, further: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        fs::create_dir_all(root.join("2026/11")).expect("folders");
        fs::create_dir(root.join("empty")).expect("a folder");
        for number in 0..50 {
            let text = format!("upload {number}\n").repeat(number * 100);
            fs::write(root.join(format!("2026/11/{number:02}.txt")), text).expect("a file");
        }
        fs::write(root.join("2026/with\nnewline"), "odd").expect("a file");
        fs::hard_link(root.join("2026/11/07.txt"), root.join("seventh")).expect("a link");
        symlink("/", root.join("everything")).expect("a link");
        fs::set_permissions(root.join("2026"), fs::Permissions::from_mode(0o750)).expect("a mode");
        let lines = format!(
            "[sources.{UPLOADS}]\nkind = \"files\"\npaths = [{:?}]\nexclude = [\"*.tmp\"]\nretention = {{ last = 1 }}\n{further}",
            root.display().to_string()
        );
        Self { sandbox: Sandbox::small_in(kind).with_policy_lines(&lines), folder }
    }

    /// As it came to lie below a target.
    fn below(&self, target: &Path) -> PathBuf {
        target.join(self.folder.path().strip_prefix("/").expect("an absolute path"))
    }

    fn assert_restored(&self, target: &Path) {
        trees::assert_same(self.folder.path(), &self.below(target));
    }

    fn good(&self) -> Vec<serde_json::Value> {
        let outcome = self.sandbox.run(&["list", UPLOADS, "--json"]);
        if outcome.code == Some(NOTHING_FOUND) {
            return Vec::new();
        }
        let lines = outcome.json();
        let lines = lines.as_array().expect("a list");
        lines.iter().filter(|line| line["standing"] == "good").cloned().collect()
    }

    /// A backup whose upload is held back, and which cannot end.
    fn stuck_in_upload(&self) -> Child {
        self.sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("data.000"));
        let mut command = self.sandbox.command(&["backup", UPLOADS]);
        let backup = command.stdout(Stdio::null()).spawn().expect("pgproof");
        let is_stuck = self.sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.faulty));
        assert!(is_stuck, "nothing is uploaded: {:#?}", self.sandbox.proxy.seen());
        backup
    }
}

#[test]
fn files_come_back_as_they_were() {
    let files = Files::new(RepositoryKind::S3);
    let sandbox = &files.sandbox;
    fs::write(files.folder.path().join("left out.tmp"), "scratch").expect("a file");
    let made = sandbox.run_as_host(&["backup", UPLOADS]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let [backup] = &files.good()[..] else { panic!("one backup") };
    let id = backup["id"].as_str().expect("an id");

    let manifest = fs::read_to_string(sandbox.object("manifest.json")).expect("a manifest");
    assert!(manifest.contains("\"kind\": \"files\"") && !manifest.contains("07.txt"), "{manifest}");
    let shown = sandbox.run_well(&["show", UPLOADS, id, "--inventory"]).text();
    assert!(shown.contains("51 files in 4 folders, 2 links"), "{shown}");
    assert!(shown.contains("/2026/11/07.txt") && !shown.contains("left out"), "{shown}");
    sandbox.run_well(&["check", UPLOADS, "--read-data"]);

    let target = sandbox.path("restored");
    let to = target.to_str().expect("a path");
    let planned = sandbox.run_well(&["restore", UPLOADS, "--at", "now", "--to", to, "--dry-run"]);
    assert!(planned.stderr.contains("files in"), "{}", planned.stderr);
    assert!(!target.exists(), "a dry run makes nothing");
    sandbox.run_well(&["restore", UPLOADS, "--at", "now", "--to", to]);
    files.assert_restored(&target);

    let again = sandbox.run(&["restore", UPLOADS, "--at", "now", "--to", to]);
    assert_eq!(again.code, Some(USAGE), "{}", again.stderr);
    assert!(again.stderr.contains("--overwrite"), "{}", again.stderr);
    let document =
        sandbox.run_well(&["restore", UPLOADS, "--at", "now", "--to", to, "--overwrite", "never", "--json"]);
    assert_eq!(document.json()["restored"]["files"], 0, "{}", document.text());
}

#[test]
fn one_folder_of_them_is_restored_alone() {
    let files = Files::new(RepositoryKind::Directory);
    files.sandbox.run_well(&["backup", UPLOADS]);
    let wanted = files.folder.path().join("2026/11/09.txt");
    let (target, path) = (files.sandbox.path("restored"), wanted.to_str().expect("a path").to_owned());
    let to = target.to_str().expect("a path");
    files.sandbox.run_well(&["restore", UPLOADS, "--at", "now", "--to", to, "--path", &path]);
    let restored = files.below(&target).join("2026");
    assert_eq!(fs::read_dir(restored.join("11")).expect("a folder").count(), 1);
    assert_eq!(restored.metadata().expect("a folder").permissions().mode() & 0o7777, 0o750);
    let missing = files.sandbox.run(&["restore", UPLOADS, "--at", "now", "--to", to, "--path", "/no/such"]);
    assert_eq!(missing.code, Some(NOTHING_FOUND), "{}", missing.stderr);
}

#[test]
fn age_zstd_and_tar_restore_files() {
    let files = Files::new(RepositoryKind::S3);
    files.sandbox.run_well(&["backup", UPLOADS]);
    let manifest = fs::read_to_string(files.sandbox.object("manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let line = manifest["restore"].as_str().expect("the line of stock tools");
    let quoted = |path: PathBuf| format!("'{}'", path.display());
    let line = line
        .replace("IDENTITY", &quoted(files.sandbox.path("second-identity.txt")))
        .replace("data.000.zst.age", &quoted(files.sandbox.object("data.000.zst.age")));
    let target = tempfile::tempdir().expect("a folder");
    let mut shell = Command::new("bash");
    succeed(shell.args(["-o", "pipefail", "-c", &line]).current_dir(target.path()));
    files.assert_restored(target.path());
}

#[test]
fn unreadable_files_are_told_and_the_backup_stands() {
    let receiver = Receiver::start();
    let route = format!("[alerts.routes.dead-man]\nkind = \"ping\"\nurl = \"{}\"\n", receiver.url("/ping"));
    let files = Files::with_lines(RepositoryKind::Directory, &route);
    let path = files.folder.path().join("2026/secret");
    fs::write(&path, "for its owner's eyes").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("a mode");
    // As a user like any other, whom modes concern.
    let as_anybody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search"]);
        command.arg(binaries::pgproof()).arg("--policy").arg(files.sandbox.policy()).args(arguments);
        command.stdin(Stdio::null()).output().expect("setpriv")
    };
    let output = as_anybody(&["backup", UPLOADS]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(INCOMPLETE), "{said}");
    assert!(said.contains("/2026/secret") && said.contains("the backup stands"), "{said}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("1 could not be opened"), "{told}");
    assert_eq!(files.good().len(), 1);
    // Nobody else takes it for whole.
    assert!(receiver.requests("/ping").is_empty(), "whoever waits for good backups was told of one");
    let status = files.sandbox.run(&["status", UPLOADS]);
    assert_eq!(status.code, Some(WARNING), "{}", status.stderr);
    assert!(
        status.text().contains("incomplete") && status.text().contains("lacks 1 file"),
        "{}",
        status.text()
    );
    let point = as_anybody(&["snapshot", "--source", UPLOADS, "--reason", "a test"]);
    assert_eq!(point.status.code(), Some(INCOMPLETE), "{}", String::from_utf8_lossy(&point.stderr));
    assert!(files.sandbox.objects().iter().all(|name| !name.contains("restore-points")));

    let target = files.sandbox.path("restored");
    let to = target.to_str().expect("a path");
    let planned = files
        .sandbox
        .run_well(&["restore", UPLOADS, "--at", "now", "--to", to, "--dry-run", "--json"])
        .json();
    assert_eq!((&planned["dry_run"], &planned["planned"]["files"]), (&true.into(), &51.into()), "{planned}");
    let restored = files.sandbox.run_well(&["restore", UPLOADS, "--at", "now", "--to", to]);
    assert!(restored.stderr.contains("secret"), "{}", restored.stderr);
    assert!(!files.below(&target).join("2026/secret").exists());
    assert!(files.below(&target).join("2026/11/07.txt").exists());
}

#[test]
fn files_come_back_where_their_owners_cannot_be_restored() {
    let files = Files::new(RepositoryKind::Directory);
    let owned = files.folder.path().join("2026/11/08.txt");
    if std::os::unix::fs::chown(&owned, Some(1234), Some(4321)).is_err() {
        eprintln!("skipped: making files of another owner takes root");
        return;
    }
    files.sandbox.run_well(&["backup", UPLOADS]);
    let target = files.sandbox.path("restored");
    // As root in a container that may not give files away.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-chown"]);
    command.arg(binaries::pgproof()).arg("--policy").arg(files.sandbox.policy());
    command.args(["restore", UPLOADS, "--at", "now", "--to"]).arg(&target);
    let told = String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned();
    assert!(told.contains("owners and groups were not all restored"), "{told}");
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference"]).arg(files.folder.path()).arg(files.below(&target));
    succeed(&mut diff);
}

#[test]
fn a_path_that_is_not_there_fails_the_backup() {
    let files = Files::new(RepositoryKind::Directory);
    fs::rename(files.folder.path(), files.folder.path().with_extension("away")).expect("a rename");
    let failed = files.sandbox.run(&["backup", UPLOADS]);
    fs::rename(files.folder.path().with_extension("away"), files.folder.path()).expect("a rename back");
    assert_eq!(failed.code, Some(FAILED), "{}", failed.stderr);
    assert!(
        failed.stderr.contains("does not exist") && failed.stderr.contains("hint: mount"),
        "{}",
        failed.stderr
    );
    assert!(files.good().is_empty());
    assert!(files.sandbox.objects_named("data.000.zst.age").is_empty());
}

#[test]
fn a_repository_among_the_files_is_not_backed_up_into_itself() {
    let files = Files::new(RepositoryKind::Directory);
    let root = files.sandbox.path("repository").parent().expect("a folder").display().to_string();
    let policy = |exclude: &str| {
        let text = fs::read_to_string(files.sandbox.policy()).expect("a policy");
        let (head, _) = text.split_once(&format!("[sources.{UPLOADS}]")).expect("the source");
        format!(
            "{head}[sources.{UPLOADS}]\nkind = \"files\"\npaths = [{root:?}]\nexclude = [{exclude}]\n\
             retention = {{ last = 1 }}\n"
        )
    };
    fs::write(files.sandbox.policy(), policy("")).expect("own file");
    let refused = files.sandbox.run(&["backup", UPLOADS]);
    assert_eq!(refused.code, Some(USAGE), "{}", refused.stderr);
    assert!(refused.stderr.contains("contain the repository itself"), "{}", refused.stderr);
    let repository = files.sandbox.path("repository").display().to_string();
    fs::write(files.sandbox.policy(), policy(&format!("{repository:?}"))).expect("own file");
    files.sandbox.run_well(&["backup", UPLOADS]);
}

#[test]
fn agent_killed_in_mid_backup_leaves_no_backup_of_files() {
    let files = Files::new(RepositoryKind::S3);
    let mut backup = files.stuck_in_upload();
    backup.kill().expect("kill -9");
    backup.wait().expect("its end");
    files.sandbox.proxy.release();
    assert!(files.good().is_empty());
    assert!(files.sandbox.objects_named("manifest.json").is_empty());
    files.sandbox.run_well(&["backup", UPLOADS]);
    assert_eq!(files.good().len(), 1);
}

#[test]
fn agent_asked_to_end_leaves_nothing_of_files() {
    let files = Files::new(RepositoryKind::S3);
    let mut backup = files.stuck_in_upload();
    succeed(Command::new("kill").args(["-TERM", &backup.id().to_string()]));
    files.sandbox.proxy.release();
    assert_eq!(backup.wait().expect("its end").code(), Some(INTERRUPTED));
    for name in ["manifest.json", "data.000.zst.age", "index.jsonl.zst.age"] {
        assert!(files.sandbox.objects_named(name).is_empty(), "{name}");
    }
}

#[test]
fn a_damaged_archive_is_found_and_restores_nothing_wrong() {
    let files = Files::new(RepositoryKind::Directory);
    files.sandbox.run_well(&["backup", UPLOADS]);
    let path = files.sandbox.object("data.000.zst.age");
    let mut bytes = fs::read(&path).expect("an archive");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    fs::write(&path, bytes).expect("a damaged archive");
    let checked = files.sandbox.run(&["check", UPLOADS, "--read-data"]);
    assert_eq!(checked.code, Some(INTEGRITY), "{}", checked.stderr);
    let target = files.sandbox.path("restored");
    let to = target.to_str().expect("a path");
    let restored = files.sandbox.run(&["restore", UPLOADS, "--at", "now", "--to", to]);
    assert_ne!(restored.code, Some(0));
    let left = succeed(Command::new("find").arg(&target).args(["-name", ".pgproof-restore*"]));
    assert!(left.stdout.is_empty());
}

#[test]
fn what_is_for_another_kind_says_so() {
    let files = Files::new(RepositoryKind::Directory);
    let sandbox = &files.sandbox;
    sandbox.run_well(&["backup", UPLOADS]);
    sandbox.run_well(&["backup", SOURCE]);
    for (arguments, words) in [
        (vec!["restore", UPLOADS, "--at", "now"], "--to FOLDER"),
        (vec!["restore", UPLOADS, "--at", "now", "--into", "db"], "--into is for databases"),
        (vec!["restore", SOURCE, "--at", "now", "--to", "/tmp/x"], "--to is for files"),
    ] {
        let refused = sandbox.run(&arguments);
        assert_eq!(refused.code, Some(USAGE), "{arguments:?} {}", refused.stderr);
        assert!(refused.stderr.contains(words), "{arguments:?} {}", refused.stderr);
    }
    let drilled = sandbox.verify(&["drill", UPLOADS]);
    assert_eq!(drilled.code, Some(USAGE), "{}", drilled.stderr);
    assert!(drilled.stderr.contains("cannot be drilled"), "{}", drilled.stderr);
    let explained = sandbox.run_well(&["backup", UPLOADS, "--explain"]);
    assert!(explained.text().contains("should what is there now not compress"), "{}", explained.text());
    sandbox.run_well(&["list"]);
    sandbox.run_well(&["check"]);

    // Retention, holds and pruning know no kinds.
    sandbox.run_well(&["backup", UPLOADS]);
    let ids: Vec<_> =
        files.good().iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids.len(), 2);
    sandbox.run_well(&["prune", UPLOADS, "--yes"]);
    assert_eq!(files.good().len(), 1);
}
