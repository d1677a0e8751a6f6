//! Reading a database's large objects back, a range of ids at a time, over several connections.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::TryStreamExt;
use tokio::task::JoinSet;
use tokio_postgres::types::Oid;

use super::{LargeObjectDigest, LargeObjectHasher};
use crate::connection::{ConnectError, ConnectionSpec, Session};

/// Objects of one round trip.
const OBJECTS_PER_QUERY: i64 = 1_000;
/// Bytes of the first piece of each object in a range: most objects end within, and a row of it is held in memory.
const FIRST_PIECE_BYTES: i32 = 256 << 10;
/// Bytes of each further piece, one at a time.
const FURTHER_PIECE_BYTES: i32 = 4 << 20;
const SESSION: &str = "SET default_transaction_read_only = on";
/// First and last id of each range.
const RANGES: &str = "
    SELECT min(oid), max(oid) FROM (
        SELECT oid, (row_number() OVER (ORDER BY oid) - 1) / $1 AS part
          FROM pg_catalog.pg_largeobject_metadata) AS numbered
     GROUP BY part ORDER BY part";
const FIRST_PIECES: &str = "
    SELECT oid, pg_catalog.lo_get(oid, 0, $3) FROM pg_catalog.pg_largeobject_metadata
     WHERE oid BETWEEN $1 AND $2 ORDER BY oid";

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LargeObjectError {
    #[error("no session for reading large objects")]
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
    #[error("a worker that reads large objects died")]
    Worker {
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Digests every large object of a database that nobody changes meanwhile. Memory is a piece a connection.
pub async fn read(database: &ConnectionSpec, jobs: usize) -> Result<LargeObjectDigest, LargeObjectError> {
    let session = open(database).await?;
    let rows = session.query(RANGES, &[&OBJECTS_PER_QUERY]).await;
    let rows = rows.map_err(|source| server("list the large objects", source))?;
    let ranges: VecDeque<(Oid, Oid)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let count = ranges.len();
    let queue = Arc::new(Mutex::new(ranges));
    let mut workers = JoinSet::new();
    for _ in 0..jobs.min(count) {
        workers.spawn(Box::pin(work(database.clone(), queue.clone())));
    }
    let mut digest = LargeObjectDigest::default();
    while let Some(ended) = workers.join_next().await {
        digest += ended.map_err(|source| LargeObjectError::Worker { source })??;
    }
    Ok(digest)
}

type Queue = Arc<Mutex<VecDeque<(Oid, Oid)>>>;

async fn work(database: ConnectionSpec, queue: Queue) -> Result<LargeObjectDigest, LargeObjectError> {
    let session = open(&database).await?;
    let mut digest = LargeObjectDigest::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(range) = next else { return Ok(digest) };
        let read = Box::pin(range_digest(&session, range)).await;
        digest += read.map_err(|source| server("read large objects", source))?;
    }
}

async fn range_digest(
    session: &Session,
    (first, last): (Oid, Oid),
) -> Result<LargeObjectDigest, tokio_postgres::Error> {
    let rows = session.query_raw(FIRST_PIECES, parameters(&first, &last, &FIRST_PIECE_BYTES));
    let rows = session.answered(rows).await?;
    let mut rows = Box::pin(rows);
    let mut hasher = LargeObjectHasher::default();
    let mut longer = Vec::new();
    while let Some(row) = session.answered(rows.try_next()).await? {
        let (oid, piece): (Oid, &[u8]) = (row.get(0), row.get(1));
        if is_full(piece, FIRST_PIECE_BYTES) {
            longer.push(oid);
            continue;
        }
        hasher.begin(oid);
        hasher.update(piece);
        hasher.end();
    }
    for oid in longer {
        read_on(session, &mut hasher, oid).await?;
    }
    Ok(hasher.digest())
}

fn parameters<'a>(
    first: &'a Oid,
    last: &'a Oid,
    bytes: &'a i32,
) -> [&'a (dyn tokio_postgres::types::ToSql + Sync); 3] {
    [first, last, bytes]
}

/// An object that one piece does not hold, from its start.
async fn read_on(
    session: &Session,
    hasher: &mut LargeObjectHasher,
    oid: Oid,
) -> Result<(), tokio_postgres::Error> {
    let statement = session.prepare("SELECT pg_catalog.lo_get($1, $2, $3)").await?;
    hasher.begin(oid);
    let mut offset: i64 = 0;
    loop {
        let row = session.query_one(&statement, &[&oid, &offset, &FURTHER_PIECE_BYTES]).await?;
        let piece: &[u8] = row.get(0);
        hasher.update(piece);
        if !is_full(piece, FURTHER_PIECE_BYTES) {
            hasher.end();
            return Ok(());
        }
        offset += i64::from(FURTHER_PIECE_BYTES);
    }
}

fn is_full(piece: &[u8], asked: i32) -> bool {
    i32::try_from(piece.len()).is_ok_and(|length| length >= asked)
}

async fn open(database: &ConnectionSpec) -> Result<Session, LargeObjectError> {
    let session =
        Box::pin(database.connect()).await.map_err(|source| LargeObjectError::Connect { source })?;
    let prepared = session.batch_execute(SESSION).await;
    prepared.map_err(|source| server("prepare a session for reading", source))?;
    Ok(session)
}

fn server(doing: &'static str, source: tokio_postgres::Error) -> LargeObjectError {
    LargeObjectError::Server { doing, source }
}
