//! How things stand as metrics: times, not verdicts, so that a value that nobody renews grows old by itself.
//!
//! What the policy says of a source (objectives, thresholds) is always there. What the repository says is there only
//! when it could be read: a source without `pgproof_backup_last_success_timestamp_seconds` was never backed up or cannot be read,
//! and `pgproof_repository_read_timestamp_seconds` tells which. A source is known by its repository and its name: one that is well must not
//! speak for another of the same name.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_policies::standing::Facts;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::survey::{Standing, Survey};

/// Of what [`encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Value = Gauge<f64, AtomicU64>;

/// When each source was last read; sources that never were are absent.
pub type LastRead = BTreeMap<SourceName, Timestamp>;

/// Every metric of a repository, with its help. `survey` is absent where nothing was read of late.
pub fn encode(repository: &str, survey: Option<&Survey>, last_read: &LastRead, now: Timestamp) -> String {
    let registry = Registry::with_prefix("pgproof");
    let mut page = Page { repository: repository.to_owned(), registry, families: BTreeMap::new() };
    for (source, at) in last_read {
        page.set(READ, source, seconds(*at));
    }
    for standing in survey.map(|survey| survey.judge(now)).unwrap_or_default() {
        page.policy(&standing);
        if let Some(facts) = standing.facts {
            page.facts(&standing.source.name, facts, now);
        }
    }
    let mut text = String::new();
    text::encode(&mut text, &page.registry).expect("a string takes all");
    text
}

/// A metric's name without `pgproof_`, and its help.
type Name = (&'static str, &'static str);

const READ: Name =
    ("repository_read_timestamp_seconds", "When the repository was last read wholly for this source");
const BACKUP_SUCCESS: Name =
    ("backup_last_success_timestamp_seconds", "The moment that the newest good backup shows");
const BACKUP_ATTEMPT: Name =
    ("backup_last_attempt_timestamp_seconds", "When the last run ended, whether it made a backup or not");
const BACKUP_BYTES: Name = ("backup_size_bytes", "Bytes in the store of the newest good backup");
const BACKUP_LOSSES: Name =
    ("backup_losses", "Files or folders that the newest good backup lacks, or has damaged");
const BACKUP_DURATION: Name = ("backup_duration_seconds", "How long the newest good backup took");
const BACKUP_FAILURES: Name =
    ("backup_failures_in_a_row", "Runs since the newest good backup that made no backup");
const NEXT_RUN: Name = ("backup_next_run_timestamp_seconds", "When the schedule next asks for a backup");
const PROOF_SUCCESS: Name =
    ("proof_last_success_timestamp_seconds", "When a drill last proved a backup of this source");
const PROOF_ATTEMPT: Name =
    ("proof_last_attempt_timestamp_seconds", "When the last drill ended, whatever it found");
const RECOVERY: Name = ("proof_recovery_duration_seconds", "How long the restore of the newest proof took");
const POINT_OBJECTIVE: Name =
    ("recovery_point_objective_seconds", "How old the newest good backup may be, by the policy");
const TIME_OBJECTIVE: Name =
    ("recovery_time_objective_seconds", "How long a restore may take, by the policy");
const THRESHOLD: Name = (
    "threshold_seconds",
    "The age above which an aspect is a warning or critical: backup_age, proof_age or host_silent",
);
const HOST: Name = ("host_last_heard_timestamp_seconds", "When a host last left a record of a run");
const PASSED_OVER: Name = (
    "backups_passed_over",
    "Folders newer than the newest good backup that look like backups and do not count",
);
const WORTHLESS: Name =
    ("records_unusable", "Records and reports that are unreadable or badly signed, of the newest");
const REMOVALS: Name = ("removals_unfinished", "Removals of backups that stopped half-way");
const FIRST_SEEN: Name = ("source_first_seen_timestamp_seconds", "The earliest sign of the source");
const CLOCK: Name = ("store_clock_ahead_seconds", "The store's clock less this host's");

