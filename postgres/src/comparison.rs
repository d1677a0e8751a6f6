//! Comparing a database with a backup's inventory: every table is read back and digested as the dump was.
//!
//! `pg_dump` has rows of some partitions go in through their root: those of a hash of an enum, whose values have other
//! numbers after each restore. Such a row may come to lie in any partition, so that only the sum over all of them tells.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt;
use pgproof_repository::inventory::{Inventory, Table};
use tokio::task::JoinSet;

use crate::archive::selection::QualifiedName;
use crate::connection::{ConnectError, ConnectionSpec, Session};
use crate::digest::{RowDigest, RowHasher, UnfinishedRow};
use crate::disclosure;
use crate::dump::encoding_of_dump;
use crate::infrastructure;
use crate::quoting::{CopyTarget, literal, qualified};

/// Settings of the reading sessions beside the pins: a row that a policy hides must fail, not be missing.
const SESSION: &str = "SET row_security = off; SET default_transaction_read_only = on";

/// A table of the backup and what the database holds of it; or the root of partitions, and what they hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableComparison {
    pub schema: String,
    pub name: String,
    /// How many of the inventory's tables this is about.
    pub tables: u64,
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
    let mut tasks = tasks(inventory)?;
    let time_zone = inventory.wording.as_ref().map(|wording| wording.time_zone.clone());
    let first = open(restored, time_zone.as_deref()).await?;
    let encoding = match &inventory.wording {
        Some(wording) => wording.encoding.clone(),
        None => encoding(&first).await?,
    };
    let context = Arc::new(Context { encoding, time_zone, conditions: conditions(&first).await? });
    find_partitions(&first, &mut tasks).await?;
    drop(first);
    let reads =
        tasks.iter().enumerate().flat_map(|(at, task)| task.reads.iter().map(move |read| (at, read.clone())));
    let mut order: Vec<(usize, Read)> = reads.collect();
    order.sort_by_key(|(_, read)| std::cmp::Reverse(read.bytes));
    let count = order.len();
    let queue = Arc::new(Mutex::new(VecDeque::from(order)));
    let mut workers = JoinSet::new();
    for _ in 0..jobs.clamp(1, count.max(1)) {
        workers.spawn(Box::pin(work(restored.clone(), context.clone(), queue.clone())));
    }
    while let Some(ended) = workers.join_next().await {
        for (at, found) in ended.map_err(|source| ComparisonError::Worker { source })?? {
            tasks[at].add(found);
        }
    }
    Ok(tasks.into_iter().map(Task::compared).collect())
}

/// One table of the inventory, or all those of one root, and what was found so far.
#[derive(Debug, Clone)]
struct Task {
    table: QualifiedName,
    tables: u64,
    expected: RowDigest,
    reads: Vec<Read>,
    /// Set where rows went in through this root: its own partitions are not known yet.
    root: Option<Root>,
    found: Result<RowDigest, String>,
}

/// A table to read.
#[derive(Debug, Clone)]
struct Read {
    /// Quoted.
    table: String,
    columns: CopyTarget,
    bytes: u64,
}

/// A partitioned table through which rows went in.
#[derive(Debug, Clone)]
struct Root {
    columns: CopyTarget,
    bytes: u64,
}

impl Task {
    fn add(&mut self, found: Result<RowDigest, String>) {
        match (&mut self.found, found) {
            (Ok(sum), Ok(more)) => *sum += more,
            (Ok(_), Err(problem)) => self.found = Err(problem),
            (Err(_), _) => {}
        }
    }

