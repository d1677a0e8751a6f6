//! The store's own locks on what a plan keeps and lets go.
//!
//! Of a backup whose lock is made longer the manifest comes last. So its lock tells of all its objects, and one look tells
//! whether anything is left to do.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use pgproof_policies::locks::{Due, Locks};
use pgproof_policies::names::SourceName;
use pgproof_policies::retention::{Candidate, Decision, Plan};

use super::{Failure, PruneError, Pruner};
use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::store::{Lock, SharedStore, StoreError};

/// Removals whose lock is looked up before they are printed, the oldest first. Whether one may go is looked up again before it
/// goes.
const REMOVALS_LOOKED_AT_MAX: usize = 500;
/// Looks at the same time.
const LOOKS_IN_FLIGHT: usize = 16;

/// What is known of locks when a plan is printed.
#[derive(Debug, Default)]
pub struct LockPlan {
    /// Kept backups whose lock is to be made longer.
    pub extensions: Vec<Extension>,
    /// The locks that were found and go on, of kept ones and of removals.
    pub found: BTreeMap<BackupId, Lock>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    pub id: BackupId,
    pub due: Due,
}

impl LockPlan {
    /// Looks at the locks of what `plan` keeps for a class and of what it removes. A store without locks has none.
    pub async fn of(
        store: &SharedStore,
        source: &SourceName,
        plan: &Plan,
        candidates: &[Candidate],
        locks: &Locks,
        now: Timestamp,
    ) -> Result<Self, PruneError> {
        let kept = locks.all_due(source, plan, candidates, now).into_iter();
        let kept = kept.filter_map(|(id, due)| Some((id.parse().ok()?, due)));
        let removed = plan.lines.iter().rev().filter(|line| line.decision == Decision::Expire);
        let removed = removed.filter_map(|line| line.id.parse().ok()).take(REMOVALS_LOOKED_AT_MAX);
        let wanted: Vec<(BackupId, Option<Due>)> =
            kept.map(|(id, due)| (id, Some(due))).chain(removed.map(|id| (id, None))).collect();
        let looks = stream::iter(wanted).map(|(id, due)| async move {
            let lock = look(store, &layout::manifest(source, &id)).await?;
            Ok((id, due, lock))
        });
        let looked: Vec<_> = looks.buffered(LOOKS_IN_FLIGHT).try_collect().await?;
        let mut lock_plan = Self::default();
        for (id, due, lock) in looked {
            match due {
                // A legal hold says nothing of the date below it, and keeps the object meanwhile.
                Some(due) if !matches!(lock, Some(Lock::LegalHold)) && is_shorter(lock, due.until) => {
                    lock_plan.extensions.push(Extension { id: id.clone(), due });
                }
                _ => {}
            }
            let holds = lock.filter(|lock| !matches!(lock, Lock::Until(until) if *until <= now));
            lock_plan.found.extend(holds.map(|lock| (id, lock)));
        }
        Ok(lock_plan)
    }

    pub fn lock(&self, id: &str) -> Option<Lock> {
        self.found.get(&id.parse().ok()?).copied()
    }

    /// The longer lock that a backup gets.
    pub fn extension(&self, id: &str) -> Option<&Extension> {
        self.extensions.iter().find(|extension| extension.id.as_str() == id)
    }
}

/// How the objects of one backup are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    No,
    /// Of so many objects.
    InPart {
        locked: usize,
        objects: usize,
    },
    /// All of them, the first to come free by this.
    By(Lock),
}

impl Locked {
    /// Looks at every object of a backup.
    pub async fn of(store: &SharedStore, source: &SourceName, id: &BackupId) -> Result<Self, PruneError> {
        let listed = store.list(&layout::backup(source, id), None);
        let locks = listed
            .map_err(|source| PruneError::Store { source })
            .and_then(|meta| async move { look(store, &meta.key).await });
        let locks: Vec<Option<Lock>> = locks.try_collect().await?;
        let found: Vec<Lock> = locks.iter().copied().flatten().collect();
        let first_free = found.iter().copied().min_by_key(|lock| lock.until().unwrap_or(Timestamp::MAX));
        Ok(match first_free {
            None => Self::No,
            Some(lock) if found.len() == locks.len() => Self::By(lock),
            Some(_) => Self::InPart { locked: found.len(), objects: locks.len() },
        })
    }
}

impl Pruner<'_> {
    /// Makes locks longer, and says for which backups it did, and for which it could not. A prune that
    /// was told to stop leaves the rest to the next one.
    pub async fn extend_locks(&self, extensions: &[Extension]) -> (Vec<Extension>, Vec<Failure>) {
        let (mut extended, mut failures) = (Vec::new(), Vec::new());
        for extension in extensions {
            if self.cancel.is_cancelled() {
                break;
            }
            match self.extend(extension).await {
                Ok(()) => extended.push(extension.clone()),
                Err(error) => failures.push(Failure { id: extension.id.clone(), error }),
            }
        }
        (extended, failures)
    }

    async fn extend(&self, Extension { id, due }: &Extension) -> Result<(), PruneError> {
        let manifest = layout::manifest(self.source, id);
        let mut keys = self.objects(id).await?;
        keys.sort_by_key(|key| *key == manifest);
        for key in keys {
            if is_shorter(look(self.store, &key).await?, due.until) {
                let extended = self.store.extend_lock(&key, due.until).await;
                extended.map_err(|source| PruneError::Lock { source })?;
            }
        }
        Ok(())
    }
}

fn is_shorter(lock: Option<Lock>, wanted: Timestamp) -> bool {
    match lock {
        Some(Lock::Until(until)) => until < wanted,
        Some(Lock::LegalHold) | None => true,
    }
}

async fn look(store: &SharedStore, key: &ObjectKey) -> Result<Option<Lock>, PruneError> {
    match store.lock(key).await {
        Err(StoreError::Unsupported { .. } | StoreError::NotFound { .. }) => Ok(None),
        other => other.map_err(|source| PruneError::Store { source }),
    }
}
