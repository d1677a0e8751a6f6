//! A backup's life: [`Started`] → [`Sealed`] → [`Committed`], each step consuming the one before.
//!
//! Write order: archive objects, globals, inventory, signature, manifest. The manifest is put last and only if
//! absent; until then nothing is listed, counted or restored. [`PartsUploaded`] holds back an object's completion
//! until the caller knows that its producer succeeded.

use std::sync::Arc;

use bytes::Bytes;
use pgproof_policies::names::SourceName;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::ids::{BackupId, ManifestSha256, ObjectKey};
use crate::layout;
use crate::manifest::{self, v1};
use crate::sealed::SealedBytes;
use crate::signature::{SignatureError, SigningKey};
use crate::store::{ObjectMeta, Part, PutCondition, SharedStore, StoreError, Upload};

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
    mut parts: mpsc::Receiver<Bytes>,
    in_flight: usize,
) -> Result<PartsUploaded, StoreError> {
    let upload = store.start_upload(&key).await?;
    let parts_max = store.part_limits().parts_max;
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    let result = async {
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
        Ok(())
    }
    .await;
    running.shutdown().await;
    match result {
        Ok(()) => {
            done.sort_by_key(|part: &Part| part.number);
            Ok(PartsUploaded { key, upload, parts: done })
        }
        Err(error) => {
            if let Err(abort) = upload.abort().await {
                tracing::warn!(%key, error = %abort, "upload could not be aborted; the next run will");
            }
            Err(error)
        }
    }
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
    #[error("object {key} has {stored} bytes in the store, {expected} were sent")]
    StoredLength { key: String, stored: u64, expected: u64 },
}
