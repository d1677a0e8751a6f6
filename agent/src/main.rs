//! `pgproof`, the agent: backs up, restores, prunes.

mod backup;
mod cli;
mod commands;
mod failure;
mod plain;
mod progress;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, PolicyCommand};

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
    let outcome = runtime.block_on(run(cli));
    // Threads that still wait for a dead peer must not keep the process.
    runtime.shutdown_timeout(signals::SHUTDOWN_DEADLINE);
    outcome
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { policy, json, command, .. } = cli;
    let cancel = signals::cancel_on_signal()?;
    match command {
        Command::Init(args) => commands::init::run(&policy, args, json),
        Command::Policy(PolicyCommand::Check) => commands::policy::check(&policy, json),
        Command::Backup(args) if args.explain => {
            Box::pin(commands::backup::run(&policy, args, json, cancel)).await
        }
        Command::Backup(args) => {
            let ended = Box::pin(commands::backup::run(&policy, args, json, cancel)).await;
            Box::pin(commands::textfile::leave(&policy, ended)).await
        }
        Command::Restore(args) => Box::pin(commands::restore::run(&policy, args, json, cancel)).await,
        Command::List(args) => commands::list::run(&policy, args, json).await,
        Command::Show(args) => commands::show::run(&policy, args, json).await,
        Command::Check(args) => commands::check::run(&policy, args, json, cancel).await,
        Command::Prune(args) => {
            let ended = Box::pin(commands::prune::run(&policy, args, json)).await;
            Box::pin(commands::textfile::leave(&policy, ended)).await
        }
        Command::Hold(args) => commands::hold::hold(&policy, args, json).await,
        Command::Release(args) => commands::hold::release(&policy, args, json).await,
        Command::Status(args) => Box::pin(commands::status::run(&policy, args, json)).await,
    }
}
