//! PostgreSQL's own check of its files: the order of every B-tree index, every table's pages.
//!
//! Whether each row is in its indexes is not asked (`heapallindexed`): they were built a moment ago from the rows that
//! the drill has compared, and it costs as much as reading all of them once more. The check needs the extension amcheck
//! where drills run, and the right to install it in the restored database. Its lack says nothing about the backup; what
//! it finds does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgproof_postgres::connection::{ConnectionSpec, Session};
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
/// Relations and pages of one statement: few round trips for small ones, and yet a time limit that is kept.
const RELATIONS_PER_STATEMENT: usize = 100;
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

/// One statement: indexes to check, or tables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    is_indexes: bool,
    relations: Vec<u32>,
}

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
    let batches = batches(&relations(&session).await?);
    drop(session);
    let count: usize = batches.iter().map(|batch| batch.relations.len()).sum();
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
    Ok((judge(&found, count, budget), Some(format!("{} of {count} relations", found.checked))))
}

fn judge(found: &Found, count: usize, budget: Duration) -> Outcome {
    if !found.damages.is_empty() {
        return failed(named(&found.damages));
    }
    match found.timed_out {
        true => degraded(format!("{} of {count} relations within {} s", found.checked, budget.as_secs())),
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

/// Oid, pages and whether it is an index, largest first; those of toast included.
async fn relations(session: &Session) -> Result<Vec<(u32, i64, bool)>, Stop> {
    let query = "
        SELECT c.oid, c.relpages::pg_catalog.int8, c.relkind = 'i'
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_am a ON a.oid = c.relam LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
         WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
           AND ((c.relkind IN ('r', 'm', 't') AND a.amname = 'heap')
                OR (c.relkind = 'i' AND a.amname = 'btree' AND i.indisready AND i.indisvalid))
         ORDER BY 2 DESC";
    // Before version 14 only indexes can be checked.
    let can_tables = "SELECT 1 FROM pg_catalog.pg_proc WHERE proname = 'verify_heapam'";
    let with_tables = session.query_opt(can_tables, &[]).await?.is_some();
    let rows = session.query(query, &[]).await?;
    let all = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2)));
    Ok(all.filter(|(_, _, is_index)| *is_index || with_tables).collect())
}

fn batches(relations: &[(u32, i64, bool)]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for kind in [true, false] {
        let (mut relations_of, mut pages) = (Vec::new(), 0);
        for (oid, size, _) in relations.iter().filter(|(_, _, is_index)| *is_index == kind) {
            let full = relations_of.len() >= RELATIONS_PER_STATEMENT || pages + size > PAGES_PER_STATEMENT;
            if full && !relations_of.is_empty() {
                batches.push(Batch { is_indexes: kind, relations: std::mem::take(&mut relations_of) });
                pages = 0;
            }
            relations_of.push(*oid);
            pages += size;
        }
        if !relations_of.is_empty() {
            batches.push(Batch { is_indexes: kind, relations: relations_of });
        }
    }
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
        match ask(&session, &schema, &batch).await {
            Ok(damages) => {
                found.checked += batch.relations.len();
                found.damages.extend(damages);
            }
            Err(error) => match error.code() {
                Some(&SqlState::QUERY_CANCELED) => found.timed_out = true,
                Some(&(SqlState::INDEX_CORRUPTED | SqlState::DATA_CORRUPTED)) => {
                    found.damages.extend(error.as_db_error().map(|db| db.message().to_owned()));
                }
                _ => return Err(error.into()),
            },
        }
    }
}

/// What is wrong with the tables of a batch; with an index the server answers by an error that names it.
async fn ask(session: &Session, schema: &str, batch: &Batch) -> Result<Vec<String>, tokio_postgres::Error> {
    let query = match batch.is_indexes {
        true => format!(
            "SELECT {schema}.bt_index_check(index)::pg_catalog.text
               FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS index"
        ),
        false => format!(
            "SELECT pg_catalog.format('%s, block %s: %s', relation::pg_catalog.regclass, v.blkno, v.msg)
               FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS relation
              CROSS JOIN LATERAL {schema}.verify_heapam(relation) AS v"
        ),
    };
    let rows = session.query(&query, &[&batch.relations]).await?;
    Ok(match batch.is_indexes {
        true => Vec::new(),
        false => rows.iter().map(|row| row.get(0)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_relations_share_a_statement_and_large_ones_do_not() {
        let mut relations = vec![(1, 100_000, true), (2, 5_000, false), (3, 10, true), (4, 10, true)];
        relations.extend((10..160).map(|oid| (oid, 0, false)));
        let batches = batches(&relations);
        let of = |is_indexes: bool| {
            let some = batches.iter().filter(move |batch| batch.is_indexes == is_indexes);
            some.map(|batch| batch.relations.len()).collect::<Vec<_>>()
        };
        assert_eq!(of(true), [1, 2]);
        assert_eq!(of(false), [1, 100, 50]);
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
        assert_eq!(judge(found(true, &[])), degraded("1 of 2 relations within 30 s".to_owned()));
        assert_eq!(judge(found(true, &["bad page"])), failed("bad page".to_owned()));
    }
}
