//! `pgproof snapshot`: configuration and databases together, before something is deployed.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Kind, Source};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::lease::host_name;
use pgproof_repository::restore_point::{Member, RestorePoint, RestorePointId};
use tokio_util::sync::CancellationToken;

use super::backup::refuse_losses;
use super::{print_json, say};
use crate::backup::{BackedUp, Job, Made};
use crate::failure::{Exit, Failure};
use crate::{cli, plain};

/// Where any of the backups fails, or lacks a file, there is no restore point, and the exit code tells the deployment to stop.
pub(crate) async fn run(
    policy: &Path,
    args: cli::Snapshot,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let loaded = Arc::new(LoadedPolicy::read(policy)?);
    let sources = chosen(&loaded, &args.source)?;
    let mut members = Vec::new();
    for source in sources {
        let member = Box::pin(member(&loaded, &source, &args, json, &cancel)).await;
        members.push(member.with_context(|| format!("no restore point: {source} could not be backed up"))?);
    }
    let at = Timestamp::now();
    let point = RestorePoint {
        version: 1,
        id: RestorePointId::new(at, &mut rand::rng()),
        at,
        host: host_name(),
        reason: args.reason,
        reference: args.reference,
        members,
    };
    point.put(&loaded.open_store().await?, &loaded.signing_key()?).await?;
    match json {
        true => print_json(&point)?,
        false => print(&point)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn print(point: &RestorePoint) -> anyhow::Result<()> {
    say(&format!("restore point {} of {}", point.id, plain::time(point.at)))?;
    say(&format!("  reason    {}", point.reason))?;
    if let Some(reference) = &point.reference {
        say(&format!("  ref       {reference}"))?;
    }
    for member in &point.members {
        let unchanged = if member.unchanged { ", unchanged since then" } else { "" };
        say(&format!("  {:<9} {} {}{unchanged}", member.kind, member.source, member.backup))?;
    }
    Ok(())
}

/// Configuration first: it is quick, and what fails in it fails before a database is dumped.
fn chosen(loaded: &LoadedPolicy, named: &[SourceName]) -> anyhow::Result<Vec<SourceName>> {
    let is_member = |source: &&Source| match named {
        [] => matches!(source.kind, Kind::Postgres(_) | Kind::Config(_)),
        named => named.contains(&source.name),
    };
    for name in named {
        loaded.source(name)?;
    }
    let mut sources: Vec<&Source> = loaded.policy.sources.values().filter(is_member).collect();
    if sources.is_empty() {
        let hint = "name others with --source";
        return Err(Failure::new(Exit::Usage, "the policy has no database and no configuration", hint).into());
    }
    sources.sort_by_key(|source| !matches!(source.kind, Kind::Config(_)));
    Ok(sources.into_iter().map(|source| source.name.clone()).collect())
}

async fn member(
    loaded: &Arc<LoadedPolicy>,
    source: &SourceName,
    args: &cli::Snapshot,
    json: bool,
    cancel: &CancellationToken,
) -> anyhow::Result<Member> {
    let mut job = Job::new(loaded.clone(), source, cancel.clone()).await?;
    job.reason = Some(args.reason.clone());
    job.tags = args.reference.iter().map(|reference| ("ref".to_owned(), reference.clone())).collect();
    job.json = json;
    let claim = job.claim_or_tell().await?;
    // That somebody could not be told is in the log, and stops no deployment: the backups are what it waits for.
    let BackedUp { made, after } = Box::pin(job.run(claim)).await.outcome?;
    after.context("the backup is good and stored")?;
    let manifest = made.manifest();
    refuse_losses(manifest)?;
    Ok(Member {
        source: source.clone(),
        kind: manifest.contents.kind().to_owned(),
        backup: manifest.id.clone(),
        manifest_sha256: made.sha256(),
        snapshot_at: manifest.snapshot.at,
        unchanged: matches!(made, Made::Unchanged(_)),
    })
}
