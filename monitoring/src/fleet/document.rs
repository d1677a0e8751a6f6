//! A fleet as JSON, for `pgproof fleet --json`. Fields are only added; what is not known is `null`.

use jiff::{SignedDuration, Timestamp};
use pgproof_repository::store::Lock;
use serde::Serialize;

use super::{FleetSurvey, Kept, Line, Locked, worst};
use crate::document;

/// The version of the document's shape.
const VERSION: u32 = 1;

#[derive(Debug, Serialize)]
pub struct Document {
    pub version: u32,
    /// When this was judged.
    pub at: Timestamp,
    /// When reading began.
    pub read_at: Timestamp,
    /// The worst of all.
    pub protection: &'static str,
    pub repository_count: usize,
    /// The worst first.
    pub sources: Vec<Source>,
}

#[derive(Debug, Serialize)]
pub struct Source {
    pub repository: String,
    pub location: Option<String>,
    /// `null` where something is to be said of the whole repository.
    pub source: Option<String>,
    /// `protected`, `at_risk`, `unknown` or `unprotected`.
    pub protection: &'static str,
    /// Sentences for people, the gravest first; not to be parsed.
    pub reasons: Vec<String>,
    /// What to do about them, where that is known.
    pub hint: Option<String>,
    pub recovery_point_seconds: Option<f64>,
    pub recovery_time_seconds: Option<f64>,
    /// How long the newest drill's restore took.
    pub expected_recovery_seconds: Option<f64>,
    pub last_failure: Option<Failure>,
    /// Backups that are held.
    pub holds: Option<usize>,
    /// Until when the store locks the newest backup; `legal_hold`, or `none`.
    pub locked_until: Option<String>,
    /// As in `pgproof status --json`; `null` where nobody promised anything of it.
    pub standing: Option<document::Source>,
}

#[derive(Debug, Serialize)]
pub struct Failure {
    pub ended_at: Timestamp,
    pub host: String,
    pub error: String,
}

impl Document {
    pub fn of(survey: &FleetSurvey, now: Timestamp) -> Self {
        let lines = survey.judge(now);
        Self {
            version: VERSION,
            at: now,
            read_at: survey.read_at,
            protection: worst(&lines).protection(),
            repository_count: survey.repository_count(),
            sources: lines.into_iter().map(|line| source(line, now)).collect(),
        }
    }
}

fn source(line: Line<'_>, now: Timestamp) -> Source {
    let objectives = line.standing.as_ref().map(|standing| &standing.source.objectives);
    let seconds = |span: Option<SignedDuration>| span.map(|span| span.as_secs_f64());
    Source {
        repository: line.repository.to_owned(),
        location: line.location.map(str::to_owned),
        source: line.source.map(ToString::to_string),
        protection: line.state.protection(),
        recovery_point_seconds: seconds(objectives.and_then(|objectives| objectives.recovery_point)),
        recovery_time_seconds: seconds(objectives.and_then(|objectives| objectives.recovery_time)),
        expected_recovery_seconds: seconds(line.expected_recovery(now)),
        last_failure: line.last_failure().map(|(run, error)| Failure {
            ended_at: run.ended_at,
            host: run.host.clone(),
            error: error.to_owned(),
        }),
        holds: line.kept.and_then(|kept| kept.holds),
        locked_until: line.kept.and_then(locked_until),
        standing: line.standing.as_ref().map(|standing| document::Source::of(standing, now)),
        hint: line.hint.map(str::to_owned),
        reasons: line.reasons,
    }
}

fn locked_until(kept: Kept) -> Option<String> {
    match kept.lock {
        Locked::Not => Some("none".to_owned()),
        Locked::By(Lock::LegalHold) => Some("legal_hold".to_owned()),
        Locked::By(Lock::Until(at)) => Some(at.to_string()),
        Locked::NotKnown => None,
    }
}
