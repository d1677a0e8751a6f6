//! `pgproof-verifier drill`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pgproof_repository::report::{Verdict, v1};
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::drill::{self, Pick, Request};
use crate::failure::Exit;
use crate::verifier::Verifier;

pub(crate) async fn run(
    policy: &Path,
    args: cli::Drill,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let verifier = Verifier::open(policy).await?;
    let source = verifier.loaded.source(&args.source)?.clone();
    drill::sweep().await;
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let request = Request {
        pick: match (args.backup, args.at) {
            (Some(id), _) => Pick::Backup(id),
            (None, Some(at)) => Pick::At(at),
            (None, None) => Pick::Newest,
        },
        trigger: v1::Trigger::Manual,
        jobs: args.jobs.map_or_else(processors, usize::from),
    };
    let drilled = Box::pin(verifier.drill(&source, &request, &cancel)).await?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&drilled.report)?),
        false => print!("{}", drilled.report.text(Some(drilled.key.as_str()))),
    }
    let published = told(&drilled.page, json);
    Ok(match drilled.report.verdict {
        Verdict::Passed | Verdict::Degraded if !published => Exit::NotRun.into(),
        Verdict::Passed | Verdict::Degraded => ExitCode::SUCCESS,
        Verdict::Failed | Verdict::VerifierFailed => Exit::CheckFailed.into(),
        Verdict::NotRun if drilled.stopped => Exit::Interrupted.into(),
        Verdict::NotRun => Exit::NotRun.into(),
    })
}

/// Says where the page lies; false when there should be one and it could not be written.
fn told(page: &anyhow::Result<Option<PathBuf>>, json: bool) -> bool {
    match page {
        Ok(None) => {}
        // Standard output is the report alone.
        Ok(Some(page)) if json => eprintln!("page: {}", page.display()),
        Ok(Some(page)) => println!("  {:<18} {}", "page", page.display()),
        Err(error) => eprintln!("warning: {error:#}"),
    }
    page.is_ok()
}
