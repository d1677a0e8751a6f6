//! `pgproof-verifier report list`.

use std::path::Path;
use std::process::ExitCode;

use pgproof_monitoring::answer;
use pgproof_policies::names::SourceName;
use pgproof_repository::report::chain::{Found, SignedReport};
use serde_json::{Value, json};

use super::Archive;
use crate::failure;
use crate::report::{figures, verdict};

pub(super) async fn run(policy: &Path, source: Option<SourceName>, json: bool) -> anyhow::Result<ExitCode> {
    let archive = Archive::open(policy).await?;
    let sources = match source {
        Some(source) => vec![source],
        None => archive.loaded.policy.sources.keys().cloned().collect(),
    };
    let mut documents = Vec::new();
    for source in &sources {
        let found = archive.reports(source).await?;
        match json {
            true => documents.extend(found.iter().map(document)),
            false => answer::print(&text(source, &found))?,
        }
    }
    if json {
        answer::print_json(&documents)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(source: &SourceName, found: &[Found]) -> String {
    let mut text = format!("{source}: {}\n", figures::counted(found.len() as u64, "report", "reports"));
    for found in found {
        match &found.report {
            Ok(signed) => text.push_str(&line(signed)),
            Err(error) => text.push_str(&format!("  PROBLEM  {}: {}\n", found.key, failure::chain(error))),
        }
    }
    text
}

fn line(signed: &SignedReport) -> String {
    let report = signed.get();
    let recovery = report.recovery_seconds.map_or("not restored".to_owned(), figures::span);
    format!(
        "  {:>6}  {}  {}  {:<15}  {:<13}  {}\n",
        report.number,
        figures::stamp(report.finished_at),
        report.backup,
        verdict::word(report.verdict),
        recovery,
        signed.signer().principal
    )
}

fn document(found: &Found) -> Value {
    match &found.report {
        Ok(signed) => {
            let report = signed.get();
            json!({
                "key": found.key.as_str(),
                "source": report.source,
                "number": report.number,
                "finished_at": report.finished_at,
                "backup": report.backup,
                "verdict": report.verdict,
                "recovery_seconds": report.recovery_seconds,
                "signer": signed.signer().principal,
                "fingerprint": signed.signer().fingerprint,
                "sha256": signed.sha256(),
                "problem": null,
            })
        }
        Err(error) => json!({ "key": found.key.as_str(), "problem": failure::chain(error) }),
    }
}
