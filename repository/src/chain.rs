//! The chain of manifests: each names the one before by its hash, so that one removed, replaced or slipped in shows.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{BackupId, ManifestSha256};
use crate::layout;
use crate::manifest::SignedManifest;
use crate::manifest::v1::Previous;
use crate::records::{self, RecordError, Tombstone};
use crate::signature::TrustedSigners;
use crate::store::SharedStore;

/// What one backup says of itself and of the one before.
#[derive(Debug, Clone)]
pub struct Link {
    pub id: BackupId,
    pub sha256: ManifestSha256,
    pub previous: Previous,
}

/// A place where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// The previous manifest is there and is not the one that was linked.
    Replaced { id: BackupId, previous: BackupId },
    /// The previous backup is gone and no tombstone says why.
    Vanished { id: BackupId, previous: BackupId },
    /// Not the first backup of its source, and says that it is.
    NotTheFirst { id: BackupId },
    /// When it was made, the one before could not be read.
    Unknown { id: BackupId, reason: String },
}

impl std::fmt::Display for Break {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Replaced { id, previous } => {
                write!(f, "{id} was made after another {previous} than the one here")
            }
            Self::Vanished { id, previous } => {
                write!(f, "{id} was made after {previous}, which is gone without a tombstone")
            }
            Self::NotTheFirst { id } => write!(f, "{id} says that it is the first backup, and is not"),
            Self::Unknown { id, reason } => write!(f, "{id} could not be linked to the one before: {reason}"),
        }
    }
}

/// Every break of the chain among a source's whole backups. Only a well-signed tombstone explains one that is gone.
pub async fn breaks_among(
    store: &SharedStore,
    whole: &[&SignedManifest],
    signers: &TrustedSigners,
) -> Result<Vec<Break>, RecordError> {
    let mut whole = whole.to_vec();
    whole.sort_by_key(|signed| signed.get().finished_at);
    let here: BTreeSet<_> = whole.iter().map(|signed| &signed.get().id).collect();
    let mut buried = BTreeSet::new();
    for signed in &whole {
        let manifest = signed.get();
        let Previous::Known { id, .. } = &manifest.previous else { continue };
        if here.contains(id) {
            continue;
        }
        let key = layout::tombstone(&manifest.source, id);
        match records::get::<Tombstone>(&**store, &key, signers).await {
            Ok((tombstone, _)) if tombstone.id == *id && tombstone.source == manifest.source => {
                buried.insert(id.clone());
            }
            Err(error) if error.is_of_the_store() => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    let link = |signed: &&SignedManifest| Link {
        id: signed.get().id.clone(),
        sha256: signed.sha256(),
        previous: signed.get().previous.clone(),
    };
    let links: Vec<Link> = whole.iter().map(link).collect();
    Ok(breaks(&links, |id| buried.contains(id)))
}

/// Every break of the chain among `links`, oldest first, where `buried` tells the backups that were pruned on purpose.
pub fn breaks(links: &[Link], buried: impl Fn(&BackupId) -> bool) -> Vec<Break> {
    let by_id: BTreeMap<_, _> = links.iter().map(|link| (&link.id, link.sha256)).collect();
    let first = links.first().map(|link| &link.id);
    let broken = |link: &Link| {
        let id = link.id.clone();
        match &link.previous {
            Previous::None if Some(&id) == first => None,
            Previous::None => Some(Break::NotTheFirst { id }),
            Previous::Unknown { reason } => Some(Break::Unknown { id, reason: reason.clone() }),
            Previous::Known { id: previous, manifest_sha256 } => match by_id.get(previous) {
                Some(sha256) if sha256 == manifest_sha256 => None,
                Some(_) => Some(Break::Replaced { id, previous: previous.clone() }),
                None if buried(previous) => None,
                None => Some(Break::Vanished { id, previous: previous.clone() }),
            },
        }
    };
    links.iter().filter_map(broken).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(day: u8) -> BackupId {
        format!("202611{day:02}T020000Z-aaaaaa").parse().unwrap()
    }

    fn link(day: u8, previous: Previous) -> Link {
        Link { id: id(day), sha256: ManifestSha256::of(&[day]), previous }
    }

    fn after(day: u8) -> Previous {
        Previous::Known { id: id(day), manifest_sha256: ManifestSha256::of(&[day]) }
    }

    #[test]
    fn a_whole_chain_and_a_pruned_one_hold() {
        let links = [link(1, Previous::None), link(2, after(1)), link(3, after(2))];
        assert_eq!(breaks(&links, |_| false), []);
        assert_eq!(breaks(&links[1..], |buried| *buried == id(1)), []);
    }

    #[test]
    fn a_removed_a_replaced_and_a_slipped_in_backup_show() {
        let vanished = [link(1, Previous::None), link(3, after(2))];
        assert_eq!(breaks(&vanished, |_| false), [Break::Vanished { id: id(3), previous: id(2) }]);
        let mut replaced = [link(1, Previous::None), link(2, after(1))];
        replaced[0].sha256 = ManifestSha256::of(b"another");
        assert_eq!(breaks(&replaced, |_| false), [Break::Replaced { id: id(2), previous: id(1) }]);
        let slipped = [link(1, Previous::None), link(2, Previous::None)];
        let shown = breaks(&slipped, |_| false);
        assert_eq!(shown, [Break::NotTheFirst { id: id(2) }]);
        assert!(shown[0].to_string().starts_with("20261102T020000Z-aaaaaa says that it is the first"));
    }
}
