//! `pgproof restore-point`: what was backed up together, and whether it is still there.

use std::path::Path;
use std::process::ExitCode;

use pgproof_repository::catalog::{self, CatalogError};
use pgproof_repository::restore_point::{self, Found, RestorePoint};
use pgproof_repository::signature::TrustedSigners;

use super::{Opened, open, print_json, say, snapshot};
use crate::cli::RestorePointCommand;
use crate::failure::{self, Exit, Failure};
use crate::plain;

pub(crate) async fn run(policy: &Path, command: RestorePointCommand, json: bool) -> anyhow::Result<ExitCode> {
    let opened = open(policy, None).await?;
    let signers = opened.loaded.trusted_signers()?;
    let points = restore_point::list(&opened.store, &signers).await?;
    match command {
        RestorePointCommand::List => list(&points, json),
        RestorePointCommand::Show { which } => {
            Box::pin(show(&opened, &signers, find(&points, &which)?, json)).await
        }
    }
}

fn list(points: &[Found], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let told = |found: &Found| match &found.point {
            Ok((point, signer)) => serde_json::json!({ "point": point, "signer": signer.principal }),
            Err(error) => serde_json::json!({ "id": found.id, "problem": failure::message_of(error) }),
        };
        print_json(&points.iter().map(told).collect::<Vec<_>>())?;
    } else {
        for Found { id, point } in points {
            let told = match point {
                Ok((point, _)) => told(point),
                Err(error) => format!("CANNOT BE USED: {}", failure::message_of(error)),
            };
            say(&format!("{id}  {told}"))?;
        }
        if points.is_empty() {
            say("no restore points yet: `pgproof snapshot` makes one")?;
        }
    }
    // A list that somebody has tampered with is no good list.
    let usable = points.iter().all(|found| found.point.is_ok());
    Ok(if usable { ExitCode::SUCCESS } else { Exit::Integrity.into() })
}

fn told(point: &RestorePoint) -> String {
    let reference =
        point.reference.as_ref().map(|reference| format!(", ref {reference}")).unwrap_or_default();
    format!("{}  {} sources, {}{reference}", plain::time(point.at), point.members.len(), point.reason)
}

fn find<'a>(points: &'a [Found], which: &str) -> anyhow::Result<&'a RestorePoint> {
    let by_id = points.iter().find(|found| found.id.as_str() == which);
    let found = match which {
        "newest" => points.iter().rev().find(|found| found.point.is_ok()),
        _ => by_id,
    };
    match found.map(|found| &found.point) {
        Some(Ok((point, _))) => Ok(point),
        Some(Err(error)) => {
            let message = format!("restore point {which} cannot be used: {}", failure::message_of(error));
            Err(Failure::new(Exit::Integrity, message, "treat it as forged until its origin is known").into())
        }
        None => Ok(restore_point::before_deployment(points, which)?),
    }
}

async fn show(
    opened: &Opened,
    signers: &TrustedSigners,
    point: &RestorePoint,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut missing = Vec::new();
    for member in &point.members {
        let found = catalog::find(&opened.store, &member.source, &member.backup, signers).await;
        match found {
            Ok(signed) if signed.sha256() == member.manifest_sha256 => {}
            Ok(_) => missing.push((member, "is another than the one that was signed".to_owned())),
            Err(error @ CatalogError::Store { .. }) => return Err(error.into()),
            Err(error) => missing.push((member, failure::message_of(&error))),
        }
    }
    if json {
        let problems: Vec<_> = missing
            .iter()
            .map(|(member, why)| serde_json::json!({ "source": member.source, "why": why }))
            .collect();
        print_json(&serde_json::json!({ "point": point, "problems": problems }))?;
    } else {
        snapshot::print(point)?;
        for (member, why) in &missing {
            say(&format!("  MISSING   {} {}: {why}", member.source, member.backup))?;
        }
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { Exit::NothingFound.into() })
}
