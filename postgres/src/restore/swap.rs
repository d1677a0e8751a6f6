//! Putting a restored database in the place of another one, by renaming both; nothing is dropped.

use jiff::Timestamp;

use super::error::RestoreError;
use super::target::{open, version};
use crate::connection::{ConnectionSpec, Session};
use crate::quoting::identifier;

/// Longest name of a database, in bytes: one less than NAMEDATALEN.
const NAME_BYTES_MAX: usize = 63;
/// `server_version_num` from which `pg_terminate_backend` waits until the session is gone.
const VERSION_WITH_WAIT: i32 = 140_000;
/// How long a session may take to end, in milliseconds: it may have to roll back.
const TERMINATE_WAIT_MS: i64 = 10_000;

/// The names after a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renames {
    /// The restored database now has this name.
    pub current: String,
    /// The database that had it before is kept under this one; `None` when there was none.
    pub kept: Option<String>,
}

/// Gives `new` the name `old`, and keeps what had that name as `<old>_before_<now>`.
///
/// `maintenance` must connect to neither of them. Sessions in both are ended. Both renames happen, or none.
pub async fn swap(
    maintenance: &ConnectionSpec,
    new: &str,
    old: &str,
    now: Timestamp,
) -> Result<Renames, RestoreError> {
    let session = open(maintenance).await?;
    let kept = kept_name(old, now);
    let old_is_there = exists(&session, old).await?;
    let databases: &[&str] = if old_is_there { &[old, new] } else { &[new] };
    for database in databases {
        allow_connections(&session, database, false).await?;
    }
    let renamed =
        end_and_rename(&session, databases, (new, old), old_is_there.then_some(kept.as_str())).await;
    let names = match &renamed {
        Ok(()) if old_is_there => vec![old, kept.as_str()],
        Ok(()) => vec![old],
        Err(_) => databases.to_vec(),
    };
    let mut reopened = Ok(());
    for name in names {
        reopened = reopened.and(allow_connections(&session, name, true).await);
    }
    renamed.and(reopened)?;
    Ok(Renames { current: old.to_owned(), kept: old_is_there.then_some(kept) })
}

async fn end_and_rename(
    session: &Session,
    databases: &[&str],
    (new, old): (&str, &str),
    kept: Option<&str>,
) -> Result<(), RestoreError> {
    for database in databases {
        end_sessions(session, database).await?;
    }
    let rename =
        |from: &str, to: &str| format!("ALTER DATABASE {} RENAME TO {};", identifier(from), identifier(to));
    let first = kept.map(|kept| rename(old, kept)).unwrap_or_default();
    let result =
        session.unhurried().batch_execute(&format!("BEGIN; {first} {} COMMIT;", rename(new, old))).await;
    if result.is_err() {
        // The failed transaction is still open, and its session is needed to let everybody in again.
        let _ = session.batch_execute("ROLLBACK").await;
    }
    result.map_err(|source| RestoreError::Server { doing: "swap the databases", source })
}

async fn exists(session: &Session, database: &str) -> Result<bool, RestoreError> {
    session
        .query_opt("SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1::text", &[&database])
        .await
        .map(|row| row.is_some())
        .map_err(|source| RestoreError::Server { doing: "look for the database", source })
}

async fn allow_connections(session: &Session, database: &str, allow: bool) -> Result<(), RestoreError> {
    let statement = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {allow}", identifier(database));
    session
        .batch_execute(&statement)
        .await
        .map_err(|source| RestoreError::Server { doing: "close or open the databases for sessions", source })
}

async fn end_sessions(session: &Session, database: &str) -> Result<(), RestoreError> {
    let waits = version(session).await? >= VERSION_WITH_WAIT;
    let call = match waits {
        true => format!("pg_catalog.pg_terminate_backend(pid, {TERMINATE_WAIT_MS})"),
        // RENAME itself waits some seconds for sessions that are ending.
        false => "pg_catalog.pg_terminate_backend(pid)".to_owned(),
    };
    let query = format!(
        "SELECT {call} FROM pg_catalog.pg_stat_activity WHERE datname = $1::text AND pid <> pg_catalog.pg_backend_pid()"
    );
    session
        .query(&query, &[&database])
        .await
        .map(drop)
        .map_err(|source| RestoreError::Server { doing: "end the databases' sessions", source })
}

/// `<old>_before_<time>`, with as much of the old name as fits.
fn kept_name(old: &str, now: Timestamp) -> String {
    let suffix = format!("_before_{}", now.strftime("%Y%m%dt%H%M%Sz"));
    let mut end = old.len().min(NAME_BYTES_MAX - suffix.len());
    while !old.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &old[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_name_fits_and_tells_when() {
        let now: Timestamp = "2026-11-24T01:30:00Z".parse().unwrap();
        assert_eq!(kept_name("app", now), "app_before_20261124t013000z");
        let long = kept_name(&"ä".repeat(31), now);
        assert!(long.len() <= 63 && long.ends_with("_before_20261124t013000z"), "{long}");
    }
}
