//! Tries again what may succeed later, for a bounded time.
//!
//! A write whose answer was lost may have happened. A repeated conditional put that then meets an object compares its bytes
//! with what was sent before it calls that a conflict.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::time::Instant;

use super::conditions::Conditions;
use super::operation::Operation;
use super::part_plan::PartLimits;
use super::{
    FolderPage, Lock, ObjectMeta, Part, PendingUpload, PutCondition, SharedStore, Source, Store, StoreError,
    Upload, Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// Tries at bytes that came damaged. The damage may have happened on the way; what comes so twice lies there so.
const DAMAGED_TRIES_MAX: u32 = 2;

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// From a call's first failure to the start of its last try.
    pub total: Duration,
    /// The first wait; each later one is twice as long.
    pub first_wait: Duration,
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    /// Carries a call through an outage of one minute: a failover, a restarted router, a throttled bucket.
    fn default() -> Self {
        Self {
            total: Duration::from_secs(90),
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
        }
    }
}

/// A store that tries again. Clones share the count of retries.
#[derive(Debug, Clone)]
pub struct RetryStore {
    inner: SharedStore,
    retries: Retries,
}

#[derive(Debug, Clone)]
struct Retries {
    policy: RetryPolicy,
    made: Arc<AtomicU64>,
}

impl RetryStore {
    pub fn new(inner: SharedStore) -> Self {
        Self::with_policy(inner, RetryPolicy::default())
    }

    pub fn with_policy(inner: SharedStore, policy: RetryPolicy) -> Self {
        Self { inner, retries: Retries { policy, made: Arc::default() } }
    }

    /// How many tries were made beyond the first of each call.
    pub fn retries(&self) -> u64 {
        self.retries.made.load(Ordering::Relaxed)
    }
}

impl Retries {
    async fn again<T, F>(
        &self,
        operation: Operation,
        key: &impl ToString,
        mut call: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut patience = Patience::new(self.clone(), operation, key.to_string());
        loop {
            match call().await {
                Err(error) => patience.wait_after(error).await?,
                done => return done,
            }
        }
    }
}

/// The failures in a row of one call.
#[derive(Debug)]
struct Patience {
    retries: Retries,
    operation: Operation,
    key: String,
    wait: Duration,
    /// Set by the first failure.
    first_failure: Option<Instant>,
    tries: u32,
    damaged: u32,
}

/// Between an error that a store may get over and its cause: it was given its time.
#[derive(Debug, thiserror::Error)]
#[error("gave up after {tries} tries in {} s", elapsed.as_secs())]
pub struct GaveUp {
    pub tries: u32,
    /// Since the first failure in the row.
    pub elapsed: Duration,
    #[source]
    pub source: Source,
}

impl Patience {
    fn new(retries: Retries, operation: Operation, key: String) -> Self {
        let wait = retries.policy.first_wait;
        Self { retries, operation, key, wait, first_failure: None, tries: 0, damaged: 0 }
    }

    /// Returns when it is time to try again; gives the error back where that makes no sense, or not any more.
    async fn wait_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        let now = Instant::now();
        let first_failure = *self.first_failure.get_or_insert(now);
        let deadline = first_failure + self.retries.policy.total;
        self.tries += 1;
        let is_damaged = matches!(error, StoreError::Damaged { .. });
        self.damaged += u32::from(is_damaged);
        let is_worth_it = error.is_transient() || (is_damaged && self.damaged < DAMAGED_TRIES_MAX);
        if !is_worth_it || now >= deadline {
            return Err(self.given_up(error, now - first_failure));
        }
        // Half to all of the wait, so that many clients do not come back at one moment.
        let wait = self.wait.mul_f64(rand::random_range(0.5..=1.0)).min(deadline - now);
        tracing::warn!(
            operation = self.operation.name(),
            key = self.key,
            wait_ms = wait.as_millis() as u64,
            error = &error as &dyn std::error::Error,
            "the store failed, trying again"
        );
        tokio::time::sleep(wait).await;
        self.wait = (self.wait * 2).min(self.retries.policy.longest_wait);
        self.retries.made.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// What was tried more than once says so.
    fn given_up(&self, error: StoreError, elapsed: Duration) -> StoreError {
        match error {
            StoreError::Unreachable { operation, key, source } if self.tries > 1 => {
                let source = Box::new(GaveUp { tries: self.tries, elapsed, source });
                StoreError::Unreachable { operation, key, source }
            }
            other => other,
        }
    }

    /// Something came through: the next failure starts a new row.
    fn reset(&mut self) {
        self.wait = self.retries.policy.first_wait;
        self.first_failure = None;
        self.tries = 0;
    }
}

