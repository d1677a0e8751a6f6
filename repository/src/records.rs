//! Small signed records beside the backups: how runs ended, holds, tombstones.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use pgproof_policies::backups::Cause;
use pgproof_policies::names::SourceName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::signature::{SignatureError, Signer, SigningKey, TrustedSigners};
use crate::store::{PutCondition, Store, StoreError};

/// Largest record that is read; each holds a few lines.
pub(crate) const RECORD_BYTES_MAX: u64 = 1 << 20;

/// A record that is stored signed.
pub trait Record: Serialize + DeserializeOwned {
    const NAMESPACE: &'static str;
    /// The version that is written and read; one that says another is [`RecordError::Newer`].
    const VERSION: u32 = 1;
    /// The moment that the signature must be valid at.
    fn at(&self) -> Timestamp;
}

/// How an attempt to back up ended; failures too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub version: u32,
    pub source: SourceName,
    pub id: BackupId,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub host: String,
    /// SHA-256 of the policy file's bytes; absent in records of versions that did not note it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy_sha256: Option<String>,
    pub outcome: RunOutcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunOutcome {
    Committed {
        warnings: Vec<String>,
    },
    /// Nothing had changed since this backup, so that no other was made.
    Unchanged {
        since: BackupId,
    },
    Failed {
        error: String,
        #[serde(default)]
        cause: Cause,
    },
}

/// A hold keeps a backup whatever retention says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    pub version: u32,
    pub source: SourceName,
    pub id: BackupId,
    pub at: Timestamp,
    pub host: String,
    pub reason: String,
}

/// The decision to remove a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tombstone {
    pub version: u32,
    pub source: SourceName,
    pub id: BackupId,
    pub at: Timestamp,
    pub host: String,
    pub snapshot_at: Timestamp,
}

impl Record for Run {
    const NAMESPACE: &'static str = "pgproof-run";
    fn at(&self) -> Timestamp {
        self.ended_at
    }
}

impl Record for Hold {
    const NAMESPACE: &'static str = "pgproof-hold";
    fn at(&self) -> Timestamp {
        self.at
    }
}

impl Record for Tombstone {
    const NAMESPACE: &'static str = "pgproof-tombstone";
    fn at(&self) -> Timestamp {
        self.at
    }
}

/// Writes the signature, then the record: as with manifests, the record is there only when it can be checked.
pub async fn put<R: Record>(
    store: &dyn Store,
    key: &ObjectKey,
    record: &R,
    signing_key: &SigningKey,
) -> Result<(), RecordError> {
    let (bytes, signature) = signed(record, signing_key)?;
    let put = |key: ObjectKey, bytes: Vec<u8>| async move {
        store.put(&key, Bytes::from(bytes), PutCondition::IfAbsent).await
    };
    put(layout::signature_of(key), signature.into_bytes())
        .await
        .map_err(|source| RecordError::Store { source })?;
    put(key.clone(), bytes).await.map_err(|source| RecordError::Store { source })?;
    Ok(())
}

/// A record's bytes as they are stored, and their signature.
pub(crate) fn signed<R: Record>(
    record: &R,
    signing_key: &SigningKey,
) -> Result<(Vec<u8>, String), RecordError> {
    let mut bytes = serde_json::to_vec_pretty(record).expect("records have only string keys");
    bytes.push(b'\n');
    let signature = signing_key.sign(R::NAMESPACE, &bytes).map_err(|source| RecordError::Sign { source })?;
    Ok((bytes, signature))
}

/// A record with who signed it and what its bytes hash to.
#[derive(Debug, Clone)]
pub struct Signed<R> {
    pub record: R,
    pub signer: Signer,
    /// SHA-256 of the stored bytes, in hexadecimal.
    pub sha256: String,
}

/// Reads a record and checks its signature.
pub async fn get<R: Record>(
    store: &dyn Store,
    key: &ObjectKey,
    signers: &TrustedSigners,
) -> Result<(R, Signer), RecordError> {
    let Signed { record, signer, .. } = fetch(store, key, signers).await?;
    Ok((record, signer))
}

/// The same, with the hash of what was signed.
pub async fn fetch<R: Record>(
    store: &dyn Store,
    key: &ObjectKey,
    signers: &TrustedSigners,
) -> Result<Signed<R>, RecordError> {
    let read =
        |key: ObjectKey| async move { store.get(&key, RECORD_BYTES_MAX).await.map(|(bytes, _)| bytes) };
    let bytes = read(key.clone()).await.map_err(|source| RecordError::Store { source })?;
    let record: R = parse(&bytes)?;
    let signature = read(layout::signature_of(key)).await.map_err(|source| RecordError::Store { source })?;
    let signature = String::from_utf8_lossy(&signature);
    let signer = signers
        .verify(R::NAMESPACE, &bytes, &signature, record.at())
        .map_err(|source| RecordError::BadlySigned { source })?;
    Ok(Signed { record, signer, sha256: HEXLOWER.encode(&Sha256::digest(&bytes)) })
}

/// The version comes first: what a newer one means by fields that look like ours is not known.
fn parse<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let unreadable = |source| RecordError::Unreadable { source };
    let Head { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
    match version == R::VERSION {
        true => serde_json::from_slice(bytes).map_err(unreadable),
        false => Err(RecordError::Newer { version, known: R::VERSION }),
    }
}

impl RecordError {
    /// Whether the store failed, so that nothing is known of the record. One that is absent or damaged is known to be.
    pub fn is_of_the_store(&self) -> bool {
        let absent_or_damaged = |source: &StoreError| {
            matches!(
                source,
                StoreError::NotFound { .. } | StoreError::Damaged { .. } | StoreError::TooLarge { .. }
            )
        };
        matches!(self, Self::Store { source } if !absent_or_damaged(source))
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    #[error("record cannot be stored or fetched")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("record cannot be signed")]
    Sign {
        #[source]
        source: SignatureError,
    },
    #[error("record cannot be read")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
    #[error("record has version {version}; this program reads version {known}")]
    Newer { version: u32, known: u32 },
    /// Signed, and for another place than where it lies.
    #[error("record belongs to another place")]
    Elsewhere,
    #[error("record is badly signed")]
    BadlySigned {
        #[source]
        source: SignatureError,
    },
}
