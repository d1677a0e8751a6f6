//! Object Lock and versions: what nobody may remove before its time, and what a delete leaves behind.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>. A lock is of one version, and a plain delete
//! only puts a marker over it; so a lock is looked up before anything is deleted, and not found out by a refusal.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, ObjectLockMode};
use jiff::Timestamp;
use pgproof_policies::policy::LockMode;

use super::{Shared, timestamp};
use crate::ids::ObjectKey;
use crate::layout;
use crate::store::operation::Operation;
use crate::store::{Lock, StoreError};

/// One version of an object, or a delete marker.
struct Marked {
    key: String,
    version: String,
}

impl Shared {
    pub(super) fn lock_mode(&self, key: &ObjectKey) -> Option<ObjectLockMode> {
        let lock = self.object_lock.filter(|_| layout::is_lockable(key))?;
        Some(match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        })
    }

    /// Counted from now, when the object is put.
    pub(super) fn lock_until(&self, key: &ObjectKey) -> Option<DateTime> {
        let lock = self.object_lock.filter(|_| layout::is_lockable(key))?;
        let until = Timestamp::now().checked_add(lock.retain).unwrap_or(Timestamp::MAX);
        Some(DateTime::from_secs(until.as_second()))
    }

    /// Some stores take a request for a lock and do not act on it.
    pub(super) fn warn_of_ignored_lock(&self, key: &ObjectKey, head: &HeadObjectOutput) {
        if self.lock_mode(key).is_some() && head.object_lock_retain_until_date().is_none() {
            tracing::warn!(
                %key,
                "a lock was asked for and the store shows none: either it ignores locks, or these credentials may not \
                 see them (s3:GetObjectRetention)"
            );
        }
    }

    /// Where the credentials may not see locks, the store tells of none.
    pub(super) async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        let head = self.head_answer(key, Operation::Lock).await?;
        if head.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On) {
            return Ok(Some(Lock::LegalHold));
        }
        Ok(head.object_lock_retain_until_date().map(|until| Lock::Until(timestamp(Some(until)))))
    }

    /// Removes an object, or one version of it; one that is not there counts as removed.
    pub(super) async fn remove(&self, key: &ObjectKey, version: Option<String>) -> Result<(), StoreError> {
        let is_plain = version.is_none();
        let request = self.client.delete_object().bucket(&self.bucket).key(self.full(key));
        match request.set_version_id(version).send().await {
            Ok(output) => {
                // Of a version, this says that it was a marker itself.
                if is_plain && output.delete_marker() == Some(true) {
                    self.left_marker.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(e) => match self.call(Operation::Delete, key).failed(e) {
                StoreError::NotFound { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Removes every version and marker of an object.
    pub(super) async fn remove_versions(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let full = self.full(key);
        for version in self.versions(key).await? {
            // Others begin with the same letters.
            if version.key == full {
                self.remove(key, Some(version.version)).await?;
            }
        }
        Ok(())
    }

    async fn versions(&self, key: &ObjectKey) -> Result<Vec<Marked>, StoreError> {
        let request = self.client.list_object_versions().bucket(&self.bucket).prefix(self.full(key));
        let (mut found, mut after) = (Vec::new(), (None, None));
        loop {
            let page = request.clone().set_key_marker(after.0).set_version_id_marker(after.1).send().await;
            let page = page.map_err(|e| self.call(Operation::Versions, key).failed(e))?;
            let marked = |key: Option<&str>, version: Option<&str>| {
                Some(Marked { key: key?.to_owned(), version: version?.to_owned() })
            };
            found.extend(page.versions().iter().filter_map(|it| marked(it.key(), it.version_id())));
            found.extend(page.delete_markers().iter().filter_map(|it| marked(it.key(), it.version_id())));
            if !page.is_truncated().unwrap_or(false) {
                return Ok(found);
            }
            after = (
                page.next_key_marker().map(ToOwned::to_owned),
                page.next_version_id_marker().map(ToOwned::to_owned),
            );
        }
    }
}
