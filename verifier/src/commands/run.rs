//! `pgproof-verifier run`: the schedule of all sources.

use std::path::Path;
use std::process::ExitCode;

use pgproof_monitoring::answer;
use pgproof_policies::policy::Source;
use tokio_util::sync::CancellationToken;

use super::plan::Planned;
use super::textfile;
use crate::cli;
use crate::daemon;
use crate::failure::Exit;
use crate::verifier::Verifier;

pub(crate) async fn run(
    policy: &Path,
    args: cli::Run,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    if args.dry_run {
        return dry_run(&Verifier::open(policy).await?, json).await;
    }
    let options = daemon::Options {
        policy: policy.to_owned(),
        once: args.once,
        concurrency: usize::from(args.concurrency),
        jobs: super::jobs(args.jobs),
        json,
    };
    let worst = Box::pin(daemon::run(options, cancel)).await;
    // A daemon serves its metrics.
    let worst = if args.once { Box::pin(textfile::leave(policy, worst)).await? } else { worst? };
    Ok(worst.map_or(ExitCode::SUCCESS, Exit::into))
}

async fn dry_run(verifier: &Verifier, json: bool) -> anyhow::Result<ExitCode> {
    let is_verified = |source: &&Source| source.verification.is_some();
    for source in verifier.loaded.policy.sources.values().filter(is_verified) {
        let planned = Planned::of(verifier, source).await?;
        match json {
            true => answer::print_json_line(&planned.document())?,
            false => answer::print(&planned.text())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
