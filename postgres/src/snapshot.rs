//! One consistent moment of a database, held open and lent to every stream of a dump, and what is known about it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::client::Version;
use crate::connection::{ConnectError, ConnectionSpec, Session};
use crate::dump::TableName;
use crate::infrastructure;

/// How long measuring the relations may wait for a lock before their sizes are estimated instead. `pg_dump` waits for
/// those same locks longer; a progress bar is not worth a wait.
const SIZE_LOCK_TIMEOUT: &str = "2s";
/// A database without an encoding takes any bytes for a name.
const HINT_OF_NO_ENCODING: &str = "the database's encoding is SQL_ASCII, which checks no names, and the name of a relation or a \
     comment is not UTF-8: rename it, or write the comment anew (COMMENT ON DATABASE)";
/// Words in the names of settings whose values may be, or hold, secrets.
const SECRET_WORDS: &str = "password|passphrase|secret|token|credential|conninfo|command|_key";

/// A `REPEATABLE READ, READ ONLY` transaction whose snapshot is exported. It lasts as long as this value.
#[derive(Debug)]
pub struct ExportedSnapshot {
    session: Session,
    id: String,
    facts: SnapshotFacts,
}

impl ExportedSnapshot {
    pub async fn open(spec: &ConnectionSpec) -> Result<Self, SnapshotError> {
        let session = spec.connect().await?;
        let (id, facts) = Box::pin(export(&session)).await?;
        Ok(Self { session, id, facts })
    }

    /// What `pg_dump --snapshot` and `SET TRANSACTION SNAPSHOT` take.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn facts(&self) -> &SnapshotFacts {
        &self.facts
    }

    /// The session that holds the snapshot, for further reads of the same moment.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether the transaction still holds. Asked from time to time, it also keeps the connection from looking idle.
    pub async fn keep_alive(&self) -> Result<(), SnapshotError> {
        self.session.simple_query("SELECT 1").await.map(drop).map_err(SnapshotError::Lost)
    }

    /// Those of these tables whose name in the snapshot is no longer theirs: since then they were renamed, dropped or
    /// replaced. `pg_dump` finds tables by the snapshot's names and then reads whatever has the name.
    pub async fn displaced(&self, tables: &[u32]) -> Result<Vec<TableName>, SnapshotError> {
        let rows = self.session.query(DISPLACED, &[&tables]).await;
        let rows = rows.map_err(|source| SnapshotError::Query {
            doing: "compare the tables' names with today's",
            source,
        })?;
        Ok(rows.iter().map(|row| TableName { schema: row.get(0), name: row.get(1) }).collect())
    }

    /// What all large objects take, which no relation of users' shows.
    pub async fn large_object_bytes(&self) -> Result<u64, SnapshotError> {
        let query = "SELECT pg_catalog.pg_table_size('pg_catalog.pg_largeobject')";
        let row = self.session.query_one(query, &[]).await;
        let failed = |source| SnapshotError::Query { doing: "measure the large objects", source };
        Ok(unsigned(row.map_err(failed)?.get(0)))
    }

    /// Ends the transaction. A dump that was given the snapshot before goes on.
    pub async fn close(self) -> Result<(), SnapshotError> {
        self.session.batch_execute("COMMIT").await.map_err(SnapshotError::Lost)
    }

    /// The server's settings that are not its defaults, without those that may hold secrets.
    pub async fn server_settings(&self) -> Result<Vec<ServerSetting>, SnapshotError> {
        server_settings(&self.session).await
    }
}

/// What is known about a database at its snapshot.
///
/// Names, settings and comments are private: all of this belongs in encrypted objects, and only chosen fields elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// The server's clock just after the snapshot was taken: nothing committed later is in it.
    pub snapshot_at: Timestamp,
    /// Position in the log just after the snapshot; on a standby, what it had replayed.
    pub lsn: Option<String>,
    pub timeline: Option<i32>,
    pub in_recovery: bool,
    /// `None` where the role may not ask for it.
    pub system_identifier: Option<String>,
    pub server_version: Version,
    /// As the server words it: `15.14 (Debian 15.14-0+deb12u1)`.
    pub server_version_text: String,
    pub server_version_number: u32,
    pub role: RoleFacts,
    pub database: DatabaseFacts,
    pub extensions: Vec<ExtensionFacts>,
    /// Tables, materialized views, sequences and the like of users' schemas, largest first.
    pub relations: Vec<RelationFacts>,
    /// Whether the relations' sizes are measured, or estimated because a lock stood in the way.
    pub sizes_measured: bool,
}

