//! Putting a restored database in the place of another one, by renaming both; nothing is dropped.
//!
//! One transaction renames both. From its first statement on the server holds back whoever would connect to them, and lets
//! everybody go on when it ends, however it ends. So no database is ever closed to its users, and none can stay closed
//! because a session, a program or a host died midway.

use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::error::{ENDING_SESSIONS, RENAMING, RestoreError};
use super::target::{exists, open};
use crate::connection::{ConnectionSpec, Session};
use crate::quoting::identifier;

/// Longest name of a database, in bytes: one less than NAMEDATALEN.
const NAME_BYTES_MAX: usize = 63;
/// Attempts at the renames. In each of them the server itself gives the sessions in a database 5 s to end: some have
/// much to roll back.
const ATTEMPTS_MAX: u32 = 3;
/// How long a rename may wait for whoever else is at work on the database itself. Those who would connect wait behind it.
const LOCK_WAIT: &str = "10s";
/// More than an attempt takes on a server that answers: the wait for a lock and for sessions, for two databases.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(60);
/// Time between two rounds of ending sessions, and between two looks for a session that ends.
const ROUND: Duration = Duration::from_millis(200);
/// How long it is looked for what became of a commit whose answer was lost.
const LOOKED_FOR: Duration = Duration::from_secs(30);

/// The names after a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renames {
    /// The restored database now has this name.
    pub current: String,
    /// The database that had it before is kept under this one; `None` when there was none.
    pub kept: Option<String>,
}

/// Gives `new` the name `old`, and keeps what had that name as `<old>_before_<now>`.
///
/// `maintenance` must connect to neither of them. Sessions in both are ended. Both renames happen, or none.
pub async fn swap(
    maintenance: &ConnectionSpec,
    new: &str,
    old: &str,
    now: Timestamp,
) -> Result<Renames, RestoreError> {
    let session = open(maintenance).await?;
    let kept = exists(&session, old).await?.then(|| kept_name(old, now));
    let swap = Swap { maintenance, new, old, kept };
    match swap.rename(&session).await {
        Ok(()) => Ok(swap.renames()),
        Err(Failed::Before(error)) => Err(swap.not_done(error)),
        Err(Failed::InCommit { server_pid, source }) => {
            // A session that nobody has any more ends on the server, too.
            drop(session);
            match swap.was_carried_out(server_pid).await {
                Some(true) => Ok(swap.renames()),
                Some(false) => Err(swap.not_done(renaming(source))),
                None => Err(swap.not_known(source)),
            }
        }
    }
}

#[derive(Debug)]
struct Swap<'a> {
    maintenance: &'a ConnectionSpec,
    new: &'a str,
    old: &'a str,
    /// `None` when there is no database of the old name.
    kept: Option<String>,
}

#[derive(Debug)]
enum Failed {
    /// Nothing was renamed, and nothing will be.
    Before(RestoreError),
    /// The server was told to commit and did not answer.
    InCommit { server_pid: i32, source: Error },
}

