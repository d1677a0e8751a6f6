//! How many older backups a run takes, and which.

use jiff::Timestamp;

use super::past::Candidate;
use super::{Pick, Reason, Shortfall};

/// How many older backups the run takes.
pub(super) struct Demand {
    /// So many by their deadlines: later runs could not take them, not even with the most that they may.
    urgent: usize,
    pub(super) quota: usize,
    pub(super) shortfall: Option<Shortfall>,
}

impl Demand {
    /// Orders the candidates by their deadlines, and counts. `later_runs`: when the runs after this one begin.
    pub(super) fn of(
        candidates: &mut [Candidate<'_>],
        later_runs: &[Timestamp],
        older_per_run_max: u32,
    ) -> Self {
        candidates.sort_by_key(|candidate| (candidate.deadline, candidate.proved_at, candidate.chance));
        let most = usize::try_from(older_per_run_max).unwrap_or(usize::MAX);
        let runs_until = |deadline| 1 + later_runs.partition_point(|&begins_at| begins_at < deadline);
        let (mut urgent, mut level, mut needed_per_run, mut waiting) = (0, 0, 0, 0);
        let mut shortfall = None;
        for (before, candidate) in candidates.iter().enumerate() {
            let (needed, runs) = (before + 1, runs_until(candidate.deadline));
            waiting += usize::from(candidate.is_waiting);
            level = level.max(waiting.div_ceil(runs));
            needed_per_run = needed_per_run.max(needed.div_ceil(runs));
            let now_or_never = needed.saturating_sub(most.saturating_mul(runs - 1));
            if now_or_never > urgent && now_or_never > most {
                let deadline = candidate.deadline;
                shortfall =
                    Some(Shortfall { needed, runs, deadline, older_per_run_max, older_per_run_needed: 0 });
            }
            urgent = urgent.max(now_or_never);
        }
        let shortfall = shortfall.map(|found| Shortfall { older_per_run_needed: needed_per_run, ..found });
        Self { urgent: urgent.min(most), quota: urgent.max(level).min(most), shortfall }
    }

    /// Those that may be taken, best first: candidates as [`Self::of`] ordered them.
    pub(super) fn order(&self, by_deadline: &[Candidate<'_>]) -> impl Iterator<Item = Pick> {
        let (urgent, others) = by_deadline.split_at(self.urgent);
        let due = |candidate: &Candidate<'_>| {
            let Candidate { deadline, proved_at, .. } = *candidate;
            Pick::of(candidate.backup, Reason::DueBy { deadline, proved_at })
        };
        let mut others: Vec<_> = others.iter().filter(|candidate| candidate.is_waiting).collect();
        others.sort_by_key(|candidate| (candidate.proved_at, candidate.chance));
        let waiting = |candidate: &Candidate<'_>| {
            Pick::of(candidate.backup, candidate.proved_at.map_or(Reason::NeverProved, Reason::LastProved))
        };
        let picks: Vec<Pick> = urgent.iter().map(due).chain(others.into_iter().map(waiting)).collect();
        picks.into_iter()
    }
}
