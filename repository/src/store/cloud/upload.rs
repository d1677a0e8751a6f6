//! Uploads in parts, by whatever the service calls them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;

use super::errors::{is_no_upload, is_precondition};
use super::{Found, Service, Shared};
use crate::ids::ObjectKey;
use crate::store::operation::Operation;
use crate::store::{ObjectMeta, Part, StoreError, Upload, Version};

/// An upload that was begun. Its mark becomes part of the object's metadata, and tells afterwards whose object it is.
#[derive(Debug, Clone)]
pub(in crate::store) struct Begun {
    pub(in crate::store) path: Path,
    pub(in crate::store) id: String,
    pub(in crate::store) mark: String,
}

#[derive(Debug)]
pub(super) struct CloudUpload<S> {
    shared: Arc<Shared<S>>,
    key: ObjectKey,
    begun: Begun,
    aborted: AtomicBool,
}

impl<S: Service> CloudUpload<S> {
    pub(super) async fn start(shared: Arc<Shared<S>>, key: &ObjectKey) -> Result<Self, StoreError> {
        let call = shared.call(Operation::StartUpload, key);
        let (path, mark) = (shared.path(key, &call)?, format!("{:032x}", rand::random::<u128>()));
        let id = shared.service.start_upload(&path, &mark).await.map_err(|e| call.failed(e))?;
        let begun = Begun { path, id, mark };
        Ok(Self { shared, key: key.clone(), begun, aborted: AtomicBool::new(false) })
    }

    /// The object at the key, if this upload became it; another one is [`StoreError::AlreadyExists`].
    async fn look_up(&self) -> Result<Option<Found>, StoreError> {
        match self.shared.look(&self.key, Operation::CompleteUpload).await {
            Ok(found) if found.mark.as_deref() == Some(self.begun.mark.as_str()) => Ok(Some(found)),
            Ok(_) => Err(StoreError::AlreadyExists { key: self.key.to_string() }),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After an answer that leaves open whether a completion took effect.
    async fn decide(&self, error: object_store::Error, bytes: u64) -> Result<ObjectMeta, StoreError> {
        let unmet = is_precondition(&error);
        let undecided = unmet || is_no_upload(&error);
        let failure = self.shared.call(Operation::CompleteUpload, &self.key).failed(error);
        if !undecided && !failure.is_transient() {
            return Err(failure);
        }
        match self.look_up().await {
            Ok(Some(found)) => self.confirm(found, bytes),
            Ok(None) if unmet => Err(StoreError::AlreadyExists { key: self.key.to_string() }),
            // A store that cannot be asked leaves the first failure standing, which says to try again.
            Err(e) if !e.is_transient() || undecided => Err(e),
            _ => Err(failure),
        }
    }

    fn confirm(&self, found: Found, bytes: u64) -> Result<ObjectMeta, StoreError> {
        if found.meta.bytes == bytes {
            return Ok(found.meta);
        }
        let why = format!("the object has {} bytes and not the {bytes} of its parts", found.meta.bytes);
        Err(self.shared.call(Operation::CompleteUpload, &self.key).refused(why))
    }
}

#[async_trait]
impl<S: Service> Upload for CloudUpload<S> {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError> {
        let bytes = body.len() as u64;
        let put = self.shared.service.put_part(&self.begun, number, body).await;
        let id = put.map_err(|e| self.shared.call(Operation::PutPart, &self.key).failed(e))?;
        Ok(Part { number, bytes, version: Version(id), checksum: None })
    }

    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError> {
        let call = self.shared.call(Operation::CompleteUpload, &self.key);
        if parts.iter().zip(1..).any(|(part, number)| part.number != number) || parts.is_empty() {
            return Err(call.refused("the parts are not numbered from 1 without gaps"));
        }
        // Azure keeps the parts of an upload that was given up, for a week.
        if self.aborted.load(Ordering::Relaxed) {
            return Err(call.refused("the upload was given up"));
        }
        let bytes = parts.iter().map(|part| part.bytes).sum();
        // Where no condition is heeded, it is looked at before.
        if !S::CONDITIONS.complete_if_absent
            && let Some(found) = self.look_up().await?
        {
            return self.confirm(found, bytes);
        }
        let ids = parts.into_iter().map(|part| part.version.0).collect();
        match self.shared.service.complete(&self.begun, ids).await {
            Ok(()) => self.confirm(self.shared.look(&self.key, Operation::CompleteUpload).await?, bytes),
            Err(error) => self.decide(error, bytes).await,
        }
    }

    async fn abort(self: Arc<Self>) -> Result<(), StoreError> {
        if !self.aborted.load(Ordering::Relaxed) {
            self.shared.abort(&self.key, &self.begun.path, &self.begun.id).await?;
            self.aborted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
