//! What retention is told of the backups that were found.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgproof_policies::retention::{self, CLOCK_SKEW_MAX, Candidate};

use crate::catalog::{Brief, BriefStanding};
use crate::ids::BackupId;
use crate::pins::InUse;

/// One candidate for each folder that has a manifest. The others are no backups: what is being removed already, and the
/// litter of runs.
pub fn candidates(briefs: &[Brief], pinned: &BTreeMap<BackupId, InUse>, now: Timestamp) -> Vec<Candidate> {
    let whole: BTreeSet<&BackupId> =
        briefs.iter().filter(|brief| brief.snapshot_at().is_some()).map(|brief| &brief.id).collect();
    let candidate = |brief: &Brief| {
        let needs = &brief.needs;
        let lost = needs.iter().find(|id| !whole.contains(id));
        Some(Candidate {
            id: brief.id.to_string(),
            snapshot_at: brief.snapshot_at().unwrap_or_else(|| brief.id.started_at()),
            standing: match lost {
                Some(lost) if brief.snapshot_at().is_some() => {
                    retention::Standing::Unreadable { why: format!("it needs {lost}, which is gone") }
                }
                _ => standing(brief, now)?,
            },
            held: brief.held.then(|| "pgproof release gives it back".to_owned()),
            in_use: pinned.get(&brief.id).map(ToString::to_string),
            server: match &brief.standing {
                BriefStanding::Whole { server, .. } => server.clone(),
                _ => None,
            },
            needs: needs.iter().map(ToString::to_string).collect(),
        })
    };
    briefs.iter().filter_map(candidate).collect()
}

fn standing(brief: &Brief, now: Timestamp) -> Option<retention::Standing> {
    Some(match &brief.standing {
        BriefStanding::Whole { .. } if brief.proofs.is_refuted() => retention::Standing::Failed,
        BriefStanding::Whole { .. } => {
            // A drill that is still to come proves nothing.
            let believed = brief.proofs.proved_at.is_some_and(|at| at <= now + CLOCK_SKEW_MAX);
            retention::Standing::Good { proved: brief.proofs.is_proved() && believed }
        }
        BriefStanding::Unsigned => retention::Standing::Unsigned,
        BriefStanding::Newer => retention::Standing::Newer,
        BriefStanding::Unusable { why } => retention::Standing::Unreadable { why: why.clone() },
        BriefStanding::Incomplete | BriefStanding::Pruned => return None,
    })
}
