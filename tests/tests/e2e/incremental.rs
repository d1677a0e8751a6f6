//! Incremental backups of files over days, with the built programs: what they cost, what they restore, and what ends a chain.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgproof_tests::postgres_server::succeed;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{Outcome, RepositoryKind, Sandbox};
use pgproof_tests::{binaries, clock, trees};
use serde_json::Value;

/// The source of files beside the sandbox's database.
const UPLOADS: &str = "uploads";
/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: i32 = 1;
const INTEGRITY: i32 = 4;
const INCOMPLETE: i32 = 7;

/// A sandbox with a folder of files, which is backed up as days go by.
struct Days {
    sandbox: Sandbox,
    folder: tempfile::TempDir,
    /// What the folder was when it was backed up.
    kept: tempfile::TempDir,
    /// How long a day is, by the clocks of faketime.
    day: (i64, &'static str),
}

impl Days {
    fn new(kind: RepositoryKind, lines: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("2026")).expect("a folder");
        for number in 0..20 {
            let text = format!("upload {number}\n").repeat(number * 200 + 1);
            fs::write(folder.path().join(format!("2026/{number:02}.txt")), text).expect("a file");
        }
        let policy = format!(
            "[sources.{UPLOADS}]\nkind = \"files\"\npaths = [{:?}]\n{lines}\n",
            folder.path().display().to_string()
        );
        let sandbox = Sandbox::small_in(kind).with_policy_lines(&policy);
        let day = match kind {
            RepositoryKind::Directory => (1, "d"),
            // An S3 server refuses requests that are a quarter of an hour away from its own clock.
            RepositoryKind::S3 => (3, "m"),
        };
        Self { sandbox, folder, kept: tempfile::tempdir().expect("a folder"), day }
    }

