//! The store, tried with objects of our own: what each attempt came to. [`verdicts`] says what that means.
//!
//! Everything that is put lies below `doctor/`, in a folder a run, and is removed afterwards where the credentials allow it.
//! Whether something forbidden is refused is tried without doing it: a delete where no object is, and an upload that is
//! begun and given up.

pub mod powers;
mod rights;
mod traces;
mod trials;
pub mod verdicts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::Location;
use tokio_util::sync::CancellationToken;

pub use self::rights::{Rights, Role};
pub use self::traces::{Left, Traces};
use super::{Line, Verdict};
use crate::access::LoadedPolicy;
use crate::catalog;
use crate::ids::{BackupId, KeyPrefix, RepositoryId};
use crate::store::conditions::Conditions;
use crate::store::part_plan::PartLimits;
use crate::store::s3::{S3Settings, S3Store, Versioning};
use crate::store::{SharedStore, StoreError};

/// Uploads that were begun so long ago belong to nobody any more: no backup takes a day.
const STALE_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// What was put is removed within this, or told of.
const CLEARING: Duration = Duration::from_secs(30);
/// Somebody waits: a store that does not answer for so long is told as not reached.
const CONNECT: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_secs(20);

/// It was cancelled; what it had put was taken away, as far as that was possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Tries the policy's store, and takes away what that left there.
pub async fn lines(
    loaded: &LoadedPolicy,
    role: Role,
    sources: Vec<SourceName>,
    cancel: &CancellationToken,
) -> Result<Vec<Line>, Stopped> {
    let subject = match Subject::open(loaded, role, sources, Timestamp::now()).await {
        Ok(subject) => subject,
        Err(error) => {
            let line = Line::new(Verdict::Fail, "store", "reached", super::chain(&error));
            return Ok(vec![line.maybe_hint(error.hint())]);
        }
    };
    let found = tokio::select! {
        found = subject.examine() => Some(found),
        () = cancel.cancelled() => None,
    };
    let removed = tokio::time::timeout(CLEARING, subject.traces.remove(Timestamp::now())).await;
    let Some(found) = found else { return Err(Stopped) };
    let mut lines = verdicts::judge(&found, &verdicts::Expected::of(loaded, role));
    if let Probe::Found(_) | Probe::Denied = found.reached {
        lines.push(verdicts::left(&removed.unwrap_or_else(|_| subject.traces.not_known()), role));
    }
    Ok(lines)
}

/// Whether a store heeds the conditions that leases count on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heeds {
    Conditions,
    Nothing,
    NotTried { why: String },
}

/// Tries just that, for whoever writes a policy.
pub async fn heeds(loaded: &LoadedPolicy) -> Heeds {
    let tried = async {
        let subject = match Subject::open(loaded, Role::Agent, Vec::new(), Timestamp::now()).await {
            Ok(subject) => subject,
            Err(error) => return Heeds::NotTried { why: super::chain(&error) },
        };
        let heeds = subject.heeds().await;
        subject.traces.remove(Timestamp::now()).await;
        heeds
    };
    let too_long = || Heeds::NotTried { why: format!("no answer within {} s", CLEARING.as_secs()) };
    Box::pin(tokio::time::timeout(CLEARING, tried)).await.unwrap_or_else(|_| too_long())
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe<T> {
    Found(T),
    /// These credentials may not.
    Denied,
    /// The store does not know how.
    Unsupported,
    Failed(String),
    NotTried(&'static str),
}

impl<T> From<Result<T, StoreError>> for Probe<T> {
    fn from(result: Result<T, StoreError>) -> Self {
        match result {
            Ok(found) => Self::Found(found),
            Err(StoreError::Denied { .. }) => Self::Denied,
            Err(StoreError::Unsupported { .. }) => Self::Unsupported,
            Err(error) => Self::Failed(super::chain(&error)),
        }
    }
}

/// What was wrong with an answer, if anything.
pub type Flaw = Option<String>;

/// What a store does with `If-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacing {
    Honoured,
    /// It replaces whatever is there.
    Ignored,
    /// Not even the right version matches.
    NeverMatches,
    /// The right version matches only with its quotes, where they are left out, or without, where they are not.
    MatchesQuotedOtherwise,
}

/// Everything that was found of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub location: String,
    pub limits: PartLimits,
    /// How long it took to look for the repository, and whose it is.
    pub reached: Probe<(Duration, Option<RepositoryId>)>,
    /// By how much the store's clock is ahead, where it tells one.
    pub clock: Probe<Option<SignedDuration>>,
    pub put: Probe<Flaw>,
    pub put_if_absent: Probe<bool>,
    pub replace: Probe<Replacing>,
    pub upload: Probe<Flaw>,
    pub complete_if_absent: Probe<bool>,
    pub abort: Probe<Flaw>,
    /// Whether a part with the highest number is taken.
    pub highest_part: Probe<bool>,
    /// How many uploads lie there that nobody completes.
    pub stale_uploads: Probe<usize>,
    pub list: Probe<Flaw>,
    /// What only a bucket of S3 has.
    pub bucket: Option<Bucket>,
    pub rights: Vec<(SourceName, Rights)>,
}

