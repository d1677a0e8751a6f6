//! Sealing what fits in memory: globals and inventories.

use std::io::{self, Read, Write};

use super::frame::FrameError;
use super::writer::SealError;
use super::{Ciphertext, Expected, Plaintext, WINDOW_LOG_MAX};
use crate::ids::{CiphertextSha256, PlaintextSha256};
use crate::keys::{Identities, KeyError, KnownFileKey, Recipients};

/// A sealed object, whole.
#[derive(Debug, Clone)]
pub struct SealedBytes {
    pub bytes: Vec<u8>,
    pub plaintext: Plaintext,
    pub ciphertext: Ciphertext,
}

/// Seals `plain` as one frame, which is decoded again and compared first.
pub fn seal_bytes(recipients: &Recipients, level: i32, plain: &[u8]) -> Result<SealedBytes, SealError> {
    let frame = compress(plain, level)
        .map_err(|source| SealError::Frame { block: 0, source: FrameError::Zstd { source } })?;
    if !decodes_to(&frame, plain) {
        return Err(SealError::Frame { block: 0, source: FrameError::SelfCheck });
    }
    let mut writer =
        recipients.encrypt_writer(Vec::new()).map_err(|source| SealError::Recipients { source })?;
    let finished = writer.write_all(&frame).and_then(|()| writer.finish());
    let bytes = finished.map_err(|source| SealError::Write { source })?;
    let plaintext = Plaintext { bytes: plain.len() as u64, sha256: PlaintextSha256::of(plain) };
    let ciphertext = Ciphertext { bytes: bytes.len() as u64, sha256: CiphertextSha256::of(&bytes) };
    Ok(SealedBytes { bytes, plaintext, ciphertext })
}

/// Opens a sealed object of at most `plain_bytes_max`. With `expected`, which comes from a signed manifest, the
/// ciphertext's hash is compared before anything is opened, and the plaintext's after.
pub fn unseal_bytes(
    identities: &Identities,
    sealed: &[u8],
    plain_bytes_max: u64,
    expected: Option<&Expected>,
) -> Result<Vec<u8>, UnsealError> {
    if expected.is_some_and(|e| e.ciphertext.sha256 != CiphertextSha256::of(sealed)) {
        return Err(UnsealError::CiphertextDiffers);
    }
    let key = KnownFileKey::unwrap(sealed, identities).map_err(|source| UnsealError::Key { source })?;
    let plain = open(sealed, &key, plain_bytes_max).map_err(|source| UnsealError::Damaged { source })?;
    if plain.len() as u64 > plain_bytes_max {
        return Err(UnsealError::TooLarge { plain_bytes_max });
    }
    if expected.is_some_and(|e| e.plaintext.sha256 != PlaintextSha256::of(&plain)) {
        return Err(UnsealError::PlaintextDiffers);
    }
    Ok(plain)
}

/// Why a small object cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsealError {
    #[error("sealed object cannot be opened")]
    Key {
        #[source]
        source: KeyError,
    },
    #[error("sealed object is damaged or cut short")]
    Damaged {
        #[source]
        source: io::Error,
    },
    #[error("sealed object holds more than {plain_bytes_max} bytes")]
    TooLarge { plain_bytes_max: u64 },
    #[error("sealed object is not the one that the manifest names")]
    CiphertextDiffers,
    #[error("sealed object does not hold what the manifest says")]
    PlaintextDiffers,
}

impl UnsealError {
    /// What an operator can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Key { source } => source.hint(),
            _ => None,
        }
    }
}

/// One byte more than allowed is read, so that the caller sees what is too large.
fn open(sealed: &[u8], key: &KnownFileKey, plain_bytes_max: u64) -> io::Result<Vec<u8>> {
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(io::Error::other)?;
    let stream = decryptor.decrypt(std::iter::once(key as _)).map_err(io::Error::other)?;
    let mut decoder = zstd::stream::read::Decoder::new(stream)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut plain = Vec::new();
    decoder.take(plain_bytes_max.saturating_add(1)).read_to_end(&mut plain)?;
    Ok(plain)
}

fn compress(plain: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
    encoder.include_checksum(true)?;
    encoder.include_contentsize(true)?;
    encoder.set_pledged_src_size(Some(plain.len() as u64))?;
    encoder.write_all(plain)?;
    encoder.finish()
}

/// Compares piece by piece, so that no second copy of a large inventory is needed.
pub(super) fn decodes_to(frame: &[u8], plain: &[u8]) -> bool {
    let Ok(mut decoder) = zstd::stream::read::Decoder::with_buffer(frame) else { return false };
    let mut piece = vec![0; 64 << 10];
    let mut rest = plain;
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return rest.is_empty(),
            Ok(read) => match rest.split_at_checked(read) {
                Some((same, tail)) if *same == piece[..read] => rest = tail,
                _ => return false,
            },
            Err(_) => return false,
        }
    }
}
