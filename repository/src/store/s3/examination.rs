//! What `doctor` asks of a bucket, and nothing else does.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, ExpirationStatus, LifecycleRule, ObjectLockEnabled};
use bytes::Bytes;
use md5::{Digest, Md5};
use pgproof_policies::policy::Checksums;

use super::S3Store;
use crate::ids::{KeyPrefix, ObjectKey};
use crate::store::StoreError;
use crate::store::operation::Operation;

/// CRC-32C of nothing, which no other body of ours has.
const CRC32C_OF_NOTHING: &str = "AAAAAA==";
/// Listed on a page in the check of pages: few, so that a handful of objects has several.
const KEYS_A_PAGE: i32 = 2;
/// Pages after which a list that does not end is given up.
const PAGES_MAX: usize = 100;

/// Whether a bucket keeps what is overwritten or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    On,
    /// It did; what was kept is still there.
    Suspended,
    Off,
}

/// What a delete without an object to delete left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    Nothing,
    /// In a bucket that keeps versions: a marker, which these credentials could not take away again.
    Marker,
}

impl S3Store {
    /// Where the bucket is, as far as the store says so.
    pub async fn region(&self) -> Result<Option<String>, StoreError> {
        let s = &self.shared;
        let answer = s.client.head_bucket().bucket(&s.bucket).send().await;
        let answer = answer.map_err(|e| s.call(Operation::Bucket, "region").failed(e))?;
        Ok(answer.bucket_region().map(ToOwned::to_owned))
    }

    pub async fn versioning(&self) -> Result<Versioning, StoreError> {
        let s = &self.shared;
        let answer = s.client.get_bucket_versioning().bucket(&s.bucket).send().await;
        let answer = answer.map_err(|e| s.call(Operation::Bucket, "versioning").failed(e))?;
        Ok(match answer.status() {
            Some(BucketVersioningStatus::Enabled) => Versioning::On,
            Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
            _ => Versioning::Off,
        })
    }

    /// Whether the bucket was made for locked objects.
    pub async fn is_lockable(&self) -> Result<bool, StoreError> {
        let s = &self.shared;
        match s.client.get_object_lock_configuration().bucket(&s.bucket).send().await {
            Ok(answer) => Ok(answer.object_lock_configuration().and_then(|it| it.object_lock_enabled())
                == Some(&ObjectLockEnabled::Enabled)),
            Err(e) => match s.call(Operation::Bucket, "object lock").failed(e) {
                StoreError::NotFound { .. } => Ok(false),
                error => Err(error),
            },
        }
    }

    /// After how many days a rule of the bucket drops uploads to this repository that nobody completed.
    pub async fn stale_upload_rule(&self) -> Result<Option<u32>, StoreError> {
        let s = &self.shared;
        match s.client.get_bucket_lifecycle_configuration().bucket(&s.bucket).send().await {
            Ok(answer) => Ok(answer.rules().iter().filter_map(|rule| days_of(rule, &s.base)).min()),
            Err(e) => match s.call(Operation::Bucket, "lifecycle").failed(e) {
                StoreError::NotFound { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Puts a body with a checksum that it does not have. Success is the store's failure.
    pub async fn put_with_wrong_checksum(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let s = &self.shared;
        let body = Bytes::from_static(b"a body that arrives otherwise than it was sent");
        let request = s.once.put_object().bucket(&s.bucket).key(s.full(key));
        let request = match s.checksums {
            Checksums::Crc32c => request.checksum_crc32_c(CRC32C_OF_NOTHING),
            Checksums::Md5 => request.content_md5(data_encoding::BASE64.encode(&Md5::digest(b""))),
        };
        let sent = request.body(ByteStream::from(body)).send().await;
        sent.map(drop).map_err(|e| s.call(Operation::Put, key).failed(e))
    }

    /// The same as the store's own list, a few keys a page.
    pub async fn list_in_small_pages(&self, prefix: &KeyPrefix) -> Result<Vec<ObjectKey>, StoreError> {
        let s = &self.shared;
        let request = s.client.list_objects_v2().bucket(&s.bucket).prefix(s.full(prefix));
        let request = request.max_keys(KEYS_A_PAGE);
        let (mut keys, mut continuation) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let page = request.clone().set_continuation_token(continuation).send().await;
            let page = page.map_err(|e| s.call(Operation::List, prefix).failed(e))?;
            keys.extend(page.contents().iter().filter_map(|object| s.relative(object.key()?)));
            continuation = page.next_continuation_token().map(ToOwned::to_owned);
            if continuation.is_none() {
                break;
            }
        }
        Ok(keys)
    }

    /// Deletes where no object is: harmless, and refused to whoever may not delete there. A marker that comes of it is taken
    /// away again.
    pub async fn delete_nothing(&self, key: &ObjectKey) -> Result<Deleted, StoreError> {
        let s = &self.shared;
        let request = s.client.delete_object().bucket(&s.bucket).key(s.full(key));
        let answer = request.send().await.map_err(|e| s.call(Operation::Delete, key).failed(e))?;
        match (answer.delete_marker(), answer.version_id()) {
            (Some(true), Some(marker)) => match s.remove(key, Some(marker.to_owned())).await {
                Ok(()) => Ok(Deleted::Nothing),
                Err(_) => Ok(Deleted::Marker),
            },
            (Some(true), None) => Ok(Deleted::Marker),
            _ => Ok(Deleted::Nothing),
        }
    }
}

fn days_of(rule: &LifecycleRule, base: &str) -> Option<u32> {
    let days = rule.abort_incomplete_multipart_upload()?.days_after_initiation()?;
    let prefix = rule.filter().and_then(|filter| filter.prefix()).unwrap_or_default();
    let is_ours = *rule.status() == ExpirationStatus::Enabled && base.starts_with(prefix);
    is_ours.then(|| u32::try_from(days).ok()).flatten()
}
