//! Removing what a plan says, in two steps: first a signed tombstone, then the objects.
//!
//! Order of deletion: manifest, signature, then the rest, so that a backup half removed is never listed. A delete
//! that failed is reported, and since the tombstone stands the next prune goes on with it. Litter of runs that died
//! (objects without manifest, uploads never completed) is swept after a grace.

use futures::stream::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;

use crate::catalog::{Entry, Standing};
use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::records::{self, RecordError, Tombstone};
use crate::signature::{SigningKey, TrustedSigners};
use crate::store::{SharedStore, Store, StoreError};

/// Litter younger than this may belong to a run that goes on: longer than any dump should take.
pub const LITTER_GRACE: SignedDuration = SignedDuration::from_hours(24);

/// What one prune did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub removed: Vec<BackupId>,
    pub swept: Vec<BackupId>,
    pub aborted_uploads: usize,
    /// Objects that are still there although they should not be.
    pub failures: Vec<Failure>,
}

#[derive(Debug)]
pub struct Failure {
    pub id: BackupId,
    pub error: PruneError,
}

/// Who prunes, for the tombstones.
#[derive(Debug)]
pub struct Pruner<'a> {
    pub store: &'a SharedStore,
    pub source: &'a SourceName,
    pub signing_key: &'a SigningKey,
    pub signers: &'a TrustedSigners,
    pub host: &'a str,
}

impl Pruner<'_> {
    /// Buries and removes `expired`, goes on with what earlier prunes left, and sweeps litter.
    ///
    /// Holds are looked up again just before each tombstone: one may be newer than the plan.
    pub async fn carry_out(&self, expired: &[&Entry], entries: &[Entry], now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        for entry in expired {
            match self.bury_and_remove(entry, now).await {
                Ok(()) => outcome.removed.push(entry.id.clone()),
                Err(error) => outcome.failures.push(Failure { id: entry.id.clone(), error }),
            }
        }
        for entry in entries {
            let removed = match entry.standing {
                Standing::Pruned => self.remove_objects(&entry.id).await,
                Standing::Incomplete if is_litter(&entry.id, now) => self.remove_objects(&entry.id).await,
                _ => continue,
            };
            match removed {
                Ok(()) => outcome.swept.push(entry.id.clone()),
                Err(error) => outcome.failures.push(Failure { id: entry.id.clone(), error }),
            }
        }
        outcome.aborted_uploads = self.abort_uploads(now, &mut outcome.failures).await;
        outcome
    }

    async fn bury_and_remove(&self, entry: &Entry, now: Timestamp) -> Result<(), PruneError> {
        let signed = entry.whole().ok_or_else(|| PruneError::NotABackup { id: entry.id.clone() })?;
        if self.is_held(&entry.id).await? {
            return Err(PruneError::Held { id: entry.id.clone() });
        }
        let tombstone = Tombstone {
            version: 1,
            source: self.source.clone(),
            id: entry.id.clone(),
            at: now,
            host: self.host.to_owned(),
            snapshot_at: signed.snapshot_at(),
        };
        self.bury(&tombstone).await?;
        self.remove_objects(&entry.id).await
    }

    /// Puts the tombstone, unless a prune that broke off has put one. What else lies in its place gives way to it: half
    /// a record, or one that nobody trusted has signed.
    async fn bury(&self, tombstone: &Tombstone) -> Result<(), PruneError> {
        let key = layout::tombstone(self.source, &tombstone.id);
        match records::get::<Tombstone>(&**self.store, &key, self.signers).await {
            Ok((known, _)) if known.id == tombstone.id && known.source == tombstone.source => return Ok(()),
            Err(source) if source.is_of_the_store() => return Err(PruneError::Tombstone { source }),
            Ok(_) | Err(_) => {}
        }
        for litter in [&key, &layout::signature_of(&key)] {
            self.store.delete(litter).await.map_err(|source| PruneError::Store { source })?;
        }
        let put = records::put(&**self.store, &key, tombstone, self.signing_key).await;
        put.map_err(|source| PruneError::Tombstone { source })
    }

    async fn is_held(&self, id: &BackupId) -> Result<bool, PruneError> {
        match self.store.head(&layout::hold(self.source, id)).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(source) => Err(PruneError::Store { source }),
        }
    }

    /// Deletes the manifest first, then everything else, then looks that nothing is left.
    async fn remove_objects(&self, id: &BackupId) -> Result<(), PruneError> {
        let store = |source| PruneError::Store { source };
        self.store.delete(&layout::manifest(self.source, id)).await.map_err(store)?;
        for key in self.objects(id).await? {
            self.store.delete(&key).await.map_err(store)?;
        }
        match self.objects(id).await?.len() {
            0 => Ok(()),
            left => Err(PruneError::StillThere { left }),
        }
    }

    async fn objects(&self, id: &BackupId) -> Result<Vec<ObjectKey>, PruneError> {
        let listed = self.store.list(&layout::backup(self.source, id), None);
        let listed = listed.map_ok(|meta| meta.key).try_collect().await;
        listed.map_err(|source| PruneError::Store { source })
    }

    async fn abort_uploads(&self, now: Timestamp, failures: &mut Vec<Failure>) -> usize {
        let aborted = abort_uploads(&**self.store, self.source, |id| is_litter(id, now)).await;
        failures.extend(aborted.failures);
        aborted.count
    }
}

/// Uploads of a source that were aborted, and those that could not be.
#[derive(Debug, Default)]
pub struct Aborted {
    pub count: usize,
    pub failures: Vec<Failure>,
}

/// Aborts the pending uploads of the backups that `stale` names. A store that cannot list uploads has none to tell of.
pub async fn abort_uploads(
    store: &dyn Store,
    source: &SourceName,
    stale: impl Fn(&BackupId) -> bool,
) -> Aborted {
    let mut aborted = Aborted::default();
    let prefix = layout::backups(source);
    let Ok(uploads) = store.list_uploads(&prefix).await else { return aborted };
    for upload in uploads {
        let id = upload.key.as_str().strip_prefix(prefix.as_str()).and_then(|path| path.split('/').next());
        let Some(id) = id.and_then(|id| id.parse().ok()).filter(&stale) else { continue };
        match store.abort_upload(&upload).await {
            Ok(()) => aborted.count += 1,
            Err(source) => aborted.failures.push(Failure { id, error: PruneError::Store { source } }),
        }
    }
    aborted
}

fn is_litter(id: &BackupId, now: Timestamp) -> bool {
    id.started_at() + LITTER_GRACE < now
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    #[error("{id} is not a whole backup")]
    NotABackup { id: BackupId },
    #[error("{id} was put on hold since the plan was made")]
    Held { id: BackupId },
    #[error("tombstone cannot be put")]
    Tombstone {
        #[source]
        source: RecordError,
    },
    #[error("store refused")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("{left} objects are still there after they were deleted")]
    StillThere { left: usize },
}
