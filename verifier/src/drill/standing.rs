//! How the source stands around a drill: its objectives, how much of it is proved, what else there is and was.

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::drills::{Backup, Coverage};
use pgproof_policies::forecast::{self, Measured};
use pgproof_policies::objective;
use pgproof_policies::policy::{Objectives, Source, WINDOW_DEFAULT};
use pgproof_repository::catalog::{self, Entry};
use pgproof_repository::ids::{BackupId, ObjectKey};
use pgproof_repository::layout;
use pgproof_repository::records::{self, RecordError, Tombstone};
use pgproof_repository::report::chain::Found;
use pgproof_repository::report::{Outcome, Report, v1};
use pgproof_repository::store::StoreError;

use super::names::RECOVERY_POINT;
use crate::failure::chain;
use crate::report::worth::GOOD;
use crate::verifier::Verifier;

/// Tombstones fetched at the same time: this waits on round trips, not on bytes.
const FETCHES_IN_FLIGHT: usize = 16;

/// What was known of the source when the drill began.
#[derive(Debug)]
pub(super) struct Standing {
    objectives: Objectives,
    window: SignedDuration,
    history: v1::History,
    /// Of good backups that retention has removed: they were there when they were needed.
    removed: Vec<Timestamp>,
    measured: Vec<Measured>,
    warnings: Vec<String>,
}

impl Standing {
    pub(super) async fn of(
        verifier: &Verifier,
        source: &Source,
        entries: &[Entry],
        past: &[Found],
        now: Timestamp,
    ) -> Self {
        let window = source.verification.as_ref().map_or(WINDOW_DEFAULT, |verification| verification.window);
        let since = now.checked_sub(window).unwrap_or(Timestamp::MIN);
        let reports: Vec<&Report> =
            past.iter().filter_map(Found::signed).map(|signed| signed.get()).collect();
        let (removed, warnings) = match source.objectives.recovery_point {
            None => (Vec::new(), Vec::new()),
            Some(_) => match removed_snapshots(verifier, source, since, &reports).await {
                Ok(removed) => (removed, Vec::new()),
                Err(error) => {
                    let warning = format!("the recovery point leaves out removed backups: {}", chain(&error));
                    (Vec::new(), vec![warning])
                }
            },
        };
        let recent = |report: &&&Report| report.finished_at >= since;
        let history = v1::History {
            since,
            retention: source.retention.to_string(),
            schedule: source.schedule.clone(),
            backups: entries.iter().filter_map(history_backup).collect(),
            drills: reports.iter().filter(recent).map(|report| history_drill(report)).collect(),
        };
        let measured = reports.iter().filter_map(|report| measured(report)).collect();
        Self { objectives: source.objectives.clone(), window, history, removed, measured, warnings }
    }

    /// Enters what the policy promises against what was found. It comes before the verdict, which depends on it, and so
    /// before exceptions are applied: `is_excepted` tells which checks may fall short.
    pub(super) fn judge_objectives(
        &self,
        report: &mut Report,
        now: Timestamp,
        is_excepted: impl Fn(&str) -> bool,
    ) {
        report.warnings.extend(self.warnings.iter().cloned());
        let snapshots = self.good_snapshots(report, is_excepted);
        let found = objective::recovery_point(snapshots, self.history.since, now);
        let objective = self.objectives.recovery_point;
        report.objectives.recovery_point = v1::RecoveryPoint {
            objective_seconds: objective.map(|objective| objective.as_secs_f64()),
            achieved_seconds: found.map(|found| found.achieved.as_secs_f64()),
            worst_gap_from: found.map(|found| found.worst_gap_from),
            newest_age_seconds: found.map(|found| found.newest_age.as_secs_f64()),
            met: objective.map(|objective| found.is_some_and(|found| found.achieved <= objective)),
        };
        if let Some(objective) = objective {
            report.enter(RECOVERY_POINT, true, of_recovery_point(found, objective), None);
        }
        let objective = self.objectives.recovery_time;
        let measured = self.measured.iter().copied().chain(measured_now(report, now)).collect::<Vec<_>>();
        let forecast = forecast::recovery_time(&measured, objective, now);
        report.objectives.recovery_time = v1::RecoveryTime {
            objective_seconds: objective.map(|objective| objective.as_secs_f64()),
            measured_seconds: report.recovery_seconds,
            met: objective.zip(report.recovery_seconds).map(|(allowed, took)| took <= allowed.as_secs_f64()),
            missed_from: forecast.missed_from(),
            forecast: forecast.to_string(),
        };
    }

