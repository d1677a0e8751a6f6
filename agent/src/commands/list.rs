//! `pgproof list`: the newest backups with their standing, or all of them.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgproof_policies::moment;
use pgproof_policies::names::SourceName;
use pgproof_repository::catalog::{self, Before, Entry, Page, Standing};
use pgproof_repository::ids::BackupId;
use pgproof_repository::manifest::v1::{Chain, Contents, Manifest};
use pgproof_repository::signature::TrustedSigners;
use serde::Serialize;

use super::{Opened, note, open, print_json, say};
use crate::{cli, plain};

/// Sources that are read at the same time.
const SOURCES_IN_FLIGHT: usize = 4;

/// One line of the list. The JSON form; fields are only added.
#[derive(Debug, Serialize)]
struct Line {
    source: SourceName,
    id: String,
    /// `good`, `unsigned`, `quarantined`, `incomplete` or `pruned`.
    standing: &'static str,
    problem: Option<String>,
    snapshot_at: Option<Timestamp>,
    database_bytes: Option<u64>,
    stored_bytes: Option<u64>,
    plaintext_bytes: Option<u64>,
    rows: Option<u64>,
    signer: Option<String>,
    tags: std::collections::BTreeMap<String, String>,
    reason: Option<String>,
    /// Of a backup of files: `full` or `incremental`.
    increment: Option<&'static str>,
    chain: Option<Chain>,
    held: bool,
    /// It was dumped without pgproof, and its time is somebody's word.
    imported: bool,
    /// When a drill last proved it.
    proved_at: Option<Timestamp>,
    /// When a drill last found it bad.
    failed_at: Option<Timestamp>,
}

