//! Telling of a drill whom the policy names.

use pgproof_monitoring::alerts::{NotTold, Recollection, Teller};
use pgproof_policies::alerts::{Alert, Kind};
use pgproof_policies::names::SourceName;
use pgproof_repository::report::Report;
use pgproof_repository::report::v1::{OutcomeKind, Verdict};

use crate::verifier::Verifier;

/// Tells what came of a drill, and that it is over where it is.
pub(super) async fn tell(verifier: &Verifier, source: &SourceName, report: &Report) -> Vec<NotTold> {
    let Some(policy) = &verifier.loaded.policy.alerts else { return Vec::new() };
    let Verifier { store, signers, signing_key, .. } = verifier;
    let teller = Teller {
        policy,
        source,
        store,
        signing_key: Some(signing_key),
        signers,
        own: &Recollection::default(),
    };
    let not_told = teller.tell(&raised(report), &|kind, key| is_over(report, kind, key)).await;
    for NotTold { route, source: why } in &not_told {
        let why = crate::failure::chain(why);
        tracing::error!(%source, route, "an alert did not get through: {why}");
    }
    not_told
}

fn raised(report: &Report) -> Vec<Alert> {
    let backup = &report.backup;
    let about_none = |kind, subject| Alert { kind, about: String::new(), subject, text: String::new() };
    let alert = match report.verdict {
        Verdict::Passed | Verdict::Degraded => return Vec::new(),
        Verdict::Failed => Alert::of_bad_backup(backup.as_str()),
        Verdict::VerifierFailed => {
            let subject = "the verifier calls damage good: its proofs mean nothing";
            about_none(Kind::VerifierFailed, subject.to_owned())
        }
        Verdict::NotRun => about_none(Kind::DrillNotRun, format!("the drill of {backup} could not be made")),
    };
    let checks = report.checks.iter().filter(|check| match check.outcome {
        OutcomeKind::Failed => true,
        OutcomeKind::NotRun => check.required,
        OutcomeKind::Passed | OutcomeKind::Degraded => false,
    });
    let told = checks.map(|check| format!("{}: {}", check.name, check.reason.as_deref().unwrap_or("failed")));
    vec![Alert { text: told.collect::<Vec<_>>().join("\n"), ..alert }]
}

/// What the drill can say is over. One that could not be made says nothing of backups, and a good one nothing of others.
fn is_over(report: &Report, kind: Kind, key: &str) -> bool {
    let passed = matches!(report.verdict, Verdict::Passed | Verdict::Degraded);
    match kind {
        Kind::DrillNotRun => report.verdict != Verdict::VerifierFailed,
        Kind::VerifierFailed => passed,
        Kind::BackupBad => passed && key == Alert::of_bad_backup(report.backup.as_str()).key(),
        _ => false,
    }
}
