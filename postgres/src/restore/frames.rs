//! Where an archive's frames lie, counted up from the inventory's lengths.

use std::ops::Range;

use pgproof_repository::inventory::Archive;
use pgproof_repository::sealed::FrameRecord;

use super::error::RestoreError;

/// One frame and how to begin reading in it.
#[derive(Debug, Clone)]
pub(crate) struct PlacedFrame {
    pub(crate) record: FrameRecord,
    /// Payload bytes at the frame's start that belong to a chunk begun before it.
    pub(crate) open_chunk: u32,
    /// The frame begins inside a row, so nobody can begin there.
    pub(crate) starts_mid_row: bool,
}

impl PlacedFrame {
    /// The frame's bytes in the archive.
    pub(crate) fn plain(&self) -> Range<u64> {
        self.record.plain_offset..self.record.plain_offset + u64::from(self.record.plain_bytes)
    }
}

/// The frames of one archive, in order and without gaps.
#[derive(Debug, Clone, Default)]
pub(crate) struct FrameMap {
    frames: Vec<PlacedFrame>,
}

impl FrameMap {
    pub(crate) fn new(archive: &Archive) -> Result<Self, RestoreError> {
        let (mut sealed_offset, mut plain_offset) = (0, 0);
        let mut frames = Vec::with_capacity(archive.frames.len());
        for frame in &archive.frames {
            let (plain_bytes, sealed_bytes) = (frame.0, frame.1);
            let sha256_128 = parse_hash(&frame.4)?;
            let record = FrameRecord { sealed_offset, sealed_bytes, plain_offset, plain_bytes, sha256_128 };
            frames.push(PlacedFrame { record, open_chunk: frame.2, starts_mid_row: frame.3 });
            sealed_offset += u64::from(sealed_bytes);
            plain_offset += u64::from(plain_bytes);
        }
        let map = Self { frames };
        for table in &archive.tables {
            map.check_inside(table.start..table.end)?;
        }
        for blobs in &archive.blobs {
            map.check_inside(blobs.start..blobs.end)?;
        }
        map.check_inside(0..archive.head_bytes)?;
        Ok(map)
    }

    pub(crate) fn get(&self, index: usize) -> &PlacedFrame {
        &self.frames[index]
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Length of the whole archive.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.frames.last().map_or(0, |last| last.plain().end)
    }

    /// Length of the stream that the frames make up.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.frames.last().map_or(0, |last| last.record.sealed_end())
    }

    /// The frames that hold bytes of `range`.
    pub(crate) fn overlapping(&self, range: &Range<u64>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let first = self.frames.partition_point(|frame| frame.plain().end <= range.start);
        let end = self.frames.partition_point(|frame| frame.record.plain_offset < range.end);
        first..end.max(first)
    }

    fn check_inside(&self, range: Range<u64>) -> Result<(), RestoreError> {
        if range.start > range.end || range.end > self.plain_bytes() {
            let why = format!("bytes {}..{} lie outside its frames", range.start, range.end);
            return Err(RestoreError::Inventory { why });
        }
        Ok(())
    }
}

/// 16 bytes in hexadecimal.
fn parse_hash(text: &str) -> Result<[u8; 16], RestoreError> {
    let well_formed = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let value = if well_formed { u128::from_str_radix(text, 16).ok() } else { None };
    value.map(u128::to_be_bytes).ok_or_else(|| RestoreError::Inventory {
        why: "a frame's hash is not 32 hexadecimal digits".to_owned(),
    })
}
