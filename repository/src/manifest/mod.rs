//! The manifest: what a backup is, signed, and put last. A backup exists when its manifest does.
//!
//! [`v1`] is the stored form. [`parse`] reads the version before anything else and refuses a newer one by name;
//! [`SignedManifest`] can only be had by checking a signature, so holding one means its origin is known.

pub mod v1;

use std::borrow::Cow;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;

use crate::ids::{BackupId, ManifestSha256};
use crate::lifecycle;
use crate::signature::{self, Claim, SignatureError, Signer, TrustedSigners};
use crate::store::StoreError;
use crate::versioned::{self, Refused};

/// Largest manifest that is read. One describes a handful of objects in a few KiB; more than this is not one of ours.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Largest signature that is read: an armored Ed25519 signature has under 1 KiB, certificates a few.
pub const SIGNATURE_BYTES_MAX: u64 = 64 << 10;
/// The SSHSIG namespace of manifests.
pub const NAMESPACE: &str = "pgproof-manifest";

/// A manifest and its signature as they lie in the store, not checked yet.
#[derive(Debug, Clone)]
pub struct Files {
    pub manifest: Bytes,
    pub signature: Bytes,
}

impl Files {
    fn signature(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.signature)
    }
}

/// A manifest whose signature was checked against the trusted signers.
#[derive(Debug, Clone)]
pub struct SignedManifest {
    manifest: v1::Manifest,
    sha256: ManifestSha256,
    signer: Signer,
}

impl SignedManifest {
    /// Checks the signature over `bytes`, then reads them.
    pub fn check(bytes: &[u8], signature: &str, signers: &TrustedSigners) -> Result<Self, ManifestError> {
        let (manifest, claim) = claimed(bytes, signature, signers)?;
        let signer = claim.check().map_err(|source| ManifestError::BadlySigned { source })?;
        Ok(Self { manifest, sha256: ManifestSha256::of(bytes), signer })
    }

    /// The same of many at once, with an answer for each in their order.
    pub fn check_all(files: &[Files], signers: &TrustedSigners) -> Vec<Result<Self, ManifestError>> {
        let (mut claims, mut read) = (Vec::with_capacity(files.len()), Vec::with_capacity(files.len()));
        for files in files {
            let claimed = claimed(&files.manifest, &files.signature(), signers);
            read.push(claimed.map(|(manifest, claim)| {
                claims.push(claim);
                (manifest, ManifestSha256::of(&files.manifest))
            }));
        }
        let mut signers = signature::check_all(claims).into_iter();
        let checked = read.into_iter().map(|read| {
            let (manifest, sha256) = read?;
            let signer = signers.next().expect("a claim for each manifest that was read");
            let signer = signer.map_err(|source| ManifestError::BadlySigned { source })?;
            Ok(Self { manifest, sha256, signer })
        });
        checked.collect()
    }

    pub fn get(&self) -> &v1::Manifest {
        &self.manifest
    }

    pub fn sha256(&self) -> ManifestSha256 {
        self.sha256
    }

    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The moment the backup shows: what `restore --at` compares.
    pub fn snapshot_at(&self) -> Timestamp {
        self.manifest.snapshot.at
    }
}

/// What is signed, and by whom it says to be.
fn claimed(
    bytes: &[u8],
    signature: &str,
    signers: &TrustedSigners,
) -> Result<(v1::Manifest, Claim), ManifestError> {
    let manifest = parse(bytes)?;
    let claim = signers.claim(NAMESPACE, bytes, signature, manifest.finished_at);
    Ok((manifest, claim.map_err(|source| ManifestError::BadlySigned { source })?))
}

/// Reads a manifest of any version this program knows, without saying who made it.
pub fn parse(bytes: &[u8]) -> Result<v1::Manifest, ManifestError> {
    // Nearly all are what they seem, and are gone through once; whatever is not says first in which version it is.
    let whole = serde_json::from_slice::<v1::Manifest>(bytes).ok();
    let of_this_version = |it: &v1::Manifest| it.format == v1::FORMAT && it.version == v1::VERSION;
    if let Some(manifest) = whole.filter(of_this_version) {
        return Ok(manifest);
    }
    versioned::parse(bytes, v1::FORMAT, v1::VERSION).map_err(|refused| match refused {
        Refused::Unreadable { source } => ManifestError::Unreadable { source },
        Refused::OtherFormat { format } => ManifestError::NotAManifest { format },
        Refused::Newer { version } => ManifestError::Newer { version },
    })
}

