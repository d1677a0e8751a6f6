//! Counting and hashing rows, so that two copies of a table can be compared without either.
//!
//! A row is a line of COPY text. A table's digest is the number of its lines and the sum, modulo 2^128, of a 128-bit
//! hash of each: it does not depend on their order, and the digests of a table's parts add up to that of the table.

use std::fmt;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use thiserror::Error;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::archive::{BlockLayout, CutBlock, DataKind};
use crate::payload::{CopyText, PayloadError};

/// How many rows, and the sum of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct RowDigest {
    pub rows: u64,
    pub sum: u128,
}

impl RowDigest {
    /// Counts one row by its hash.
    #[inline]
    pub fn add_row(&mut self, hash: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

impl Add for RowDigest {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, sum: self.sum.wrapping_add(other.sum) }
    }
}

impl AddAssign for RowDigest {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for RowDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}", self.rows, self.sum)
    }
}

#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("a row digest is a count, a colon and 32 hexadecimal digits")]
pub struct RowDigestFormat;

impl FromStr for RowDigest {
    type Err = RowDigestFormat;

    fn from_str(text: &str) -> Result<Self, RowDigestFormat> {
        let (rows, sum) = text.split_once(':').ok_or(RowDigestFormat)?;
        let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if sum.len() != 32 || !plain(sum) || !plain(rows) {
            return Err(RowDigestFormat);
        }
        let rows = rows.parse().map_err(|_| RowDigestFormat)?;
        let sum = u128::from_str_radix(sum, 16).map_err(|_| RowDigestFormat)?;
        Ok(Self { rows, sum })
    }
}

/// The digest of rows given one by one, each without its line end.
pub fn digest_rows<'a>(rows: impl IntoIterator<Item = &'a [u8]>) -> RowDigest {
    let mut digest = RowDigest::default();
    rows.into_iter().for_each(|row| digest.add_row(xxh3_128(row)));
    digest
}

/// The digests of the tables in one block, without the rows that the block does not hold whole.
pub fn digest_block(block: &CutBlock) -> Result<Vec<(i32, RowDigest)>, PayloadError> {
    digest_bytes(&block.bytes, &block.layout)
}

/// As [`digest_block`], for a block that was taken apart.
pub fn digest_bytes(bytes: &[u8], layout: &BlockLayout) -> Result<Vec<(i32, RowDigest)>, PayloadError> {
    let tables = layout.spans.iter().filter(|span| span.kind == DataKind::Table);
    tables
        .map(|span| {
            let continues = span.range.start == 0;
            let mid_row = continues && layout.starts_mid_row;
            let mut text = CopyText::resume(if continues { layout.open_chunk } else { 0 }, mid_row);
            let mut hasher = if mid_row { RowHasher::after_first_line() } else { RowHasher::default() };
            let chunks = bytes.get(span.range.clone()).ok_or(PayloadError::SplitHeader)?;
            for piece in text.pieces(chunks) {
                hasher.update(piece?);
            }
            Ok((span.dump_id, hasher.whole_rows()))
        })
        .collect()
}

/// Digests COPY text that comes in pieces, cut anywhere.
#[derive(Debug, Default)]
pub struct RowHasher {
    digest: RowDigest,
    partial: RowHash,
    skipping: bool,
}

/// COPY text ended inside a line.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("the rows end inside a row")]
pub struct UnfinishedRow;

impl RowHasher {
    /// Leaves out everything up to the first line end.
    pub fn after_first_line() -> Self {
        Self { skipping: true, ..Self::default() }
    }

    #[inline]
    pub fn update(&mut self, mut text: &[u8]) {
        if self.skipping || self.partial.started() {
            let Some(end) = memchr::memchr(b'\n', text) else {
                if !self.skipping {
                    self.partial.update(text);
                }
                return;
            };
            if !std::mem::take(&mut self.skipping) {
                self.partial.update(&text[..end]);
                self.digest.add_row(self.partial.take());
            }
            text = &text[end + 1..];
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', text) {
            self.digest.add_row(xxh3_128(&text[start..end]));
            start = end + 1;
        }
        if start < text.len() {
            self.partial.update(&text[start..]);
        }
    }

    /// The digest of the rows that ended; one that did not is left out.
    pub fn whole_rows(self) -> RowDigest {
        self.digest
    }

    /// The digest of text that must have ended at a line's end.
    pub fn finish(self) -> Result<RowDigest, UnfinishedRow> {
        if self.partial.started() || self.skipping { Err(UnfinishedRow) } else { Ok(self.digest) }
    }
}

/// The hash of one row that comes in pieces.
#[derive(Default)]
pub(crate) struct RowHash {
    state: Box<Xxh3>,
    started: bool,
}

impl fmt::Debug for RowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowHash").field("started", &self.started).finish_non_exhaustive()
    }
}

impl RowHash {
    pub(crate) fn started(&self) -> bool {
        self.started
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.started = true;
        self.state.update(piece);
    }

    /// The row's hash; the next row begins.
    pub(crate) fn take(&mut self) -> u128 {
        let hash = self.state.digest128();
        self.state.reset();
        self.started = false;
        hash
    }
}