/// What only a bucket of S3 has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    pub region: Probe<Option<String>>,
    pub pages: Probe<Flaw>,
    /// Whether a body with the wrong checksum is refused.
    pub checksum: Probe<bool>,
    pub versioning: Probe<Versioning>,
    pub is_lockable: Probe<bool>,
    pub stale_upload_rule: Probe<Option<u32>>,
}

/// A store to be tried.
#[derive(Debug)]
pub struct Subject {
    pub store: SharedStore,
    /// The same, with every condition sent, whatever the policy says of them.
    pub heeding: SharedStore,
    pub bucket: Option<TriedBucket>,
    /// Whoever may write there may delete.
    pub is_folder: bool,
    pub role: Role,
    pub sources: Vec<SourceName>,
    pub traces: Traces,
}

/// The same store as a bucket.
#[derive(Debug)]
pub struct TriedBucket {
    /// Sends no condition, so that everything else can be tried where they are refused.
    pub store: S3Store,
    pub heeding: S3Store,
    /// The same with the other way of quoting.
    pub quoted_otherwise: S3Store,
    /// Deletes every version of what it deletes.
    pub thorough: S3Store,
}

impl TriedBucket {
    pub async fn connect(settings: S3Settings) -> Result<Self, StoreError> {
        Self::connect_by(settings, S3Store::connect).await
    }

    /// The same, with credentials from elsewhere than the AWS chain.
    pub async fn connect_by(
        settings: S3Settings,
        connect: impl AsyncFn(S3Settings) -> Result<S3Store, StoreError>,
    ) -> Result<Self, StoreError> {
        let settings = S3Settings { connect_timeout: CONNECT, read_timeout: READ, ..settings };
        let (conditions, bare_etags) = (Conditions::HONOURED, settings.bare_etags);
        let plain = S3Settings { conditions: Conditions::IGNORED, ..settings.clone() };
        Ok(Self {
            thorough: connect(S3Settings { delete_versions: true, ..plain.clone() }).await?,
            store: connect(S3Settings { delete_versions: false, ..plain }).await?,
            heeding: connect(S3Settings { conditions, ..settings.clone() }).await?,
            quoted_otherwise: connect(S3Settings { conditions, bare_etags: !bare_etags, ..settings }).await?,
        })
    }
}

impl Subject {
    /// The store that the policy names.
    async fn open(
        loaded: &LoadedPolicy,
        role: Role,
        sources: Vec<SourceName>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        if let Some(settings) = loaded.s3_settings() {
            return Ok(Self::of_bucket(TriedBucket::connect(settings).await?, role, sources, now));
        }
        let is_folder = matches!(loaded.policy.repository.location, Location::Directory { .. });
        let store = loaded.open_once().await?;
        Ok(Self { is_folder, ..Self::new(store, role, sources, now) })
    }

    /// A store without the ways of an S3 bucket.
    pub fn new(store: SharedStore, role: Role, sources: Vec<SourceName>, now: Timestamp) -> Self {
        let traces = Traces::new(store.clone(), BackupId::new(now, &mut rand::rng()));
        Self { heeding: store.clone(), store, bucket: None, is_folder: false, role, sources, traces }
    }

    pub fn of_bucket(bucket: TriedBucket, role: Role, sources: Vec<SourceName>, now: Timestamp) -> Self {
        let (store, heeding) = (Arc::new(bucket.store.clone()), Arc::new(bucket.heeding.clone()));
        let thorough: SharedStore = Arc::new(bucket.thorough.clone());
        let plain = Self::new(store, role, sources, now);
        let traces = plain.traces.with_thorough(thorough);
        Self { heeding, traces, bucket: Some(bucket), ..plain }
    }

