//! From `pg_dump`'s pipe to the parts of an upload: cut at rows, compress, digest, encrypt. All on threads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use pgproof_postgres::archive::sequences::{SequenceValue, UnknownStatement};
use pgproof_postgres::archive::{
    ArchiveError, ArchiveIndex, BlockLayout, CutBlock, Cutter, Outcome, Toc, TocEntry,
};
use pgproof_postgres::digest::{RowDigest, digest_bytes};
use pgproof_postgres::division::Misdivided;
use pgproof_postgres::large_objects::LargeObjectDigest;
use pgproof_postgres::payload::PayloadError;
use pgproof_repository::inventory;
use pgproof_repository::sealed::{Ciphertext, FrameRecord, Plaintext, SealError, SealJob, Sealer};

/// Entries of a table of contents that are relations; the oids of others are of other catalogs.
const RELATIONS: [&str; 5] = ["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"];

/// What a worker found in one block.
pub(super) type BlockDigests = Result<Vec<(i32, RowDigest)>, PayloadError>;

/// An archive that went through wholly.
#[derive(Debug)]
pub(crate) struct SealedArchive {
    pub plaintext: Plaintext,
    pub ciphertext: Ciphertext,
    pub found: Found,
    frames: Vec<(FrameRecord, BlockLayout)>,
    digests: BTreeMap<i32, RowDigest>,
}

/// What the archive turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    Indexed(Box<ArchiveIndex>),
    /// A format that is not known yet: a good backup, restored serially, and why.
    Uncut {
        reason: String,
    },
}

/// Reads `archive` to its end and seals it. `contents` is asked whether they are what was wanted, before any row is read;
/// `advance` is told of every block, and of the last table in it.
pub(crate) fn seal(
    archive: impl Read,
    mut sealer: Sealer<BlockDigests>,
    contents: impl FnOnce(&Toc) -> Result<(), StreamError>,
    mut advance: impl FnMut(&CutBlock, Option<&TocEntry>),
) -> Result<SealedArchive, StreamError> {
    let mut cutter = Cutter::new(archive);
    let mut layouts = Vec::new();
    let mut contents = Some(contents);
    while let Some(block) = cutter.next_block().map_err(|source| StreamError::Archive { source })? {
        if let Some(toc) = cutter.toc()
            && let Some(contents) = contents.take()
        {
            contents(toc)?;
        }
        let last = block.layout.spans.last().map(|span| span.dump_id);
        advance(&block, last.and_then(|dump_id| cutter.toc()?.entry(dump_id)));
        layouts.push(block.layout.clone());
        let CutBlock { bytes, layout } = block;
        let job = SealJob::new(bytes, move |bytes| digest_bytes(bytes, &layout));
        sealer.submit(job).map_err(|source| StreamError::Seal { source })?;
    }
    let outcome = cutter.finish().map_err(|source| StreamError::Archive { source })?;
    let summary = sealer.finish().map_err(|source| StreamError::Seal { source })?;

    let mut digests: BTreeMap<i32, RowDigest> = BTreeMap::new();
    let mut frames = Vec::new();
    for ((frame, found), layout) in summary.frames.into_iter().zip(layouts) {
        for (dump_id, digest) in found.map_err(|source| StreamError::Payload { source })? {
            *digests.entry(dump_id).or_default() += digest;
        }
        frames.push((frame, layout));
    }
    let found = match outcome {
        Outcome::Uncut { reason, .. } => Found::Uncut { reason },
        Outcome::Indexed(index) => {
            for (dump_id, digest) in &index.giant_rows {
                *digests.entry(*dump_id).or_default() += *digest;
            }
            Found::Indexed(index)
        }
    };
    Ok(SealedArchive { plaintext: summary.plaintext, ciphertext: summary.ciphertext, found, frames, digests })
}

impl SealedArchive {
    /// The archive's part of the inventory.
    pub(crate) fn inventory(&self, object: String) -> inventory::Archive {
        let frames = self.frames.iter().map(frame).collect();
        let Found::Indexed(index) = &self.found else {
            return inventory::Archive {
                object,
                head_bytes: 0,
                tables: Vec::new(),
                blobs: Vec::new(),
                frames,
            };
        };
        let (mut tables, mut blobs) = (Vec::new(), Vec::new());
        for span in &index.data {
            match index.toc.entry(span.dump_id) {
                Some(entry) if entry.is_table_data() => {
                    let digest = self.digests.get(&span.dump_id).copied().unwrap_or_default();
                    tables.push(inventory::Table {
                        dump_id: span.dump_id,
                        schema: entry.namespace.clone().unwrap_or_default(),
                        name: entry.tag.clone(),
                        copy: entry.copy_stmt.clone().unwrap_or_default().trim().to_owned(),
                        rows: digest.rows,
                        digest: format!("{:032x}", digest.sum),
                        start: span.start,
                        end: span.end,
                    });
                }
                _ => blobs.push(inventory::Blobs { dump_id: span.dump_id, start: span.start, end: span.end }),
            }
        }
        inventory::Archive { object, head_bytes: index.head_bytes, tables, blobs, frames }
    }
}

impl SealedArchive {
    /// What the archive sets sequences to; `None` when it was not read.
    pub(crate) fn sequences(&self) -> Option<Result<Vec<inventory::Sequence>, UnknownStatement>> {
        let Found::Indexed(index) = &self.found else { return None };
        let stored = |value: SequenceValue| inventory::Sequence {
            schema: value.schema,
            name: value.name,
            last_value: value.last_value,
            is_called: value.is_called,
        };
        Some(index.toc.sequence_values().map(|values| values.into_iter().map(stored).collect()))
    }

    pub(crate) fn large_objects(&self) -> Option<inventory::LargeObjects> {
        let Found::Indexed(index) = &self.found else { return None };
        let LargeObjectDigest { count, bytes, sum } = index.large_objects;
        Some(inventory::LargeObjects { count, bytes, digest: format!("{sum:032x}") })
    }

    /// The oids of the tables, views and sequences that the archive makes; `None` when it was not read.
    pub(crate) fn relations(&self) -> Option<BTreeSet<u32>> {
        let Found::Indexed(index) = &self.found else { return None };
        let relations = index.toc.entries.iter().filter(|entry| RELATIONS.contains(&entry.desc.as_str()));
        Some(relations.map(|entry| entry.oid).collect())
    }
}

fn frame((record, layout): &(FrameRecord, BlockLayout)) -> inventory::Frame {
    let hash = data_encoding::HEXLOWER.encode(&record.sha256_128);
    inventory::Frame(record.plain_bytes, record.sealed_bytes, layout.open_chunk, layout.starts_mid_row, hash)
}

/// Why an archive did not go through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("pg_dump's output is not a whole archive")]
    Archive {
        #[source]
        source: ArchiveError,
    },
    #[error("archive cannot be sealed")]
    Seal {
        #[source]
        source: SealError,
    },
    #[error("a table's rows cannot be read")]
    Payload {
        #[source]
        source: PayloadError,
    },
    #[error("the dump was not divided as it was planned")]
    Misdivided {
        #[source]
        source: Misdivided,
    },
    /// Nobody waits for it any more.
    #[error("the dump was given up")]
    GivenUp,
}

impl StreamError {
    /// Whether `pg_dump` is not to blame, but fails because nobody takes its output.
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self, Self::Archive { .. } | Self::Payload { .. })
    }
}
