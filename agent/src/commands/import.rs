//! `pgproof import`: a dump that was made without pgproof, as a backup of its source.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgproof_policies::moment;
use pgproof_policies::policy::Kind;
use pgproof_postgres::globals::Globals;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog;
use pgproof_repository::lease::host_name;
use pgproof_repository::manifest::v1::Manifest;
use tokio_util::sync::CancellationToken;

use super::backup::tags;
use super::{print_json, say};
use crate::backup::{Import, Job};
use crate::failure::{Exit, Failure};
use crate::{cli, plain};

pub(crate) async fn run(
    policy: &Path,
    args: cli::Import,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let tags = tags(args.tag.clone())?;
    let loaded = Arc::new(LoadedPolicy::read(policy)?);
    refuse_other_kinds(&loaded, &args)?;
    let now = Timestamp::now();
    let taken_at = moment::parse(&args.taken_at, loaded.policy.zone.as_deref(), &TimeZone::system(), now)?;
    let mut job = Job::new(loaded, &args.source, cancel).await?;
    job.tags = tags;
    job.reason = args.reason.clone();
    job.json = json;
    let import = tokio::task::spawn_blocking(move || open(&args, taken_at, now)).await??;

    let claim = job.claim().await?;
    let entries = catalog::list(&job.store, &job.source.name, &job.loaded.trusted_signers()?).await?;
    let looked = tokio::task::spawn_blocking(move || {
        let before = import.made_before(&entries).map(|id| id.cloned());
        before.map(|before| (before, import))
    });
    let (before, import) = match looked.await? {
        Ok(looked) => looked,
        Err(error) => {
            claim.give_back().await;
            return Err(error);
        }
    };
    if let Some(id) = before {
        claim.give_back().await;
        match json {
            true => print_json(&serde_json::json!({ "imported_before": id }))?,
            false => say(&format!("the same file was imported before, as {id}"))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let committed = Box::pin(job.import(import, claim)).await?;
    match json {
        true => print_json(&serde_json::json!({
            "manifest": committed.manifest, "manifest_sha256": committed.sha256,
        }))?,
        false => print(&committed.manifest)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse_other_kinds(loaded: &LoadedPolicy, args: &cli::Import) -> anyhow::Result<()> {
    match &loaded.source(&args.source)?.kind {
        Kind::Postgres(_) => Ok(()),
        Kind::Config(_) | Kind::Files(_) => {
            let message = format!("source {} is no database", args.source);
            Err(Failure::new(Exit::Usage, message, "a dump belongs to a source of kind \"postgres\"").into())
        }
    }
}

fn open(args: &cli::Import, taken_at: Timestamp, now: Timestamp) -> anyhow::Result<Import> {
    let told_by = format!("{} on {}", user_name(), host_name());
    let mut import = Import::open(&args.file, taken_at, told_by)?.in_time_zone(&args.time_zone)?;
    import.refuse_future(now)?;
    if !args.trust_time {
        import.check_clock()?;
    }
    if let Some(path) = &args.globals {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        // What would be refused at a restore is refused while somebody can still find another file.
        Globals::parse(&text).map_err(|refused| {
            let message = format!("{}: {refused}", named());
            Failure::new(Exit::Usage, message, "--globals takes what `pg_dumpall --globals-only` wrote")
        })?;
        import = import.with_globals(text);
    }
    Ok(import)
}

/// Who runs this, as far as the environment says; the number is the system's.
fn user_name() -> String {
    let uid = rustix::process::getuid().as_raw();
    match std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")) {
        Ok(name) => format!("{name} (uid {uid})"),
        Err(_) => format!("uid {uid}"),
    }
}

fn print(manifest: &Manifest) -> anyhow::Result<()> {
    say(&format!("imported {} as {}", manifest.source, manifest.id))?;
    say(&format!("  taken at  {} (as given)", plain::time(manifest.snapshot.at)))?;
    say(&format!("  contents  {}", plain::contents(&manifest.contents)))?;
    for warning in &manifest.warnings {
        say(&format!("  warning   {warning}"))?;
    }
    Ok(())
}
