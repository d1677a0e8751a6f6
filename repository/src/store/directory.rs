//! Objects as files below one folder: for a disk, a mounted share, and for trying things out.
//!
//! Put-if-absent is a hard link from a finished, synced temporary file, so it is atomic among all who share the file
//! system. Put-if-version holds a lock on a file, which binds the processes of one host, and of several where the
//! file system carries locks. A version is the file's inode, size and time of writing: every write makes a new file.
//! Temporary files and begun uploads lie in a hidden folder that no key can name.

mod files;
mod upload;

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use self::files::{Root, io_error};
use super::operation::Operation;
use super::part_plan::PartLimits;
use super::{
    FolderPage, ObjectMeta, OutOfRange, PendingUpload, PutCondition, Store, StoreError, Upload, Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// One read of a streamed body.
const STREAM_PIECE_BYTES: u64 = 1 << 20;
/// Entries of a listing read ahead of who reads it.
const LIST_AHEAD: usize = 256;

/// A store in a folder of a local or mounted file system. Clones share it.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: Arc<Root>,
}

impl DirectoryStore {
    /// Opens the folder, making it (not its parents) if it is missing.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Ok(Self { root: Arc::new(Root::open(path.into())?) })
    }

    /// Opens a folder that is there, making nothing before the first put: one that is not may be a disk that is away.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self { root: Arc::new(Root::open_existing(path.as_ref())?) })
    }

    /// The folder, there or not: for those who wait until it is.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { root: Arc::new(Root::at(path.into())) }
    }

    async fn on_root<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let root = Arc::clone(&self.root);
        blocking(move || work(&root)).await
    }
}

/// File calls may wait for a disk: they stay off the runtime's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(StoreError::Refused {
                operation: "file work",
                key: "the store".to_owned(),
                source: Box::new(cancelled),
            }),
        },
    }
}

#[async_trait]
impl Store for DirectoryStore {
    fn location(&self) -> String {
        self.root.location()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: PutCondition,
    ) -> Result<Version, StoreError> {
        let key = key.clone();
        self.on_root(move |root| match condition {
            PutCondition::IfAbsent => root.put_if_absent(&key, &body),
            PutCondition::IfVersion(version) => root.put_if_version(&key, &body, &version),
        })
        .await
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        let key = key.clone();
        self.on_root(move |root| {
            let (file, meta) = root.open_object(&key, Operation::Get)?;
            if meta.bytes > bytes_max {
                return Err(StoreError::TooLarge { key: key.to_string(), bytes: meta.bytes, bytes_max });
            }
            let mut body = vec![0; meta.bytes as usize];
            file.read_exact_at(&mut body, 0).map_err(|e| io_error(e, Operation::Get, &key))?;
            Ok((body.into(), meta.version))
        })
        .await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.on_root(move |root| {
            let (file, meta) = root.open_object(&key, Operation::GetRange)?;
            within(&key, &range, meta.bytes, Operation::GetRange)?;
            let mut body = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut body, range.start).map_err(|e| io_error(e, Operation::GetRange, &key))?;
            Ok(body.into())
        })
        .await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let (wanted, checked) = (key.clone(), range.clone());
        let file = self
            .on_root(move |root| {
                let (file, meta) = root.open_object(&wanted, Operation::GetStream)?;
                within(&wanted, &checked, meta.bytes, Operation::GetStream)?;
                Ok(Arc::new(file))
            })
            .await?;
        let key = key.clone();
        let pieces = stream::try_unfold(range, move |left| {
            let (file, key) = (Arc::clone(&file), key.clone());
            async move {
                if left.is_empty() {
                    return Ok(None);
                }
                let end = left.end.min(left.start + STREAM_PIECE_BYTES);
                let piece = blocking(move || {
                    let mut piece = vec![0; (end - left.start) as usize];
                    let read = file.read_exact_at(&mut piece, left.start);
                    read.map_err(|e| io_error(e, Operation::GetStream, &key))?;
                    Ok(Bytes::from(piece))
                });
                Ok(Some((piece.await?, end..left.end)))
            }
        });
        Ok(pieces.boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let key = key.clone();
        self.on_root(move |root| Ok(root.open_object(&key, Operation::Head)?.1)).await
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let (root, prefix, after) = (Arc::clone(&self.root), prefix.clone(), start_after.cloned());
        let (sender, receiver) = tokio::sync::mpsc::channel(LIST_AHEAD);
        tokio::task::spawn_blocking(move || {
            let listed =
                root.walk(&prefix, after.as_ref(), &mut |meta| sender.blocking_send(Ok(meta)).is_ok());
            if let Err(error) = listed {
                // A reader that is gone needs no error.
                let _ = sender.blocking_send(Err(error));
            }
        });
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
            .boxed()
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        let prefix = prefix.clone();
        self.on_root(move |root| root.folders(&prefix)).await
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        let (prefix, from) = (prefix.clone(), from.unwrap_or_default().to_owned());
        self.on_root(move |root| root.folders_from(&prefix, &from, at_most)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.on_root(move |root| root.delete(&key)).await
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        let (root, key) = (Arc::clone(&self.root), key.clone());
        let upload = blocking(move || upload::DirectoryUpload::start(root, &key)).await?;
        Ok(Arc::new(upload))
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        let prefix = prefix.clone();
        self.on_root(move |root| upload::pending(root, &prefix)).await
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        let upload = upload.clone();
        self.on_root(move |root| upload::abort(root, &upload.upload_id, &upload.key)).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        // The clock of this host, which the caller has already.
        Ok(None)
    }

    fn part_limits(&self) -> PartLimits {
        PartLimits { part_bytes_min: 1, ..PartLimits::S3 }
    }
}

fn within(key: &ObjectKey, range: &Range<u64>, bytes: u64, operation: Operation) -> Result<(), StoreError> {
    if range.start <= range.end && range.end <= bytes {
        return Ok(());
    }
    let source = Box::new(OutOfRange { range: range.clone(), bytes });
    Err(StoreError::Refused { operation: operation.name(), key: key.to_string(), source })
}
