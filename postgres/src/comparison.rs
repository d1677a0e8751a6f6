//! Comparing a database with a backup's inventory: every table is read back and digested as the dump was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt;
use pgproof_repository::inventory::{Inventory, Table};
use tokio::task::JoinSet;

use crate::connection::{ConnectError, ConnectionSpec, Session};
use crate::digest::{RowDigest, RowHasher, UnfinishedRow};
use crate::disclosure;
use crate::dump::encoding_of_dump;
use crate::infrastructure;
use crate::quoting::{CopyTarget, literal, qualified};

/// Settings of the reading sessions beside the pins: a row that a policy hides must fail, not be missing.
const SESSION: &str = "SET row_security = off; SET default_transaction_read_only = on";

/// A table of the backup and what the database holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableComparison {
    pub schema: String,
    pub name: String,
    pub expected: RowDigest,
    /// `None` where the table could not be read; `problem` says why.
    pub found: Option<RowDigest>,
    pub problem: Option<String>,
    pub equal: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComparisonError {
    #[error("no session for the comparison")]
    Connect {
        #[source]
        source: ConnectError,
    },
    #[error("cannot {doing}")]
    Server {
        doing: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("the inventory's entry of {table} makes no sense: {what}")]
    Inventory { table: String, what: &'static str },
    #[error("a worker of the comparison died")]
    Worker {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl ComparisonError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { source } => source.hint(),
            _ => None,
        }
    }
}

/// Reads every table of the inventory from the database of `restored`, over `jobs` connections, largest first.
///
/// A table that is missing or cannot be read is a finding, not an error; an error means that nothing was found out.
/// The answer is in the inventory's order.
pub async fn compare(
    restored: &ConnectionSpec,
    inventory: &Inventory,
    jobs: usize,
) -> Result<Vec<TableComparison>, ComparisonError> {
    let tasks = tasks(inventory)?;
    let count = tasks.len();
    let time_zone = inventory.wording.as_ref().map(|wording| wording.time_zone.clone());
    let first = open(restored, time_zone.as_deref()).await?;
    let encoding = match &inventory.wording {
        Some(wording) => wording.encoding.clone(),
        None => encoding(&first).await?,
    };
    let context = Arc::new(Context { encoding, time_zone, conditions: conditions(&first).await? });
    drop(first);
    let mut order: Vec<_> = tasks.into_iter().enumerate().collect();
    order.sort_by_key(|(_, task)| std::cmp::Reverse(task.bytes));
    let queue = Arc::new(Mutex::new(VecDeque::from(order)));
    let mut workers = JoinSet::new();
    for _ in 0..jobs.clamp(1, count.max(1)) {
        workers.spawn(Box::pin(work(restored.clone(), context.clone(), queue.clone())));
    }
    let mut found: BTreeMap<usize, TableComparison> = BTreeMap::new();
    while let Some(ended) = workers.join_next().await {
        found.extend(ended.map_err(|source| ComparisonError::Worker { source })??);
    }
    Ok(found.into_values().collect())
}

/// One table to read.
#[derive(Debug, Clone)]
struct Task {
    schema: String,
    name: String,
    columns: CopyTarget,
    expected: RowDigest,
    bytes: u64,
}

/// What is the same for all tables.
#[derive(Debug)]
struct Context {
    /// The encoding in which the database was dumped.
    encoding: String,
    /// Where it was not the pinned one.
    time_zone: Option<String>,
    /// Conditions of extensions' configuration tables, by quoted name: only such rows are dumped.
    conditions: BTreeMap<String, String>,
}

type Queue = Arc<Mutex<VecDeque<(usize, Task)>>>;

fn tasks(inventory: &Inventory) -> Result<Vec<Task>, ComparisonError> {
    inventory.archives.iter().flat_map(|archive| archive.tables.iter()).map(task).collect()
}

fn task(table: &Table) -> Result<Task, ComparisonError> {
    let bad = |what| ComparisonError::Inventory { table: format!("{}.{}", table.schema, table.name), what };
    let columns = CopyTarget::parse(&table.copy).ok_or_else(|| bad("its COPY statement"))?;
    let sum = u128::from_str_radix(&table.digest, 16).map_err(|_| bad("its digest"))?;
    let expected = RowDigest { rows: table.rows, sum };
    let (schema, name) = (table.schema.clone(), table.name.clone());
    Ok(Task { schema, name, columns, expected, bytes: table.end.saturating_sub(table.start) })
}