    /// Tells what there is, this drill's own verdict included: it comes after [`Report::conclude`].
    pub(super) fn tell(self, report: &mut Report) {
        report.history = self.history;
        let drilled = report.history.backups.iter_mut().find(|backup| backup.id == report.backup);
        if let Some(drilled) = drilled {
            match report.verdict {
                v1::Verdict::Passed | v1::Verdict::Degraded => drilled.proved_at = Some(report.finished_at),
                v1::Verdict::Failed => drilled.failed_at = Some(report.finished_at),
                v1::Verdict::NotRun | v1::Verdict::VerifierFailed => {}
            }
        }
        let good: Vec<Backup> = report.history.backups.iter().filter_map(good).collect();
        let coverage = Coverage::of(&good, self.window, report.finished_at);
        report.coverage = v1::Coverage {
            window_days: coverage.window_days(),
            kept: coverage.kept as u64,
            proved: coverage.proved as u64,
        };
    }

    /// The snapshots that somebody could have gone back to. Of the backup that was drilled, this drill knows best.
    fn good_snapshots(&self, report: &Report, is_excepted: impl Fn(&str) -> bool) -> Vec<Timestamp> {
        let mut failed = report.checks.iter().filter(|check| check.outcome == v1::OutcomeKind::Failed);
        let has_failed = failed.any(|check| !is_excepted(&check.name));
        let is_good = |backup: &Backup| match backup.id == report.backup.as_str() {
            true => !has_failed && (report.recovery_seconds.is_some() || !backup.is_refuted()),
            false => !backup.is_refuted(),
        };
        let kept = self.history.backups.iter().filter_map(good).filter(is_good);
        kept.map(|backup| backup.snapshot_at).chain(self.removed.iter().copied()).collect()
    }
}

/// Of the window's good backups that are gone, by their signed tombstones. One that a drill found bad was none.
async fn removed_snapshots(
    verifier: &Verifier,
    source: &Source,
    since: Timestamp,
    reports: &[&Report],
) -> Result<Vec<Timestamp>, StoreError> {
    let prefix = layout::tombstones(&source.name);
    let listed: Vec<_> = verifier.store.list(&prefix, None).try_collect().await?;
    let of_window = |key: ObjectKey| {
        let id: BackupId = key.as_str().strip_prefix(prefix.as_str())?.strip_suffix(".json")?.parse().ok()?;
        let last =
            reports.iter().rev().find(|report| report.backup == id && report.verdict != v1::Verdict::NotRun);
        let was_bad = last.is_some_and(|report| report.verdict == v1::Verdict::Failed);
        (id.started_at() >= since && !was_bad).then_some((id, key))
    };
    let keys: Vec<_> = listed.into_iter().filter_map(|meta| of_window(meta.key)).collect();
    let fetched = stream::iter(keys).map(|(id, key)| async move {
        match records::get::<Tombstone>(&*verifier.store, &key, &verifier.signers).await {
            Ok((found, _)) if found.id == id && found.source == source.name => Ok(Some(found.snapshot_at)),
            Err(RecordError::Store { source }) if !matches!(source, StoreError::NotFound { .. }) => {
                Err(source)
            }
            // Anybody who can put objects could have put it.
            Ok(_) | Err(_) => Ok(None),
        }
    });
    fetched
        .buffer_unordered(FETCHES_IN_FLIGHT)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
}

