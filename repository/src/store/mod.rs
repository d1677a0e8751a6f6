//! Where objects lie: one small trait with S3's semantics, and what implements or wraps it.
//!
//! Keys are relative to the repository's prefix; a store adds the prefix itself. Objects are written once: the only
//! writes are "put if absent" and, for leases, "put if it is still this version".

pub mod altered;
pub mod azure;
mod cloud;
pub mod conditions;
pub mod conformance;
pub mod counting;
pub mod directory;
pub mod faulty;
pub mod frugal;
pub mod google;
pub mod memory;
pub mod operation;
pub mod part_plan;
pub mod providers;
pub mod retry;
pub mod s3;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use self::conditions::Conditions;
use crate::ids::{KeyPrefix, ObjectKey};

/// A store that many tasks share.
pub type SharedStore = Arc<dyn Store>;

/// What pgproof asks of object storage. Every method may be called at the same time from many tasks.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Where this store is, for messages: `s3://bucket/prefix`, `file:///dir` and so on. Holds no secret.
    fn location(&self) -> String;

    /// Puts a small object. Atomic: a reader sees all of it or nothing.
    ///
    /// After [`StoreError::Unreachable`] it is unknown whether the object is there; a caller that retries an
    /// `IfAbsent` put and meets [`StoreError::AlreadyExists`] compares the bytes before it calls that a conflict.
    async fn put(&self, key: &ObjectKey, body: Bytes, condition: PutCondition)
    -> Result<Version, StoreError>;

    /// A whole object of at most `bytes_max`; a larger one is [`StoreError::TooLarge`], before its body is read.
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError>;

    /// Exactly the bytes of `range`, all of which must lie in the object: else [`StoreError::Refused`] with
    /// [`OutOfRange`] below it. A body that ends early is [`StoreError::Short`].
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// The object's bytes from `range.start` to `range.end`, in pieces. A body that ends early is an error item.
    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError>;

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError>;

    /// Every object below `prefix` in key order, after `start_after` if given; pages are fetched as the stream is read.
    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>>;

    /// The names of the "folders" directly below `prefix` (no trailing `/`), in order.
    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError>;

    /// Up to `at_most` of these names (1,000 at the most) in one request, of those folders whose name with its `/` sorts after
    /// `from`, in that order.
    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError>;

    /// Removes an object; one that is not there counts as removed.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Begins a write of unknown length. Nothing is visible at `key` until [`Upload::complete`].
    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError>;

    /// Uploads begun below `prefix` and neither completed nor aborted. [`StoreError::Unsupported`] where the server cannot say.
    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError>;

    /// Forgets such an upload and its parts; one that is gone counts as aborted.
    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError>;

    /// What keeps an object from being removed, if anything. [`StoreError::Unsupported`] where there are no locks.
    async fn lock(&self, _key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        Err(StoreError::Unsupported { operation: "lock objects" })
    }

    /// Locks an object until then. One that is locked for longer is [`StoreError::Denied`] or stays so: no lock gets shorter.
    async fn extend_lock(&self, _key: &ObjectKey, _until: Timestamp) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { operation: "lock objects" })
    }

    /// Whether a [`Store::delete`] by this value left what it removed behind, as an older version.
    fn left_versions(&self) -> bool {
        false
    }

    /// The store's own clock, where it tells one (S3: the `Date` header of an answer).
    async fn clock(&self) -> Result<Option<Timestamp>, StoreError>;

    /// How many parts an upload may have, and how large they may be.
    fn part_limits(&self) -> part_plan::PartLimits;

    /// Which conditions of a write it heeds in one step with the write. Of the others it only looks first.
    fn conditions(&self) -> Conditions {
        Conditions::HONOURED
    }
}

/// An upload in parts. Parts may be put at the same time and in any order; numbers count from 1 without gaps.
/// Every part but the last has at least the limit's smallest size. Shared by the tasks that put its parts, hence `Arc<Self>`.
#[async_trait]
pub trait Upload: fmt::Debug + Send + Sync {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError>;

