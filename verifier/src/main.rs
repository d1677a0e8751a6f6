//! `pgproof-verifier`: restores backups somewhere else, with other keys, and signs what it found.

// They panic where the reader has gone: `pgproof_monitoring::{answer, journal}` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod commands;
mod daemon;
mod drill;
mod failure;
mod report;
mod serve;
mod verifier;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pgproof_monitoring::journal::{LogForm, say};
use pgproof_repository::access::policy_path;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

/// Where the package's service looks for the policy.
const POLICY_OF_HOST: &str = "/etc/pgproof-verifier/pgproof.toml";
/// What commands log that somebody waits for. Where the SDK looks in vain for a region or credentials is no news: what is
/// missing in the end is told as an error.
const LOG_DEFAULT: &str = "warn,aws_config=error";
/// What daemons log: their journal is all that there is to see of them.
const LOG_OF_DAEMON: &str = "warn,aws_config=error,pgproof_verifier=info";

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
    let usual =
        if matches!(cli.command, Command::Run(_) | Command::Serve(_)) { LOG_OF_DAEMON } else { LOG_DEFAULT };
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_env_filter(EnvFilter::try_new(cli.log.as_deref().unwrap_or(usual))?)
        .with_writer(std::io::stderr)
        // A daemon whose log went away still drills.
        .log_internal_errors(false)
        .event_format(LogForm::of_this_process())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(run(cli)));
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    outcome
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Daemons read their policy again on SIGHUP; whatever else runs belongs to a terminal.
    let hangup = (!matches!(cli.command, Command::Run(_) | Command::Serve(_))).then(SignalKind::hangup);
    let stopping = match cli.command {
        Command::Serve(_) => "stopping: answers that are under way are finished",
        _ => "stopping: the private server is being removed",
    };
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup);
    let cancel = cancel_on_signals(signals, stopping)?;
    let policy = policy_path(cli.policy, POLICY_OF_HOST);
    match cli.command {
        Command::Documents { to } => commands::documents::run(&to),
        Command::Restorability(args) => Box::pin(commands::restorability::run(&policy, args, cli.json)).await,
        Command::Doctor(args) => Box::pin(commands::doctor::run(&policy, args, cli.json, cancel)).await,
        Command::Drill(args) => Box::pin(commands::drill::run(&policy, args, cli.json, cancel)).await,
        Command::Plan(args) => Box::pin(commands::plan::run(&policy, args, cli.json)).await,
        Command::Run(args) => Box::pin(commands::run::run(&policy, args, cli.json, cancel)).await,
        Command::Serve(args) => Box::pin(commands::serve::run(&policy, args, cancel)).await,
        Command::Report(command) => commands::report::run(&policy, command, cli.json).await,
    }
}

/// A token that any of these signals cancels, and what is said then.
fn cancel_on_signals(
    kinds: impl IntoIterator<Item = SignalKind>,
    stopping: &'static str,
) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in kinds {
        let (mut signal, token) = (signal(kind)?, token.clone());
        tokio::spawn(async move {
            signal.recv().await;
            // First, since the terminal may be gone.
            token.cancel();
            say(tracing::Level::INFO, stopping);
        });
    }
    Ok(token)
}
