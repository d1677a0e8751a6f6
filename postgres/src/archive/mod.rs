//! pg_dump's custom archive: its table of contents, and cutting it as it streams by.
//!
//! An archive is a *head* (header and table of contents) followed by *data blocks*, one for each table and each
//! group of large objects. A data block is a byte for its kind, the dump id of its entry, then chunks
//! (length, bytes) up to a chunk of length 0. [`toc`] reads the head; [`cutter`] cuts the whole stream into blocks
//! that begin and end at rows; [`selection`] decides which entries a partial restore needs. Nothing here does any
//! I/O but reading from the `Read` it was given, and nothing trusts a length that it read.

mod block;
pub mod cutter;
mod giants;
pub mod inflated;
pub mod origin;
mod reader;
mod repeated;
mod rows;
pub mod selection;
pub mod sequences;
mod source;
pub mod toc;
pub mod wording;

use std::io;

use thiserror::Error;

pub use block::{ArchiveIndex, BlockLayout, CutBlock, DataKind, DataSpan, Limits, Outcome, Span};
pub use cutter::Cutter;
pub use inflated::Inflated;
pub use repeated::repeated_contents;
pub use selection::{Filter, QualifiedName, Selection, SelectionError};
pub use toc::{Compression, Header, Toc, TocEntry};

pub(crate) use reader::{INT_BYTES, read_int};

/// What is wrong with an archive.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ArchiveError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("this is not an archive of pg_dump's custom format: {why}")]
    NotCustom { why: &'static str },
    #[error("the archive is damaged at byte {offset}: {what}")]
    Damaged { offset: u64, what: &'static str },
    #[error("the archive ends at byte {offset}, inside {place}")]
    Truncated { offset: u64, place: &'static str },
    #[error("the archive ends without the data of {missing} of its entries, first {first}")]
    DataMissing { missing: usize, first: String },
    #[error("the archive is refused at byte {offset}: {what} is longer than {limit} bytes")]
    TooLong { offset: u64, what: &'static str, limit: u64 },
    #[error("the archive's head cannot be read here: {reason}")]
    Unsupported { reason: String },
}

const STOPPED: &str = "pg_dump stopped before its end; its own messages say why";

impl ArchiveError {
    /// What an operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotCustom { .. } => {
                Some("only archives written by pg_dump --format=custom are read".to_owned())
            }
            Self::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(STOPPED.to_owned()),
            Self::Truncated { .. } | Self::DataMissing { .. } => Some(STOPPED.to_owned()),
            _ => None,
        }
    }
}
