//! Holding the records against one another: what one says was there must be there, or another must say why it is not.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgproof_policies::names::SourceName;

use super::Finding;
use super::gather::{Gathered, by_writer};
use crate::acts::{self, What};
use crate::ids::BackupId;
use crate::records::RunOutcome;
use crate::report::chain;

pub(super) fn findings(source: &SourceName, all: &Gathered) -> Vec<Finding> {
    let problems = [
        broken_acts(all),
        broken_reports(all),
        gone_without_tombstone(all),
        vanished_holds(all),
        lost_tombstones(all),
    ];
    let finding = |problem| Finding { source: source.clone(), record: None, problem };
    problems.into_iter().flatten().map(finding).collect()
}

fn broken_acts(all: &Gathered) -> Vec<String> {
    let writers = by_writer(&all.acts);
    let told = |(writer, acts): (&&str, &Vec<(acts::Act, String)>)| {
        acts::breaks(acts).into_iter().map(|it| format!("acts signed by {writer}: {it}")).collect::<Vec<_>>()
    };
    writers.iter().flat_map(told).collect()
}

fn broken_reports(all: &Gathered) -> Vec<String> {
    let links: Vec<_> = all.reports.iter().map(|(_, report)| report.link.clone()).collect();
    chain::breaks_of(&links).iter().map(|it| format!("reports of drills: {it}")).collect()
}

/// Backups that a run committed, that are not there, and that nobody buried.
pub(super) fn vanished_backups(all: &Gathered) -> impl Iterator<Item = &BackupId> {
    let buried = buried(all);
    let committed =
        all.runs.iter().filter(|(_, it)| matches!(it.record.outcome, RunOutcome::Committed { .. }));
    committed
        .map(|(_, it)| &it.record.id)
        .filter(move |id| !all.manifests.contains(id) && !buried.contains(id))
}

fn gone_without_tombstone(all: &Gathered) -> Vec<String> {
    let told = |id| format!("backup {id} was committed and is gone, and no tombstone says why");
    vanished_backups(all).map(told).collect()
}

/// Holds that were set, not given back, and are not there. One on a backup that is gone, too, is told of with that.
fn vanished_holds(all: &Gathered) -> Vec<String> {
    let mut last: BTreeMap<&BackupId, (Timestamp, bool)> = BTreeMap::new();
    for (_, it) in &all.acts {
        let (backup, held) = match &it.record.what {
            What::Hold { backup, .. } => (backup, true),
            What::Release { backup } => (backup, false),
            What::Restore { .. } | What::Prune { .. } => continue,
        };
        let known = last.entry(backup).or_insert((it.record.at, held));
        if known.0 <= it.record.at {
            *known = (it.record.at, held);
        }
    }
    let there: BTreeSet<&BackupId> = all.holds.iter().map(|(_, it)| &it.record.id).collect();
    let gone = last.into_iter().filter(|(backup, (_, held))| *held && !there.contains(backup));
    gone.map(|(backup, _)| format!("the hold on {backup} is gone, and nobody gave it back")).collect()
}

/// Removals that a prune says it made, without a tombstone.
fn lost_tombstones(all: &Gathered) -> Vec<String> {
    let buried = buried(all);
    let removed = all.acts.iter().filter_map(|(_, it)| match &it.record.what {
        What::Prune { removed, .. } => Some(removed),
        _ => None,
    });
    let without = removed.flatten().filter(|id| !buried.contains(id));
    without.map(|id| format!("backup {id} was pruned, and its tombstone is gone or does not check")).collect()
}

pub(super) fn buried(all: &Gathered) -> BTreeSet<&BackupId> {
    all.tombstones.iter().map(|(_, it)| &it.record.id).collect()
}
