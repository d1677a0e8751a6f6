//! The key of one object, found once and used for many reads.

use std::cell::RefCell;
use std::fmt;
use std::io::BufRead;
use std::sync::Arc;

use age::DecryptError;
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use age_core::secrecy::ExposeSecret;

use super::{Identities, KeyError};

/// The file key of one age file: opens that file, and nothing else. Cheap to clone.
#[derive(Clone)]
pub struct KnownFileKey(Arc<FileKey>);

impl KnownFileKey {
    /// Unwraps the header at the start of `file` with the first identity that can, and checks the header's MAC.
    pub fn unwrap(file: impl BufRead, identities: &Identities) -> Result<Self, KeyError> {
        let decryptor = age::Decryptor::new_buffered(file).map_err(header_error)?;
        let capture = Capture { identities, key: RefCell::new(None) };
        decryptor.decrypt(std::iter::once(&capture as &dyn age::Identity)).map_err(header_error)?;
        let key = capture.key.into_inner().ok_or(KeyError::NoMatchingIdentity)?;
        Ok(Self(Arc::new(key)))
    }

    fn copy(&self) -> FileKey {
        copy(&self.0)
    }
}

impl age::Identity for KnownFileKey {
    fn unwrap_stanza(&self, _stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        Some(Ok(self.copy()))
    }
}

impl fmt::Debug for KnownFileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownFileKey(…)")
    }
}

/// Keeps a copy of the key that passes through.
struct Capture<'a> {
    identities: &'a Identities,
    key: RefCell<Option<FileKey>>,
}

impl age::Identity for Capture<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.unwrap_stanzas(std::slice::from_ref(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        let found = self.identities.unwrap_stanzas(stanzas);
        if let Some(Ok(key)) = &found {
            self.key.replace(Some(copy(key)));
        }
        found
    }
}

fn copy(key: &FileKey) -> FileKey {
    let secret: &[u8; FILE_KEY_BYTES] = key.expose_secret();
    FileKey::init_with_mut(|copy| copy.copy_from_slice(secret))
}

fn header_error(source: DecryptError) -> KeyError {
    match source {
        DecryptError::NoMatchingKeys => KeyError::NoMatchingIdentity,
        source => KeyError::Header { source },
    }
}
