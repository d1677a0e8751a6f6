//! Comparing a database's sequences with those of a backup's inventory.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use pgproof_repository::inventory::Sequence;

use crate::connection::{ConnectError, ConnectionSpec, Session};
use crate::quoting::qualified;

/// Sequences read by one statement: each is a relation of its own, and a round trip for each would be slow.
const PER_STATEMENT: usize = 200;

/// A sequence that is not as the dump sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceDifference {
    pub expected: Sequence,
    /// Last value and whether it was called; `None` where the sequence is missing.
    pub found: Option<(i64, bool)>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SequenceError {
    #[error("no session for reading sequences")]
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
}

/// Every expected sequence that is missing from `database` or has another value. Others that it has are not looked at.
pub async fn differences(
    database: &ConnectionSpec,
    expected: &[Sequence],
) -> Result<Vec<SequenceDifference>, SequenceError> {
    let session = Box::pin(database.connect()).await.map_err(|source| SequenceError::Connect { source })?;
    let there = existing(&session).await?;
    let is_there = |sequence: &&Sequence| there.contains(&(sequence.schema.clone(), sequence.name.clone()));
    let (present, absent): (Vec<&Sequence>, Vec<&Sequence>) = expected.iter().partition(is_there);
    let mut differences: Vec<_> = absent
        .into_iter()
        .map(|expected| SequenceDifference { expected: expected.clone(), found: None })
        .collect();
    for some in present.chunks(PER_STATEMENT) {
        let rows = session.query(&statement(some), &[]).await;
        let rows = rows.map_err(|source| server("read the sequences", source))?;
        let found = rows.iter().map(|row| (row.get(1), row.get(2)));
        let pairs = some.iter().zip(found);
        differences.extend(pairs.filter(|(expected, found)| !is_equal(expected, *found)).map(
            |(expected, found)| SequenceDifference { expected: (*expected).clone(), found: Some(found) },
        ));
    }
    Ok(differences)
}

fn is_equal(expected: &Sequence, found: (i64, bool)) -> bool {
    (expected.last_value, expected.is_called) == found
}

async fn existing(session: &Session) -> Result<BTreeSet<(String, String)>, SequenceError> {
    let query = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S'";
    let rows = session.query(query, &[]).await.map_err(|source| server("list the sequences", source))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// One row a sequence, in their order.
fn statement(sequences: &[&Sequence]) -> String {
    let mut text = String::new();
    for (at, sequence) in sequences.iter().enumerate() {
        let union = if at == 0 { "" } else { " UNION ALL " };
        let name = qualified(&sequence.schema, &sequence.name);
        let _ = write!(text, "{union}SELECT {at} AS at, last_value, is_called FROM {name}");
    }
    text + " ORDER BY at"
}

fn server(doing: &'static str, source: tokio_postgres::Error) -> SequenceError {
    SequenceError::Server { doing, source }
}
