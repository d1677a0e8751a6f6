//! What the daemon is at, as one value that costs nothing to look at. It knows of this process alone: how the source
//! stands, the repository says.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_repository::ids::BackupId;
use serde::Serialize;

use crate::plain;

/// Everything the daemon is at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Activity {
    pub sources: BTreeMap<SourceName, SourceActivity>,
    /// Why the policy as it stands now was not taken; the one before it is in force.
    pub policy_refused: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct SourceActivity {
    pub at_work_since: Option<Timestamp>,
    /// `None` while it is at work, and where it is not looked at again.
    pub next_look: Option<Timestamp>,
    /// How the last attempt of this process ended.
    pub last: Option<Last>,
    pub failures_in_a_row: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Last {
    pub ended_at: Timestamp,
    #[serde(flatten)]
    pub outcome: LastOutcome,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum LastOutcome {
    BackedUp {
        backup: BackupId,
        warnings: Vec<String>,
    },
    /// `backup` is the id of the attempt, if it came to one.
    Failed {
        backup: Option<BackupId>,
        error: String,
    },
    /// Nothing was to be done, and why.
    NothingDue {
        why: String,
    },
}

impl Activity {
    /// For `systemctl status`.
    pub(super) fn line(&self) -> String {
        let at_work = self.named(|at| at.at_work_since.is_some());
        let mut parts = vec![match at_work.as_str() {
            "" => "waiting".to_owned(),
            names => format!("at work on {names}"),
        }];
        let next_look = self.sources.values().filter_map(|at| at.next_look).min();
        parts.extend(next_look.map(|at| format!("next look at {}", plain::time(at))));
        let failing = self.named(|at| at.failures_in_a_row > 0);
        if !failing.is_empty() {
            parts.push(format!("failing: {failing}"));
        }
        if self.policy_refused.is_some() {
            parts.push("the policy as it stands is wrong, the one before is in force".to_owned());
        }
        parts.join("; ")
    }

    fn named(&self, is_meant: impl Fn(&SourceActivity) -> bool) -> String {
        let meant = self.sources.iter().filter(|(_, at)| is_meant(at));
        meant.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl SourceActivity {
    pub(super) fn begin(&mut self, now: Timestamp) {
        (self.at_work_since, self.next_look) = (Some(now), None);
    }

    pub(super) fn end(&mut self, next_look: Option<Timestamp>) {
        (self.at_work_since, self.next_look) = (None, next_look);
    }

    pub(super) fn ended(&mut self, ended_at: Timestamp, outcome: LastOutcome) {
        match outcome {
            LastOutcome::Failed { .. } => self.failures_in_a_row += 1,
            LastOutcome::BackedUp { .. } => self.failures_in_a_row = 0,
            // Between two attempts there is nothing to do; how the last one ended stands.
            LastOutcome::NothingDue { .. } if self.last.is_some() => return,
            LastOutcome::NothingDue { .. } => {}
        }
        self.last = Some(Last { ended_at, outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_until_a_backup_and_waiting_changes_nothing() {
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let failed = || LastOutcome::Failed { backup: None, error: "no server".to_owned() };
        let mut activity = SourceActivity::default();
        activity.begin(now);
        activity.ended(now, failed());
        activity.ended(now, failed());
        activity.ended(now, LastOutcome::NothingDue { why: "2 attempts failed".to_owned() });
        activity.end(Some(now));
        assert_eq!((activity.failures_in_a_row, activity.at_work_since), (2, None));
        assert_eq!(activity.last.as_ref().map(|last| &last.outcome), Some(&failed()));
        let backup = "20261124T020000Z-k3xaqa".parse().unwrap();
        activity.ended(now, LastOutcome::BackedUp { backup, warnings: vec![] });
        assert_eq!(activity.failures_in_a_row, 0);
    }

    #[test]
    fn one_line_tells_what_is_at_work_next_and_wrong() {
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let mut activity = Activity::default();
        assert_eq!(activity.line(), "waiting");
        for name in ["app", "shop"] {
            activity.sources.insert(name.parse().unwrap(), SourceActivity::default());
        }
        let (app, shop) = ("app".parse().unwrap(), "shop".parse().unwrap());
        activity.sources.entry(app).or_default().begin(now);
        let waiting = activity.sources.entry(shop).or_default();
        waiting.ended(now, LastOutcome::Failed { backup: None, error: "no server".to_owned() });
        waiting.end(Some(now));
        activity.policy_refused = Some("repository.location".to_owned());
        let expected = "at work on app; next look at 2026-11-24 02:00:00 UTC; failing: shop; \
                        the policy as it stands is wrong, the one before is in force";
        assert_eq!(activity.line(), expected);
    }
}
