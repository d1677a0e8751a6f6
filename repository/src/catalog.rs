//! What is in the repository: every backup with its standing, and which one a moment asks for.
//!
//! "Absent", "unreadable", "newer", "badly signed" and "unreachable" stay five outcomes. Only a [`SignedManifest`]
//! is a backup; the others are listed with their reason and touched by nobody.

mod choice;
mod folders;
mod reading;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, KeyPrefix, ObjectKey, RepositoryId};
use crate::layout;
use crate::lease::Settling;
use crate::manifest::{ManifestError, SignedManifest};
use crate::records::RecordError;
use crate::report::{Proofs, chain};
use crate::signature::TrustedSigners;
use crate::store::{PutCondition, SharedStore, Store, StoreError};
use reading::{Folder, Reader};

pub use choice::{Choice, choose, for_moment};
pub use folders::{Before, Folders};
pub use survey::{Brief, BriefStanding, survey};

/// The repository marker holds three short fields.
const MARKER_BYTES_MAX: u64 = 64 << 10;
/// The version of the bucket's layout.
const LAYOUT_VERSION: u32 = 1;

/// `repository.json`, which says that this is a pgproof repository, and which one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Marker {
    pub format: String,
    pub version: u32,
    pub id: RepositoryId,
    pub created_at: Timestamp,
}

const MARKER_FORMAT: &str = "pgproof-repository";

/// Reads the repository's marker; `None` where there is none.
pub async fn find_marker(store: &dyn Store) -> Result<Option<Marker>, CatalogError> {
    let bytes = match store.get(&layout::repository_marker(), MARKER_BYTES_MAX).await {
        Ok((bytes, _)) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(CatalogError::Store { source }),
    };
    let marker: Marker = serde_json::from_slice(&bytes).map_err(|source| CatalogError::Marker { source })?;
    match (marker.format.as_str(), marker.version) {
        (MARKER_FORMAT, LAYOUT_VERSION) => Ok(Some(marker)),
        (MARKER_FORMAT, version) => Err(CatalogError::NewerRepository { version }),
        _ => Err(CatalogError::OtherFormat { format: marker.format }),
    }
}

/// Reads the marker, or puts the first one. Two agents that start at once agree on one marker.
pub async fn ensure_marker(
    store: &dyn Store,
    id: RepositoryId,
    now: Timestamp,
) -> Result<Marker, CatalogError> {
    if let Some(marker) = find_marker(store).await? {
        return Ok(marker);
    }
    let marker = Marker { format: MARKER_FORMAT.to_owned(), version: LAYOUT_VERSION, id, created_at: now };
    let bytes = serde_json::to_vec_pretty(&marker).expect("a marker has only string keys");
    match store.put(&layout::repository_marker(), bytes.into(), PutCondition::IfAbsent).await {
        Ok(_) if store.conditions().put_if_absent => Ok(marker),
        // Without the condition, another agent may have put its own over this one: the last one stays.
        Ok(_) => {
            tokio::time::sleep(Settling::USUAL.wait).await;
            find_marker(store).await?.ok_or(CatalogError::MarkerVanished)
        }
        Err(StoreError::AlreadyExists { .. }) => {
            find_marker(store).await?.ok_or(CatalogError::MarkerVanished)
        }
        Err(source) => Err(CatalogError::Store { source }),
    }
}

/// One backup's folder as it was found.
#[derive(Debug)]
pub struct Entry {
    pub id: BackupId,
    pub standing: Standing,
    /// The backups without which it cannot be restored; of one that is not whole, on nobody's word.
    pub needs: Vec<BackupId>,
    /// Why retention may not touch it.
    pub held: bool,
    /// What drills found of it.
    pub proofs: Proofs,
}

