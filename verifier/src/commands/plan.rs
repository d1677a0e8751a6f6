//! `pgproof-verifier plan`: which backups the schedule drills next, and why.

use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use pgproof_monitoring::answer;
use pgproof_policies::drills::{Pick, Plan};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::Source;
use serde_json::json;

use crate::cli;
use crate::verifier::Verifier;

pub(crate) async fn run(policy: &Path, args: cli::Plan, json: bool) -> anyhow::Result<ExitCode> {
    let verifier = Verifier::open(policy).await?;
    let source = verifier.loaded.source(&args.source)?;
    let planned = Planned::of(&verifier, source).await?;
    match json {
        true => answer::print_json(&planned.document())?,
        false => answer::print(&planned.text())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is due now, and what the next run would take if nothing changed until then.
#[derive(Debug)]
pub(super) struct Planned {
    source: SourceName,
    now: Timestamp,
    plan: Plan,
    next: Plan,
}

impl Planned {
    pub(super) async fn of(verifier: &Verifier, source: &Source) -> anyhow::Result<Self> {
        let now = Timestamp::now();
        let plan = verifier.plan(source, now).await?;
        let next = verifier.plan(source, plan.run.next_at).await?;
        Ok(Self { source: source.name.clone(), now, plan, next })
    }

    pub(super) fn text(&self) -> String {
        let Self { source, plan, next, .. } = self;
        let mut lines = Vec::new();
        match (plan.picks.is_empty(), plan.retry_at) {
            (true, _) if plan.awaits_backup => {
                lines.push(format!("{source}: there is no good backup to drill"))
            }
            (true, _) => lines.push(format!("{source}: nothing is due")),
            (false, None) => lines.push(format!("{source}: due now")),
            (false, Some(at)) => {
                lines.push(format!("{source}: due again at {}, the last drill could not be run", time(at)));
            }
        }
        lines.extend(plan.picks.iter().map(line));
        lines.push(format!("next run at {}", time(plan.run.next_at)));
        if plan.picks.is_empty() {
            lines.extend(next.picks.iter().map(line));
        }
        lines.push(plan.coverage.to_string());
        lines.extend(plan.shortfall.iter().map(|shortfall| format!("warning: {shortfall}")));
        lines.into_iter().map(|line| line + "\n").collect()
    }

    pub(super) fn document(&self) -> serde_json::Value {
        let Self { source, now, plan, next } = self;
        json!({
            "source": source,
            "at": now,
            "due": plan.due().iter().map(document).collect::<Vec<_>>(),
            "picks": plan.picks.iter().map(document).collect::<Vec<_>>(),
            "retry_at": plan.retry_at,
            "run_began_at": plan.run.begins_at,
            "next_run_at": plan.run.next_at,
            "next_picks": next.picks.iter().map(document).collect::<Vec<_>>(),
            "coverage": {
                "window_days": plan.coverage.window_days(),
                "kept": plan.coverage.kept,
                "proved": plan.coverage.proved,
            },
            "shortfall": plan.shortfall.map(|shortfall| json!({
                "needed": shortfall.needed,
                "runs": shortfall.runs,
                "deadline": shortfall.deadline,
                "older_per_run_max": shortfall.older_per_run_max,
                "older_per_run_needed": shortfall.older_per_run_needed,
                "told": shortfall.to_string(),
            })),
        })
    }
}

fn line(pick: &Pick) -> String {
    format!("  {}  {}  {}", pick.id, time(pick.snapshot_at), pick.reason)
}

fn document(pick: &Pick) -> serde_json::Value {
    json!({ "backup": pick.id, "snapshot_at": pick.snapshot_at, "reason": pick.reason.to_string() })
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
