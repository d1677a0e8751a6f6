//! A backup's life: [`Started`] → [`Sealed`] → [`Committed`], each step consuming the one before.
//!
//! Write order: archive objects, globals, inventory, signature, manifest. The manifest is put last and only if
//! absent; until then nothing is listed, counted or restored. [`PartsUploaded`] holds back an object's completion
//! until the caller knows that its producer succeeded.

use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ids::{BackupId, ManifestSha256, ObjectKey};
use crate::layout;
use crate::manifest::{self, v1};
use crate::sealed::SealedBytes;
use crate::signature::{SignatureError, SigningKey};
use crate::store::{ObjectMeta, Part, PutCondition, SharedStore, StoreError, Upload};

/// How long after its start, which its name tells, a backup may show its moment: hooks and locks are waited for, and two
/// clocks tell the two times. One beyond that is not committed, so that a backup is found by its moment among names alone.
pub const SNAPSHOT_AFTER_START_MAX: SignedDuration = SignedDuration::from_hours(48);

/// Whether a backup of this name may show this moment.
pub fn ensure_near(id: &BackupId, snapshot_at: Timestamp) -> Result<(), LifecycleError> {
    let started_at = id.started_at();
    match snapshot_at.duration_since(started_at) > SNAPSHOT_AFTER_START_MAX {
        true => Err(LifecycleError::LateSnapshot { started_at, snapshot_at }),
        false => Ok(()),
    }
}

/// A backup that has an id and perhaps some objects, and that nobody can see.
#[must_use]
#[derive(Debug)]
pub struct Started {
    store: SharedStore,
    source: SourceName,
    id: BackupId,
    objects: Vec<v1::Object>,
}

/// All objects are complete and their digests known; what is missing is the manifest.
#[must_use]
#[derive(Debug)]
pub struct Sealed {
    store: SharedStore,
    manifest: v1::Manifest,
}

/// The manifest is in the store: the backup exists.
#[derive(Debug)]
pub struct Committed {
    pub manifest: v1::Manifest,
    pub sha256: ManifestSha256,
}

impl Started {
    pub fn new(store: SharedStore, source: SourceName, id: BackupId) -> Self {
        Self { store, source, id, objects: Vec::new() }
    }

    pub fn id(&self) -> &BackupId {
        &self.id
    }

    /// The key of this backup's object `name`.
    pub fn key(&self, name: &str) -> ObjectKey {
        layout::backup_object(&self.source, &self.id, name).expect("object names are constants of the layout")
    }

    /// Completes an uploaded object, whose producer must have succeeded, and compares what the store holds.
    pub async fn complete_upload(
        &mut self,
        parts: PartsUploaded,
        object: v1::Object,
    ) -> Result<(), LifecycleError> {
        let key = parts.key.clone();
        let meta = parts.complete().await.map_err(|source| LifecycleError::Store { source })?;
        self.accept(&key, meta.bytes, object)
    }

