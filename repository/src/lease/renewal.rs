//! Keeping a lease while there is work to do.

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{LEASE_RENEWAL, Lease, LeaseError};

/// A lease that is renewed while this lives.
#[derive(Debug)]
pub struct Renewal {
    task: tokio::task::JoinHandle<Option<Lease>>,
    stop: DropGuard,
    lost: Arc<OnceLock<LeaseError>>,
    has_lost: CancellationToken,
}

impl Renewal {
    /// A store that is away for a while is no loss: the lease is longer. When it runs out somebody else may take it.
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
                let ends = lease.ends();
                let renewed = tokio::time::timeout_at(ends, lease.renew(Timestamp::now())).await;
                match renewed.unwrap_or(Err(LeaseError::RanOut)) {
                    Ok(()) => {}
                    Err(LeaseError::Store { source }) if !lease.has_run_out(Timestamp::now()) => {
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
        Self { task, stop: stop.drop_guard(), lost, has_lost }
    }

    /// Ends only when the lease is lost, with what is known of why.
    pub async fn lost(&self) -> String {
        self.has_lost.cancelled().await;
        self.lost.get().map_or_else(|| "another process may be at work".to_owned(), ToString::to_string)
    }

    /// Stops renewing and gives the lease back.
    pub async fn release(self) {
        drop(self.stop);
        let released = match self.task.await {
            Ok(Some(lease)) => lease.release().await,
            Ok(None) | Err(_) => return,
        };
        if let Err(error) = released {
            tracing::warn!(error = %error, "lease could not be released; it runs out by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, timeout};

    use super::super::LIFE;
    use super::*;
    use crate::ids::ObjectKey;
    use crate::store::SharedStore;
    use crate::store::faulty::{Fault, FaultyStore, Rule};
    use crate::store::memory::MemoryStore;
    use crate::store::operation::Operation;

    fn key() -> ObjectKey {
        "leases/backup.app.json".parse().unwrap()
    }

    async fn take(store: &SharedStore) -> Result<Lease, LeaseError> {
        Lease::take(store.clone(), key(), Timestamp::now()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_cannot_be_renewed_is_lost_when_it_runs_out_and_not_before() {
        for (fault, why) in [(Fault::FailBefore, "cannot be read or written"), (Fault::Hang, "ran out")] {
            let faulty = FaultyStore::scripted(Arc::new(MemoryStore::new()), Vec::new());
            let store: SharedStore = Arc::new(faulty.clone());
            let renewal = take(&store).await.unwrap().keep();
            let began = Instant::now();
            faulty.script(vec![Rule::on(Operation::Put, fault).times(u64::MAX)]);
            let told = renewal.lost().await;
            assert!(told.contains(why), "{fault:?}: {told}");
            let held = began.elapsed();
            assert!(LIFE - LEASE_RENEWAL < held && held <= LIFE, "{fault:?}: {held:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_breaks_off_leaves_a_lease_that_runs_out() {
        let faulty = FaultyStore::scripted(Arc::new(MemoryStore::new()), Vec::new());
        let store: SharedStore = Arc::new(faulty.clone());
        drop(take(&store).await.unwrap().keep());
        let calls = faulty.calls();
        tokio::time::sleep(LIFE).await;
        assert_eq!(faulty.calls(), calls, "it is still renewed");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_a_minute_is_no_loss_and_a_release_frees_at_once() {
        let faulty = FaultyStore::scripted(Arc::new(MemoryStore::new()), Vec::new());
        let store: SharedStore = Arc::new(faulty.clone());
        let renewal = take(&store).await.unwrap().keep();
        faulty.script(vec![Rule::on(Operation::Put, Fault::FailBefore).times(2)]);
        assert!(timeout(LIFE * 3, renewal.lost()).await.is_err());
        assert!(faulty.struck() == 2 && faulty.calls() > 10);
        assert!(matches!(take(&store).await, Err(LeaseError::Held { .. })));
        renewal.release().await;
        take(&store).await.unwrap();
    }
}
