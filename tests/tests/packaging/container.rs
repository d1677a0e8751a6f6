//! The images, as far as they can be looked at without a builder of images.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use pgproof_tests::binaries::workspace;
use pgproof_tests::daemon::Daemon;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::Sandbox;

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
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound port");
    drop(listener);
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

fn containerfile() -> std::path::PathBuf {
    workspace().join("packaging/container/Containerfile")
}
