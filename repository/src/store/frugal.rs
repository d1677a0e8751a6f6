//! A view of a store for somebody who looks: it only reads, and only so many requests pass through. A page that is asked
//! for again and again, or a source with a hundred thousand records, costs the bucket no more than that.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::conditions::Conditions;
use super::part_plan::PartLimits;
use super::{
    FolderPage, Lock, ObjectMeta, PendingUpload, PutCondition, SharedStore, Store, StoreError, Upload,
    Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// Names in one answer of S3.
const NAMES_PER_REQUEST: usize = 1000;

/// A store through which only so many requests pass, none of which writes.
#[derive(Debug, Clone)]
pub struct FrugalStore {
    inner: SharedStore,
    allowed: usize,
    left: Arc<AtomicUsize>,
}

/// More was asked for than is allowed: the cause below [`StoreError::Refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it takes more than the {allowed} requests that are allowed here")]
pub struct Spent {
    pub allowed: usize,
}

impl FrugalStore {
    pub fn new(inner: SharedStore, allowed: usize) -> Self {
        Self { inner, allowed, left: Arc::new(AtomicUsize::new(allowed)) }
    }

    fn request(&self, operation: &'static str, key: impl ToString) -> Result<(), StoreError> {
        take(&self.left, self.allowed, operation, key)
    }
}

fn take(
    left: &AtomicUsize,
    allowed: usize,
    operation: &'static str,
    key: impl ToString,
) -> Result<(), StoreError> {
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    let source = || Box::new(Spent { allowed });
    taken.map(drop).map_err(|_| StoreError::Refused { operation, key: key.to_string(), source: source() })
}

const WRITES: StoreError = StoreError::Unsupported { operation: "write, since it is only looked at" };

#[async_trait]
impl Store for FrugalStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, _: &ObjectKey, _: Bytes, _: PutCondition) -> Result<Version, StoreError> {
        Err(WRITES)
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        self.request("get", key)?;
        self.inner.get(key, bytes_max).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.request("get", key)?;
        self.inner.get_range(key, range).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.request("get", key)?;
        self.inner.get_stream(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.request("head", key)?;
        self.inner.head(key).await
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let (left, allowed, below) = (Arc::clone(&self.left), self.allowed, prefix.as_str().to_owned());
        if let Err(spent) = take(&left, allowed, "list", &below) {
            return futures::stream::iter([Err(spent)]).boxed();
        }
        let listed = self.inner.list(prefix, start_after).enumerate();
        let paid = listed.map(move |(number, listed)| {
            if number > 0 && number % NAMES_PER_REQUEST == 0 {
                take(&left, allowed, "list", &below)?;
            }
            listed
        });
        paid.boxed()
    }

    /// How many answers it takes is known afterwards, and counts then.
    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        self.request("list", prefix.as_str())?;
        let names = self.inner.list_folders(prefix).await?;
        for _ in 0..names.len() / NAMES_PER_REQUEST {
            self.request("list", prefix.as_str())?;
        }
        Ok(names)
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        self.request("list", prefix.as_str())?;
        self.inner.folders_from(prefix, from, at_most).await
    }

    async fn delete(&self, _: &ObjectKey) -> Result<(), StoreError> {
        Err(WRITES)
    }

    async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        self.request("look at the lock", key)?;
        self.inner.lock(key).await
    }

    async fn start_upload(&self, _: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        Err(WRITES)
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        self.request("list uploads", prefix.as_str())?;
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, _: &PendingUpload) -> Result<(), StoreError> {
        Err(WRITES)
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.request("ask the clock", "the store")?;
        self.inner.clock().await
    }

    fn part_limits(&self) -> PartLimits {
        self.inner.part_limits()
    }

    fn conditions(&self) -> Conditions {
        self.inner.conditions()
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn it_reads_so_many_times_and_never_writes() {
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let key: ObjectKey = "app/runs/one.json".parse().unwrap();
        inner.put(&key, Bytes::from_static(b"{}"), PutCondition::IfAbsent).await.unwrap();
        let store = FrugalStore::new(inner.clone(), 3);
        assert!(store.put(&key, Bytes::new(), PutCondition::IfAbsent).await.is_err());
        assert!(store.delete(&key).await.is_err() && store.start_upload(&key).await.is_err());
        store.get(&key, 10).await.unwrap();
        store.head(&key).await.unwrap();
        let listed = store.list(&KeyPrefix::everything(), None).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(listed.len(), 1);
        let error = store.get(&key, 10).await.unwrap_err();
        let StoreError::Refused { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.downcast_ref(), Some(&Spent { allowed: 3 }));
        assert!(store.list(&KeyPrefix::everything(), None).try_collect::<Vec<_>>().await.is_err());
        inner.head(&key).await.unwrap();
    }
}
