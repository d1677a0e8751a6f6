//! What a restore must bring back beside the rows, written into the inventory for whoever proves the backup.
//!
//! None of it is needed for a restore, so what cannot be told is a warning and never ends a backup.

use pgproof_policies::policy::PostgresSource;
use pgproof_postgres::disclosure;
use pgproof_postgres::structure::{self, StructureError};
use pgproof_repository::inventory::{Inventory, Structure};

use super::stream::SealedArchive;

/// Enters sequences, large objects and structure; answers what could not be, and why.
pub(super) fn record(
    inventory: &mut Inventory,
    archive: &SealedArchive,
    structure: Result<Structure, StructureError>,
    postgres: &PostgresSource,
) -> Vec<String> {
    let mut warnings = Vec::new();
    inventory.large_objects = archive.large_objects();
    match archive.sequences().transpose() {
        Ok(sequences) => inventory.sequences = sequences,
        Err(why) => warnings.push(format!("a drill will not compare sequences: {why}")),
    }
    match structure {
        Ok(mut structure) => {
            if let (false, Some(dumped)) = (postgres.exclude_tables.is_empty(), archive.relations()) {
                structure::leave_out_all_but(&mut structure, &dumped);
            }
            inventory.structure = Some(structure);
        }
        Err(error) => {
            let why = disclosure::recorded(&error);
            warnings.push(format!("a drill will not compare the structure: {why}"));
        }
    }
    warnings
}
