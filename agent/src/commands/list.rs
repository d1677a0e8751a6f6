//! `pgproof list`: every backup with its standing.

use std::path::Path;
use std::process::ExitCode;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_repository::catalog::{self, Entry, Standing};
use serde::Serialize;

use super::{open, print_json, say};
use crate::{cli, plain};

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
    let mut lines = Vec::new();
    for source in &sources {
        let entries = catalog::list(&opened.store, source, &signers).await?;
        lines.extend(entries.iter().map(|entry| line(source, entry)));
    }
    match json {
        true => print_json(&lines)?,
        false => say(&table(&lines, Timestamp::now()))?,
    }
    Ok(ExitCode::SUCCESS)
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
        held: entry.held,
        imported: manifest.is_some_and(|m| m.imported.is_some()),
        proved_at: entry.proofs.proved_at,
        failed_at: entry.proofs.failed_at,
    }
}

fn table(lines: &[Line], now: Timestamp) -> String {
    if lines.is_empty() {
        return "no backups yet".to_owned();
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
