//! Object Lock and versions: what nobody may remove before its time, and what a delete leaves behind.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>. A lock is of one version, and a plain delete
//! only puts a marker over it; so a lock is looked up before anything is deleted, and not found out by a refusal.

use std::sync::atomic::Ordering;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
};
use jiff::Timestamp;
use pgproof_policies::locks::Locks;
use pgproof_policies::policy::LockMode;

use super::{Shared, timestamp};
use crate::ids::ObjectKey;
use crate::layout::Lockable;
use crate::store::operation::Operation;
use crate::store::{Lock, StoreError};

/// One version of an object, or a delete marker.
struct Marked {
    key: String,
    version: String,
}

/// What a put asks the store for.
pub(super) struct AskedLock {
    pub(super) mode: ObjectLockMode,
    pub(super) until: DateTime,
}

impl Shared {
    /// How an object is to be locked that is put now.
    pub(super) fn lock_for(&self, key: &ObjectKey) -> Option<AskedLock> {
        let locks = self.locks.as_ref()?;
        let now = Timestamp::now();
        let until = match Lockable::of(key)? {
            Lockable::Backup { source, id } => locks.of_backup(&source, id.started_at(), now),
            Lockable::Record => locks.of_record(now),
        };
        Some(AskedLock { mode: mode(locks), until: date(until?) })
    }

    pub(super) async fn extend_lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let Some(locks) = &self.locks else {
            return Err(StoreError::Unsupported { operation: "lock objects" });
        };
        let mode = ObjectLockRetentionMode::from(mode(locks).as_str());
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(date(until)).build();
        let request = self.client.put_object_retention().bucket(&self.bucket).key(self.full(key));
        let sent = request.retention(retention).send().await;
        sent.map(drop).map_err(|e| self.call(Operation::ExtendLock, key).failed(e))
    }

    /// Some stores take a request for a lock and do not act on it.
    pub(super) fn warn_of_ignored_lock(&self, key: &ObjectKey, head: &HeadObjectOutput) {
        if self.lock_for(key).is_some() && head.object_lock_retain_until_date().is_none() {
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
            let next = (page.next_key_marker(), page.next_version_id_marker());
            if next.0.is_none() {
                let source = "the list of versions goes on, and the store does not say where".into();
                let (operation, key) = (Operation::Versions.name(), key.to_string());
                return Err(StoreError::Refused { operation, key, source });
            }
            after = (next.0.map(ToOwned::to_owned), next.1.map(ToOwned::to_owned));
        }
    }
}

fn mode(locks: &Locks) -> ObjectLockMode {
    match locks.mode() {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

fn date(until: Timestamp) -> DateTime {
    DateTime::from_secs(until.as_second())
}