/// Whether the times of a manifest can be those of one run. A signature is judged at the end that the manifest names: if
/// that could be any time, whoever has a key that is trusted no more would name one at which it was.
pub fn ensure_times_agree(manifest: &v1::Manifest) -> Result<(), ManifestError> {
    let v1::Manifest { id, started_at, finished_at, snapshot, .. } = manifest;
    let agree = started_at.as_second() == id.started_at().as_second()
        && finished_at >= started_at
        && lifecycle::ensure_near(id, snapshot.at).is_ok();
    let (started_at, snapshot_at, finished_at) = (*started_at, snapshot.at, *finished_at);
    agree.then_some(()).ok_or(ManifestError::Times { started_at, snapshot_at, finished_at })
}

/// The backups that a manifest names as those without which its own cannot be restored, on nobody's word: good enough to
/// keep them, and for nothing else.
pub fn unsigned_needs(bytes: &[u8]) -> Vec<BackupId> {
    #[derive(Deserialize)]
    struct Any {
        chain: Option<Chain>,
    }
    #[derive(Deserialize)]
    struct Chain {
        bases: Vec<Base>,
    }
    #[derive(Deserialize)]
    struct Base {
        id: BackupId,
    }
    let read = serde_json::from_slice::<Any>(bytes).ok().and_then(|any| any.chain);
    read.into_iter().flat_map(|chain| chain.bases).map(|base| base.id).collect()
}

/// Why a manifest cannot be used. Each is told apart from "there is none".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    #[error("manifest cannot be read")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
    #[error("manifest cannot be fetched whole")]
    Damaged {
        #[source]
        source: StoreError,
    },
    #[error("format is {format:?}, not a pgproof manifest")]
    NotAManifest { format: String },
    #[error("manifest has version {version}; this program reads up to version {}", v1::VERSION)]
    Newer { version: u32 },
    /// Signed, and for another place than where it lies: moved or replayed.
    #[error("manifest belongs to backup {id} of source {source_name}, not here")]
    Elsewhere { source_name: String, id: String },
    /// Signed, and copied here from elsewhere.
    #[error("manifest was made for another repository")]
    OtherRepository,
    /// A signature is judged at the end that its manifest names, so that end may not lie where it likes.
    #[error(
        "manifest of a backup begun at {started_at} cannot show {snapshot_at} and have ended at {finished_at}"
    )]
    Times { started_at: Timestamp, snapshot_at: Timestamp, finished_at: Timestamp },
    #[error("manifest is badly signed")]
    BadlySigned {
        #[source]
        source: SignatureError,
    },
}

