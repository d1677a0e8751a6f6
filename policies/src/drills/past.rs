//! What was drilled before, as the run that is on sees it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{Backup, Drill, RETRIES, Trigger, Verdict};
use crate::cadence::{Run, later, randomness_of};

/// The drills that there were, as the run that is on sees them.
pub(super) struct Past<'a> {
    all: &'a [Drill],
    of_run: Vec<&'a Drill>,
    begins_at: Timestamp,
    /// When the run drilled first; `now` if it has not yet. What it has to do was settled then.
    drills_since: Timestamp,
    /// When the source was drilled first; `now` if it never was.
    began_at: Timestamp,
}

/// A backup that may be one of the older ones of the run, as it was when the run began.
pub(super) struct Candidate<'a> {
    pub(super) backup: &'a Backup,
    pub(super) proved_at: Option<Timestamp>,
    /// When its proof has to be there.
    pub(super) deadline: Timestamp,
    /// Never proved, or in the second half of its window.
    pub(super) is_waiting: bool,
    pub(super) chance: u64,
}

impl<'a> Past<'a> {
    pub(super) fn of(all: &'a [Drill], run: Run, now: Timestamp) -> Self {
        let of_run = |drill: &&Drill| drill.trigger != Trigger::Manual && drill.started_at >= run.begins_at;
        let of_run: Vec<_> = all.iter().filter(of_run).collect();
        let drills_since = of_run.iter().map(|drill| drill.started_at).min().unwrap_or(now);
        let began_at = all.iter().map(|drill| drill.started_at).min().unwrap_or(now);
        Self { all, of_run, begins_at: run.begins_at, drills_since, began_at }
    }

    fn done(&self, trigger: Trigger) -> impl Iterator<Item = &'a Drill> {
        let done = move |drill: &&Drill| drill.trigger == trigger && drill.verdict != Verdict::Open;
        self.of_run.iter().copied().filter(done)
    }

    pub(super) fn is_newest_done(&self) -> bool {
        self.done(Trigger::ScheduledNewest).next().is_some()
    }

    pub(super) fn older_done(&self) -> usize {
        self.done(Trigger::ScheduledOlder).map(|drill| &drill.backup).collect::<BTreeSet<_>>().len()
    }

    /// Whether this run has come to a verdict on it.
    pub(super) fn is_settled(&self, id: &str) -> bool {
        self.of_run.iter().any(|drill| drill.backup == id && drill.verdict != Verdict::Open)
    }

    /// Drills of this run that came to no verdict on it.
    pub(super) fn attempts(&self, id: &str) -> usize {
        self.of_run.iter().filter(|drill| drill.backup == id && drill.verdict == Verdict::Open).count()
    }

    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        let mut latest_first = self.of_run.clone();
        latest_first.sort_by_key(|drill| std::cmp::Reverse(drill.finished_at));
        let open = latest_first.iter().take_while(|drill| drill.verdict == Verdict::Open).count();
        let last = latest_first.first().filter(|_| open > 0)?;
        Some(later(last.finished_at, RETRIES.after(u32::try_from(open).unwrap_or(u32::MAX))))
    }

    /// Those of the older backups that the run may take or took: not found bad before, and there when it began.
    pub(super) fn candidates<'b>(
        &self,
        backups: &'b [Backup],
        newest: Option<&Backup>,
        window: SignedDuration,
        randomness: u64,
    ) -> Vec<Candidate<'b>> {
        let as_newest: Vec<&str> =
            self.done(Trigger::ScheduledNewest).map(|drill| drill.backup.as_str()).collect();
        let is_older = |backup: &&Backup| {
            let is_newest = newest.is_some_and(|newest| newest.id == backup.id);
            let is_open = self.is_settled(&backup.id) || !backup.is_refuted();
            !is_newest
                && !as_newest.contains(&backup.id.as_str())
                && is_open
                && backup.snapshot_at <= self.drills_since
        };
        let candidate = |backup: &'b Backup| {
            let proved_at = self.proved_before_run(backup);
            let since = proved_at.unwrap_or_else(|| backup.snapshot_at.max(self.began_at));
            Candidate {
                backup,
                proved_at,
                deadline: later(since, window),
                is_waiting: proved_at.is_none() || later(since, window / 2) <= self.drills_since,
                chance: randomness_of((randomness, self.begins_at.as_second(), &backup.id)),
            }
        };
        backups.iter().filter(is_older).map(candidate).collect()
    }

    /// The proof that it had when the run began, so that what the run has done does not change what it has to do.
    fn proved_before_run(&self, backup: &Backup) -> Option<Timestamp> {
        if !self.is_settled(&backup.id) {
            return backup.proved_at;
        }
        let good =
            self.all.iter().filter(|drill| drill.backup == backup.id && drill.verdict == Verdict::Good);
        good.map(|drill| drill.finished_at).filter(|&at| at <= self.drills_since).max()
    }
}
