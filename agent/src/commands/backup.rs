//! `pgproof backup`.

use std::path::Path;
use std::process::ExitCode;

use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::lifecycle::Committed;
use pgproof_repository::manifest::v1::Contents;
use pgproof_repository::sealed::BLOCK_BYTES_MAX;
use tokio_util::sync::CancellationToken;

use super::{hold, print_json, say};
use crate::backup::{Job, UPLOADS_IN_FLIGHT};
use crate::failure::{Exit, Failure};
use crate::{cli, plain};

pub(crate) async fn run(
    policy: &Path,
    args: cli::Backup,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let loaded = LoadedPolicy::read(policy)?;
    let mut job = Job::new(loaded, &args.source, cancel).await?;
    if args.explain {
        explain(&job)?;
        return Ok(ExitCode::SUCCESS);
    }
    job.tags = args.tag.into_iter().collect();
    job.reason = args.reason.clone();
    job.json = json;
    let committed = Box::pin(job.run()).await?;
    if args.hold {
        let reason = args.reason.unwrap_or_else(|| "pgproof backup --hold".to_owned());
        let hold = hold::new_hold(&args.source, &committed.manifest.id, reason);
        hold::put(&job.store, &hold, &job.loaded.signing_key()?).await?;
    }
    match json {
        true => print_json(&serde_json::json!({
            "manifest": committed.manifest, "manifest_sha256": committed.sha256, "held": args.hold,
        }))?,
        false => print(&committed)?,
    }
    match &committed.manifest.contents {
        Contents::Files(files) if files.tree.losses > 0 => Err(incomplete(files.tree.losses).into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn incomplete(losses: u64) -> Failure {
    Failure::new(
        Exit::Incomplete,
        format!("the backup stands, and lacks {losses} file(s) or parts of them"),
        "see to what is named above, or leave it out with `exclude`; `pgproof show --inventory` lists all of them",
    )
}

fn print(committed: &Committed) -> anyhow::Result<()> {
    let manifest = &committed.manifest;
    let took = plain::duration(manifest.finished_at.duration_since(manifest.started_at));
    let plain_bytes: u64 = manifest.objects.iter().map(|object| object.plaintext.bytes).sum();
    say(&format!("backed up {} as {} in {took}", manifest.source, manifest.id))?;
    say(&format!("  snapshot  {}", plain::time(manifest.snapshot.at)))?;
    say(&format!("  contents  {}", plain::contents(&manifest.contents)))?;
    say(&format!("  stored    {} for {}", plain::bytes(manifest.stored_bytes()), plain::bytes(plain_bytes)))?;
    for warning in &manifest.warnings {
        say(&format!("  warning   {warning}"))?;
    }
    Ok(())
}

/// The plan and the memory it takes, without touching server or store.
fn explain(job: &Job) -> anyhow::Result<()> {
    let plan = job.part_plan(None);
    let (workers, parts) = (job.workers(), UPLOADS_IN_FLIGHT + 2);
    say(&format!("{} from {} to {}", job.source.name, job.describe(), job.store.location()))?;
    let read = if job.is_of_files() {
        "one tar, and an index of it"
    } else {
        "one exported snapshot; pg_dump -Fc -Z0"
    };
    say(&format!("  {read}; zstd level {}; age", job.source.compression_level))?;
    let blocks = (workers + 2) as u64 * BLOCK_BYTES_MAX as u64 / 2;
    say(&format!("  blocks    at most {} in {} worker(s) and queue", plain::bytes(blocks), workers))?;
    for stored in [1_u64 << 30, 100 << 30, 1 << 40] {
        let number = (1..=plan.limits().parts_max).find(|number| plan.bytes_after(*number) >= stored);
        let Some(number) = number else { continue };
        let part = plan.part_bytes(number);
        let memory = plain::bytes(part * parts as u64);
        say(&format!(
            "  at {:>9} stored: parts of {}, {memory} in flight",
            plain::bytes(stored),
            plain::bytes(part)
        ))?;
    }
    Ok(())
}
