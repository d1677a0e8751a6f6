//! What Google Cloud Storage and Azure Blob Storage have in common, over the traits of `object_store`.
//!
//! Reads, lists and credentials are that library's; a [`Service`] adds how each of the two writes. It retries nothing:
//! [`super::retry`] does. Of lists it sees what [`strangers`] leave.

pub(super) mod errors;
mod strangers;
pub(super) mod transport;
pub(super) mod upload;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Path;
use object_store::{Attribute, GetOptions, GetResult, ObjectStore};

use self::errors::{Call, answer, fault, is_precondition};
use self::transport::Transport;
use self::upload::{Begun, CloudUpload};
use super::conditions::Conditions;
use super::operation::Operation;
use super::part_plan::PartLimits;
use super::{
    FolderPage, ObjectMeta, OutOfRange, PendingUpload, PutCondition, Source, Store, StoreError, Upload,
    Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// Credentials are asked of the host's metadata service last, which does not exist outside a cloud.
const CREDENTIALS: Duration = Duration::from_secs(15);
/// The metadata that holds an upload's mark. Azure wants a name that C# would take.
pub(super) const MARK: &str = "pgproofupload";

/// What one of the two does in its own way.
#[async_trait]
pub(super) trait Service: fmt::Debug + Send + Sync + 'static {
    const LIMITS: PartLimits;
    const CONDITIONS: Conditions;

    fn objects(&self) -> &dyn ObjectStore;
    fn lists(&self) -> &dyn PaginatedListStore;
    /// What a condition of a write names of an object.
    fn version(&self, meta: &object_store::ObjectMeta) -> Option<String>;

    async fn put(&self, path: &Path, body: Bytes, condition: &PutCondition) -> Asked<Option<String>>;
    async fn delete(&self, path: &Path) -> Asked<()>;
    /// The upload's id; `mark` becomes the object's [`MARK`].
    async fn start_upload(&self, path: &Path, mark: &str) -> Asked<String>;
    /// What the completion is to be told of the part.
    async fn put_part(&self, upload: &Begun, number: u32, body: Bytes) -> Asked<String>;
    async fn complete(&self, upload: &Begun, parts: Vec<String>) -> Asked<()>;
    async fn abort(&self, path: &Path, upload_id: &str) -> Asked<()>;
    /// `None` where the service cannot say.
    async fn uploads(&self, prefix: &str) -> Asked<Option<Vec<Pending>>>;
}

/// What came of asking a service for something.
pub(super) type Asked<T> = Result<T, object_store::Error>;

/// Key, id and start of an upload that nobody completed.
pub(super) type Pending = (String, String, Timestamp);

/// A bucket or container, or a prefix of one. Clones share connections.
#[derive(Debug)]
pub(super) struct CloudStore<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for CloudStore<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<S> {
    service: S,
    transport: Transport,
    /// With the bucket, without the prefix.
    root: String,
    /// Empty, or ends with `/`.
    base: String,
}

/// An object, and whose upload it was.
#[derive(Debug)]
struct Found {
    meta: ObjectMeta,
    mark: Option<String>,
}

/// Whether there are credentials at all: missing ones are reported by name, and not as the failure of the first request.
pub(super) async fn granted<T>(asked: impl Future<Output = Asked<T>>) -> Result<(), Source> {
    match tokio::time::timeout(CREDENTIALS, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(match fault(&error) {
            Some(fault) => Box::new(fault.clone()),
            None => Box::new(error),
        }),
        Err(elapsed) => Err(Box::new(elapsed)),
    }
}

impl<S: Service> CloudStore<S> {
    pub(super) fn new(service: S, transport: Transport, root: String, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let base = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { shared: Arc::new(Shared { service, transport, root, base }) }
    }
}

impl<S: Service> Shared<S> {
    fn location(&self) -> String {
        format!("{}/{}", self.root, self.base).trim_end_matches('/').to_owned()
    }

    fn full(&self, key: impl ToString) -> String {
        format!("{}{}", self.base, key.to_string())
    }

    fn path(&self, key: &ObjectKey, call: &Call) -> Result<Path, StoreError> {
        Path::parse(self.full(key)).map_err(|e| call.refused(e))
    }

    /// The key below the base; none for what pgproof did not write.
    fn relative(&self, full: &str) -> Option<ObjectKey> {
        let key = full.strip_prefix(&self.base).and_then(|rest| rest.parse().ok());
        if key.is_none() {
            tracing::debug!(key = full, "skipped an object whose name is no key of a repository");
        }
        key
    }

    fn call(&self, operation: Operation, key: impl ToString) -> Call {
        Call { operation, key: key.to_string(), location: self.location() }
    }

