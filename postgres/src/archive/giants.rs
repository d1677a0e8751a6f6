//! Rows longer than a block, hashed in pieces as the blocks go by.

use std::collections::BTreeMap;

use super::{ArchiveError, CutBlock, DataKind};
use crate::digest::{RowDigest, RowHash};
use crate::payload::{CopyText, PayloadError};

/// The row being hashed, and those that were.
#[derive(Debug, Default)]
pub(super) struct GiantRows {
    hash: RowHash,
    digests: BTreeMap<i32, RowDigest>,
}

impl GiantRows {
    /// Looks at a block for pieces of rows at its start and, if it ends inside one, at its end.
    pub(super) fn observe(&mut self, block: &CutBlock, ends_mid_row: bool) -> Result<(), ArchiveError> {
        let layout = &block.layout;
        if layout.starts_mid_row
            && let Some(span) = layout.spans.first()
        {
            let text = CopyText::resume(layout.open_chunk, true);
            self.end_row(span.dump_id, &block.bytes[span.range.clone()], text)?;
        }
        match layout.spans.last() {
            Some(span) if ends_mid_row && span.kind == DataKind::Table => {
                let continues = span.range.start == 0;
                let open_chunk = if continues { layout.open_chunk } else { 0 };
                let text = CopyText::resume(open_chunk, continues && layout.starts_mid_row);
                self.begin_row(&block.bytes[span.range.clone()], text, continues && layout.starts_mid_row)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn into_digests(self) -> BTreeMap<i32, RowDigest> {
        self.digests
    }

    /// Hashes up to the first line end; a block without one is wholly inside the row.
    fn end_row(&mut self, dump_id: i32, bytes: &[u8], mut text: CopyText) -> Result<(), ArchiveError> {
        for piece in text.pieces(bytes) {
            let piece = piece.map_err(damaged)?;
            if let Some(end) = memchr::memchr(b'\n', piece) {
                self.hash.update(&piece[..end]);
                self.digests.entry(dump_id).or_default().add_row(self.hash.take());
                return Ok(());
            }
            self.hash.update(piece);
        }
        Ok(())
    }

    /// Hashes what follows the last line end, unless that was done because the whole block is one row's middle.
    fn begin_row(&mut self, bytes: &[u8], mut text: CopyText, mut done: bool) -> Result<(), ArchiveError> {
        for piece in text.pieces(bytes) {
            let piece = piece.map_err(damaged)?;
            match memchr::memrchr(b'\n', piece) {
                Some(end) => {
                    done = false;
                    self.hash.take();
                    self.hash.update(&piece[end + 1..]);
                }
                None if done => {}
                None => self.hash.update(piece),
            }
        }
        Ok(())
    }
}

/// The cutter has read these chunks before, so that this is a bug and not a damaged archive.
fn damaged(_: PayloadError) -> ArchiveError {
    ArchiveError::Damaged { offset: 0, what: "a row's chunks read differently the second time" }
}
