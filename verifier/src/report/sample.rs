//! Reports for tests: one with all that can be shown, and chains of signed ones.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use pgproof_repository::ids::BackupId;
use pgproof_repository::report::chain::SignedReport;
use pgproof_repository::report::v1::{
    Damage, Exception, HistoryBackup, HistoryDrill, OutcomeKind, Previous, Recipient, Report, Rows, Table,
};
use pgproof_repository::report::{Outcome, Verdict};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate, namespace};

pub(crate) const GOLDEN_V1: &[u8] = include_bytes!("../../../repository/fixtures/report.v1.json");

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Days on which no good backup was taken, counted back from the newest.
const WITHOUT_BACKUP: [i32; 4] = [9, 10, 11, 30];

/// 42 backups with gaps, 12 drills of which some failed, exceptions, damages, 12 tables in three schemas.
pub(crate) fn rich() -> Report {
    let mut report: Report = serde_json::from_slice(GOLDEN_V1).unwrap();
    report.number = 13;
    report.tables = tables();
    report.history.backups = backups(&report);
    report.history.drills = drills(&report);
    report.objectives.recovery_point.worst_gap_from = Some(report.snapshot_at - DAY * 12);
    report.objectives.recovery_point.achieved_seconds = Some(4.0 * 86_400.0);
    report.objectives.recovery_point.objective_seconds = Some(26.0 * 3600.0);
    report.coverage.kept = 42;
    report.exceptions.push(Exception {
        check: "check \"orders of today\"".to_owned(),
        reason: "the shop is closed for stocktaking".to_owned(),
        until: "2026-10-31".parse().unwrap(),
        expired: true,
        used: false,
    });
    report.recipients.push(Recipient {
        key: "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg".to_owned(),
        shown_at: None,
    });
    report.negative_control.outcome = OutcomeKind::Passed;
    report.negative_control.reason = None;
    report.negative_control.last_made = Some(13);
    report.negative_control.damages = [
        ("one byte of the archive flipped", "data.000.zst.age: hash is not the one that was signed"),
        ("the end of the archive cut off", "data.000.zst.age: 4096 bytes are missing"),
        ("a table dropped after the restore", "public.orders: relation does not exist"),
    ]
    .map(|(name, told)| Damage { name: name.to_owned(), noticed: true, told: told.to_owned() })
    .to_vec();
    report.enter("chain", true, Outcome::Passed, Some("follows 20261123T020000Z-abcdef".to_owned()));
    report.enter("check \"orders of today\"", true, Outcome::Passed, Some("417 is at least 1".to_owned()));
    report.enter("recovery time", true, Outcome::Passed, Some("93.5 s of 7200 s".to_owned()));
    let finished_at = report.finished_at;
    report.conclude(finished_at);
    report
}

fn tables() -> Vec<Table> {
    let rows = [300_000, 81_204, 20_000, 9_117, 2_048, 731, 500, 206, 31, 12, 4, 0];
    let names = [
        ("public", "orders"),
        ("public", "order_lines"),
        ("public", "customers"),
        ("public", "Täble with a long name, a comma and “quotes”"),
        ("public", "payments"),
        ("public", "notes"),
        ("audit", "events"),
        ("audit", "logins"),
        ("billing", "invoices"),
        ("billing", "currencies"),
        ("billing", "tax_rates"),
        ("billing", "empty"),
    ];
    let table = |((schema, name), rows): ((&str, &str), u64)| {
        let counted = Rows {
            rows,
            digest: format!("{:032x}", u128::from(rows).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c)),
        };
        Table {
            schema: schema.to_owned(),
            name: name.to_owned(),
            expected: counted.clone(),
            found: Some(counted),
            equal: true,
            problem: None,
        }
    };
    names.into_iter().zip(rows).map(table).collect()
}

