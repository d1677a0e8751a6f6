//! `pgproof restore`: which backup a time asks for, what will be missing, and the restore itself.

mod configuration;
mod database;
mod files;

use std::path::Path;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::moment;
use pgproof_repository::catalog::{self, Entry};
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{Contents, Manifest};
use pgproof_repository::report::Proofs;
use pgproof_repository::restore_point;
use tokio_util::sync::CancellationToken;

use super::{Opened, note, open, record, unless_cancelled};
use crate::failure::{Exit, Failure};
use crate::{cli, plain};

pub(crate) async fn run(
    policy: &Path,
    args: cli::Restore,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let chosen = async {
        let opened = open(policy, Some(&args.source)).await?;
        let signed = choose(&opened, &args, json, Timestamp::now()).await?;
        Ok((opened, signed))
    };
    let (opened, signed) = unless_cancelled(&cancel, Box::pin(chosen)).await?;
    let contents = signed.get().contents.clone();
    refuse_foreign_options(&args, &contents)?;
    match contents {
        Contents::Postgres(dumped) => {
            let target = database::told_target(&opened, &args, &signed, &dumped.server)?;
            let (is_tried, source) = (args.dry_run, args.source.clone());
            let work = Box::pin(database::run(&opened, args, signed.clone(), &dumped, json, cancel));
            match is_tried {
                true => work.await,
                false => record::restoring(&opened, &source, &signed.get().id, target, work).await,
            }
        }
        Contents::Config(_) => {
            let work = Box::pin(configuration::run(&opened, &args, &signed, json, &cancel));
            match args.dry_run {
                true => work.await,
                false => {
                    record::restoring(&opened, &args.source, &signed.get().id, told_folder(&args), work).await
                }
            }
        }
        Contents::Files(_) => {
            let (is_tried, source) = (args.dry_run, args.source.clone());
            let (target, backup) = (told_folder(&args), signed.get().id.clone());
            let work = Box::pin(files::run(&opened, args, signed, json, cancel));
            match is_tried {
                true => work.await,
                false => record::restoring(&opened, &source, &backup, target, work).await,
            }
        }
        Contents::Unknown => Err(Failure::new(
            Exit::Usage,
            format!("backup {} is of a kind that this version does not know", signed.get().id),
            "use a pgproof at least as new as the one that wrote it",
        )
        .into()),
    }
}

fn told_folder(args: &cli::Restore) -> Option<String> {
    args.to.as_ref().map(|folder| format!("folder {}", folder.display()))
}

/// What is meant for another kind of backup is a mistake, and never passed over.
fn refuse_foreign_options(args: &cli::Restore, contents: &Contents) -> anyhow::Result<()> {
    let of_databases = [
        ("--into", args.into.is_some()),
        ("--target", args.target.is_some()),
        ("--swap", args.swap),
        ("--table", !args.table.is_empty()),
        ("--schema", !args.schema.is_empty()),
        ("--jobs", args.jobs.is_some()),
        ("--serial", args.serial),
        ("--globals", args.globals),
        ("--no-owner", args.no_owner),
        ("--no-acl", args.no_acl),
        ("--stdout", args.stdout),
    ];
    let of_files = [
        ("--to", args.to.is_some()),
        ("--path", !args.path.is_empty()),
        ("--overwrite", args.overwrite.is_some()),
        ("--special-bits", args.special_bits),
    ];
    let (given, others) = match contents {
        Contents::Postgres(_) => (of_files.into_iter().find(|(_, given)| *given), "files"),
        Contents::Files(_) => (of_databases.into_iter().find(|(_, given)| *given), "databases"),
        // A configuration is small and whole: it takes a folder alone.
        Contents::Config(_) => {
            let others = of_databases.into_iter().chain(of_files.into_iter().skip(1));
            (others.into_iter().find(|(_, given)| *given), "other kinds of backups")
        }
        Contents::Unknown => (None, ""),
    };
    match given {
        None => Ok(()),
        Some((option, _)) => Err(Failure::new(
            Exit::Usage,
            format!("{option} is for {others}, and this is a backup of kind {}", contents.kind()),
            "see `pgproof restore --help`",
        )
        .into()),
    }
}