    fn weekly(kind: RepositoryKind) -> Self {
        let incremental = "incremental = { full_every = \"7d\", chain_max = 14 }";
        Self::new(kind, &format!("{incremental}\nretention = {{ daily = 7 }}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program so many days from now. Files of today are old by then.
    fn on_day(&self, day: i64, program: &Command) -> Outcome {
        let (length, unit) = self.day;
        clock::offset(program, &format!("{:+}{unit}", day * length))
            .output()
            .expect("faketime is installed")
            .into()
    }

    fn run_on_day(&self, day: i64, arguments: &[&str]) -> Outcome {
        let outcome = self.on_day(day, &self.sandbox.command(arguments));
        assert_eq!(outcome.code, Some(0), "{arguments:?}\n{}\n{}", outcome.text(), outcome.stderr);
        outcome
    }

    /// Backs up, keeps what the folder was, and gives the backup's manifest.
    fn back_up(&self, day: i64) -> Value {
        let made = self.run_on_day(day, &["backup", UPLOADS, "--json"]).json()["manifest"].clone();
        let mut copy = Command::new("cp");
        succeed(copy.arg("-a").arg(self.folder.path()).arg(self.kept.path().join(id(&made))));
        made
    }

    fn good_ids(&self, day: i64) -> Vec<String> {
        let lines = self.run_on_day(day, &["list", UPLOADS, "--json"]).json();
        let lines = lines.as_array().expect("a list");
        lines.iter().filter(|line| line["standing"] == "good").map(id).collect()
    }

    /// Restores a backup and compares it with what the folder was then.
    fn assert_restores(&self, id: &str) {
        let target = tempfile::tempdir().expect("a folder");
        let to = target.path().to_str().expect("a path");
        self.sandbox.run_well(&["restore", UPLOADS, "--backup", id, "--to", to]);
        trees::assert_same(&self.kept.path().join(id), &self.below(target.path()));
    }

    fn below(&self, target: &Path) -> PathBuf {
        target.join(self.folder.path().strip_prefix("/").expect("an absolute path"))
    }

    fn object_of(&self, id: &str, name: &str) -> PathBuf {
        self.sandbox.repository_folder().join(format!("{UPLOADS}/backups/{id}/{name}"))
    }
}

fn id(of: &Value) -> String {
    of["id"].as_str().expect("an id").to_owned()
}

/// Why a backup is a full one.
fn because(manifest: &Value) -> &str {
    assert_eq!(manifest["chain"], Value::Null, "{manifest:#}");
    manifest["full_because"].as_str().expect("a reason")
}

fn depth(manifest: &Value) -> &Value {
    &manifest["chain"]["depth"]
}

#[test]
fn a_host_without_identity_backs_up_what_changed_and_all_of_it_comes_back() {
    let days = Days::weekly(RepositoryKind::S3);
    let sandbox = &days.sandbox;
    let full = days.back_up(1);
    assert_eq!(because(&full), "there is no earlier one");
    let mut as_host = Command::new(binaries::pgproof());
    let inner = sandbox.command(&["backup", UPLOADS]);
    as_host.arg("--policy").arg(sandbox.host_policy()).args(["backup", UPLOADS]);
    for (name, value) in inner.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        as_host.env(name, value);
    }
    let unchanged = days.on_day(2, &as_host);
    assert_eq!(unchanged.code, Some(0), "{}", unchanged.stderr);
    assert!(unchanged.text().contains("0 files, 0 B, are new"), "{}", unchanged.text());
    fs::write(days.file("2026/03.txt"), "another").expect("a file");
    fs::remove_file(days.file("2026/04.txt")).expect("a file");
    fs::hard_link(days.file("2026/05.txt"), days.file("fifth")).expect("a link");
    let last = days.back_up(3);
    let chain = &last["chain"];
    assert_eq!((&chain["depth"], &chain["full"]), (&2.into(), &full["id"]), "{last:#}");
    assert_eq!(chain["own_files"], 2, "{last:#}");
    assert_eq!(last["tree"]["files"], 19, "the whole tree is counted: {last:#}");
    let ids = days.good_ids(3);
    assert_eq!((chain["parent"].as_str(), ids.len()), (Some(&*ids[1]), 3));
    let bases = chain["bases"].as_array().expect("a list");
    assert_eq!((bases.len(), &bases[0]["id"]), (1, &full["id"]), "nothing lies in the unchanged one");

    let stored = |id: &str| -> u64 {
        let folder = days.object_of(id, "");
        fs::read_dir(folder).expect("a folder").map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let (of_full, of_unchanged) = (stored(&ids[0]), stored(&ids[1]));
    eprintln!("full {of_full} bytes, unchanged {of_unchanged} bytes");
    let listed = sandbox.run_well(&["list", UPLOADS]).text();
    assert!(listed.contains(&format!("incremental 2 since {}, after {}", ids[0], ids[1])), "{listed}");
    let shown = sandbox.run_well(&["show", UPLOADS, &ids[2]]).text();
    assert!(shown.contains(&format!("needs       {}", ids[0])), "{shown}");
    assert!(sandbox.run_well(&["show", UPLOADS, &ids[0]]).text().contains("full, because there is no"));
    let inventory = sandbox.run_well(&["show", UPLOADS, &ids[2], "--inventory"]).text();
    assert!(inventory.contains("/2026/05.txt") && !inventory.contains("04.txt"), "{inventory}");
    for id in [&ids[0], &ids[2]] {
        days.assert_restores(id);
    }
    sandbox.run_well(&["check", UPLOADS, "--read-data"]);

    let target = sandbox.path("one");
    let (to, path) = (target.to_str().expect("a path"), days.file("2026/07.txt"));
    let mut arguments = vec!["restore", UPLOADS, "--backup", &ids[2], "--to", to, "--dry-run"];
    let planned = sandbox.run_well(&arguments);
    assert!(planned.stderr.contains(&format!("also from   {}", ids[0])) || planned.stderr.contains(&ids[0]));
    assert!(!target.exists());
    arguments.pop();
    arguments.extend(["--path", path.to_str().expect("a path")]);
    sandbox.run_well(&arguments);
    let restored = days.below(&target).join("2026");
    assert_eq!(fs::read(restored.join("07.txt")).expect("a file"), fs::read(path).expect("a file"));
    assert_eq!(fs::read_dir(restored).expect("a folder").count(), 1);
}

#[test]
fn age_zstd_and_tar_restore_a_chain() {
    let days = Days::weekly(RepositoryKind::Directory);
    days.back_up(1);
    fs::write(days.file("2026/03.txt"), "another").expect("a file");
    fs::hard_link(days.file("2026/05.txt"), days.file("fifth")).expect("a link");
    let last = days.back_up(2);
    let identity = days.sandbox.path("second-identity.txt");
    let line = last["restore"].as_str().expect("the line of stock tools");
    let line = line.replace("IDENTITY", &format!("'{}'", identity.display()));
    let target = tempfile::tempdir().expect("a folder");
    let line = line.replace("tar -x", &format!("tar -C '{}' -x", target.path().display()));
    let mut shell = Command::new("bash");
    let folder = days.object_of(&id(&last), "");
    succeed(shell.args(["-o", "pipefail", "-c", &line]).current_dir(folder));
    trees::assert_same(days.folder.path(), &days.below(target.path()));
}

#[test]
fn chains_end_by_age_and_by_number() {
    let days = Days::weekly(RepositoryKind::Directory);
    days.back_up(1);
    assert_eq!(depth(&days.back_up(7)), 1);
    let by_age = days.back_up(8);
    assert!(because(&by_age).contains("one is made every"), "{by_age:#}");
    assert_eq!(depth(&days.back_up(9)), 1);

    let short = "incremental = { full_every = \"70d\", chain_max = 2 }\nretention = { last = 1 }";
    let days = Days::new(RepositoryKind::Directory, short);
    let made: Vec<Value> = (1..6).map(|day| days.back_up(day)).collect();
    let depths: Vec<_> = made.iter().map(|made| depth(made).as_u64()).collect();
    assert_eq!(depths, [None, Some(1), Some(2), None, Some(1)]);
    assert_eq!(because(&made[3]), "the one before is followed by 2 already");
    let printed = days.run_on_day(5, &["prune", UPLOADS]).text();
    let needed = format!("{}  ", id(&made[3]));
    let line = printed.lines().find(|line| line.starts_with(&needed)).expect("a line").to_owned();
    assert!(line.ends_with(&format!("keep: needed by {}", id(&made[4]))), "{printed}");
    assert_eq!(
        days.run_on_day(5, &["prune", UPLOADS, "--yes", "--json"]).json()["removed"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_eq!(days.good_ids(5), [id(&made[3]), id(&made[4])]);
    days.assert_restores(&id(&made[4]));
}

#[test]
fn what_another_host_or_key_kept_is_of_no_use() {
    let days = Days::weekly(RepositoryKind::Directory);
    days.back_up(1);
    let sandbox = &days.sandbox;
    let trusted = fs::read_to_string(sandbox.path("trusted_signers")).expect("own file");
    let foreign = fs::read_to_string(sandbox.path("foreign_signing_key.pub")).expect("own file");
    fs::write(sandbox.path("trusted_signers"), format!("{trusted}other@example.org {foreign}"))
        .expect("own file");
    let own = fs::read(sandbox.path("signing_key")).expect("own file");
    fs::copy(sandbox.path("foreign_signing_key"), sandbox.path("signing_key")).expect("own file");
    let made = days.back_up(2);
    assert!(because(&made).contains("another host, or with another signing key"), "{made:#}");
    assert!(made["warnings"][0].as_str().expect("a warning").contains("a full backup, because"), "{made:#}");
    assert_eq!(depth(&days.back_up(3)), 1, "from then on it is its own");
    fs::write(sandbox.path("signing_key"), own).expect("own file");
    assert!(because(&days.back_up(4)).contains("another host"));
    days.good_ids(4).iter().for_each(|id| days.assert_restores(id));
}

#[test]
fn a_clock_that_was_set_back_costs_a_full_backup_and_nothing_else() {
    let days = Days::weekly(RepositoryKind::Directory);
    let ahead = days.back_up(400);
    fs::write(days.file("2026/03.txt"), "another").expect("a file");
    let right = days.back_up(1);
    assert_eq!(because(&right), "there is no earlier one");
    fs::write(days.file("2026/04.txt"), "another, too").expect("a file");
    let next = days.back_up(2);
    assert_eq!((depth(&next), &next["chain"]["parent"]), (&1.into(), &right["id"]));
    for made in [&ahead, &right, &next] {
        days.assert_restores(&id(made));
    }
}

#[test]
fn a_parent_that_was_removed_behind_its_back_is_named_and_ends_the_chain() {
    let days = Days::weekly(RepositoryKind::Directory);
    let full = id(&days.back_up(1));
    let last = id(&days.back_up(2));
    let away = days.sandbox.path("away");
    fs::rename(days.object_of(&full, ""), &away).expect("a rename");
    let sandbox = &days.sandbox;
    let target = sandbox.path("restored");
    let to = target.to_str().expect("a path");
    let refused = sandbox.run(&["restore", UPLOADS, "--backup", &last, "--to", to]);
    assert_eq!(refused.code, Some(INTEGRITY), "{}", refused.stderr);
    let said = &refused.stderr;
    assert!(
        said.contains(&format!("backup {full} holds bytes of backup {last}")) && said.contains("hint:"),
        "{said}"
    );
    assert!(!target.exists(), "nothing is written first");
    let checked = sandbox.run(&["check", UPLOADS]);
    assert_eq!(checked.code, Some(INTEGRITY), "{}", checked.stderr);
    assert!(checked.text().contains(&full), "{}", checked.text());
    let status = days.on_day(2, &sandbox.command(&["status", UPLOADS, "--json"])).json();
    assert!(status.to_string().contains(&format!("it needs {full}, which is gone")), "{status:#}");
    let plan = days.run_on_day(2, &["prune", UPLOADS]).text();
    assert!(plan.contains(&format!("never delete what cannot be read: it needs {full}")), "{plan}");

    let next = days.back_up(3);
    assert!(because(&next).contains(&full), "{next:#}");
    days.assert_restores(&id(&next));
    // A part of it that is badly signed is none.
    let signature = days.object_of(&id(&next), "manifest.json.sig");
    let after = id(&days.back_up(4));
    fs::copy(days.object_of(&last, "manifest.json.sig"), away.join("other")).expect("a copy");
    fs::remove_file(&signature).expect("own file");
    fs::rename(away.join("other"), &signature).expect("a rename");
    let refused = sandbox.run(&["restore", UPLOADS, "--backup", &after, "--to", to]);
    assert_eq!(refused.code, Some(INTEGRITY), "{}", refused.stderr);
    assert!(
        refused.stderr.contains(&id(&next)) && refused.stderr.contains("badly signed"),
        "{}",
        refused.stderr
    );
    assert!(!target.exists());
}

#[test]
fn a_base_that_is_removed_while_it_is_relied_on_makes_no_backup() {
    let days = Days::weekly(RepositoryKind::S3);
    let full = id(&days.back_up(1));
    let sandbox = &days.sandbox;
    sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("data.000"));
    let mut command = clock::offset(&sandbox.command(&["backup", UPLOADS]), "+6m");
    let backup = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("pgproof");
    let is_stuck = sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.faulty));
    assert!(is_stuck, "nothing is uploaded: {:#?}", sandbox.proxy.seen());
    fs::remove_dir_all(days.object_of(&full, "")).expect("own folder");
    sandbox.proxy.release();
    let failed: Outcome = backup.wait_with_output().expect("its end").into();
    assert_eq!(failed.code, Some(FAILED), "{}", failed.stderr);
    let said = &failed.stderr;
    assert!(
        said.contains(&format!("backup {full} holds bytes of backup")) && said.contains("hint:"),
        "{said}"
    );
    assert!(days.good_ids(2).is_empty());
    assert_eq!(because(&days.back_up(3)), "there is no earlier one");
}

#[test]
fn a_damaged_host_index_makes_a_full_backup() {
    // Found out when it is read, and when it is opened.
    for whole in [true, false] {
        let days = Days::weekly(RepositoryKind::Directory);
        let full = id(&days.back_up(1));
        let path = days.object_of(&full, "host-index.jsonl.zst.age");
        let mut bytes = fs::read(&path).expect("an index");
        let at = bytes.len() - 20;
        bytes[at] ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
        fs::write(&path, if whole { &bytes[..] } else { &bytes[..at] }).expect("a damaged index");
        let made = days.back_up(2);
        assert!(
            because(&made).contains(&format!("what this host kept of {full} cannot be used")),
            "{made:#}"
        );
        days.assert_restores(&id(&made));
        assert_eq!(depth(&days.back_up(3)), 1);
    }
}

#[test]
fn a_file_that_cannot_be_read_any_more_is_a_loss_and_not_taken_from_before() {
    let days = Days::weekly(RepositoryKind::Directory);
    let path = days.file("2026/secret");
    fs::write(&path, "for its owner's eyes").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("a mode");
    // Root reads it; then the same file, with the same times, by a user like any other.
    days.back_up(1);
    let mut limited = Command::new("setpriv");
    limited.args(["--bounding-set", "-dac_override,-dac_read_search"]);
    limited.arg(binaries::pgproof()).arg("--policy").arg(days.sandbox.policy()).args(["backup", UPLOADS]);
    let outcome = days.on_day(2, &limited);
    assert_eq!(outcome.code, Some(INCOMPLETE), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/2026/secret"), "{}", outcome.stderr);
    assert!(
        outcome.text().contains("1 could not be opened") && outcome.text().contains("incremental, number 1")
    );
    let last = days.good_ids(2).pop().expect("a backup");
    let target = days.sandbox.path("restored");
    let to = target.to_str().expect("a path");
    let restored = days.sandbox.run_well(&["restore", UPLOADS, "--backup", &last, "--to", to]);
    assert!(restored.stderr.contains("secret: could not be opened"), "{}", restored.stderr);
    assert!(!days.below(&target).join("2026/secret").exists());
    // Readable again, it is in the next one.
    assert_eq!(days.back_up(3)["tree"]["losses"], 0);
    days.assert_restores(&days.good_ids(3)[2]);
}

#[test]
fn other_recipients_get_a_full_backup() {
    let days = Days::weekly(RepositoryKind::Directory);
    days.back_up(1);
    let output = succeed(Command::new("age-keygen").arg("-y").arg(days.sandbox.path("foreign-identity.txt")));
    let third = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let policy = fs::read_to_string(days.sandbox.policy()).expect("a policy");
    let more = policy.replacen("recipients = [", &format!("recipients = [\"{third}\", "), 1);
    fs::write(days.sandbox.policy(), more).expect("own file");
    let made = days.back_up(2);
    assert!(because(&made).contains("other recipients"), "{made:#}");
    assert_eq!(depth(&days.back_up(3)), 1);
}

#[test]
fn sixty_days_are_pruned_to_seven_and_each_of_them_comes_back() {
    const DAYS: i64 = 60;
    let days = Days::weekly(RepositoryKind::Directory);
    let mut most = 0;
    for day in 1..=DAYS {
        let name = |number: i64| days.file(&format!("2026/{:02}.txt", number.rem_euclid(20)));
        let changed =
            fs::File::options().create(true).truncate(false).write(true).open(name(day * 7)).expect("a file");
        changed.write_all_at(format!("day {day}").as_bytes(), 0).expect("a write");
        if day % 3 == 0 {
            // Unless it was moved or removed before.
            let _ = fs::rename(name(day), days.file(&format!("moved {}", day % 9)));
        }
        if day % 5 == 0 {
            fs::write(name(day * 3), format!("written on day {day}")).expect("a file");
        }
        if day % 4 == 0 {
            // Where the last one was moved away.
            let _ = fs::remove_file(name(day + 1));
        }
        let _ = fs::write(name(day), format!("so that it is there on day {day}"));
        days.back_up(day);
        days.run_on_day(day, &["prune", UPLOADS, "--yes"]);
        most = most.max(days.good_ids(day).len());
    }
    let ids = days.good_ids(DAYS);
    eprintln!("{} backups are left, and never more than {most}", ids.len());
    assert!((7..=14).contains(&ids.len()) && most <= 14, "{ids:#?}");
    ids.iter().for_each(|id| days.assert_restores(id));
    days.sandbox.run_well(&["check", UPLOADS, "--read-data"]);
}
