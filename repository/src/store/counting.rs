//! Counts what passes through to a store: requests and bytes, by operation. A listing counts as the requests that it takes
//! on S3.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::conditions::Conditions;
use super::operation::Operation;
use super::part_plan::PartLimits;
use super::{
    FolderPage, Lock, ObjectMeta, Part, PendingUpload, PutCondition, SharedStore, Store, StoreError, Upload,
    Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// Names in one answer of S3.
const NAMES_PER_REQUEST: usize = 1000;

/// A store that counts. The counts outlive it in [`CountingStore::counters`].
#[derive(Debug, Clone)]
pub struct CountingStore {
    inner: SharedStore,
    counters: Counters,
}

/// Counters that many tasks add to.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<Operation, Count>>>);

/// What one operation came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls, failed ones too.
    pub requests: u64,
    /// Bytes of bodies that were sent or received.
    pub bytes: u64,
}

impl CountingStore {
    pub fn new(inner: SharedStore) -> Self {
        Self { inner, counters: Counters::default() }
    }

    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

impl Counters {
    pub fn of(&self, operation: Operation) -> Count {
        self.all().get(&operation).copied().unwrap_or_default()
    }

    /// Every operation that was called.
    pub fn all(&self) -> BTreeMap<Operation, Count> {
        self.0.lock().expect("no holder of this lock panics").clone()
    }

    /// Bytes of objects that were read, by whatever kind of GET.
    pub fn bytes_read(&self) -> u64 {
        [Operation::Get, Operation::GetRange, Operation::GetStream].map(|op| self.of(op).bytes).iter().sum()
    }

    pub fn reset(&self) {
        self.0.lock().expect("no holder of this lock panics").clear();
    }

    fn request(&self, operation: Operation) {
        self.add(operation, 1, 0);
    }

    fn bytes(&self, operation: Operation, bytes: usize) {
        self.add(operation, 0, bytes as u64);
    }

    fn add(&self, operation: Operation, requests: u64, bytes: u64) {
        let mut all = self.0.lock().expect("no holder of this lock panics");
        let count = all.entry(operation).or_default();
        count.requests += requests;
        count.bytes += bytes;
    }
}

#[async_trait]
impl Store for CountingStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: PutCondition,
    ) -> Result<Version, StoreError> {
        self.counters.add(Operation::Put, 1, body.len() as u64);
        self.inner.put(key, body, condition).await
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        self.counters.request(Operation::Get);
        let (body, version) = self.inner.get(key, bytes_max).await?;
        self.counters.bytes(Operation::Get, body.len());
        Ok((body, version))
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.counters.request(Operation::GetRange);
        let body = self.inner.get_range(key, range).await?;
        self.counters.bytes(Operation::GetRange, body.len());
        Ok(body)
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.counters.request(Operation::GetStream);
        let counters = self.counters();
        let pieces = self.inner.get_stream(key, range).await?;
        let counted = pieces.inspect(move |piece| {
            if let Ok(piece) = piece {
                counters.bytes(Operation::GetStream, piece.len());
            }
        });
        Ok(counted.boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.counters.request(Operation::Head);
        self.inner.head(key).await
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.counters.request(Operation::List);
        let counters = self.counters();
        let listed = self.inner.list(prefix, start_after).enumerate();
        let counted = listed.map(move |(number, listed)| {
            if number > 0 && number % NAMES_PER_REQUEST == 0 {
                counters.request(Operation::List);
            }
            listed
        });
        counted.boxed()
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        let names = self.inner.list_folders(prefix).await;
        let more = names.as_ref().map_or(0, |names| names.len() / NAMES_PER_REQUEST) as u64;
        self.counters.add(Operation::ListFolders, 1 + more, 0);
        names
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        self.counters.request(Operation::ListFolders);
        self.inner.folders_from(prefix, from, at_most).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.counters.request(Operation::Delete);
        self.inner.delete(key).await
    }

    async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        self.counters.request(Operation::Lock);
        self.inner.lock(key).await
    }

    async fn extend_lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        self.counters.request(Operation::ExtendLock);
        self.inner.extend_lock(key, until).await
    }

    fn left_versions(&self) -> bool {
        self.inner.left_versions()
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        self.counters.request(Operation::StartUpload);
        let inner = self.inner.start_upload(key).await?;
        Ok(Arc::new(CountingUpload { inner, counters: self.counters() }))
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        self.counters.request(Operation::ListUploads);
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        self.counters.request(Operation::AbortUpload);
        self.inner.abort_upload(upload).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.counters.request(Operation::Clock);
        self.inner.clock().await
    }

    fn part_limits(&self) -> PartLimits {
        self.inner.part_limits()
    }

    fn conditions(&self) -> Conditions {
        self.inner.conditions()
    }
}

#[derive(Debug)]
struct CountingUpload {
    inner: Arc<dyn Upload>,
    counters: Counters,
}

#[async_trait]
impl Upload for CountingUpload {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError> {
        self.counters.add(Operation::PutPart, 1, body.len() as u64);
        self.inner.put_part(number, body).await
    }

    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError> {
        self.counters.request(Operation::CompleteUpload);
        Arc::clone(&self.inner).complete(parts).await
    }

    async fn abort(self: Arc<Self>) -> Result<(), StoreError> {
        self.counters.request(Operation::AbortUpload);
        Arc::clone(&self.inner).abort().await
    }
}
