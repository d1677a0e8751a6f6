//! What folders are worth: their manifests, signatures and reports, read and weighed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use pgproof_policies::names::SourceName;

use super::{CatalogError, Standing, find_marker};
use crate::ids::{BackupId, ManifestSha256, ObjectKey, RepositoryId};
use crate::layout;
use crate::manifest::{self, Files, MANIFEST_BYTES_MAX, ManifestError, SIGNATURE_BYTES_MAX, SignedManifest};
use crate::report::{Proof, Proofs, chain};
use crate::signature::TrustedSigners;
use crate::store::{SharedStore, StoreError};

/// Folders that one task reads and whose signatures it checks together: beyond so many a check gets no cheaper.
const READ_TOGETHER: usize = 1024;
/// Tasks at work at the same time: while some wait for the store, the others have the processors.
const TASKS: usize = 4;
/// Folders that a task fetches at the same time: reading waits on round trips, not on bytes.
const FETCHES_IN_FLIGHT: usize = 16;

/// A folder with what a reader keeps of its standing.
pub(super) struct Folder<T> {
    pub(super) id: BackupId,
    pub(super) standing: T,
    /// The backups without which it cannot be restored; of one that is not whole, on nobody's word.
    pub(super) needs: Vec<BackupId>,
    pub(super) held: bool,
    pub(super) proofs: Proofs,
}

/// A folder before it is known which of its reports fit their chain.
struct Read<T> {
    id: BackupId,
    standing: T,
    needs: Vec<BackupId>,
    /// Of a whole backup.
    manifest: Option<ManifestSha256>,
    verdicts: Verdicts,
}

/// A manifest and its signature, or what their folder is without both.
enum Fetched {
    Both(Files),
    /// With the manifest where only the signature is wanting.
    Lacking(Standing, Option<Bytes>),
}

/// What the reports of one backup say, before it is known which of them fit their chain.
#[derive(Debug, Default)]
struct Verdicts {
    signed: Vec<(chain::Link, Proof)>,
    without_weight: usize,
}

/// Whose folders are read, shared by the tasks.
#[derive(Debug)]
pub(super) struct Reader {
    store: SharedStore,
    source: SourceName,
    signers: TrustedSigners,
    /// Which repository this is; where it has no marker, nobody can tell.
    repository: Option<RepositoryId>,
}

impl Reader {
    pub(super) async fn open(
        store: &SharedStore,
        source: &SourceName,
        signers: &TrustedSigners,
    ) -> Result<Arc<Self>, CatalogError> {
        let repository = find_marker(&**store).await?.map(|marker| marker.id);
        let (store, source, signers) = (store.clone(), source.clone(), signers.clone());
        Ok(Arc::new(Self { store, source, signers, repository }))
    }

    pub(super) fn repository(&self) -> Option<&RepositoryId> {
        self.repository.as_ref()
    }

