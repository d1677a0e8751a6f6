//! What the daemon tells of itself, beside how the sources stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_monitoring::health;
use pgproof_monitoring::lookout::Lookout;
use pgproof_policies::names::SourceName;
use pgproof_repository::access::LoadedPolicy;
use serde::Serialize;
use tokio::sync::watch;

use crate::failure::{Exit, Failure, chain};

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
    /// For `systemctl status`.
    pub(super) fn line(&self) -> String {
        let at_work = match self.named(|at| at.at_work_since.is_some()).as_str() {
            "" => "waiting".to_owned(),
            names => format!("at work on {names}"),
        };
        match self.named(|at| at.failures_in_a_row > 0).as_str() {
            "" => at_work,
            names => format!("{at_work}; failing: {names}"),
        }
    }

    fn named(&self, is_meant: impl Fn(&SourceActivity) -> bool) -> String {
        let meant = self.sources.iter().filter(|(_, at)| is_meant(at));
        meant.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn begin(&mut self, source: &SourceName, now: Timestamp) {
        self.sources.entry(source.clone()).or_default().at_work_since = Some(now);
    }

    pub(super) fn end(&mut self, source: &SourceName, failures_in_a_row: u32) {
        self.sources.insert(source.clone(), SourceActivity { at_work_since: None, failures_in_a_row });
    }
}

/// Health, metrics and alerts beside the work.
pub(super) async fn lookout(
    loaded: Arc<LoadedPolicy>,
    activity: watch::Receiver<Activity>,
) -> anyhow::Result<Lookout> {
    let tell: health::Activity =
        Arc::new(move || serde_json::to_value(&*activity.borrow()).expect("names are the only keys"));
    let started = Box::pin(Lookout::start(loaded, tell)).await;
    Ok(started
        .map_err(|error| Failure::new(Exit::NotRun, chain(&error), error.hint().unwrap_or_default()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_tells_what_is_at_work_and_what_fails() {
        let (app, shop): (SourceName, SourceName) = ("app".parse().unwrap(), "shop".parse().unwrap());
        let mut activity = Activity::default();
        assert_eq!(activity.line(), "waiting");
        activity.begin(&app, "2026-11-24T02:00:00Z".parse().unwrap());
        activity.end(&shop, 2);
        assert_eq!(activity.line(), "at work on app; failing: shop");
    }
}
