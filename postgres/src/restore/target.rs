//! The target: a new database on a server that has what the backup needs.

use std::collections::BTreeSet;

use pgproof_repository::manifest::v1::Server;
use tokio_postgres::error::SqlState;

use super::error::{CREATING, RestoreError};
use crate::connection::{ConnectionSpec, Session};
use crate::disclosure;
use crate::quoting::{identifier, literal};

/// Longest name of a database, in bytes: one less than NAMEDATALEN.
const NAME_BYTES_MAX: usize = 63;
/// `server_version_num` from which a database has a locale provider.
const VERSION_WITH_PROVIDERS: i32 = 150_000;
/// … and from which ICU's may have rules of its own.
pub(super) const VERSION_WITH_ICU_RULES: i32 = 160_000;
/// … and from which there is a built-in one.
const VERSION_WITH_BUILTIN: i32 = 170_000;
/// … and from which FORCE ends sessions on its own.
const VERSION_WITH_FORCE: i32 = 130_000;

/// Whether the database was made by this restore, and may so be removed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    Here,
    Before,
}

/// A session with a database of the target's server, in which things may be changed.
pub(crate) async fn open(spec: &ConnectionSpec) -> Result<Session, RestoreError> {
    Box::pin(spec.for_writing().connect()).await.map_err(|source| RestoreError::Connect { source })
}

/// The server's version, as in `server_version_num`.
pub(crate) async fn version(session: &Session) -> Result<i32, RestoreError> {
    let row = session
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .map_err(|source| RestoreError::Server { doing: "ask the target's version", source })?;
    Ok(row.get(0))
}

/// Makes the database, or takes an empty one that is there. One that holds anything is refused.
pub(crate) async fn create(
    maintenance: &ConnectionSpec,
    database: &str,
    of: &Server,
    icu_rules: Option<&str>,
    marker: Option<&str>,
) -> Result<Made, RestoreError> {
    if database.is_empty() || database.len() > NAME_BYTES_MAX || database.contains('\0') {
        return Err(RestoreError::BadName { database: database.to_owned() });
    }
    let session = open(maintenance).await?;
    if exists(&session, database).await? {
        refuse_objects(&maintenance.with_database(database)).await?;
        return Ok(Made::Before);
    }
    let version = version(&session).await?;
    match session.unhurried().batch_execute(&create_statement(database, of, icu_rules, version)).await {
        Ok(()) => {
            if let Err(error) = mark(&session, database, marker).await {
                // Nobody would ever know it as ours. Why it was not marked says more than why it cannot be dropped.
                let _ = remove(maintenance, database).await;
                return Err(error);
            }
            Ok(Made::Here)
        }
        Err(source) if is_about_locale(&source) => {
            Err(RestoreError::Locale { locale: of.collate.clone(), encoding: of.encoding.clone(), source })
        }
        Err(source) => Err(RestoreError::Server { doing: CREATING, source }),
    }
}

/// Gives the database the comment that says who made it.
async fn mark(session: &Session, database: &str, marker: Option<&str>) -> Result<(), RestoreError> {
    let Some(marker) = marker else { return Ok(()) };
    let statement = format!("COMMENT ON DATABASE {} IS {}", identifier(database), literal(marker));
    let failed = |source| RestoreError::Server { doing: "mark the new database", source };
    session.batch_execute(&statement).await.map_err(failed)
}

/// Removes a half-made database, with all sessions in it.
pub(crate) async fn remove(maintenance: &ConnectionSpec, database: &str) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Server { doing: "drop the half-made database", source };
    let session = open(maintenance).await?;
    let force = if version(&session).await? >= VERSION_WITH_FORCE { " WITH (FORCE)" } else { "" };
    session
        .unhurried()
        .batch_execute(&format!("DROP DATABASE IF EXISTS {}{force}", identifier(database)))
        .await
        .map_err(failed)
}

/// Refuses when roles are missing that the restore would give things to.
pub(crate) async fn check_roles(session: &Session, owners: &BTreeSet<String>) -> Result<(), RestoreError> {
    let present = names(session, "SELECT rolname::text FROM pg_catalog.pg_roles").await?;
    let roles: Vec<String> = owners.difference(&present).cloned().collect();
    if roles.is_empty() { Ok(()) } else { Err(RestoreError::MissingRoles { roles }) }
}

/// The tablespaces of these that the target lacks.
pub(crate) async fn missing_tablespaces(
    session: &Session,
    wanted: &BTreeSet<String>,
) -> Result<Vec<String>, RestoreError> {
    let present = names(session, "SELECT spcname::text FROM pg_catalog.pg_tablespace").await?;
    Ok(wanted.difference(&present).cloned().collect())
}

/// What the server said, without the driver's preamble.
pub(crate) fn reason(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), disclosure::answer)
}

