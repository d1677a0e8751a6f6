//! The snapshot of a backup, and for how long it is held: meanwhile the server cannot clean up what it shows.

use jiff::SignedDuration;
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::snapshot::{ExportedSnapshot, SnapshotError};
use tokio::time::Instant;

use crate::failure::{Exit, Failure, message_of};

/// A snapshot that is held until it is released, or dropped.
#[derive(Debug)]
pub(super) struct HeldSnapshot {
    pub(super) snapshot: ExportedSnapshot,
    since: Instant,
    max: Option<SignedDuration>,
}

impl HeldSnapshot {
    pub(super) async fn open(
        connection: &ConnectionSpec,
        max: Option<SignedDuration>,
    ) -> Result<Self, SnapshotError> {
        let since = Instant::now();
        let snapshot = Box::pin(ExportedSnapshot::open(connection)).await?;
        Ok(Self { snapshot, since, max })
    }

    /// Ends once it was held for longer than it may be.
    pub(super) async fn too_long(&self) -> Failure {
        let max = self.max.and_then(|max| Some((max, self.since.checked_add(max.try_into().ok()?)?)));
        let Some((max, end)) = max else { return std::future::pending().await };
        tokio::time::sleep_until(end).await;
        let message = format!("the snapshot was held for {max:#}, as long as `snapshot_max` allows");
        let hint = "more streams (`jobs`), another time or a standby make the dump shorter; or allow it more";
        Failure::new(Exit::Failed, message, hint)
    }

    /// Lets go of it, and says for how long it was held.
    pub(super) async fn release(self) -> SignedDuration {
        // Every stream had a snapshot of its own by now, so that nothing depends on a good end of this one.
        if let Err(error) = self.snapshot.close().await {
            tracing::warn!(error = message_of(&error), "the snapshot's session had ended before");
        }
        SignedDuration::try_from(self.since.elapsed()).unwrap_or(SignedDuration::MAX)
    }
}
