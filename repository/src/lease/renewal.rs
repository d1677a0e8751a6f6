//! Keeping a lease while there is work to do.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{LEASE_RENEWAL, Lease, LeaseError};

/// A lease that is renewed while this lives.
#[derive(Debug)]
pub struct Renewal {
    task: tokio::task::JoinHandle<Option<Lease>>,
    stop: CancellationToken,
    lost: Arc<OnceLock<LeaseError>>,
    has_lost: CancellationToken,
}

impl Renewal {
    /// A store that is away for a while is no loss: the lease is longer.
    pub(super) fn of(mut lease: Lease) -> Self {
        let (stop, has_lost, lost) =
            (CancellationToken::new(), CancellationToken::new(), Arc::new(OnceLock::new()));
        let (stopped, telling, cause) = (stop.clone(), has_lost.clone(), lost.clone());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return Some(lease),
                    () = tokio::time::sleep(LEASE_RENEWAL) => {}
                }
                let now = Timestamp::now();
                match lease.renew(now).await {
                    Ok(()) => {}
                    Err(LeaseError::Store { source }) if lease.expires_at() > Timestamp::now() => {
                        tracing::warn!(error = %source, "lease could not be renewed; trying again");
                    }
                    Err(error) => {
                        // Set once, by this task alone.
                        let _ = cause.set(error);
                        telling.cancel();
                        return None;
                    }
                }
            }
        });
        Self { task, stop, lost, has_lost }
    }

    /// Ends only when the lease is lost, with what is known of why.
    pub async fn lost(&self) -> String {
        self.has_lost.cancelled().await;
        self.lost.get().map_or_else(|| "another process may be at work".to_owned(), ToString::to_string)
    }

    /// Stops renewing and gives the lease back.
    pub async fn release(self) {
        self.stop.cancel();
        let released = match self.task.await {
            Ok(Some(lease)) => lease.release().await,
            Ok(None) | Err(_) => return,
        };
        if let Err(error) = released {
            tracing::warn!(error = %error, "lease could not be released; it runs out by itself");
        }
    }
}
