//! How a source stands: judged by the age of what counts, never by how the last run ended.
//!
//! [`Facts`] is what the repository says; [`judge`] makes of it one [`Finding`] an aspect. A run that fails is named and
//! alarms nobody by itself: while the newest good backup is young enough, nothing is lost. A daemon that does nothing at
//! all leaves no failure, and the age tells it.
//!
//! What could not be checked is [`State::Unknown`], never [`State::Ok`].

mod aspects;
mod limits;
mod span;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::policy::{Source, Thresholds};

pub use limits::Limits;
pub use span::told;

/// A clock that is further off than this would make ages wrong.
pub const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// What is known of a source. Lists are newest first and may leave out what is old.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whole, signed, and not found bad by a drill.
    pub backups: Vec<Backup>,
    /// The earliest sign of the source, whatever that is worth: it can only make an alarm come sooner.
    pub first_seen: Option<Timestamp>,
    /// Folders newer than the newest good backup that look like backups and do not count.
    pub passed_over: Vec<PassedOver>,
    /// Folders that were not looked at before the search for a good backup was given up, as far as their number is known.
    pub not_looked_at: usize,
    pub runs: Vec<Run>,
    pub drills: Vec<Drill>,
    /// Records and reports that are unreadable or badly signed, of those that were looked at.
    pub worthless_records: usize,
    /// Backups whose removal began and did not end, while nobody is at it.
    pub unfinished_removals: usize,
    pub at_work: Vec<AtWork>,
    /// The store's clock less this one.
    pub store_clock_ahead: Option<SignedDuration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub id: String,
    pub snapshot_at: Timestamp,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// Bytes of its objects in the store.
    pub stored_bytes: u64,
    /// What growth is told by: what it takes in the store, or of files, whose backups may leave out what an earlier one holds,
    /// all their contents.
    pub whole_bytes: u64,
    /// Files or folders that it lacks, or has damaged.
    pub losses: u64,
    pub host: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    pub id: String,
    /// What is the matter with it.
    pub why: String,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The id of the attempt, and of the backup that it made.
    pub id: String,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub host: String,
    /// `None` where it made a backup, or found that the newest shows what there is.
    pub error: Option<String>,
    /// The backup since which it found nothing changed.
    pub unchanged_since: Option<String>,
}

/// What a signed report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    pub backup: String,
    pub finished_at: Timestamp,
    pub verdict: Verdict,
    /// How long the restore took.
    pub recovery: Option<SignedDuration>,
    /// The longest time between two good backups of its window.
    pub longest_gap: Option<SignedDuration>,
    /// When, as the data grows, a restore will take longer than the objective allows.
    pub recovery_missed_from: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Proved,
    /// Proved, with a weakness that the report names.
    Degraded,
    Bad,
    /// It could not be run, so nothing is known of the backup.
    Open,
    /// The verifier failed its own test, so that its verdicts mean nothing.
    VerifierFailed,
}

/// A process that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtWork {
    /// `backup`, `prune` or `drill`.
    pub on: &'static str,
    pub host: String,
    pub pid: u32,
}

/// One aspect with what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub aspect: Aspect,
    pub state: State,
    /// A sentence for people.
    pub told: String,
    /// What was held against the thresholds.
    pub value: Option<SignedDuration>,
    pub thresholds: Option<Thresholds>,
    /// When it came to this; absent where all is well or nobody can know.
    pub since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// Whether the repository could be read.
    Repository,
    BackupAge,
    /// What the newest good backup lacks of the files that it should hold.
    Incomplete,
    ProofAge,
    /// What the newest drill found.
    Drill,
    RecoveryPoint,
    RecoveryTime,
    /// Attempts in a row that made no backup.
    Failing,
    HostSilent,
    /// What lies there and does not count.
    Unreadable,
    Removal,
    Clock,
}

/// The order is that of gravity: what is not known may be critical, and is worse than what is known to need a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    Ok,
    Warning,
    Unknown,
    Critical,
}

