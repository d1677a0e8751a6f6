//! The daemon's health server, and what it tells of the daemon beside how the sources stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_monitoring::health;
use pgproof_monitoring::survey::Subject;
use pgproof_policies::names::SourceName;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure, chain};
use crate::verifier::Verifier;

/// What this process is at. How the sources stand, the repository says.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Activity {
    sources: BTreeMap<SourceName, SourceActivity>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct SourceActivity {
    at_work_since: Option<Timestamp>,
    /// Looks in a row of which no report remains.
    failures_in_a_row: u32,
}

impl Activity {
    pub(super) fn begin(&mut self, source: &SourceName, now: Timestamp) {
        self.sources.entry(source.clone()).or_default().at_work_since = Some(now);
    }

    pub(super) fn end(&mut self, source: &SourceName, failures_in_a_row: u32) {
        self.sources.insert(source.clone(), SourceActivity { at_work_since: None, failures_in_a_row });
    }
}

/// The server, if the policy asks for one.
#[derive(Debug)]
pub(super) struct Health {
    serving: Option<health::Health>,
    cancel: CancellationToken,
}

impl Health {
    /// It has a token of its own: while drills are being stopped, it still tells of them.
    pub(super) async fn start(
        verifier: &Verifier,
        activity: watch::Receiver<Activity>,
    ) -> anyhow::Result<Self> {
        let cancel = CancellationToken::new();
        let tell: health::Activity =
            Arc::new(move || serde_json::to_value(&*activity.borrow()).expect("names are the only keys"));
        let monitoring = &verifier.loaded.policy.monitoring;
        let subject = Subject::open(&verifier.loaded, Timestamp::now()).await?;
        let serving = health::start(monitoring, subject, tell, cancel.clone()).await;
        let serving = serving.map_err(|error| Failure::new(Exit::NotRun, chain(&error), error.hint()))?;
        Ok(Self { serving, cancel })
    }

    /// The sources of a new policy. The address stays: whoever scrapes it would not follow.
    pub(super) async fn replace(&self, verifier: &Verifier) {
        let Some(serving) = &self.serving else { return };
        match Subject::open(&verifier.loaded, Timestamp::now()).await {
            Ok(subject) => serving.replace(subject),
            Err(error) => {
                tracing::warn!(error = chain(&error), "health and metrics still tell of the policy before");
            }
        }
    }

    pub(super) async fn stop(self) {
        self.cancel.cancel();
        if let Some(serving) = self.serving {
            serving.stopped().await;
        }
    }
}
