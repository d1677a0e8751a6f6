//! When a source's runs begin and end beside its schedule: jitter, deadline, pauses.

use jiff::SignedDuration;

use super::raw::{Report, Table};
use crate::pauses::{Days, Pause, Pauses, TimeOfDay};
use crate::schedule::Schedule;

const DAYS: &str = "must be days such as \"mon-fri\" or \"sat,sun\"";
const TIME: &str = "must be a time of day, \"00:00\" to \"24:00\"";

/// What moves the runs of a source, and ends them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// A run begins up to so much after its time, so that many sources do not start at once.
    pub jitter: SignedDuration,
    /// How long after a run was first tried it may be tried again; without it until the next one begins.
    pub deadline: Option<SignedDuration>,
    /// When no run begins.
    pub pauses: Pauses,
}

/// `schedule` is that of the source: without one there are no runs to move.
pub(super) fn read(table: &mut Table<'_>, schedule: Option<&str>, report: &mut Report<'_>) -> Timing {
    let timing = Timing {
        jitter: table.duration("jitter", report).unwrap_or_default(),
        deadline: table.duration("deadline", report),
        pauses: pauses(table, report),
    };
    if schedule.is_none() && !table.has("schedule") {
        for key in ["jitter", "deadline", "pause"].into_iter().filter(|key| table.has(key)) {
            table.refuse(key, "must be left out where there is no `schedule`", None, report);
        }
    }
    if let Some(gap) = schedule.and_then(shortest_gap).filter(|gap| timing.jitter >= *gap) {
        let constraint = format!("must be shorter than the shortest time between two runs, {gap:#}");
        table.refuse("jitter", &constraint, Some(format!("{:#}", timing.jitter)), report);
    }
    timing
}

/// The shortest time between two runs of a schedule.
pub(super) fn shortest_gap(schedule: &str) -> Option<SignedDuration> {
    schedule.parse::<Schedule>().ok()?.shortest_gap()
}

fn pauses(table: &mut Table<'_>, report: &mut Report<'_>) -> Pauses {
    let tables = table.tables("pause", report);
    let pauses: Vec<Pause> = tables.into_iter().filter_map(|table| pause(table, report)).collect();
    Pauses::new(pauses).unwrap_or_else(|error| {
        table.refuse("pause", "must leave some time of the week", Some(error.to_string()), report);
        Pauses::default()
    })
}

fn pause(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Pause> {
    let days = table.converted("days", DAYS, report, |text| text.parse::<Days>().ok());
    // Days that cannot be read were told already; what stands in for them is never used.
    let days = days.map_or(Days::ALL, |field| field.value);
    let mut time = |key| {
        if !table.has(key) {
            table.missing(key, TIME, report);
        }
        table.converted(key, TIME, report, |text| text.parse::<TimeOfDay>().ok()).map(|field| field.value)
    };
    let (from, to) = (time("from"), time("to"));
    let reason = table.text("reason", report).map(|field| field.value);
    if from.is_some() && from == to {
        let constraint = "must be another time than `from`; a whole day is \"00:00\" to \"24:00\"";
        table.refuse("to", constraint, to.map(|to| to.to_string()), report);
    }
    table.finish(report);
    Some(Pause { days, from: from?, to: to?, reason })
}
