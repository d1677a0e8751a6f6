//! The audit trail of a source: every act of every kind, in the order of signed times, and whatever does not check.
//!
//! Nothing is stored for it but what each act leaves anyhow: records of runs, holds, tombstones, reports, key custody and
//! [`crate::acts`]. What one kind says is held against the others: a backup that a run committed must be there or have
//! a tombstone, a hold must lie there until it was given back. FORMAT.md says what this can show and what it cannot.

mod gather;
mod halves;
mod judge;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use serde::Serialize;

use crate::acts::{Ended, What};
use crate::ids::{BackupId, ObjectKey};
use crate::records::RunOutcome;
use crate::signature::{Signer, TrustedSigners};
use crate::store::{SharedStore, StoreError};
use gather::{Gathered, Report};

/// What the trail of one source says.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// In the order of their signed times.
    pub acts: Vec<Entry>,
    /// What does not check; empty where everything does.
    pub findings: Vec<Finding>,
    /// Halves of records that nothing names: most likely a writer died.
    pub remains: Vec<Finding>,
}

/// One act, well signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub source: SourceName,
    /// As it was signed: when a run ended, a drill finished, an act was made.
    pub at: Timestamp,
    pub act: Kind,
    /// Principal of the signer, as the trusted signers have it.
    pub who: String,
    pub fingerprint: String,
    pub host: String,
    pub backup: Option<BackupId>,
    pub outcome: String,
    /// The record that says so.
    pub record: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Another policy was in force than in the record before of this host and key.
    Policy,
    Backup,
    Drill,
    Hold,
    Release,
    Restore,
    Prune,
    /// One backup's removal, as its tombstone has it.
    Removal,
    Custody,
    Challenge,
}

/// Something that is not as it was signed, or not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub source: SourceName,
    /// The object that it is about, where there is one.
    pub record: Option<String>,
    pub problem: String,
}

/// Reads and checks everything. Only that the store does not answer is an error.
pub async fn of(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Audit, AuditError> {
    let mut gathered = Gathered::read(store, source, signers).await?;
    let mut acts = entries(&gathered);
    acts.append(&mut gathered.without_run);
    acts.sort_by(|a, b| (a.at, a.act, &a.record).cmp(&(b.at, b.act, &b.record)));
    let mut findings = std::mem::take(&mut gathered.amiss.findings);
    let (removed, remains) = halves::told(source, &gathered);
    findings.extend(removed);
    findings.extend(judge::findings(source, &gathered));
    Ok(Audit { acts, findings, remains })
}

fn entries(gathered: &Gathered) -> Vec<Entry> {
    let mut entries = policy_changes(gathered);
    for (key, it) in &gathered.runs {
        let run = &it.record;
        let outcome = match &run.outcome {
            RunOutcome::Committed { warnings } if warnings.is_empty() => "committed".to_owned(),
            RunOutcome::Committed { warnings } => format!("committed, {} warning(s)", warnings.len()),
            RunOutcome::Unchanged { since } => format!("unchanged since {since}"),
            RunOutcome::Failed { error, .. } => format!("failed: {error}"),
        };
        let about = About { at: run.ended_at, act: Kind::Backup, host: &run.host, backup: Some(&run.id) };
        entries.push(entry(&run.source, key, &it.signer, about, outcome));
    }
    for (key, it) in &gathered.tombstones {
        let tombstone = &it.record;
        let (host, backup) = (&tombstone.host, Some(&tombstone.id));
        let about = About { at: tombstone.at, act: Kind::Removal, host, backup };
        let outcome = format!("snapshot of {}", tombstone.snapshot_at);
        entries.push(entry(&tombstone.source, key, &it.signer, about, outcome));
    }
    for (key, it) in &gathered.acts {
        let act = &it.record;
        let (kind, backup, outcome) = told(&act.what);
        let about = About { at: act.at, act: kind, host: &act.host, backup };
        entries.push(entry(&act.source, key, &it.signer, about, outcome));
    }
    for (key, it) in gathered.holds_without_act() {
        let hold = &it.record;
        let about = About { at: hold.at, act: Kind::Hold, host: &hold.host, backup: Some(&hold.id) };
        entries.push(entry(&hold.source, key, &it.signer, about, hold.reason.clone()));
    }
    for (key, Report { signer, host, link, backup, verdict, source, .. }) in &gathered.reports {
        let about = About { at: link.finished_at, act: Kind::Drill, host, backup: Some(backup) };
        entries.push(entry(source, key, signer, about, format!("report {}: {verdict}", link.number)));
    }
    for (key, it) in &gathered.custodies {
        let custody = &it.record;
        let shown = custody.recipients.iter().filter(|recipient| recipient.how.is_some()).count();
        let outcome = format!("{shown} of {} key(s) shown", custody.recipients.len());
        let (host, backup) = (&custody.host, custody.backup.as_ref());
        let about = About { at: custody.at, act: Kind::Custody, host, backup };
        entries.push(entry(&custody.source, key, &it.signer, about, outcome));
    }
    for (key, it) in &gathered.challenges {
        let challenge = &it.record;
        let about = About { at: challenge.at, act: Kind::Challenge, host: &challenge.host, backup: None };
        let outcome = format!("{} canary(s) handed out", challenge.canaries.len());
        entries.push(entry(&challenge.source, key, &it.signer, about, outcome));
    }
    entries
}

struct About<'a> {
    at: Timestamp,
    act: Kind,
    host: &'a str,
    backup: Option<&'a BackupId>,
}

