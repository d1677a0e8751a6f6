//! `pgproof backup`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Kind, Source};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::acts::What;
use pgproof_repository::holds;
use pgproof_repository::manifest::v1::Manifest;
use tokio_util::sync::CancellationToken;

use super::{hold, print_json, record, say};
use crate::backup::{Attempt, BackedUp, Job, Made};
use crate::daemon::{Mode, Options};
use crate::failure::{Exit, Failure};
use crate::{cli, plain};

pub(crate) async fn run(
    policy: &Path,
    args: cli::Backup,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    match args.source.clone() {
        Some(source) if !args.due => Box::pin(one(policy, &source, args, json, cancel)).await,
        only => {
            let mode = if args.due { Mode::Due } else { Mode::Now };
            let options = Options { policy: policy.to_owned(), mode, only };
            Box::pin(super::run::work(options, json, cancel)).await
        }
    }
}

/// One source, now, by somebody who waits for it.
async fn one(
    policy: &Path,
    source: &SourceName,
    args: cli::Backup,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let tags = tags(args.tag)?;
    let loaded = Arc::new(LoadedPolicy::read(policy)?);
    let mut job = Job::new(loaded, source, cancel).await?;
    if let Some(jobs) = args.jobs {
        refuse_jobs_unless_database(&job.source)?;
        job.source.jobs = jobs;
    }
    if args.explain {
        explain(&job).await?;
        return Ok(ExitCode::SUCCESS);
    }
    job.tags = tags;
    job.reason = args.reason.clone();
    job.json = json;
    let claim = job.claim_or_tell().await?;
    let Attempt { outcome, not_told, .. } = Box::pin(job.run(claim)).await;
    let BackedUp { made, after } = outcome?;
    if args.hold {
        let reason = args.reason.unwrap_or_else(|| "pgproof backup --hold".to_owned());
        let hold = hold::new_hold(source, &made.manifest().id, reason);
        holds::put(&job.store, &hold, &job.loaded.signing_key()?).await?;
        let what = What::Hold { backup: hold.id, reason: hold.reason };
        record::enter(&job.store, &job.loaded, source, what).await;
    }
    match json {
        true => print_json(&serde_json::json!({
            "manifest": made.manifest(), "manifest_sha256": made.sha256(), "held": args.hold,
            "unchanged": matches!(made, Made::Unchanged(_)),
        }))?,
        false => print(&made)?,
    }
    after.context("the backup is good and stored")?;
    super::all_told(not_told).context("the backup is good and stored")?;
    refuse_losses(made.manifest())?;
    Ok(ExitCode::SUCCESS)
}

/// Of two values for one key the first would be lost.
pub(super) fn tags(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut tags = BTreeMap::new();
    for (key, value) in given {
        if tags.contains_key(&key) {
            return Err(Failure::new(
                Exit::Usage,
                format!("--tag {key} is given twice"),
                "a key has one value",
            ));
        }
        tags.insert(key, value);
    }
    Ok(tags)
}

fn refuse_jobs_unless_database(source: &Source) -> anyhow::Result<()> {
    match source.kind {
        Kind::Postgres(_) => Ok(()),
        Kind::Config(_) | Kind::Files(_) => {
            let message = format!("--jobs is for databases, and {} is none", source.name);
            Err(Failure::new(Exit::Usage, message, "leave it out").into())
        }
    }
}

/// What was backed up is safe; that something was not is no success.
pub(super) fn refuse_losses(manifest: &Manifest) -> Result<(), Failure> {
    match manifest.losses() {
        0 => Ok(()),
        losses => Err(Failure::new(
            Exit::Incomplete,
            format!("the backup stands, and lacks {losses} file(s) or parts of them"),
            "see to what is named above, or leave it out with `exclude`; `pgproof show --inventory` lists all of them",
        )),
    }
}

fn print(made: &Made) -> anyhow::Result<()> {
    let manifest = made.manifest();
    if let Made::Unchanged(_) = made {
        return say(&format!("nothing of {} has changed since {}", manifest.source, manifest.id));
    }
    let took = plain::duration(manifest.finished_at.duration_since(manifest.started_at));
    let plain_bytes: u64 = manifest.objects.iter().map(|object| object.plaintext.bytes).sum();
    say(&format!("backed up {} as {} in {took}", manifest.source, manifest.id))?;
    say(&format!("  snapshot  {}", plain::snapshot(manifest)))?;
    say(&format!("  contents  {}", plain::contents(&manifest.contents)))?;
    if let Some(increment) = plain::increment(&manifest.contents) {
        say(&format!("  increment {increment}"))?;
    }
    say(&format!("  stored    {} for {}", plain::bytes(manifest.stored_bytes()), plain::bytes(plain_bytes)))?;
    for warning in &manifest.warnings {
        say(&format!("  warning   {warning}"))?;
    }
    Ok(())
}

/// The plan and the memory it takes, worked out as the run does it. Nothing is read but the size of what would be.
async fn explain(job: &Job) -> anyhow::Result<()> {
    let expected = job.expected_bytes().await;
    job.stop_if_cancelled()?;
    let known = expected.as_ref().ok().copied().flatten();
    say(&format!("{} from {} to {}", job.source.name, job.describe(), job.store.location()))?;
    say(&format!("  {}; zstd level {}; age", job.procedure(), job.source.compression_level))?;
    let blocks = plain::bytes(job.memory(known).blocks());
    say(&format!("  blocks    at most {blocks} in {} worker(s) and queue", job.workers()))?;
    // A source that is to store so much is known to be as large.
    let line = |stored: u64, what: &str| match job.memory(known.max(Some(stored))).parts_at(stored) {
        Some((part, together)) => {
            let (part, together) = (plain::bytes(part), plain::bytes(together));
            format!("parts of {part}, {together} in flight{what}")
        }
        None => format!("more than one object of this store takes{what}"),
    };
    for stored in [1 << 30, 100 << 30, 1 << 40] {
        say(&format!("  at {:>9} stored: {}", plain::bytes(stored), line(stored, "")))?;
    }
    match expected {
        Ok(Some(bytes)) => say(&format!(
            "  at {:>9} stored: {}",
            plain::bytes(bytes),
            line(bytes, ", should what is there now not compress")
        )),
        Ok(None) => Ok(()),
        Err(error) => say(&format!("  how much there is now is not known: {error:#}")),
    }
}
