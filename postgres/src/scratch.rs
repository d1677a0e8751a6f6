//! Throw-away databases on a server that others use, too: their names, the mark that says who made one, and their end.
//!
//! The mark is the database's comment. Whatever lacks the prefix in its name or the mark in its comment is somebody
//! else's and is never touched. A process killed between the two statements that make and mark a database leaves an
//! empty one, which stays for that reason.

use jiff::{SignedDuration, Timestamp};
use pgproof_repository::ids::BackupId;
use pgproof_repository::lease::Holder;
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;

use crate::connection::{ConnectError, ConnectionSpec, Session};
use crate::quoting::identifier;

/// What the comment of our databases starts with, before the marker as JSON.
const MARK: &str = "pgproof drill ";
/// `server_version_num` from which DROP DATABASE ends the sessions in it.
const VERSION_WITH_FORCE: i32 = 130_000;

/// Who made a scratch database, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub holder: Holder,
    pub at: Timestamp,
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub version: String,
    pub major: u32,
    /// `None` where the role may not ask for it.
    pub system_identifier: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("no session with the scratch server")]
    Connect(#[source] ConnectError),
    #[error("cannot {doing} on the scratch server")]
    Server {
        doing: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
}

/// A name that no database has yet: the prefix, the time, and a random part.
pub fn new_name(prefix: &str, now: Timestamp) -> String {
    let id = BackupId::new(now, &mut rand::rng());
    format!("{prefix}{}", id.as_str().to_lowercase().replace('-', "_"))
}

impl Marker {
    pub fn new(now: Timestamp) -> Self {
        Self { holder: Holder::this_process(), at: now }
    }

    /// As the database's comment.
    pub fn comment(&self) -> String {
        // A struct of strings and numbers always has a JSON form.
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    fn parse(comment: &str) -> Option<Self> {
        serde_json::from_str(comment.strip_prefix(MARK)?).ok()
    }

    fn fate(&self, now: Timestamp, age_max: SignedDuration) -> Fate {
        if self.holder.is_dead() {
            Fate::Drop { with_sessions: true }
        } else if now.duration_since(self.at) > age_max {
            Fate::Drop { with_sessions: false }
        } else {
            Fate::Keep
        }
    }
}

/// What becomes of a database that a drill left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    /// Sessions in it belong to the dead maker's programs; those of a maker that may live keep it.
    Drop {
        with_sessions: bool,
    },
}

pub async fn identity(server: &ConnectionSpec) -> Result<Identity, ScratchError> {
    const DOING: &str = "ask which server this is";
    let failed = |source| ScratchError::Server { doing: DOING, source };
    let session = open(server).await?;
    let query = "SELECT pg_catalog.current_setting('server_version'),
                        pg_catalog.current_setting('server_version_num')::int,
                        pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
    let row = session.query_one(query, &[]).await.map_err(failed)?;
    let (version, number, allowed): (String, i32, bool) = (row.get(0), row.get(1), row.get(2));
    let mut system_identifier = None;
    if allowed {
        let query = "SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()";
        system_identifier = Some(session.query_one(query, &[]).await.map_err(failed)?.get(0));
    }
    let major = u32::try_from(number / 10_000).unwrap_or_default();
    Ok(Identity { version, major, system_identifier })
}

/// Drops what drills of dead processes left, and what is older than any drill becomes, whose maker cannot be asked as it
/// runs on another host. Answers the names of what it dropped.
pub async fn sweep(
    server: &ConnectionSpec,
    prefix: &str,
    now: Timestamp,
    age_max: SignedDuration,
) -> Result<Vec<String>, ScratchError> {
    let session = open(server).await?;
    let query = "SELECT datname::text, pg_catalog.shobj_description(oid, 'pg_database')
                   FROM pg_catalog.pg_database
                  WHERE pg_catalog.starts_with(datname::text, $1::text)";
    let rows = session
        .query(query, &[&prefix])
        .await
        .map_err(|source| ScratchError::Server { doing: "look for abandoned databases", source })?;
    let mut dropped = Vec::new();
    for row in rows {
        let (name, comment): (String, Option<String>) = (row.get(0), row.get(1));
        let Some(marker) = comment.as_deref().and_then(Marker::parse) else { continue };
        if let Fate::Drop { with_sessions } = marker.fate(now, age_max)
            && drop_if_unused(&session, &name, with_sessions).await?
        {
            dropped.push(name);
        }
    }
    Ok(dropped)
}

/// Drops a database of ours, with all sessions in it. That it is not there is fine.
pub async fn drop_database(server: &ConnectionSpec, name: &str) -> Result<(), ScratchError> {
    let session = open(server).await?;
    drop_if_unused(&session, name, true).await.map(drop)
}

/// Which of these extensions cannot be created on the server.
pub async fn missing_extensions(
    server: &ConnectionSpec,
    wanted: &[String],
) -> Result<Vec<String>, ScratchError> {
    let session = open(server).await?;
    let query = "SELECT name::text FROM pg_catalog.unnest($1::text[]) AS wanted (name)
                  WHERE name NOT IN (SELECT a.name FROM pg_catalog.pg_available_extensions AS a) ORDER BY 1";
    let rows = session
        .query(query, &[&wanted])
        .await
        .map_err(|source| ScratchError::Server { doing: "list the extensions", source })?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn open(server: &ConnectionSpec) -> Result<Session, ScratchError> {
    Box::pin(server.connect()).await.map_err(ScratchError::Connect)
}

/// Whether it was dropped; false where sessions that may not be ended are in it.
async fn drop_if_unused(session: &Session, name: &str, with_sessions: bool) -> Result<bool, ScratchError> {
    let failed = |source| ScratchError::Server { doing: "drop a database", source };
    let query = "SELECT pg_catalog.current_setting('server_version_num')::int";
    let version: i32 = session.query_one(query, &[]).await.map_err(failed)?.get(0);
    if with_sessions && version < VERSION_WITH_FORCE {
        let end = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                    WHERE datname = $1::text";
        session.query(end, &[&name]).await.map_err(failed)?;
    }
    let force = if with_sessions && version >= VERSION_WITH_FORCE { " WITH (FORCE)" } else { "" };
    let statement = format!("DROP DATABASE IF EXISTS {}{force}", identifier(name));
    match session.unhurried().batch_execute(&statement).await {
        Ok(()) => Ok(true),
        Err(error) if !with_sessions && error.code() == Some(&SqlState::OBJECT_IN_USE) => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(pid: u32, at: Timestamp) -> Marker {
        Marker { holder: Holder { pid, ..Holder::this_process() }, at }
    }

    #[test]
    fn only_the_dead_and_the_old_are_dropped() {
        let now: Timestamp = "2026-11-25T02:00:00Z".parse().unwrap();
        let age_max = SignedDuration::from_hours(24);
        let fate = |marker: Marker| marker.fate(now, age_max);
        let (alive, dead) = (std::process::id(), 4_194_999);
        assert_eq!(fate(marker(alive, now)), Fate::Keep);
        assert_eq!(fate(marker(dead, now)), Fate::Drop { with_sessions: true });
        let old = now - SignedDuration::from_hours(25);
        assert_eq!(fate(marker(alive, old)), Fate::Drop { with_sessions: false });
        let elsewhere = Holder { host: "elsewhere".to_owned(), ..marker(dead, now).holder };
        assert_eq!(fate(Marker { holder: elsewhere, at: now }), Fate::Keep);
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_one() {
        let made = marker(17, Timestamp::UNIX_EPOCH);
        assert_eq!(Marker::parse(&made.comment()), Some(made));
        for other in ["", "pgproof drill ", "pgproof drill {}", "the shop's database"] {
            assert_eq!(Marker::parse(other), None, "{other}");
        }
    }

    #[test]
    fn names_fit_behind_the_longest_prefix() {
        let now: Timestamp = "2026-11-25T02:00:00Z".parse().unwrap();
        let name = new_name(&"p".repeat(30), now);
        assert!(name.len() <= 63 && name.contains("20261125t020000z_"), "{name}");
        assert_ne!(name, new_name(&"p".repeat(30), now));
    }
}
