//! `pgproof show`: one backup in detail.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_files::archive::Archive;
use pgproof_files::entry::Body;
use pgproof_policies::locks::Locks;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::keys::{Identities, TerminalPrompts};
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{self, Contents, Postgres, Previous};
use pgproof_repository::prune::{Locked, PruneError};
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::{catalog, contents};

use super::list::chain;
use super::{Opened, open, print_json, say};
use crate::failure::{Exit, Failure};
use crate::{cli, plain};

pub(crate) async fn run(policy: &Path, args: cli::Show, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, Some(&args.source)).await?;
    let signers = opened.loaded.trusted_signers()?;
    let signed = catalog::find(&opened.store, &args.source, &args.backup, &signers).await?;
    let inventory = match args.inventory {
        true => {
            let identities = opened.loaded.identities(Arc::new(TerminalPrompts))?;
            Some(Shown::of(&opened, &signed, &signers, &identities).await?)
        }
        false => None,
    };
    let locked = Locked::of(&opened.store, &args.source, &args.backup).await;
    if json {
        let locked_until = match locked {
            Ok(Locked::By(lock)) => lock.until(),
            _ => None,
        };
        let document = serde_json::json!({
            "locked_until": locked_until,
            "manifest": signed.get(), "manifest_sha256": signed.sha256(),
            "signer": { "principal": signed.signer().principal, "fingerprint": signed.signer().fingerprint },
            "inventory": inventory.as_ref().map(Shown::document).transpose()?,
        });
        print_json(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&signed)?;
    if let Some(told) = lock(locked, Locks::of(&opened.loaded.policy).is_some()) {
        say(&format!("lock        {told}"))?;
    }
    match inventory {
        Some(Shown::Tables(inventory)) => print_tables(&inventory)?,
        Some(Shown::Files(archive)) => {
            tokio::task::spawn_blocking(move || print_files(&archive)).await??;
        }
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// How a backup is locked, where that is worth a line.
fn lock(locked: Result<Locked, PruneError>, is_asked_for: bool) -> Option<String> {
    match locked {
        Ok(Locked::By(lock)) => Some(lock.to_string()),
        Ok(Locked::InPart { locked, objects }) => Some(format!("of {locked} of its {objects} objects alone")),
        Ok(Locked::No) => is_asked_for.then(|| "none, or these credentials may not see it".to_owned()),
        // Who may read the backup may not be allowed to list its folder.
        Err(error) => is_asked_for.then(|| format!("not known: {}", chain(&error))),
    }
}

/// What is in a backup, by name.
enum Shown {
    Tables(Box<Inventory>),
    Files(Box<Archive>),
}

impl Shown {
    async fn of(
        opened: &Opened,
        signed: &SignedManifest,
        signers: &TrustedSigners,
        identities: &Identities,
    ) -> anyhow::Result<Self> {
        let store = &opened.store;
        match &signed.get().contents {
            Contents::Postgres(_) => {
                Ok(Self::Tables(Box::new(contents::inventory(store, signed, identities).await?)))
            }
            Contents::Files(_) => {
                Ok(Self::Files(Box::new(Archive::fetch(store, signed, signers, identities).await?)))
            }
            other @ (Contents::Config(_) | Contents::Unknown) => {
                let message = format!(
                    "--inventory is for databases and files, and this is a backup of kind {}",
                    other.kind()
                );
                let hint = "of a configuration `pgproof restore … --dry-run` lists the files and variables";
                Err(Failure::new(Exit::Usage, message, hint).into())
            }
        }
    }

    fn document(&self) -> serde_json::Result<serde_json::Value> {
        match self {
            Self::Tables(inventory) => serde_json::to_value(inventory),
            Self::Files(archive) => serde_json::to_value(archive.inventory()),
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
    let age = plain::age(manifest.snapshot.at, Timestamp::now());
    say(&format!("snapshot    {} ({age})", plain::snapshot(manifest)))?;
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
    if let Some(increment) = plain::increment(&manifest.contents) {
        say(&format!("increment   {increment}"))?;
    }
    for base in manifest.bases() {
        say(&format!("needs       {}", base.id))?;
    }
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
    say(&format!("by hand     {}", manifest.restore.replace('\n', "\n            ")))?;
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
