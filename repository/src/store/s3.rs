//! Objects in an S3 bucket.
//!
//! Reads and harmless calls are tried up to three times by the SDK. Conditional writes and completions are sent once: a
//! second try that meets the first one's effect would look like somebody else's write. [`super::retry`] repeats
//! those, and compares.

mod connect;
mod errors;
mod examination;
mod locks;
mod upload;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Credentials, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ServerSideEncryption, StorageClass};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use md5::{Digest, Md5};
use pgproof_policies::locks::Locks;
use pgproof_policies::policy::Checksums;
use secrecy::{ExposeSecret, SecretString};

use self::errors::{Call, is_precondition};
pub use self::examination::{Deleted, Versioning};
use super::conditions::Conditions;
use super::operation::Operation;
use super::part_plan::PartLimits;
use super::{
    FolderPage, Lock, ObjectMeta, OutOfRange, PendingUpload, PutCondition, Store, StoreError, Upload, Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// A body that sends nothing for this long has stalled.
const READ_IDLE: Duration = Duration::from_secs(30);
/// TCP and TLS to a reachable endpoint take far less.
const CONNECT: Duration = Duration::from_secs(10);

/// Where the bucket is and how objects are to lie in it. Credentials come from the AWS chain.
#[derive(Debug, Clone)]
pub struct S3Settings {
    pub bucket: String,
    /// Without slashes at either end; may be empty.
    pub prefix: String,
    /// Otherwise from the environment or the profile.
    pub region: Option<String>,
    /// What the provider's regions are called, where neither policy, environment nor profile names one.
    pub usual_region: Option<String>,
    /// For stores other than AWS.
    pub endpoint: Option<String>,
    /// The bucket in the path instead of the host name.
    pub path_style: bool,
    pub storage_class: Option<String>,
    pub sse: Option<Sse>,
    /// A named profile of the AWS files; nothing else is then asked for credentials.
    pub profile: Option<String>,
    pub limits: PartLimits,
    pub conditions: Conditions,
    /// The store compares `If-Match` with the ETag without its quotes.
    pub bare_etags: bool,
    pub checksums: Checksums,
    /// For objects that are written once ([`crate::layout::Lockable`]). The bucket must have been made for it.
    pub locks: Option<Locks>,
    /// Deletes remove every version of an object.
    pub delete_versions: bool,
    pub connect_timeout: Duration,
    /// How long an answer, or the next bytes of a body, may take.
    pub read_timeout: Duration,
}

impl S3Settings {
    /// The common case: AWS itself, everything else as it comes.
    pub fn new(bucket: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            region: None,
            usual_region: None,
            endpoint: None,
            path_style: false,
            storage_class: None,
            sse: None,
            profile: None,
            limits: PartLimits::S3,
            conditions: Conditions::HONOURED,
            bare_etags: false,
            checksums: Checksums::Crc32c,
            locks: None,
            delete_versions: false,
            connect_timeout: CONNECT,
            read_timeout: READ_IDLE,
        }
    }
}

/// Encryption at rest by the store, besides the one that pgproof does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    Aes256,
    Kms { key_id: Option<String> },
}

/// A bucket, or a prefix of one. Clones share connections.
#[derive(Debug, Clone)]
pub struct S3Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Tries again by itself.
    client: Client,
    /// Sends every request once.
    once: Client,
    bucket: String,
    /// Empty, or ends with `/`.
    base: String,
    storage_class: Option<StorageClass>,
    sse: Option<ServerSideEncryption>,
    sse_key: Option<String>,
    locks: Option<Locks>,
    delete_versions: bool,
    /// A delete was answered with a delete marker.
    left_marker: AtomicBool,
    limits: PartLimits,
    conditions: Conditions,
    bare_etags: bool,
    checksums: Checksums,
    read_timeout: Duration,
}

impl S3Store {
    /// Finds credentials and makes the client; asks nothing of the bucket yet.
    pub async fn connect(settings: S3Settings) -> Result<Self, StoreError> {
        Self::connect_as(settings, None).await
    }

    /// The same with keys given by the caller instead of the chain.
    pub async fn connect_with_keys(
        settings: S3Settings,
        access_key: &str,
        secret_key: &SecretString,
    ) -> Result<Self, StoreError> {
        let keys = Credentials::new(access_key, secret_key.expose_secret(), None, None, "given");
        Self::connect_as(settings, Some(keys)).await
    }

