//! `pgproof-verifier report show`.

use std::path::Path;
use std::process::ExitCode;

use pgproof_monitoring::answer;
use pgproof_policies::names::SourceName;
use pgproof_repository::layout;

use super::{Archive, no_such_report, pick};
use crate::cli::Which;

pub(super) async fn run(
    policy: &Path,
    source: &SourceName,
    which: Which,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let archive = Archive::open(policy).await?;
    let found = archive.reports(source).await?;
    let report = pick(&found, which).ok_or_else(|| no_such_report(source))?.get();
    match json {
        true => answer::print_json(report)?,
        false => {
            let key = layout::verification(&report.source, &report.backup, report.finished_at);
            answer::print(&report.text(Some(key.as_str())))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
