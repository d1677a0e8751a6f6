//! `pgproof doctor`: tries all that a backup needs against the real store, servers and host.

mod memory;
mod sources;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Delivery, Location, Source, Url};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::doctor::host::{self, Secrecy, Signs};
use pgproof_repository::doctor::store::{self, Role};
use pgproof_repository::doctor::{Document, Line, Verdict, has_failed, text};
use tokio_util::sync::CancellationToken;

use super::{print_json, say};
use crate::cli;
use crate::failure::{Exit, Failure};

pub(crate) async fn run(
    policy: &Path,
    args: cli::Doctor,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let loaded = LoadedPolicy::read(policy)?;
    let chosen = chosen(&loaded, &args.source)?;
    let mut lines = host(&loaded);
    let names: Vec<SourceName> = chosen.iter().map(|source| source.name.clone()).collect();
    let tried = Box::pin(store::lines(&loaded, Role::Agent, names, &cancel)).await;
    lines.extend(tried.map_err(|store::Stopped| stopped())?);
    let of_sources = tokio::select! {
        lines = Box::pin(sources::lines(&loaded, &chosen)) => lines,
        () = cancel.cancelled() => return Err(stopped().into()),
    };
    lines.extend(of_sources);
    lines.extend(alerts(&loaded));
    match json {
        true => print_json(&Document::of(&lines))?,
        false => say(&told(&lines))?,
    }
    Ok(if has_failed(&lines) { Exit::Failed.into() } else { ExitCode::SUCCESS })
}

fn chosen(loaded: &LoadedPolicy, names: &[SourceName]) -> anyhow::Result<Vec<Source>> {
    if names.is_empty() {
        return Ok(loaded.policy.sources.values().cloned().collect());
    }
    Ok(names.iter().map(|name| loaded.source(name).cloned()).collect::<Result<_, _>>()?)
}

fn host(loaded: &LoadedPolicy) -> Vec<Line> {
    let mut lines = host::keys(loaded, Signs::Backups, Timestamp::now());
    lines.push(host::cannot_decrypt(loaded));
    lines.push(host::temporary_space());
    if let Location::Directory { path } = &loaded.policy.repository.location {
        lines.push(host::room("room for backups", path, None));
    }
    lines.push(host::zone(loaded));
    lines
}

/// Whether somebody would be told. Nothing is sent: `pgproof alert test` does that.
fn alerts(loaded: &LoadedPolicy) -> Vec<Line> {
    const ALERTS: &str = "alerts";
    let Some(alerts) = &loaded.policy.alerts else {
        let nobody =
            Line::new(Verdict::Warn, ALERTS, "routes", "nobody is told when backups fail or stay out");
        return vec![
            nobody.hint(
                "add [alerts.routes.NAME], or watch `pgproof status` or the metrics with what you have",
            ),
        ];
    };
    let names: Vec<&str> = alerts.routes.keys().map(String::as_str).collect();
    let told = format!("{}; `pgproof alert test` tries them", names.join(", "));
    let mut lines = vec![Line::new(Verdict::Ok, ALERTS, "routes", told)];
    for (name, route) in &alerts.routes {
        let secrets = match &route.delivery {
            Delivery::Webhook { url, secret_file } => [in_file(url), secret_file.as_deref()],
            Delivery::Slack { url } | Delivery::Ping { url } => [in_file(url), None],
            Delivery::Email(email) => [email.password_file.as_deref(), None],
            Delivery::Command(_) => [None, None],
        };
        lines.extend(secrets.into_iter().flatten().map(|path| {
            let line = host::file(&format!("secret of {name}"), path, Secrecy::Secret);
            Line { about: ALERTS.to_owned(), ..line }
        }));
    }
    lines
}

fn in_file(url: &Url) -> Option<&Path> {
    match url {
        Url::Written(_) => None,
        Url::InFile(path) => Some(path),
    }
}

fn told(lines: &[Line]) -> String {
    if !std::io::stdout().is_terminal() {
        return text::plain(lines);
    }
    text::table(lines, std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()))
}

fn stopped() -> Failure {
    Failure::new(
        Exit::Interrupted,
        "stopped by a signal",
        "what was put below doctor/ was removed where these credentials may; run it again",
    )
}
