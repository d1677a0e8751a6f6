//! Restoring configuration: into a folder, never over what is there.

use std::process::ExitCode;
use std::sync::Arc;

use pgproof_repository::configuration::Variable;
use pgproof_repository::contents;
use pgproof_repository::keys::TerminalPrompts;
use pgproof_repository::manifest::SignedManifest;
use tokio_util::sync::CancellationToken;

use crate::commands::{Opened, print_json, say, unless_cancelled};
use crate::failure::{Exit, Failure};
use crate::{cli, configuration};

/// Writes files and variables below the folder that was named.
pub(super) async fn run(
    opened: &Opened,
    args: &cli::Restore,
    signed: &SignedManifest,
    json: bool,
    cancel: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let identities = opened.loaded.identities(Arc::new(TerminalPrompts))?;
    let fetched = async { Ok(contents::configuration(&opened.store, signed, &identities).await?) };
    let read = unless_cancelled(cancel, fetched).await?;
    if args.dry_run && json {
        let files: Vec<&str> = read.files.iter().map(|file| &*file.path).collect();
        let variable =
            |variable: &Variable| serde_json::json!({ "name": variable.name, "origin": variable.origin });
        let variables: Vec<_> = read.variables.iter().map(variable).collect();
        print_json(&serde_json::json!({
            "dry_run": true, "backup": signed.get().id, "files": files, "variables": variables,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        for file in &read.files {
            say(&format!("file      {}", file.path))?;
        }
        for variable in &read.variables {
            say(&format!("variable  {} ({})", variable.name, variable.origin))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let folder = args.to.clone().ok_or_else(|| {
        Failure::new(Exit::Usage, "configuration is restored into a folder", "name it with --to FOLDER")
    })?;
    let written = tokio::task::spawn_blocking(move || configuration::write(&read, &folder)).await??;
    match json {
        true => print_json(&serde_json::json!({ "backup": signed.get().id, "written": written }))?,
        false => {
            for path in &written {
                say(&path.display().to_string())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