    async fn connect_as(settings: S3Settings, keys: Option<Credentials>) -> Result<Self, StoreError> {
        let (client, once) = connect::clients(&settings, keys).await?;
        let prefix = settings.prefix.trim_matches('/');
        let (sse, sse_key) = match settings.sse {
            None => (None, None),
            Some(Sse::Aes256) => (Some(ServerSideEncryption::Aes256), None),
            Some(Sse::Kms { key_id }) => (Some(ServerSideEncryption::AwsKms), key_id),
        };
        let shared = Shared {
            client,
            once,
            base: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            bucket: settings.bucket,
            storage_class: settings.storage_class.as_deref().map(StorageClass::from),
            sse,
            sse_key,
            locks: settings.locks,
            delete_versions: settings.delete_versions,
            left_marker: AtomicBool::new(false),
            limits: settings.limits,
            conditions: settings.conditions,
            bare_etags: settings.bare_etags,
            checksums: settings.checksums,
            read_timeout: settings.read_timeout,
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn location(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.base).trim_end_matches('/').to_owned()
    }

    fn full(&self, key: impl ToString) -> String {
        format!("{}{}", self.base, key.to_string())
    }

    /// The key below the base; none for what pgproof did not write, such as the empty "folder" of a web console.
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

    async fn head(&self, key: &ObjectKey, operation: Operation) -> Result<ObjectMeta, StoreError> {
        let head = self.head_answer(key, operation).await?;
        Ok(object_meta(key, &head))
    }

    async fn head_answer(
        &self,
        key: &ObjectKey,
        operation: Operation,
    ) -> Result<HeadObjectOutput, StoreError> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.full(key));
        request.send().await.map_err(|e| self.call(operation, key).failed(e))
    }

    /// What the store would do, were it to heed the condition; between this and the write somebody else may write.
    async fn look_first(&self, key: &ObjectKey, condition: &PutCondition) -> Result<(), StoreError> {
        match (condition, self.head(key, Operation::Put).await) {
            (PutCondition::IfAbsent, Err(StoreError::NotFound { .. })) => Ok(()),
            (PutCondition::IfAbsent, Ok(_)) => Err(StoreError::AlreadyExists { key: key.to_string() }),
            (PutCondition::IfVersion(wanted), Ok(found)) if found.version == *wanted => Ok(()),
            (PutCondition::IfVersion(_), Ok(_)) => Err(StoreError::VersionChanged { key: key.to_string() }),
            (_, Err(error)) => Err(error),
        }
    }

    fn etag<'a>(&self, version: &'a Version) -> &'a str {
        if self.bare_etags { version.0.trim_matches('"') } else { &version.0 }
    }

    fn checksum_algorithm(&self) -> Option<ChecksumAlgorithm> {
        (self.checksums == Checksums::Crc32c).then_some(ChecksumAlgorithm::Crc32C)
    }

    fn content_md5(&self, body: &[u8]) -> Option<String> {
        (self.checksums == Checksums::Md5).then(|| data_encoding::BASE64.encode(&Md5::digest(body)))
    }

    /// A GET of a range, whose answer is checked to be that range before a byte of the body is read.
    async fn get(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        call: &Call,
    ) -> Result<GetObjectOutput, StoreError> {
        let header = format!("bytes={}-{}", range.start, range.end - 1);
        let request = self.client.get_object().bucket(&self.bucket).key(self.full(key)).range(header);
        let wanted = range.end - range.start;
        match request.send().await {
            Ok(output) if length(&output) == wanted => Ok(output),
            Ok(output) => {
                let total = output.content_range().and_then(|text| text.rsplit_once('/')?.1.parse().ok());
                Err(call.refused(OutOfRange { range, bytes: total.unwrap_or_else(|| length(&output)) }))
            }
            Err(e) if e.raw_response().is_some_and(|answer| answer.status().as_u16() == 416) => {
                let bytes = self.head(key, call.operation).await?.bytes;
                Err(call.refused(OutOfRange { range, bytes }))
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
        let bytes = self.head(key, call.operation).await?.bytes;
        if range.start == range.end && range.end <= bytes {
            return Ok(());
        }
        Err(call.refused(OutOfRange { range: range.clone(), bytes }))
    }

    async fn list_page(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        continuation: Option<String>,
    ) -> Result<(Vec<ObjectMeta>, Option<String>), StoreError> {
        let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let request = request.set_start_after(start_after.map(ToOwned::to_owned));
        let page = request.set_continuation_token(continuation).send().await;
        let page = page.map_err(|e| self.call(Operation::List, prefix).failed(e))?;
        let metas = page.contents().iter().filter_map(|object| {
            Some(ObjectMeta {
                key: self.relative(object.key()?)?,
                bytes: u64::try_from(object.size()?).ok()?,
                version: version(object.e_tag()),
                modified_at: timestamp(object.last_modified()),
            })
        });
        let more = page.is_truncated().unwrap_or(false);
        let next = page.next_continuation_token().filter(|_| more).map(ToOwned::to_owned);
        Ok((metas.collect(), next))
    }
}

#[async_trait]
impl Store for S3Store {
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
        let is_heeded = s.conditions.heeds(&condition);
        if !is_heeded {
            s.look_first(key, &condition).await?;
        }
        let lock = s.lock_for(key);
        let request = s.once.put_object().bucket(&s.bucket).key(s.full(key));
        let request = request
            .set_checksum_algorithm(s.checksum_algorithm())
            .set_content_md5(s.content_md5(&body))
            .set_storage_class(s.storage_class.clone())
            .set_server_side_encryption(s.sse.clone())
            .set_ssekms_key_id(s.sse_key.clone())
            .set_object_lock_mode(lock.as_ref().map(|lock| lock.mode.clone()))
            .set_object_lock_retain_until_date(lock.map(|lock| lock.until))
            .content_length(body.len().try_into().map_err(|e| call.refused(e))?);
        let request = match &condition {
            _ if !is_heeded => request,
            PutCondition::IfAbsent => request.if_none_match("*"),
            PutCondition::IfVersion(version) => request.if_match(s.etag(version)),
        };
        let within = connect::upload_timeouts(body.len());
        let request = request.body(ByteStream::from(body)).customize().config_override(within);
        match request.send().await {
            Ok(output) => Ok(version(output.e_tag())),
            Err(e) if is_precondition(&e) => Err(match condition {
                PutCondition::IfAbsent => StoreError::AlreadyExists { key: key.to_string() },
                PutCondition::IfVersion(_) => StoreError::VersionChanged { key: key.to_string() },
            }),
            Err(e) => Err(call.failed(e)),
        }
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::Get, key);
        let request = s.client.get_object().bucket(&s.bucket).key(s.full(key));
        let output = request.send().await.map_err(|e| call.failed(e))?;
        let bytes = length(&output);
        if bytes > bytes_max {
            return Err(StoreError::TooLarge { key: key.to_string(), bytes, bytes_max });
        }
        let version = version(output.e_tag());
        Ok((whole(body(output.body, bytes, s.read_timeout, call), bytes).await?, version))
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::GetRange, key);
        if range.start >= range.end {
            s.check_empty_range(key, &range, &call).await?;
            return Ok(Bytes::new());
        }
        let output = s.get(key, range, &call).await?;
        let bytes = length(&output);
        whole(body(output.body, bytes, s.read_timeout, call), bytes).await
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
        let output = s.get(key, range, &call).await?;
        let bytes = length(&output);
        Ok(body(output.body, bytes, s.read_timeout, call))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.shared.head(key, Operation::Head).await
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let shared = Arc::clone(&self.shared);
        let prefix = shared.full(prefix);
        let after = start_after.map(|key| shared.full(key));
        // The outer option says whether there is another page, the inner one which.
        let pages = stream::try_unfold(Some(None::<String>), move |page| {
            let (shared, prefix, after) = (Arc::clone(&shared), prefix.clone(), after.clone());
            async move {
                let Some(continuation) = page else { return Ok::<_, StoreError>(None) };
                let (metas, next) = shared.list_page(&prefix, after.as_deref(), continuation).await?;
                Ok(Some((stream::iter(metas).map(Ok), next.map(Some))))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        let s = &self.shared;
        let full = s.full(prefix);
        let request = s.client.list_objects_v2().bucket(&s.bucket).prefix(&full).delimiter("/");
        let mut pages = request.into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| s.call(Operation::ListFolders, prefix).failed(e))?;
            let found =
                page.common_prefixes().iter().filter_map(|folder| folder.prefix()?.strip_prefix(&full));
            names.extend(
                found.map(|name| name.trim_end_matches('/').to_owned()).filter(|name| !name.is_empty()),
            );
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
        let s = &self.shared;
        let full = s.full(prefix);
        let request = s.client.list_objects_v2().bucket(&s.bucket).prefix(&full).delimiter("/");
        let request = request.set_start_after(from.map(|from| format!("{full}{from}")));
        let page = request.max_keys(i32::try_from(at_most).unwrap_or(i32::MAX)).send().await;
        let page = page.map_err(|e| s.call(Operation::ListFolders, prefix).failed(e))?;
        let folders = page.common_prefixes().iter();
        let names = folders.filter_map(|folder| folder.prefix()?.strip_prefix(&full)?.strip_suffix('/'));
        // Some stores show the folder of `from` itself again.
        let names = names.filter(|name| from.is_none_or(|from| format!("{name}/").as_str() > from));
        Ok(FolderPage {
            names: names.filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect(),
            more: page.is_truncated().unwrap_or(false),
        })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let s = &self.shared;
        match s.delete_versions {
            true => s.remove_versions(key).await,
            false => s.remove(key, None).await,
        }
    }

    async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        self.shared.lock(key).await
    }

    async fn extend_lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        self.shared.extend_lock(key, until).await
    }

    fn left_versions(&self) -> bool {
        self.shared.left_marker.load(Ordering::Relaxed)
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(Arc::new(upload::S3Upload::start(Arc::clone(&self.shared), key).await?))
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        upload::pending(&self.shared, prefix).await
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        upload::abort(&self.shared, &upload.key, &upload.upload_id).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let s = &self.shared;
        let clock = Clock::default();
        let request = s.client.list_objects_v2().bucket(&s.bucket).prefix(&s.base).max_keys(1);
        let answer = request.customize().interceptor(clock.clone()).send().await;
        let told = *clock.told.lock().expect("no holder of this lock panics");
        match answer {
            Ok(_) => Ok(told),
            // A refusal tells the time as well.
            Err(_) if told.is_some() => Ok(told),
            Err(e) => Err(s.call(Operation::Clock, "the store").failed(e)),
        }
    }

    fn part_limits(&self) -> PartLimits {
        self.shared.limits
    }

    fn conditions(&self) -> Conditions {
        self.shared.conditions
    }
}

