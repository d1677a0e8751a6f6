//! `pgproof-verifier report export`.

use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgproof_monitoring::answer;
use pgproof_monitoring::journal::say;
use pgproof_policies::moment;
use pgproof_repository::report::chain::{self, Found, SignedReport};
use tracing::Level;

use super::{Archive, no_such_report};
use crate::cli;
use crate::failure::{self, Exit};
use crate::report::export;

pub(super) async fn run(policy: &Path, args: cli::Export, json: bool) -> anyhow::Result<ExitCode> {
    let archive = Archive::open(policy).await?;
    let zone = archive.loaded.policy.zone.as_deref();
    let since = |text: &String| moment::parse(text, zone, &TimeZone::system(), Timestamp::now());
    let since = args.since.as_ref().map(since).transpose()?;
    let found = archive.reports(&args.source).await?;
    let wanted = |signed: &SignedReport| {
        let report = signed.get();
        args.number.is_none_or(|number| report.number == number)
            && since.is_none_or(|since| report.finished_at >= since)
    };
    let wanted: Vec<&Found> = found.iter().filter(|found| found.signed().is_some_and(wanted)).collect();
    if wanted.is_empty() {
        return Err(no_such_report(&args.source).into());
    }
    let mut pages = Vec::new();
    for found in wanted {
        let stored = chain::files(&archive.store, &found.key).await?;
        pages.push(export::write(&args.to, &stored, &archive.signers)?);
    }
    let index = export::write_index(&args.to)?;
    if json {
        answer::print_json_line(&serde_json::json!({ "pages": pages, "index": index }))?;
    } else {
        pages.iter().chain([&index]).try_for_each(|page| answer::say(&page.display().to_string()))?;
    }
    let left_out: Vec<String> = found.iter().filter_map(left_out).collect();
    left_out.iter().for_each(|line| say(Level::WARN, &format!("not exported: {line}")));
    Ok(if left_out.is_empty() { ExitCode::SUCCESS } else { Exit::CheckFailed.into() })
}

/// Of these nobody can say which number or time they have, so they are always named.
fn left_out(found: &Found) -> Option<String> {
    let error = found.report.as_ref().err()?;
    Some(format!("{}: {}", found.key, failure::chain(error)))
}
