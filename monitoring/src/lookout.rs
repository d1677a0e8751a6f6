//! What a daemon does beside its work: it serves health and metrics, and tells people how the sources stand. Both daemons
//! do, so that each sees when the other has gone silent.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgproof_repository::access::{AccessError, LoadedPolicy};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::alerts::{Recollection, standing};
use crate::health::{self, Activity, Health, HealthError};
use crate::survey::{Subject, on_one_line};

/// How long a message that is under way may take when the daemon stops.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until it is stopped; while the daemon's own work is being stopped, it still tells of it.
#[derive(Debug)]
pub struct Lookout {
    health: Option<Health>,
    policy: watch::Sender<Arc<LoadedPolicy>>,
    telling: JoinHandle<()>,
    cancel: CancellationToken,
}

/// Why it cannot be begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookoutError {
    #[error("how the sources stand cannot be watched")]
    Access {
        #[source]
        source: AccessError,
    },
    #[error(transparent)]
    Health(HealthError),
}

impl LookoutError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Access { source } => source.hint().map(|hint| hint.to_string()),
            Self::Health(error) => Some(error.hint().to_owned()),
        }
    }
}

impl Lookout {
    pub async fn start(loaded: Arc<LoadedPolicy>, activity: Activity) -> Result<Self, LookoutError> {
        let cancel = CancellationToken::new();
        let subject = subject(&loaded).await.map_err(|source| LookoutError::Access { source })?;
        let monitoring = &loaded.policy.monitoring;
        let health = health::start(monitoring, subject, activity, cancel.clone()).await;
        let health = health.map_err(LookoutError::Health)?;
        let (policy, watched) = watch::channel(loaded);
        let telling = tokio::spawn(keep_telling(watched, cancel.clone()));
        Ok(Self { health, policy, telling, cancel })
    }

    /// Goes by a new policy. The address stays: whoever scrapes it would not follow.
    pub async fn replace(&self, loaded: Arc<LoadedPolicy>) {
        if let Some(health) = &self.health {
            match subject(&loaded).await {
                Ok(subject) => health.replace(subject),
                Err(error) => {
                    let error = on_one_line(&error);
                    tracing::warn!(%error, "health and metrics still tell of the policy before");
                }
            }
        }
        let listen = loaded.policy.monitoring.listen;
        let before = self.policy.send_replace(loaded);
        if before.policy.monitoring.listen != listen {
            tracing::warn!(
                "`monitoring.listen` is another now, and takes effect when the daemon is started again"
            );
        }
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        if let Some(health) = self.health {
            health.stopped().await;
        }
        // It ends at its next pause; a message that is under way is given a little time.
        let mut telling = self.telling;
        if tokio::time::timeout(STOP_DEADLINE, &mut telling).await.is_err() {
            telling.abort();
        }
    }
}

async fn subject(loaded: &LoadedPolicy) -> Result<Subject, AccessError> {
    Subject::open(loaded, Timestamp::now()).await
}

async fn keep_telling(policy: watch::Receiver<Arc<LoadedPolicy>>, cancel: CancellationToken) {
    let own = Recollection::default();
    loop {
        let loaded = policy.borrow().clone();
        if loaded.policy.alerts.is_some()
            && let Err(error) = Box::pin(standing::tell(&loaded, &own)).await
        {
            tracing::error!(error = on_one_line(&error), "how the sources stand could not be told");
        }
        let pause = Duration::try_from(loaded.policy.monitoring.refresh).unwrap_or(Duration::MAX);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
