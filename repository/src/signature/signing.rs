//! The agent's or verifier's own key.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rand::RngCore;
use secrecy::{ExposeSecret, SecretString};
use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};

use super::{KEY_BYTES_MAX, SignatureError};
use crate::private_file::is_private;

/// An Ed25519 key that signs. Its `Debug` shows the fingerprint only.
pub struct SigningKey {
    key: PrivateKey,
}

impl SigningKey {
    /// Reads an unencrypted OpenSSH private key that only its owner can read, or root's that a group may read, too.
    pub fn load(path: &Path) -> Result<Self, SignatureError> {
        let unreadable = |source| SignatureError::KeyFile { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.mode() & 0o7777;
        if !is_private(mode, metadata.uid()) {
            return Err(SignatureError::KeyTooOpen { path: path.to_owned(), mode });
        }
        let text = read_secret(file).map_err(unreadable)?;
        Self::parse(&text, path)
    }

    /// Reads a key from its text; `path` is for messages.
    pub fn parse(text: &SecretString, path: &Path) -> Result<Self, SignatureError> {
        let path = || path.to_owned();
        let key = PrivateKey::from_openssh(text.expose_secret().trim_start())
            .map_err(|source| SignatureError::NotAKey { path: path(), source })?;
        match key.algorithm() {
            _ if key.is_encrypted() => Err(SignatureError::KeyEncrypted { path: path() }),
            Algorithm::Ed25519 => Ok(Self { key }),
            other => Err(SignatureError::KeyAlgorithm { path: path(), algorithm: other.to_string() }),
        }
    }

    /// The armored signature of `bytes`, as `ssh-keygen -Y sign -n NAMESPACE` would write it.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> Result<String, SignatureError> {
        let signed = self.key.sign(namespace, HashAlg::Sha512, bytes);
        signed
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map_err(|source| SignatureError::Sign { namespace: namespace.to_owned(), source })
    }

    /// `ssh-ed25519 AAAA… comment`: what goes into the trusted signers, behind a principal.
    pub fn public_line(&self) -> String {
        self.key.public_key().to_openssh().expect("an Ed25519 public key has an OpenSSH form")
    }

    /// `SHA256:…`
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// Makes a new key: the private key's file content, and its public line.
pub fn generate(comment: &str) -> (SecretString, String) {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let pair = Ed25519Keypair::from_seed(&seed);
    let one_line: String = comment.chars().filter(|c| !c.is_control()).collect();
    let key = PrivateKey::new(KeypairData::from(pair), one_line).expect("a fresh Ed25519 key is well formed");
    let pem = key.to_openssh(LineEnding::LF).expect("an Ed25519 key has an OpenSSH form");
    let line = key.public_key().to_openssh().expect("an Ed25519 public key has an OpenSSH form");
    (SecretString::from(pem.as_str()), line)
}

fn read_secret(file: File) -> io::Result<SecretString> {
    let mut text = String::with_capacity(KEY_BYTES_MAX as usize);
    file.take(KEY_BYTES_MAX).read_to_string(&mut text)?;
    Ok(SecretString::from(text))
}
