//! The inventory: per table its rows, its digest and where its bytes lie. Private (it names tables), so it is sealed.
//!
//! Its SHA-256 stands in the signed manifest, and it holds a hash of every frame: so each ranged read of an archive
//! is authenticated before it is decoded, although age itself does not say who encrypted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub const FORMAT: &str = "pgproof-inventory";
pub const VERSION: u32 = 1;
/// Largest inventory that is read: about 25 million frames of 4 MiB, 100 TB of archive.
pub const INVENTORY_BYTES_MAX: u64 = 2 << 30;

/// Version 1 of the stored inventory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub format: String,
    pub version: u32,
    /// One entry for each archive object, in the order of their names.
    pub archives: Vec<Archive>,
    /// What the server said of the database and itself, kept as the PostgreSQL side wrote it.
    pub facts: serde_json::Value,
    #[serde(default)]
    pub server_settings: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Archive {
    pub object: String,
    /// Bytes of header and table of contents at the start; 0 when the archive is not indexed.
    pub head_bytes: u64,
    pub tables: Vec<Table>,
    /// Data blocks of large objects.
    pub blobs: Vec<Blobs>,
    pub frames: Vec<Frame>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The entry in the archive's table of contents.
    pub dump_id: i32,
    pub schema: String,
    pub name: String,
    /// `COPY schema.table (columns) FROM stdin;`
    pub copy: String,
    pub rows: u64,
    /// 32 hexadecimal digits: the sum modulo 2^128 of XXH3-128 over the rows.
    pub digest: String,
    /// Plaintext bytes of the data block, from its kind byte to after its last chunk: `start..end`.
    pub start: u64,
    pub end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blobs {
    pub dump_id: i32,
    /// Plaintext bytes of the whole block with its header: `start..end`.
    pub start: u64,
    pub end: u64,
}

/// One zstd frame: `[plain bytes, sealed bytes, open chunk, starts mid-row, first 16 bytes of the SHA-256 of the sealed bytes in hexadecimal]`.
/// Offsets are the sums of what comes before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame(pub u32, pub u32, pub u32, pub bool, pub String);

/// Reads an inventory, refusing a newer version by name.
pub fn parse(bytes: &[u8]) -> Result<Inventory, InventoryError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|source| InventoryError::Unreadable { source })?;
    match (head.format.as_str(), head.version) {
        (FORMAT, VERSION) => {
            serde_json::from_slice(bytes).map_err(|source| InventoryError::Unreadable { source })
        }
        (FORMAT, version) => Err(InventoryError::Newer { version }),
        _ => Err(InventoryError::NotAnInventory { format: head.format }),
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InventoryError {
    #[error("inventory cannot be read")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
    #[error("format is {format:?}, not a pgproof inventory")]
    NotAnInventory { format: String },
    #[error("inventory has version {version}; this program reads up to version {VERSION}")]
    Newer { version: u32 },
}
