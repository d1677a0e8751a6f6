//! What follows from manifest and inventory alone, before anything is opened: the archives, their frames, the mode.

use pgproof_repository::inventory::Table;
use pgproof_repository::manifest::v1::{Object, Postgres, Role};

use super::Restore;
use super::error::RestoreError;
use super::frames::FrameMap;
use super::plan::{Mode, Plan, check_disjoint, fetched_bytes, units};
use crate::archive::selection::Filter;

/// What follows from manifest and inventory alone.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) facts: Postgres,
    pub(crate) objects: Vec<Object>,
    pub(crate) maps: Vec<FrameMap>,
    pub(crate) mode: Mode,
}

impl Prepared {
    pub(crate) fn new(restore: &Restore) -> Result<Self, RestoreError> {
        check_disjoint(&restore.inventory)?;
        let manifest = restore.manifest.get();
        let facts = manifest
            .postgres()
            .ok_or_else(|| RestoreError::NotADatabase { kind: manifest.contents.kind() })?
            .clone();
        let objects: Vec<Object> =
            manifest.objects.iter().filter(|object| object.role == Role::Archive).cloned().collect();
        if objects.is_empty() {
            return Err(RestoreError::Inventory { why: "the manifest names no archive".to_owned() });
        }
        let maps =
            objects.iter().map(|object| map_of(restore, &facts, object)).collect::<Result<Vec<_>, _>>()?;
        let mode = match (&facts.archive.not_indexed_because, restore.serial) {
            _ if !facts.archive.indexed => {
                let reason = facts.archive.not_indexed_because.clone();
                Mode::Serial { reason: reason.unwrap_or_else(|| "the archive is not indexed".to_owned()) }
            }
            (_, true) => Mode::Serial { reason: "it was asked for".to_owned() },
            (_, false) => Mode::Parallel,
        };
        if restore.selection.is_some() && !facts.archive.indexed {
            return Err(RestoreError::SelectionWithoutIndex);
        }
        Ok(Self { facts, objects, maps, mode })
    }

    /// The plan by the inventory's names; which tables a selection brings along is known with the archive's head.
    pub(crate) fn plan(&self, restore: &Restore) -> Plan {
        let manifest = restore.manifest.get();
        let named = |_: usize, table: &Table| match &restore.selection {
            None => true,
            Some(filter) => {
                filter.schemas.contains(&table.schema)
                    || filter.tables.iter().any(|t| t.schema == table.schema && t.name == table.name)
            }
        };
        let wanted: Vec<&Table> =
            restore.inventory.archives.iter().flat_map(|a| a.tables.iter()).filter(|t| named(0, t)).collect();
        let units = match self.mode {
            Mode::Parallel => units(&restore.inventory, &self.maps, &named, restore.jobs.max(1)),
            Mode::Serial { .. } => Vec::new(),
        };
        let (plain_bytes, fetched) = match self.mode {
            Mode::Parallel => (units.iter().map(|unit| unit.bytes).sum(), fetched_bytes(&units, &self.maps)),
            Mode::Serial { .. } => (
                self.objects.iter().map(|object| object.plaintext.bytes).sum(),
                self.objects.iter().map(|object| object.ciphertext.bytes).sum(),
            ),
        };
        Plan {
            database: restore.database.clone(),
            source: manifest.source.to_string(),
            backup: manifest.id.to_string(),
            snapshot_at: restore.manifest.snapshot_at(),
            tables: wanted.len(),
            rows: wanted.iter().map(|table| table.rows).sum(),
            plain_bytes,
            fetched_bytes: fetched,
            pieces: units.len(),
            jobs: restore.jobs.max(1),
            large_objects: restore.selection.is_none()
                && restore.inventory.archives.iter().any(|archive| !archive.blobs.is_empty()),
            selected: restore.selection.as_ref().map(describe),
            mode: self.mode.clone(),
        }
    }
}

/// The archive of the inventory that describes `object`; it may be missing where nothing is indexed.
fn map_of(restore: &Restore, facts: &Postgres, object: &Object) -> Result<FrameMap, RestoreError> {
    let described = restore.inventory.archives.iter().find(|archive| archive.object == object.name);
    match described {
        // Frames without an index of tables still authenticate the stream, piece by piece.
        Some(archive) if archive.head_bytes > 0 || !archive.frames.is_empty() => {
            let map = FrameMap::new(archive)?;
            if map.plain_bytes() != object.plaintext.bytes {
                return Err(RestoreError::Inventory {
                    why: format!("the frames are not all of {}", object.name),
                });
            }
            Ok(map)
        }
        _ if facts.archive.indexed => {
            Err(RestoreError::Inventory { why: format!("{} is not in it", object.name) })
        }
        _ => Ok(FrameMap::default()),
    }
}

fn describe(filter: &Filter) -> String {
    let tables = filter.tables.iter().map(ToString::to_string);
    let schemas = filter.schemas.iter().map(|schema| format!("schema {schema}"));
    tables.chain(schemas).collect::<Vec<_>>().join(", ")
}
