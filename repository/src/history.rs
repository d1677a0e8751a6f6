//! What became of a source of late: as much of its past as a plan for the next backup needs.
//!
//! Only what is signed counts. Listings find the names, and few objects are read, however many there are.

use std::pin::pin;

use futures::TryStreamExt;
use jiff::Timestamp;
use pgproof_policies::backups::{Attempt, Known};
use pgproof_policies::names::SourceName;

use crate::catalog::{CatalogError, Finder, Folders};
use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::records::{self, Run, RunOutcome};
use crate::signature::TrustedSigners;
use crate::store::SharedStore;

/// Records that are read: beyond so many failures in a row the waits grow no more.
const RECORDS_MAX: usize = 24;

/// The newest whole backups, up to one that is not dated after `now`, and the attempts from `since` on that made none. One
/// that found nothing changed counts as a backup while what it found lies there.
pub async fn of_late(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    since: Timestamp,
    now: Timestamp,
) -> Result<Known, CatalogError> {
    let mut known = Known { backups: newest_whole(store, source, signers, now).await?, failed: Vec::new() };
    for run in runs_since(store, source, signers, since).await? {
        match run.outcome {
            RunOutcome::Committed { .. } => {}
            RunOutcome::Unchanged { since } if known.backups.contains(&since.started_at()) => {
                known.backups.push(run.started_at);
            }
            // What it found is gone since: a backup is wanted.
            RunOutcome::Unchanged { .. } => {}
            RunOutcome::Failed { cause, .. } => {
                known.failed.push(Attempt { started_at: run.started_at, ended_at: run.ended_at, cause });
            }
        }
    }
    Ok(known)
}

async fn newest_whole(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    now: Timestamp,
) -> Result<Vec<Timestamp>, CatalogError> {
    let folders = Folders::open(store, source).await?;
    let finder = Finder::open(store, source, signers).await?;
    let (mut ids, mut found) = (pin!(folders.newest_first(None)), Vec::new());
    while let Some(id) = ids.try_next().await? {
        match finder.find(&id).await {
            // Of another time than its id says, and no run of the schedule.
            Ok(signed) if signed.get().imported.is_some() => continue,
            Ok(_) => found.push(id.started_at()),
            Err(error @ CatalogError::Store { .. }) => return Err(error),
            // Not whole, so that it is no backup.
            Err(_) => continue,
        }
        if id.started_at() <= now {
            break;
        }
    }
    Ok(found)
}

async fn runs_since(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    since: Timestamp,
) -> Result<Vec<Run>, CatalogError> {
    let mut runs = Vec::new();
    for id in some_of(run_ids(store, source, since).await?) {
        match records::get::<Run>(&**store, &layout::run(source, &id), signers).await {
            Ok((run, _)) if run.id == id && run.source == *source => runs.push(run),
            Ok(_) => {
                tracing::warn!(%source, %id, "the record of a run is of another run, and counts for nothing")
            }
            Err(source) if source.is_of_the_store() => return Err(CatalogError::Record { source }),
            Err(error) => {
                let error = on_one_line(&error);
                tracing::warn!(%source, %id, %error, "the record of a run cannot be used, and counts for nothing");
            }
        }
    }
    Ok(runs)
}

/// The runs that were started at `since` or later, oldest first.
async fn run_ids(
    store: &SharedStore,
    source: &SourceName,
    since: Timestamp,
) -> Result<Vec<BackupId>, CatalogError> {
    let prefix = layout::runs(source);
    let start_after = layout::runs_from(source, since);
    let listed = store.list(&prefix, start_after.as_ref()).try_collect::<Vec<_>>().await;
    let objects = listed.map_err(|source| CatalogError::Store { source })?;
    let id = |key: &ObjectKey| -> Option<BackupId> {
        key.as_str().strip_prefix(prefix.as_str())?.strip_suffix(".json")?.parse().ok()
    };
    Ok(objects.iter().filter_map(|object| id(&object.key)).collect())
}

/// The first, since when tries are counted, and the newest.
fn some_of(ids: Vec<BackupId>) -> Vec<BackupId> {
    let newest = ids.len().saturating_sub(RECORDS_MAX - 1).max(1);
    let kept = ids.into_iter().enumerate().filter(|(number, _)| *number == 0 || *number >= newest);
    kept.map(|(_, id)| id).collect()
}

/// An error and its causes on one line.
fn on_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u32) -> Vec<BackupId> {
        (0..count)
            .map(|n| format!("20261124T{:02}{:02}00Z-aaaaaa", n / 60, n % 60).parse().unwrap())
            .collect()
    }

    #[test]
    fn of_many_attempts_the_first_and_the_newest_are_read() {
        assert_eq!(some_of(ids(0)), []);
        assert_eq!(some_of(ids(3)), ids(3));
        let many = ids(100);
        let some = some_of(many.clone());
        assert_eq!(some.len(), RECORDS_MAX);
        assert_eq!((&some[0], some.last()), (&many[0], many.last()));
    }
}