#[async_trait]
impl Store for RetryStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: PutCondition,
    ) -> Result<Version, StoreError> {
        let unknown = AtomicBool::new(false);
        let put_once = || async {
            let conflict = match self.inner.put(key, body.clone(), condition.clone()).await {
                Err(e @ (StoreError::AlreadyExists { .. } | StoreError::VersionChanged { .. })) => e,
                other => {
                    unknown.fetch_or(matches!(other, Err(StoreError::Unreachable { .. })), Ordering::Relaxed);
                    return other;
                }
            };
            if !unknown.load(Ordering::Relaxed) {
                return Err(conflict);
            }
            match self.inner.get(key, body.len() as u64).await {
                Ok((there, version)) if there == body => Ok(version),
                Err(e) if e.is_transient() => Err(e),
                _ => Err(conflict),
            }
        };
        self.retries.again(Operation::Put, key, put_once).await
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        self.retries.again(Operation::Get, key, || self.inner.get(key, bytes_max)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.retries.again(Operation::GetRange, key, || self.inner.get_range(key, range.clone())).await
    }

    /// A body that breaks off is continued where it broke: objects are written once, so it is the same one.
    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let first = self
            .retries
            .again(Operation::GetStream, key, || self.inner.get_stream(key, range.clone()))
            .await?;
        let patience = Patience::new(self.retries.clone(), Operation::GetStream, key.to_string());
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        let continued = stream::try_unfold(
            (Some(first), range, patience),
            move |(mut pieces, mut left, mut patience)| {
                let (inner, key) = (Arc::clone(&inner), key.clone());
                async move {
                    loop {
                        let next = match pieces.as_mut() {
                            Some(open) => open.try_next().await,
                            None => match inner.get_stream(&key, left.clone()).await {
                                Ok(opened) => {
                                    pieces = Some(opened);
                                    continue;
                                }
                                Err(e) => Err(e),
                            },
                        };
                        match next {
                            Ok(None) => return Ok(None),
                            Ok(Some(piece)) => {
                                left.start += piece.len() as u64;
                                patience.reset();
                                return Ok(Some((piece, (pieces, left, patience))));
                            }
                            // Every byte came, and the store takes them back: nothing is left to ask for again.
                            Err(error) if left.is_empty() => return Err(error),
                            Err(error) => {
                                patience.wait_after(error).await?;
                                pieces = None;
                            }
                        }
                    }
                }
            },
        );
        Ok(continued.boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.retries.again(Operation::Head, key, || self.inner.head(key)).await
    }

    /// A list that breaks off is continued behind its last entry.
    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let patience = Patience::new(self.retries.clone(), Operation::List, prefix.to_string());
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.clone());
        let open = inner.list(&prefix, start_after);
        let state = (open, start_after.cloned(), patience);
        let continued = stream::try_unfold(state, move |(mut found, mut last, mut patience)| {
            let (inner, prefix) = (Arc::clone(&inner), prefix.clone());
            async move {
                loop {
                    match found.try_next().await {
                        Ok(None) => return Ok(None),
                        Ok(Some(meta)) => {
                            last = Some(meta.key.clone());
                            patience.reset();
                            return Ok(Some((meta, (found, last, patience))));
                        }
                        Err(error) => {
                            patience.wait_after(error).await?;
                            found = inner.list(&prefix, last.as_ref());
                        }
                    }
                }
            }
        });
        continued.boxed()
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        self.retries.again(Operation::ListFolders, prefix, || self.inner.list_folders(prefix)).await
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        let ask = || self.inner.folders_from(prefix, from, at_most);
        self.retries.again(Operation::ListFolders, prefix, ask).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.retries.again(Operation::Delete, key, || self.inner.delete(key)).await
    }

    async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        self.retries.again(Operation::Lock, key, || self.inner.lock(key)).await
    }

    async fn extend_lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        self.retries.again(Operation::ExtendLock, key, || self.inner.extend_lock(key, until)).await
    }

    fn left_versions(&self) -> bool {
        self.inner.left_versions()
    }

    /// An upload whose start was answered into the void stays pending; [`Store::list_uploads`] finds it.
    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        let inner = self.retries.again(Operation::StartUpload, key, || self.inner.start_upload(key)).await?;
        Ok(Arc::new(RetryUpload { inner, key: key.clone(), retries: self.retries.clone() }))
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        self.retries.again(Operation::ListUploads, prefix, || self.inner.list_uploads(prefix)).await
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        self.retries.again(Operation::AbortUpload, &upload.key, || self.inner.abort_upload(upload)).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.retries.again(Operation::Clock, &"the store", || self.inner.clock()).await
    }

    fn part_limits(&self) -> PartLimits {
        self.inner.part_limits()
    }

    fn conditions(&self) -> Conditions {
        self.inner.conditions()
    }
}

#[derive(Debug)]
struct RetryUpload {
    inner: Arc<dyn Upload>,
    key: ObjectKey,
    retries: Retries,
}

#[async_trait]
impl Upload for RetryUpload {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError> {
        let put = || self.inner.put_part(number, body.clone());
        self.retries.again(Operation::PutPart, &self.key, put).await
    }

    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError> {
        let complete = || Arc::clone(&self.inner).complete(parts.clone());
        self.retries.again(Operation::CompleteUpload, &self.key, complete).await
    }

    async fn abort(self: Arc<Self>) -> Result<(), StoreError> {
        let abort = || Arc::clone(&self.inner).abort();
        self.retries.again(Operation::AbortUpload, &self.key, abort).await
    }
}
