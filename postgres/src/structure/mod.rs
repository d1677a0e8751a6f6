//! What a database is beside its rows: its objects, each by kind, name and a hash of its definition.
//!
//! It is read twice, in the session that holds a backup's snapshot and from the restored database, with the same
//! queries; equal means that the restore lost no table, column, index, constraint, trigger, view or function, and that
//! each is defined as it was. Two servers of different major versions word definitions differently.

mod queries;
mod wording;

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use pgproof_repository::inventory::{Object, Structure};
use xxhash_rust::xxh3::Xxh3;

use crate::connection::Session;

/// First version of which everything asked for is in the catalogs.
const OLDEST_SERVER: u32 = 130_000;
/// How long one definition may wait for a lock: a comparison is not worth a wait for a migration.
const LOCK_TIMEOUT: &str = "10s";
/// How long one query may take; a second is usual for thousands of tables.
const STATEMENT_TIMEOUT: &str = "5min";
/// Kinds that are relations. What belongs to a relation that is missing is not listed beside it.
const RELATION_KINDS: [&str; 6] =
    ["table", "partitioned table", "foreign table", "view", "materialized view", "sequence"];

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StructureError {
    #[error("cannot {doing}")]
    Query {
        doing: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("servers before version 13 are not asked for their structure")]
    TooOld,
}

/// Reads the structure within the session's open transaction, which goes on whatever happens.
pub async fn read(session: &Session) -> Result<Structure, StructureError> {
    let begin = format!(
        "SAVEPOINT structure; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; \
         SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"
    );
    let prepared = session.batch_execute(&begin).await;
    prepared.map_err(|source| failed("prepare a session for reading the structure", source))?;
    let structure = Box::pin(read_all(session)).await;
    let ended = session.batch_execute("ROLLBACK TO SAVEPOINT structure; RELEASE SAVEPOINT structure").await;
    ended.map_err(|source| failed("end reading the structure", source))?;
    structure
}

/// What one structure has and another has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Kind and name of each.
    pub missing: Vec<String>,
    pub unexpected: Vec<String>,
    pub differing: Vec<String>,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.differing.is_empty()
    }
}

/// Compares what was expected with what was found.
pub fn differences(expected: &Structure, found: &Structure) -> Differences {
    let (before, after) = (by_name(expected), by_name(found));
    let shared = before.iter().filter_map(|(name, object)| Some((*object, *after.get(name)?)));
    Differences {
        missing: absent(&before, &after),
        unexpected: absent(&after, &before),
        differing: shared
            .filter(|(one, other)| one.digest != other.digest)
            .map(|(one, _)| told(one))
            .collect(),
    }
}

/// Takes out the relations that a dump left out on purpose, with all that is theirs, and notes their names.
///
/// `dumped` are the oids that the dump's table of contents names.
pub fn leave_out_all_but(structure: &mut Structure, dumped: &BTreeSet<u32>) {
    let is_left_out = |object: &Object| object.relation != 0 && !dumped.contains(&object.relation);
    let relations = structure.objects.iter().filter(|object| is_relation(object) && is_left_out(object));
    structure.left_out = relations.map(told).collect();
    structure.objects.retain(|object| !is_left_out(object));
}

async fn read_all(session: &Session) -> Result<Structure, StructureError> {
    let failed_at = |source| failed("read the structure", source);
    let version = "SELECT current_setting('server_version_num')::int4";
    let version: i32 = session.query_one(version, &[]).await.map_err(failed_at)?.get(0);
    let version = u32::try_from(version).unwrap_or_default();
    if version < OLDEST_SERVER {
        return Err(StructureError::TooOld);
    }
    let mut objects = Vec::new();
    let published = queries::published(version);
    for query in queries::OBJECTS.into_iter().chain([published.as_str()]) {
        objects.extend(read_objects(session, query).await.map_err(failed_at)?);
    }
    let versions = session.query(&queries::whole(queries::COLLATIONS), &[]).await.map_err(failed_at)?;
    Ok(Structure {
        server_major: version / 10_000,
        objects,
        not_validated: names(session, queries::NOT_VALIDATED).await.map_err(failed_at)?,
        not_populated: names(session, queries::NOT_POPULATED).await.map_err(failed_at)?,
        collation_versions: versions.iter().map(|row| (row.get(0), row.get(1))).collect(),
        left_out: Vec::new(),
    })
}

async fn read_objects(session: &Session, query: &str) -> Result<Vec<Object>, tokio_postgres::Error> {
    let no_parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
    let rows = session.answered(session.query_raw(&text_columns(query), no_parameters)).await?;
    let mut rows = Box::pin(rows);
    let mut objects = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let (kind, name, relation) = (row.get(0), row.get(1), row.get(2));
        let digest = digest(row.get(3), row.get(4));
        objects.push(Object { kind, name, relation, digest });
    }
    Ok(objects)
}

/// The query's answer with every column of the type that is read here.
fn text_columns(query: &str) -> String {
    queries::whole(&format!(
        "SELECT coalesce(kind::text, ''), coalesce(name::text, ''), relation, coalesce(properties::text, ''),
                coalesce(expressions::text, '')
           FROM ({query}) AS found (kind, name, relation, properties, expressions)"
    ))
}

async fn names(session: &Session, query: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = session.query(&queries::whole(query), &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// 16 hexadecimal digits: what is compared is a loss or an accident, not a forgery.
fn digest(properties: &str, expressions: &str) -> String {
    let mut hash = Xxh3::new();
    hash.update(properties.as_bytes());
    hash.update(&[0]);
    hash.update(wording::plain(expressions).as_bytes());
    format!("{:016x}", hash.digest())
}

type ByName<'a> = BTreeMap<(&'a str, &'a str), &'a Object>;

fn by_name(structure: &Structure) -> ByName<'_> {
    structure.objects.iter().map(|object| ((object.kind.as_str(), object.name.as_str()), object)).collect()
}

/// What is in `these` and not in `those`; of a relation that is gone only itself.
fn absent(these: &ByName<'_>, those: &ByName<'_>) -> Vec<String> {
    let gone: Vec<&Object> =
        these.iter().filter(|(name, _)| !those.contains_key(*name)).map(|(_, object)| *object).collect();
    let relations: BTreeSet<u32> =
        gone.iter().filter(|object| is_relation(object)).map(|object| object.relation).collect();
    let worth_telling = |object: &&&Object| is_relation(object) || !relations.contains(&object.relation);
    gone.iter().filter(worth_telling).map(|object| told(object)).collect()
}

fn is_relation(object: &Object) -> bool {
    RELATION_KINDS.contains(&object.kind.as_str())
}

fn told(object: &Object) -> String {
    format!("{} {}", object.kind, object.name)
}

fn failed(doing: &'static str, source: tokio_postgres::Error) -> StructureError {
    StructureError::Query { doing, source }
}

#[cfg(test)]
mod tests;
