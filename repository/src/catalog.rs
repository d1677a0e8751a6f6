//! What is in the repository: every backup with its standing, and which one a moment asks for.
//!
//! "Absent", "unreadable", "newer", "badly signed" and "unreachable" stay five outcomes. Only a [`SignedManifest`]
//! is a backup; the others are listed with their reason and touched by nobody.

mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use serde::{Deserialize, Serialize};

use crate::ids::{BackupId, KeyPrefix, ManifestSha256, ObjectKey, RepositoryId};
use crate::layout;
use crate::lease::Settling;
use crate::manifest::{MANIFEST_BYTES_MAX, ManifestError, SIGNATURE_BYTES_MAX, SignedManifest};
use crate::records::RecordError;
use crate::report::{Proof, Proofs, chain};
use crate::signature::TrustedSigners;
use crate::store::{PutCondition, SharedStore, Store, StoreError};

pub use survey::{Brief, BriefStanding, survey};

/// Manifests fetched at the same time: listing waits on round trips, not on bytes.
const FETCHES_IN_FLIGHT: usize = 16;
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

/// Every backup of a source, oldest first.
pub async fn list(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Vec<Entry>, CatalogError> {
    let found = folders(store, source, signers, |standing| standing).await?;
    let entry =
        |it: Folder<Standing>| Entry { id: it.id, standing: it.standing, held: it.held, proofs: it.proofs };
    Ok(found.into_iter().map(entry).collect())
}

/// A folder with what a reader keeps of its standing.
struct Folder<T> {
    id: BackupId,
    standing: T,
    held: bool,
    proofs: Proofs,
}

/// Every folder of a source, oldest first. Each is read by a task of its own, so that the checks of signatures are spread
/// over the processors; what `keep` leaves of it is what stays in memory.
async fn folders<T: Send + 'static>(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    keep: fn(Standing) -> T,
) -> Result<Vec<Folder<T>>, CatalogError> {
    let ids = ids(store, source).await?;
    let held: BTreeSet<_> = ids_below(store, &layout::holds(source)).await?.into_iter().collect();
    let pruned = record_ids(store, &layout::tombstones(source)).await?;
    let mut reports = report_keys(store, source).await?;
    let context = Arc::new((store.clone(), source.clone(), signers.clone()));
    let read = |id: BackupId| {
        let (context, is_pruned) = (Arc::clone(&context), pruned.contains(&id));
        let reports = reports.remove(&id).unwrap_or_default();
        tokio::spawn(async move {
            let (store, source, signers) = &*context;
            let standing = match standing(store, source, &id, signers).await? {
                Standing::Incomplete if is_pruned => Standing::Pruned,
                found => found,
            };
            let manifest = match &standing {
                Standing::Whole(signed) => Some(signed.sha256()),
                _ => None,
            };
            let verdicts = match manifest {
                Some(_) => verdicts(store, &reports, signers).await?,
                None => Verdicts::default(),
            };
            Ok::<_, CatalogError>(Read { id, standing: keep(standing), manifest, verdicts })
        })
    };
    let found = stream::iter(ids).map(read).buffered(FETCHES_IN_FLIGHT);
    let found: Vec<Read<T>> =
        found.map(|read| read.expect("reading a folder does not panic")).try_collect().await?;
    Ok(weighed(found, &held))
}

/// A folder before it is known which of its reports fit their chain.
struct Read<T> {
    id: BackupId,
    standing: T,
    /// Of a whole backup.
    manifest: Option<ManifestSha256>,
    verdicts: Verdicts,
}

/// Lets the reports count, but for those that are at odds with their chain.
fn weighed<T>(found: Vec<Read<T>>, held: &BTreeSet<BackupId>) -> Vec<Folder<T>> {
    let links: Vec<_> =
        found.iter().flat_map(|read| &read.verdicts.signed).map(|(link, _)| link.clone()).collect();
    let breaks = chain::breaks_of(&links);
    let discredited: BTreeSet<u64> = breaks.iter().filter_map(chain::Break::discredits).collect();
    let weigh = |Read { id, standing, manifest, verdicts }: Read<T>| {
        let mut proofs = Proofs { without_weight: verdicts.without_weight, ..Proofs::default() };
        for (link, proof) in &verdicts.signed {
            match manifest {
                Some(manifest) if !discredited.contains(&link.number) => proofs.weigh(proof, &id, manifest),
                _ => proofs.without_weight += 1,
            }
        }
        Folder { held: held.contains(&id), id, standing, proofs }
    };
    found.into_iter().map(weigh).collect()
}

