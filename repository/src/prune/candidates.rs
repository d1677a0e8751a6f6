//! What retention is told of the backups that were found.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgproof_policies::retention::{self, CLOCK_SKEW_MAX, Candidate};

use crate::catalog::{Entry, Standing};
use crate::ids::BackupId;
use crate::manifest::ManifestError;
use crate::manifest::v1::Manifest;
use crate::pins::InUse;

/// One candidate for each folder that has a manifest. The others are no backups: what is being removed already, and the
/// litter of runs.
pub fn candidates(entries: &[Entry], pinned: &BTreeMap<BackupId, InUse>, now: Timestamp) -> Vec<Candidate> {
    let candidate = |entry: &Entry| {
        Some(Candidate {
            id: entry.id.to_string(),
            snapshot_at: entry.whole().map_or_else(|| entry.id.started_at(), |signed| signed.snapshot_at()),
            standing: standing(entry, now)?,
            held: entry.held.then(|| "pgproof release gives it back".to_owned()),
            in_use: pinned.get(&entry.id).map(ToString::to_string),
            server: entry.whole().and_then(|signed| server(signed.get())),
        })
    };
    entries.iter().filter_map(candidate).collect()
}

fn standing(entry: &Entry, now: Timestamp) -> Option<retention::Standing> {
    Some(match &entry.standing {
        Standing::Whole(_) if entry.proofs.is_refuted() => retention::Standing::Failed,
        Standing::Whole(_) => {
            // A drill that is still to come proves nothing.
            let believed = entry.proofs.proved_at.is_some_and(|at| at <= now + CLOCK_SKEW_MAX);
            retention::Standing::Good { proved: entry.proofs.is_proved() && believed }
        }
        Standing::Unsigned => retention::Standing::Unsigned,
        Standing::Quarantined(ManifestError::Newer { .. }) => retention::Standing::Newer,
        Standing::Quarantined(error) => retention::Standing::Unreadable { why: told(error) },
        Standing::Incomplete | Standing::Pruned => return None,
    })
}

/// Which server it came from; `None` where the role could not read the identifier, which is not another server.
fn server(manifest: &Manifest) -> Option<String> {
    let server = &manifest.server;
    let identifier = server.system_identifier.as_ref()?;
    // Since PostgreSQL 10 the last four digits are the minor version.
    Some(format!("{}/{identifier}", server.version_number / 10_000))
}

/// The error with its causes.
fn told(error: &ManifestError) -> String {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
