//! `pgproof hold` and `pgproof release`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_repository::acts::What;
use pgproof_repository::lease::host_name;
use pgproof_repository::records::Hold;
use pgproof_repository::{catalog, holds, prune};

use super::{open, print_json, record, say};
use crate::cli;
use crate::failure::{Exit, Failure};

pub(crate) async fn hold(policy: &Path, args: cli::Hold, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, Some(&args.source)).await?;
    let signers = opened.loaded.trusted_signers()?;
    catalog::find(&opened.store, &args.source, &args.backup, &signers).await?;
    let hold = new_hold(&args.source, &args.backup, args.reason);
    holds::put(&opened.store, &hold, &opened.loaded.signing_key()?).await?;
    // A prune that had looked for holds before this one goes on.
    catalog::find(&opened.store, &args.source, &args.backup, &signers)
        .await
        .context("it went while it was put on hold")?;
    if let Some(pruner) =
        prune::removal_at_work(&opened.store, &args.source, &args.backup, Timestamp::now()).await?
    {
        let message = format!(
            "a prune on {} had begun to remove {} when it was put on hold, and may go on with it",
            pruner.host, args.backup
        );
        let hint = "when the prune has ended, `pgproof check` says whether the backup is still whole; then it is held";
        return Err(Failure::new(Exit::Busy, message, hint).into());
    }
    let what = What::Hold { backup: args.backup, reason: hold.reason.clone() };
    record::enter(&opened.store, &opened.loaded, &args.source, what).await;
    match json {
        true => print_json(&hold)?,
        false => say(&format!("{} is kept until `pgproof release {} {}`", hold.id, hold.source, hold.id))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn release(policy: &Path, args: cli::Release, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, Some(&args.source)).await?;
    if !holds::is_there(&opened.store, &args.source, &args.backup).await? {
        let message = format!("{} is not on hold", args.backup);
        return Err(Failure::new(Exit::NothingFound, message, "`pgproof list` shows what is held").into());
    }
    // First, so that no hold goes without a trace.
    record::enter(&opened.store, &opened.loaded, &args.source, What::Release { backup: args.backup.clone() })
        .await;
    holds::give_back(&opened.store, &args.source, &args.backup).await?;
    match json {
        true => {
            print_json(&serde_json::json!({ "source": args.source, "id": args.backup, "released": true }))?
        }
        false => say(&format!("{} is given back to retention", args.backup))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn new_hold(
    source: &pgproof_policies::names::SourceName,
    id: &pgproof_repository::ids::BackupId,
    reason: String,
) -> Hold {
    Hold {
        version: 1,
        source: source.clone(),
        id: id.clone(),
        at: Timestamp::now(),
        host: host_name(),
        reason,
    }
}
