//! Restoring files: into a folder, all or some.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use pgproof_files::Watch;
use pgproof_files::archive::Archive;
use pgproof_files::entry::Note;
use pgproof_files::path::StoredPath;
use pgproof_files::restore::{Overwrite, Plan, Report, Restore};
use pgproof_repository::keys::TerminalPrompts;
use pgproof_repository::manifest::SignedManifest;
use tokio_util::sync::CancellationToken;

use crate::commands::{Opened, note, print_json, say, unless_cancelled};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::{cli, plain};

/// Restores the files that `signed` is of.
pub(super) async fn run(
    opened: &Opened,
    args: cli::Restore,
    signed: SignedManifest,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let restore = order(&args)?;
    let identities = opened.loaded.identities(Arc::new(TerminalPrompts))?;
    let signers = opened.loaded.trusted_signers()?;
    let id = signed.get().id.clone();
    let fetched = async { Ok(Archive::fetch(&opened.store, &signed, &signers, &identities).await?) };
    let archive = unless_cancelled(&cancel, Box::pin(fetched)).await?;
    let (restore, archive, plan) = tokio::task::spawn_blocking(move || {
        let plan = restore.plan(&archive);
        plan.map(|plan| (restore, archive, plan))
    })
    .await??;
    let free = restore.free_bytes();
    tell(&restore, &plan, free, json);
    let also_from = also_from(&signed);
    if !also_from.is_empty() {
        note(json, "also from", &also_from.join(", "));
    }
    if args.dry_run {
        if json {
            print_json(&serde_json::json!({
                "dry_run": true, "backup": id, "target": restore.target, "planned": plan.totals,
                "bytes_free": free, "also_from": also_from,
            }))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    refuse_too_little(&restore, &plan, free, args.ignore_space)?;
    let target = restore.target.clone();
    let report = tokio::task::spawn_blocking(move || {
        let progress = Progress::new("restore", plan.totals.bytes, json);
        restore.run(&archive, &plan, &Writing { progress, cancel })
    })
    .await??;
    match json {
        true => print_json(&serde_json::json!({
            "backup": id, "target": target, "restored": report.restored, "kept": report.kept,
            "problems": report.problems, "problem_count": report.problem_count, "notes": report.notes,
        }))?,
        false => print(&report, &target.display().to_string())?,
    }
    match report.problem_count {
        0 => Ok(ExitCode::SUCCESS),
        count => Err(Failure::new(
            Exit::Failed,
            format!("{count} file(s) or folder(s) could not be restored; all others were"),
            "see to what is named above; `--overwrite never` then restores only what is missing",
        )
        .into()),
    }
}

fn order(args: &cli::Restore) -> anyhow::Result<Restore> {
    let target = args.to.clone().ok_or_else(|| {
        let message = "this is a backup of files, and there is no folder to restore into";
        Failure::new(Exit::Usage, message, "name one with --to FOLDER")
    })?;
    let mut paths = Vec::new();
    for path in &args.path {
        let stored = StoredPath::below_root(path).context("--path cannot be used")?;
        // The root itself is everything.
        paths.extend(stored);
    }
    let overwrite = args.overwrite.map(|overwrite| match overwrite {
        cli::Overwrite::Never => Overwrite::Never,
        cli::Overwrite::Older => Overwrite::Older,
        cli::Overwrite::Always => Overwrite::Always,
    });
    Ok(Restore { target, paths, overwrite, special_bits: args.special_bits })
}

/// What is going to be done, on standard error.
fn tell(restore: &Restore, plan: &Plan, free: Option<u64>, json: bool) {
    let (totals, free) = (&plan.totals, free.map_or_else(|| "not known".to_owned(), plain::bytes));
    let (links, bytes) = (totals.symlinks + totals.hard_links, plain::bytes(totals.bytes));
    note(json, "target", &restore.target.display().to_string());
    let contents = format!("{} files in {} folders, {links} links, {bytes}", totals.files, totals.folders);
    note(json, "contents", &contents);
    note(json, "free", &free);
    for (path, loss) in &plan.noted {
        note(json, "not as it was", &format!("{path}: {}", loss.of_one()));
    }
    let untold = totals.notes.values().sum::<u64>().saturating_sub(plan.noted.len() as u64);
    if untold > 0 {
        let all = format!("{untold} more; `pgproof show --inventory` lists all of them");
        note(json, "not as it was", &all);
    }
}

/// The earlier backups that hold some of its bytes.
fn also_from(signed: &SignedManifest) -> Vec<&str> {
    let bases = signed.get().chain().map(|chain| &*chain.bases).unwrap_or_default();
    bases.iter().map(|base| base.id.as_str()).collect()
}

fn refuse_too_little(restore: &Restore, plan: &Plan, free: Option<u64>, ignore: bool) -> anyhow::Result<()> {
    match free {
        Some(free) if free < plan.totals.bytes && !ignore => {
            let (free, needed) = (plain::bytes(free), plain::bytes(plan.totals.bytes));
            Err(Failure::new(
                Exit::Failed,
                format!("{} has {free} free, and the files need {needed}", restore.target.display()),
                "free space there, name another folder with --to, or insist with --ignore-space",
            )
            .into())
        }
        _ => Ok(()),
    }
}

fn print(report: &Report, target: &str) -> anyhow::Result<()> {
    let restored = &report.restored;
    say(&format!(
        "restored {} files, {} folders, {} links ({}) into {target}",
        restored.files,
        restored.folders,
        restored.symlinks + restored.hard_links,
        plain::bytes(restored.bytes)
    ))?;
    say("  every file was compared with its hash as it was written")?;
    if report.kept > 0 {
        say(&format!("  kept        {} that were there already", report.kept))?;
    }
    for note in &report.notes {
        say(&format!("  note        {note}"))?;
    }
    for problem in &report.problems {
        say(&format!("  PROBLEM     {problem}"))?;
    }
    Ok(())
}

/// Shows a restore's progress.
struct Writing {
    progress: Progress,
    cancel: CancellationToken,
}

impl Watch for Writing {
    fn advance(&self, bytes: u64) {
        self.progress.advance(bytes);
    }

    fn at(&self, path: &StoredPath) {
        self.progress.at(&path.to_string());
    }

    /// The plan told them.
    fn noted(&self, _path: &StoredPath, _note: Note) {}

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}
