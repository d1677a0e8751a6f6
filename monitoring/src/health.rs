//! The health server of a daemon. It answers from what was read last, so that a scrape neither touches the bucket nor waits.
//!
//! - `/health/live`: the process turns.
//! - `/health/ready`: the repository was read wholly a short time ago.
//! - `/health/detailed`: everything, as JSON: [`Document`], and what the daemon is at.
//! - `/metrics`: for Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::Monitoring;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::document::Document;
use crate::metrics::{self, LastRead};
use crate::server;
use crate::survey::{Subject, Survey};

/// So many refreshes may fail or be late before what was read counts as unknown.
const REFRESHES_MISSED_MAX: i32 = 3;

/// What the daemon is at, as JSON; it must not wait for anything.
pub type Activity = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// A server that runs until its token is cancelled.
#[derive(Debug)]
pub struct Health {
    address: SocketAddr,
    subject: watch::Sender<Subject>,
    tasks: [JoinHandle<()>; 2],
}

/// Starts the server that the policy asks for, if it asks for one.
///
/// # Errors
/// When the address is taken or is not one of this machine.
pub async fn start(
    monitoring: &Monitoring,
    subject: Subject,
    activity: Activity,
    cancel: CancellationToken,
) -> Result<Option<Health>, HealthError> {
    let Some(listen) = monitoring.listen else { return Ok(None) };
    let refused = |source| HealthError { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let (subject, watched) = watch::channel(subject);
    let (latest, seen) = watch::channel(Latest::default());
    let shared = Shared { latest: seen, refresh: monitoring.refresh, activity };
    let refreshing = refresh(watched, latest, monitoring.refresh, cancel.clone());
    let serving = server::serve(listener, router(shared), cancel);
    tracing::info!(%address, "health and metrics are served");
    Ok(Some(Health { address, subject, tasks: [tokio::spawn(refreshing), tokio::spawn(serving)] }))
}

#[derive(Debug, thiserror::Error)]
#[error("health and metrics cannot be served on {listen}")]
pub struct HealthError {
    pub listen: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl HealthError {
    pub fn hint(&self) -> &'static str {
        "`monitoring.listen` in the policy names the address: is another process there? The verifier's is its own, in \
         [verifier.monitoring]"
    }
}

impl Health {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Watches what a new policy says from here on.
    pub fn replace(&self, subject: Subject) {
        self.subject.send_replace(subject);
    }

    /// After its token was cancelled.
    pub async fn stopped(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "the health server ended badly");
            }
        }
    }
}

/// What was read last.
#[derive(Debug, Clone, Default)]
struct Latest {
    survey: Option<Arc<Survey>>,
    last_read: LastRead,
    /// When every source could last be read.
    complete_at: Option<Timestamp>,
}

#[derive(Clone)]
struct Shared {
    latest: watch::Receiver<Latest>,
    refresh: SignedDuration,
    activity: Activity,
}

async fn refresh(
    mut subject: watch::Receiver<Subject>,
    latest: watch::Sender<Latest>,
    every: SignedDuration,
    cancel: CancellationToken,
) {
    let wait = Duration::try_from(every).unwrap_or_default();
    let rounds = async {
        loop {
            let current = subject.borrow_and_update().clone();
            let survey = current.survey(Timestamp::now()).await;
            for (source, why) in survey.problems() {
                tracing::warn!(%source, error = why, "its state cannot be read");
            }
            latest.send_modify(|latest| latest.take(survey));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = subject.changed() => if changed.is_err() { return },
            }
        }
    };
    cancel.run_until_cancelled(rounds).await;
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/health/live", get(async || "live\n"))
        .route("/health/ready", get(ready))
        .route("/health/detailed", get(detailed))
        .route("/metrics", get(all_metrics))
        .with_state(shared)
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.not_ready(Timestamp::now()) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn detailed(State(shared): State<Shared>) -> Response {
    let now = Timestamp::now();
    let latest = shared.latest.borrow().clone();
    let document = json!({
        "not_ready": shared.not_ready(now),
        "standing": latest.survey.map(|survey| Document::of(&survey, now)),
        "last_read": latest.last_read,
        "activity": (shared.activity)(),
    });
    ([(header::CONTENT_TYPE, "application/json")], format!("{document:#}\n")).into_response()
}

async fn all_metrics(State(shared): State<Shared>) -> Response {
    let now = Timestamp::now();
    let latest = shared.latest.borrow().clone();
    let survey = latest.survey.as_deref();
    let repository = survey.map(|survey| survey.repository.as_str()).unwrap_or_default();
    let recent = survey.filter(|survey| shared.is_recent(survey.read_at, now));
    let text = metrics::encode(repository, recent, &latest.last_read, now);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

impl Shared {
    /// Why nobody should go by what this process says.
    fn not_ready(&self, now: Timestamp) -> Option<String> {
        let latest = self.latest.borrow();
        if latest.complete_at.is_some_and(|at| self.is_recent(at, now)) {
            return None;
        }
        let problems = latest.survey.as_ref().map(|survey| survey.problems());
        let problem = problems.and_then(|problems| problems.into_values().next().map(str::to_owned));
        Some(problem.unwrap_or_else(|| "the repository was not read of late".to_owned()))
    }

    fn is_recent(&self, at: Timestamp, now: Timestamp) -> bool {
        let longest = self.refresh.checked_mul(REFRESHES_MISSED_MAX).unwrap_or(SignedDuration::MAX);
        now.duration_since(at) <= longest
    }
}

impl Latest {
    fn take(&mut self, survey: Survey) {
        let at = survey.read_at;
        if self.survey.as_ref().is_some_and(|before| before.repository != survey.repository) {
            *self = Self::default();
        }
        let standings = survey.judge(at);
        let known = |name: &SourceName| standings.iter().any(|standing| standing.source.name == *name);
        self.last_read.retain(|name, _| known(name));
        let read = standings.iter().filter(|standing| standing.facts.is_some());
        self.last_read.extend(read.map(|standing| (standing.source.name.clone(), at)));
        drop(standings);
        if survey.is_complete() {
            self.complete_at = Some(at);
        }
        self.survey = Some(Arc::new(survey));
    }
}
