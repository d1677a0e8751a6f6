//! One file a command: each opens what it needs, decides, prints, acts.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod policy;
pub(crate) mod prune;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod textfile;

use std::io::Write;
use std::path::Path;

use pgproof_policies::names::SourceName;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Marker};
use pgproof_repository::store::SharedStore;

use crate::failure::{Exit, Failure};

/// The policy and the repository it names, which must exist.
struct Opened {
    loaded: LoadedPolicy,
    store: SharedStore,
    marker: Marker,
}

/// A source that the policy does not have is refused before anything is asked of the store.
async fn open(policy: &Path, source: Option<&SourceName>) -> anyhow::Result<Opened> {
    let loaded = LoadedPolicy::read(policy)?;
    if let Some(name) = source {
        loaded.source(name)?;
    }
    let store = loaded.open_store().await?;
    let marker = catalog::find_marker(&*store).await?.ok_or_else(|| {
        let message = format!("there is no repository at {}", store.location());
        Failure::new(
            Exit::NothingFound,
            message,
            "the first `pgproof backup` makes one; is `repository.location` right?",
        )
    })?;
    Ok(Opened { loaded, store, marker })
}

fn print_json(document: &impl serde::Serialize) -> anyhow::Result<()> {
    say(&serde_json::to_string_pretty(document)?)
}

/// A line, or many, for standard output. A reader that has seen enough (`| head`) is no failure.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