/// How a source stands at `now`, in the order of [`Aspect`]. What the policy does not ask for is left out.
pub fn judge(source: &Source, limits: &Limits, facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let question = aspects::Question { source, limits, facts, now };
    [
        Some(Finding::ok(Aspect::Repository, "read".to_owned())),
        Some(question.backup_age()),
        question.incomplete(),
        question.proof_age(),
        question.drill(),
        question.recovery_point(),
        question.recovery_time(),
        question.failing(),
        question.host_silent(),
        Some(question.unreadable()),
        Some(question.removal()),
        Some(question.clock()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The findings when nothing could be found out, and `why`.
pub fn not_checked(source: &Source, why: &str) -> Vec<Finding> {
    let unknown = |aspect, told| Finding { state: State::Unknown, ..Finding::ok(aspect, told) };
    let mut findings = vec![
        unknown(Aspect::Repository, format!("cannot be read: {why}")),
        unknown(Aspect::BackupAge, "not checked".to_owned()),
    ];
    if source.verification.is_some() {
        findings.push(unknown(Aspect::ProofAge, "not checked".to_owned()));
    }
    findings
}

/// The gravest of all.
pub fn worst<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> State {
    findings.into_iter().map(|finding| finding.state).max().unwrap_or(State::Unknown)
}

impl Facts {
    /// The newest good backup that is not dated ahead of `now`: it is the one whose age counts.
    pub fn newest_backup(&self, now: Timestamp) -> Option<&Backup> {
        self.backups
            .iter()
            .filter(|backup| !is_ahead(backup.snapshot_at, now))
            .max_by_key(|it| it.snapshot_at)
    }

    /// The newest drill that found its backup good and is not dated ahead of `now`.
    pub fn newest_proof(&self, now: Timestamp) -> Option<&Drill> {
        self.newest_drill(now, |drill| drill.verdict.is_proof())
    }

    /// The newest drill that restored its backup in a measured time, whatever it found then.
    pub fn newest_measured(&self, now: Timestamp) -> Option<&Drill> {
        self.newest_drill(now, |drill| drill.recovery.is_some())
    }

    fn newest_drill(&self, now: Timestamp, wanted: impl Fn(&Drill) -> bool) -> Option<&Drill> {
        let drills = self.drills.iter().filter(|drill| !is_ahead(drill.finished_at, now));
        drills.filter(|drill| wanted(drill)).max_by_key(|drill| drill.finished_at)
    }

    /// Attempts since the newest good backup that made none.
    pub fn failures_in_a_row(&self, now: Timestamp) -> usize {
        let newest = self.newest_backup(now).map(|backup| backup.started_at);
        let since = self.runs.iter().take_while(|run| run.error.is_some());
        since.filter(|run| newest.is_none_or(|newest| run.started_at > newest)).count()
    }

    /// Each host with the last record of a run that it left.
    pub fn hosts(&self) -> Vec<(&str, Timestamp)> {
        let mut hosts: Vec<(&str, Timestamp)> = Vec::new();
        for run in &self.runs {
            match hosts.iter_mut().find(|(host, _)| *host == run.host) {
                Some((_, heard)) => *heard = (*heard).max(run.ended_at),
                None => hosts.push((&run.host, run.ended_at)),
            }
        }
        hosts
    }

    /// How much more the newest backup holds than the one of `span` before it; `None` where none is so old.
    pub fn growth(&self, span: SignedDuration, now: Timestamp) -> Option<i64> {
        let newest = self.newest_backup(now)?;
        let then = newest.snapshot_at.checked_sub(span).ok()?;
        let before =
            self.backups.iter().filter(|it| it.snapshot_at <= then).max_by_key(|it| it.snapshot_at)?;
        i64::try_from(i128::from(newest.whole_bytes) - i128::from(before.whole_bytes)).ok()
    }
}

impl Verdict {
    pub fn is_proof(self) -> bool {
        matches!(self, Self::Proved | Self::Degraded)
    }
}

impl Aspect {
    /// As documents, metrics and plugins name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::BackupAge => "backup_age",
            Self::Incomplete => "incomplete",
            Self::ProofAge => "proof_age",
            Self::Drill => "drill",
            Self::RecoveryPoint => "recovery_point",
            Self::RecoveryTime => "recovery_time",
            Self::Failing => "failing",
            Self::HostSilent => "host_silent",
            Self::Unreadable => "unreadable",
            Self::Removal => "removal",
            Self::Clock => "clock",
        }
    }
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Critical => "critical",
        }
    }

    /// What it means to whoever owns the data, as documents name it.
    pub fn protection(self) -> &'static str {
        match self {
            Self::Ok => "protected",
            Self::Warning => "at_risk",
            Self::Unknown => "unknown",
            Self::Critical => "unprotected",
        }
    }

    /// <https://nagios-plugins.org/doc/guidelines.html#AEN78>
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Finding {
    pub fn ok(aspect: Aspect, told: String) -> Self {
        Self { aspect, state: State::Ok, told, value: None, thresholds: None, since: None }
    }
}

fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at.duration_since(now) > CLOCK_SKEW_MAX
}