    /// Reads the folders in their order. What `keep` leaves of each is what stays in memory.
    pub(super) async fn folders<T: Send + 'static>(
        self: Arc<Self>,
        ids: Vec<BackupId>,
        mut reports: BTreeMap<BackupId, Vec<ObjectKey>>,
        held: &BTreeSet<BackupId>,
        keep: fn(Standing) -> T,
    ) -> Result<Vec<Folder<T>>, CatalogError> {
        let named = ids.into_iter().map(|id| {
            let reports = reports.remove(&id).unwrap_or_default();
            (id, reports)
        });
        let together = stream::iter(named).chunks(READ_TOGETHER);
        let read = together.map(|named| tokio::spawn(Arc::clone(&self).read_together(named, keep)));
        let read = read.buffered(TASKS).map(|read| read.expect("reading folders does not panic"));
        let read: Vec<Vec<Read<T>>> = read.try_collect().await?;
        Ok(weighed(read.into_iter().flatten().collect(), held))
    }

    async fn read_together<T>(
        self: Arc<Self>,
        named: Vec<(BackupId, Vec<ObjectKey>)>,
        keep: fn(Standing) -> T,
    ) -> Result<Vec<Read<T>>, CatalogError> {
        let ids: Vec<BackupId> = named.iter().map(|(id, _)| id.clone()).collect();
        let fetched = stream::iter(ids).map(|id| self.fetch(id)).buffered(FETCHES_IN_FLIGHT);
        let judged = self.judge(&named, fetched.try_collect().await?);
        let read = named.into_iter().zip(judged);
        let read = read.map(|((id, reports), judged)| self.weighable(id, reports, judged, keep));
        stream::iter(read).buffered(FETCHES_IN_FLIGHT).try_collect().await
    }

    async fn weighable<T>(
        &self,
        id: BackupId,
        reports: Vec<ObjectKey>,
        (standing, needs): (Standing, Vec<BackupId>),
        keep: fn(Standing) -> T,
    ) -> Result<Read<T>, CatalogError> {
        let standing = match standing {
            Standing::Incomplete if self.has_tombstone(&id).await? => Standing::Pruned,
            found => found,
        };
        let (manifest, verdicts) = match &standing {
            Standing::Whole(signed) => (Some(signed.sha256()), self.verdicts(&reports).await?),
            _ => (None, Verdicts::default()),
        };
        Ok(Read { id, standing: keep(standing), needs, manifest, verdicts })
    }

    /// One folder's standing. That a tombstone explains what is incomplete is not looked up.
    pub(super) async fn standing(&self, id: &BackupId) -> Result<Standing, CatalogError> {
        Ok(match self.fetch(id.clone()).await? {
            Fetched::Both(files) => {
                let signature = String::from_utf8_lossy(&files.signature);
                self.placed(id, SignedManifest::check(&files.manifest, &signature, &self.signers))
            }
            Fetched::Lacking(standing, _) => standing,
        })
    }

    /// Standings, and the backups that are needed.
    fn judge(
        &self,
        named: &[(BackupId, Vec<ObjectKey>)],
        fetched: Vec<Fetched>,
    ) -> Vec<(Standing, Vec<BackupId>)> {
        let both = fetched.iter().filter_map(|fetched| match fetched {
            Fetched::Both(files) => Some(files.clone()),
            Fetched::Lacking(..) => None,
        });
        let mut checked = SignedManifest::check_all(&both.collect::<Vec<_>>(), &self.signers).into_iter();
        let judged = named.iter().zip(fetched).map(|((id, _), fetched)| {
            let (standing, bytes) = match fetched {
                Fetched::Both(Files { manifest, .. }) => {
                    let checked = checked.next().expect("an answer for each that was fetched");
                    (self.placed(id, checked), Some(manifest))
                }
                Fetched::Lacking(standing, bytes) => (standing, bytes),
            };
            let needs = match &standing {
                Standing::Whole(signed) => signed.get().bases().iter().map(|base| base.id.clone()).collect(),
                _ => bytes.map(|bytes| manifest::unsigned_needs(&bytes)).unwrap_or_default(),
            };
            (standing, needs)
        });
        judged.collect()
    }

    /// A manifest moved, copied or replayed under another name is signed, and still not this backup.
    fn placed(&self, id: &BackupId, checked: Result<SignedManifest, ManifestError>) -> Standing {
        let placed = checked.and_then(|signed| {
            let manifest = signed.get();
            if manifest.id != *id || manifest.source != self.source {
                let (source_name, id) = (manifest.source.to_string(), manifest.id.to_string());
                return Err(ManifestError::Elsewhere { source_name, id });
            }
            if !self.is_own(&manifest.repository) {
                return Err(ManifestError::OtherRepository);
            }
            manifest::ensure_times_agree(manifest)?;
            Ok(signed)
        });
        placed.map_or_else(Standing::Quarantined, |signed| Standing::Whole(Box::new(signed)))
    }

    fn is_own(&self, repository: &RepositoryId) -> bool {
        self.repository.as_ref().is_none_or(|own| own == repository)
    }

    async fn fetch(&self, id: BackupId) -> Result<Fetched, CatalogError> {
        let (manifest, signature) =
            (layout::manifest(&self.source, &id), layout::manifest_signature(&self.source, &id));
        let (manifest, signature) = futures::join!(
            self.get(&manifest, MANIFEST_BYTES_MAX),
            self.get(&signature, SIGNATURE_BYTES_MAX)
        );
        let lacking = |standing, bytes| Ok(Fetched::Lacking(standing, bytes));
        match (manifest, signature) {
            (Err(StoreError::NotFound { .. }), _) => lacking(Standing::Incomplete, None),
            (Err(source), _) => lacking(unusable(source)?, None),
            (Ok(bytes), Err(StoreError::NotFound { .. })) => lacking(Standing::Unsigned, Some(bytes)),
            (Ok(bytes), Err(source)) => lacking(unusable(source)?, Some(bytes)),
            (Ok(manifest), Ok(signature)) => Ok(Fetched::Both(Files { manifest, signature })),
        }
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Bytes, StoreError> {
        self.store.get(key, bytes_max).await.map(|(bytes, _)| bytes)
    }

    async fn has_tombstone(&self, id: &BackupId) -> Result<bool, CatalogError> {
        match self.store.head(&layout::tombstone(&self.source, id)).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(source) => Err(CatalogError::Store { source }),
        }
    }

    async fn verdicts(&self, keys: &[ObjectKey]) -> Result<Verdicts, CatalogError> {
        let mut verdicts = Verdicts::default();
        for key in keys {
            let found = chain::fetch(&self.store, key.clone(), &self.signers).await;
            match found.map_err(|source| CatalogError::Report { source })?.signed() {
                Some(report) if self.is_own(&report.get().repository) => {
                    verdicts.signed.push((report.link(), Proof::of(report.get())));
                }
                _ => verdicts.without_weight += 1,
            }
        }
        Ok(verdicts)
    }
}

/// What is there and is no manifest or signature of ours is known to be bad; whatever else fails tells nothing.
fn unusable(source: StoreError) -> Result<Standing, CatalogError> {
    match source {
        StoreError::Damaged { .. } | StoreError::TooLarge { .. } => {
            Ok(Standing::Quarantined(ManifestError::Damaged { source }))
        }
        _ => Err(CatalogError::Store { source }),
    }
}

/// Lets the reports count, but for those that are at odds with their chain.
fn weighed<T>(found: Vec<Read<T>>, held: &BTreeSet<BackupId>) -> Vec<Folder<T>> {
    let links: Vec<_> =
        found.iter().flat_map(|read| &read.verdicts.signed).map(|(link, _)| link.clone()).collect();
    let breaks = chain::breaks_of(&links);
    let discredited: BTreeSet<u64> = breaks.iter().filter_map(chain::Break::discredits).collect();
    let weigh = |Read { id, standing, needs, manifest, verdicts }: Read<T>| {
        let mut proofs = Proofs { without_weight: verdicts.without_weight, ..Proofs::default() };
        for (link, proof) in &verdicts.signed {
            match manifest {
                Some(manifest) if !discredited.contains(&link.number) => proofs.weigh(proof, &id, manifest),
                _ => proofs.without_weight += 1,
            }
        }
        Folder { held: held.contains(&id), id, standing, needs, proofs }
    };
    found.into_iter().map(weigh).collect()
}
