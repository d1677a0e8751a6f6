//! `pgproof`, the agent: backs up, restores, prunes.

// They panic where the reader has gone: `pgproof_monitoring::{answer, journal}` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod cli;
mod commands;
mod configuration;
mod daemon;
mod failure;
mod plain;
mod progress;
mod signals;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pgproof_monitoring::journal::LogForm;
use pgproof_repository::access::{POLICY_HERE, policy_path};
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, PolicyCommand};
use crate::failure::{Exit, Failure};

/// Where the package's services look for the policy.
const POLICY_OF_HOST: &str = "/etc/pgproof/pgproof.toml";
/// What commands log that somebody waits for. Where the SDK looks in vain for a region or credentials is no news: what is
/// missing in the end is told as an error.
const LOG_DEFAULT: &str = "warn,aws_config=error";
/// What is logged where nobody looks on: the journal is all that there is to see.
const LOG_UNATTENDED: &str = "warn,aws_config=error,pgproof=info";

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
    let usual = if cli.command.is_unattended() { LOG_UNATTENDED } else { LOG_DEFAULT };
    let filter = EnvFilter::try_new(cli.log.as_deref().unwrap_or(usual)).map_err(|error| {
        let message = format!("--log or PGPROOF_LOG cannot be used: {error}");
        Failure::new(Exit::Usage, message, "error, warn, info, debug, or a filter such as warn,pgproof=debug")
    })?;
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A daemon whose log went away still backs up.
        .log_internal_errors(false)
        .event_format(LogForm::of_this_process())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(cli));
    // Threads that still wait for a dead peer must not keep the process.
    runtime.shutdown_timeout(signals::SHUTDOWN_DEADLINE);
    outcome
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { policy, json, command, .. } = cli;
    let policy = match command {
        // What is written new comes where somebody works.
        Command::Init(_) => policy.unwrap_or_else(|| POLICY_HERE.into()),
        _ => policy_path(policy, POLICY_OF_HOST),
    };
    // The daemon reads its policy again on SIGHUP; whatever else runs belongs to a terminal.
    let cancel = match command {
        Command::Run(_) => signals::cancel_on_signal([])?,
        _ => signals::cancel_on_signal([SignalKind::hangup()])?,
    };
    if command.cleans_up() {
        return Box::pin(carry_out(policy, command, json, cancel)).await;
    }
    let work = Box::pin(carry_out(policy, command, json, cancel.clone()));
    commands::unless_cancelled(&cancel, work).await
}

async fn carry_out(
    policy: PathBuf,
    command: Command,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(args) => Box::pin(commands::init::run(&policy, args, json)).await,
        Command::Policy(PolicyCommand::Check) => commands::policy::check(&policy, json),
        Command::Run(args) => Box::pin(commands::run::run(&policy, args, json, cancel)).await,
        Command::Backup(args) if args.explain => {
            Box::pin(commands::backup::run(&policy, args, json, cancel)).await
        }
        Command::Backup(args) => {
            let ended = Box::pin(commands::backup::run(&policy, args, json, cancel)).await;
            Box::pin(commands::textfile::leave(&policy, ended)).await
        }
        Command::Import(args) => Box::pin(commands::import::run(&policy, args, json, cancel)).await,
        Command::Restore(args) => Box::pin(commands::restore::run(&policy, args, json, cancel)).await,
        Command::Alert(command) => commands::alert::run(&policy, command, json).await,
        Command::Snapshot(args) => Box::pin(commands::snapshot::run(&policy, args, json, cancel)).await,
        Command::RestorePoint(command) => commands::restore_point::run(&policy, command, json).await,
        Command::Diff(args) => commands::diff::run(&policy, args, json).await,
        Command::Doctor(args) => Box::pin(commands::doctor::run(&policy, args, json, cancel)).await,
        Command::List(args) => commands::list::run(&policy, args, json).await,
        Command::Show(args) => commands::show::run(&policy, args, json).await,
        Command::Check(args) => commands::check::run(&policy, args, json).await,
        Command::Prune(args) => {
            let ended = Box::pin(commands::prune::run(&policy, args, json, cancel)).await;
            Box::pin(commands::textfile::leave(&policy, ended)).await
        }
        Command::Hold(args) => commands::hold::hold(&policy, args, json).await,
        Command::Release(args) => commands::hold::release(&policy, args, json).await,
        Command::Audit(args) => commands::audit::run(&policy, args, json).await,
        Command::Documents { to } => commands::documents::run(&to),
        Command::Status(args) => Box::pin(commands::status::run(&policy, args, json)).await,
        Command::Fleet(args) => Box::pin(commands::fleet::run(policy, args, json)).await,
    }
}
