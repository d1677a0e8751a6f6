//! Reading one repository of a fleet, before its deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{FleetRepository, GoesBy, Policy, PolicyProblems, Promise};
use pgproof_repository::access::{AccessError, LoadedPolicy};
use pgproof_repository::catalog;
use pgproof_repository::ids::{BackupId, KeyPrefix, RepositoryId};
use pgproof_repository::layout;
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::{SharedStore, StoreError};
use tokio::time::{Instant, timeout_at};

use super::{Kept, Locked, Repository};
use crate::survey::{PATIENCE, Subject, Survey, on_one_line};

/// Names of sources that are asked for: what a store tells in one answer.
const SOURCES_MAX: usize = 1000;
/// Holds that are counted: more than anybody keeps an eye on.
const HOLDS_MAX: usize = 1000;
/// Sources whose holds and locks are asked for at the same time.
const SOURCES_IN_FLIGHT: usize = 4;

pub(super) async fn read(
    name: String,
    member: &FleetRepository,
    now: Timestamp,
    deadline: Duration,
) -> Repository {
    let reading = Reading { now, deadline: Instant::now() + deadline };
    let repository = match &member.goes_by {
        GoesBy::Policy(path) => reading.by_policy(path).await,
        GoesBy::Promise(promise) => reading.by_promise(promise, &member.retired).await,
    };
    Repository { name, retired: member.retired.clone(), ..repository }
}

struct Reading {
    now: Timestamp,
    deadline: Instant,
}

/// A store that answered, and what lies at its top.
struct Opened {
    store: SharedStore,
    signers: TrustedSigners,
    /// `None` where no repository was begun yet, which is known, and no outage.
    id: Option<RepositoryId>,
    sources: BTreeSet<SourceName>,
    /// Whether there are more than were asked for.
    has_more: bool,
}

impl Reading {
    async fn by_policy(&self, path: &Path) -> Repository {
        // Whoever asks has no use for a policy's problems line by line; `pgproof policy check` tells them.
        let loaded = match LoadedPolicy::read(path) {
            Ok(loaded) => loaded,
            Err(error) => return unknown(Why::of(&error)),
        };
        match self.open(&loaded).await {
            Ok(opened) => self.survey(&loaded.policy, opened).await,
            Err(why) => self.none_read(&loaded.policy, why),
        }
    }

    async fn by_promise(&self, promise: &Promise, retired: &BTreeSet<SourceName>) -> Repository {
        let expected = promise.as_policy(promise.sources.clone());
        let loaded = LoadedPolicy { policy: expected, path: PathBuf::new(), sha256: String::new() };
        match self.open(&loaded).await {
            Ok(opened) => {
                let there = opened.sources.difference(retired);
                let all: BTreeSet<SourceName> = promise.sources.iter().chain(there).cloned().collect();
                self.survey(&promise.as_policy(all), opened).await
            }
            Err(why) => self.none_read(&loaded.policy, why),
        }
    }

    async fn open(&self, loaded: &LoadedPolicy) -> Result<Opened, Why> {
        let opened = async {
            let signers = loaded.trusted_signers().map_err(|error| Why::of(&error))?;
            let store = loaded.open_store_to_look(PATIENCE).await.map_err(|error| Why::of(&error))?;
            let marker = catalog::find_marker(&*store).await.map_err(|error| Why::of(&error))?;
            let page = store.folders_from(&KeyPrefix::everything(), None, SOURCES_MAX).await;
            let page = page.map_err(|error| Why::of(&error))?;
            let sources = page.names.iter().filter_map(|name| name.parse().ok()).collect();
            Ok(Opened { store, signers, id: marker.map(|marker| marker.id), sources, has_more: page.more })
        };
        timeout_at(self.deadline, opened).await.unwrap_or_else(|_| Err(late()))
    }

    async fn survey(&self, policy: &Policy, opened: Opened) -> Repository {
        let Opened { store, signers, id, sources, has_more } = opened;
        let subject = Subject::new(store, signers, policy, self.now);
        let survey = subject.survey_until(self.now, Some(self.deadline)).await;
        let kept = self.kept(&subject, &survey).await;
        let named: BTreeSet<SourceName> = survey.names().cloned().collect();
        let beyond =
            format!("more than {SOURCES_MAX} folders lie there; sources beyond them were not looked for");
        Repository {
            location: Some(policy.repository.location.to_string()),
            id,
            unnamed: sources.difference(&named).cloned().collect(),
            kept,
            survey: Some(survey),
            problems: if has_more { vec![beyond] } else { Vec::new() },
            ..Repository::default()
        }
    }

    /// Of every source with a backup: its holds, and the lock on the newest.
    async fn kept(&self, subject: &Subject, survey: &Survey) -> BTreeMap<SourceName, Kept> {
        let newest = survey.judge(self.now).into_iter().filter_map(|standing| {
            let id = standing.facts?.newest_backup(self.now)?.id.parse::<BackupId>().ok()?;
            Some((standing.source.name.clone(), id))
        });
        let newest: Vec<_> = newest.collect();
        let asked = stream::iter(newest).map(|(source, id)| async move {
            let holds = timeout_at(self.deadline, holds(subject.store(), &source)).await;
            let manifest = layout::manifest(&source, &id);
            let lock = timeout_at(self.deadline, subject.store().lock(&manifest)).await;
            let lock = match lock {
                Ok(Ok(Some(lock))) => Locked::By(lock),
                Ok(Ok(None) | Err(StoreError::Unsupported { .. })) => Locked::Not,
                Ok(Err(_)) | Err(_) => Locked::NotKnown,
            };
            (source, Kept { holds: holds.ok().and_then(Result::ok), lock })
        });
        asked.buffered(SOURCES_IN_FLIGHT).collect().await
    }

    /// Every source that was named is told of, so that an outage hides none.
    fn none_read(&self, policy: &Policy, why: Why) -> Repository {
        let location = policy.repository.location.to_string();
        let survey = Survey::unread(location.clone(), policy, &why.told, self.now);
        match policy.sources.is_empty() {
            true => Repository { location: Some(location), ..unknown(why) },
            false => Repository {
                location: Some(location),
                survey: Some(survey),
                hint: why.hint,
                ..Repository::default()
            },
        }
    }
}

/// Why nothing of a repository could be read.
struct Why {
    told: String,
    hint: Option<String>,
}

impl Why {
    fn of(error: &(dyn Error + 'static)) -> Self {
        Self { told: on_one_line(error), hint: hint(error).map(str::to_owned) }
    }
}

/// Of the outermost cause that has one.
fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let access = error.downcast_ref::<AccessError>().and_then(AccessError::hint);
    let policy = error.downcast_ref::<PolicyProblems>();
    let policy = policy.map(|_| "`pgproof policy check` tells them line by line");
    let store = error.downcast_ref::<StoreError>().and_then(StoreError::hint);
    access.or(policy).or(store).or_else(|| hint(error.source()?))
}

fn unknown(why: Why) -> Repository {
    Repository { problems: vec![why.told], hint: why.hint, ..Repository::default() }
}

async fn holds(store: &SharedStore, source: &SourceName) -> Result<usize, StoreError> {
    let listed = store.list(&layout::holds(source), None).take(2 * HOLDS_MAX);
    let keys: Vec<_> = listed.map_ok(|meta| meta.key).try_collect().await?;
    Ok(keys.iter().filter(|key| key.as_str().ends_with(".json")).count())
}

fn late() -> Why {
    let hint = "check the network and the endpoint, or give it longer with --deadline";
    Why { told: "no answer before the repository's deadline".to_owned(), hint: Some(hint.to_owned()) }
}