    /// Makes the object appear, if no object is there yet. A lost response is looked up, not guessed: success means
    /// that an object of exactly these parts lies at the key. After [`StoreError::Unreachable`] it may be called again.
    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError>;

    /// Gives up the upload and its parts; one that is gone counts as aborted.
    async fn abort(self: Arc<Self>) -> Result<(), StoreError>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutCondition {
    /// Only where there is no object (`If-None-Match: *`).
    IfAbsent,
    /// Only where the object still has this version (`If-Match`).
    IfVersion(Version),
}

/// Why the store itself refuses to give an object up. `Display` is what a plan prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    Until(Timestamp),
    /// Until somebody takes it away.
    LegalHold,
}

impl Lock {
    /// `None` where no time ends it.
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Self::Until(at) => Some(at),
            Self::LegalHold => None,
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(at) => write!(f, "locked until {}", at.strftime("%Y-%m-%d %H:%M:%S UTC")),
            Self::LegalHold => f.write_str("locked by a legal hold"),
        }
    }
}

/// An opaque version of an object's content (S3 and Azure: the ETag; Google: the generation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    pub key: ObjectKey,
    pub bytes: u64,
    pub version: Version,
    /// The store's own time of writing. For display and for grace periods of orphans only; never decides what a backup is.
    pub modified_at: Timestamp,
}

/// Names of folders, as far as one request tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderPage {
    pub names: Vec<String>,
    /// Whether others may come after these.
    pub more: bool,
}

/// One uploaded part, as the server confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub number: u32,
    pub bytes: u64,
    pub version: Version,
    /// Base64 CRC-32C as the server confirmed it, where it did.
    pub checksum: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    pub key: ObjectKey,
    pub upload_id: String,
    pub started_at: Timestamp,
}

