//! Who holds a lease, and whether that process is still alive.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use pgproof_repository::lease::{Holder, LEASE_RENEWAL, Lease, LeaseError};
use tokio_util::sync::CancellationToken;

/// This process as a holder.
pub(crate) fn this_process() -> Holder {
    Holder { host: crate::commands::host_name(), boot: boot_id(), pid: std::process::id() }
}

/// A process of this host and this boot that is no longer there. Of other hosts nothing is known.
pub(crate) fn is_dead(holder: &Holder) -> bool {
    let here = this_process();
    let comparable = !here.boot.is_empty() && (&here.host, &here.boot) == (&holder.host, &holder.boot);
    comparable && !std::path::Path::new(&format!("/proc/{}", holder.pid)).exists()
}

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// A lease that is renewed while this lives.
#[derive(Debug)]
pub(crate) struct Renewal {
    task: tokio::task::JoinHandle<Option<Lease>>,
    stop: CancellationToken,
    lost: Arc<OnceLock<LeaseError>>,
    has_lost: CancellationToken,
}

/// Renews the lease until it is released or lost. A store that is away for a while is no loss: the lease is longer.
pub(crate) fn keep(mut lease: Lease) -> Renewal {
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
    Renewal { task, stop, lost, has_lost }
}

impl Renewal {
    /// Ends only when the lease is lost.
    pub(crate) async fn lost(&self) -> anyhow::Error {
        self.has_lost.cancelled().await;
        match self.lost.get() {
            Some(error) => anyhow::anyhow!("{error}"),
            None => anyhow::anyhow!("another process may be at work"),
        }
    }

    /// Stops renewing and gives the lease back.
    pub(crate) async fn release(self) {
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