fn backups(report: &Report) -> Vec<HistoryBackup> {
    let days = (0..46).rev().filter(|day| !WITHOUT_BACKUP.contains(day));
    let backup = |day: i32| {
        let at = report.snapshot_at - DAY * day;
        HistoryBackup {
            id: id(at),
            snapshot_at: at,
            standing: if day == 20 { "quarantined" } else { "good" }.to_owned(),
            stored_bytes: Some(201_326_592 - 1_000_000 * day as u64),
            database_bytes: Some(1_073_741_824 - 5_000_000 * day as u64),
            held: day == 40,
            proved_at: (day % 3 == 0).then_some(at + SignedDuration::from_hours(3)),
            failed_at: (day == 14).then_some(at + SignedDuration::from_hours(3)),
        }
    };
    days.map(backup).collect()
}

/// A good backup of two o'clock on each of these days of November 2026; drills found those of `bad` bad.
pub(crate) fn daily(days: std::ops::RangeInclusive<i8>, bad: &[i8]) -> Vec<HistoryBackup> {
    let backup = |day: i8| {
        let at: Timestamp = format!("2026-11-{day:02}T02:00:00Z").parse().unwrap();
        HistoryBackup {
            id: id(at),
            snapshot_at: at,
            standing: "good".to_owned(),
            stored_bytes: None,
            database_bytes: None,
            held: false,
            proved_at: None,
            failed_at: bad.contains(&day).then_some(at + SignedDuration::from_hours(3)),
        }
    };
    days.map(backup).collect()
}

fn drills(report: &Report) -> Vec<HistoryDrill> {
    let drill = |number: u64| {
        let at = report.finished_at - DAY * (13 - number) as i32 * 7;
        HistoryDrill {
            number,
            finished_at: at,
            backup: id(at - SignedDuration::from_hours(2)),
            verdict: match number {
                4 => Verdict::Failed,
                7 => Verdict::NotRun,
                9 => Verdict::Degraded,
                _ => Verdict::Passed,
            },
            recovery_seconds: (number != 7).then_some(60.0 + 2.5 * number as f64),
            database_bytes: 900_000_000 + 12_000_000 * number,
        }
    };
    (1..=12).map(drill).collect()
}

fn id(at: Timestamp) -> BackupId {
    format!("{}-abcdef", at.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap()
}

/// Signed reports that follow each other, and the key that signed them.
pub(crate) struct Chain {
    pub key: SigningKey,
    pub signers: String,
    pub reports: Vec<(Vec<u8>, String, SignedReport)>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let signers = format!("verifier@example.org {}\n", key.public_line());
        Self { key, signers, reports: Vec::new() }
    }

    /// A chain of so many reports, a day apart, the first of 1 November 2026.
    pub(crate) fn of(count: u64) -> Self {
        let mut chain = Self::new();
        for _ in 0..count {
            chain.add(|_| {});
        }
        chain
    }

    /// A further report, changed before it is signed.
    pub(crate) fn add(&mut self, change: impl FnOnce(&mut Report)) -> &SignedReport {
        let mut report: Report = serde_json::from_slice(GOLDEN_V1).unwrap();
        report.number = self.reports.len() as u64 + 1;
        report.previous = self.reports.last().map_or(Previous::None, |(_, _, signed)| signed.as_previous());
        let start: Timestamp = "2026-11-01T04:00:00Z".parse().unwrap();
        report.finished_at = start + DAY * self.reports.len() as i32;
        report.report_signer = self.key.fingerprint();
        change(&mut report);
        let mut bytes = serde_json::to_vec_pretty(&report).unwrap();
        bytes.push(b'\n');
        let signature = self.key.sign(namespace::REPORT, &bytes).unwrap();
        let signed = SignedReport::check(&bytes, &signature, &self.trusted()).unwrap();
        self.reports.push((bytes, signature, signed));
        &self.reports.last().unwrap().2
    }

    pub(crate) fn trusted(&self) -> TrustedSigners {
        TrustedSigners::parse(&self.signers).unwrap()
    }

    pub(crate) fn signed(&self) -> Vec<SignedReport> {
        self.reports.iter().map(|(_, _, signed)| signed.clone()).collect()
    }
}
