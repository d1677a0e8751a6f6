//! `pgproof check`: signatures, chain and sizes; with `--read-data` every byte.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use pgproof_files::archive::Archive;
use pgproof_policies::names::SourceName;
use pgproof_repository::catalog::{self, Entry, Standing};
use pgproof_repository::chain;
use pgproof_repository::contents;
use pgproof_repository::keys::{Identities, TerminalPrompts};
use pgproof_repository::lineage;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{Contents, Object, Role};
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::SharedStore;
use serde::Serialize;

use super::list::chain as error_chain;
use super::{open, print_json, say};
use crate::cli;
use crate::failure::{Exit, Failure};

/// What was found of one source.
#[derive(Debug, Serialize)]
struct Findings {
    source: SourceName,
    backups_good: usize,
    /// `sizes`, `ciphertext` or `everything`: how deep the check went.
    depth: &'static str,
    problems: Vec<String>,
}

pub(crate) async fn run(policy: &Path, args: cli::Check, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, args.source.as_ref()).await?;
    let signers = opened.loaded.trusted_signers()?;
    let identities = match args.read_data && opened.loaded.has_identity() {
        true => Some(opened.loaded.identities(Arc::new(TerminalPrompts))?),
        false => None,
    };
    let sources: Vec<SourceName> = match args.source {
        Some(name) => vec![name],
        None => opened.loaded.policy.sources.keys().cloned().collect(),
    };
    let depth = Depth { read_data: args.read_data, identities: identities.as_ref() };
    let mut all = Vec::new();
    for source in sources {
        let entries = catalog::list(&opened.store, &source, &signers).await?;
        all.push(check_source(&opened.store, source, &entries, &signers, &depth).await);
    }
    report(&all, json)
}

struct Depth<'a> {
    read_data: bool,
    identities: Option<&'a Identities>,
}

impl Depth<'_> {
    fn name(&self) -> &'static str {
        match (self.read_data, self.identities) {
            (false, _) => "sizes",
            (true, None) => "ciphertext",
            (true, Some(_)) => "everything",
        }
    }
}

async fn check_source(
    store: &SharedStore,
    source: SourceName,
    entries: &[Entry],
    signers: &TrustedSigners,
    depth: &Depth<'_>,
) -> Findings {
    let mut problems: Vec<String> = entries.iter().filter_map(standing_problem).collect();
    let good: Vec<_> = entries.iter().filter_map(Entry::whole).collect();
    for signed in &good {
        for object in &signed.get().objects {
            if let Err(problem) = check_object(store, signed, object, depth).await {
                problems.push(format!("{}: {}: {problem}", signed.get().id, object.name));
            }
        }
        match (depth.read_data, depth.identities, &signed.get().contents) {
            (true, Some(identities), Contents::Files(_)) => {
                problems.extend(check_files(store, signed, signers, identities).await);
            }
            _ => problems.extend(check_bases(store, signed, signers).await),
        }
    }
    match chain::breaks_among(store, &good, signers).await {
        Ok(breaks) => problems.extend(breaks.iter().map(ToString::to_string)),
        Err(error) => problems.push(format!("the chain could not be checked: {}", error_chain(&error))),
    }
    Findings { source, backups_good: good.len(), depth: depth.name(), problems }
}

fn standing_problem(entry: &Entry) -> Option<String> {
    match &entry.standing {
        Standing::Quarantined(error) => Some(format!("{}: {}", entry.id, error_chain(error))),
        Standing::Unsigned => Some(format!("{}: the manifest has no signature", entry.id)),
        Standing::Whole(_) | Standing::Incomplete | Standing::Pruned => None,
    }
}

async fn check_object(
    store: &SharedStore,
    signed: &SignedManifest,
    object: &Object,
    depth: &Depth<'_>,
) -> Result<(), String> {
    let manifest = signed.get();
    let key =
        contents::object_key(&manifest.source, &manifest.id, object).map_err(|error| error_chain(&error))?;
    let meta = store.head(&key).await.map_err(|error| error_chain(&error))?;
    if meta.bytes != object.ciphertext.bytes {
        return Err(format!("has {} bytes, {} were signed", meta.bytes, object.ciphertext.bytes));
    }
    if !depth.read_data {
        return Ok(());
    }
    // What a host keeps for itself nobody else opens.
    let identities = depth.identities.filter(|_| object.role != Role::HostIndex);
    contents::read_through(store, &key, object, identities).await.map_err(|error| error_chain(&error))
}

/// Looks that what an incremental backup needs is there and well signed.
async fn check_bases(
    store: &SharedStore,
    signed: &SignedManifest,
    signers: &TrustedSigners,
) -> Option<String> {
    let found = lineage::bases_of(store, signed, signers).await;
    found.err().map(|error| format!("{}: {}", signed.get().id, error_chain(&error)))
}

/// Compares every file with its hash in the index.
async fn check_files(
    store: &SharedStore,
    signed: &SignedManifest,
    signers: &TrustedSigners,
    identities: &Identities,
) -> Vec<String> {
    let id = signed.get().id.clone();
    let checked = match Archive::fetch(store, signed, signers, identities).await {
        Ok(archive) => {
            let check = move || archive.check(&pgproof_files::Unwatched);
            tokio::task::spawn_blocking(check).await.expect("checking does not panic")
        }
        Err(error) => Err(error),
    };
    match checked {
        Ok(differing) => {
            let told = |path| format!("{id}: {path} does not have the hash that the index has");
            differing.iter().map(told).collect()
        }
        Err(error) => vec![format!("{id}: {}", error_chain(&error))],
    }
}

fn report(all: &[Findings], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(&all)?;
    } else {
        for findings in all {
            let verdict = match (findings.problems.is_empty(), findings.backups_good) {
                (false, _) => "PROBLEMS",
                (true, 0) => "nothing was checked",
                (true, _) => "no problem",
            };
            say(&format!(
                "{}: {} good backup(s), checked {}: {verdict}",
                findings.source, findings.backups_good, findings.depth
            ))?;
            for problem in &findings.problems {
                say(&format!("  {problem}"))?;
            }
        }
    }
    match all.iter().map(|findings| findings.problems.len()).sum::<usize>() {
        // What was not checked is no good news.
        0 if all.iter().all(|findings| findings.backups_good == 0) => Err(Failure::new(
            Exit::NothingFound,
            "there are no backups to check",
            "`pgproof backup` makes one; is `repository.location` right?",
        )
        .into()),
        0 => Ok(ExitCode::SUCCESS),
        count => {
            let message = format!("{count} problem(s) in the repository");
            Err(Failure::new(
                Exit::Integrity,
                message,
                "what is damaged cannot be restored; take a new backup, then look for the cause",
            )
            .into())
        }
    }
}
