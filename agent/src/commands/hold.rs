//! `pgproof hold` and `pgproof release`.

use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use pgproof_repository::acts::What;
use pgproof_repository::lease::host_name;
use pgproof_repository::records::{self, Hold};
use pgproof_repository::signature::SigningKey;
use pgproof_repository::store::{SharedStore, StoreError};
use pgproof_repository::{catalog, layout};

use super::{open, print_json, record, say};
use crate::cli;
use crate::failure::{Exit, Failure};

pub(crate) async fn hold(policy: &Path, args: cli::Hold, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, Some(&args.source)).await?;
    let signers = opened.loaded.trusted_signers()?;
    catalog::find(&opened.store, &args.source, &args.backup, &signers).await?;
    let hold = new_hold(&args.source, &args.backup, args.reason);
    put(&opened.store, &hold, &opened.loaded.signing_key()?).await?;
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
    let key = layout::hold(&args.source, &args.backup);
    match opened.store.head(&key).await {
        Err(StoreError::NotFound { .. }) => {
            let message = format!("{} is not on hold", args.backup);
            return Err(Failure::new(Exit::NothingFound, message, "`pgproof list` shows what is held").into());
        }
        found => found?,
    };
    // First, so that no hold goes without a trace.
    record::enter(&opened.store, &opened.loaded, &args.source, What::Release { backup: args.backup.clone() })
        .await;
    opened.store.delete(&key).await?;
    opened.store.delete(&layout::signature_of(&key)).await?;
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

/// Puts a hold; one that is there already stays as it is.
pub(crate) async fn put(store: &SharedStore, hold: &Hold, signing_key: &SigningKey) -> anyhow::Result<()> {
    let key = layout::hold(&hold.source, &hold.id);
    match store.head(&key).await {
        Ok(_) => Ok(()),
        Err(StoreError::NotFound { .. }) => Ok(records::put(&**store, &key, hold, signing_key).await?),
        Err(error) => Err(error.into()),
    }
}
