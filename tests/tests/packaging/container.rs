//! The images: linted, built from a clean Debian, and run as an orchestrator runs them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgproof_tests::binaries::workspace;
use pgproof_tests::daemon::Daemon;
use pgproof_tests::images::{Container, Image};
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::s3_server;
use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};

#[test]
fn linter_finds_no_fault_with_the_containerfile() {
    let hadolint = workspace().join("target/testbed/hadolint/bin/hadolint");
    succeed(Command::new(hadolint).args(["--failure-threshold", "style"]).arg(containerfile()));
}

#[test]
fn images_are_built_with_the_tool_chain_of_the_source() {
    let tool_chain = std::fs::read_to_string(workspace().join("rust-toolchain.toml")).expect("its file");
    let version = tool_chain.split('"').nth(1).expect("a channel").to_owned();
    let text = std::fs::read_to_string(containerfile()).expect("the Containerfile");
    assert!(text.contains(&format!("FROM rust:{version}-bookworm AS build")), "{version}");
    assert!(text.contains(&format!("ENV RUSTUP_TOOLCHAIN={version}\n")), "{version}");
}

#[test]
fn health_check_goes_by_the_daemon() {
    let address = free_address();
    let is_well = || {
        let mut health = Command::new(workspace().join("packaging/container/health"));
        health.env("PGPROOF_HEALTH", address.to_string()).output().expect("bash").status.success()
    };
    let lines = format!("schedule = \"0 0 1 1 *\"\n[monitoring]\nlisten = \"{address}\"");
    let sandbox = Sandbox::small().with_policy_lines(&lines);
    assert!(!is_well());
    let daemon = Daemon::start(sandbox.command(&["run"]));
    daemon.wait_for("health and metrics are served");
    assert!(is_well());
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
    assert!(!is_well());
}

#[test]
fn image_of_the_agent_backs_up_and_runs_the_daemon() {
    let image = Image::build("agent");
    assert_eq!(image.settings["User"], "10001:10001");
    assert!(files_below(&image.root().join("var/lib/apt/lists")).is_empty());

    let address = free_address();
    let lines = format!("schedule = \"0 0 1 1 *\"\n[monitoring]\nlisten = \"{address}\"");
    let sandbox = Sandbox::small().with_policy_lines(&lines);
    let of_the_agent = |name| in_world(image.container(name), &sandbox, &sandbox.host_policy(), "pgproof");
    share_with(&sandbox, 10001);
    let backup = Outcome::of(&mut of_the_agent("backup").command(&["backup", SOURCE]));
    assert_eq!(backup.code, Some(0), "{}{}", backup.text(), backup.stderr);
    assert_eq!(sandbox.good_ids().len(), 1);

    let container = of_the_agent("daemon").with_variable("PGPROOF_HEALTH", &address.to_string());
    let daemon = Daemon::start(container.command(&[]));
    daemon.wait_for("health and metrics are served");
    let check = image.settings["Healthcheck"]["Test"].as_array().expect("a check").clone();
    assert_eq!(check[0], "CMD");
    let health = Outcome::of(&mut container.inside(&[check[1].as_str().expect("a program")]));
    assert_eq!(health.code, Some(0), "{}", health.stderr);
    container.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn image_of_the_verifier_proves_a_backup() {
    let image = Image::build("verifier");
    assert_eq!(image.settings["User"], "10002:10002");
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    share_with(&sandbox, 10002);
    let container = in_world(image.container("drill"), &sandbox, &sandbox.policy(), "pgproof-verifier");
    let drill = Outcome::of(&mut container.command(&["drill", SOURCE, "--json"]));
    assert_eq!(drill.code, Some(0), "{}{}", drill.text(), drill.stderr);
    let report = drill.json();
    assert!(report["checks"].as_array().is_some_and(|checks| !checks.is_empty()), "{report:#}");
    assert_eq!(report["verdict"], "passed", "{report:#}");
}

/// The sandbox as a container sees it: its files where they are, to be read; the policy where the image looks for it.
fn in_world<'a>(container: Container<'a>, sandbox: &Sandbox, policy: &Path, program: &str) -> Container<'a> {
    let folder = sandbox.policy().parent().expect("the sandbox's folder").to_owned();
    container
        .with(&folder, &folder)
        .with(sandbox.server.host(), sandbox.server.host())
        .with(policy, &PathBuf::from(format!("/etc/{program}/pgproof.toml")))
        .with_variable("AWS_ACCESS_KEY_ID", s3_server::ACCESS_KEY)
        .with_variable("AWS_SECRET_ACCESS_KEY", s3_server::SECRET_KEY)
}

/// Makes files and keys the group's to read, as README.md beside the Containerfile asks, and lets everybody through to
/// the database's socket.
fn share_with(sandbox: &Sandbox, group: u32) {
    let folder = sandbox.policy().parent().expect("the sandbox's folder").to_owned();
    for path in files_below(&folder) {
        std::os::unix::fs::chown(&path, Some(0), Some(group)).expect("root");
        set_mode(&path, 0o640);
    }
    set_mode(&folder, 0o711);
    set_mode(sandbox.server.host(), 0o711);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("own file");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// An address that nobody listens at.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound port")
}

fn containerfile() -> std::path::PathBuf {
    workspace().join("packaging/container/Containerfile")
}