    fn meta(&self, key: ObjectKey, meta: &object_store::ObjectMeta) -> ObjectMeta {
        let version = Version(self.service.version(meta).unwrap_or_default());
        let second = meta.last_modified.timestamp();
        let modified_at = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
        ObjectMeta { key, bytes: meta.size, version, modified_at }
    }

    async fn look(&self, key: &ObjectKey, operation: Operation) -> Result<Found, StoreError> {
        let call = self.call(operation, key);
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = self.service.objects().get_opts(&self.path(key, &call)?, options).await;
        let found = found.map_err(|e| call.failed(e))?;
        let mark = found.attributes.get(&Attribute::Metadata(Cow::Borrowed(MARK)));
        let mark = mark.map(|value| value.as_ref().to_owned());
        Ok(Found { meta: self.meta(key.clone(), &found.meta), mark })
    }

    async fn get(&self, key: &ObjectKey, range: &Range<u64>, call: &Call) -> Result<GetResult, StoreError> {
        let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
        let outside = |bytes| call.refused(OutOfRange { range: range.clone(), bytes });
        match self.service.objects().get_opts(&self.path(key, call)?, options).await {
            Ok(got) if got.range == *range => Ok(got),
            Ok(got) => Err(outside(got.meta.size)),
            Err(e) if answer(&e).is_some_and(|answer| answer.status == 416) => {
                Err(outside(self.look(key, call.operation).await?.meta.bytes))
            }
            Err(e) => Err(call.failed(e)),
        }
    }

    /// An empty range cannot be asked for over HTTP; whether it lies in the object can.
    async fn check_empty_range(
        &self,
        key: &ObjectKey,
        range: &Range<u64>,
        call: &Call,
    ) -> Result<(), StoreError> {
        let bytes = self.look(key, call.operation).await?.meta.bytes;
        if range.start == range.end && range.end <= bytes {
            return Ok(());
        }
        Err(call.refused(OutOfRange { range: range.clone(), bytes }))
    }

    async fn page(
        &self,
        operation: Operation,
        prefix: &str,
        options: PaginatedListOptions,
    ) -> Result<PaginatedListResult, StoreError> {
        let full = self.full(prefix);
        let page = self.service.lists().list_paginated(Some(&full), options).await;
        page.map_err(|e| self.call(operation, prefix).failed(e))
    }

