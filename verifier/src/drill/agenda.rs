//! What the schedule asks of a source next, from what the repository holds of it.

use anyhow::Context;
use jiff::Timestamp;
use pgproof_policies::cadence::randomness_of;
use pgproof_policies::drills::{self, Backup, Drill, Plan, Rhythm, Shortfall, Trigger, Verdict};
use pgproof_policies::policy::Source;
use pgproof_repository::catalog::{self, Entry};
use pgproof_repository::report::{Report, chain, v1};

use super::choice::{NEWEST, UNPROVED};
use crate::failure::{Exit, Failure};
use crate::verifier::Verifier;

/// There is nothing to drill now.
#[derive(Debug, thiserror::Error)]
#[error("nothing is due before {wake_at}")]
pub(crate) struct NothingDue {
    pub wake_at: Timestamp,
    /// More is needed than the schedule may do.
    pub shortfall: Option<Shortfall>,
}

impl Verifier {
    /// What the schedule asks for at `now`, without a lease: somebody else may be at it.
    pub(crate) async fn plan(&self, source: &Source, now: Timestamp) -> anyhow::Result<Plan> {
        let entries = catalog::list(&self.store, &source.name, &self.signers).await?;
        let past = chain::list(&self.store, &source.name, &self.signers).await?;
        plan(self, source, &entries, &past, now)
    }
}

pub(super) fn plan(
    verifier: &Verifier,
    source: &Source,
    entries: &[Entry],
    past: &[chain::Found],
    now: Timestamp,
) -> anyhow::Result<Plan> {
    let verification = source.verification.as_ref().ok_or_else(|| {
        let message = format!("the policy says nothing of the verification of {}", source.name);
        Failure::new(Exit::Usage, message, format!("add a section [sources.{}.verification]", source.name))
    })?;
    let rhythm = Rhythm::of(verification).context("the schedule cannot be followed")?;
    let past: Vec<Drill> =
        past.iter().filter_map(chain::Found::signed).map(|signed| drill(signed.get())).collect();
    let zone = verifier.loaded.policy.time_zone();
    // The same for every verifier of this source, so that two that share the work make one plan.
    let randomness = randomness_of((verifier.marker.id.as_str(), source.name.as_str()));
    Ok(drills::plan(&backups(entries), &past, &rhythm, &zone, now, randomness))
}

/// The good backups, with what drills found of them.
pub(super) fn backups(entries: &[Entry]) -> Vec<Backup> {
    let backup = |entry: &Entry| {
        let signed = entry.whole()?;
        Some(Backup {
            id: entry.id.to_string(),
            snapshot_at: signed.snapshot_at(),
            proved_at: entry.proofs.proved_at,
            failed_at: entry.proofs.failed_at,
        })
    };
    entries.iter().filter_map(backup).collect()
}

fn drill(report: &Report) -> Drill {
    Drill {
        backup: report.backup.to_string(),
        started_at: report.started_at,
        finished_at: report.finished_at,
        trigger: match report.trigger {
            v1::Trigger::Manual => Trigger::Manual,
            v1::Trigger::Scheduled if report.choice.rule == NEWEST => Trigger::ScheduledNewest,
            v1::Trigger::Scheduled => Trigger::ScheduledOlder,
        },
        verdict: match report.verdict {
            v1::Verdict::Passed | v1::Verdict::Degraded => Verdict::Good,
            v1::Verdict::Failed => Verdict::Bad,
            v1::Verdict::NotRun | v1::Verdict::VerifierFailed => Verdict::Open,
        },
    }
}

/// The rule that a report names for a backup that the schedule picked.
pub(super) fn rule(reason: drills::Reason) -> &'static str {
    match reason {
        drills::Reason::Newest => NEWEST,
        drills::Reason::NeverProved | drills::Reason::LastProved(_) | drills::Reason::DueBy { .. } => {
            UNPROVED
        }
    }
}