fn entry(source: &SourceName, key: &ObjectKey, signer: &Signer, about: About<'_>, outcome: String) -> Entry {
    Entry {
        source: source.clone(),
        at: about.at,
        act: about.act,
        who: signer.principal.clone(),
        fingerprint: signer.fingerprint.clone(),
        host: about.host.to_owned(),
        backup: about.backup.cloned(),
        outcome,
        record: key.to_string(),
    }
}

fn told(what: &What) -> (Kind, Option<&BackupId>, String) {
    match what {
        What::Hold { backup, reason } => (Kind::Hold, Some(backup), reason.clone()),
        What::Release { backup } => (Kind::Release, Some(backup), "given back to retention".to_owned()),
        What::Restore { backup, target, ended, .. } => {
            let target = target.as_deref().unwrap_or("standard output");
            let outcome = match ended {
                Ended::Done => format!("done: {target}"),
                Ended::Failed { error } => format!("failed: {target}: {error}"),
            };
            (Kind::Restore, Some(backup), outcome)
        }
        What::Prune { removed, swept, aborted_uploads, failures, locked, confirmed } => {
            let confirmed = confirmed.map(|number| format!(", {number} confirmed")).unwrap_or_default();
            let locked = match locked.len() {
                0 => String::new(),
                count => format!(", locked {count} for longer"),
            };
            let outcome = format!(
                "removed {}{confirmed}, swept {}, aborted {aborted_uploads} upload(s){locked}, {} failure(s)",
                removed.len(),
                swept.len(),
                failures.len()
            );
            (Kind::Prune, None, outcome)
        }
    }
}

/// Where a record names another policy than the one before of the same host and key. No record is written for it: every
/// act names its policy.
fn policy_changes(gathered: &Gathered) -> Vec<Entry> {
    let runs = gathered.runs.iter().filter_map(|(key, it)| {
        let run = &it.record;
        Some((run.ended_at, &run.source, &run.host, &it.signer, run.policy_sha256.as_ref()?, key))
    });
    let acts = gathered.acts.iter().map(|(key, it)| {
        (it.record.at, &it.record.source, &it.record.host, &it.signer, &it.record.policy_sha256, key)
    });
    let reports = gathered
        .reports
        .iter()
        .map(|(key, it)| (it.link.finished_at, &it.source, &it.host, &it.signer, &it.policy_sha256, key));
    let mut named: Vec<_> = runs.chain(acts).chain(reports).collect();
    named.sort_by_key(|(at, .., key)| (*at, *key));
    let mut last: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut changes = Vec::new();
    for (at, source, host, signer, policy, key) in named {
        let before = last.insert((host, &signer.fingerprint), policy);
        if let Some(before) = before.filter(|before| *before != policy) {
            let about = About { at, act: Kind::Policy, host, backup: None };
            let outcome = format!("policy {policy} in place of {before}");
            changes.push(entry(source, key, signer, about, outcome));
        }
    }
    changes
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "policy",
            Self::Backup => "backup",
            Self::Drill => "drill",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Restore => "restore",
            Self::Prune => "prune",
            Self::Removal => "removal",
            Self::Custody => "custody",
            Self::Challenge => "challenge",
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    #[error("the audit trail cannot be read")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("a record of the audit trail cannot be fetched")]
    Record {
        #[source]
        source: crate::records::RecordError,
    },
    #[error("a backup of the audit trail cannot be fetched")]
    Catalog {
        #[source]
        source: crate::catalog::CatalogError,
    },
}

#[cfg(test)]
mod tests;
