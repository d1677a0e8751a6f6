//! `pgproof show`: one backup in detail.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_files::archive::{self, Archive, ArchiveError};
use pgproof_files::entry::Body;
use pgproof_files::inventory as files;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::keys::{Identities, TerminalPrompts};
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{self, Contents, Postgres, Previous};
use pgproof_repository::{catalog, contents};

use super::{Opened, open, print_json, say};
use crate::{cli, plain};

pub(crate) async fn run(policy: &Path, args: cli::Show, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, Some(&args.source)).await?;
    let signers = opened.loaded.trusted_signers()?;
    let signed = catalog::find(&opened.store, &args.source, &args.backup, &signers).await?;
    let inventory = match args.inventory {
        true => {
            let identities = opened.loaded.identities(Arc::new(TerminalPrompts))?;
            Some(Shown::of(&opened, &signed, &identities).await?)
        }
        false => None,
    };
    if json {
        let document = serde_json::json!({
            "manifest": signed.get(), "manifest_sha256": signed.sha256(),
            "signer": { "principal": signed.signer().principal, "fingerprint": signed.signer().fingerprint },
            "inventory": inventory.as_ref().map(Shown::document).transpose()?,
        });
        print_json(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&signed)?;
    match inventory {
        Some(Shown::Tables(inventory)) => print_tables(&inventory)?,
        Some(Shown::Files { archive, .. }) => {
            tokio::task::spawn_blocking(move || print_files(&archive)).await??;
        }
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in a backup, by name.
enum Shown {
    Tables(Box<Inventory>),
    Files { inventory: Box<files::Inventory>, archive: Box<Archive> },
}

impl Shown {
    async fn of(opened: &Opened, signed: &SignedManifest, identities: &Identities) -> anyhow::Result<Self> {
        let store = opened.store.clone();
        if !matches!(signed.get().contents, Contents::Files(_)) {
            return Ok(Self::Tables(Box::new(contents::inventory(&store, signed, identities).await?)));
        }
        let inventory = archive::inventory(&store, signed, identities).await?;
        let runtime = tokio::runtime::Handle::current();
        let (signed, identities) = (signed.clone(), identities.clone());
        let open = move || {
            let archive = Archive::open(&store, &runtime, &signed, &inventory, &identities)?;
            Ok::<_, ArchiveError>(Self::Files { inventory: Box::new(inventory), archive: Box::new(archive) })
        };
        Ok(tokio::task::spawn_blocking(open).await??)
    }

    fn document(&self) -> serde_json::Result<serde_json::Value> {
        match self {
            Self::Tables(inventory) => serde_json::to_value(inventory),
            Self::Files { inventory, .. } => serde_json::to_value(inventory),
        }
    }
}

fn print_files(archive: &Archive) -> anyhow::Result<()> {
    for entry in archive.entries()? {
        let (_, entry) = entry?;
        let kind = match &entry.body {
            Body::Folder => "folder",
            Body::File(_) => "file",
            Body::Symlink { .. } => "symlink",
            Body::HardLink { .. } => "hard link",
            Body::LeftOut => "left out",
        };
        let size = entry.content().map(|content| plain::bytes(content.size)).unwrap_or_default();
        let note = entry.note.map(|note| format!(" ({})", note.of_one())).unwrap_or_default();
        say(&format!("{kind:<12}{:04o} {size:>10} {}{note}", entry.meta.mode, entry.path))?;
    }
    Ok(())
}

fn print(signed: &SignedManifest) -> anyhow::Result<()> {
    let manifest = signed.get();
    say(&format!("backup      {}", manifest.id))?;
    say(&format!(
        "source      {} ({} on {})",
        manifest.source,
        plain::what(&manifest.contents),
        manifest.host
    ))?;
    let (at, now) = (manifest.snapshot.at, Timestamp::now());
    say(&format!("snapshot    {} ({})", plain::time(at), plain::age(at, now)))?;
    say(&format!(
        "took        {}",
        plain::duration(manifest.finished_at.duration_since(manifest.started_at))
    ))?;
    if let Some(v1::Imported { told_by, file, .. }) = &manifest.imported {
        say(&format!(
            "imported    its time is the word of {told_by}; from a file of {}",
            plain::bytes(file.bytes)
        ))?;
        say(&format!("file        SHA-256 {}", file.sha256))?;
    }
    if let Some(Postgres { server, .. }) = manifest.postgres() {
        say(&format!("server      PostgreSQL {}, {}, {}", server.version, server.encoding, server.collate))?;
    }
    let pg_dump = manifest.programs.pg_dump.iter().map(|version| format!(", pg_dump {version}"));
    say(&format!("programs    pgproof {}{}", manifest.programs.pgproof, pg_dump.collect::<String>()))?;
    say(&format!("signed by   {} ({})", signed.signer().principal, signed.signer().fingerprint))?;
    match &manifest.previous {
        Previous::None => say("previous    none, it is the first")?,
        Previous::Known { id, .. } => say(&format!("previous    {id}"))?,
        Previous::Unknown { reason } => say(&format!("previous    unknown: {reason}"))?,
    }
    say(&format!("contents    {}", plain::contents(&manifest.contents)))?;
    if let Some(reason) = manifest.postgres().and_then(|dumped| dumped.archive.not_indexed_because.as_ref()) {
        say(&format!("not indexed {reason}"))?;
    }
    for object in &manifest.objects {
        let (plain, stored) = (plain::bytes(object.plaintext.bytes), plain::bytes(object.ciphertext.bytes));
        say(&format!("object      {} ({plain} as {stored})", object.name))?;
    }
    for recipient in &manifest.recipients {
        say(&format!("recipient   {recipient}"))?;
    }
    for (key, value) in &manifest.tags {
        say(&format!("tag         {key}={value}"))?;
    }
    for warning in &manifest.warnings {
        say(&format!("warning     {warning}"))?;
    }
    say(&format!("by hand     {}", manifest.restore))?;
    Ok(())
}

fn print_tables(inventory: &Inventory) -> anyhow::Result<()> {
    for table in inventory.archives.iter().flat_map(|archive| &archive.tables) {
        let size = plain::bytes(table.end - table.start);
        say(&format!(
            "table       {}.{}: {} rows, {size}, digest {}",
            table.schema, table.name, table.rows, table.digest
        ))?;
    }
    Ok(())
}
