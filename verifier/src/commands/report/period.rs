//! `pgproof-verifier report period`.

use std::path::Path;
use std::process::ExitCode;

use pgproof_monitoring::answer;
use pgproof_monitoring::journal::say;
use pgproof_repository::access::AccessError;
use pgproof_repository::ids::ReportSha256;
use pgproof_repository::report::chain::Found;
use pgproof_repository::signature::{SigningKey, namespace};
use tracing::Level;

use super::Archive;
use crate::cli;
use crate::failure::{self, Exit};
use crate::report::export;
use crate::report::period::Period;
use crate::report::period_page;

pub(super) async fn run(policy: &Path, args: cli::Period, json: bool) -> anyhow::Result<ExitCode> {
    let archive = Archive::open(policy).await?;
    let days = args.days()?;
    let found = archive.reports(&args.source).await?;
    let signed: Vec<_> = found.iter().filter_map(Found::signed).cloned().collect();
    let period = Period::of(&archive.repository, &args.source, days, &signed);
    let key = match archive.loaded.signing_key() {
        Ok(key) => Some(key),
        Err(AccessError::NotInPolicy { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let paths = write(&args.to, &period, key.as_ref())?;
    match json {
        true => answer::print_json(&period)?,
        false => paths.iter().try_for_each(|path| answer::say(&path.display().to_string()))?,
    }
    // Nobody can say whether they belong to the span.
    let left_out: Vec<_> =
        found.iter().filter_map(|found| Some((&found.key, found.report.as_ref().err()?))).collect();
    for (key, error) in &left_out {
        say(Level::WARN, &format!("left out: {key}: {}", failure::chain(*error)));
    }
    Ok(if left_out.is_empty() { ExitCode::SUCCESS } else { Exit::CheckFailed.into() })
}

/// The JSON last: it is there only when all of its files are.
fn write(
    folder: &Path,
    period: &Period,
    key: Option<&SigningKey>,
) -> anyhow::Result<Vec<std::path::PathBuf>> {
    export::make_folder(folder)?;
    let bytes = period.bytes();
    let sha256 = ReportSha256::of(&bytes).to_string();
    let signature = key.map(|key| key.sign(namespace::REPORT_PERIOD, &bytes)).transpose()?;
    let page = period_page::html(period, &sha256, signature.is_some());
    let name = period_page::name(period);
    let mut files = vec![("html", page.into_bytes()), ("csv", period_page::csv(period).into_bytes())];
    files.extend(signature.map(|signature| ("json.sig", signature.into_bytes())));
    files.push(("json", bytes));
    let mut paths = Vec::new();
    for (ending, bytes) in files {
        let path = folder.join(format!("{name}.{ending}"));
        export::put(&path, &bytes)?;
        paths.push(path);
    }
    Ok(paths)
}
