//! How things stand as JSON, for `pgproof status --json` and `/health/detailed`, and of each source for `pgproof fleet --json`. Fields are only added; what is not known
//! is `null`. Spans are seconds, sizes bytes, times RFC 3339 in UTC.

use jiff::{SignedDuration, Timestamp};
use pgproof_policies::standing::{Backup, Drill, Facts, Finding};
use serde::Serialize;

use crate::facts::GROWTH_SPANS;
use crate::survey::{Standing, Survey, worst};

/// The version of the document's shape.
pub const VERSION: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Document {
    pub version: u32,
    /// Where the repository lies.
    pub repository: String,
    /// When this was judged.
    pub at: Timestamp,
    /// When the repository was read.
    pub read_at: Timestamp,
    /// `ok`, `warning`, `unknown` or `critical`: the gravest of all sources.
    pub state: &'static str,
    pub sources: Vec<Source>,
}

#[derive(Debug, Serialize)]
pub struct Source {
    pub source: String,
    /// The gravest of its findings.
    pub state: &'static str,
    pub findings: Vec<Aspect>,
    /// The newest good backup that is not dated ahead.
    pub newest_backup: Option<NewestBackup>,
    pub growth: Growth,
    /// The newest drill that found its backup good.
    pub newest_proof: Option<NewestProof>,
    pub last_attempt: Option<Attempt>,
    /// Attempts since the newest good backup that made none.
    pub failures_in_a_row: Option<usize>,
    pub hosts: Vec<Host>,
    pub at_work: Vec<AtWork>,
    pub next_run: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub struct Aspect {
    /// Such as `backup_age`.
    pub aspect: &'static str,
    pub state: &'static str,
    /// A sentence for people; not to be parsed.
    pub told: String,
    pub value_seconds: Option<f64>,
    pub warning_seconds: Option<f64>,
    pub critical_seconds: Option<f64>,
    pub since: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub struct NewestBackup {
    pub id: String,
    pub snapshot_at: Timestamp,
    pub age_seconds: f64,
    pub stored_bytes: u64,
    /// Files or folders that it lacks, or has damaged.
    pub losses: u64,
    pub took_seconds: f64,
    pub host: String,
}

/// Bytes by which the newest backup is larger than the one of that time before it.
#[derive(Debug, Serialize)]
pub struct Growth {
    pub bytes_7d: Option<i64>,
    pub bytes_30d: Option<i64>,
}

#[derive(Debug, Serialize)]
pub struct NewestProof {
    pub backup: String,
    pub finished_at: Timestamp,
    pub age_seconds: f64,
    pub recovery_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Attempt {
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub host: String,
    /// `null` where it made a backup.
    pub error: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Host {
    pub host: String,
    pub heard_at: Timestamp,
}

#[derive(Debug, Serialize)]
pub struct AtWork {
    pub on: &'static str,
    pub host: String,
    pub pid: u32,
}

impl Source {
    pub(crate) fn of(standing: &Standing<'_>, now: Timestamp) -> Self {
        source(standing, now)
    }
}

impl Document {
    pub fn of(survey: &Survey, now: Timestamp) -> Self {
        let standings = survey.judge(now);
        Self {
            version: VERSION,
            repository: survey.location.clone(),
            at: now,
            read_at: survey.read_at,
            state: worst(&standings).as_str(),
            sources: standings.iter().map(|standing| source(standing, now)).collect(),
        }
    }
}

fn source(standing: &Standing<'_>, now: Timestamp) -> Source {
    let facts = standing.facts;
    let growth = |span| facts.and_then(|facts| facts.growth(span, now));
    let last = facts.and_then(|facts| facts.runs.first());
    Source {
        source: standing.source.name.to_string(),
        state: standing.state().as_str(),
        findings: standing.findings.iter().map(aspect).collect(),
        newest_backup: facts.and_then(|facts| facts.newest_backup(now)).map(|it| newest_backup(it, now)),
        growth: Growth { bytes_7d: growth(GROWTH_SPANS[0]), bytes_30d: growth(GROWTH_SPANS[1]) },
        newest_proof: facts.and_then(|facts| facts.newest_proof(now)).map(|it| newest_proof(it, now)),
        last_attempt: last.map(|run| Attempt {
            started_at: run.started_at,
            ended_at: run.ended_at,
            host: run.host.clone(),
            error: run.error.clone(),
        }),
        failures_in_a_row: facts.map(|facts| facts.failures_in_a_row(now)),
        hosts: facts.map(hosts).unwrap_or_default(),
        at_work: facts.map(at_work).unwrap_or_default(),
        next_run: standing.next_run,
    }
}

fn aspect(finding: &Finding) -> Aspect {
    Aspect {
        aspect: finding.aspect.as_str(),
        state: finding.state.as_str(),
        told: finding.told.clone(),
        value_seconds: finding.value.map(|value| value.as_secs_f64()),
        warning_seconds: finding.thresholds.map(|thresholds| thresholds.warning.as_secs_f64()),
        critical_seconds: finding.thresholds.map(|thresholds| thresholds.critical.as_secs_f64()),
        since: finding.since,
    }
}

fn newest_backup(backup: &Backup, now: Timestamp) -> NewestBackup {
    NewestBackup {
        id: backup.id.clone(),
        snapshot_at: backup.snapshot_at,
        age_seconds: age(backup.snapshot_at, now),
        stored_bytes: backup.stored_bytes,
        losses: backup.losses,
        took_seconds: backup.finished_at.duration_since(backup.started_at).as_secs_f64(),
        host: backup.host.clone(),
    }
}

fn newest_proof(drill: &Drill, now: Timestamp) -> NewestProof {
    NewestProof {
        backup: drill.backup.clone(),
        finished_at: drill.finished_at,
        age_seconds: age(drill.finished_at, now),
        recovery_seconds: drill.recovery.map(|recovery| recovery.as_secs_f64()),
    }
}

fn hosts(facts: &Facts) -> Vec<Host> {
    facts.hosts().into_iter().map(|(host, heard_at)| Host { host: host.to_owned(), heard_at }).collect()
}

fn at_work(facts: &Facts) -> Vec<AtWork> {
    let at_work = facts.at_work.iter();
    at_work.map(|it| AtWork { on: it.on, host: it.host.clone(), pid: it.pid }).collect()
}

fn age(at: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(at).max(SignedDuration::ZERO).as_secs_f64()
}
