//! All sources of a policy, read once. What was read is judged whenever somebody asks, since ages grow while nothing is read.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Policy, Source};
use pgproof_policies::schedule::Schedule;
use pgproof_policies::standing::{self, Facts, Finding, Limits, State};
use pgproof_repository::access::{AccessError, LoadedPolicy};
use pgproof_repository::catalog;
use pgproof_repository::lease::host_name;
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::retry::RetryPolicy;
use tokio::time::Instant;

use crate::facts;
use crate::place;

/// How long a store that does not answer is tried: somebody waits, and a scheduler's patience is half a minute.
pub const PATIENCE: RetryPolicy = RetryPolicy {
    total: Duration::from_secs(5),
    first_wait: Duration::from_millis(200),
    longest_wait: Duration::from_secs(2),
};
/// How long reading one source may take in all.
const TIME_LIMIT: Duration = Duration::from_secs(25);
/// Sources read at the same time.
const SOURCES_IN_FLIGHT: usize = 4;

/// What is watched, and by whose signatures. It needs neither identity nor signing key.
#[derive(Debug, Clone)]
pub struct Subject {
    repository: String,
    store: SharedStore,
    signers: TrustedSigners,
    zone: jiff::tz::TimeZone,
    sources: Vec<(Source, Limits)>,
}

/// All sources as they were read at one time.
#[derive(Debug)]
pub struct Survey {
    pub location: String,
    /// What metrics call it, see [`place`].
    pub(crate) repository: String,
    pub read_at: Timestamp,
    zone: jiff::tz::TimeZone,
    sources: Vec<Surveyed>,
}

#[derive(Debug)]
struct Surveyed {
    source: Source,
    limits: Limits,
    facts: Result<Facts, String>,
}

/// How a source stands at some time.
#[derive(Debug)]
pub struct Standing<'a> {
    pub source: &'a Source,
    pub limits: &'a Limits,
    /// `None` where it could not be read.
    pub facts: Option<&'a Facts>,
    pub findings: Vec<Finding>,
    /// When its schedule next asks for a backup.
    pub next_run: Option<Timestamp>,
}

impl Subject {
    /// All sources of a policy.
    ///
    /// # Errors
    /// When the policy names no trusted signers or its store cannot be opened.
    pub async fn open(loaded: &LoadedPolicy, now: Timestamp) -> Result<Self, AccessError> {
        let signers = loaded.trusted_signers()?;
        let store = loaded.open_store_to_watch(PATIENCE).await?;
        Ok(Self::new(store, signers, &loaded.policy, now))
    }

    pub fn new(store: SharedStore, signers: TrustedSigners, policy: &Policy, now: Timestamp) -> Self {
        let zone = policy.time_zone();
        let limited = |source: &Source| (source.clone(), Limits::of(source, &zone, now));
        let sources = policy.sources.values().map(limited).collect();
        let repository = place::of(&policy.repository.location, &host_name());
        Self { repository, store, signers, sources, zone }
    }

    /// The same with these sources alone.
    #[must_use]
    pub fn only(mut self, names: &[SourceName]) -> Self {
        self.sources.retain(|(source, _)| names.contains(&source.name));
        self
    }

    /// Reads everything. A source that cannot be read keeps no other from being read.
    pub async fn survey(&self, now: Timestamp) -> Survey {
        self.survey_until(now, None).await
    }

    /// The same, where nothing is waited for after `deadline`: sources that were not read by then are known not to be.
    pub(crate) async fn survey_until(&self, now: Timestamp, deadline: Option<Instant>) -> Survey {
        // A store that does not answer is waited for once, not once a source.
        let opened = self.open_repository(now, deadline).await;
        let opened = &opened;
        let read = futures::stream::iter(self.sources.clone()).map(|(source, limits)| async move {
            let facts = match opened {
                Ok(clock) => {
                    let read = self.read(&source, now, deadline).await;
                    read.map(|facts| Facts { store_clock_ahead: *clock, ..facts })
                }
                Err(why) => Err(why.clone()),
            };
            Surveyed { source, limits, facts }
        });
        let sources = read.buffered(SOURCES_IN_FLIGHT).collect().await;
        let (location, repository) = (self.store.location(), self.repository.clone());
        Survey { location, repository, read_at: now, zone: self.zone.clone(), sources }
    }

