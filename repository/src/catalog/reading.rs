//! What folders are worth: their manifests, signatures and reports, read and weighed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use pgproof_policies::names::SourceName;

use super::{CatalogError, Standing};
use crate::ids::{BackupId, ManifestSha256, ObjectKey};
use crate::layout;
use crate::manifest::{Files, MANIFEST_BYTES_MAX, ManifestError, SIGNATURE_BYTES_MAX, SignedManifest};
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
    pub(super) held: bool,
    pub(super) proofs: Proofs,
}

/// A folder before it is known which of its reports fit their chain.
struct Read<T> {
    id: BackupId,
    standing: T,
    /// Of a whole backup.
    manifest: Option<ManifestSha256>,
    verdicts: Verdicts,
}

/// What the reports of one backup say, before it is known which of them fit their chain.
#[derive(Debug, Default)]
struct Verdicts {
    signed: Vec<(chain::Link, Proof)>,
    without_weight: usize,
}

/// Whose folders are read, shared by the tasks.
pub(super) struct Reader {
    pub(super) store: SharedStore,
    pub(super) source: SourceName,
    pub(super) signers: TrustedSigners,
}

impl Reader {
    pub(super) fn new(store: &SharedStore, source: &SourceName, signers: &TrustedSigners) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), source: source.clone(), signers: signers.clone() })
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
        let standings = self.judge(&named, fetched.try_collect().await?);
        let read = named.into_iter().zip(standings);
        let read = read.map(|((id, reports), standing)| self.weighable(id, reports, standing, keep));
        stream::iter(read).buffered(FETCHES_IN_FLIGHT).try_collect().await
    }

    async fn weighable<T>(
        &self,
        id: BackupId,
        reports: Vec<ObjectKey>,
        standing: Standing,
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
        Ok(Read { id, standing: keep(standing), manifest, verdicts })
    }

    /// One folder's standing. That a tombstone explains what is incomplete is not looked up.
    pub(super) async fn standing(&self, id: &BackupId) -> Result<Standing, CatalogError> {
        Ok(match self.fetch(id.clone()).await? {
            Ok(files) => {
                let signature = String::from_utf8_lossy(&files.signature);
                self.placed(id, SignedManifest::check(&files.manifest, &signature, &self.signers))
            }
            Err(standing) => standing,
        })
    }

    fn judge(
        &self,
        named: &[(BackupId, Vec<ObjectKey>)],
        fetched: Vec<Result<Files, Standing>>,
    ) -> Vec<Standing> {
        let files: Vec<Files> = fetched.iter().filter_map(|fetched| fetched.as_ref().ok()).cloned().collect();
        let mut checked = SignedManifest::check_all(&files, &self.signers).into_iter();
        let judged = named.iter().zip(fetched).map(|((id, _), fetched)| match fetched {
            Ok(_) => self.placed(id, checked.next().expect("an answer for each that was fetched")),
            Err(standing) => standing,
        });
        judged.collect()
    }

    /// A manifest moved or replayed under another name is signed, and still not this backup.
    fn placed(&self, id: &BackupId, checked: Result<SignedManifest, ManifestError>) -> Standing {
        match checked {
            Ok(signed) if signed.get().id == *id && signed.get().source == self.source => {
                Standing::Whole(Box::new(signed))
            }
            Ok(signed) => Standing::Quarantined(ManifestError::Elsewhere {
                source_name: signed.get().source.to_string(),
                id: signed.get().id.to_string(),
            }),
            Err(error) => Standing::Quarantined(error),
        }
    }

    /// The manifest and its signature, or what the folder is without them.
    async fn fetch(&self, id: BackupId) -> Result<Result<Files, Standing>, CatalogError> {
        let (manifest, signature) =
            (layout::manifest(&self.source, &id), layout::manifest_signature(&self.source, &id));
        let (manifest, signature) = futures::join!(
            self.get(&manifest, MANIFEST_BYTES_MAX),
            self.get(&signature, SIGNATURE_BYTES_MAX)
        );
        Ok(match (manifest, signature) {
            (Err(StoreError::NotFound { .. }), _) => Err(Standing::Incomplete),
            (Err(source @ StoreError::Damaged { .. }), _) => {
                Err(Standing::Quarantined(ManifestError::Damaged { source }))
            }
            (Err(source), _) => return Err(CatalogError::Store { source }),
            (Ok(_), Err(StoreError::NotFound { .. })) => Err(Standing::Unsigned),
            (Ok(_), Err(source @ StoreError::Damaged { .. })) => {
                Err(Standing::Quarantined(ManifestError::Damaged { source }))
            }
            (Ok(_), Err(source)) => return Err(CatalogError::Store { source }),
            (Ok(manifest), Ok(signature)) => Ok(Files { manifest, signature }),
        })
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
                Some(report) => verdicts.signed.push((report.link(), Proof::of(report.get()))),
                None => verdicts.without_weight += 1,
            }
        }
        Ok(verdicts)
    }
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
