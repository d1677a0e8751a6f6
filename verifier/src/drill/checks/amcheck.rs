//! PostgreSQL's own check of its files: the order of every B-tree index.
//!
//! Whether each row is in its indexes is not asked (`heapallindexed`): they were built a moment ago from the rows that
//! the drill has compared, and it costs as much as reading all of them once more. For the same reason the tables' pages
//! are not (`verify_heapam`): the server has just given every row of them, and large tables would use up the time in
//! which the indexes are checked. The check needs the extension amcheck where drills run, and the right to install it
//! in the restored database. Its lack says nothing about the backup; what it finds does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgproof_postgres::connection::{ConnectionSpec, Session};
use pgproof_postgres::disclosure;
use pgproof_repository::report::Outcome;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

use super::{Subject, Told, degraded, failed, named, not_run};
use crate::failure::chain;

/// The check may take this part of the restore's time, so that a drill stays near what a restore costs …
const SHARE_OF_RESTORE: u32 = 4;
/// … but always so long, which is enough for small databases, and never longer than that.
const TIME_MIN: Duration = Duration::from_secs(30);
const TIME_MAX: Duration = Duration::from_secs(600);
/// Indexes and pages of one statement: few round trips for small ones, and yet a time limit that is kept.
const INDEXES_PER_STATEMENT: usize = 100;
const PAGES_PER_STATEMENT: i64 = 4096;
/// Where the extension goes when the database does not have it itself.
const OWN_SCHEMA: &str = "pgproof_amcheck";

pub(super) async fn check(subject: &Subject<'_>) -> Told {
    let budget = (subject.restored_in / SHARE_OF_RESTORE).clamp(TIME_MIN, TIME_MAX);
    match Box::pin(check_within(subject, budget)).await {
        Ok(told) => told,
        Err(Stop(why)) => not_run(why),
    }
}

/// Why the check could not be made.
#[derive(Debug)]
struct Stop(String);

impl From<tokio_postgres::Error> for Stop {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(chain(&error))
    }
}

/// The oids of the indexes that one statement checks.
type Batch = Vec<u32>;

/// What the workers found.
#[derive(Debug, Default)]
struct Found {
    checked: usize,
    damages: Vec<String>,
    timed_out: bool,
}

async fn check_within(subject: &Subject<'_>, budget: Duration) -> Result<Told, Stop> {
    let until = Instant::now() + budget;
    let session = open(subject.database).await?;
    let schema = install(&session).await?;
    let batches = batches(&indexes(&session).await?);
    drop(session);
    let count: usize = batches.iter().map(Vec::len).sum();
    let jobs = subject.jobs.clamp(1, batches.len().max(1));
    let queue = Arc::new(Mutex::new(VecDeque::from(batches)));
    let mut workers = JoinSet::new();
    for _ in 0..jobs {
        workers.spawn(Box::pin(work(subject.database.clone(), schema.clone(), queue.clone(), until)));
    }
    let mut found = Found::default();
    while let Some(ended) = workers.join_next().await {
        let ended = ended.map_err(|error| Stop(chain(&error)))??;
        found.checked += ended.checked;
        found.damages.extend(ended.damages);
        found.timed_out |= ended.timed_out;
    }
    Ok((judge(&found, count, budget), Some(format!("{} of {count} indexes", found.checked))))
}

fn judge(found: &Found, count: usize, budget: Duration) -> Outcome {
    if !found.damages.is_empty() {
        return failed(named(&found.damages));
    }
    match found.timed_out {
        true => degraded(format!("{} of {count} indexes within {} s", found.checked, budget.as_secs())),
        false => Outcome::Passed,
    }
}

async fn open(database: &ConnectionSpec) -> Result<Session, Stop> {
    Box::pin(database.connect()).await.map_err(|error| Stop(chain(&error)))
}

/// The schema in which the extension's functions are, quoted.
async fn install(session: &Session) -> Result<String, Stop> {
    let query = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
                   JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'";
    if let Some(row) = session.query_opt(query, &[]).await? {
        return Ok(row.get(0));
    }
    let query = "SELECT 1 FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";
    if session.query_opt(query, &[]).await?.is_none() {
        return Err(Stop("the extension amcheck is not installed on this server".to_owned()));
    }
    // As a replica, so that event triggers of the restored database neither run nor stand in the way.
    let install = format!(
        "SET session_replication_role = replica; \
         CREATE SCHEMA {OWN_SCHEMA}; CREATE EXTENSION amcheck SCHEMA {OWN_SCHEMA}"
    );
    session.batch_execute(&install).await?;
    Ok(OWN_SCHEMA.to_owned())
}

/// Oid and pages, largest first; those of toast included.
async fn indexes(session: &Session) -> Result<Vec<(u32, i64)>, Stop> {
    let query = "
        SELECT c.oid, c.relpages::pg_catalog.int8
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_am a ON a.oid = c.relam JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
         WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
           AND c.relkind = 'i' AND a.amname = 'btree' AND i.indisready AND i.indisvalid
         ORDER BY 2 DESC";
    let rows = session.query(query, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn batches(indexes: &[(u32, i64)]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut batch, mut pages) = (Batch::new(), 0);
    for (oid, size) in indexes {
        let full = batch.len() >= INDEXES_PER_STATEMENT || pages + size > PAGES_PER_STATEMENT;
        if full && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            pages = 0;
        }
        batch.push(*oid);
        pages += size;
    }
    batches.extend((!batch.is_empty()).then_some(batch));
    batches
}

async fn work(
    database: ConnectionSpec,
    schema: String,
    queue: Arc<Mutex<VecDeque<Batch>>>,
    until: Instant,
) -> Result<Found, Stop> {
    let session = open(&database).await?;
    let mut found = Found::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(batch) = next else { return Ok(found) };
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        if left == 0 {
            found.timed_out = true;
            return Ok(found);
        }
        session.batch_execute(&format!("SET statement_timeout = {left}")).await?;
        // With something wrong in an index the server answers by an error that names it.
        let query = format!(
            "SELECT {schema}.bt_index_check(index)::pg_catalog.text
               FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS index"
        );
        match session.unhurried().query(&query, &[&batch]).await {
            Ok(_) => found.checked += batch.len(),
            Err(error) => match error.code() {
                Some(&SqlState::QUERY_CANCELED) => found.timed_out = true,
                Some(&(SqlState::INDEX_CORRUPTED | SqlState::DATA_CORRUPTED)) => {
                    found.damages.extend(error.as_db_error().map(disclosure::answer));
                }
                _ => return Err(error.into()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_indexes_share_a_statement_and_large_ones_do_not() {
        let mut indexes = vec![(1, 100_000), (2, 5_000), (3, 10), (4, 10)];
        indexes.extend((10..160).map(|oid| (oid, 0)));
        let lengths: Vec<usize> = batches(&indexes).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1, 100, 52]);
        assert_eq!(batches(&[]), Vec::<Batch>::new());
    }

    #[test]
    fn running_out_of_time_is_weaker_and_damage_is_worse() {
        let found = |timed_out, damages: &[&str]| Found {
            checked: 1,
            damages: damages.iter().map(|damage| (*damage).to_owned()).collect(),
            timed_out,
        };
        let judge = |found| judge(&found, 2, TIME_MIN);
        assert_eq!(judge(found(false, &[])), Outcome::Passed);
        assert_eq!(judge(found(true, &[])), degraded("1 of 2 indexes within 30 s".to_owned()));
        assert_eq!(judge(found(true, &["bad page"])), failed("bad page".to_owned()));
    }
}