/// The newest folder that has a manifest, whatever that is worth. Reads only as many as it must: ids sort by the second
/// of their start, and of those that share one the signed times decide.
pub async fn newest(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Option<(BackupId, Standing)>, CatalogError> {
    let ids = ids(store, source).await?;
    let finished_at = |standing: &Standing| match standing {
        Standing::Whole(signed) => Some(signed.get().finished_at),
        _ => None,
    };
    let mut newest: Option<(BackupId, Standing)> = None;
    for id in ids.into_iter().rev() {
        if newest.as_ref().is_some_and(|(known, _)| known.started_at() != id.started_at()) {
            break;
        }
        match standing(store, source, &id, signers).await? {
            Standing::Incomplete | Standing::Pruned => {}
            found if newest.as_ref().is_some_and(|(_, known)| finished_at(known) > finished_at(&found)) => {}
            found => newest = Some((id, found)),
        }
    }
    Ok(newest)
}

/// The names of a source's folders, whatever they are worth, oldest first.
pub async fn ids(store: &SharedStore, source: &SourceName) -> Result<Vec<BackupId>, CatalogError> {
    ids_below(store, &layout::backups(source)).await
}

/// One backup, whose absence is an error.
pub async fn find(
    store: &SharedStore,
    source: &SourceName,
    id: &BackupId,
    signers: &TrustedSigners,
) -> Result<SignedManifest, CatalogError> {
    match standing(store, source, id, signers).await? {
        Standing::Whole(manifest) => Ok(*manifest),
        Standing::Quarantined(source) => Err(CatalogError::Manifest { id: id.clone(), source }),
        Standing::Unsigned => Err(CatalogError::Unsigned { id: id.clone() }),
        Standing::Incomplete | Standing::Pruned => Err(CatalogError::NoSuchBackup { id: id.clone() }),
    }
}

/// What a moment asks for.
#[derive(Debug)]
pub struct Choice<'a> {
    pub backup: &'a SignedManifest,
    /// Whole backups whose snapshot is later than the moment, oldest first.
    pub later: Vec<&'a SignedManifest>,
    /// Backups nearer to the moment that cannot be used, with the reason.
    pub unusable: Vec<&'a Entry>,
}

/// The newest whole backup whose snapshot is not after `at`.
pub fn choose(entries: &[Entry], at: Timestamp) -> Option<Choice<'_>> {
    let whole = || entries.iter().filter_map(Entry::whole);
    let backup =
        whole().filter(|m| m.snapshot_at() <= at).max_by_key(|m| (m.snapshot_at(), m.get().finished_at))?;
    let mut later: Vec<_> = whole().filter(|m| m.snapshot_at() > at).collect();
    later.sort_by_key(|m| m.snapshot_at());
    // Nothing unusable has a time of its own that can be believed, but for that in its name.
    let since = backup.get().id.started_at();
    let nearer = |entry: &&Entry| {
        entry.id != backup.get().id && entry.id.started_at() >= since && entry.id.started_at() <= at
    };
    let unusable = entries
        .iter()
        .filter(nearer)
        .filter(|e| matches!(e.standing, Standing::Quarantined(_) | Standing::Unsigned))
        .collect();
    Some(Choice { backup, later, unusable })
}

async fn standing(
    store: &SharedStore,
    source: &SourceName,
    id: &BackupId,
    signers: &TrustedSigners,
) -> Result<Standing, CatalogError> {
    let manifest = match store.get(&layout::manifest(source, id), MANIFEST_BYTES_MAX).await {
        Ok((bytes, _)) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(Standing::Incomplete),
        Err(source @ StoreError::Damaged { .. }) => {
            return Ok(Standing::Quarantined(ManifestError::Damaged { source }));
        }
        Err(source) => return Err(CatalogError::Store { source }),
    };
    let signature = match store.get(&layout::manifest_signature(source, id), SIGNATURE_BYTES_MAX).await {
        Ok((bytes, _)) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(Standing::Unsigned),
        Err(source @ StoreError::Damaged { .. }) => {
            return Ok(Standing::Quarantined(ManifestError::Damaged { source }));
        }
        Err(source) => return Err(CatalogError::Store { source }),
    };
    let checked = SignedManifest::check(&manifest, &String::from_utf8_lossy(&signature), signers);
    Ok(match checked {
        // A manifest moved or replayed under another name is signed, and still not this backup.
        Ok(signed) if signed.get().id == *id && signed.get().source == *source => {
            Standing::Whole(Box::new(signed))
        }
        Ok(signed) => Standing::Quarantined(ManifestError::Elsewhere {
            source_name: signed.get().source.to_string(),
            id: signed.get().id.to_string(),
        }),
        Err(error) => Standing::Quarantined(error),
    })
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

async fn record_ids(store: &SharedStore, prefix: &KeyPrefix) -> Result<BTreeSet<BackupId>, CatalogError> {
    let objects: Vec<_> =
        store.list(prefix, None).try_collect().await.map_err(|source| CatalogError::Store { source })?;
    let ids = objects
        .iter()
        .filter_map(|meta| meta.key.as_str().strip_prefix(prefix.as_str())?.strip_suffix(".json"));
    Ok(ids.filter_map(|id| id.parse().ok()).collect())
}

async fn report_keys(
    store: &SharedStore,
    source: &SourceName,
) -> Result<BTreeMap<BackupId, Vec<ObjectKey>>, CatalogError> {
    let found = chain::keys(store, source).await.map_err(|source| CatalogError::Report { source })?;
    let mut keys: BTreeMap<BackupId, Vec<ObjectKey>> = BTreeMap::new();
    for (id, key) in found {
        keys.entry(id).or_default().push(key);
    }
    Ok(keys)
}

/// What the reports of one backup say, before it is known which of them fit their chain.
#[derive(Debug, Default)]
struct Verdicts {
    signed: Vec<(chain::Link, Proof)>,
    without_weight: usize,
}

async fn verdicts(
    store: &SharedStore,
    keys: &[ObjectKey],
    signers: &TrustedSigners,
) -> Result<Verdicts, CatalogError> {
    let mut verdicts = Verdicts::default();
    for key in keys {
        let found = chain::fetch(store, key.clone(), signers).await;
        match found.map_err(|source| CatalogError::Report { source })?.signed() {
            Some(report) => verdicts.signed.push((report.link(), Proof::of(report.get()))),
            None => verdicts.without_weight += 1,
        }
    }
    Ok(verdicts)
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
