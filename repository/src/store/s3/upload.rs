//! Multipart uploads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use md5::{Digest, Md5};

use super::errors::{is_no_upload, is_precondition};
use super::{Shared, connect, object_meta, timestamp, version};
use crate::ids::{KeyPrefix, ObjectKey};
use crate::store::operation::Operation;
use crate::store::{ObjectMeta, Part, PendingUpload, StoreError, Upload, Version};

#[derive(Debug)]
pub(super) struct S3Upload {
    shared: Arc<Shared>,
    key: ObjectKey,
    id: String,
    /// Some stores answer a second abort with "access denied": for them the upload has no owner any more.
    aborted: AtomicBool,
}

impl S3Upload {
    pub(super) async fn start(shared: Arc<Shared>, key: &ObjectKey) -> Result<Self, StoreError> {
        let call = shared.call(Operation::StartUpload, key);
        let lock = shared.lock_for(key);
        let request = shared.client.create_multipart_upload().bucket(&shared.bucket).key(shared.full(key));
        let request = request
            .set_checksum_algorithm(shared.checksum_algorithm())
            .set_storage_class(shared.storage_class.clone())
            .set_server_side_encryption(shared.sse.clone())
            .set_ssekms_key_id(shared.sse_key.clone())
            .set_object_lock_mode(lock.as_ref().map(|lock| lock.mode.clone()))
            .set_object_lock_retain_until_date(lock.map(|lock| lock.until));
        let started = request.send().await.map_err(|e| call.failed(e))?;
        let id = started.upload_id().filter(|id| !id.is_empty()).map(ToOwned::to_owned);
        let id = id.ok_or_else(|| call.refused("the store gave no upload id"))?;
        Ok(Self { shared, key: key.clone(), id, aborted: AtomicBool::new(false) })
    }

    /// After an answer that leaves open whether an earlier completion took effect: is the object there, and ours?
    async fn look_up(&self, parts: &[Part]) -> Result<Option<ObjectMeta>, StoreError> {
        let head = match self.shared.head_answer(&self.key, Operation::CompleteUpload).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let meta = object_meta(&self.key, &head);
        // With a key of KMS, ETags are not what this composes.
        let kms = head.server_side_encryption().is_some_and(|sse| sse.as_str().starts_with("aws:kms"));
        if meta.bytes == total(parts) && (kms || etag_fits(&meta.version, parts)) {
            return Ok(Some(meta));
        }
        Err(StoreError::AlreadyExists { key: self.key.to_string() })
    }

