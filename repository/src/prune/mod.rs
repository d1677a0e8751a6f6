//! Removing what a plan says, in two steps: first a signed tombstone, then the objects.
//!
//! Order of deletion: manifest, signature, then the rest, so that a backup half removed is never listed. A delete
//! that failed is reported, and since the tombstone stands the next prune goes on with it. Litter of runs that died
//! (objects without manifest, uploads never completed) is swept after a grace, and while no backup of the source is at
//! work; a folder whose manifest was there once and vanished is no litter but the rest of a backup, and is left alone and
//! named. Incremental backups go before those that they need, which stay while one of them does.

mod candidates;
mod locks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_policies::retention::CLOCK_SKEW_MAX;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Brief, BriefStanding};
use crate::holds;
use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::lease::{self, Holder, LeaseError};
use crate::pins::{self, InUse};
use crate::records::{self, RecordError, Run, RunOutcome, Tombstone};
use crate::signature::{SigningKey, TrustedSigners};
use crate::store::{Lock, SharedStore, Store, StoreError};

pub use candidates::candidates;
pub use locks::{Extension, LockPlan, Locked};

/// Litter younger than this may belong to a run that goes on and holds no lease that can be seen: one that was paused, or
/// whose host's clock is off.
pub const LITTER_GRACE: SignedDuration = SignedDuration::from_hours(24);

/// What one prune did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub removed: Vec<BackupId>,
    pub swept: Vec<BackupId>,
    /// What the plan lets go and cannot go yet; the next prune looks again.
    pub put_off: Vec<PutOff>,
    pub aborted_uploads: usize,
    /// Kept backups that were locked for longer.
    pub locked: Vec<Extension>,
    /// Objects that are still there although they should not be.
    pub failures: Vec<Failure>,
    /// Kept backups that should be locked for longer and are not.
    pub not_locked: Vec<Failure>,
    /// It was told to stop, and the rest is for the next prune.
    pub was_stopped: bool,
}

#[derive(Debug)]
pub struct PutOff {
    pub id: BackupId,
    pub why: Delay,
}

/// Why a backup cannot go yet.
#[derive(Debug)]
pub enum Delay {
    /// Somebody began to restore it after the plan was made.
    InUse(InUse),
    /// The store itself keeps it.
    Locked(Lock),
    /// This one is still there, and cannot be restored without it.
    NeededBy(BackupId),
    /// Of a folder without manifest: it may be what this process is writing.
    AtWork(Holder),
}

impl std::fmt::Display for Delay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse(by) => write!(f, "in use by {by}"),
            Self::Locked(lock) => lock.fmt(f),
            Self::NeededBy(id) => write!(f, "needed by {id}"),
            Self::AtWork(Holder { host, pid, .. }) => {
                write!(f, "process {pid} on {host} is at work on a backup")
            }
        }
    }
}

impl Outcome {
    /// Whether anything in the repository was changed.
    pub fn did_something(&self) -> bool {
        !self.removed.is_empty()
            || !self.swept.is_empty()
            || self.aborted_uploads > 0
            || !self.locked.is_empty()
            || !self.failures.is_empty()
            || !self.not_locked.is_empty()
    }
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
    /// Once cancelled it stops after the backup that it is at.
    pub cancel: CancellationToken,
}