    fn compared(self) -> TableComparison {
        let (found, problem) = match self.found {
            Ok(found) => (Some(found), None),
            Err(problem) => (None, Some(problem)),
        };
        let QualifiedName { schema, name } = self.table;
        let (tables, expected, equal) = (self.tables, self.expected, found == Some(self.expected));
        TableComparison { schema, name, tables, expected, found, problem, equal }
    }
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

type Queue = Arc<Mutex<VecDeque<(usize, Read)>>>;

/// In the inventory's order; a root stands where the first of its tables does.
fn tasks(inventory: &Inventory) -> Result<Vec<Task>, ComparisonError> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut roots: BTreeMap<QualifiedName, usize> = BTreeMap::new();
    for table in inventory.archives.iter().flat_map(|archive| archive.tables.iter()) {
        let task = task(table)?;
        let known = task.root.as_ref().and_then(|_| roots.get(&task.table));
        match known {
            Some(at) => tasks[*at].join(task),
            None => {
                if task.root.is_some() {
                    roots.insert(task.table.clone(), tasks.len());
                }
                tasks.push(task);
            }
        }
    }
    Ok(tasks)
}

fn task(table: &Table) -> Result<Task, ComparisonError> {
    let bad = |what| ComparisonError::Inventory { table: format!("{}.{}", table.schema, table.name), what };
    let columns = CopyTarget::parse(&table.copy).ok_or_else(|| bad("its COPY statement"))?;
    let sum = u128::from_str_radix(&table.digest, 16).map_err(|_| bad("its digest"))?;
    let expected = RowDigest { rows: table.rows, sum };
    let bytes = table.end.saturating_sub(table.start);
    let itself = QualifiedName { schema: table.schema.clone(), name: table.name.clone() };
    // Dumps of long ago name a table without its schema: never a root.
    let root = columns.relation.parse::<QualifiedName>().ok().filter(|filled| *filled != itself);
    let (table, reads, root) = match root {
        Some(name) => (name, Vec::new(), Some(Root { columns, bytes })),
        None => {
            let table = qualified(&itself.schema, &itself.name);
            (itself, vec![Read { table, columns, bytes }], None)
        }
    };
    Ok(Task { table, tables: 1, expected, reads, root, found: Ok(RowDigest::default()) })
}

impl Task {
    /// Takes another table of the same root in.
    fn join(&mut self, other: Self) {
        self.expected += other.expected;
        self.tables += other.tables;
        if let (Some(own), Some(others)) = (&mut self.root, other.root) {
            own.bytes += others.bytes;
            if own.columns != others.columns {
                let why =
                    "its partitions have their columns in different orders: no row tells from which it is";
                self.found = Err(why.to_owned());
            }
        }
    }
}

/// Finds out what is to be read of each root: all its partitions but those that the dump filled by themselves.
async fn find_partitions(session: &Session, tasks: &mut [Task]) -> Result<(), ComparisonError> {
    let direct: BTreeSet<String> =
        tasks.iter().flat_map(|task| &task.reads).map(|read| read.table.clone()).collect();
    for task in tasks.iter_mut() {
        let Some(Root { columns, bytes }) = task.root.take().filter(|_| task.found.is_ok()) else { continue };
        match partitions(session, &columns.relation).await {
            Ok(tables) => {
                let tables = tables.into_iter().filter(|table| !direct.contains(table));
                task.reads = tables.map(|table| Read { table, columns: columns.clone(), bytes }).collect();
            }
            Err(error) => task.found = Err(problem(error, "list the partitions")?),
        }
    }
    Ok(())
}

/// The tables of rows below a partitioned one, quoted.
async fn partitions(session: &Session, root: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let query = "
        WITH RECURSIVE below (relation) AS (
            SELECT $1::text::pg_catalog.regclass::pg_catalog.oid
            UNION ALL
            SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below ON i.inhparent = below.relation
        )
        SELECT n.nspname::text, c.relname::text
          FROM below JOIN pg_catalog.pg_class c ON c.oid = below.relation
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' ORDER BY 1, 2";
    let rows = session.query(query, &[&root]).await?;
    Ok(rows.iter().map(|row| qualified(row.get(0), row.get(1))).collect())
}