    async fn read(
        &self,
        source: &Source,
        now: Timestamp,
        deadline: Option<Instant>,
    ) -> Result<Facts, String> {
        let gathered = facts::gather(&self.store, &source.name, &self.signers, now);
        within(deadline, async { gathered.await.map_err(|error| on_one_line(&error)) }).await
    }

    /// Whether what lies there is a repository that this program understands, or nothing yet. Gives how far the store's
    /// clock is ahead, where it tells one.
    async fn open_repository(
        &self,
        now: Timestamp,
        deadline: Option<Instant>,
    ) -> Result<Option<SignedDuration>, String> {
        let asked = async {
            catalog::find_marker(&*self.store).await.map_err(|error| on_one_line(&error))?;
            let clock = self.store.clock().await.map_err(|error| on_one_line(&error))?;
            Ok(clock.map(|clock| clock.duration_since(now)))
        };
        within(deadline, asked).await
    }

    pub(crate) fn store(&self) -> &SharedStore {
        &self.store
    }
}

impl Survey {
    /// All sources of a policy, none of which could be read.
    pub(crate) fn unread(location: String, policy: &Policy, why: &str, now: Timestamp) -> Self {
        let zone = policy.time_zone();
        let unread = |source: &Source| Surveyed {
            source: source.clone(),
            limits: Limits::of(source, &zone, now),
            facts: Err(why.to_owned()),
        };
        let sources = policy.sources.values().map(unread).collect();
        let repository = place::of(&policy.repository.location, &host_name());
        Self { location, repository, read_at: now, zone, sources }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &SourceName> {
        self.sources.iter().map(|surveyed| &surveyed.source.name)
    }

    /// How each source stands at `now`, in the order of their names.
    pub fn judge(&self, now: Timestamp) -> Vec<Standing<'_>> {
        self.sources.iter().map(|surveyed| surveyed.judge(&self.zone, now)).collect()
    }

    /// Whether every source could be read.
    pub fn is_complete(&self) -> bool {
        self.sources.iter().all(|surveyed| surveyed.facts.is_ok())
    }

    /// Why sources could not be read.
    pub fn problems(&self) -> BTreeMap<&SourceName, &str> {
        let problems =
            self.sources.iter().filter_map(|it| Some((&it.source.name, it.facts.as_ref().err()?.as_str())));
        problems.collect()
    }
}

impl Surveyed {
    fn judge(&self, zone: &jiff::tz::TimeZone, now: Timestamp) -> Standing<'_> {
        let findings = match &self.facts {
            Ok(facts) => standing::judge(&self.source, &self.limits, facts, now),
            Err(why) => standing::not_checked(&self.source, why),
        };
        let schedule = self.source.schedule.as_ref().and_then(|schedule| schedule.parse::<Schedule>().ok());
        Standing {
            source: &self.source,
            limits: &self.limits,
            facts: self.facts.as_ref().ok(),
            findings,
            next_run: schedule.and_then(|schedule| schedule.next_after(now, zone)),
        }
    }
}

impl Standing<'_> {
    pub fn state(&self) -> State {
        standing::worst(&self.findings)
    }
}

/// The gravest state of all sources.
pub fn worst(standings: &[Standing<'_>]) -> State {
    standing::worst(standings.iter().flat_map(|standing| &standing.findings))
}

/// What comes of reading before its time limit, and before the deadline of all.
async fn within<T>(
    deadline: Option<Instant>,
    read: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let limit = Instant::now() + TIME_LIMIT;
    let read = tokio::time::timeout_at(deadline.map_or(limit, |deadline| deadline.min(limit)), read);
    match read.await {
        Ok(answer) => answer,
        Err(_) if deadline.is_some_and(|deadline| deadline < limit) => {
            Err("no answer before the repository's deadline".to_owned())
        }
        Err(_) => Err(format!("no answer within {} s", TIME_LIMIT.as_secs())),
    }
}

/// An error and its causes on one line.
pub(crate) fn on_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let told = causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"));
    told.split_whitespace().collect::<Vec<_>>().join(" ")
}
