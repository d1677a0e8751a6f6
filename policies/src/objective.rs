//! Whether a policy can meet its own objectives, told before a backup was ever missed.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::names::SourceName;
use crate::policy::Policy;
use crate::schedule::Schedule;

/// A source whose policy promises more than it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Between two scheduled backups more is lost than the recovery point allows.
    ScheduleTooSparse { source: SourceName, longest_gap: SignedDuration, recovery_point: SignedDuration },
    /// There is an objective and no schedule at all.
    NoSchedule { source: SourceName, recovery_point: SignedDuration },
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ScheduleTooSparse { source, longest_gap, recovery_point } => write!(
                f,
                "sources.{source}: its schedule leaves up to {longest_gap:#} between backups, \
                 so it cannot meet the recovery point of {recovery_point:#}"
            ),
            Self::NoSchedule { source, recovery_point } => {
                write!(
                    f,
                    "sources.{source}: nothing is scheduled, so the recovery point of {recovery_point:#} is met by hand or not at all"
                )
            }
        }
    }
}

/// Every objective that the policy's schedules cannot meet, looking ahead from `now`.
pub fn shortfalls(policy: &Policy, now: Timestamp) -> Vec<Shortfall> {
    let zone = policy.time_zone();
    let shortfall = |source: &crate::policy::Source| {
        let recovery_point = source.objectives.recovery_point?;
        let name = source.name.clone();
        let Some(schedule) = source.schedule.as_ref().and_then(|text| text.parse::<Schedule>().ok()) else {
            return Some(Shortfall::NoSchedule { source: name, recovery_point });
        };
        let longest_gap = schedule.longest_gap(&zone, now)?;
        let sparse = Shortfall::ScheduleTooSparse { source: name, longest_gap, recovery_point };
        (longest_gap > recovery_point).then_some(sparse)
    };
    policy.sources.values().filter_map(shortfall).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &str) -> Vec<Shortfall> {
        let text = format!(
            "[repository]\nlocation = \"file:///backups\"\n[keys]\n\
             recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
             single_recipient_waiver = \"a test\"\n[sources.app]\nkind = \"postgres\"\n\
             connection = \"postgresql:///app\"\nretention = {{ daily = 1 }}\n{lines}"
        );
        let policy = Policy::parse(&text, "pgproof.toml").unwrap();
        shortfalls(&policy, "2026-11-24T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_nightly_dump_cannot_give_an_hour() {
        let found = of("schedule = \"0 2 * * *\"\nobjectives = { recovery_point = \"1h\" }");
        assert!(
            matches!(&found[..], [Shortfall::ScheduleTooSparse { longest_gap, .. }] if *longest_gap >= SignedDuration::from_hours(24))
        );
    }

    #[test]
    fn an_hourly_one_can_and_no_objective_asks_nothing() {
        assert_eq!(of("schedule = \"0 * * * *\"\nobjectives = { recovery_point = \"1h\" }"), []);
        assert_eq!(of("schedule = \"0 2 * * *\""), []);
        assert!(matches!(of("objectives = { recovery_point = \"1h\" }")[..], [Shortfall::NoSchedule { .. }]));
    }
}
