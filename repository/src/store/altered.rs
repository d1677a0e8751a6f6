//! A view of a store in which one object is other than it is: a copy damaged on purpose, without a copy being made.
//!
//! It is for readers only. The verifier tests its own alarm on such views; nothing can be written through one.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::conditions::Conditions;
use super::part_plan::PartLimits;
use super::{
    FolderPage, ObjectMeta, OutOfRange, PendingUpload, PutCondition, SharedStore, Store, StoreError, Upload,
    Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// What an object is made to look like.
#[derive(Debug, Clone)]
pub enum Alteration {
    /// The bits of `mask` in the byte at `at` are flipped.
    Flipped { at: u64, mask: u8 },
    /// Only so many bytes of it are there.
    Cut { bytes: u64 },
    /// It holds the bytes of another object.
    Exchanged { with: ObjectKey },
    /// It holds these bytes.
    Replaced { by: Bytes },
}

/// A store with one altered object.
#[derive(Debug, Clone)]
pub struct AlteredStore {
    inner: SharedStore,
    key: ObjectKey,
    alteration: Alteration,
}

impl AlteredStore {
    pub fn new(inner: SharedStore, key: ObjectKey, alteration: Alteration) -> Self {
        Self { inner, key, alteration }
    }

    /// How this object is altered, if it is the one.
    fn of(&self, key: &ObjectKey) -> Option<&Alteration> {
        (*key == self.key).then_some(&self.alteration)
    }

    fn refused<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Unsupported { operation: "write through an altered view" })
    }

    fn out_of_range(&self, range: &Range<u64>, bytes: u64) -> StoreError {
        let source = Box::new(OutOfRange { range: range.clone(), bytes });
        StoreError::Refused { operation: "get", key: self.key.to_string(), source }
    }
}

#[async_trait]
impl Store for AlteredStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, _: &ObjectKey, _: Bytes, _: PutCondition) -> Result<Version, StoreError> {
        self.refused()
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        let Some(alteration) = self.of(key) else { return self.inner.get(key, bytes_max).await };
        let altered = match alteration {
            Alteration::Exchanged { with } => self.inner.get(with, bytes_max).await?,
            Alteration::Replaced { by } => (by.clone(), Version("replaced".to_owned())),
            Alteration::Flipped { at, mask } => {
                let (body, version) = self.inner.get(key, bytes_max).await?;
                (flipped(body, 0, *at, *mask), version)
            }
            Alteration::Cut { bytes } => {
                let (body, version) = self.inner.get(key, bytes_max).await?;
                (body.slice(..body.len().min(length(*bytes))), version)
            }
        };
        match altered.0.len() as u64 {
            bytes if bytes > bytes_max => {
                Err(StoreError::TooLarge { key: key.to_string(), bytes, bytes_max })
            }
            _ => Ok(altered),
        }
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        match self.of(key) {
            None => self.inner.get_range(key, range).await,
            Some(Alteration::Exchanged { with }) => self.inner.get_range(with, range).await,
            Some(Alteration::Replaced { by }) if range.end > by.len() as u64 => {
                Err(self.out_of_range(&range, by.len() as u64))
            }
            Some(Alteration::Replaced { by }) => Ok(by.slice(length(range.start)..length(range.end))),
            Some(Alteration::Cut { bytes }) if range.end > *bytes => Err(self.out_of_range(&range, *bytes)),
            Some(Alteration::Cut { .. }) => self.inner.get_range(key, range).await,
            Some(Alteration::Flipped { at, mask }) => {
                let body = self.inner.get_range(key, range.clone()).await?;
                Ok(flipped(body, range.start, *at, *mask))
            }
        }
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        match self.of(key) {
            None => self.inner.get_stream(key, range).await,
            Some(Alteration::Exchanged { with }) => self.inner.get_stream(with, range).await,
            Some(Alteration::Replaced { .. }) => {
                let bytes = self.get_range(key, range).await?;
                Ok(stream::iter([Ok(bytes)]).boxed())
            }
            Some(Alteration::Cut { bytes }) if range.end > *bytes => {
                let short = StoreError::Short {
                    operation: "get",
                    key: key.to_string(),
                    got: bytes.saturating_sub(range.start),
                    expected: range.end.saturating_sub(range.start),
                };
                let there = range.start.min(*bytes)..*bytes;
                let body = self.inner.get_stream(key, there).await?;
                Ok(body.chain(stream::iter([Err(short)])).boxed())
            }
            Some(Alteration::Cut { .. }) => self.inner.get_stream(key, range).await,
            Some(Alteration::Flipped { at, mask }) => {
                let (at, mask, mut offset) = (*at, *mask, range.start);
                let body = self.inner.get_stream(key, range).await?;
                let altered = move |piece: Result<Bytes, StoreError>| {
                    let piece = piece?;
                    let start = offset;
                    offset += piece.len() as u64;
                    Ok(flipped(piece, start, at, mask))
                };
                Ok(body.map(altered).boxed())
            }
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let meta = match self.of(key) {
            Some(Alteration::Exchanged { with }) => self.inner.head(with).await?,
            _ => self.inner.head(key).await?,
        };
        let bytes = match self.of(key) {
            Some(Alteration::Replaced { by }) => by.len() as u64,
            Some(Alteration::Cut { bytes }) => meta.bytes.min(*bytes),
            _ => meta.bytes,
        };
        Ok(ObjectMeta { key: key.clone(), bytes, ..meta })
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix, start_after)
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        self.inner.list_folders(prefix).await
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        self.inner.folders_from(prefix, from, at_most).await
    }

    async fn delete(&self, _: &ObjectKey) -> Result<(), StoreError> {
        self.refused()
    }

    async fn start_upload(&self, _: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        self.refused()
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, _: &PendingUpload) -> Result<(), StoreError> {
        self.refused()
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.clock().await
    }

    fn part_limits(&self) -> PartLimits {
        self.inner.part_limits()
    }

    fn conditions(&self) -> Conditions {
        self.inner.conditions()
    }
}