async fn choose(
    opened: &Opened,
    args: &cli::Restore,
    json: bool,
    now: Timestamp,
) -> anyhow::Result<SignedManifest> {
    let signers = opened.loaded.trusted_signers()?;
    let signed = match (&args.backup, &args.at) {
        (Some(id), _) => catalog::find(&opened.store, &args.source, id, &signers).await?,
        (None, _) if args.before_deploy.is_some() => {
            let reference = args.before_deploy.as_deref().unwrap_or_default();
            let points = restore_point::list(&opened.store, &signers).await?;
            let point = restore_point::before_deployment(&points, reference)?;
            let member = point.member(&args.source).ok_or_else(|| {
                let message = format!("restore point {} has no backup of {}", point.id, args.source);
                Failure::new(Exit::NothingFound, message, "`pgproof restore-point show` lists its members")
            })?;
            note(json, "restore point", &format!("{} of {}", point.id, plain::time(point.at)));
            let signed = catalog::find(&opened.store, &args.source, &member.backup, &signers).await?;
            if signed.sha256() != member.manifest_sha256 {
                let message =
                    format!("backup {} is another than the one in restore point {}", member.backup, point.id);
                return Err(Failure::new(
                    Exit::Integrity,
                    message,
                    "find out who put it there; `--backup` insists",
                )
                .into());
            }
            signed
        }
        (None, at) => {
            let zone = opened.loaded.policy.zone.as_deref();
            let at = moment::parse(at.as_deref().unwrap_or("now"), zone, &TimeZone::system(), now)?;
            let entries = catalog::for_moment(&opened.store, &args.source, &signers, at).await?;
            choose_at(&entries, at, json, now)?
        }
    };
    Ok(signed)
}

/// Says on standard error which backup it takes and what that means.
fn choose_at(entries: &[Entry], at: Timestamp, json: bool, now: Timestamp) -> anyhow::Result<SignedManifest> {
    let Some(choice) = catalog::choose(entries, at) else {
        let oldest = entries.iter().filter_map(Entry::whole).map(SignedManifest::snapshot_at).min();
        let message = format!("there is no good backup from {at} or before");
        let hint = match oldest {
            Some(oldest) => format!("the oldest one shows {oldest}"),
            None => "`pgproof list` shows what is there".to_owned(),
        };
        return Err(Failure::new(Exit::NothingFound, message, hint).into());
    };
    let (backup, snapshot) = (choice.backup.get(), choice.backup.snapshot_at());
    let say = |about: &str, text: String| note(json, about, &text);
    say("asked for", format!("{} ({})", plain::time(at), plain::age(at, now)));
    say("backup", format!("{} shows {} ({})", backup.id, plain::time(snapshot), plain::age(snapshot, now)));
    if let Some(imported) = &backup.imported {
        say("WARNING", format!("it was imported, and its time is the word of {}", imported.told_by));
    }
    let before = catalog::choose(entries, snapshot - SignedDuration::from_nanos(1));
    if let Some(difference) = before.and_then(|before| difference(before.backup.get(), backup)) {
        say("WARNING", difference);
    }
    let missing = plain::duration(at.duration_since(snapshot));
    say("missing", format!("what was written in the {missing} before the time asked for"));
    if let Some(later) = choice.later.first() {
        let (id, snapshot) = (&later.get().id, later.snapshot_at());
        let (shown, count) = (plain::time(snapshot), choice.later.len());
        say("next later", format!("{id} shows {shown}; {count} later backup(s) are not used"));
    }
    let proofs = entries.iter().find(|entry| entry.id == backup.id).map(|entry| &entry.proofs);
    say("drills", told(proofs));
    for entry in &choice.unusable {
        say("WARNING", format!("{} is nearer and cannot be used; see `pgproof list`", entry.id));
    }
    Ok(choice.backup.clone())
}

/// Of which server or database a backup is, where the one before it is of another.
fn difference(before: &Manifest, chosen: &Manifest) -> Option<String> {
    let difference = before.postgres()?.server.difference_to(&chosen.postgres()?.server)?;
    Some(format!("{difference} (the backup before it is {})", before.id))
}

fn told(proofs: Option<&Proofs>) -> String {
    match proofs {
        Some(proofs) if proofs.is_refuted() => "THE LAST ONE FOUND THIS BACKUP BAD".to_owned(),
        Some(Proofs { proved_at: Some(at), .. }) => format!("proved {}", plain::time(*at)),
        _ => "none: it was never proved".to_owned(),
    }
}
