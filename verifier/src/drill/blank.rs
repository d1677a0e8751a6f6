//! The report before anything was done: what was chosen, and every check as not run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgproof_policies::policy::Source;
use pgproof_repository::lease::host_name;
use pgproof_repository::manifest::v1::{Manifest, Object, Postgres};
use pgproof_repository::report::{Outcome, Report, Verdict, v1};

use super::choice::Chosen;
use super::control;
use super::names::{
    AMCHECK, CHAIN, COLLATIONS, CONSTRAINTS, EXTENSIONS, GLOBALS, INDEXES, LARGE_OBJECTS, MATERIALIZED_VIEWS,
    OBJECTS, OWN_CHECKS, RECOVERY_TIME, RESTORE, SELECTION, SEQUENCES, SERVER, SIGNATURE, STRUCTURE, TABLES,
};
use crate::verifier::Verifier;

/// The report before anything was done.
pub(super) fn blank(
    verifier: &Verifier,
    source: &Source,
    chosen: &Chosen,
    trigger: v1::Trigger,
    now: Timestamp,
) -> Report {
    let (manifest, signer) = (chosen.signed.get(), chosen.signed.signer());
    let mut report = Report {
        format: v1::FORMAT.to_owned(),
        version: v1::VERSION,
        verdict: Verdict::NotRun,
        repository: manifest.repository.clone(),
        source: manifest.source.clone(),
        backup: manifest.id.clone(),
        manifest_sha256: chosen.signed.sha256(),
        snapshot_at: chosen.signed.snapshot_at(),
        started_at: now,
        finished_at: now,
        number: 1,
        previous: v1::Previous::None,
        host: host_name(),
        trigger,
        choice: chosen.choice.clone(),
        attempts: 1,
        database: database(manifest, &chosen.dumped),
        scratch: v1::Scratch { kind: None, server_version: None, isolation: None },
        checks: Vec::new(),
        tables: Vec::new(),
        phases: Vec::new(),
        recovery_seconds: None,
        objectives: v1::Objectives {
            recovery_point: v1::RecoveryPoint {
                objective_seconds: source.objectives.recovery_point.map(|objective| objective.as_secs_f64()),
                achieved_seconds: None,
                worst_gap_from: None,
                newest_age_seconds: None,
                met: None,
            },
            recovery_time: v1::RecoveryTime {
                objective_seconds: source.objectives.recovery_time.map(|objective| objective.as_secs_f64()),
                measured_seconds: None,
                met: None,
                missed_from: None,
                forecast: "too few drills".to_owned(),
            },
        },
        coverage: v1::Coverage { window_days: 90, kept: chosen.choice.candidates, proved: 0 },
        history: v1::History {
            since: now,
            retention: String::new(),
            schedule: source.schedule.clone(),
            backups: Vec::new(),
            drills: Vec::new(),
        },
        negative_control: control::not_made("the drill did not get there".to_owned(), None),
        exceptions: Vec::new(),
        recipients: manifest.recipients.iter().map(|key| recipient(key)).collect(),
        evidence: manifest.objects.iter().map(evidence).collect(),
        programs: BTreeMap::from([("pgproof-verifier".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        backup_signer: v1::Signer {
            principal: signer.principal.clone(),
            fingerprint: signer.fingerprint.clone(),
        },
        report_signer: verifier.signing_key.fingerprint(),
        policy_sha256: verifier.loaded.sha256.clone(),
        warnings: manifest.warnings.iter().map(|warning| format!("of the backup: {warning}")).collect(),
    };
    report.enter(SELECTION, true, chosen.selection.clone(), None);
    report.enter(SIGNATURE, true, Outcome::Passed, Some(signer.principal.clone()));
    report.enter(CHAIN, true, chosen.chain.clone(), None);
    let not_run = |reason: &str| Outcome::NotRun { reason: reason.to_owned() };
    for name in [OBJECTS, SERVER, GLOBALS, RESTORE, TABLES, INDEXES] {
        report.enter(name, true, not_run("the drill did not get there"), None);
    }
    for name in [SEQUENCES, LARGE_OBJECTS, STRUCTURE] {
        report.enter(name, true, not_run("the drill did not get there"), None);
    }
    for name in [CONSTRAINTS, MATERIALIZED_VIEWS, EXTENSIONS, COLLATIONS, AMCHECK] {
        report.enter(name, false, not_run("the drill did not get there"), None);
    }
    let own = source.verification.iter().flat_map(|verification| &verification.checks);
    for check in own.clone() {
        report.enter(&check.name_in_reports(), true, not_run("the drill did not get there"), None);
    }
    if own.count() == 0 {
        report.enter(OWN_CHECKS, false, not_run("the policy names none"), None);
    }
    if source.objectives.recovery_time.is_some() {
        report.enter(RECOVERY_TIME, true, not_run("the drill did not get there"), None);
    }
    report
}

fn database(manifest: &Manifest, dumped: &Postgres) -> v1::Database {
    let Postgres { server, archive } = dumped;
    v1::Database {
        name: server.database.clone(),
        server_version: server.version.clone(),
        encoding: server.encoding.clone(),
        bytes: server.database_bytes,
        plaintext_bytes: manifest.objects.iter().map(|object| object.plaintext.bytes).sum(),
        stored_bytes: manifest.stored_bytes(),
        tables: archive.table_count,
        rows: archive.row_count,
    }
}

fn recipient(key: &str) -> v1::Recipient {
    v1::Recipient { key: key.to_owned(), shown_at: None }
}

fn evidence(object: &Object) -> v1::Evidence {
    v1::Evidence {
        object: object.name.clone(),
        bytes: object.ciphertext.bytes,
        sha256: object.ciphertext.sha256,
        plaintext_bytes: object.plaintext.bytes,
        plaintext_sha256: object.plaintext.sha256,
    }
}