/// The role that took the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFacts {
    pub name: String,
    pub superuser: bool,
    pub bypasses_row_security: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    pub oid: u32,
    pub name: String,
    pub owner: String,
    pub comment: Option<String>,
    pub acl: Option<Vec<String>>,
    pub connection_limit: i32,
    pub tablespace: String,
    /// Settings of the database alone and of roles in it; applications keep secrets here, too.
    pub settings: Vec<DatabaseSetting>,
    /// `None` where the role may not connect to or measure it.
    pub bytes: Option<u64>,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub locale_provider: LocaleProvider,
    pub icu_locale: Option<String>,
    pub icu_rules: Option<String>,
    /// Collation version that the database was made with, and that which the server's libraries have now.
    pub collation_version: Option<String>,
    pub collation_version_now: Option<String>,
    pub lc_monetary: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocaleProvider {
    Libc,
    Icu,
    Builtin,
}

impl LocaleProvider {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Libc => "libc",
            Self::Icu => "icu",
            Self::Builtin => "builtin",
        }
    }
}

/// `name=value` as the catalog holds it, for one role or for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSetting {
    pub role: Option<String>,
    pub assignments: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionFacts {
    pub name: String,
    pub schema: String,
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationFacts {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`: r table, p partitioned table, m materialized view, S sequence, f foreign table.
    pub kind: char,
    /// `pg_class.relpersistence`: p permanent, u unlogged.
    pub persistence: char,
    /// Belongs to an extension, whose script makes it at restore.
    pub of_extension: bool,
    /// Main data and TOAST, without indexes.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSetting {
    pub name: String,
    pub value: String,
    pub unit: Option<String>,
    /// Where it is set: `configuration file`, `command line`, …
    pub source: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("no session for the snapshot")]
    Connect(#[from] ConnectError),
    #[error("cannot {doing}")]
    Query { doing: &'static str, source: tokio_postgres::Error },
    #[error("the snapshot's transaction was lost")]
    Lost(#[source] tokio_postgres::Error),
    #[error("the server gave a {what} that makes no sense: {given}")]
    Nonsense { what: &'static str, given: String },
}

impl SnapshotError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect(error) => error.hint(),
            Self::Query { source, .. } if source.code() == Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE) => {
                Some(HINT_OF_NO_ENCODING.to_owned())
            }
            Self::Query { source, .. } => infrastructure::hint(source),
            Self::Lost(_) => Some("see the server's log: it was stopped, or ended the session".to_owned()),
            _ => None,
        }
    }
}

async fn export(session: &Session) -> Result<(String, SnapshotFacts), SnapshotError> {
    let failed = |source| SnapshotError::Query { doing: "export a snapshot", source };
    let number: String =
        session.query_one("SELECT current_setting('server_version_num')", &[]).await.map_err(failed)?.get(0);
    let number: u32 = number.parse().map_err(|_| nonsense("version number", &number))?;
    if number >= 170_000 {
        session.batch_execute("SET transaction_timeout = 0").await.map_err(failed)?;
    }
    session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.map_err(failed)?;
    // The snapshot is taken before the first row is computed, so both time and position lie after it.
    let row = session.query_one(MOMENT, &[]).await.map_err(failed)?;
    let microsecond: i64 = row.get("at");
    let snapshot_at =
        Timestamp::from_microsecond(microsecond).map_err(|_| nonsense("time", &microsecond.to_string()))?;
    let id: String = row.get("id");
    let (system_identifier, timeline) = identity(session).await?;
    let (relations, sizes_measured) = relations(session).await?;
    let facts = SnapshotFacts {
        snapshot_at,
        lsn: row.get("lsn"),
        timeline,
        in_recovery: row.get("in_recovery"),
        system_identifier,
        server_version: Version::from_number(number),
        server_version_text: row.get("version"),
        server_version_number: number,
        role: RoleFacts {
            name: row.get("role"),
            superuser: row.get("superuser"),
            bypasses_row_security: row.get("bypasses"),
        },
        database: database(session, number).await?,
        extensions: extensions(session).await?,
        relations,
        sizes_measured,
    };
    Ok((id, facts))
}

const MOMENT: &str = "
    SELECT pg_catalog.pg_export_snapshot() AS id,
           (extract(epoch FROM clock_timestamp()) * 1000000)::pg_catalog.int8 AS at,
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                ELSE pg_catalog.pg_current_wal_lsn() END::pg_catalog.text AS lsn,
           pg_catalog.pg_is_in_recovery() AS in_recovery,
           pg_catalog.current_setting('server_version') AS version,
           rolname::pg_catalog.text AS role, rolsuper AS superuser, rolsuper OR rolbypassrls AS bypasses
    FROM pg_catalog.pg_roles WHERE rolname = current_user";

/// System identifier and timeline, each only if the role may call the function for it.
async fn identity(session: &Session) -> Result<(Option<String>, Option<i32>), SnapshotError> {
    let failed = |source| SnapshotError::Query { doing: "identify the server", source };
    let allowed = "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE'),
                          has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')";
    let row = session.query_one(allowed, &[]).await.map_err(failed)?;
    let (mut system, mut timeline) = (None, None);
    if row.get(0) {
        let query = "SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()";
        system = Some(session.query_one(query, &[]).await.map_err(failed)?.get(0));
    }
    if row.get(1) {
        let query = "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()";
        timeline = Some(session.query_one(query, &[]).await.map_err(failed)?.get(0));
    }
    Ok((system, timeline))
}

async fn database(session: &Session, number: u32) -> Result<DatabaseFacts, SnapshotError> {
    let failed = |source| SnapshotError::Query { doing: "read the database's properties", source };
    let row = session.query_one(&database_query(number), &[]).await.map_err(failed)?;
    let provider: String = row.get("provider");
    let settings = session.query(DATABASE_SETTINGS, &[]).await.map_err(failed)?;
    Ok(DatabaseFacts {
        oid: row.get("oid"),
        name: row.get("name"),
        owner: row.get("owner"),
        comment: row.get("comment"),
        acl: row.get("acl"),
        connection_limit: row.get("connection_limit"),
        tablespace: row.get("tablespace"),
        settings: settings
            .iter()
            .map(|row| DatabaseSetting { role: row.get(0), assignments: row.get(1) })
            .collect(),
        bytes: row.get::<_, Option<i64>>("bytes").map(unsigned),
        encoding: row.get("encoding"),
        collate: row.get("collate"),
        ctype: row.get("ctype"),
        locale_provider: match provider.as_str() {
            "c" => LocaleProvider::Libc,
            "i" => LocaleProvider::Icu,
            "b" => LocaleProvider::Builtin,
            _ => return Err(nonsense("locale provider", &provider)),
        },
        icu_locale: row.get("icu_locale"),
        icu_rules: row.get("icu_rules"),
        collation_version: row.get("collation_version"),
        collation_version_now: row.get("collation_version_now"),
        lc_monetary: row.get("lc_monetary"),
    })
}

/// The columns for locales came with version 15 and were renamed in 17.
fn database_query(number: u32) -> String {
    let provider = if number >= 150_000 { "d.datlocprovider" } else { "'c'" };
    let icu_locale = match number {
        170_000.. => "d.datlocale",
        150_000.. => "d.daticulocale",
        _ => "NULL",
    };
    let icu_rules = if number >= 160_000 { "d.daticurules" } else { "NULL" };
    let (made, now) = if number >= 150_000 {
        ("d.datcollversion", "pg_catalog.pg_database_collation_actual_version(d.oid)")
    } else {
        ("NULL", "NULL")
    };
    format!(
        "SELECT d.oid, d.datname::text AS name, pg_get_userbyid(d.datdba)::text AS owner,
                shobj_description(d.oid, 'pg_database') AS comment, d.datacl::text[] AS acl,
                d.datconnlimit AS connection_limit, t.spcname::text AS tablespace,
                CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END AS bytes,
                pg_encoding_to_char(d.encoding)::text AS encoding,
                d.datcollate::text AS collate, d.datctype::text AS ctype, {provider}::text AS provider,
                {icu_locale}::text AS icu_locale, {icu_rules}::text AS icu_rules,
                {made}::text AS collation_version, {now}::text AS collation_version_now,
                current_setting('lc_monetary') AS lc_monetary
         FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
         WHERE d.datname = current_database()"
    )
}

const DATABASE_SETTINGS: &str = "
    SELECT r.rolname::text, s.setconfig
    FROM pg_catalog.pg_db_role_setting s
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
    WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    ORDER BY 1 NULLS FIRST";

async fn extensions(session: &Session) -> Result<Vec<ExtensionFacts>, SnapshotError> {
    let query = "SELECT e.extname::text, n.nspname::text, e.extversion FROM pg_catalog.pg_extension e
                 JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY 1";
    let failed = |source| SnapshotError::Query { doing: "list the extensions", source };
    let rows = session.query(query, &[]).await.map_err(failed)?;
    let fact = |row: &Row| ExtensionFacts { name: row.get(0), schema: row.get(1), version: row.get(2) };
    Ok(rows.iter().map(fact).collect())
}

/// The relations, and whether their sizes are measured.
async fn relations(session: &Session) -> Result<(Vec<RelationFacts>, bool), SnapshotError> {
    let failed = |source| SnapshotError::Query { doing: "list the relations", source };
    let prepare = format!("SAVEPOINT sizes; SET LOCAL lock_timeout = '{SIZE_LOCK_TIMEOUT}'");
    session.batch_execute(&prepare).await.map_err(failed)?;
    let measured = session.query(&relations_query("coalesce(pg_table_size(c.oid), 0)"), &[]).await;
    session.batch_execute("ROLLBACK TO SAVEPOINT sizes; RELEASE SAVEPOINT sizes").await.map_err(failed)?;
    if let Ok(rows) = measured {
        return Ok((rows.iter().map(relation).collect(), true));
    }
    let estimate = "greatest(c.relpages, 0)::int8 * current_setting('block_size')::int8";
    let rows = session.query(&relations_query(estimate), &[]).await.map_err(failed)?;
    Ok((rows.iter().map(relation).collect(), false))
}

fn relations_query(bytes: &str) -> String {
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
                EXISTS (SELECT FROM pg_catalog.pg_depend p WHERE p.classid = 'pg_catalog.pg_class'::regclass
                        AND p.objid = c.oid AND p.deptype = 'e') AS of_extension,
                ({bytes})::int8 AS bytes
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'm', 'S', 'f') AND c.relpersistence <> 't'
           AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
         ORDER BY bytes DESC, 2, 3"
    )
}

fn relation(row: &Row) -> RelationFacts {
    let letter = |column: usize| row.get::<_, &str>(column).chars().next().unwrap_or('?');
    RelationFacts {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        kind: letter(3),
        persistence: letter(4),
        of_extension: row.get(5),
        bytes: unsigned(row.get(6)),
    }
}

/// The catalogs that a query reads are the snapshot's; `to_regclass` looks names up as they are now.
const DISPLACED: &str = "
    SELECT n.nspname::text, c.relname::text
    FROM pg_catalog.unnest($1::pg_catalog.oid[]) t (oid)
    JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE pg_catalog.to_regclass(pg_catalog.format('%I.%I', n.nspname, c.relname))::pg_catalog.oid
          IS DISTINCT FROM c.oid
    ORDER BY 1, 2";

async fn server_settings(session: &Session) -> Result<Vec<ServerSetting>, SnapshotError> {
    let query = "SELECT name, setting, unit, source FROM pg_catalog.pg_settings
                 WHERE source NOT IN ('default', 'client', 'session', 'override') AND name !~* $1 ORDER BY name";
    let failed = |source| SnapshotError::Query { doing: "read the server's settings", source };
    let rows = session.query(query, &[&SECRET_WORDS]).await.map_err(failed)?;
    let setting = |row: &Row| ServerSetting {
        name: row.get(0),
        value: row.get(1),
        unit: row.get(2),
        source: row.get(3),
    };
    Ok(rows.iter().map(setting).collect())
}

fn unsigned(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}

fn nonsense(what: &'static str, given: &str) -> SnapshotError {
    SnapshotError::Nonsense { what, given: given.to_owned() }
}

#[cfg(test)]
mod tests;