impl Pruner<'_> {
    /// Buries and removes `expired`, goes on with what earlier prunes left, and sweeps litter.
    ///
    /// Holds and pins are looked up again just before each tombstone: one may be newer than the plan.
    pub async fn carry_out(&self, expired: &[&Brief], briefs: &[Brief], now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        let mut needed = needed_by_others(expired, briefs);
        for brief in needing_before_needed(expired) {
            if self.cancel.is_cancelled() {
                return Outcome { was_stopped: true, ..outcome };
            }
            let removed = match needed.get(&brief.id) {
                Some(by) => Ok(Some(Delay::NeededBy((*by).clone()))),
                None => self.bury_and_remove(brief, now).await,
            };
            if !matches!(removed, Ok(None)) {
                needed.extend(brief.needs.iter().map(|id| (id, &brief.id)));
            }
            match removed {
                Ok(None) => outcome.removed.push(brief.id.clone()),
                Ok(Some(why)) => outcome.put_off.push(PutOff { id: brief.id.clone(), why }),
                Err(error) => outcome.failures.push(Failure { id: brief.id.clone(), error }),
            }
        }
        let followed = followed(briefs);
        for brief in briefs.iter().filter(|brief| brief.snapshot_at().is_none()) {
            if self.cancel.is_cancelled() {
                return Outcome { was_stopped: true, ..outcome };
            }
            match self.sweep(brief, &followed, now).await {
                Ok(Swept::All) => outcome.swept.push(brief.id.clone()),
                Ok(Swept::Nothing) => {}
                Ok(Swept::NotYet(why)) => outcome.put_off.push(PutOff { id: brief.id.clone(), why }),
                Err(error) => outcome.failures.push(Failure { id: brief.id.clone(), error }),
            }
        }
        outcome.aborted_uploads = self.abort_uploads(now, &mut outcome.failures).await;
        if let Err(error) = pins::sweep(self.store, self.source, now).await {
            tracing::warn!(%error, "pins that ended could not be swept");
        }
        outcome
    }

    /// Removes what is left of a backup that was pruned, or of a run that died.
    async fn sweep(
        &self,
        brief: &Brief,
        followed: &BTreeSet<&BackupId>,
        now: Timestamp,
    ) -> Result<Swept, PruneError> {
        match brief.standing {
            BriefStanding::Pruned | BriefStanding::Incomplete => {}
            BriefStanding::Whole { .. }
            | BriefStanding::Newer
            | BriefStanding::Unusable { .. }
            | BriefStanding::Unsigned => return Ok(Swept::Nothing),
        }
        // Anybody who can put objects could put a tombstone; only a signed one is a decision.
        if !self.is_buried(&brief.id).await? {
            if !is_litter(&brief.id, now) {
                return Ok(Swept::Nothing);
            }
            if let Some(holder) = self.at_work(now).await? {
                return Ok(Swept::NotYet(Delay::AtWork(holder)));
            }
            // No run goes on any more; the last one may have come to its end since the briefs were made.
            if self.has_manifest(&brief.id).await? {
                return Ok(Swept::Nothing);
            }
            if followed.contains(&brief.id) || self.was_committed(&brief.id).await? {
                return Err(PruneError::Vanished);
            }
        }
        match self.lock(&brief.id, now).await? {
            Some(lock) => Ok(Swept::NotYet(Delay::Locked(lock))),
            None => self.remove_objects(&brief.id).await.map(|()| Swept::All),
        }
    }

    async fn is_buried(&self, id: &BackupId) -> Result<bool, PruneError> {
        let key = layout::tombstone(self.source, id);
        match records::get::<Tombstone>(&**self.store, &key, self.signers).await {
            Ok((known, _)) => Ok(known.id == *id && known.source == *self.source),
            Err(source) if source.is_of_the_store() => Err(PruneError::Tombstone { source }),
            Err(_) => Ok(false),
        }
    }

    /// Who backs this source up now, or did until a few minutes ago.
    async fn at_work(&self, now: Timestamp) -> Result<Option<Holder>, PruneError> {
        holder_of(self.store, &layout::backup_lease(self.source), now).await
    }

    async fn has_manifest(&self, id: &BackupId) -> Result<bool, PruneError> {
        match self.store.head(&layout::manifest(self.source, id)).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(source) => Err(PruneError::Store { source }),
        }
    }

    /// Whether a run said that this was a whole backup.
    async fn was_committed(&self, id: &BackupId) -> Result<bool, PruneError> {
        match records::get::<Run>(&**self.store, &layout::run(self.source, id), self.signers).await {
            Ok((run, _)) => Ok(matches!(run.outcome, RunOutcome::Committed { .. })),
            Err(source) if source.is_of_the_store() => Err(PruneError::Run { source }),
            Err(_) => Ok(false),
        }
    }

    /// `None` when it is gone, or why it cannot go yet.
    async fn bury_and_remove(&self, brief: &Brief, now: Timestamp) -> Result<Option<Delay>, PruneError> {
        let snapshot_at =
            brief.snapshot_at().ok_or_else(|| PruneError::NotABackup { id: brief.id.clone() })?;
        if self.is_held(&brief.id).await? {
            return Err(PruneError::Held { id: brief.id.clone() });
        }
        if let Some(by) = self.in_use(&brief.id, now).await? {
            return Ok(Some(Delay::InUse(by)));
        }
        if let Some(lock) = self.lock(&brief.id, now).await? {
            return Ok(Some(Delay::Locked(lock)));
        }
        let tombstone = Tombstone {
            version: 1,
            source: self.source.clone(),
            id: brief.id.clone(),
            at: now,
            host: self.host.to_owned(),
            snapshot_at,
        };
        self.bury(&tombstone).await?;
        // Set between the look before and the tombstone. Whoever holds later finds the tombstone (`removal_at_work`); a
        // restore that begins later fails for lack of objects.
        if self.is_held(&brief.id).await? {
            return Err(PruneError::Held { id: brief.id.clone() });
        }
        if let Some(by) = self.in_use(&brief.id, now).await? {
            return Ok(Some(Delay::InUse(by)));
        }
        self.remove_objects(&brief.id).await.map(|()| None)
    }

    /// The longest lock on any object of a backup.
    async fn lock(&self, id: &BackupId, now: Timestamp) -> Result<Option<Lock>, PruneError> {
        let mut longest = None;
        for key in self.objects(id).await? {
            let found = match self.store.lock(&key).await {
                Err(StoreError::Unsupported { .. }) => return Ok(None),
                Err(StoreError::NotFound { .. }) => continue,
                other => other.map_err(|source| PruneError::Store { source })?,
            };
            longest = match (longest, found) {
                (_, Some(Lock::LegalHold)) => return Ok(found),
                (Some(Lock::Until(known)), Some(Lock::Until(until))) => Some(Lock::Until(known.max(until))),
                (None, Some(Lock::Until(until))) if until > now => found,
                (known, _) => known,
            };
        }
        Ok(longest)
    }

    /// A pin that has run out since the prune began still counts.
    async fn in_use(&self, id: &BackupId, now: Timestamp) -> Result<Option<InUse>, PruneError> {
        let found = pins::of(self.store, self.source, id, now).await;
        found.map_err(|source| PruneError::Store { source })
    }

    /// Puts the tombstone, unless a prune that broke off has put one. What else lies in its place gives way to it: half
    /// a record, or one that nobody trusted has signed.
    async fn bury(&self, tombstone: &Tombstone) -> Result<(), PruneError> {
        if self.is_buried(&tombstone.id).await? {
            return Ok(());
        }
        let key = layout::tombstone(self.source, &tombstone.id);
        for litter in [&key, &layout::signature_of(&key)] {
            self.store.delete(litter).await.map_err(|source| PruneError::Store { source })?;
        }
        let put = records::put(&**self.store, &key, tombstone, self.signing_key).await;
        put.map_err(|source| PruneError::Tombstone { source })
    }

    async fn is_held(&self, id: &BackupId) -> Result<bool, PruneError> {
        let held = holds::is_there(self.store, self.source, id).await;
        held.map_err(|source| PruneError::Store { source })
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

    /// A backup that is at work has aborted what others left, before its first upload.
    async fn abort_uploads(&self, now: Timestamp, failures: &mut Vec<Failure>) -> usize {
        match self.at_work(now).await {
            Ok(None) => {}
            Ok(Some(_)) => return 0,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    "uploads that died are left alone, as some may belong to a backup at work"
                );
                return 0;
            }
        }
        let aborted = abort_uploads(&**self.store, self.source, |id| is_litter(id, now)).await;
        failures.extend(aborted.failures);
        aborted.count
    }
}

