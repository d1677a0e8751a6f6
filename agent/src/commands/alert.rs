//! `pgproof alert`: whether the routes work, and what is raised.

use std::path::Path;
use std::process::ExitCode;

use pgproof_monitoring::alerts::{self, NotTold, Recollection};
use pgproof_policies::policy::Alerts;
use pgproof_repository::access::LoadedPolicy;

use super::{open, print_json, say};
use crate::cli::AlertCommand;
use crate::failure::{self, Exit, Failure};
use crate::plain;

const NO_ROUTES: &str = "the policy has no alert routes";

pub(crate) async fn run(policy: &Path, command: AlertCommand, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        AlertCommand::Test { route } => {
            let loaded = LoadedPolicy::read(policy)?;
            Box::pin(test(&loaded, route.as_deref(), json)).await
        }
        AlertCommand::Check => {
            let loaded = LoadedPolicy::read(policy)?;
            // The timer may run before anybody was named; that is no failure to be told of every quarter of an hour.
            if loaded.policy.alerts.is_none() {
                say(&format!("{NO_ROUTES}: nobody is told of anything"))?;
                return Ok(ExitCode::SUCCESS);
            }
            super::all_told(Box::pin(alerts::standing::tell(&loaded, &Recollection::default())).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        AlertCommand::List => list(policy, json).await,
    }
}

fn alerts_of(loaded: &LoadedPolicy) -> anyhow::Result<&Alerts> {
    let hint = "add a section such as [alerts.routes.oncall]";
    let none = || Failure::new(Exit::Usage, NO_ROUTES, hint);
    Ok(loaded.policy.alerts.as_ref().ok_or_else(none)?)
}

async fn test(loaded: &LoadedPolicy, only: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let alerts = alerts_of(loaded)?;
    if let Some(name) = only.filter(|name| !alerts.routes.contains_key(*name)) {
        let known: Vec<_> = alerts.routes.keys().map(String::as_str).collect();
        let hint = format!("the policy has {}", known.join(", "));
        return Err(Failure::new(Exit::Usage, format!("there is no route {name:?}"), hint).into());
    }
    let mut tried = Vec::new();
    for (name, route) in alerts.routes.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        // A route is tried for a source that it takes.
        let source = route.sources.first().or_else(|| loaded.policy.sources.keys().next());
        let Some(source) = source else { continue };
        tried.push((name, alerts::test(route, source).await));
    }
    let told = |result: &Result<(), _>| match result {
        Ok(()) => "taken".to_owned(),
        Err(error) => format!("FAILED: {}", failure::message_of(error)),
    };
    match json {
        true => {
            let routes = tried.iter().map(|(name, result)| ((*name).clone(), told(result).into()));
            print_json(&routes.collect::<serde_json::Map<_, _>>())?;
        }
        false => {
            for (name, result) in &tried {
                say(&format!("{name:<16} {}", told(result)))?;
            }
        }
    }
    let failed = tried
        .into_iter()
        .find_map(|(route, result)| result.err().map(|source| NotTold { route: route.clone(), source }));
    failed.map_or(Ok(ExitCode::SUCCESS), |failed| Err(failed.into()))
}

async fn list(policy: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, None).await?;
    let signers = opened.loaded.trusted_signers()?;
    let mut lines = Vec::new();
    for source in opened.loaded.policy.sources.keys() {
        let sent = alerts::recall(&opened.store, source, &signers).await?;
        lines.extend(sent.alerts.into_values().map(|known| (source, known)));
    }
    if json {
        let document = |(source, known): &(_, _)| serde_json::json!({ "source": source, "alert": known });
        print_json(&lines.iter().map(document).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    if lines.is_empty() {
        say("nothing was told that is not over")?;
    }
    for (source, known) in &lines {
        let routes: Vec<_> = known.told.keys().map(String::as_str).collect();
        let since = plain::time(known.since);
        say(&format!(
            "{} {source}: {} since {since}, told {}",
            known.severity,
            known.subject,
            routes.join(", ")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