fn of_recovery_point(found: Option<objective::RecoveryPoint>, objective: SignedDuration) -> Outcome {
    match found {
        None => Outcome::NotRun { reason: "there is no good backup".to_owned() },
        Some(found) if found.achieved <= objective => Outcome::Passed,
        Some(found) => {
            let (hours, from) = (found.achieved.as_secs_f64() / 3600.0, found.worst_gap_from);
            let reason = format!(
                "{hours:.1} h from {} on without a good backup, the objective is {:.1} h",
                from.strftime("%Y-%m-%d %H:%M UTC"),
                objective.as_secs_f64() / 3600.0
            );
            Outcome::Degraded { reason }
        }
    }
}

fn measured(report: &Report) -> Option<Measured> {
    measured_now(report, report.finished_at)
}

fn measured_now(report: &Report, at: Timestamp) -> Option<Measured> {
    let recovery_seconds = report.recovery_seconds?;
    Some(Measured { at, database_bytes: report.database.bytes, recovery_seconds })
}

/// What a report or a page says of a backup; `None` where retention has begun to remove it.
pub(crate) fn history_backup(entry: &Entry) -> Option<v1::HistoryBackup> {
    let manifest = entry.whole();
    let standing = match &entry.standing {
        catalog::Standing::Whole(_) => GOOD,
        catalog::Standing::Unsigned => "unsigned",
        catalog::Standing::Quarantined(_) => "quarantined",
        catalog::Standing::Incomplete => "incomplete",
        catalog::Standing::Pruned => return None,
    };
    Some(v1::HistoryBackup {
        id: entry.id.clone(),
        snapshot_at: manifest.map_or_else(|| entry.id.started_at(), |signed| signed.snapshot_at()),
        standing: standing.to_owned(),
        stored_bytes: manifest.map(|signed| signed.get().stored_bytes()),
        database_bytes: manifest.and_then(|signed| Some(signed.get().postgres()?.server.database_bytes)),
        held: entry.held,
        proved_at: entry.proofs.proved_at,
        failed_at: entry.proofs.failed_at,
    })
}

fn history_drill(report: &Report) -> v1::HistoryDrill {
    v1::HistoryDrill {
        number: report.number,
        finished_at: report.finished_at,
        backup: report.backup.clone(),
        verdict: report.verdict,
        recovery_seconds: report.recovery_seconds,
        database_bytes: report.database.bytes,
    }
}

fn good(backup: &v1::HistoryBackup) -> Option<Backup> {
    (backup.standing == GOOD).then(|| Backup {
        id: backup.id.to_string(),
        snapshot_at: backup.snapshot_at,
        proved_at: backup.proved_at,
        failed_at: backup.failed_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_failure_that_the_policy_excepts_leaves_the_only_backup_good() {
        let mut report: Report = serde_json::from_slice(sample::GOLDEN_V1).unwrap();
        report.enter("check \"orders\"", true, Outcome::Failed { reason: "none".to_owned() }, None);
        let now = report.finished_at;
        report.history.since = now - SignedDuration::from_hours(24);
        report.history.backups.retain(|backup| backup.id == report.backup);
        assert_eq!(report.history.backups.len(), 1);
        let objective = Some(SignedDuration::from_hours(26));
        let standing = Standing {
            objectives: Objectives { recovery_point: objective, recovery_time: None },
            window: WINDOW_DEFAULT,
            history: report.history.clone(),
            removed: Vec::new(),
            measured: Vec::new(),
            warnings: Vec::new(),
        };
        let judged = |excepted: bool| {
            let mut report = report.clone();
            standing.judge_objectives(&mut report, now, |check| excepted && check == "check \"orders\"");
            let check = report.checks.iter().find(|check| check.name == RECOVERY_POINT).unwrap();
            (check.outcome, report.objectives.recovery_point.met)
        };
        assert_eq!(judged(true), (v1::OutcomeKind::Passed, Some(true)));
        assert_eq!(judged(false), (v1::OutcomeKind::NotRun, Some(false)));
    }
}
