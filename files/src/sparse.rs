//! Where a file has holes, as the file system tells it, so that they are neither read nor stored.

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::entry::Extent;

/// Extents that are told apart in one file. Of a file in more pieces the rest is stored with its holes as zeros, so that
/// a hostile or odd file cannot make an index line of any length.
const EXTENTS_MAX: usize = 8192;
/// `st_blocks` counts in these, whatever the file system's own blocks are.
const BLOCK_BYTES: u64 = 512;

/// What of the first `size` bytes is not a hole; `None` where there is none, or where the file system does not tell.
pub(crate) fn extents(file: BorrowedFd<'_>, size: u64, blocks: u64) -> Option<Vec<Extent>> {
    if blocks.saturating_mul(BLOCK_BYTES) >= size {
        return None;
    }
    let mut extents = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = match extents.len() + 1 {
            EXTENTS_MAX => size,
            _ => seek(file, SeekFrom::Hole(start)).ok()?.min(size),
        };
        if end <= start {
            // The file is being changed; what it has is stored whole.
            return None;
        }
        extents.push(Extent(start, end - start));
        position = end;
    }
    (extents != [Extent(0, size)]).then_some(extents)
}