/// What the server answered about a table. What it says of itself, or its silence, tells nothing of the table.
fn problem(error: tokio_postgres::Error, doing: &'static str) -> Result<String, ComparisonError> {
    match error.as_db_error() {
        Some(answer) if !infrastructure::in_error(&error) => Ok(disclosure::answer(answer)),
        _ => Err(server(doing, error)),
    }
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
) -> Result<Vec<(usize, Result<RowDigest, String>)>, ComparisonError> {
    let session = open(&restored, context.time_zone.as_deref()).await?;
    let mut found = Vec::new();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((at, read)) = next else { return Ok(found) };
        let digest = match Box::pin(digest(&session, &context, &read)).await {
            Ok(digest) => Ok(digest),
            Err(Reading::Server(error)) => Err(problem(error, "read a table")?),
            Err(Reading::Unfinished(error)) => Err(error.to_string()),
        };
        found.push((at, digest));
    }
}

#[derive(Debug)]
enum Reading {
    Server(tokio_postgres::Error),
    Unfinished(UnfinishedRow),
}

async fn digest(session: &Session, context: &Context, read: &Read) -> Result<RowDigest, Reading> {
    let stream =
        session.answered(session.copy_out(&statement(context, read))).await.map_err(Reading::Server)?;
    let mut stream = Box::pin(stream);
    let mut hasher = RowHasher::default();
    while let Some(rows) = session.answered(stream.try_next()).await.map_err(Reading::Server)? {
        hasher.update(&rows);
    }
    hasher.finish().map_err(Reading::Unfinished)
}

/// The statement with which `pg_dump` read the table.
fn statement(context: &Context, read: &Read) -> String {
    let Read { table, columns, .. } = read;
    let options = format!("TO STDOUT WITH (ENCODING {})", literal(&context.encoding));
    match context.conditions.get(table) {
        Some(condition) => {
            let columns = columns.column_list();
            format!("COPY (SELECT {columns} FROM ONLY {table} {condition}) {options}")
        }
        None => format!("COPY {table} {} {options}", columns.columns),
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
        let read = Read { table: qualified("public", "t t"), columns, bytes: 0 };
        let mut context = Context { encoding: "UTF8".into(), time_zone: None, conditions: BTreeMap::new() };
        let plain = "COPY \"public\".\"t t\" (a, \"b\") TO STDOUT WITH (ENCODING 'UTF8')";
        assert_eq!(statement(&context, &read), plain);
        context.conditions.insert("\"public\".\"t t\"".into(), "WHERE a > 1".into());
        let some = "COPY (SELECT a, \"b\" FROM ONLY \"public\".\"t t\" WHERE a > 1) TO STDOUT WITH (ENCODING 'UTF8')";
        assert_eq!(statement(&context, &read), some);
    }

    #[test]
    fn tables_whose_rows_go_through_a_root_are_one() {
        let table = |name: &str, copy: &str, rows| {
            let (schema, name, copy) =
                ("s".to_owned(), name.to_owned(), format!("COPY {copy} FROM stdin;\n"));
            let digest = format!("{rows:032x}");
            task(&Table { dump_id: 1, schema, name, copy, rows, digest, start: 0, end: 10 }).unwrap()
        };
        let mut root = table("p_1", "s.\"The root\" (a, b)", 3);
        assert_eq!((root.table.name.as_str(), root.reads.len()), ("The root", 0));
        root.join(table("p_2", "s.\"The root\" (a, b)", 4));
        assert_eq!((root.expected, root.tables), (RowDigest { rows: 7, sum: 7 }, 2));
        assert!(root.found.is_ok());
        root.join(table("p_3", "s.\"The root\" (b, a)", 1));
        assert!(!root.compared().equal, "rows of other orders cannot be told");

        let plain = table("The root", "s.\"The root\" (a)", 1);
        let old = table("old", "old (a)", 1);
        assert_eq!((old.root.is_none(), old.reads[0].table.as_str()), (true, "\"s\".\"old\""));
        assert_eq!((plain.root.is_none(), plain.reads[0].table.as_str()), (true, "\"s\".\"The root\""));
    }
}