/// `body`, which begins at `start` of its object, with the byte at `at` of the object changed if it is in it.
fn flipped(body: Bytes, start: u64, at: u64, mask: u8) -> Bytes {
    let Some(index) = at.checked_sub(start).map(length).filter(|index| *index < body.len()) else {
        return body;
    };
    let mut altered = Vec::from(body);
    altered[index] ^= mask;
    altered.into()
}

/// An offset as far as memory reaches; what lies beyond is in no body.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::store::memory::MemoryStore;

    const BYTES: &[u8] = b"0123456789";

    async fn view(alteration: Alteration) -> (AlteredStore, ObjectKey, SharedStore) {
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let (key, other): (ObjectKey, ObjectKey) = ("a/b".parse().unwrap(), "a/c".parse().unwrap());
        for (key, bytes) in [(&key, BYTES), (&other, b"other".as_slice())] {
            inner.put(key, Bytes::from_static(bytes), PutCondition::IfAbsent).await.unwrap();
        }
        (AlteredStore::new(inner.clone(), key.clone(), alteration), key, inner)
    }

    /// The object as each kind of read shows it.
    async fn seen(store: &AlteredStore, key: &ObjectKey) -> [Result<Vec<u8>, StoreError>; 3] {
        let bytes = store.head(key).await.unwrap().bytes;
        let streamed = async {
            let pieces: Vec<Bytes> =
                store.get_stream(key, 0..BYTES.len() as u64).await?.try_collect().await?;
            Ok(pieces.concat())
        };
        [
            store.get(key, 100).await.map(|(body, _)| body.to_vec()),
            store.get_range(key, 0..bytes).await.map(|body| body.to_vec()),
            streamed.await,
        ]
    }

    #[tokio::test]
    async fn every_kind_of_read_shows_the_same_altered_object() {
        let (store, key, _) = view(Alteration::Flipped { at: 3, mask: 1 }).await;
        for read in seen(&store, &key).await {
            assert_eq!(read.unwrap(), b"0122456789");
        }
        assert_eq!(store.get_range(&key, 4..6).await.unwrap(), b"45".as_slice());
        assert_eq!(store.get_range(&key, 2..4).await.unwrap(), b"22".as_slice());

        let (store, key, _) = view(Alteration::Cut { bytes: 4 }).await;
        let [whole, range, streamed] = seen(&store, &key).await;
        assert_eq!((whole.unwrap(), range.unwrap()), (b"0123".to_vec(), b"0123".to_vec()));
        assert!(matches!(streamed, Err(StoreError::Short { got: 4, .. })), "{streamed:?}");
        assert!(store.get_range(&key, 2..6).await.is_err());

        let (store, key, _) = view(Alteration::Exchanged { with: "a/c".parse().unwrap() }).await;
        let [whole, range, streamed] = seen(&store, &key).await;
        assert_eq!((whole.unwrap(), range.unwrap()), (b"other".to_vec(), b"other".to_vec()));
        assert!(streamed.is_err());

        let (store, key, _) = view(Alteration::Replaced { by: Bytes::from_static(b"abcdefghij") }).await;
        for read in seen(&store, &key).await {
            assert_eq!(read.unwrap(), b"abcdefghij");
        }
    }

    /// Length, bytes, ranges and streams of a view tell of one object, and an edge of a piece is no edge of the alteration.
    #[tokio::test]
    async fn a_view_agrees_with_itself_to_its_last_byte() {
        let body: Bytes = (0..300_000_u32).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let (key, other): (ObjectKey, ObjectKey) = ("a/b".parse().unwrap(), "a/c".parse().unwrap());
        for (key, bytes) in [(&key, body.clone()), (&other, body.slice(..1_000))] {
            inner.put(key, bytes, PutCondition::IfAbsent).await.unwrap();
        }
        for alteration in [
            Alteration::Flipped { at: 0, mask: 255 },
            Alteration::Flipped { at: 250_001, mask: 1 },
            Alteration::Flipped { at: 299_999, mask: 1 },
            Alteration::Cut { bytes: 299_999 },
            Alteration::Exchanged { with: other.clone() },
            Alteration::Replaced { by: body.slice(5..) },
        ] {
            let store = AlteredStore::new(inner.clone(), key.clone(), alteration.clone());
            let meta = store.head(&key).await.unwrap();
            let (whole, _) = store.get(&key, 300_000).await.unwrap();
            assert!(whole != body && meta.key == key && meta.bytes == whole.len() as u64, "{alteration:?}");
            assert!(store.get(&key, meta.bytes - 1).await.is_err(), "{alteration:?}");
            let (end, range) = (meta.bytes, 0..meta.bytes);
            assert!(store.get_range(&key, range.clone()).await.unwrap() == whole, "{alteration:?}");
            let pieces: Vec<Bytes> =
                store.get_stream(&key, range).await.unwrap().try_collect().await.unwrap();
            assert!(pieces.concat() == whole, "{alteration:?}");
            assert!(store.get_range(&key, end - 1..end + 1).await.is_err(), "{alteration:?}");
        }
        let lockless = AlteredStore::new(inner, key.clone(), Alteration::Cut { bytes: 0 }).lock(&key).await;
        assert!(matches!(lockless, Err(StoreError::Unsupported { .. })), "{lockless:?}");
    }

    #[tokio::test]
    async fn other_objects_are_as_they_are_and_nothing_is_written() {
        let (store, key, inner) = view(Alteration::Replaced { by: Bytes::new() }).await;
        let other: ObjectKey = "a/c".parse().unwrap();
        assert_eq!(store.get(&other, 100).await.unwrap().0, b"other".as_slice());
        assert!(store.delete(&key).await.is_err());
        assert!(store.put(&"a/d".parse().unwrap(), Bytes::new(), PutCondition::IfAbsent).await.is_err());
        assert_eq!(inner.get(&key, 100).await.unwrap().0, BYTES);
    }
}
