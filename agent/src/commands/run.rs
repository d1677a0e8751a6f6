//! `pgproof run`, and the one-shot forms of `pgproof backup`: the schedules of all sources.

use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use pgproof_policies::backups::{Plan, Step};
use pgproof_policies::names::SourceName;
use tokio_util::sync::CancellationToken;

use super::{print_json, say};
use crate::cli;
use crate::daemon::{Activity, Daemon, InForce, Last, LastOutcome, Mode, Options};
use crate::failure::Exit;
use crate::plain;

pub(crate) async fn run(
    policy: &Path,
    args: cli::Run,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    if args.dry_run {
        return dry_run(&InForce::open(policy).await?, json).await;
    }
    let mode = if args.once { Mode::Due } else { Mode::Forever };
    let options = Options { policy: policy.to_owned(), mode, only: None };
    Box::pin(work(options, json, cancel)).await
}

/// Works as the mode says, and where that ends, prints how each source went.
pub(super) async fn work(
    options: Options,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let is_once = options.mode != Mode::Forever;
    let in_force = InForce::open(&options.policy).await?;
    if options.mode != Mode::Now && in_force.loaded.has_identity() {
        tracing::warn!(
            "this host backs up by schedule and its policy names `keys.identity_files`: whoever takes it reads every \
             backup; keep identities where backups are restored and verified"
        );
    }
    let daemon = Daemon::new(in_force, options)?;
    let activity = daemon.activity();
    let worst = Box::pin(daemon.run(cancel)).await?;
    if is_once {
        let activity = activity.borrow().clone();
        match json {
            true => print_json(&activity)?,
            false => print(&activity)?,
        }
    }
    Ok(worst.map_or(ExitCode::SUCCESS, Exit::into))
}

fn print(activity: &Activity) -> anyhow::Result<()> {
    for (source, at) in &activity.sources {
        let told = match at.last.as_ref().map(|Last { outcome, .. }| outcome) {
            Some(LastOutcome::BackedUp { backup, warnings }) if warnings.is_empty() => {
                format!("backed up as {backup}")
            }
            Some(LastOutcome::BackedUp { backup, warnings }) => {
                format!("backed up as {backup}, with {} warning(s): {}", warnings.len(), warnings.join("; "))
            }
            Some(LastOutcome::Failed { error, .. }) => format!("no backup: {error}"),
            Some(LastOutcome::NothingDue { why }) => format!("nothing is due: {why}"),
            None => "not looked at".to_owned(),
        };
        say(&format!("{source}: {told}"))?;
    }
    Ok(())
}

/// What would be done now, and when the next run begins. Takes no lease and writes nothing.
async fn dry_run(in_force: &InForce, json: bool) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let mut documents = Vec::new();
    for source in in_force.scheduled()? {
        let plan = in_force.plan(&source, now).await?;
        match json {
            true => documents.push(document(&source, &plan)),
            false => say(&text(&source, &plan))?,
        }
    }
    if json {
        print_json(&serde_json::json!({ "at": now, "sources": documents }))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn document(source: &SourceName, plan: &Plan) -> serde_json::Value {
    let (due, why) = match &plan.step {
        Step::BackUp(reason) => (true, reason.to_string()),
        Step::Wait { why, .. } => (false, why.to_string()),
    };
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "source": source, "due": due, "why": why, "look_again_at": plan.wake_at(),
        "next_run_begins_at": plan.run.next_at, "warnings": warnings,
    })
}

fn text(source: &SourceName, plan: &Plan) -> String {
    let next = plain::time(plan.run.next_at);
    let step = match &plan.step {
        Step::BackUp(reason) => format!("back up now ({reason})"),
        Step::Wait { until, why } => format!("nothing before {} ({why})", plain::time(*until)),
    };
    let warnings = plan.warnings.iter().map(|warning| format!("\n  warning   {warning}"));
    format!("{source}: {step}\n  next run  {next}{}", warnings.collect::<String>())
}