impl ManifestError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { source } => source.hint(),
            Self::OtherRepository => Some("it was copied here; restore or drill it where it belongs"),
            Self::Times { .. } => Some(
                "an honest program leaves no such backup: find out who held the key that signed it, and when",
            ),
            Self::Newer { .. } => Some("use a pgproof at least as new as the one that wrote this backup"),
            Self::BadlySigned { .. } => Some(
                "if the signer is yours, add its public key to `keys.trusted_signers`; otherwise treat the backup as forged",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN_V1: &[u8] = include_bytes!("../../fixtures/manifest.v1.json");
    const GOLDEN_STREAMS_V1: &[u8] = include_bytes!("../../fixtures/manifest.streams.v1.json");
    const GOLDEN_IMPORTED_V1: &[u8] = include_bytes!("../../fixtures/manifest.imported.v1.json");
    const GOLDEN_FILES_V1: &[u8] = include_bytes!("../../fixtures/manifest.files.v1.json");
    const GOLDEN_INCREMENTAL_V1: &[u8] = include_bytes!("../../fixtures/manifest.files.incremental.v1.json");

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        let manifest = parse(GOLDEN_V1).unwrap();
        assert_eq!(manifest.objects.len(), 3);
        let written = manifest.to_bytes();
        assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(GOLDEN_V1.to_vec()).unwrap());
    }

    #[test]
    fn one_of_several_streams_reads_for_ever_and_writes_as_it_was() {
        let manifest = parse(GOLDEN_STREAMS_V1).unwrap();
        assert_eq!(manifest.object(v1::Role::Archive).unwrap().name, "data.000.zst.age");
        assert_eq!(manifest.postgres().unwrap().archive.snapshot_seconds, Some(154));
        let written = manifest.to_bytes();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            String::from_utf8(GOLDEN_STREAMS_V1.to_vec()).unwrap()
        );
    }

    #[test]
    fn one_of_files_reads_for_ever_and_writes_as_it_was() {
        let manifest = parse(GOLDEN_FILES_V1).unwrap();
        assert_eq!((manifest.contents.kind(), manifest.postgres()), ("files", None));
        assert!(manifest.object(v1::Role::Index).is_some());
        let written = manifest.to_bytes();
        assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(GOLDEN_FILES_V1.to_vec()).unwrap());
    }

    #[test]
    fn an_incremental_one_reads_for_ever_and_writes_as_it_was() {
        let manifest = parse(GOLDEN_INCREMENTAL_V1).unwrap();
        assert_eq!((manifest.bases().len(), manifest.chain().unwrap().depth), (2, 2));
        assert!(manifest.object(v1::Role::HostIndex).is_some());
        let written = manifest.to_bytes();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            String::from_utf8(GOLDEN_INCREMENTAL_V1.to_vec()).unwrap()
        );
        assert!(parse(GOLDEN_FILES_V1).unwrap().bases().is_empty());
    }

    #[test]
    fn an_imported_one_reads_for_ever_and_writes_as_it_was() {
        let manifest = parse(GOLDEN_IMPORTED_V1).unwrap();
        assert!(manifest.imported.as_ref().is_some_and(|imported| imported.decompressed));
        assert!(manifest.snapshot.lsn.is_none() && parse(GOLDEN_V1).unwrap().imported.is_none());
        let written = manifest.to_bytes();
        assert_eq!(
            String::from_utf8(written).unwrap(),
            String::from_utf8(GOLDEN_IMPORTED_V1.to_vec()).unwrap()
        );
    }

    #[test]
    fn another_format_a_newer_version_and_damage_are_three_outcomes() {
        let text = std::str::from_utf8(GOLDEN_V1).unwrap();
        let newer = text.replacen("\"version\": 1", "\"version\": 2", 1);
        assert!(matches!(parse(newer.as_bytes()), Err(ManifestError::Newer { version: 2 })));
        let other = text.replacen("pgproof-manifest", "other", 1);
        assert!(matches!(parse(other.as_bytes()), Err(ManifestError::NotAManifest { .. })));
        assert!(matches!(parse(&GOLDEN_V1[..GOLDEN_V1.len() / 2]), Err(ManifestError::Unreadable { .. })));
    }

    #[test]
    fn a_kind_of_a_newer_version_is_read_and_does_not_pass_for_a_database() {
        let text = std::str::from_utf8(GOLDEN_V1).unwrap();
        let other = text.replace("\"kind\": \"postgres\"", "\"kind\": \"clickhouse\"");
        let manifest = parse(other.as_bytes()).unwrap();
        assert_eq!((&manifest.contents, manifest.postgres()), (&v1::Contents::Unknown, None));
    }

    #[test]
    fn what_an_operator_can_do_about_a_manifest_is_said() {
        let damaged = StoreError::Damaged { operation: "get", key: "a".to_owned(), source: "x".into() };
        let signers = TrustedSigners::parse("").unwrap();
        let unsigned = SignedManifest::check(GOLDEN_V1, "no signature", &signers).unwrap_err();
        for (error, expected) in [
            (ManifestError::Damaged { source: damaged }, "another copy"),
            (ManifestError::Newer { version: 2 }, "at least as new"),
            (unsigned, "keys.trusted_signers"),
        ] {
            assert!(error.hint().is_some_and(|hint| hint.contains(expected)), "{error:?}");
        }
        assert_eq!(ManifestError::Elsewhere { source_name: "a".into(), id: "b".into() }.hint(), None);
    }

    #[test]
    fn a_backup_takes_what_its_objects_take() {
        let manifest = parse(GOLDEN_V1).unwrap();
        let sizes: Vec<u64> = manifest.objects.iter().map(|object| object.ciphertext.bytes).collect();
        assert!(sizes.len() > 1);
        assert_eq!(manifest.stored_bytes(), sizes.iter().sum::<u64>());
    }
}
