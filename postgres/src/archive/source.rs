//! The bytes of the block at hand: read in bulk, parsed in place, given away without copying.

use std::fmt;
use std::io::{ErrorKind, Read};

use super::ArchiveError;

/// A reader and what has been read but not yet given away.
pub(super) struct Source<R> {
    reader: R,
    buffer: Vec<u8>,
    filled: usize,
    offset: u64,
    target: usize,
}

impl<R> fmt::Debug for Source<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("offset", &self.offset)
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Source<R> {
    /// Room offered to one read: enough for a whole pipe, little enough that what lies behind a cut is soon copied.
    pub(super) const READ: usize = 256 << 10;

    pub(super) fn new(reader: R, target: usize) -> Self {
        Self { reader, buffer: Vec::with_capacity(target + Self::READ), filled: 0, offset: 0, target }
    }

    /// Offset in the archive of the first byte held.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    pub(super) fn filled(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Reads once more; 0 is the end.
    pub(super) fn fill(&mut self) -> Result<usize, ArchiveError> {
        if self.buffer.len() < self.filled + Self::READ / 4 {
            self.buffer.resize(self.filled + Self::READ, 0);
        }
        loop {
            match self.reader.read(&mut self.buffer[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Read(error)),
            }
        }
    }

    /// Reads once more, where an end is out of place.
    pub(super) fn fill_or(&mut self, place: &'static str) -> Result<(), ArchiveError> {
        match self.fill()? {
            0 => Err(ArchiveError::Truncated { offset: self.offset + self.filled as u64, place }),
            _ => Ok(()),
        }
    }

    /// Gives away the first `length` bytes and keeps the rest.
    pub(super) fn split(&mut self, length: usize) -> Vec<u8> {
        let rest = &self.buffer[length..self.filled];
        let mut next = Vec::with_capacity(rest.len().max(self.target) + Self::READ);
        next.extend_from_slice(rest);
        self.filled = rest.len();
        self.offset += length as u64;
        let mut block = std::mem::replace(&mut self.buffer, next);
        block.truncate(length);
        block
    }
}
