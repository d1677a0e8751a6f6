//! `pgproof diff`: what changed in a configuration.
//!
//! The host that makes backups cannot read them, and still knows by keyed hashes what differs. Values take the identity.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{ConfigSource, Kind};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::configuration::{Configuration, Index, changes};
use pgproof_repository::ids::BackupId;
use pgproof_repository::keys::TerminalPrompts;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::Contents;
use pgproof_repository::{catalog, contents};

use super::{Opened, open, print_json, say};
use crate::cli;
use crate::configuration;
use crate::failure::{Exit, Failure};

pub(crate) async fn run(policy: &Path, args: cli::Diff, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, args.source.as_ref()).await?;
    let (name, config) = source(&opened.loaded, args.source.as_ref())?;
    let changed = match args.values {
        true => Box::pin(with_values(&opened, &name, &config, &args)).await?,
        false => without_values(&opened, &name, &config, &args).await?,
    };
    if json {
        print_json(&changed)?;
        return Ok(ExitCode::SUCCESS);
    }
    if changed.is_empty() {
        say("nothing has changed")?;
    }
    for Difference { item, what, before, after } in &changed {
        say(&format!("{what:<8} {item}"))?;
        for (sign, value) in [("-", before), ("+", after)] {
            for line in value.iter().flat_map(|value| value.lines()) {
                say(&format!("  {sign} {line}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, serde::Serialize)]
struct Difference {
    item: String,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

fn source(loaded: &LoadedPolicy, named: Option<&SourceName>) -> anyhow::Result<(SourceName, ConfigSource)> {
    let configurations = loaded.policy.sources.values().filter_map(|source| match &source.kind {
        Kind::Config(config) if named.is_none_or(|name| *name == source.name) => {
            Some((source.name.clone(), config.clone()))
        }
        _ => None,
    });
    let mut found: Vec<_> = configurations.collect();
    match (found.len(), found.pop()) {
        (1, Some(found)) => Ok(found),
        (0, _) => {
            let message = "there is no such source of kind \"config\"";
            Err(Failure::new(Exit::Usage, message, "only configurations are compared").into())
        }
        _ => {
            Err(Failure::new(Exit::Usage, "the policy has several configurations", "say which: --source")
                .into())
        }
    }
}

async fn without_values(
    opened: &Opened,
    source: &SourceName,
    config: &ConfigSource,
    args: &cli::Diff,
) -> anyhow::Result<Vec<Difference>> {
    let key = opened.loaded.signing_key()?;
    let index = |signed: &SignedManifest| -> anyhow::Result<Index> {
        let Contents::Config(config) = &signed.get().contents else { return Err(no_configuration(signed)) };
        Index::open(&config.index, &key).map_err(|error| {
            let message = format!("{error}: what changed cannot be told without values");
            Failure::new(Exit::Failed, message, "compare where the identity is, with --values").into()
        })
    };
    let before = index(&find(opened, source, &args.before).await?)?;
    let after = match &args.after {
        Some(id) => index(&find(opened, source, id).await?)?,
        None => Index::of(&gathered(config).await?, &key)?,
    };
    let difference = |change: pgproof_repository::configuration::Change| Difference {
        item: change.item,
        what: change.what.to_string(),
        before: None,
        after: None,
    };
    Ok(changes(&before, &after).into_iter().map(difference).collect())
}

async fn with_values(
    opened: &Opened,
    source: &SourceName,
    config: &ConfigSource,
    args: &cli::Diff,
) -> anyhow::Result<Vec<Difference>> {
    let identities = opened.loaded.identities(Arc::new(TerminalPrompts))?;
    let read = async |id: &BackupId| -> anyhow::Result<Configuration> {
        let signed = find(opened, source, id).await?;
        Ok(contents::configuration(&opened.store, &signed, &identities).await?)
    };
    let before = values(&read(&args.before).await?);
    let after = match &args.after {
        Some(id) => values(&read(id).await?),
        None => values(&gathered(config).await?),
    };
    let mut items: Vec<&String> = before.keys().chain(after.keys()).collect();
    items.sort();
    items.dedup();
    let difference = |item: &String| {
        let (before, after) = (before.get(item), after.get(item));
        let what = match (before, after) {
            (None, _) => "added",
            (_, None) => "removed",
            (before, after) if before == after => return None,
            _ => "changed",
        };
        Some(Difference {
            item: item.clone(),
            what: what.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        })
    };
    Ok(items.into_iter().filter_map(difference).collect())
}

/// Every item's value as people read it, by the name that an index has for it.
fn values(configuration: &Configuration) -> BTreeMap<String, String> {
    let files = configuration.files.iter().map(|file| {
        let rights = format!("({:04o} {}:{})", file.mode, file.uid, file.gid);
        (file.path.clone(), format!("{rights}\n{}", String::from_utf8_lossy(&file.content.0)))
    });
    let variables = configuration.variables.iter().map(|variable| (variable.label(), variable.value.clone()));
    files.chain(variables).collect()
}

async fn gathered(config: &ConfigSource) -> anyhow::Result<Configuration> {
    let config = config.clone();
    Ok(tokio::task::spawn_blocking(move || configuration::gather(&config)).await??)
}

async fn find(opened: &Opened, source: &SourceName, id: &BackupId) -> anyhow::Result<SignedManifest> {
    let signers = opened.loaded.trusted_signers()?;
    Ok(catalog::find(&opened.store, source, id, &signers).await?)
}

fn no_configuration(signed: &SignedManifest) -> anyhow::Error {
    let message = format!(
        "backup {} is of kind {}, not of a configuration",
        signed.get().id,
        signed.get().contents.kind()
    );
    Failure::new(Exit::Usage, message, "`pgproof list` shows what is there").into()
}
