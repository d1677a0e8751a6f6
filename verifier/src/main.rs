//! `pgproof-verifier`: restores backups somewhere else, with other keys, and signs what it found.

mod cli;
mod commands;
mod daemon;
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

/// What commands log that somebody waits for.
const LOG_DEFAULT: &str = "warn";
/// What the daemon logs: its journal is all that there is to see of it.
const LOG_OF_DAEMON: &str = "warn,pgproof_verifier=info";

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
    let usual = if matches!(cli.command, Command::Run(_)) { LOG_OF_DAEMON } else { LOG_DEFAULT };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(cli.log.as_deref().unwrap_or(usual))?)
        .with_writer(std::io::stderr)
        .with_target(false)
        // A daemon whose log went away still drills.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(run(cli)));
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    outcome
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // The daemon reads its policy again on SIGHUP; whatever else runs belongs to a terminal.
    let hangup = (!matches!(cli.command, Command::Run(_))).then(SignalKind::hangup);
    let cancel =
        cancel_on_signals([SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup))?;
    match cli.command {
        Command::Restorability(args) => {
            Box::pin(commands::restorability::run(&cli.policy, args, cli.json)).await
        }
        Command::Doctor(args) => Box::pin(commands::doctor::run(&cli.policy, args, cli.json, cancel)).await,
        Command::Drill(args) => Box::pin(commands::drill::run(&cli.policy, args, cli.json, cancel)).await,
        Command::Plan(args) => Box::pin(commands::plan::run(&cli.policy, args, cli.json)).await,
        Command::Run(args) => Box::pin(commands::run::run(&cli.policy, args, cli.json, cancel)).await,
        Command::Report(command) => commands::report::run(&cli.policy, command, cli.json).await,
    }
}

/// A token that any of these signals cancels. The private server is then stopped and removed.
fn cancel_on_signals(kinds: impl IntoIterator<Item = SignalKind>) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in kinds {
        let (mut signal, token) = (signal(kind)?, token.clone());
        tokio::spawn(async move {
            signal.recv().await;
            // First, since the terminal may be gone.
            token.cancel();
            eprintln!("stopping: the private server is being removed");
        });
    }
    Ok(token)
}
