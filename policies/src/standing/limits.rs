//! How old what counts may grow: by the policy's alarms, or else by its objectives and schedules.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use crate::policy::{Source, Thresholds};
use crate::schedule::Schedule;

/// The thresholds of a source. Where the policy says nothing that one follows from, there is none, and nothing is too old.
///
/// - `backup_age`: a warning at the recovery point, critical at twice that; without an objective by the schedule.
/// - `proof_age`: by the schedule of the verification, and critical at the end of its window at the latest.
/// - `host_silent`: by the schedule.
///
/// By a schedule means: a warning when a run is late by half the longest gap between two, critical when it is late by one
/// gap and a half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub backup_age: Option<Thresholds>,
    pub proof_age: Option<Thresholds>,
    pub host_silent: Option<Thresholds>,
}

impl Limits {
    /// Looks over years of each schedule, which takes milliseconds: made once for a policy, not for each judgement.
    pub fn of(source: &Source, zone: &TimeZone, from: Timestamp) -> Self {
        let alarms = source.alarms;
        let scheduled = source
            .schedule
            .as_deref()
            .and_then(|schedule| by_schedule(schedule, SignedDuration::ZERO, zone, from));
        Self {
            backup_age: alarms.backup_age.or_else(|| by_objective(source)).or(scheduled),
            proof_age: proof_age(source, zone, from),
            host_silent: alarms.host_silent.or(scheduled),
        }
    }
}

fn by_objective(source: &Source) -> Option<Thresholds> {
    let recovery_point = source.objectives.recovery_point?;
    Some(Thresholds { warning: recovery_point, critical: halves_of(recovery_point, 4) })
}

fn proof_age(source: &Source, zone: &TimeZone, from: Timestamp) -> Option<Thresholds> {
    // Without a verification nobody promised a proof.
    let verification = source.verification.as_ref()?;
    let scheduled = || {
        let Thresholds { warning, critical } =
            by_schedule(&verification.schedule, verification.jitter, zone, from)?;
        Some(Thresholds { warning, critical: critical.min(verification.window).max(warning) })
    };
    source.alarms.proof_age.or_else(scheduled)
}

fn by_schedule(
    schedule: &str,
    jitter: SignedDuration,
    zone: &TimeZone,
    from: Timestamp,
) -> Option<Thresholds> {
    let gap = schedule.parse::<Schedule>().ok()?.longest_gap(zone, from)?;
    let with_jitter = |halves| halves_of(gap, halves).checked_add(jitter).unwrap_or(SignedDuration::MAX);
    Some(Thresholds { warning: with_jitter(3), critical: with_jitter(5) })
}

/// So many times half the span.
fn halves_of(span: SignedDuration, halves: i32) -> SignedDuration {
    span.checked_mul(halves).unwrap_or(SignedDuration::MAX) / 2
}
