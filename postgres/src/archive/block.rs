//! What the cutter gives away: blocks, where they lie, and what was found in the archive.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Toc;
use crate::digest::RowDigest;
use crate::large_objects::LargeObjectDigest;

/// How large blocks are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A block is cut at the last row end before this.
    pub target: usize,
    /// No block is longer, whatever its rows: it is held in memory as a whole by every reader.
    pub hard: usize,
    /// A block that has reached this length ends before the next table.
    pub share: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { target: 4 << 20, hard: 8 << 20, share: 512 << 10 }
    }
}

/// What a data block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// Rows of one table, as COPY text.
    Table,
    /// Large objects.
    Blobs,
}

/// The part of one entry's data that lies in a block: chunks, without the header in front of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub dump_id: i32,
    pub kind: DataKind,
    pub range: Range<usize>,
}

/// Where a block lies and how to begin reading in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockLayout {
    /// Offset of the block's first byte in the archive.
    pub plain_offset: u64,
    /// Payload bytes at the block's start that belong to a chunk begun in an earlier block.
    pub open_chunk: u32,
    /// The block begins inside a row that is longer than a block.
    pub starts_mid_row: bool,
    pub spans: Vec<Span>,
}

/// Consecutive bytes of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutBlock {
    pub bytes: Vec<u8>,
    pub layout: BlockLayout,
}

/// Where an entry's data lies in the archive: from its kind byte to after its last chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataSpan {
    pub dump_id: i32,
    pub kind: DataKind,
    pub start: u64,
    pub end: u64,
}

/// What was found in an archive that was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveIndex {
    pub toc: Toc,
    /// Length of header and table of contents, which are a readable archive without data.
    pub head_bytes: u64,
    pub data: Vec<DataSpan>,
    /// The rows that no block holds whole; they are to be added to the tables' digests.
    pub giant_rows: BTreeMap<i32, RowDigest>,
    pub large_objects: LargeObjectDigest,
    pub archive_bytes: u64,
}

/// How an archive came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Indexed(Box<ArchiveIndex>),
    /// The archive is passed on unread, in blocks cut anywhere, and why.
    Uncut {
        reason: String,
        archive_bytes: u64,
    },
}
