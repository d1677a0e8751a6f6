//! The signed record that an act leaves in the repository, and the pin while a restore goes on.
//!
//! Neither ever stops the act: an operator with credentials that only read must be able to restore.

use std::future::Future;
use std::process::ExitCode;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::acts::{Book, Ended, What};
use pgproof_repository::ids::BackupId;
use pgproof_repository::pins::Pin;
use pgproof_repository::store::SharedStore;

use super::Opened;
use crate::failure;

/// Leaves the record of an act, or says that it could not.
pub(super) async fn enter(store: &SharedStore, loaded: &LoadedPolicy, source: &SourceName, what: What) {
    if let Err(error) = try_enter(store, loaded, source, what).await {
        tracing::warn!(error = %format!("{error:#}"), "no record of this act could be left in the repository");
    }
}

async fn try_enter(
    store: &SharedStore,
    loaded: &LoadedPolicy,
    source: &SourceName,
    what: What,
) -> anyhow::Result<()> {
    let signing_key = loaded.signing_key()?;
    let book = Book { store, source, signing_key: &signing_key, policy_sha256: &loaded.sha256 };
    book.enter(what).await?;
    Ok(())
}

/// Restores with the backup pinned, and leaves a record of how it ended.
pub(super) async fn restoring(
    opened: &Opened,
    source: &SourceName,
    backup: &BackupId,
    target: Option<String>,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let started_at = Timestamp::now();
    let pin = Pin::try_set(&opened.store, source, backup).await;
    let outcome = work.await;
    if let Some(pin) = pin {
        pin.release().await;
    }
    let ended = match &outcome {
        Ok(_) => Ended::Done,
        Err(error) => Ended::Failed { error: failure::record(error) },
    };
    let what = What::Restore { backup: backup.clone(), started_at, target, ended };
    enter(&opened.store, &opened.loaded, source, what).await;
    outcome
}
