//! `pgproof-verifier drill`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pgproof_monitoring::textfile;
use pgproof_repository::report::v1;
use tokio_util::sync::CancellationToken;

use crate::cli::{self, Rule};
use crate::drill::{self, Pick, Request};
use crate::failure::{Exit, Failure, chain};
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
    let drilled = Box::pin(verifier.drill(&source, &request, &cancel)).await;
    let metrics = Box::pin(textfile::write_if_asked(&verifier.loaded)).await;
    if let (Err(_), Err(error)) = (&drilled, &metrics) {
        eprintln!("warning: {}", chain(error));
    }
    let drilled = drilled?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&drilled.report)?),
        false => print!("{}", drilled.report.text(Some(drilled.key.as_str()))),
    }
    tell(&drilled.page, json);
    // A verdict says more than a file that could not be written.
    match (drilled.exit(), metrics) {
        (Some(exit), metrics) => {
            metrics.unwrap_or_else(|error| eprintln!("warning: {}", chain(&error)));
            Ok(exit.into())
        }
        (None, Err(error)) => {
            let hint =
                "the report is stored; is the folder of `verifier.monitoring.textfile` there, and writable?";
            Err(Failure::new(Exit::NotRun, chain(&error), hint).into())
        }
        (None, Ok(())) => Ok(ExitCode::SUCCESS),
    }
}

/// Says where the page lies, or that it could not be written.
fn tell(page: &anyhow::Result<Option<PathBuf>>, json: bool) {
    match page {
        Ok(None) => {}
        // Standard output is the report alone.
        Ok(Some(page)) if json => eprintln!("page: {}", page.display()),
        Ok(Some(page)) => println!("  {:<18} {}", "page", page.display()),
        Err(error) => eprintln!("warning: {error:#}"),
    }
}
