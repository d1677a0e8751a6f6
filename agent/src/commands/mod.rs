//! One file a command: each opens what it needs, decides, prints, acts.

pub(crate) mod alert;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod documents;
pub(crate) mod fleet;
pub(crate) mod hold;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod policy;
pub(crate) mod prune;
mod record;
pub(crate) mod restore;
pub(crate) mod restore_point;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod textfile;

use std::path::Path;

use pgproof_monitoring::alerts::NotTold;
use pgproof_monitoring::answer;
use pgproof_monitoring::journal;
use pgproof_policies::names::SourceName;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog;
use pgproof_repository::store::SharedStore;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use crate::failure::{Exit, Failure};

/// The policy and the repository it names, which must exist.
struct Opened {
    loaded: LoadedPolicy,
    store: SharedStore,
}

/// A source that the policy does not have is refused before anything is asked of the store.
async fn open(policy: &Path, source: Option<&SourceName>) -> anyhow::Result<Opened> {
    let loaded = LoadedPolicy::read(policy)?;
    if let Some(name) = source {
        loaded.source(name)?;
    }
    let store = loaded.open_store().await?;
    if catalog::find_marker(&*store).await?.is_none() {
        let message = format!("there is no repository at {}", store.location());
        let hint = "the first `pgproof backup` makes one; is `repository.location` right?";
        return Err(Failure::new(Exit::NothingFound, message, hint).into());
    }
    Ok(Opened { loaded, store })
}

/// Breaks off, when the token is cancelled, what may end anywhere: a store that does not answer keeps nobody.
pub(crate) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = cancel.cancelled() => Err(stopped("run it again").into()),
    }
}

fn stopped(hint: &str) -> Failure {
    Failure::new(Exit::Interrupted, "stopped by a signal", hint)
}

/// Alerts that did not get through are a failure of their own: the first is told, and the log has all of them.
fn all_told(not_told: Vec<NotTold>) -> anyhow::Result<()> {
    match not_told.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(anyhow::Error::from(first).context("an alert did not get through")),
    }
}

fn print_json(document: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(answer::print_json(document)?)
}

/// What an operator should know meanwhile, on standard error: for a program as a line of JSON.
fn note(json: bool, about: &str, text: &str) {
    let noted = match json {
        true => serde_json::json!({ "note": { "about": about, "text": text } }).to_string(),
        false => format!("{about:<14}{text}"),
    };
    journal::say(Level::INFO, &noted);
}

/// A line, or many, for standard output.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(answer::say(text)?)
}
