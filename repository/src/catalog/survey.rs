//! What retention needs of every backup, and no more: of a hundred thousand manifests none stays in memory.
//!
//! Every manifest is read and its signature checked, since one that only looks like a backup must neither take a place
//! nor be removed. That is work for all processors, and cheapest for many signatures at once: see
//! [`crate::signature::check_all`].

use jiff::Timestamp;
use pgproof_policies::names::SourceName;

use super::reading::Folder;
use super::{CatalogError, Entry, Standing, every_folder};
use crate::ids::BackupId;
use crate::manifest::ManifestError;
use crate::manifest::v1::{Manifest, Previous};
use crate::report::Proofs;
use crate::signature::TrustedSigners;
use crate::store::SharedStore;

/// One backup's folder, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    pub id: BackupId,
    pub standing: BriefStanding,
    /// The backups without which it cannot be restored. What is not whole is kept because it cannot be judged, and so are
    /// those that it names.
    pub needs: Vec<BackupId>,
    /// Why retention may not touch it.
    pub held: bool,
    /// What drills found of it.
    pub proofs: Proofs,
}

/// As [`Standing`], without the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BriefStanding {
    Whole {
        snapshot_at: Timestamp,
        /// Major version and system identifier; `None` where the role could not read the identifier.
        server: Option<String>,
        /// The backup before it, where its manifest names one.
        previous: Option<BackupId>,
    },
    Newer,
    /// Quarantined for any other reason.
    Unusable {
        why: String,
    },
    Unsigned,
    Incomplete,
    Pruned,
}

/// Every backup of a source, oldest first.
pub async fn survey(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Vec<Brief>, CatalogError> {
    let found = every_folder(store, source, signers, |standing| brief(&standing)).await?;
    Ok(found
        .into_iter()
        .map(|Folder { id, standing, needs, held, proofs }| Brief { id, standing, needs, held, proofs })
        .collect())
}

impl From<&Entry> for Brief {
    fn from(entry: &Entry) -> Self {
        let Entry { id, standing, needs, held, proofs } = entry;
        let (id, needs, proofs) = (id.clone(), needs.clone(), proofs.clone());
        Self { id, standing: brief(standing), needs, held: *held, proofs }
    }
}

impl Brief {
    /// When the snapshot of a whole backup was taken.
    pub fn snapshot_at(&self) -> Option<Timestamp> {
        match self.standing {
            BriefStanding::Whole { snapshot_at, .. } => Some(snapshot_at),
            _ => None,
        }
    }
}

fn brief(standing: &Standing) -> BriefStanding {
    match standing {
        Standing::Whole(signed) => {
            let previous = match &signed.get().previous {
                Previous::Known { id, .. } => Some(id.clone()),
                Previous::None | Previous::Unknown { .. } => None,
            };
            let (snapshot_at, server) = (signed.snapshot_at(), server(signed.get()));
            BriefStanding::Whole { snapshot_at, server, previous }
        }
        Standing::Quarantined(ManifestError::Newer { .. }) => BriefStanding::Newer,
        Standing::Quarantined(error) => BriefStanding::Unusable { why: told(error) },
        Standing::Unsigned => BriefStanding::Unsigned,
        Standing::Incomplete => BriefStanding::Incomplete,
        Standing::Pruned => BriefStanding::Pruned,
    }
}

fn server(manifest: &Manifest) -> Option<String> {
    let server = &manifest.postgres()?.server;
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
