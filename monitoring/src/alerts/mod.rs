//! Telling people: what is due is decided by [`pgproof_policies::alerts`], carried out here, and remembered in the
//! repository, so that hosts and one-shot runs do not tell the same thing twice.
//!
//! A store that cannot be reached silences nobody: then a message goes out that may be a double.

mod command;
mod email;
mod http;
mod memory;
mod payload;
pub mod standing;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pgproof_policies::alerts::{self, Alert, Event, Kind, LookedAt, Message, Sent, Severity};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Alerts, Delivery, Route, Url};
use pgproof_repository::signature::{SigningKey, TrustedSigners};
use pgproof_repository::store::SharedStore;

pub use memory::{Recollection, recall};
pub use payload::Payload;

use memory::Memory;

/// Pause before a message is tried again; doubled each time, within the route's own limit.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Who tells of a source.
#[derive(Debug, Clone, Copy)]
pub struct Teller<'a> {
    pub policy: &'a Alerts,
    pub source: &'a SourceName,
    pub store: &'a SharedStore,
    /// Without a key nothing is remembered, and the next run tells it again.
    pub signing_key: Option<&'a SigningKey>,
    pub signers: &'a TrustedSigners,
    /// What this process told and could not write down.
    pub own: &'a Recollection,
}

/// A route that did not take its message.
#[derive(Debug, thiserror::Error)]
#[error("route {route:?} did not take its message")]
pub struct NotTold {
    pub route: String,
    #[source]
    pub source: DeliveryError,
}

impl NotTold {
    pub fn hint(&self) -> Option<&'static str> {
        Some("`pgproof alert test` tries each route; what was not told is told again by the next run")
    }
}

impl Teller<'_> {
    /// Tells what is due of `raised`, which are all alerts there are of what was `looked_at`. What a route did not take
    /// is told to the others, and answered.
    pub async fn tell(&self, raised: &[Alert], looked_at: &LookedAt<'_>) -> Vec<NotTold> {
        let now = Timestamp::now();
        let due = |sent: &Sent| alerts::due(self.policy, self.source, sent, raised, looked_at, now);
        let (tried, mut not_told) = self.carry_out(&due, now).await;
        if !tried.is_empty() {
            not_told.extend(self.tell_of_routes(&tried, &not_told, now).await);
        }
        not_told
    }

    /// Sends what is due. Answers by which routes, and which of them did not take it.
    async fn carry_out(
        &self,
        due: &(dyn Fn(&Sent) -> Vec<Message> + Sync),
        now: Timestamp,
    ) -> (BTreeSet<String>, Vec<NotTold>) {
        let Self { store, source, signing_key: key, signers, own, .. } = *self;
        let memory = Memory { store, source, key, signers, own };
        let claimed = memory.claim(due, now).await;
        let (undelivered, not_told) = self.send_all(&claimed.messages).await;
        if !undelivered.is_empty() {
            memory.take_back(&undelivered, &claimed.before).await;
        }
        (claimed.messages.into_iter().map(|message| message.route).collect(), not_told)
    }

    /// A good backup was made: whoever waits for that hears of it.
    pub async fn ping(&self) -> Vec<NotTold> {
        let mut not_told = Vec::new();
        for (name, route) in &self.policy.routes {
            let Delivery::Ping { url } = &route.delivery else { continue };
            if !route.sources.is_empty() && !route.sources.contains(self.source) {
                continue;
            }
            if let Err(source) = patiently(route, || async { http::get(&read(url).await?).await }).await {
                not_told.push(NotTold { route: name.clone(), source });
            }
        }
        not_told
    }

    async fn send_all(&self, messages: &[Message]) -> (Vec<Message>, Vec<NotTold>) {
        let (mut undelivered, mut not_told) = (Vec::new(), Vec::new());
        for message in messages {
            let Some(route) = self.policy.routes.get(&message.route) else { continue };
            let payload = Payload::of(message, self.source);
            if let Err(source) = deliver(route, &payload).await {
                undelivered.push(message.clone());
                not_told.push(NotTold { route: message.route.clone(), source });
            }
        }
        (undelivered, not_told)
    }

    /// A route that takes nothing is an alert like others, for those that work, and over when it takes something again.
    async fn tell_of_routes(
        &self,
        tried: &BTreeSet<String>,
        failed: &[NotTold],
        now: Timestamp,
    ) -> Vec<NotTold> {
        let alert = |not_told: &NotTold| Alert {
            kind: Kind::NotifierFailed,
            about: not_told.route.clone(),
            subject: format!("alerts do not get through by route {:?}", not_told.route),
            text: chain(&not_told.source),
        };
        let raised: Vec<Alert> = failed.iter().map(alert).collect();
        let keys: BTreeSet<String> =
            tried.iter().map(|route| format!("{}/{route}", Kind::NotifierFailed.as_str())).collect();
        let looked_at = |_: Kind, key: &str| keys.contains(key);
        let works = |message: &Message| failed.iter().all(|not_told| not_told.route != message.route);
        let due = |sent: &Sent| {
            let mut messages = alerts::due(self.policy, self.source, sent, &raised, &looked_at, now);
            messages.retain(works);
            messages
        };
        self.carry_out(&due, now).await.1
    }
}

