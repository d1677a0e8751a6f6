//! `pgproof audit`: who did what to the backups, each line checked; and what does not check.

use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgproof_policies::moment;
use pgproof_policies::names::SourceName;
use pgproof_repository::audit::{self, Audit, Entry, Finding};

use super::{open, print_json, say};
use crate::failure::Exit;
use crate::{cli, plain};

pub(crate) async fn run(policy: &Path, args: cli::Audit, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, args.source.as_ref()).await?;
    let signers = opened.loaded.trusted_signers()?;
    let zone = opened.loaded.policy.zone.as_deref();
    let since = match &args.since {
        Some(text) => moment::parse(text, zone, &TimeZone::system(), Timestamp::now())?,
        None => Timestamp::MIN,
    };
    let sources: Vec<SourceName> = match args.source {
        Some(name) => vec![name],
        None => opened.loaded.policy.sources.keys().cloned().collect(),
    };
    let mut all = Audit::default();
    for source in &sources {
        let found = audit::of(&opened.store, source, &signers).await?;
        all.acts.extend(found.acts.into_iter().filter(|act| act.at >= since));
        all.findings.extend(found.findings);
        all.remains.extend(found.remains);
    }
    all.acts.sort_by_key(|act| act.at);
    match json {
        true => print_json(&all)?,
        false => print(&all)?,
    }
    // Whatever the time asked for: a record that was removed has none.
    Ok(if all.findings.is_empty() { ExitCode::SUCCESS } else { Exit::Integrity.into() })
}

fn print(all: &Audit) -> anyhow::Result<()> {
    for act in &all.acts {
        say(&line(act))?;
    }
    for remains in &all.remains {
        say(&problem("remains       ", remains))?;
    }
    for finding in &all.findings {
        say(&problem("DOES NOT CHECK", finding))?;
    }
    match all.findings.len() {
        0 => say(&format!("{} act(s), all of which check", all.acts.len())),
        count => say(&format!("{} act(s), and {count} thing(s) that DO NOT CHECK", all.acts.len())),
    }
}

fn line(act: &Entry) -> String {
    let backup = act.backup.as_ref().map_or("-", |id| id.as_str());
    let Entry { source, at, act: kind, who, host, outcome, .. } = act;
    format!("{}  {source}  {kind:<9}  {backup}  {who} on {host}  {outcome}", plain::time(*at))
}

fn problem(what: &str, finding: &Finding) -> String {
    let Finding { source, record, problem } = finding;
    match record {
        Some(record) => format!("{what}  {source}  {record}: {problem}"),
        None => format!("{what}  {source}  {problem}"),
    }
}