/// Who may be removing this backup at this moment: a prune that is at work, where it has put the tombstone. A hold that was
/// put meanwhile may have come too late.
pub async fn removal_at_work(
    store: &SharedStore,
    source: &SourceName,
    id: &BackupId,
    now: Timestamp,
) -> Result<Option<Holder>, PruneError> {
    match store.head(&layout::tombstone(source, id)).await {
        Ok(_) => {}
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(PruneError::Store { source }),
    }
    holder_of(store, &layout::prune_lease(source), now).await
}

/// Its holder's clock may be behind ours by as much as a prune puts up with.
async fn holder_of(
    store: &SharedStore,
    lease: &ObjectKey,
    now: Timestamp,
) -> Result<Option<Holder>, PruneError> {
    let holder = lease::holder_at(store, lease, now - CLOCK_SKEW_MAX).await;
    holder.map_err(|source| PruneError::Lease { source })
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
    let uploads = match store.list_uploads(&prefix).await {
        Ok(uploads) => uploads,
        Err(StoreError::Unsupported { .. }) => return aborted,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "uploads that died could not be looked for; the next run looks again");
            return aborted;
        }
    };
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

/// What became of a folder without manifest.
enum Swept {
    All,
    Nothing,
    NotYet(Delay),
}

/// The backups that others name as the one before them, or need: each was whole once.
fn followed(briefs: &[Brief]) -> BTreeSet<&BackupId> {
    let named = briefs.iter().flat_map(|brief| {
        let previous = match &brief.standing {
            BriefStanding::Whole { previous, .. } => previous.as_ref(),
            _ => None,
        };
        previous.into_iter().chain(&brief.needs)
    });
    named.collect()
}

