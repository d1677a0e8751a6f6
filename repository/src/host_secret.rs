//! What a host keeps of its own backups, which it cannot read: sealed with a secret that only its signing key makes.
//!
//! The secret is never stored. Whoever has the signing key opens what the host keeps, and nothing else of any backup; with
//! another signing key the host begins anew.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bech32::{Bech32, Hrp};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::keys::{Identities, KeyError, NoPrompts, Recipients};
use crate::signature::{SignatureError, SigningKey};

/// The namespace of the signature from which the secret is made. It is never stored: an Ed25519 signature of one text is
/// always the same (RFC 8032), so it need not be.
const NAMESPACE: &str = "pgproof-host-secret";
const SIGNED: &[u8] = b"what this host keeps of its own configuration";
/// What age calls its secret keys (<https://age-encryption.org/v1>).
const IDENTITY_PREFIX: Hrp = Hrp::parse_unchecked("age-secret-key-");
/// Bytes of each hash that are kept: two values of one name do not meet in 128 bits.
const HASH_BYTES: usize = 16;

/// The secret of one host.
pub struct HostSecret(SecretString);

impl HostSecret {
    pub fn of(key: &SigningKey) -> Result<Self, SignatureError> {
        key.sign(NAMESPACE, SIGNED).map(|signature| Self(SecretString::from(signature)))
    }

    /// Tells values of one name apart, and tells nobody else what they are.
    pub(crate) fn hash(&self, name: &str, value: &[u8]) -> String {
        HEXLOWER.encode(&self.derive(name, value)[..HASH_BYTES])
    }

    /// Another one than that which keys the hashes.
    pub(crate) fn passphrase(&self) -> SecretString {
        SecretString::from(self.hash("passphrase", b"1") + &self.hash("passphrase", b"2"))
    }

    /// To whom the host seals what it keeps. The public key is never told, so nobody else seals to it.
    pub fn recipients(&self) -> Result<Recipients, KeyError> {
        let identity: age::x25519::Identity =
            self.identity().expose_secret().parse().expect("32 bytes are a secret key");
        Recipients::parse([identity.to_public().to_string()])
    }

    /// What opens it again.
    pub fn identities(&self) -> Result<Identities, KeyError> {
        Identities::parse(&self.identity(), Path::new("the host's own secret"), Arc::new(NoPrompts))
    }

    fn identity(&self) -> SecretString {
        let bytes = self.derive("age identity", b"1");
        let text = bech32::encode_upper::<Bech32>(IDENTITY_PREFIX, &*bytes);
        SecretString::from(text.expect("32 bytes are short enough"))
    }

    fn derive(&self, name: &str, value: &[u8]) -> Zeroizing<[u8; 32]> {
        let secret = self.0.expose_secret().as_bytes();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key may have any length");
        mac.update(&(name.len() as u64).to_be_bytes());
        mac.update(name.as_bytes());
        mac.update(value);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for HostSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::{UnsealError, seal_bytes, unseal_bytes};
    use crate::signature::generate;

    fn secret() -> HostSecret {
        HostSecret::of(&SigningKey::parse(&generate("a host").0, Path::new("key")).unwrap()).unwrap()
    }

    #[test]
    fn only_the_host_that_sealed_it_opens_what_it_keeps() {
        let (ours, theirs) = (secret(), secret());
        let sealed = seal_bytes(&ours.recipients().unwrap(), 3, b"names").unwrap().bytes;
        let open = |by: &HostSecret| unseal_bytes(&by.identities().unwrap(), &sealed, 100, None);
        assert_eq!(open(&ours).unwrap(), b"names");
        assert!(matches!(open(&theirs), Err(UnsealError::Key { source: KeyError::NoMatchingIdentity })));
    }

    #[test]
    fn a_host_s_secret_is_always_the_same_one() {
        let key = generate("a host").0;
        let lines = [(); 2].map(|()| {
            let key = SigningKey::parse(&key, Path::new("key")).unwrap();
            HostSecret::of(&key).unwrap().recipients().unwrap().public_lines()
        });
        assert_eq!(lines[0], lines[1]);
        assert!(lines[0][0].starts_with("age1"), "{lines:?}");
    }
}
