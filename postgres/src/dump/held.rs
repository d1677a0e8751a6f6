//! A dump of everything that goes no further than its table of contents.
//!
//! Its contents say, in `pg_dump`'s own words, what a complete dump holds: whatever is divided among several streams is
//! held against them. And as long as it is held it keeps the locks of all tables, so that none of these is renamed or
//! dropped before the streams have locked them, too.

use thiserror::Error;

use super::{DumpError, DumpStream, RunningDump};
use crate::archive::{ArchiveError, Toc};

/// The dump, which stands still. Dropping it ends the program.
#[derive(Debug)]
pub struct HeldDump {
    toc: Toc,
    _dump: RunningDump,
    // Left unread, so that the program waits.
    _stream: Option<DumpStream>,
}

impl HeldDump {
    /// Reads the contents and no more; blocks.
    pub fn of(mut dump: RunningDump) -> Result<Self, HeldDumpError> {
        let mut stream = dump.take_stdout();
        let read = stream.as_mut().map(Toc::read);
        match read {
            Some(Ok((toc, _))) => Ok(Self { toc, _stream: stream, _dump: dump }),
            Some(Err(ArchiveError::Unsupported { reason })) => Err(HeldDumpError::Foreign { reason }),
            // A stream that ends too early is explained by how the program ended, if that was not well.
            Some(Err(source)) => match dump.wait() {
                Err(source) => Err(HeldDumpError::Dump { source }),
                Ok(_) => Err(HeldDumpError::Archive { source }),
            },
            None => Err(HeldDumpError::NoOutput),
        }
    }

    pub fn contents(&self) -> &Toc {
        &self.toc
    }
}

#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeldDumpError {
    #[error("the contents of the dump cannot be had")]
    Dump {
        #[source]
        source: DumpError,
    },
    #[error("pg_dump's output is not a whole archive")]
    Archive {
        #[source]
        source: ArchiveError,
    },
    /// A version of the format that is not known here.
    #[error("the contents of the dump cannot be read: {reason}")]
    Foreign { reason: String },
    #[error("pg_dump has no output")]
    NoOutput,
}