#[derive(Debug)]
pub enum Standing {
    Whole(Box<SignedManifest>),
    /// The manifest is there and cannot be used: kept aside, never restored, never deleted.
    Quarantined(ManifestError),
    /// The manifest is there and its signature is not.
    Unsigned,
    /// Objects without a manifest: a run that goes on, or the litter of one that died.
    Incomplete,
    /// The manifest was removed, and a tombstone lies there: what is left is being removed. A tombstone alone makes
    /// nothing of a whole backup: anybody who can put objects could put one.
    Pruned,
}

impl Entry {
    pub fn whole(&self) -> Option<&SignedManifest> {
        match &self.standing {
            Standing::Whole(manifest) => Some(manifest),
            _ => None,
        }
    }
}

impl From<Folder<Standing>> for Entry {
    fn from(folder: Folder<Standing>) -> Self {
        let Folder { id, standing, needs, held, proofs } = folder;
        Self { id, standing, needs, held, proofs }
    }
}

/// Every backup of a source, oldest first.
pub async fn list(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Vec<Entry>, CatalogError> {
    let found = every_folder(store, source, signers, |standing| standing).await?;
    Ok(found.into_iter().map(Entry::from).collect())
}

/// A part of a list, for somebody who looks at the newest.
#[derive(Debug)]
pub struct Page {
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// Whether there are others before these.
    pub has_older: bool,
}

/// The newest `limit` backups of a source, or of those before `before`, in about as many requests as they take alone.
///
/// Reports are weighed among those of the page. That one is at odds with others of its chain shows to who reads all of
/// them: prune does, and `pgproof-verifier report check`.
pub async fn page(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    before: Option<&Before>,
    limit: usize,
) -> Result<Page, CatalogError> {
    let folders = Folders::open(store, source).await?;
    let newest_first = folders.newest_first(before.cloned()).take(limit.saturating_add(1));
    let mut ids: Vec<BackupId> = newest_first.try_collect().await?;
    let has_older = ids.len() > limit;
    ids.truncate(limit);
    ids.reverse();
    let reports = match (ids.first(), ids.last()) {
        (Some(oldest), Some(newest)) => chain::keys_of(store, source, oldest, newest).await,
        _ => Ok(Vec::new()),
    };
    let reports = by_backup(reports.map_err(|source| CatalogError::Report { source })?);
    let held = held(store, source).await?;
    let reader = Reader::open(store, source, signers).await?;
    let read = reader.folders(ids, reports, &held, |standing| standing).await?;
    Ok(Page { entries: read.into_iter().map(Entry::from).collect(), has_older })
}

/// Every folder of a source, oldest first; what `keep` leaves of each is what stays in memory.
async fn every_folder<T: Send + 'static>(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    keep: fn(Standing) -> T,
) -> Result<Vec<Folder<T>>, CatalogError> {
    let ids = ids_below(store, &layout::backups(source)).await?;
    let held = held(store, source).await?;
    let reports = chain::keys(store, source).await.map_err(|source| CatalogError::Report { source })?;
    let reader = Reader::open(store, source, signers).await?;
    reader.folders(ids, by_backup(reports), &held, keep).await
}

async fn held(store: &SharedStore, source: &SourceName) -> Result<BTreeSet<BackupId>, CatalogError> {
    Ok(ids_below(store, &layout::holds(source)).await?.into_iter().collect())
}

fn by_backup(reports: Vec<(BackupId, ObjectKey)>) -> BTreeMap<BackupId, Vec<ObjectKey>> {
    let mut keys: BTreeMap<BackupId, Vec<ObjectKey>> = BTreeMap::new();
    for (id, key) in reports {
        keys.entry(id).or_default().push(key);
    }
    keys
}