/// Outcomes a caller treats differently.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("no object {key}")]
    NotFound { key: String },
    #[error("object {key} exists already")]
    AlreadyExists { key: String },
    #[error("object {key} was changed by somebody else")]
    VersionChanged { key: String },
    #[error("object {key} has {bytes} bytes, more than the {bytes_max} allowed here")]
    TooLarge { key: String, bytes: u64, bytes_max: u64 },
    #[error("{operation} of {key}: got {got} bytes of {expected}")]
    Short { operation: &'static str, key: String, got: u64, expected: u64 },
    /// All bytes came, and they do not have the checksum that the store holds for them.
    #[error("{operation} of {key}: the stored bytes are damaged")]
    Damaged {
        operation: &'static str,
        key: String,
        #[source]
        source: Source,
    },
    #[error("{operation} of {key} is not permitted")]
    Denied {
        operation: &'static str,
        key: String,
        #[source]
        source: Source,
    },
    /// Not one of the places where credentials may be has any.
    #[error("there are no credentials for {location}")]
    NoCredentials {
        location: String,
        #[source]
        source: Source,
    },
    /// Requests are signed for one, so none can be sent.
    #[error("there is no region for {location}")]
    NoRegion { location: String },
    #[error("no bucket or folder at {location}")]
    NoSuchPlace {
        location: String,
        #[source]
        source: Source,
    },
    /// It outgrew what an upload may have.
    #[error("{key} is larger than {parts_max} parts of an upload hold ({bytes} bytes)")]
    TooManyParts { key: String, parts_max: u32, bytes: u64 },
    #[error("no space left for {key}")]
    NoSpace {
        key: String,
        #[source]
        source: Source,
    },
    #[error("the store cannot {operation}")]
    Unsupported { operation: &'static str },
    /// Network failures, time-outs, 5xx, throttling: worth another try, and the effect of a write is unknown.
    #[error("{operation} of {key} failed for now")]
    Unreachable {
        operation: &'static str,
        key: String,
        #[source]
        source: Source,
    },
    /// Anything else the server or file system said; another try would say it again.
    #[error("{operation} of {key} failed")]
    Refused {
        operation: &'static str,
        key: String,
        #[source]
        source: Source,
    },
}

/// A range that does not lie in its object: the cause below [`StoreError::Refused`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes {} to {} do not lie in an object of {bytes} bytes", range.start, range.end)]
pub struct OutOfRange {
    pub range: Range<u64>,
    pub bytes: u64,
}

/// The cause below a [`StoreError`].
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Where whoever set up the services has put the credentials.
macro_rules! environment_of_services {
    () => {
        "a shell has those of the services after `set -a; . /etc/pgproof/environment` (the verifier's: \
         /etc/pgproof-verifier/environment)"
    };
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Short { .. })
    }

    /// What an operator can do, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Denied { .. } => {
                Some("check the credentials and the bucket policy (or the folder's owner and mode)")
            }
            Self::NoCredentials { location, .. } if location.starts_with("gs://") => Some(concat!(
                "set GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT to the file of a service account, or run this where \
                 the machine has one; ",
                environment_of_services!()
            )),
            Self::NoCredentials { location, .. } if location.starts_with("az://") => Some(concat!(
                "set AZURE_STORAGE_ACCOUNT_NAME (or `repository.account`) and AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or \
                 AZURE_CLIENT_ID with its secret, or run this where the machine has a managed identity; ",
                environment_of_services!()
            )),
            Self::NoCredentials { .. } => Some(concat!(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a `profile` of ~/.aws/credentials in the policy; ",
                environment_of_services!()
            )),
            Self::NoRegion { .. } => Some("set `region` in [repository], or AWS_REGION"),
            Self::NoSuchPlace { location, .. } if location.starts_with("file://") => Some(
                "mount the disk that it lies on, or correct `repository.location`; a new repository is made by a first backup \
                 by hand, `pgproof backup SOURCE`, in a folder whose parent is there",
            ),
            Self::NoSuchPlace { .. } => {
                Some("create the bucket or folder, or correct `repository.location` in the policy")
            }
            Self::Damaged { .. } => Some(
                "bring the object back from another copy or version of the bucket, or use another backup",
            ),
            Self::TooManyParts { .. } => Some(
                "split the source in several: this store takes no larger object in parts of the size that was planned",
            ),
            Self::NoSpace { .. } => Some("free space where the repository lies, then run again"),
            Self::Unreachable { .. } => Some("check the network and the endpoint, then run again"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_can_mend_has_a_hint() {
        let key = || "app/backups/x".to_owned();
        let source = || Source::from("a cause");
        let credentials =
            |location: &str| StoreError::NoCredentials { location: location.to_owned(), source: source() };
        for (error, expected) in [
            (StoreError::Denied { operation: "get", key: key(), source: source() }, "the bucket policy"),
            (credentials("gs://bucket"), "GOOGLE_APPLICATION_CREDENTIALS"),
            (credentials("az://container"), "AZURE_STORAGE_ACCOUNT_KEY"),
            (credentials("s3://bucket"), "AWS_ACCESS_KEY_ID"),
            (credentials("s3://bucket"), "/etc/pgproof/environment"),
            (StoreError::NoRegion { location: "s3://bucket".to_owned() }, "`region`"),
            (StoreError::NoSuchPlace { location: key(), source: source() }, "create the bucket"),
            (StoreError::Damaged { operation: "get", key: key(), source: source() }, "another copy"),
            (StoreError::TooManyParts { key: key(), parts_max: 1, bytes: 2 }, "split the source"),
            (StoreError::NoSpace { key: key(), source: source() }, "free space"),
            (StoreError::Unreachable { operation: "get", key: key(), source: source() }, "the network"),
        ] {
            let hint = error.hint().unwrap_or_default();
            assert!(hint.contains(expected), "{error}: {hint}");
        }
        assert_eq!(StoreError::NotFound { key: key() }.hint(), None);
    }

    #[test]
    fn a_lock_says_until_when() {
        let at = "2027-01-02T03:04:05Z".parse().unwrap();
        let told = [Lock::Until(at), Lock::LegalHold].map(|lock| (lock.until(), lock.to_string()));
        let legal = (None, "locked by a legal hold".to_owned());
        assert_eq!(told, [(Some(at), "locked until 2027-01-02 03:04:05 UTC".to_owned()), legal]);
    }
}
