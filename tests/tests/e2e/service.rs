//! The programs as services: what systemd hears of them, what its journal makes of their log, and keys that root hands them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use pgproof_tests::daemon::Daemon;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{SOURCE, Sandbox};
use pgproof_tests::service_manager::ServiceManager;

/// Comes true so rarely that each source is due just once.
const YEARLY: &str = "0 0 1 1 *";
/// Longer than a busy machine keeps a daemon from its turn.
const WATCHDOG_MILLIS: u64 = 3_000;

#[test]
fn agent_tells_its_service_manager_how_it_is() {
    let sandbox = Sandbox::small().with_policy_lines(&format!("schedule = \"{YEARLY}\""));
    let manager = ServiceManager::start();
    let daemon = Daemon::start(manager.runs(sandbox.command(&["run"]), WATCHDOG_MILLIS));
    manager.wait_for("READY=1");
    manager.wait_for(&format!("STATUS=at work on {SOURCE}"));
    manager.wait_for("STATUS=waiting; next look at ");
    manager.wait_for("WATCHDOG=1");

    daemon.signal("HUP");
    let reloading = manager.wait_for("RELOADING=1");
    let since_boot = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(since_boot.is_some_and(|usec| usec.parse::<u64>().is_ok()), "{reloading}");
    manager.wait_for("READY=1");

    std::fs::write(sandbox.policy(), "[repository]\nlocation = 7\n").expect("own file");
    daemon.signal("HUP");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    manager.wait_for("the policy as it stands is wrong");

    daemon.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert_eq!(daemon.ended(), Some(0));
}

/// It is the daemon who tells of that, so it must run, and be let run.
#[test]
fn agent_is_ready_and_alive_though_the_bucket_does_not_answer() {
    let sandbox = Sandbox::small().with_policy_lines(&format!("schedule = \"{YEARLY}\""));
    sandbox.proxy.add(Rule::new(Fault::Hold));
    let manager = ServiceManager::start();
    let daemon = Daemon::start(manager.runs(sandbox.command(&["run"]), WATCHDOG_MILLIS));
    manager.wait_for("READY=1");
    for _ in 0..4 {
        manager.wait_for("WATCHDOG=1");
    }
    daemon.signal("TERM");
    manager.wait_for("STOPPING=1");
    sandbox.proxy.release();
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn verifier_tells_its_service_manager_how_it_is() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let verified = format!("[sources.{SOURCE}.verification]\nschedule = \"{YEARLY}\"");
    let sandbox = sandbox.with_policy_lines(&verified);
    let manager = ServiceManager::start();
    let daemon = Daemon::start(manager.runs(sandbox.verifier_command(&["run"]), WATCHDOG_MILLIS));
    manager.wait_for("READY=1");
    manager.wait_for(&format!("STATUS=at work on {SOURCE}"));
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("STATUS=waiting");
    daemon.signal("HUP");
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    daemon.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn journal_gets_each_line_with_its_priority_and_without_a_time() {
    let sandbox = Sandbox::small().with_policy_lines(&format!("schedule = \"{YEARLY}\""));
    let lines = journaled(&sandbox, sandbox.command(&["run", "--once"]));
    assert!(lines.iter().any(|line| line.starts_with("<6>INFO backed up source=app")), "{lines:#?}");

    sandbox.server.stop();
    let lines = journaled(&sandbox, sandbox.command(&["backup", SOURCE]));
    for beginning in ["<3>error: ", "<3>hint: "] {
        assert!(lines.iter().any(|line| line.starts_with(beginning)), "{beginning} {lines:#?}");
    }
    let lines = journaled(&sandbox, sandbox.command(&["backup", "--all"]));
    assert!(lines.iter().any(|line| line.starts_with("<3>ERROR no backup: ")), "{lines:#?}");
}

/// A stream that is not systemd's is written for people, whatever an inherited variable says.
#[test]
fn what_is_no_journal_is_written_as_ever() {
    let sandbox = Sandbox::small();
    let mut command = sandbox.command(&["list", "no-such-source"]);
    command.env("JOURNAL_STREAM", "1:1");
    let output = command.output().expect("pgproof");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "), "{output:?}");
}

/// As the Debian package makes the folder: root's own, which the service's group may enter.
#[test]
fn init_hands_the_service_what_it_needs_and_nothing_more() {
    let sandbox = Sandbox::small();
    let folder = sandbox.path("etc");
    std::fs::create_dir(&folder).expect("own folder");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o750)).expect("own folder");
    // Root may hand things over, and nobody else; elsewhere all stays the owner's.
    let is_root = pgproof_tests::postgres_server::is_root();
    if is_root {
        succeed(Command::new("chgrp").arg("postgres").arg(&folder));
    }
    let policy = folder.join("pgproof.toml");
    let mut init = sandbox.command(&["init", "--location", "file:///srv/backups"]);
    init.args(["--single-recipient-waiver", "a test"]).arg("--policy").arg(&policy);
    succeed(&mut init);
    let group = |name: &str| {
        let metadata = std::fs::metadata(folder.join(name)).expect("what init wrote");
        (metadata.mode() & 0o777, metadata.gid() != 0)
    };
    let handed = if is_root { (0o640, true) } else { (0o600, true) };
    for name in ["pgproof.toml", "signing_key", "trusted_signers"] {
        assert_eq!(group(name), handed, "{name}");
    }
    assert_eq!(group("identity.txt"), (0o600, !is_root));

    // In a folder of its own that `init` makes there, the service finds its keys, too.
    let mut init = sandbox.command(&["init", "--location", "file:///srv/backups"]);
    init.args(["--single-recipient-waiver", "a test"]).arg("--policy").arg(folder.join("second.toml"));
    succeed(init.arg("--keys").arg(folder.join("further/keys")));
    for name in ["further/keys/signing_key", "further/keys/trusted_signers"] {
        assert_eq!(group(name), handed, "{name}");
    }
    for name in ["further", "further/keys"] {
        assert_eq!(group(name), (if is_root { 0o750 } else { 0o700 }, true), "{name}");
    }
    assert_eq!(group("further/keys/identity.txt"), (0o600, !is_root));
}

/// What the program writes when its standard error is, by all signs, systemd's journal.
fn journaled(sandbox: &Sandbox, mut command: Command) -> Vec<String> {
    let path = sandbox.path("journal");
    let file = std::fs::File::create(&path).expect("own file");
    let metadata = file.metadata().expect("own file");
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    command.stderr(file).stdout(std::process::Stdio::null()).status().expect("pgproof");
    let text = std::fs::read_to_string(&path).expect("own file");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let is_prioritized = |line: &String| line.starts_with('<') && line.as_bytes().get(2) == Some(&b'>');
    assert!(!lines.is_empty() && lines.iter().all(is_prioritized), "{lines:#?}");
    lines
}