/// The newest folder that has a manifest, whatever that is worth. Reads only as many as it must: ids sort by the second
/// of their start, and of those that share one the signed times decide.
pub async fn newest(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Option<(BackupId, Standing)>, CatalogError> {
    newest_until(store, source, signers, Timestamp::MAX).await
}

/// The same of those that were not begun after `until`.
pub async fn newest_until(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    until: Timestamp,
) -> Result<Option<(BackupId, Standing)>, CatalogError> {
    let folders = Folders::open(store, source).await?;
    let mut ids = pin!(folders.newest_first(None));
    let reader = Reader::open(store, source, signers).await?;
    let finished_at = |standing: &Standing| match standing {
        Standing::Whole(signed) => Some(signed.get().finished_at),
        _ => None,
    };
    let mut newest: Option<(BackupId, Standing)> = None;
    while let Some(id) = ids.try_next().await? {
        if id.started_at() > until {
            continue;
        }
        if newest.as_ref().is_some_and(|(known, _)| known.started_at() != id.started_at()) {
            break;
        }
        match reader.standing(&id).await? {
            Standing::Incomplete | Standing::Pruned => {}
            found if newest.as_ref().is_some_and(|(_, known)| finished_at(known) > finished_at(&found)) => {}
            found => newest = Some((id, found)),
        }
    }
    Ok(newest)
}

/// One backup, whose absence is an error.
pub async fn find(
    store: &SharedStore,
    source: &SourceName,
    id: &BackupId,
    signers: &TrustedSigners,
) -> Result<SignedManifest, CatalogError> {
    Finder::open(store, source, signers).await?.find(id).await
}

/// Looks up backups of one source, one after the other.
#[derive(Debug)]
pub struct Finder(Arc<Reader>);

impl Finder {
    pub async fn open(
        store: &SharedStore,
        source: &SourceName,
        signers: &TrustedSigners,
    ) -> Result<Self, CatalogError> {
        Reader::open(store, source, signers).await.map(Self)
    }

    /// Which repository this is; `None` where it has no marker.
    pub fn repository(&self) -> Option<&RepositoryId> {
        self.0.repository()
    }

    /// One backup, whose absence is an error.
    pub async fn find(&self, id: &BackupId) -> Result<SignedManifest, CatalogError> {
        match self.0.standing(id).await? {
            Standing::Whole(manifest) => Ok(*manifest),
            Standing::Quarantined(source) => Err(CatalogError::Manifest { id: id.clone(), source }),
            Standing::Unsigned => Err(CatalogError::Unsigned { id: id.clone() }),
            Standing::Incomplete | Standing::Pruned => Err(CatalogError::NoSuchBackup { id: id.clone() }),
        }
    }
}

async fn ids_below(store: &SharedStore, prefix: &KeyPrefix) -> Result<Vec<BackupId>, CatalogError> {
    let folders = store.list_folders(prefix).await.map_err(|source| CatalogError::Store { source })?;
    let (mut ids, mut foreign) = (Vec::new(), 0);
    for folder in folders {
        match folder.parse() {
            Ok(id) => ids.push(id),
            Err(_) => foreign += 1,
        }
    }
    if foreign > 0 {
        tracing::warn!(prefix = %prefix, count = foreign, "folders that are not backups are left alone");
    }
    ids.sort();
    Ok(ids)
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    #[error("repository cannot be read")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("a report of a drill cannot be fetched")]
    Report {
        #[source]
        source: StoreError,
    },
    #[error("the record of a run cannot be fetched")]
    Record {
        #[source]
        source: RecordError,
    },
    #[error("repository.json cannot be read")]
    Marker {
        #[source]
        source: serde_json::Error,
    },
    #[error("repository.json has format {format:?}: this is not a pgproof repository")]
    OtherFormat { format: String },
    #[error("repository has layout version {version}; this program knows up to version {LAYOUT_VERSION}")]
    NewerRepository { version: u32 },
    #[error("repository.json was there and is gone")]
    MarkerVanished,
    #[error("there is no backup {id}")]
    NoSuchBackup { id: BackupId },
    #[error("backup {id} is not signed")]
    Unsigned { id: BackupId },
    #[error("backup {id} cannot be used")]
    Manifest {
        id: BackupId,
        #[source]
        source: ManifestError,
    },
}
