//! What opens backups: identity files of every kind age knows.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::armor::ArmoredReader;
use age::encrypted::EncryptedIdentity;
use age::{DecryptError, IdentityFile};
use age_core::format::{FileKey, Stanza};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::KeyError;
use super::prompts::{Bridge, KeyPrompts};
use crate::private_file::is_private;

/// Identity files hold a few keys of some hundred bytes each.
const IDENTITY_FILE_BYTES_MAX: u64 = 1 << 20;
/// scrypt doublings that a passphrase-protected file may ask for: 2^22 takes 4 GiB of memory and some seconds, while
/// `age -p` writes 2^18.
const SCRYPT_DOUBLINGS_MAX: u8 = 22;
/// Permission bits that let everybody read or change a file; those of the group are only warned about, because a
/// service's group is a usual way to hand it a key.
const EVERYBODY_MODE: u32 = 0o007;

type Identity = Box<dyn age::Identity + Send + Sync>;

/// The identities of some files, tried in their order. Shared cheaply between threads.
#[derive(Clone)]
pub struct Identities {
    identities: Arc<[Identity]>,
    paths: Arc<[PathBuf]>,
}

impl Identities {
    /// Reads identity files: age identities and plugin identities (one a line), either also protected by a passphrase
    /// (`age -p`, armored or not), and OpenSSH private keys. Passphrases are asked for at once.
    pub fn load<P: AsRef<Path>>(paths: &[P], prompts: Arc<dyn KeyPrompts>) -> Result<Self, KeyError> {
        let mut identities = Vec::new();
        for path in paths {
            let path = path.as_ref();
            let bytes = read_private(path)?;
            identities.extend(parse(&bytes, path, &prompts)?);
        }
        if identities.is_empty() {
            return Err(KeyError::NoIdentities);
        }
        let paths = paths.iter().map(|path| path.as_ref().to_owned()).collect();
        Ok(Self { identities: identities.into(), paths })
    }

    /// The identities in `text`, which has the form of an unprotected identity file; `origin` is for messages.
    pub fn parse(text: &SecretString, origin: &Path, prompts: Arc<dyn KeyPrompts>) -> Result<Self, KeyError> {
        let identities = parse(text.expose_secret().as_bytes(), origin, &prompts)?;
        Ok(Self { identities: identities.into(), paths: [origin.to_owned()].into() })
    }

    /// Tries every identity. One that fails (an absent plugin, say) does not keep a later one from opening it.
    pub(super) fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        let mut failure = None;
        for identity in self.identities.iter() {
            match identity.unwrap_stanzas(stanzas) {
                Some(Ok(key)) => return Some(Ok(key)),
                Some(Err(error)) => failure = failure.or(Some(error)),
                None => {}
            }
        }
        failure.map(Err)
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// A new identity: the line for its file, and the recipient that belongs to it.
pub fn generate_identity() -> (SecretString, String) {
    let identity = age::x25519::Identity::generate();
    (identity.to_string(), identity.to_public().to_string())
}

fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let unreadable = |source| KeyError::IdentityFile { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o7777;
    if mode & EVERYBODY_MODE != 0 {
        return Err(KeyError::IdentityTooOpen { path: path.to_owned(), mode });
    }
    if !is_private(mode, metadata.uid()) {
        tracing::warn!(path = %path.display(), "identity file of an ordinary account can be read by its group; chmod 600 is safer");
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(IDENTITY_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > IDENTITY_FILE_BYTES_MAX {
        return Err(unreadable(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "more than 1 MiB is no identity file",
        )));
    }
    Ok(bytes)
}

fn parse(bytes: &[u8], path: &Path, prompts: &Arc<dyn KeyPrompts>) -> Result<Vec<Identity>, KeyError> {
    let bridge = Bridge(prompts.clone());
    if bytes.starts_with(b"age-encryption.org/") || bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") {
        return unlock(bytes, path, bridge);
    }
    if bytes.starts_with(b"-----BEGIN ") {
        return parse_ssh(bytes, path, bridge);
    }
    let file = IdentityFile::from_buffer(bytes);
    let file = file.map_err(|error| not_an_identity(path, error.to_string()))?;
    usable(file.with_callbacks(bridge), path)
}

fn unlock(bytes: &[u8], path: &Path, bridge: Bridge) -> Result<Vec<Identity>, KeyError> {
    let asked = AskedOnce::ask(&bridge, path)?;
    let decryptor = age::Decryptor::new(ArmoredReader::new(bytes))
        .map_err(|source| KeyError::Identity { path: path.to_owned(), source })?;
    let encrypted = EncryptedIdentity::new(decryptor, asked, Some(SCRYPT_DOUBLINGS_MAX));
    let encrypted = encrypted
        .ok_or_else(|| not_an_identity(path, "it is encrypted, but not with a passphrase".to_owned()))?;
    let file = encrypted.decrypt(path.to_str()).map_err(|error| unlock_error(path, error))?;
    usable(file.with_callbacks(bridge), path)
}

fn usable(file: IdentityFile<Bridge>, path: &Path) -> Result<Vec<Identity>, KeyError> {
    let identities =
        file.into_identities().map_err(|source| KeyError::Identity { path: path.to_owned(), source })?;
    if identities.is_empty() {
        return Err(not_an_identity(path, "it is empty".to_owned()));
    }
    Ok(identities)
}

/// Unlocks a protected key at once: otherwise its passphrase would be asked for again with every object.
fn parse_ssh(bytes: &[u8], path: &Path, bridge: Bridge) -> Result<Vec<Identity>, KeyError> {
    let key = age::ssh::Identity::from_buffer(BufReader::new(bytes), path.to_str().map(str::to_owned))
        .map_err(|error| not_an_identity(path, error.to_string()))?;
    let key = match key {
        age::ssh::Identity::Encrypted(key) => {
            let passphrase = AskedOnce::ask(&bridge, path)?.0;
            key.decrypt(passphrase).map_err(|error| unlock_error(path, error))?.into()
        }
        age::ssh::Identity::Unsupported(_) => {
            return Err(not_an_identity(path, "this type of ssh key cannot decrypt".to_owned()));
        }
        key @ age::ssh::Identity::Unencrypted(_) => key,
    };
    Ok(vec![Box::new(key)])
}

fn unlock_error(path: &Path, error: DecryptError) -> KeyError {
    let path = path.to_owned();
    match error {
        DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed => {
            KeyError::WrongPassphrase { path }
        }
        DecryptError::ExcessiveWork { required, .. } => {
            KeyError::ExcessiveWork { path, required, allowed: SCRYPT_DOUBLINGS_MAX }
        }
        source => KeyError::Identity { path, source },
    }
}

fn not_an_identity(path: &Path, reason: String) -> KeyError {
    KeyError::NotAnIdentity { path: path.to_owned(), reason }
}

/// Answers with the passphrase that was asked for before, so that "nobody answered" and "wrong" stay two errors.
#[derive(Clone)]
struct AskedOnce(SecretString);

impl AskedOnce {
    fn ask(bridge: &Bridge, path: &Path) -> Result<Self, KeyError> {
        let passphrase = bridge.0.passphrase(&format!("passphrase for {}", path.display()));
        passphrase.map(Self).ok_or_else(|| KeyError::PassphraseNeeded { path: path.to_owned() })
    }
}

impl age::Callbacks for AskedOnce {
    fn display_message(&self, _message: &str) {}

    fn confirm(&self, _message: &str, _yes: &str, _no: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _description: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, _description: &str) -> Option<SecretString> {
        Some(self.0.clone())
    }
}