pub(crate) async fn exists(session: &Session, database: &str) -> Result<bool, RestoreError> {
    session
        .query_opt("SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1::text", &[&database])
        .await
        .map(|row| row.is_some())
        .map_err(|source| RestoreError::Server { doing: "look for the database", source })
}

/// Objects of one's own: those with OIDs above the system's, outside its schemas and belonging to no extension that
/// `template1` may have brought.
const COUNT_OBJECTS: &str = "
    SELECT (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
         + (SELECT count(*) FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE p.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
         + (SELECT count(*) FROM pg_catalog.pg_namespace n WHERE n.oid >= 16384 AND n.nspname !~ '^pg_')
         + (SELECT count(*) FROM pg_catalog.pg_type t WHERE t.oid >= 16384 AND t.typtype IN ('e', 'd', 'r'))
         + (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata)";

async fn refuse_objects(spec: &ConnectionSpec) -> Result<(), RestoreError> {
    let session = open(spec).await?;
    let row = session
        .query_one(COUNT_OBJECTS, &[])
        .await
        .map_err(|source| RestoreError::Server { doing: "count the database's objects", source })?;
    match row.get(0) {
        0_i64 => Ok(()),
        objects => Err(RestoreError::TargetNotEmpty { database: spec.database().to_owned(), objects }),
    }
}

/// Schema and name of every table.
pub(crate) async fn tables(session: &Session) -> Result<BTreeSet<(String, String)>, RestoreError> {
    let query = "SELECT n.nspname::text, c.relname::text
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relkind IN ('r', 'p', 'f')";
    let rows = session
        .query(query, &[])
        .await
        .map_err(|source| RestoreError::Server { doing: "list the tables", source })?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn names(session: &Session, query: &str) -> Result<BTreeSet<String>, RestoreError> {
    let rows = session
        .query(query, &[])
        .await
        .map_err(|source| RestoreError::Server { doing: "list roles and tablespaces", source })?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn create_statement(database: &str, of: &Server, icu_rules: Option<&str>, version: i32) -> String {
    let mut statement = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        identifier(database),
        literal(&of.encoding),
        literal(&of.collate),
        literal(&of.ctype),
    );
    let locale = of.icu_locale.as_deref().map(literal);
    match (of.locale_provider.as_deref(), locale) {
        (Some("i" | "icu"), Some(locale)) if version >= VERSION_WITH_PROVIDERS => {
            statement.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {locale}"));
            if let Some(rules) = icu_rules.filter(|_| version >= VERSION_WITH_ICU_RULES) {
                statement.push_str(&format!(" ICU_RULES {}", literal(rules)));
            }
        }
        (Some("b" | "builtin"), Some(locale)) if version >= VERSION_WITH_BUILTIN => {
            statement.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {locale}"));
        }
        // A target whose template has another provider must not pass it on.
        (Some("c" | "libc"), _) if version >= VERSION_WITH_PROVIDERS => {
            statement.push_str(" LOCALE_PROVIDER libc")
        }
        _ => {}
    }
    statement
}

/// The server has no SQLSTATE of its own for locales it does not know.
fn is_about_locale(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    let code = [SqlState::WRONG_OBJECT_TYPE, SqlState::INVALID_PARAMETER_VALUE].contains(db.code());
    code && ["locale", "collat", "encoding"].iter().any(|word| db.message().to_lowercase().contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(provider: Option<&str>, locale: Option<&str>) -> Server {
        Server {
            version: "17.2".into(),
            version_number: 170_002,
            system_identifier: None,
            database: "app".into(),
            database_bytes: 1,
            encoding: "UTF8".into(),
            collate: "de_DE.UTF-8".into(),
            ctype: "C".into(),
            locale_provider: provider.map(str::to_owned),
            icu_locale: locale.map(str::to_owned),
            collation_version: None,
        }
    }

    #[test]
    fn the_new_database_has_the_locale_of_the_old() {
        let create = |server: &Server, version| create_statement("a\"b", server, Some("&a < g"), version);
        let plain = create(&server(None, None), 140_000);
        let base = "CREATE DATABASE \"a\"\"b\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'de_DE.UTF-8' LC_CTYPE 'C'";
        assert_eq!(plain, base);
        let icu = create(&server(Some("icu"), Some("und")), 150_000);
        assert_eq!(icu, format!("{base} LOCALE_PROVIDER icu ICU_LOCALE 'und'"));
        let ruled = create(&server(Some("icu"), Some("und")), 160_000);
        assert_eq!(ruled, format!("{icu} ICU_RULES '&a < g'"));
        let builtin = create(&server(Some("b"), Some("C.UTF-8")), 180_000);
        assert_eq!(builtin, format!("{base} LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"));
        let libc = create(&server(Some("c"), None), 160_000);
        assert_eq!(libc, format!("{base} LOCALE_PROVIDER libc"));
    }
}
