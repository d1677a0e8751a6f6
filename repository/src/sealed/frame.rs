//! One block as one zstd frame.

use sha2::{Digest, Sha256};
use zstd::bulk::{Compressor, Decompressor};

/// Most plaintext in one frame. Blocks aim at 4 MiB and end at 8 MiB; the rest is room for what a block carries
/// beside its rows. It bounds what a reader allocates, whatever an inventory says.
pub const BLOCK_BYTES_MAX: usize = 16 << 20;

/// Where a frame lies and what its compressed bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRecord {
    /// In the zstd stream, that is, in age's plaintext.
    pub sealed_offset: u64,
    pub sealed_bytes: u32,
    /// In the stream that was sealed.
    pub plain_offset: u64,
    pub plain_bytes: u32,
    /// The first 16 bytes of the SHA-256 of the frame's compressed bytes.
    pub sha256_128: [u8; 16],
}

impl FrameRecord {
    pub fn sealed_end(&self) -> u64 {
        self.sealed_offset.saturating_add(self.sealed_bytes.into())
    }

    pub fn plain_end(&self) -> u64 {
        self.plain_offset.saturating_add(self.plain_bytes.into())
    }
}

/// Why a frame was not made or is not what its record says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("zstd failed")]
    Zstd {
        #[source]
        source: std::io::Error,
    },
    #[error("compressed block does not decode to what it was made of")]
    SelfCheck,
    #[error("bytes do not have the hash that the inventory holds")]
    Hash,
    #[error("it decodes to {found} bytes instead of {expected}")]
    Length { found: usize, expected: u32 },
    #[error("block of {bytes} bytes is larger than {BLOCK_BYTES_MAX}")]
    TooLarge { bytes: u64 },
}

/// Makes frames on one worker thread; contexts and the buffer of the check are reused.
pub(super) struct FrameMaker {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    check: Vec<u8>,
}

impl FrameMaker {
    pub(super) fn new(level: i32) -> Result<Self, FrameError> {
        let make = || {
            let mut compressor = Compressor::new(level)?;
            compressor.include_checksum(true)?;
            compressor.include_contentsize(true)?;
            Ok((compressor, Decompressor::new()?))
        };
        let (compressor, decompressor) = make().map_err(|source| FrameError::Zstd { source })?;
        Ok(Self { compressor, decompressor, check: Vec::new() })
    }

    /// Writes the frame of `plain` into `frame`, decodes it again and compares: memory and compilers fail, too.
    pub(super) fn make(&mut self, plain: &[u8], frame: &mut Vec<u8>) -> Result<[u8; 16], FrameError> {
        frame.clear();
        frame.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, frame).map_err(|source| FrameError::Zstd { source })?;
        self.check(plain, frame)?;
        Ok(short_hash(frame))
    }

    pub(super) fn check(&mut self, plain: &[u8], frame: &[u8]) -> Result<(), FrameError> {
        self.check.clear();
        self.check.reserve(plain.len());
        let decoded = self.decompressor.decompress_to_buffer(frame, &mut self.check);
        match decoded {
            Ok(_) if self.check == plain => Ok(()),
            _ => Err(FrameError::SelfCheck),
        }
    }
}

/// Opens frames on one thread.
pub(super) struct FrameOpener(Decompressor<'static>);

impl FrameOpener {
    pub(super) fn new() -> Result<Self, FrameError> {
        Ok(Self(Decompressor::new().map_err(|source| FrameError::Zstd { source })?))
    }

    /// Checks the hash, then decodes; nothing unauthenticated reaches the decoder.
    pub(super) fn open(&mut self, record: &FrameRecord, frame: &[u8]) -> Result<Vec<u8>, FrameError> {
        let expected = record.plain_bytes;
        if expected as usize > BLOCK_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes: expected.into() });
        }
        if short_hash(frame) != record.sha256_128 {
            return Err(FrameError::Hash);
        }
        let mut plain = Vec::with_capacity(expected as usize);
        self.0.decompress_to_buffer(frame, &mut plain).map_err(|source| FrameError::Zstd { source })?;
        if plain.len() != expected as usize {
            return Err(FrameError::Length { found: plain.len(), expected });
        }
        Ok(plain)
    }
}

fn short_hash(frame: &[u8]) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(frame).into();
    *hash.first_chunk().expect("16 is less than 32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_self_check_finds_a_frame_that_says_something_else() {
        let mut maker = FrameMaker::new(3).unwrap();
        let plain = b"row\n".repeat(1000);
        let mut frame = Vec::new();
        maker.make(&plain, &mut frame).unwrap();
        let mut other = plain.clone();
        other[17] ^= 1;
        assert!(matches!(maker.check(&other, &frame), Err(FrameError::SelfCheck)));
        assert!(matches!(maker.check(&plain[1..], &frame), Err(FrameError::SelfCheck)));
        for position in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[position] ^= 0x40;
            assert!(maker.check(&plain, &damaged).is_err(), "{position}");
        }
    }

    #[test]
    fn a_frame_is_opened_only_as_its_record_says() {
        let mut maker = FrameMaker::new(3).unwrap();
        let mut opener = FrameOpener::new().unwrap();
        let plain = vec![7; 100_000];
        let mut frame = Vec::new();
        let sha256_128 = maker.make(&plain, &mut frame).unwrap();
        let (sealed_bytes, plain_bytes) = (frame.len() as u32, plain.len() as u32);
        let record = FrameRecord { sealed_offset: 0, sealed_bytes, plain_offset: 0, plain_bytes, sha256_128 };
        assert_eq!(opener.open(&record, &frame).unwrap(), plain);
        let shorter = FrameRecord { plain_bytes: plain_bytes - 1, ..record };
        assert!(opener.open(&shorter, &frame).is_err());
        let longer = FrameRecord { plain_bytes: plain_bytes + 1, ..record };
        assert!(matches!(opener.open(&longer, &frame), Err(FrameError::Length { .. })));
        let vast = FrameRecord { plain_bytes: u32::MAX, ..record };
        assert!(matches!(opener.open(&vast, &frame), Err(FrameError::TooLarge { .. })));
        let other = FrameRecord { sha256_128: [0; 16], ..record };
        assert!(matches!(opener.open(&other, &frame), Err(FrameError::Hash)));
    }
}
