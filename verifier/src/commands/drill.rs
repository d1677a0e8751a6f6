//! `pgproof-verifier drill`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pgproof_monitoring::answer;
use pgproof_monitoring::journal::say;
use pgproof_repository::report::v1;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::textfile;
use crate::cli::{self, Rule};
use crate::drill::{self, Pick, Request};
use crate::failure::Exit;
use crate::verifier::Verifier;

pub(crate) async fn run(
    policy: &Path,
    args: cli::Drill,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let ended = Box::pin(drill_one(policy, args, json, cancel)).await;
    let ended = Box::pin(textfile::leave(policy, ended)).await?;
    Ok(ended.map_or(ExitCode::SUCCESS, Exit::into))
}

async fn drill_one(
    policy: &Path,
    args: cli::Drill,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<Option<Exit>> {
    let verifier = Verifier::open(policy).await?;
    let source = verifier.loaded.source(&args.source)?.clone();
    drill::sweep().await;
    let request = Request {
        pick: match (args.backup, args.at, args.pick) {
            (Some(id), _, _) => Pick::Backup(id),
            (None, Some(at), _) => Pick::At(at),
            (None, None, Some(Rule::Oldest)) => Pick::Oldest,
            (None, None, Some(Rule::Random)) => Pick::Random,
            (None, None, Some(Rule::Unproved)) => Pick::Unproved,
            (None, None, Some(Rule::Newest) | None) => Pick::Newest,
        },
        trigger: v1::Trigger::Manual,
        jobs: super::jobs(args.jobs),
        negative_control: args.negative_control,
    };
    let drilled = Box::pin(verifier.drill(&source, &request, &cancel)).await?;
    match json {
        true => answer::print_json(&drilled.report)?,
        false => answer::print(&drilled.report.text(Some(drilled.key.as_str())))?,
    }
    tell(&drilled.page, json)?;
    Ok(drilled.exit())
}

/// Says where the page lies, or that it could not be written.
fn tell(page: &anyhow::Result<Option<PathBuf>>, json: bool) -> std::io::Result<()> {
    match page {
        Ok(None) => {}
        // Standard output is the report alone.
        Ok(Some(page)) if json => say(Level::INFO, &format!("page: {}", page.display())),
        Ok(Some(page)) => answer::say(&format!("  {:<18} {}", "page", page.display()))?,
        Err(error) => say(Level::WARN, &format!("warning: {error:#}")),
    }
    Ok(())
}
