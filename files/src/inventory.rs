//! The inventory of a backup of files: where the frames of the tar and of its index lie, and how much is in them.
//!
//! It is small, because every entry of the tree is in the index and not here; so it is read whole, against the hash
//! that the signed manifest has. With its frames' hashes, each ranged read of the two large objects is authenticated.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use pgproof_repository::sealed::FrameRecord;
use pgproof_repository::versioned::{self, Refused};
use serde::{Deserialize, Serialize};

use crate::entry::{Body, Entry, Note};
use crate::path::StoredPath;

pub const FORMAT: &str = "pgproof-files-inventory";
pub const VERSION: u32 = 1;

/// Version 1 of the stored inventory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub format: String,
    pub version: u32,
    /// The tar.
    pub data: Frames,
    /// One JSON line for each entry, in the tar's order; a frame ends at a line's end.
    pub index: Frames,
    /// The first path in each of the index's frames, whose entries are in the order of their paths: so a few files are
    /// found without reading all of it.
    #[serde(default)]
    pub index_starts: Vec<StoredPath>,
    pub totals: Totals,
}

/// An object's frames: `[plain bytes, sealed bytes, first 16 bytes of the SHA-256 of the sealed bytes in hexadecimal]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frames {
    pub object: String,
    pub frames: Vec<Frame>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame(pub u32, pub u32, pub String);

/// How much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub files: u64,
    pub folders: u64,
    pub symlinks: u64,
    pub hard_links: u64,
    /// Of files' contents, holes left out.
    pub bytes: u64,
    /// What entries' notes say, by number.
    #[serde(default)]
    pub notes: BTreeMap<Note, u64>,
}

impl Totals {
    pub fn add(&mut self, entry: &Entry) {
        match &entry.body {
            Body::Folder => self.folders += 1,
            Body::File(content) => {
                self.files += 1;
                self.bytes += content.stored_bytes();
            }
            Body::Symlink { .. } => self.symlinks += 1,
            Body::HardLink { .. } => self.hard_links += 1,
            Body::LeftOut => {}
        }
        if let Some(note) = entry.note {
            *self.notes.entry(note).or_default() += 1;
        }
    }

    /// Whether there is anything but folders.
    pub fn is_empty(&self) -> bool {
        self.files + self.symlinks + self.hard_links == 0
    }

    /// Entries that are missing or damaged.
    pub fn losses(&self) -> u64 {
        self.notes.iter().filter(|(note, _)| note.is_loss()).map(|(_, count)| count).sum()
    }

    /// A line for each kind of note.
    pub fn warnings(&self) -> Vec<String> {
        self.notes.iter().map(|(note, count)| format!("{count} {}", note.as_str())).collect()
    }
}

impl Frames {
    pub fn of<T>(object: String, frames: &[(FrameRecord, T)]) -> Self {
        let frame = |(record, _): &(FrameRecord, T)| {
            Frame(record.plain_bytes, record.sealed_bytes, HEXLOWER.encode(&record.sha256_128))
        };
        Self { object, frames: frames.iter().map(frame).collect() }
    }

    /// With each frame's place.
    pub fn records(&self) -> Result<Vec<FrameRecord>, InventoryError> {
        let (mut plain_offset, mut sealed_offset) = (0, 0);
        let records = self.frames.iter().map(|Frame(plain_bytes, sealed_bytes, hash)| {
            let hash = HEXLOWER.decode(hash.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
            let sha256_128 = hash.ok_or(InventoryError::FrameHash)?;
            let (plain_bytes, sealed_bytes) = (*plain_bytes, *sealed_bytes);
            let record = FrameRecord { sealed_offset, sealed_bytes, plain_offset, plain_bytes, sha256_128 };
            (plain_offset, sealed_offset) = (record.plain_end(), record.sealed_end());
            Ok(record)
        });
        records.collect()
    }
}

/// Reads an inventory, refusing a newer version by name.
pub fn parse(bytes: &[u8]) -> Result<Inventory, InventoryError> {
    versioned::parse(bytes, FORMAT, VERSION).map_err(|refused| match refused {
        Refused::Unreadable { source } => InventoryError::Unreadable { source },
        Refused::OtherFormat { format } => InventoryError::NotOfFiles { format },
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
    #[error("format is {format:?}, not an inventory of files")]
    NotOfFiles { format: String },
    #[error("inventory has version {version}; this program reads up to version {VERSION}")]
    Newer { version: u32 },
    #[error("a frame has no usable hash")]
    FrameHash,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        const GOLDEN_V1: &str = include_str!("../../repository/fixtures/files-inventory.v1.json");
        let inventory: Inventory = serde_json::from_str(GOLDEN_V1).unwrap();
        assert_eq!(inventory.totals.losses(), 0);
        assert_eq!(serde_json::to_string_pretty(&inventory).unwrap() + "\n", GOLDEN_V1);
    }
}