/// Sends a message that says it is a trial through one route.
pub async fn test(route: &Route, source: &SourceName) -> Result<(), DeliveryError> {
    let message = Message {
        route: String::new(),
        event: Event::Test,
        severity: Severity::P4,
        kind: None,
        key: "test".to_owned(),
        since: Timestamp::now(),
        subject: "a test: nothing is the matter".to_owned(),
        text: "sent by `pgproof alert test`".to_owned(),
        held_back: 0,
    };
    match &route.delivery {
        Delivery::Ping { url } => patiently(route, || async { http::get(&read(url).await?).await }).await,
        _ => deliver(route, &Payload::of(&message, source)).await,
    }
}

async fn deliver(route: &Route, payload: &Payload) -> Result<(), DeliveryError> {
    patiently(route, || async {
        match &route.delivery {
            Delivery::Webhook { url, secret_file } => {
                let secret = match secret_file {
                    Some(file) => Some(read_file(file).await?),
                    None => None,
                };
                http::post(&read(url).await?, payload.to_json(), secret.as_deref()).await
            }
            Delivery::Slack { url } => http::post(&read(url).await?, payload.to_slack(), None).await,
            Delivery::Email(mail) => email::send(mail, payload, limit(route)).await,
            Delivery::Command(program) => command::run(program, payload).await,
            Delivery::Ping { .. } => Ok(()),
        }
    })
    .await
}

/// Tries until it works, is refused, or takes too long.
async fn patiently<F>(route: &Route, attempt: impl Fn() -> F) -> Result<(), DeliveryError>
where
    F: Future<Output = Result<(), DeliveryError>>,
{
    let last = std::sync::Mutex::new(None);
    let tries = async {
        let mut wait = RETRY_AFTER;
        loop {
            match attempt().await {
                Err(error) if error.may_be_over_soon() => {
                    *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                }
                done => return done,
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    };
    let tried = tokio::time::timeout(limit(route), Box::pin(tries)).await;
    let last = last.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    tried.unwrap_or_else(|_| Err(last.unwrap_or(DeliveryError::TimedOut { limit: route.time_limit })))
}

fn limit(route: &Route) -> Duration {
    Duration::try_from(route.time_limit).unwrap_or(Duration::MAX)
}

async fn read(url: &Url) -> Result<String, DeliveryError> {
    match url {
        Url::Written(url) => Ok(url.clone()),
        Url::InFile(path) => read_file(path).await,
    }
}

async fn read_file(path: &std::path::Path) -> Result<String, DeliveryError> {
    let failed = |source| DeliveryError::File { path: path.to_owned(), source };
    Ok(tokio::fs::read_to_string(path).await.map_err(failed)?.trim().to_owned())
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// Why a message did not get through. No message names an address: it may be a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    #[error("{} cannot be read", path.display())]
    File {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the address is none of http or https")]
    Address,
    #[error("the address holds a user or password before the host, which is not sent")]
    UserInAddress,
    #[error("the server cannot be reached")]
    Unreachable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the server answered {status}")]
    Refused { status: u16 },
    #[error("the mail server did not take the message")]
    Mail {
        #[source]
        source: lettre::transport::smtp::Error,
    },
    #[error("no mail can be made of it: {why}")]
    NoMail { why: String },
    #[error("{} cannot be run", path.display())]
    Program {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} ended with {status}", path.display())]
    ProgramFailed { path: std::path::PathBuf, status: std::process::ExitStatus },
    #[error("it took longer than {limit:#}")]
    TimedOut { limit: SignedDuration },
}

impl DeliveryError {
    fn may_be_over_soon(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // Busy, or broken for the moment.
            Self::Refused { status } => matches!(status, 408 | 429 | 500..),
            Self::Mail { source } => !source.is_permanent(),
            _ => false,
        }
    }
}