pub(crate) async fn run(policy: &Path, args: cli::List, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, args.source.as_ref()).await?;
    let signers = opened.loaded.trusted_signers()?;
    let sources: Vec<SourceName> = match args.source {
        Some(name) => vec![name],
        None => opened.loaded.policy.sources.keys().cloned().collect(),
    };
    let before = args.before.as_deref().map(|text| before(text, &opened)).transpose()?;
    let listed = Listed { before, limit: if args.all { None } else { Some(args.limit.get()) } };
    let pages = stream::iter(sources).map(|source| listed.of(&opened, &signers, source));
    let pages: Vec<(SourceName, Page)> = pages.buffered(SOURCES_IN_FLIGHT).try_collect().await?;
    let of_source = |(source, page): &(SourceName, Page)| -> Vec<Line> {
        page.entries.iter().map(|entry| line(source, entry)).collect()
    };
    let lines: Vec<Line> = pages.iter().flat_map(of_source).collect();
    match json {
        true => print_json(&lines)?,
        false => say(&table(&lines, listed.before.is_some(), Timestamp::now()))?,
    }
    for (source, page) in &pages {
        if let Some(oldest) = page.entries.first().filter(|_| page.has_older) {
            let next = format!("pgproof list {source} --before {}` lists them", oldest.id);
            note(json, "older", &format!("there are others before these; `{next}, `--all` all"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How much is listed of each source.
struct Listed {
    before: Option<Before>,
    /// `None` for all.
    limit: Option<usize>,
}

impl Listed {
    async fn of(
        &self,
        opened: &Opened,
        signers: &TrustedSigners,
        source: SourceName,
    ) -> anyhow::Result<(SourceName, Page)> {
        let store = &opened.store;
        let page = match self.limit {
            Some(limit) => catalog::page(store, &source, signers, self.before.as_ref(), limit).await?,
            None => Page { entries: catalog::list(store, &source, signers).await?, has_older: false },
        };
        Ok((source, page))
    }
}

/// An id, or a time as `restore --at` understands it.
fn before(text: &str, opened: &Opened) -> anyhow::Result<Before> {
    if let Ok(id) = text.parse::<BackupId>() {
        return Ok(Before::id(&id));
    }
    let zone = opened.loaded.policy.zone.as_deref();
    Ok(Before::time(moment::parse(text, zone, &TimeZone::system(), Timestamp::now())?))
}

fn line(source: &SourceName, entry: &Entry) -> Line {
    let manifest = entry.whole().map(|signed| signed.get());
    let (standing, problem) = match &entry.standing {
        Standing::Whole(_) => ("good", None),
        Standing::Quarantined(error) => ("quarantined", Some(chain(error))),
        Standing::Unsigned => ("unsigned", Some("the manifest has no signature".to_owned())),
        Standing::Incomplete => {
            ("incomplete", Some("no manifest: it is running, or its run died".to_owned()))
        }
        Standing::Pruned => ("pruned", Some("being removed".to_owned())),
    };
    Line {
        source: source.clone(),
        id: entry.id.to_string(),
        standing,
        problem,
        snapshot_at: manifest.map(|m| m.snapshot.at),
        database_bytes: manifest.and_then(|m| Some(m.postgres()?.server.database_bytes)),
        stored_bytes: manifest.map(|m| m.stored_bytes()),
        plaintext_bytes: manifest.map(|m| m.objects.iter().map(|o| o.plaintext.bytes).sum()),
        rows: manifest.and_then(|m| Some(m.postgres()?.archive.row_count)),
        signer: entry.whole().map(|signed| signed.signer().principal.clone()),
        tags: manifest.map(|m| m.tags.clone()).unwrap_or_default(),
        reason: manifest.and_then(|m| m.reason.clone()),
        increment: manifest.and_then(increment),
        chain: manifest.and_then(|m| m.chain().cloned()),
        held: entry.held,
        imported: manifest.is_some_and(|m| m.imported.is_some()),
        proved_at: entry.proofs.proved_at,
        failed_at: entry.proofs.failed_at,
    }
}

fn increment(manifest: &Manifest) -> Option<&'static str> {
    match (&manifest.contents, manifest.chain()) {
        (Contents::Files(_), Some(_)) => Some("incremental"),
        (Contents::Files(_), None) => Some("full"),
        _ => None,
    }
}

fn table(lines: &[Line], is_bounded: bool, now: Timestamp) -> String {
    if lines.is_empty() {
        return if is_bounded { "no backups before that" } else { "no backups yet" }.to_owned();
    }
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header([
        "source",
        "backup",
        "snapshot",
        "age",
        "size",
        "ratio",
        "rows",
        "standing",
        "signed by",
        "notes",
    ]);
    for column in [4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in lines {
        table.add_row([
            line.source.to_string(),
            line.id.clone(),
            line.snapshot_at.map(plain::time).unwrap_or_default(),
            line.snapshot_at.map(|at| plain::age(at, now)).unwrap_or_default(),
            line.stored_bytes.map(plain::bytes).unwrap_or_default(),
            ratio(line),
            line.rows.map(|rows| rows.to_string()).unwrap_or_default(),
            line.standing.to_owned(),
            line.signer.clone().unwrap_or_default(),
            notes(line),
        ]);
    }
    table.to_string()
}

fn ratio(line: &Line) -> String {
    match (line.plaintext_bytes, line.stored_bytes) {
        (Some(plain), Some(stored)) if stored > 0 => format!("{:.1}", plain as f64 / stored as f64),
        _ => String::new(),
    }
}

fn notes(line: &Line) -> String {
    let mut notes = Vec::new();
    if line.held {
        notes.push("held".to_owned());
    }
    if line.imported {
        notes.push("imported".to_owned());
    }
    if line.failed_at.is_some() && line.failed_at >= line.proved_at {
        notes.push("A DRILL FOUND IT BAD".to_owned());
    } else if let Some(at) = line.proved_at {
        notes.push(format!("proved {}", plain::time(at)));
    }
    match &line.chain {
        Some(Chain { depth, parent, full, .. }) => {
            notes.push(format!("incremental {depth} since {full}, after {parent}"));
        }
        None => notes.extend(line.increment.map(str::to_owned)),
    }
    notes.extend(line.reason.clone());
    notes.extend(line.tags.iter().map(|(key, value)| format!("{key}={value}")));
    notes.extend(line.problem.clone());
    notes.join("; ")
}

/// An error with its causes, joined by colons.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
