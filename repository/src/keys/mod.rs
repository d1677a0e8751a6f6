//! Who can read: age recipients that everything is encrypted to, and the identities that open it again.
//!
//! The host that backs up holds recipients only. An object's header is unwrapped once; the [`KnownFileKey`] it yields
//! serves every later read of that object, so a hardware key is touched once an object and not once a range.

mod file_key;
mod identities;
mod prompts;
mod recipients;

use std::path::PathBuf;

use crate::private_file;

pub use file_key::KnownFileKey;
pub use identities::{Identities, generate_identity};
pub use prompts::{KeyPrompts, NoPrompts, TerminalPrompts};
pub use recipients::Recipients;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    #[error("recipient {line}: {reason}")]
    BadRecipient { line: usize, reason: String },
    #[error("recipient {line} is the same as recipient {first}")]
    DuplicateRecipient { line: usize, first: usize },
    #[error("no recipients are given")]
    NoRecipients,
    #[error("encrypting to the recipients failed")]
    Encrypt {
        #[source]
        source: age::EncryptError,
    },
    #[error("identity file {path} cannot be read")]
    IdentityFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("identity file {path} can be read by everybody (mode {mode:o})")]
    IdentityTooOpen { path: PathBuf, mode: u32 },
    #[error("identity file {path} holds no usable identity: {reason}")]
    NotAnIdentity { path: PathBuf, reason: String },
    #[error("identity file {path} needs a passphrase, and nobody can be asked")]
    PassphraseNeeded { path: PathBuf },
    #[error("wrong passphrase for identity file {path}")]
    WrongPassphrase { path: PathBuf },
    #[error("identity file {path} asks for {required} doublings of work, more than {allowed}")]
    ExcessiveWork { path: PathBuf, required: u8, allowed: u8 },
    #[error("identity in {path} cannot be used")]
    Identity {
        path: PathBuf,
        #[source]
        source: age::DecryptError,
    },
    #[error("no identities are given")]
    NoIdentities,
    #[error("none of the identities can open it")]
    NoMatchingIdentity,
    #[error("age header cannot be opened")]
    Header {
        #[source]
        source: age::DecryptError,
    },
}

impl KeyError {
    /// What an operator can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::IdentityFile { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "run this as the account that may read it: the identity's owner, or the service whose group's it is"
                    .to_owned()
            }
            Self::IdentityFile { .. } => {
                "`keys.identity_files` in the policy names it: bring the identity here from where it is kept, or correct \
                 the path"
                    .to_owned()
            }
            Self::IdentityTooOpen { path, .. } => private_file::hint(path),
            Self::NoMatchingIdentity => {
                "the manifest lists the recipients' public keys; give the identity file of one of them"
                    .to_owned()
            }
            Self::NoIdentities => "name an identity file: keys.identity_files in the policy".to_owned(),
            Self::BadRecipient { .. } => {
                "a recipient is a public key: age1…, ssh-ed25519 AAAA… or ssh-rsa AAAA…".to_owned()
            }
            Self::NotAnIdentity { .. } | Self::Identity { .. } => {
                "an identity file holds AGE-SECRET-KEY-1…, or is an unencrypted or encrypted SSH private key"
                    .to_owned()
            }
            Self::WrongPassphrase { .. } => "run it again with the right passphrase".to_owned(),
            Self::PassphraseNeeded { .. } => {
                "run this at a terminal, or use an unprotected identity".to_owned()
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