    /// Tries everything. What it leaves behind [`Traces::remove`] takes away, also after this was dropped half-way.
    pub async fn examine(&self) -> Found {
        let began = Instant::now();
        let marker = catalog::find_marker(&*self.store).await;
        let reached = match marker {
            Ok(marker) => Probe::Found((began.elapsed(), marker.map(|marker| marker.id))),
            Err(catalog::CatalogError::Store { source }) => Probe::from(Err(source)),
            Err(error) => Probe::Failed(super::chain(&error)),
        };
        if let Probe::Failed(_) = reached {
            return self.untried(reached, "the store was not reached");
        }
        let mut found = self.untried(reached, "nothing could be put below doctor/");
        found.clock = self.clock().await;
        found.stale_uploads = self.stale_uploads().await;
        found.rights = self.rights().await;
        self.try_all(&mut found).await;
        if let Some(bucket) = &self.bucket {
            found.bucket = Some(self.look_at(bucket, &found.put).await);
        }
        found
    }

    fn untried(&self, reached: Probe<(Duration, Option<RepositoryId>)>, why: &'static str) -> Found {
        let bucket = self.bucket.as_ref().map(|_| Bucket {
            region: Probe::NotTried(why),
            pages: Probe::NotTried(why),
            checksum: Probe::NotTried(why),
            versioning: Probe::NotTried(why),
            is_lockable: Probe::NotTried(why),
            stale_upload_rule: Probe::NotTried(why),
        });
        Found {
            location: self.store.location(),
            limits: self.store.part_limits(),
            reached,
            clock: Probe::NotTried(why),
            put: Probe::NotTried(why),
            put_if_absent: Probe::NotTried(why),
            replace: Probe::NotTried(why),
            upload: Probe::NotTried(why),
            complete_if_absent: Probe::NotTried(why),
            abort: Probe::NotTried(why),
            highest_part: Probe::NotTried(why),
            stale_uploads: Probe::NotTried(why),
            list: Probe::NotTried(why),
            bucket,
            rights: Vec::new(),
        }
    }

    async fn heeds(&self) -> Heeds {
        let mut found = self.untried(Probe::NotTried(""), "nothing could be put below doctor/");
        self.try_conditions(&mut found).await;
        match (&found.put_if_absent, &found.replace) {
            (Probe::Found(true), Probe::Found(Replacing::Honoured)) => Heeds::Conditions,
            (Probe::Found(_) | Probe::Unsupported, Probe::Found(_) | Probe::Unsupported) => Heeds::Nothing,
            _ => match found.put {
                Probe::Failed(why) => Heeds::NotTried { why },
                Probe::Denied => {
                    Heeds::NotTried { why: "these credentials may not put below doctor/".to_owned() }
                }
                _ => Heeds::NotTried { why: "the store's answers say nothing".to_owned() },
            },
        }
    }

    async fn clock(&self) -> Probe<Option<SignedDuration>> {
        let before = Timestamp::now();
        let told = self.store.clock().await;
        let now = before + Timestamp::now().duration_since(before) / 2;
        told.map(|told| told.map(|told| told.duration_since(now))).into()
    }

    async fn stale_uploads(&self) -> Probe<usize> {
        let before = Timestamp::now() - STALE_AFTER;
        let uploads = self.store.list_uploads(&KeyPrefix::everything()).await;
        uploads.map(|uploads| uploads.iter().filter(|it| it.started_at < before).count()).into()
    }

    async fn look_at(&self, TriedBucket { store, .. }: &TriedBucket, put: &Probe<Flaw>) -> Bucket {
        let untried = "nothing could be put below doctor/";
        let (pages, checksum) = match put {
            Probe::Found(_) => (self.pages(store).await, self.checksum(store).await),
            _ => (Probe::NotTried(untried), Probe::NotTried(untried)),
        };
        Bucket {
            region: store.region().await.into(),
            pages,
            checksum,
            versioning: store.versioning().await.into(),
            is_lockable: store.is_lockable().await.into(),
            stale_upload_rule: store.stale_upload_rule().await.into(),
        }
    }
}

#[cfg(test)]
mod tests;
