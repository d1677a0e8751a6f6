//! How old what counts may grow before somebody is told, source by source.

use jiff::SignedDuration;

use super::raw::{Report, Table};

const BOTH: &str = "must be there: thresholds are a pair such as `{ warning = \"2h\", critical = \"4h\" }`";

/// What the policy sets itself. For the rest there are defaults: see [`crate::standing::Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Of the newest good backup's snapshot.
    pub backup_age: Option<Thresholds>,
    /// Of the newest proof.
    pub proof_age: Option<Thresholds>,
    /// Since a host last left a record of a run, good or bad.
    pub host_silent: Option<Thresholds>,
}

/// Above `warning` somebody looks at it in the morning, above `critical` now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub warning: SignedDuration,
    pub critical: SignedDuration,
}

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>) -> Alarms {
    let mut pair = |key| table.table(key, report).and_then(|table| thresholds(table, report));
    let alarms = Alarms {
        backup_age: pair("backup_age"),
        proof_age: pair("proof_age"),
        host_silent: pair("host_silent"),
    };
    table.finish(report);
    alarms
}

fn thresholds(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Thresholds> {
    for key in ["warning", "critical"].into_iter().filter(|key| !table.has(key)) {
        table.missing(key, BOTH, report);
    }
    let (warning, critical) = (table.duration("warning", report), table.duration("critical", report));
    if warning.zip(critical).is_some_and(|(warning, critical)| warning > critical) {
        table.refuse("critical", "must not be shorter than `warning`", None, report);
    }
    table.finish(report);
    Some(Thresholds { warning: warning?, critical: critical? })
}