    /// Names of folders on one page, in their order, and where the next page begins.
    async fn folders(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: Option<usize>,
        token: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let full = self.full(prefix);
        let options = PaginatedListOptions {
            offset: from.map(|from| format!("{full}{from}")),
            delimiter: Some(Cow::Borrowed("/")),
            max_keys: at_most,
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let page = self.page(Operation::ListFolders, prefix.as_str(), options).await?;
        let names =
            page.result.common_prefixes.iter().filter_map(|folder| folder.as_ref().strip_prefix(&full));
        // Not every server heeds where to begin.
        let names = names.filter(|name| from.is_none_or(|from| format!("{name}/").as_str() > from));
        let names = names.filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
        Ok((names, page.page_token))
    }

    async fn abort(&self, key: &ObjectKey, path: &Path, upload_id: &str) -> Result<(), StoreError> {
        match self.service.abort(path, upload_id).await {
            Ok(()) => Ok(()),
            Err(e) if answer(&e).is_some_and(|answer| answer.status == 404) => Ok(()),
            Err(e) => Err(self.call(Operation::AbortUpload, key).failed(e)),
        }
    }
}

#[async_trait]
impl<S: Service> Store for CloudStore<S> {
    fn location(&self) -> String {
        self.shared.location()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: PutCondition,
    ) -> Result<Version, StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::Put, key);
        let exists = || StoreError::AlreadyExists { key: key.to_string() };
        let error = match s.service.put(&s.path(key, &call)?, body, &condition).await {
            Ok(Some(version)) => return Ok(Version(version)),
            Ok(None) => return Err(call.refused("the store confirmed the object without its version")),
            Err(error) => error,
        };
        match condition {
            PutCondition::IfAbsent if is_precondition(&error) => Err(exists()),
            PutCondition::IfVersion(_) if is_precondition(&error) => {
                Err(StoreError::VersionChanged { key: key.to_string() })
            }
            PutCondition::IfVersion(_) => Err(call.failed(error)),
            // Whoever may only create may be refused for what lies there before the condition is looked at.
            PutCondition::IfAbsent => match call.failed(error) {
                denied @ StoreError::Denied { .. } => match s.look(key, Operation::Put).await {
                    Ok(_) => Err(exists()),
                    Err(_) => Err(denied),
                },
                error => Err(error),
            },
        }
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::Get, key);
        let got = s.service.objects().get_opts(&s.path(key, &call)?, GetOptions::default()).await;
        let got = got.map_err(|e| call.failed(e))?;
        let meta = s.meta(key.clone(), &got.meta);
        if meta.bytes > bytes_max {
            return Err(StoreError::TooLarge { key: key.to_string(), bytes: meta.bytes, bytes_max });
        }
        Ok((whole(body(got, call)).await?, meta.version))
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::GetRange, key);
        if range.start >= range.end {
            s.check_empty_range(key, &range, &call).await?;
            return Ok(Bytes::new());
        }
        let got = s.get(key, &range, &call).await?;
        whole(body(got, call)).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::GetStream, key);
        if range.start >= range.end {
            s.check_empty_range(key, &range, &call).await?;
            return Ok(stream::empty().boxed());
        }
        Ok(body(s.get(key, &range, &call).await?, call))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        Ok(self.shared.look(key, Operation::Head).await?.meta)
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let shared = Arc::clone(&self.shared);
        let (prefix, after) = (prefix.to_string(), start_after.cloned());
        // The outer option says whether there is another page, the inner one which.
        let pages = stream::try_unfold(Some(None::<String>), move |page| {
            let (s, prefix, after) = (Arc::clone(&shared), prefix.clone(), after.clone());
            async move {
                let Some(page_token) = page else { return Ok::<_, StoreError>(None) };
                let offset = after.as_ref().map(|key| s.full(key));
                let options = PaginatedListOptions { offset, page_token, ..PaginatedListOptions::default() };
                let page = s.page(Operation::List, &prefix, options).await?;
                let found = page.result.objects.iter();
                let found = found.filter_map(|meta| Some(s.meta(s.relative(meta.location.as_ref())?, meta)));
                // Not every server heeds where to begin.
                let found = found.filter(|meta| after.as_ref().is_none_or(|after| meta.key > *after));
                let found: Vec<_> = found.map(Ok).collect();
                Ok(Some((stream::iter(found), page.page_token.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        let (mut names, mut token) = (Vec::new(), None);
        loop {
            let (found, next) = self.shared.folders(prefix, None, None, token).await?;
            names.extend(found);
            if next.is_none() {
                break;
            }
            token = next;
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        let mut token = None;
        // One page, unless it had nothing but objects, or what was asked to be passed over.
        loop {
            let (names, next) = self.shared.folders(prefix, from, Some(at_most), token).await?;
            if !names.is_empty() || next.is_none() {
                return Ok(FolderPage { names, more: next.is_some() });
            }
            token = next;
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::Delete, key);
        match s.service.delete(&s.path(key, &call)?).await.map_err(|e| call.failed(e)) {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(Arc::new(CloudUpload::start(Arc::clone(&self.shared), key).await?))
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        let s = &self.shared;
        let found = s.service.uploads(&s.full(prefix)).await;
        let found = found.map_err(|e| s.call(Operation::ListUploads, prefix).failed(e))?;
        let Some(found) = found else { return Err(StoreError::Unsupported { operation: "list uploads" }) };
        let ours = found.into_iter().filter_map(|(full, upload_id, started_at)| {
            Some(PendingUpload { key: s.relative(&full)?, upload_id, started_at })
        });
        Ok(ours.collect())
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        let call = self.shared.call(Operation::AbortUpload, &upload.key);
        let path = self.shared.path(&upload.key, &call)?;
        self.shared.abort(&upload.key, &path, &upload.upload_id).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let s = &self.shared;
        let options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        match s.page(Operation::Clock, "", options).await {
            // A refusal tells the time as well.
            Ok(_) | Err(StoreError::Denied { .. }) => Ok(s.transport.told()),
            Err(error) => Err(error),
        }
    }

    fn part_limits(&self) -> PartLimits {
        S::LIMITS
    }

    fn conditions(&self) -> Conditions {
        S::CONDITIONS
    }
}

/// A body in pieces: exactly the bytes of the answer's range, or an error as the last item.
fn body(got: GetResult, call: Call) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let expected = got.range.end - got.range.start;
    stream::try_unfold((got.into_stream(), 0u64, call), move |(mut pieces, got, call)| async move {
        match pieces.next().await {
            None if got == expected => Ok(None),
            None => Err(call.short(got, expected)),
            Some(Ok(piece)) => {
                let got = got + piece.len() as u64;
                if got > expected {
                    return Err(call.short(got, expected));
                }
                Ok(Some((piece, (pieces, got, call))))
            }
            Some(Err(error)) => Err(call.failed(error)),
        }
    })
    .boxed()
}

async fn whole(mut pieces: BoxStream<'static, Result<Bytes, StoreError>>) -> Result<Bytes, StoreError> {
    let mut all = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}