/// Reads the `Date` of an answer, whatever its status.
#[derive(Debug, Clone, Default)]
struct Clock {
    told: Arc<Mutex<Option<Timestamp>>>,
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "Clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let parsed =
            date.and_then(|text| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok());
        *self.told.lock().expect("no holder of this lock panics") = parsed;
        Ok(())
    }
}

fn length(output: &GetObjectOutput) -> u64 {
    output.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

fn object_meta(key: &ObjectKey, head: &HeadObjectOutput) -> ObjectMeta {
    ObjectMeta {
        key: key.clone(),
        bytes: head.content_length().and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
        version: version(head.e_tag()),
        modified_at: timestamp(head.last_modified()),
    }
}

fn version(etag: Option<&str>) -> Version {
    Version(etag.unwrap_or_default().to_owned())
}

fn timestamp(time: Option<&DateTime>) -> Timestamp {
    let nanoseconds = |t: &DateTime| i32::try_from(t.subsec_nanos()).unwrap_or(0);
    time.and_then(|t| Timestamp::new(t.secs(), nanoseconds(t)).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A body in pieces: exactly `expected` bytes, or an error as the last item.
fn body(
    body: ByteStream,
    expected: u64,
    idle: Duration,
    call: Call,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    stream::try_unfold((body, 0u64, call), move |(mut body, got, call)| async move {
        match tokio::time::timeout(idle, body.next()).await {
            Err(elapsed) => Err(call.unreachable(elapsed)),
            Ok(None) if got == expected => Ok(None),
            Ok(None) => Err(call.short(got, expected)),
            Ok(Some(Ok(piece))) => {
                let got = got + piece.len() as u64;
                if got > expected {
                    Err(call.short(got, expected))
                } else {
                    Ok(Some((piece, (body, got, call))))
                }
            }
            Ok(Some(Err(error))) if got < expected => {
                tracing::debug!(error = &error as &dyn std::error::Error, key = call.key, "a body broke off");
                Err(call.short(got, expected))
            }
            // All bytes came and are not what the store says they are: a checksum that does not match.
            Ok(Some(Err(error))) => Err(call.damaged(error)),
        }
    })
    .boxed()
}

async fn whole(
    mut pieces: BoxStream<'static, Result<Bytes, StoreError>>,
    bytes: u64,
) -> Result<Bytes, StoreError> {
    let mut all = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    while let Some(piece) = pieces.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}
