//! Finding row ends in the chunks of one table.
//!
//! The end of a table's text is a line `\.` and two empty lines. Those are no rows, so none of their line ends is a
//! place to cut at: a block that began there would seem to begin with empty rows.

/// The longest end of a table's data that matters: a line end, then `\.` and its two empty lines.
const TRAILER: &[u8; 6] = b"\n\\.\n\n\n";

/// A table whose end has not come yet.
#[derive(Debug)]
pub(super) struct OpenTable {
    pub(super) dump_id: i32,
    pub(super) start: u64,
    /// Where its chunks begin in the block at hand.
    pub(super) span_start: usize,
    pub(super) chunk_left: u32,
    /// The last payload bytes, oldest first in the highest byte.
    tail: u64,
    /// The line `\.` has been seen.
    pub(super) trailer: bool,
    pub(super) was_cut: bool,
}

impl OpenTable {
    pub(super) fn new(dump_id: i32, start: u64, span_start: usize) -> Self {
        // As if a line had ended: the trailer of a table without rows is then found like any other.
        let tail = u64::from(b'\n');
        Self { dump_id, start, span_start, chunk_left: 0, tail, trailer: false, was_cut: false }
    }

    /// How many bytes of `payload` follow its last row end; `None` without one, or from the trailer on.
    #[inline]
    pub(super) fn last_row_end(&mut self, payload: &[u8]) -> Option<usize> {
        self.remember(payload);
        if self.trailer {
            return None;
        }
        if payload.last() != Some(&b'\n') {
            return memchr::memrchr(b'\n', payload).map(|at| payload.len() - at - 1);
        }
        match self.trailer_bytes() {
            0 => Some(0),
            bytes => {
                self.trailer = true;
                (bytes <= payload.len()).then_some(bytes)
            }
        }
    }

    /// Whether the last bytes were the whole trailer, as those of every table are.
    pub(super) fn is_complete(&self) -> bool {
        self.tail.to_be_bytes()[2..] == *TRAILER
    }

    #[inline]
    fn remember(&mut self, payload: &[u8]) {
        if let Some(last) = payload.last_chunk::<8>() {
            self.tail = u64::from_be_bytes(*last);
        } else {
            self.tail = payload.iter().fold(self.tail, |tail, byte| tail << 8 | u64::from(*byte));
        }
    }

    /// How many of the last payload bytes are the line `\.` and what follows it.
    #[inline]
    fn trailer_bytes(&self) -> usize {
        let tail = self.tail.to_be_bytes();
        (3..=5).find(|bytes| tail[7 - bytes..] == TRAILER[..=*bytes]).unwrap_or(0)
    }
}
