//! Whoever looks on while files are read or written.

use crate::entry::Note;
use crate::path::StoredPath;

/// Told of what is in work, from the thread that works.
pub trait Watch {
    /// So many bytes of contents went by.
    fn advance(&self, bytes: u64);

    /// This one comes next.
    fn at(&self, path: &StoredPath);

    /// It is not stored as it was.
    fn noted(&self, path: &StoredPath, note: Note);

    /// Whether to stop.
    fn is_cancelled(&self) -> bool;
}

/// Nobody looks on.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn advance(&self, _bytes: u64) {}

    fn at(&self, _path: &StoredPath) {}

    fn noted(&self, _path: &StoredPath, _note: Note) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
