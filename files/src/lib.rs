//! Backups of files: uploads, logs, whatever lies in folders beside a database.
//!
//! - [`backup`]: walks the policy's paths by directory handles and writes one tar stream into a sealed object, and one
//!   line an entry into a second one, the index. An incremental one leaves out what an earlier one holds.
//! - [`host_index`]: by which the host, who cannot read the earlier one, knows what has not changed.
//! - [`archive`]: the two objects opened again; the index is read, and contents are fetched by ranges.
//! - [`restore`]: puts all or some of it into a folder, and never anywhere else.
//!
//! The tar is an ordinary one: `age -d … | zstd -d | tar -x` restores it without pgproof. A restore by pgproof goes by the
//! index alone and never interprets the tar's headers.

mod ahead;
pub mod archive;
pub mod backup;
mod blocks;
pub mod entry;
pub mod host_index;
pub mod inventory;
pub mod path;
mod pax;
pub mod restore;
mod selection;
mod sparse;
mod tree;
mod watch;

pub use selection::{Filter, FilterError};
pub use watch::{Unwatched, Watch};