impl Swap<'_> {
    fn renames(&self) -> Renames {
        Renames { current: self.old.to_owned(), kept: self.kept.clone() }
    }

    /// What is to be done, as an operator can type it.
    fn statements(&self) -> String {
        let rename = |from: &str, to: &str| {
            format!("ALTER DATABASE {} RENAME TO {}", identifier(from), identifier(to))
        };
        let first =
            self.kept.as_ref().map(|kept| format!("{}; ", rename(self.old, kept))).unwrap_or_default();
        format!("{first}{};", rename(self.new, self.old))
    }

    fn not_done(&self, source: RestoreError) -> RestoreError {
        let (new, old) = (self.new.to_owned(), self.old.to_owned());
        RestoreError::NotSwapped { new, old, by_hand: self.statements(), source: Box::new(source) }
    }

    fn not_known(&self, source: Error) -> RestoreError {
        let (new, old) = (self.new.to_owned(), self.old.to_owned());
        RestoreError::SwapUnknown { new, old, kept: self.kept.clone(), source }
    }

    async fn rename(&self, session: &Session) -> Result<(), Failed> {
        let others = open(self.maintenance).await.map_err(Failed::Before)?;
        let pid = session.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
        let server_pid = pid.map_err(|source| Failed::Before(renaming(source)))?.get(0);
        let mut attempts = 1;
        while let Err(error) = self.begin(session, &others).await {
            if attempts == ATTEMPTS_MAX || !is_busy(&error) {
                return Err(Failed::Before(error));
            }
            attempts += 1;
        }
        // Sent alone: whoever dies before this line has changed nothing, as a server commits nothing for a lost client.
        match session.batch_execute("COMMIT").await {
            Ok(()) => Ok(()),
            Err(source) if source.as_db_error().is_none() => Err(Failed::InCommit { server_pid, source }),
            Err(source) => Err(Failed::Before(renaming(source))),
        }
    }

    /// Renames within a transaction, which stays open, while `others` ends the sessions that are in the way.
    async fn begin(&self, session: &Session, others: &Session) -> Result<(), RestoreError> {
        let statements = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT}'; {}", self.statements());
        // The waits of the server are no silence.
        let mut renamed = pin!(timeout(ATTEMPT_TIME_MAX, session.unhurried().batch_execute(&statements)));
        let (renamed, refusal) = tokio::select! {
            renamed = &mut renamed => (renamed, None),
            refusal = self.end_sessions(others) => {
                // It waits for what cannot be ended. Should this get lost, it gives up by itself.
                let _ = session.cancel().await;
                (renamed.await, Some(refusal))
            }
        };
        let failed = match renamed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(source)) => refusal.unwrap_or_else(|| renaming(source)),
            Err(_) => return Err(RestoreError::Silent { after: ATTEMPT_TIME_MAX }),
        };
        // Fails only with the session, and the transaction with it.
        let _ = session.batch_execute("ROLLBACK").await;
        Err(failed)
    }

    /// Ends sessions again and again; comes back only with an error.
    async fn end_sessions(&self, others: &Session) -> RestoreError {
        // Autovacuum's workers belong to no role. A rename ends them by itself, which only superusers may.
        let query = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
                      WHERE datname = ANY ($1::text[]) AND usesysid IS NOT NULL";
        let databases = [self.old, self.new];
        loop {
            // The first of all comes after this, too: who is sent away must find the door locked.
            sleep(ROUND).await;
            if let Err(source) = others.query(query, &[&&databases[..]]).await {
                return RestoreError::Server { doing: ENDING_SESSIONS, source };
            }
        }
    }

    /// Whether the commit of a lost session was carried out; `None` where that cannot be found out.
    async fn was_carried_out(&self, server_pid: i32) -> Option<bool> {
        let deadline = Instant::now() + LOOKED_FOR;
        while Instant::now() < deadline {
            if let Ok(Some(answer)) = self.look(server_pid).await {
                return Some(answer);
            }
            sleep(ROUND).await;
        }
        None
    }

    /// `None` while the lost session may still be at work.
    async fn look(&self, server_pid: i32) -> Result<Option<bool>, RestoreError> {
        let session = open(self.maintenance).await?;
        let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid = $1)";
        let failed = |source| RestoreError::Server { doing: "look for the lost session", source };
        match session.query_one(query, &[&server_pid]).await.map_err(failed)?.get(0) {
            true => Ok(None),
            false => exists(&session, self.new).await.map(|is_there| Some(!is_there)),
        }
    }
}

fn renaming(source: Error) -> RestoreError {
    RestoreError::Server { doing: RENAMING, source }
}

/// Whether it may go better once more sessions have ended.
fn is_busy(error: &RestoreError) -> bool {
    let RestoreError::Server { doing: RENAMING, source } = error else { return false };
    [Some(&SqlState::OBJECT_IN_USE), Some(&SqlState::LOCK_NOT_AVAILABLE)].contains(&source.code())
}

/// `<old>_before_<time>`, with as much of the old name as fits.
fn kept_name(old: &str, now: Timestamp) -> String {
    let suffix = format!("_before_{}", now.strftime("%Y%m%dt%H%M%Sz"));
    let mut end = old.len().min(NAME_BYTES_MAX - suffix.len());
    while !old.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &old[..end])
}

#[cfg(test)]
mod tests;
