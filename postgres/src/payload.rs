//! From the chunks of an archive to COPY text.
//!
//! A reader may begin at any block that does not start inside a row, and go on through as many blocks as it likes:
//! [`CopyText`] carries what a chunk or a line leaves open from one to the next.

use std::ops::Range;

use thiserror::Error;

use crate::archive::{INT_BYTES, read_int};

/// What the text of every table ends with; none of it is a row.
const TRAILER: &[u8] = b"\\.\n\n\n";
/// Kind byte and dump id, in front of a table's chunks.
const DATA_HEADER: u64 = 1 + INT_BYTES as u64;

#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayloadError {
    #[error("a chunk has a negative length")]
    NegativeChunk,
    #[error("a block ends inside a chunk's header")]
    SplitHeader,
}

/// The COPY text of a table, taken out of its chunks.
#[derive(Debug, Clone)]
pub struct CopyText {
    chunk_left: u32,
    at_line_start: bool,
    /// A backslash at the start of a line and the end of a chunk: data, or the first byte of the trailer.
    held: bool,
    ended: bool,
}

impl CopyText {
    /// From the start of a block, as its layout says.
    pub fn resume(open_chunk: u32, starts_mid_row: bool) -> Self {
        Self { chunk_left: open_chunk, at_line_start: !starts_mid_row, held: false, ended: false }
    }

    /// The pieces of text in `bytes`, which follow those of the call before.
    pub fn pieces<'a, 's>(&'s mut self, bytes: &'a [u8]) -> Pieces<'a, 's> {
        Pieces { text: self, bytes, after_held: None }
    }

    /// Whether the end of the table was reached.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes the payload of one piece of a chunk; answers how much of it is rows.
    fn rows_in(&mut self, payload: &[u8]) -> usize {
        let rows = self.before_trailer(payload);
        if let Some(last) = payload.last() {
            self.at_line_start = *last == b'\n';
        }
        rows
    }

    #[inline]
    fn before_trailer(&mut self, payload: &[u8]) -> usize {
        let length = payload.len();
        match payload.last() {
            Some(b'\n' | b'.') => {}
            Some(b'\\') if self.is_line_start(payload, length - 1) => {
                self.held = true;
                return length - 1;
            }
            _ => return length,
        }
        for known in 2..=TRAILER.len().min(length) {
            let start = length - known;
            if payload[start..] == TRAILER[..known] && self.is_line_start(payload, start) {
                self.ended = true;
                return start;
            }
        }
        length
    }

    fn is_line_start(&self, payload: &[u8], at: usize) -> bool {
        if at == 0 { self.at_line_start } else { payload[at - 1] == b'\n' }
    }
}

/// Pieces of COPY text: rows and parts of rows, in order, without the trailer.
#[derive(Debug)]
pub struct Pieces<'a, 's> {
    text: &'s mut CopyText,
    bytes: &'a [u8],
    after_held: Option<&'a [u8]>,
}

impl<'a> Pieces<'a, '_> {
    /// The payload up to the next chunk's header or the end of the bytes; `None` at the end.
    fn payload(&mut self) -> Result<Option<&'a [u8]>, PayloadError> {
        if self.text.chunk_left == 0 {
            if self.bytes.is_empty() {
                return Ok(None);
            }
            let length = read_int(self.bytes).ok_or(PayloadError::SplitHeader)?;
            let length = u32::try_from(length).map_err(|_| PayloadError::NegativeChunk)?;
            self.bytes = &self.bytes[INT_BYTES..];
            if length == 0 {
                self.text.ended = true;
                return Ok(None);
            }
            self.text.chunk_left = length;
        }
        let count = self.bytes.len().min(self.text.chunk_left as usize);
        let (payload, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        self.text.chunk_left -= count as u32;
        Ok((count > 0).then_some(payload))
    }
}

impl<'a> Iterator for Pieces<'a, '_> {
    type Item = Result<&'a [u8], PayloadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(piece) = self.after_held.take() {
            return Some(Ok(piece));
        }
        while !self.text.ended {
            let payload = match self.payload() {
                Ok(payload) => payload?,
                Err(error) => {
                    self.text.ended = true;
                    return Some(Err(error));
                }
            };
            let held = std::mem::take(&mut self.text.held);
            if held && payload[0] == b'.' {
                self.text.ended = true;
                return None;
            }
            if held {
                self.text.at_line_start = false;
            }
            let rows = &payload[..self.text.rows_in(payload)];
            if held {
                self.after_held = Some(rows).filter(|rows| !rows.is_empty());
                return Some(Ok(b"\\"));
            }
            if !rows.is_empty() {
                return Some(Ok(rows));
            }
        }
        None
    }
}

/// The part of a block, which begins at `plain_offset` and is `length` long, that holds chunks of the table whose
/// data lies at `table` in the archive.
pub fn chunks_in_block(plain_offset: u64, length: usize, table: &Range<u64>) -> Range<usize> {
    let within = |offset: u64| {
        usize::try_from(offset.saturating_sub(plain_offset)).map_or(length, |offset| offset.min(length))
    };
    let start = within(table.start + DATA_HEADER);
    start..within(table.end).max(start)
}