async fn open(restored: &ConnectionSpec, time_zone: Option<&str>) -> Result<Session, ComparisonError> {
    let session = Box::pin(restored.connect()).await.map_err(|source| ComparisonError::Connect { source })?;
    let zone = time_zone.map(|zone| format!("; SET TimeZone = {}", literal(zone))).unwrap_or_default();
    let prepared = session.batch_execute(&format!("{SESSION}{zone}")).await;
    prepared.map_err(|source| server("prepare a session for reading", source))?;
    Ok(session)
}

async fn encoding(session: &Session) -> Result<String, ComparisonError> {
    let query = "SELECT pg_catalog.pg_encoding_to_char(encoding)::text
                   FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let row = session.query_one(query, &[]).await.map_err(|source| server("ask for the encoding", source))?;
    Ok(encoding_of_dump(row.get(0)).to_owned())
}

async fn conditions(session: &Session) -> Result<BTreeMap<String, String>, ComparisonError> {
    let query = "
        SELECT n.nspname::text, c.relname::text, w.condition
          FROM pg_catalog.pg_extension e
         CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition))
                    AS w (relation, condition)
          JOIN pg_catalog.pg_class c ON c.oid = w.relation
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE w.condition <> ''";
    let rows = session
        .query(query, &[])
        .await
        .map_err(|source| server("read the extensions' configuration", source))?;
    Ok(rows.iter().map(|row| (qualified(row.get(0), row.get(1)), row.get(2))).collect())
}

async fn work(
    restored: ConnectionSpec,
    context: Arc<Context>,
    queue: Queue,
) -> Result<Vec<(usize, TableComparison)>, ComparisonError> {
    let session = open(&restored, context.time_zone.as_deref()).await?;
    let mut found = Vec::new();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((at, task)) = next else { return Ok(found) };
        let read = Box::pin(digest(&session, &context, &task)).await;
        let (digest, problem) = match read {
            Ok(digest) => (Some(digest), None),
            // The server answered about the table. What it says of itself, or its silence, tells nothing of the table.
            Err(Reading::Server(error)) if !infrastructure::in_error(&error) => {
                (None, error.as_db_error().map(disclosure::answer))
            }
            Err(Reading::Server(source)) => return Err(server("read a table", source)),
            Err(Reading::Unfinished(error)) => (None, Some(error.to_string())),
        };
        let Task { schema, name, expected, .. } = task;
        let equal = digest == Some(expected);
        found.push((at, TableComparison { schema, name, expected, found: digest, problem, equal }));
    }
}

#[derive(Debug)]
enum Reading {
    Server(tokio_postgres::Error),
    Unfinished(UnfinishedRow),
}

async fn digest(session: &Session, context: &Context, task: &Task) -> Result<RowDigest, Reading> {
    let stream =
        session.answered(session.copy_out(&statement(context, task))).await.map_err(Reading::Server)?;
    let mut stream = Box::pin(stream);
    let mut hasher = RowHasher::default();
    while let Some(rows) = session.answered(stream.try_next()).await.map_err(Reading::Server)? {
        hasher.update(&rows);
    }
    hasher.finish().map_err(Reading::Unfinished)
}

/// The statement with which `pg_dump` read the table.
fn statement(context: &Context, task: &Task) -> String {
    let table = qualified(&task.schema, &task.name);
    let options = format!("TO STDOUT WITH (ENCODING {})", literal(&context.encoding));
    match context.conditions.get(&table) {
        Some(condition) => {
            let columns = task.columns.column_list();
            format!("COPY (SELECT {columns} FROM ONLY {table} {condition}) {options}")
        }
        None => format!("COPY {table} {} {options}", task.columns.columns),
    }
}

fn server(doing: &'static str, source: tokio_postgres::Error) -> ComparisonError {
    ComparisonError::Server { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_they_were_dumped() {
        let columns = CopyTarget::parse("COPY public.\"t t\" (a, \"b\") FROM stdin;").unwrap();
        let expected = RowDigest::default();
        let task = Task { schema: "public".into(), name: "t t".into(), columns, expected, bytes: 0 };
        let mut context = Context { encoding: "UTF8".into(), time_zone: None, conditions: BTreeMap::new() };
        let plain = "COPY \"public\".\"t t\" (a, \"b\") TO STDOUT WITH (ENCODING 'UTF8')";
        assert_eq!(statement(&context, &task), plain);
        context.conditions.insert("\"public\".\"t t\"".into(), "WHERE a > 1".into());
        let some = "COPY (SELECT a, \"b\" FROM ONLY \"public\".\"t t\" WHERE a > 1) TO STDOUT WITH (ENCODING 'UTF8')";
        assert_eq!(statement(&context, &task), some);
    }
}
