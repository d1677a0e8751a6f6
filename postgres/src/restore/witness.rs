//! What makes it safe to fill a database without waiting for the server's disk at every statement.
//!
//! A commit with `synchronous_commit = off` (<https://www.postgresql.org/docs/current/wal-async-commit.html>) can be lost
//! when the server breaks down right after it. Whoever is connected then loses the connection, but who comes after the
//! server's recovery sees nothing of it. So one session stays open from before the first statement until all is done:
//! if it lives, nothing was lost, and its own last commit waits until everything before it is on disk.

use std::time::Duration;

use super::error::RestoreError;
use super::target::open;
use crate::connection::{ConnectionSpec, Session};

/// For a session that only waits: what lies between may close connections that look abandoned, mostly after minutes.
const PULSE: Duration = Duration::from_secs(30);

/// A session that sees the whole restore.
#[derive(Debug)]
pub(crate) struct Witness {
    session: Session,
}

impl Witness {
    pub(crate) async fn open(target: &ConnectionSpec) -> Result<Self, RestoreError> {
        let session = open(target).await?;
        session
            .batch_execute(
                "SET synchronous_commit = on;
                 SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'",
            )
            .await
            .map_err(|source| RestoreError::Server { doing: "prepare a session", source })?;
        Ok(Self { session })
    }

    /// Does the work; ends with an error as soon as it is known that the server broke off meanwhile.
    pub(crate) async fn sees<T>(
        &self,
        work: impl Future<Output = Result<T, RestoreError>>,
    ) -> Result<T, RestoreError> {
        tokio::select! {
            done = work => done,
            error = self.ended() => Err(error),
        }
    }

    /// Collects the planner's statistics.
    pub(crate) async fn analyze(&self) -> Result<(), RestoreError> {
        self.execute("analyze the database", "SET client_min_messages = error; ANALYZE").await
    }

    /// All that was committed since this was opened is there, and stays.
    pub(crate) async fn confirm(self) -> Result<(), RestoreError> {
        // A commit that writes nothing to the log would not wait for it.
        let write = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgproof', 'restored')";
        self.execute(LASTING, write).await
    }

    /// Why the session ended, once it has.
    async fn ended(&self) -> RestoreError {
        loop {
            tokio::time::sleep(PULSE).await;
            if let Err(error) = self.execute(LASTING, "SELECT 1").await {
                return error;
            }
        }
    }

    async fn execute(&self, doing: &'static str, statement: &str) -> Result<(), RestoreError> {
        // ANALYZE takes its time, and so does a standby that commits wait for: `pulse` finds out who is silent for good.
        let executed = self.session.unhurried().batch_execute(statement).await;
        executed.map_err(|source| RestoreError::Server { doing, source })
    }
}

/// What an error means here.
const LASTING: &str = "see that the server ran on without a break, and kept all that it was given";

/// The same server, whose commits are not waited for: only while a [`Witness`] looks on.
pub(crate) fn hasty(target: &ConnectionSpec) -> ConnectionSpec {
    target.for_writing().with_setting("synchronous_commit", "off")
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::path::Path;
    use std::time::Instant;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::cluster::{Cluster, ClusterOptions};

    const BIN: &str = "/usr/lib/postgresql/15/bin";
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn statistics_may_take_longer_than_a_server_may_be_silent() {
        const SILENCE: Duration = Duration::from_millis(100);
        let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
        let target = cluster.spec().clone();
        let witness = Witness::open(&target.clone().with_patience(SILENCE)).await.unwrap();
        let holder = target.connect().await.unwrap();
        holder.batch_execute("CREATE TABLE public.t ()").await.unwrap();
        holder.batch_execute("BEGIN; LOCK TABLE public.t").await.unwrap();
        // A session in a transaction would see the activity of one moment only.
        let onlooker = target.connect().await.unwrap();
        let waits_long = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
            WHERE wait_event_type = 'Lock' AND clock_timestamp() - query_start > '300 ms')";
        let let_go = async {
            let deadline = Instant::now() + PATIENCE;
            while !onlooker.query_one(waits_long, &[]).await.unwrap().get::<_, bool>(0) {
                assert!(Instant::now() < deadline, "nobody waits for the lock");
            }
            holder.batch_execute("ROLLBACK").await.unwrap();
        };
        let (analyzed, ()) = tokio::join!(witness.analyze(), let_go);
        analyzed.unwrap();
        cluster.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_a_broken_server_may_have_lost_is_not_confirmed() {
        let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
        let target = cluster.spec().clone();
        let first = Witness::open(&target).await.unwrap();
        let second = Witness::open(&target).await.unwrap();
        let third = Witness::open(&target).await.unwrap();
        let onlooker = target.connect().await.unwrap();
        let hasty = hasty(&target).connect().await.unwrap();
        let mode = hasty.query_one("SHOW synchronous_commit", &[]).await.unwrap();
        assert_eq!(mode.get::<_, &str>(0), "off");
        hasty.batch_execute("CREATE TABLE public.kept AS SELECT 1").await.unwrap();
        let written = hasty.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap();
        let written: String = written.get(0);
        first.confirm().await.unwrap();
        let flushed = format!("SELECT pg_current_wal_flush_lsn() >= '{written}'");
        assert!(hasty.query_one(&flushed, &[]).await.unwrap().get::<_, bool>(0));

        let pid: i32 = hasty.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        // The server ends every session before it comes back; nothing tells those who come then.
        let deadline = Instant::now() + PATIENCE;
        while onlooker.batch_execute("SELECT 1").await.is_ok() {
            assert!(Instant::now() < deadline, "the server did not notice");
        }
        while target.connect().await.is_err() {
            assert!(Instant::now() < deadline, "the server does not come back");
        }
        second.confirm().await.unwrap_err();
        tokio::time::pause();
        third.sees(pending::<Result<(), _>>()).await.unwrap_err();
        tokio::time::resume();
        cluster.stop().await.unwrap();
    }
}