    /// What lies at the key after a completion that the store confirmed: its size is checked once more.
    async fn confirm(&self, parts: &[Part]) -> Result<ObjectMeta, StoreError> {
        let head = self.shared.head_answer(&self.key, Operation::CompleteUpload).await?;
        self.shared.warn_of_ignored_lock(&self.key, &head);
        let meta = object_meta(&self.key, &head);
        if meta.bytes == total(parts) {
            return Ok(meta);
        }
        let why = format!("the object has {} bytes and not the {} of its parts", meta.bytes, total(parts));
        Err(self.shared.call(Operation::CompleteUpload, &self.key).refused(why))
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::PutPart, &self.key);
        let bytes = body.len() as u64;
        let part_number = i32::try_from(number).map_err(|e| call.refused(e))?;
        let request = s.client.upload_part().bucket(&s.bucket).key(s.full(&self.key)).upload_id(&self.id);
        let request = request
            .part_number(part_number)
            .set_checksum_algorithm(s.checksum_algorithm())
            .set_content_md5(s.content_md5(&body))
            .content_length(i64::try_from(bytes).map_err(|e| call.refused(e))?);
        let within = connect::upload_timeouts(body.len());
        let request = request.body(ByteStream::from(body)).customize().config_override(within);
        let output = request.send().await.map_err(|e| call.failed(e))?;
        let etag =
            output.e_tag().ok_or_else(|| call.refused("the store confirmed the part without an ETag"))?;
        let checksum = output.checksum_crc32_c().map(ToOwned::to_owned);
        Ok(Part { number, bytes, version: version(Some(etag)), checksum })
    }

    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError> {
        let s = &self.shared;
        let call = s.call(Operation::CompleteUpload, &self.key);
        if parts.iter().zip(1..).any(|(part, number)| part.number != number) || parts.is_empty() {
            return Err(call.refused("the parts are not numbered from 1 without gaps"));
        }
        // Where no condition is heeded, it is looked at before.
        if !s.conditions.complete_if_absent
            && let Some(meta) = self.look_up(&parts).await?
        {
            return Ok(meta);
        }
        let if_none_match = s.conditions.complete_if_absent.then(|| "*".to_owned());
        let completed =
            CompletedMultipartUpload::builder().set_parts(Some(parts.iter().map(completed).collect()));
        let request = s.once.complete_multipart_upload().bucket(&s.bucket).key(s.full(&self.key));
        let request =
            request.upload_id(&self.id).set_if_none_match(if_none_match).multipart_upload(completed.build());
        // The store may join thousands of parts before it answers.
        let request = request.customize().config_override(connect::upload_timeouts(0));
        let error = match request.send().await {
            Ok(_) => return self.confirm(&parts).await,
            Err(error) => error,
        };
        let unmet = is_precondition(&error);
        let undecided = unmet || is_no_upload(&error);
        let failure = call.failed(error);
        if !undecided && !failure.is_transient() {
            return Err(failure);
        }
        match self.look_up(&parts).await {
            Ok(Some(meta)) => Ok(meta),
            Ok(None) if unmet => Err(StoreError::AlreadyExists { key: self.key.to_string() }),
            // A store that cannot be asked leaves the first failure standing, which says to try again.
            Err(e) if !e.is_transient() || undecided => Err(e),
            _ => Err(failure),
        }
    }

    async fn abort(self: Arc<Self>) -> Result<(), StoreError> {
        if !self.aborted.load(Ordering::Relaxed) {
            abort(&self.shared, &self.key, &self.id).await?;
            self.aborted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

pub(super) async fn abort(shared: &Shared, key: &ObjectKey, id: &str) -> Result<(), StoreError> {
    let request =
        shared.client.abort_multipart_upload().bucket(&shared.bucket).key(shared.full(key)).upload_id(id);
    match request.send().await {
        Ok(_) => Ok(()),
        Err(e) if is_no_upload(&e) => Ok(()),
        Err(e) => match shared.call(Operation::AbortUpload, key).failed(e) {
            StoreError::NotFound { .. } => Ok(()),
            e => Err(e),
        },
    }
}

pub(super) async fn pending(shared: &Shared, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
    let mut found = Vec::new();
    let mut marker: Option<(String, Option<String>)> = None;
    loop {
        let request =
            shared.client.list_multipart_uploads().bucket(&shared.bucket).prefix(shared.full(prefix));
        let (after_key, after_id) = marker.map_or((None, None), |(key, id)| (Some(key), id));
        let page = request.set_key_marker(after_key).set_upload_id_marker(after_id).send().await;
        let page = page.map_err(|e| shared.call(Operation::ListUploads, prefix).failed(e))?;
        found.extend(page.uploads().iter().filter_map(|upload| {
            Some(PendingUpload {
                key: shared.relative(upload.key()?)?,
                upload_id: upload.upload_id()?.to_owned(),
                started_at: timestamp(upload.initiated()),
            })
        }));
        let next = page.next_key_marker().filter(|_| page.is_truncated().unwrap_or(false));
        let Some(next) = next else { return Ok(found) };
        marker = Some((next.to_owned(), page.next_upload_id_marker().map(ToOwned::to_owned)));
    }
}

fn completed(part: &Part) -> CompletedPart {
    CompletedPart::builder()
        .part_number(part.number.cast_signed())
        .e_tag(&part.version.0)
        .set_checksum_crc32_c(part.checksum.clone())
        .build()
}

fn total(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

/// Whether an object's ETag is that of these parts, as far as it says so: a store may make up its own.
fn etag_fits(version: &Version, parts: &[Part]) -> bool {
    let given = version.0.trim_matches('"');
    compose_etag(parts).is_none_or(|composed| !is_composed(given) || given == composed)
}

/// `md5(md5 of each part)-count`, where the parts' ETags are MD5s.
fn compose_etag(parts: &[Part]) -> Option<String> {
    let mut all = Md5::new();
    for part in parts {
        let digest =
            data_encoding::HEXLOWER_PERMISSIVE.decode(part.version.0.trim_matches('"').as_bytes()).ok()?;
        all.update(<[u8; 16]>::try_from(digest).ok()?);
    }
    Some(format!("{}-{}", data_encoding::HEXLOWER.encode(&all.finalize()), parts.len()))
}

fn is_composed(etag: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    etag.split_once('-').is_some_and(|(md5, count)| {
        md5.len() == 32 && md5.bytes().all(|b| b.is_ascii_hexdigit()) && digits(count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, etag: &str) -> Part {
        Part { number, bytes: 5, version: Version(etag.to_owned()), checksum: None }
    }

    #[test]
    fn an_etag_is_composed_of_the_parts_md5s() {
        // md5("hello") and md5("world"); the composition was computed with coreutils.
        let parts = [
            part(1, "\"5d41402abc4b2a76b9719d911017c592\""),
            part(2, "\"7d793037a0760186574b0282f2f435e7\""),
        ];
        assert_eq!(compose_etag(&parts).unwrap(), "065947336a2f2a95ba8899f3675c3be6-2");
        assert_eq!(compose_etag(&[part(1, "\"not-md5\"")]), None);
    }

    /// An ETag of another form (of an encrypted object, say) tells nothing of the parts.
    #[test]
    fn only_the_md5_of_md5s_is_a_composed_etag() {
        let md5 = "065947336a2f2a95ba8899f3675c3be6";
        assert!(is_composed(&format!("{md5}-2")) && is_composed(&format!("{md5}-10000")));
        for other in [
            md5.to_owned(),
            format!("{md5}-"),
            format!("{md5}-x"),
            format!("{}-2", &md5[1..]),
            format!("{}z-2", &md5[1..]),
            format!("{md5}{md5}-2"),
        ] {
            assert!(!is_composed(&other), "{other}");
        }
    }
}