struct Page {
    repository: String,
    registry: Registry,
    families: BTreeMap<&'static str, Family<Labels, Value>>,
}

impl Page {
    fn policy(&mut self, standing: &Standing<'_>) {
        let (name, limits, objectives) =
            (&standing.source.name, standing.limits, &standing.source.objectives);
        self.maybe(POINT_OBJECTIVE, name, objectives.recovery_point.map(|span| span.as_secs_f64()));
        self.maybe(TIME_OBJECTIVE, name, objectives.recovery_time.map(|span| span.as_secs_f64()));
        let aspects = [
            ("backup_age", limits.backup_age),
            ("proof_age", limits.proof_age),
            ("host_silent", limits.host_silent),
        ];
        for (aspect, thresholds) in aspects.into_iter().filter_map(|(name, it)| Some((name, it?))) {
            for (state, span) in [("warning", thresholds.warning), ("critical", thresholds.critical)] {
                let labels = [("aspect", aspect.to_owned()), ("state", state.to_owned())];
                self.labelled(THRESHOLD, name, labels, span.as_secs_f64());
            }
        }
        self.maybe(NEXT_RUN, name, standing.next_run.map(seconds));
    }

    fn facts(&mut self, name: &SourceName, facts: &Facts, now: Timestamp) {
        let (newest, proof) = (facts.newest_backup(now), facts.newest_proof(now));
        self.maybe(BACKUP_SUCCESS, name, newest.map(|backup| seconds(backup.snapshot_at)));
        self.maybe(BACKUP_BYTES, name, newest.map(|backup| backup.stored_bytes as f64));
        self.maybe(BACKUP_LOSSES, name, newest.map(|backup| backup.losses as f64));
        let took = newest.map(|backup| backup.finished_at.duration_since(backup.started_at).as_secs_f64());
        self.maybe(BACKUP_DURATION, name, took);
        let attempt = facts.runs.first().map(|run| run.ended_at);
        self.maybe(BACKUP_ATTEMPT, name, attempt.map(seconds));
        self.set(BACKUP_FAILURES, name, facts.failures_in_a_row(now) as f64);
        self.maybe(PROOF_SUCCESS, name, proof.map(|drill| seconds(drill.finished_at)));
        self.maybe(PROOF_ATTEMPT, name, facts.drills.first().map(|drill| seconds(drill.finished_at)));
        self.maybe(RECOVERY, name, proof.and_then(|drill| drill.recovery).map(|span| span.as_secs_f64()));
        for (host, heard_at) in facts.hosts() {
            self.labelled(HOST, name, [("host", host.to_owned())], seconds(heard_at));
        }
        self.set(PASSED_OVER, name, facts.passed_over.len() as f64);
        self.set(WORTHLESS, name, facts.worthless_records as f64);
        self.set(REMOVALS, name, facts.unfinished_removals as f64);
        self.maybe(FIRST_SEEN, name, facts.first_seen.map(seconds));
        self.maybe(CLOCK, name, facts.store_clock_ahead.map(|span| span.as_secs_f64()));
    }

    fn maybe(&mut self, metric: Name, source: &SourceName, value: Option<f64>) {
        if let Some(value) = value {
            self.set(metric, source, value);
        }
    }

    fn set(&mut self, metric: Name, source: &SourceName, value: f64) {
        self.labelled(metric, source, [], value);
    }

    fn labelled<const N: usize>(
        &mut self,
        (name, help): Name,
        source: &SourceName,
        further: [(&'static str, String); N],
        value: f64,
    ) {
        let registry = &mut self.registry;
        let family = self.families.entry(name).or_insert_with(|| {
            let family = Family::<Labels, Value>::default();
            registry.register(name, help, family.clone());
            family
        });
        let mut labels = vec![("repository", self.repository.clone()), ("source", source.to_string())];
        labels.extend(further);
        family.get_or_create(&labels).set(value);
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
