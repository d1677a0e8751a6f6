//! The inventory: per table its rows, its digest and where its bytes lie. Private (it names tables), so it is sealed.
//!
//! Its SHA-256 stands in the signed manifest, and it holds a hash of every frame: so each ranged read of an archive
//! is authenticated before it is decoded, although age itself does not say who encrypted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::versioned::{self, Refused};

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
    /// The values that the dump gives to sequences. `None`: not recorded, which is not the same as none at all.
    #[serde(default)]
    pub sequences: Option<Vec<Sequence>>,
    /// What the dump's large objects amount to. `None`: not recorded.
    #[serde(default)]
    pub large_objects: Option<LargeObjects>,
    /// The database's objects beside its rows. `None`: not recorded.
    #[serde(default)]
    pub structure: Option<Structure>,
    /// How rows are worded, where it is not by the pins of pgproof's own sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wording: Option<Wording>,
}

/// Settings of the session that wrote the rows of an imported dump: read back under others, the same rows are other text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wording {
    /// As PostgreSQL names it.
    pub encoding: String,
    /// `TimeZone`, by its name.
    pub time_zone: String,
}

/// What the database was beside its rows, at the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Structure {
    pub server_major: u32,
    pub objects: Vec<Object>,
    /// Constraints that were never checked against all rows.
    pub not_validated: Vec<String>,
    /// Materialized views that held nothing.
    pub not_populated: Vec<String>,
    /// Versions of the collations in use that have one.
    pub collation_versions: BTreeMap<String, String>,
    /// Relations that the policy left out of the dump; neither they nor what is theirs is among the objects.
    pub left_out: Vec<String>,
}

/// One object of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub kind: String,
    /// Quoted where SQL needs it, with its schema or its table: `body on public.orders`.
    pub name: String,
    /// Oid, in the source, of the relation that it is or belongs to; 0 if there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub relation: u32,
    /// 16 hexadecimal digits: a hash of its definition.
    pub digest: String,
}

fn is_zero(oid: &u32) -> bool {
    *oid == 0
}

/// A sequence as the dump sets it, which may be later than the snapshot: sequences know no transactions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sequence {
    pub schema: String,
    pub name: String,
    pub last_value: i64,
    pub is_called: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeObjects {
    pub count: u64,
    pub bytes: u64,
    /// 32 hexadecimal digits: the sum modulo 2^128 of XXH3-128 over each object's id (4 bytes, big endian) and contents.
    pub digest: String,
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
    versioned::parse(bytes, FORMAT, VERSION).map_err(|refused| match refused {
        Refused::Unreadable { source } => InventoryError::Unreadable { source },
        Refused::OtherFormat { format } => InventoryError::NotAnInventory { format },
        Refused::Newer { version } => InventoryError::Newer { version },
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_inventory_does_not_record_is_not_taken_for_none() {
        let head = r#""format": "pgproof-inventory", "version": 1, "archives": [], "facts": null"#;
        let older = parse(format!("{{{head}}}").as_bytes()).unwrap();
        assert_eq!((&older.sequences, &older.large_objects, &older.structure), (&None, &None, &None));
        let newer = parse(format!("{{{head}, \"sequences\": []}}").as_bytes()).unwrap();
        assert_eq!(newer.sequences, Some(Vec::new()));
        let of = |relation| Object { kind: "view".into(), name: "a".into(), relation, digest: "d".into() };
        let written = [0, 7].map(|relation| serde_json::to_string(&of(relation)).unwrap());
        assert!(!written[0].contains("relation") && written[1].contains("\"relation\":7"), "{written:?}");
        let read_again = parse(&serde_json::to_vec(&newer).unwrap()).unwrap();
        assert_eq!(read_again, newer);
    }
}