/// What is needed by a backup that does not expire, and by which; the plan lets none of these go.
fn needed_by_others<'a>(expired: &[&'a Brief], briefs: &'a [Brief]) -> BTreeMap<&'a BackupId, &'a BackupId> {
    let going: BTreeSet<&BackupId> = expired.iter().map(|brief| &brief.id).collect();
    let staying = briefs.iter().filter(|brief| !going.contains(&brief.id));
    staying.flat_map(|brief| brief.needs.iter().map(|id| (id, &brief.id))).collect()
}

/// In the given order, but each behind those that need it: a prune that is cut short leaves nothing that lacks a part.
fn needing_before_needed<'a>(expired: &[&'a Brief]) -> Vec<&'a Brief> {
    let mut needing: BTreeMap<&BackupId, Vec<&'a Brief>> = BTreeMap::new();
    for brief in expired {
        for id in &brief.needs {
            needing.entry(id).or_default().push(brief);
        }
    }
    let (mut ordered, mut seen) = (Vec::new(), BTreeSet::new());
    for brief in expired {
        let mut path = vec![(*brief, false)];
        while let Some((brief, is_next)) = path.pop() {
            if is_next {
                ordered.push(brief);
            } else if seen.insert(&brief.id) {
                path.push((brief, true));
                let before = needing.get(&brief.id).into_iter().flatten();
                path.extend(before.map(|brief| (*brief, false)));
            }
        }
    }
    ordered
}

fn is_litter(id: &BackupId, now: Timestamp) -> bool {
    id.started_at() < now - LITTER_GRACE
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
    #[error("the record of its run cannot be fetched")]
    Run {
        #[source]
        source: RecordError,
    },
    /// Whoever removed the manifest was no pruner; with its objects, and a copy of the manifest, it is a backup again.
    #[error("its manifest was there and is gone, and no tombstone says why; its objects are left alone")]
    Vanished,
    #[error("store refused")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("it is not known who is at work on the source")]
    Lease {
        #[source]
        source: LeaseError,
    },
    #[error("its lock cannot be made longer")]
    Lock {
        #[source]
        source: StoreError,
    },
    #[error("{left} objects are still there after they were deleted")]
    StillThere { left: usize },
}
