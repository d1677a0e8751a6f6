//! Who wrote it: SSH signatures (SSHSIG, Ed25519) over manifests, reports and records.
//!
//! age does not say who encrypted, so everything that leads to a restore or a deletion carries a signature that stock
//! `ssh-keygen -Y verify` checks too. A namespace keeps a signature of one kind from passing as another.

mod claim;
mod signing;
mod trusted;

use std::path::PathBuf;

use jiff::Timestamp;

use crate::private_file;

pub use claim::{Claim, check_all};
pub use signing::{SigningKey, generate};
pub use trusted::{TrustError, TrustedSigners, trusted_line};

/// What a signature is for.
pub mod namespace {
    pub const MANIFEST: &str = "pgproof-manifest";
    pub const REPORT: &str = "pgproof-report";
    pub const REPORT_PERIOD: &str = "pgproof-report-period";
    pub const RUN: &str = "pgproof-run";
    pub const HOLD: &str = "pgproof-hold";
    pub const TOMBSTONE: &str = "pgproof-tombstone";
    pub const RESTORE_POINT: &str = "pgproof-restore-point";
    pub const ALERTS: &str = "pgproof-alerts";
    pub const ACT: &str = "pgproof-act";
    pub const CUSTODY: &str = "pgproof-custody";
    pub const CHALLENGE: &str = "pgproof-challenge";

    /// What an agent signs, and nobody else has to.
    pub const OF_AGENT: [&str; 7] = [MANIFEST, RUN, HOLD, TOMBSTONE, RESTORE_POINT, ACT, ALERTS];
    /// What a verifier signs. Neither can then pass for the other: a stolen host makes no proofs, a verifier no backups.
    pub const OF_VERIFIER: [&str; 5] = [REPORT, REPORT_PERIOD, CUSTODY, CHALLENGE, ALERTS];
}

/// Armored Ed25519 signatures have about 300 bytes; what is much larger is none.
const SIGNATURE_BYTES_MAX: usize = 16 << 10;
/// Ed25519 keys have about 400 bytes as text; key files of this size hold something else.
const KEY_BYTES_MAX: u64 = 16 << 10;

/// Who made a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The principals field of the line that trusts the key.
    pub principal: String,
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
}

/// Why a signature was not made or not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    #[error("signature is malformed")]
    Malformed {
        #[source]
        source: ssh_key::Error,
    },
    #[error("signature has {bytes} bytes, more than any signature has")]
    TooLong { bytes: usize },
    #[error("signature is made with {algorithm}; only ssh-ed25519 is accepted")]
    Algorithm { algorithm: String },
    #[error("signer {fingerprint} is not trusted")]
    UnknownSigner { fingerprint: String },
    #[error("signature is for {found:?}, not for {expected:?}")]
    WrongNamespace { expected: String, found: String },
    #[error("signer {principal} is not trusted for {namespace:?}")]
    NamespaceNotAllowed { principal: String, namespace: String },
    #[error("signature does not match the bytes")]
    BadSignature { signer: String },
    #[error("key of signer {principal} was not valid at {at}")]
    NotValidAt { principal: String, at: Timestamp },
    #[error("signing key {path} cannot be read")]
    KeyFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("signing key {path} can be read by others (mode {mode:o})")]
    KeyTooOpen { path: PathBuf, mode: u32 },
    #[error("signing key {path} is no OpenSSH private key")]
    NotAKey {
        path: PathBuf,
        #[source]
        source: ssh_key::Error,
    },
    #[error("signing key {path} is protected by a passphrase")]
    KeyEncrypted { path: PathBuf },
    #[error("signing key {path} is of type {algorithm}; only ssh-ed25519 is used")]
    KeyAlgorithm { path: PathBuf, algorithm: String },
    #[error("namespace {namespace:?} cannot be signed for")]
    Sign {
        namespace: String,
        #[source]
        source: ssh_key::Error,
    },
}

impl SignatureError {
    /// What an operator can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownSigner { .. } => {
                "if you know this key, add its public line to the trusted signers; if not, somebody else wrote this"
                    .to_owned()
            }
            Self::KeyTooOpen { path, .. } => private_file::hint(path),
            Self::KeyEncrypted { path } => {
                format!("unattended runs cannot ask for it: ssh-keygen -p -N '' -f {}", path.display())
            }
            Self::KeyFile { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "run this as the account that may read it: the key's owner, or the service whose group's it is".to_owned()
            }
            Self::KeyFile { .. } | Self::NotAKey { .. } | Self::KeyAlgorithm { .. } => {
                "make one with: ssh-keygen -t ed25519 -N '' -C pgproof -f FILE".to_owned()
            }
            Self::NamespaceNotAllowed { .. } => {
                "widen the namespaces= option of the signer's line, if it may sign this".to_owned()
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