    /// Completes several, in this order. After the first that fails none is, and the rest is aborted.
    pub async fn complete_uploads(
        &mut self,
        uploads: Vec<(PartsUploaded, v1::Object)>,
    ) -> Result<(), LifecycleError> {
        let mut uploads = uploads.into_iter();
        while let Some((parts, object)) = uploads.next() {
            if let Err(error) = self.complete_upload(parts, object).await {
                for (parts, _) in uploads {
                    parts.abort_or_tell().await;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Puts a small sealed object whole.
    pub async fn put_sealed(
        &mut self,
        name: &str,
        role: v1::Role,
        sealed: SealedBytes,
    ) -> Result<(), LifecycleError> {
        let key = self.key(name);
        let object = v1::Object {
            name: name.to_owned(),
            role,
            plaintext: sealed.plaintext,
            ciphertext: sealed.ciphertext,
        };
        let put = self.store.put(&key, Bytes::from(sealed.bytes), PutCondition::IfAbsent).await;
        put.map_err(|source| LifecycleError::Store { source })?;
        let meta = self.store.head(&key).await.map_err(|source| LifecycleError::Store { source })?;
        self.accept(&key, meta.bytes, object)
    }

    /// Writes down what the backup is. The manifest's objects are those completed here.
    pub fn seal(self, describe: impl FnOnce(Vec<v1::Object>) -> v1::Manifest) -> Sealed {
        Sealed { store: self.store, manifest: describe(self.objects) }
    }

    fn accept(&mut self, key: &ObjectKey, stored: u64, object: v1::Object) -> Result<(), LifecycleError> {
        let expected = object.ciphertext.bytes;
        if stored != expected {
            return Err(LifecycleError::StoredLength { key: key.to_string(), stored, expected });
        }
        self.objects.push(object);
        Ok(())
    }
}

impl Sealed {
    /// Signs and puts the manifest: the commit point.
    pub async fn commit(self, key: &SigningKey) -> Result<Committed, LifecycleError> {
        ensure_near(&self.manifest.id, self.manifest.snapshot.at)?;
        let bytes = self.manifest.to_bytes();
        let signature =
            key.sign(manifest::NAMESPACE, &bytes).map_err(|source| LifecycleError::Sign { source })?;
        let (source, id) = (&self.manifest.source, &self.manifest.id);
        self.put(&layout::manifest_signature(source, id), signature.into_bytes()).await?;
        let sha256 = ManifestSha256::of(&bytes);
        self.put(&layout::manifest(source, id), bytes).await?;
        Ok(Committed { manifest: self.manifest, sha256 })
    }

    async fn put(&self, key: &ObjectKey, bytes: Vec<u8>) -> Result<(), LifecycleError> {
        let put = self.store.put(key, Bytes::from(bytes), PutCondition::IfAbsent).await;
        put.map(drop).map_err(|source| LifecycleError::Store { source })
    }
}

/// An object all of whose parts are in the store, but which is not there yet.
#[must_use]
#[derive(Debug)]
pub struct PartsUploaded {
    key: ObjectKey,
    upload: Arc<dyn Upload>,
    parts: Vec<Part>,
}

impl PartsUploaded {
    pub async fn abort(self) -> Result<(), StoreError> {
        self.upload.abort().await
    }

    /// The same where a failure to abort changes nothing: the next run aborts what is left.
    pub async fn abort_or_tell(self) {
        let key = self.key.clone();
        if let Err(error) = self.abort().await {
            tracing::warn!(%key, %error, "upload could not be aborted; the next run will");
        }
    }

    async fn complete(self) -> Result<ObjectMeta, StoreError> {
        self.upload.complete(self.parts).await
    }
}

/// Uploads the parts that come from `parts`, `in_flight` of them at once. On failure the upload is aborted.
///
/// An end of `parts` says nothing of success: a producer that died ends it too. So the object is not completed here.
pub async fn upload_parts(
    store: SharedStore,
    key: ObjectKey,
    parts: mpsc::Receiver<Bytes>,
    in_flight: usize,
) -> Result<PartsUploaded, StoreError> {
    let never = CancellationToken::new();
    let uploaded = upload_parts_unless(&never, store, key, parts, in_flight).await?;
    Ok(uploaded.expect("it was not stopped"))
}

/// The same, unless it is stopped meanwhile: then the upload is aborted, whatever is on its way, and there is nothing.
pub async fn upload_parts_unless(
    stopped: &CancellationToken,
    store: SharedStore,
    key: ObjectKey,
    parts: mpsc::Receiver<Bytes>,
    in_flight: usize,
) -> Result<Option<PartsUploaded>, StoreError> {
    let upload = store.start_upload(&key).await?;
    let parts_max = store.part_limits().parts_max;
    let mut running = JoinSet::new();
    let result = tokio::select! {
        result = put_parts(&upload, &key, parts_max, &mut running, parts, in_flight) => result.map(Some),
        () = stopped.cancelled() => Ok(None),
    };
    running.shutdown().await;
    match result {
        Ok(Some(parts)) => Ok(Some(PartsUploaded { key, upload, parts })),
        ended => {
            PartsUploaded { key, upload, parts: Vec::new() }.abort_or_tell().await;
            ended.map(|_| None)
        }
    }
}

/// Puts all parts; when it fails, some may still be `running`.
async fn put_parts(
    upload: &Arc<dyn Upload>,
    key: &ObjectKey,
    parts_max: u32,
    running: &mut JoinSet<Result<Part, StoreError>>,
    mut parts: mpsc::Receiver<Bytes>,
    in_flight: usize,
) -> Result<Vec<Part>, StoreError> {
    let mut done = Vec::new();
    let permits = Arc::new(Semaphore::new(in_flight));
    let (mut number, mut bytes) = (0, 0);
    while let Some(body) = parts.recv().await {
        if number == parts_max {
            return Err(StoreError::TooManyParts { key: key.to_string(), parts_max, bytes });
        }
        number += 1;
        bytes += body.len() as u64;
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let upload = upload.clone();
        running.spawn(async move {
            let part = upload.put_part(number, body).await;
            drop(permit);
            part
        });
        while let Some(part) = running.try_join_next() {
            done.push(part.expect("a part's upload does not panic")?);
        }
    }
    while let Some(part) = running.join_next().await {
        done.push(part.expect("a part's upload does not panic")?);
    }
    done.sort_by_key(|part: &Part| part.number);
    Ok(done)
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LifecycleError {
    #[error("backup cannot be stored")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("manifest cannot be signed")]
    Sign {
        #[source]
        source: SignatureError,
    },
    #[error(
        "the backup began at {started_at} by this host's clock, and shows {snapshot_at} by the server's: more than {} h later",
        SNAPSHOT_AFTER_START_MAX.as_hours()
    )]
    LateSnapshot { started_at: Timestamp, snapshot_at: Timestamp },
    #[error("object {key} has {stored} bytes in the store, {expected} were sent")]
    StoredLength { key: String, stored: u64, expected: u64 },
}

impl LifecycleError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::LateSnapshot { .. } => {
                Some("set the clocks of both: `restore --at` would not find this backup by its moment")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{CiphertextSha256, PlaintextSha256};
    use crate::sealed::{Ciphertext, Plaintext};
    use crate::store::Store as _;
    use crate::store::memory::MemoryStore;
    use crate::store::part_plan::PartLimits;

    const ID: &str = "20261124T020000Z-k3x7qa";

    fn started(store: &Arc<MemoryStore>) -> Started {
        Started::new(store.clone(), "app".parse().unwrap(), ID.parse().unwrap())
    }

    async fn pending(store: &MemoryStore) -> usize {
        store.list_uploads(&layout::source(&"app".parse().unwrap())).await.unwrap().len()
    }

    /// An object of so many bytes.
    fn object(number: u32, bytes: u64) -> v1::Object {
        let plaintext = Plaintext { bytes, sha256: PlaintextSha256::of(b"") };
        let ciphertext = Ciphertext { bytes, sha256: CiphertextSha256::of(b"") };
        v1::Object { name: layout::archive_name(number), role: v1::Role::Archive, plaintext, ciphertext }
    }

    #[tokio::test]
    async fn after_one_that_cannot_be_completed_none_is_and_no_upload_is_left() {
        let store = Arc::new(MemoryStore::new());
        let mut started = started(&store);
        let mut uploads = Vec::new();
        for (number, promised) in [(0, 3), (1, 4), (2, 3)] {
            let (sender, parts) = mpsc::channel(1);
            sender.send(Bytes::from_static(b"abc")).await.unwrap();
            drop(sender);
            let key = started.key(&layout::archive_name(number));
            let uploaded = upload_parts(store.clone(), key, parts, 1).await.unwrap();
            uploads.push((uploaded, object(number, promised)));
        }
        assert_eq!(pending(&store).await, 3);
        let error = started.complete_uploads(uploads).await.unwrap_err();
        assert!(matches!(error, LifecycleError::StoredLength { stored: 3, expected: 4, .. }), "{error}");
        assert_eq!(pending(&store).await, 0);
        let keys: Vec<_> = store.keys().iter().map(ToString::to_string).collect();
        assert!(keys.iter().all(|key| !key.contains("data.002")), "{keys:?}");
    }

    #[test]
    fn a_backup_shows_no_moment_that_its_name_is_far_from() {
        let id = ID.parse().unwrap();
        for good in ["2020-01-01T00:00:00Z", "2026-11-24T02:00:00Z", "2026-11-26T02:00:00Z"] {
            ensure_near(&id, good.parse().unwrap()).unwrap();
        }
        let late = ensure_near(&id, "2026-11-26T02:00:01Z".parse().unwrap()).unwrap_err();
        assert!(matches!(late, LifecycleError::LateSnapshot { .. }), "{late}");
    }

    #[tokio::test]
    async fn an_upload_that_is_stopped_leaves_nothing() {
        let store = Arc::new(MemoryStore::new());
        let key = started(&store).key(&layout::archive_name(0));
        let (sender, parts) = mpsc::channel(1);
        let stopped = CancellationToken::new();
        let stop = stopped.clone();
        let shared: SharedStore = store.clone();
        let upload = tokio::spawn(async move { upload_parts_unless(&stop, shared, key, parts, 1).await });
        sender.send(Bytes::from_static(b"abc")).await.unwrap();
        // The second is taken once the first one was.
        sender.send(Bytes::from_static(b"def")).await.unwrap();
        assert_eq!(pending(&store).await, 1);
        stopped.cancel();
        assert!(upload.await.unwrap().unwrap().is_none());
        assert_eq!(pending(&store).await, 0);
        assert!(store.keys().is_empty());
    }

    /// A manifest names what lies there, and nothing that does not.
    #[tokio::test]
    async fn what_was_put_whole_is_in_the_store_and_in_the_manifest() {
        let store = Arc::new(MemoryStore::new());
        let mut started = started(&store);
        let (bytes, object) = (b"sealed".to_vec(), object(0, 6));
        let sealed = SealedBytes { bytes, plaintext: object.plaintext, ciphertext: object.ciphertext };
        started.put_sealed(layout::GLOBALS, v1::Role::Globals, sealed.clone()).await.unwrap();
        let (stored, _) = store.get(&started.key(layout::GLOBALS), 100).await.unwrap();
        assert_eq!(stored, b"sealed".as_slice());
        // Once more in its place, and one that is shorter than it says.
        assert!(started.put_sealed(layout::GLOBALS, v1::Role::Globals, sealed.clone()).await.is_err());
        let short = SealedBytes { bytes: b"seal".to_vec(), ..sealed };
        let error = started.put_sealed(layout::INVENTORY, v1::Role::Inventory, short).await.unwrap_err();
        assert!(matches!(error, LifecycleError::StoredLength { stored: 4, expected: 6, .. }), "{error}");
        let golden = crate::manifest::parse(include_bytes!("../fixtures/manifest.v1.json")).unwrap();
        let sealed = started.seal(|objects| v1::Manifest { objects, ..golden });
        let told: Vec<_> = sealed.manifest.objects.iter().map(|it| (it.name.as_str(), it.role)).collect();
        assert_eq!(told, [(layout::GLOBALS, v1::Role::Globals)]);
    }

    #[tokio::test]
    async fn what_outgrows_an_upload_says_how_large_it_was() {
        let limits = PartLimits { parts_max: 2, ..PartLimits::S3 };
        let store: SharedStore = Arc::new(MemoryStore::with_part_limits(limits));
        let (sender, parts) = mpsc::channel(3);
        for _ in 0..3 {
            sender.send(Bytes::from_static(b"abc")).await.unwrap();
        }
        drop(sender);
        let error = upload_parts(store, "app/data".parse().unwrap(), parts, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::TooManyParts { parts_max: 2, bytes: 6, .. }), "{error:?}");
    }
}
