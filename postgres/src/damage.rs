//! Damaging a restored database on purpose, so that a verifier can find out whether it would notice.

use pgproof_repository::inventory::Table;

use crate::comparison::ComparisonError;
use crate::connection::ConnectionSpec;
use crate::quoting::qualified;

/// Takes one row out of a table. `false` where a trigger, a rule or a foreign key does not let it go.
pub async fn take_row(database: &ConnectionSpec, table: &Table) -> Result<bool, ComparisonError> {
    let session = Box::pin(database.for_writing().connect()).await;
    let session = session.map_err(|source| ComparisonError::Connect { source })?;
    let failed = |source| ComparisonError::Server { doing: "take a row out of a table", source };
    // Without triggers and foreign keys where the role may have it so; it is no matter where it may not.
    match session.batch_execute("SET session_replication_role = replica").await {
        Err(source) if source.as_db_error().is_none() => return Err(failed(source)),
        _ => {}
    }
    let name = qualified(&table.schema, &table.name);
    let delete = format!("DELETE FROM ONLY {name} WHERE ctid = (SELECT ctid FROM ONLY {name} LIMIT 1)");
    match session.answered(session.execute(&delete, &[])).await {
        Ok(rows) => Ok(rows == 1),
        Err(error) if error.as_db_error().is_some() => Ok(false),
        Err(source) => Err(failed(source)),
    }
}
