//! `pgproof-verifier`: restores backups somewhere else, with other keys, and signs what it found.

mod cli;
mod commands;
mod drill;
mod failure;
mod report;
mod verifier;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

/// How long blocked threads may take to end once everything was cancelled: stopping a server takes a few seconds.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match start(cli) {
        Ok(code) => code,
        Err(error) => failure::report(&error, json).into(),
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    // Whatever this process writes is for its own user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&cli.log)?)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(run(cli)));
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    outcome
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let cancel = cancel_on_signal()?;
    match cli.command {
        Command::Drill(args) => Box::pin(commands::drill::run(&cli.policy, args, cli.json, cancel)).await,
        Command::Report(command) => commands::report::run(&cli.policy, command, cli.json).await,
    }
}

/// A token that is cancelled by SIGINT, SIGTERM or SIGHUP. The private server is then stopped and removed.
fn cancel_on_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut signal, token) = (signal(kind)?, token.clone());
        tokio::spawn(async move {
            signal.recv().await;
            eprintln!("stopping: the private server is being removed");
            token.cancel();
        });
    }
    Ok(token)
}
