//! The backups that an incremental one needs: each is there, well signed, and the one that it was made with.

use crate::catalog::{CatalogError, Finder};
use crate::ids::BackupId;
use crate::manifest::SignedManifest;
use crate::manifest::v1::Base;
use crate::signature::TrustedSigners;
use crate::store::SharedStore;
use pgproof_policies::names::SourceName;

/// The backups that hold bytes of `signed`, in the order in which its index numbers them; none for a full one.
pub async fn bases_of(
    store: &SharedStore,
    signed: &SignedManifest,
    signers: &TrustedSigners,
) -> Result<Vec<SignedManifest>, LineageError> {
    let manifest = signed.get();
    find(store, &manifest.source, &manifest.id, manifest.bases(), signers).await
}

/// The same of one that has no manifest yet.
pub async fn find(
    store: &SharedStore,
    source: &SourceName,
    of: &BackupId,
    bases: &[Base],
    signers: &TrustedSigners,
) -> Result<Vec<SignedManifest>, LineageError> {
    let Some(first) = bases.first() else { return Ok(Vec::new()) };
    let unfetched =
        |base: &BackupId, source| LineageError::Store { base: base.clone(), source: Box::new(source) };
    let finder = Finder::open(store, source, signers).await.map_err(|source| unfetched(&first.id, source))?;
    let mut found = Vec::new();
    for Base { id, manifest_sha256 } in bases {
        let signed = finder.find(id).await.map_err(|source| match source {
            CatalogError::Store { .. } => unfetched(id, source),
            _ => LineageError::Unusable { base: id.clone(), of: of.clone(), source: Box::new(source) },
        })?;
        if signed.sha256() != *manifest_sha256 {
            return Err(LineageError::Replaced { base: id.clone(), of: of.clone() });
        }
        found.push(signed);
    }
    Ok(found)
}

/// Why an incremental backup cannot be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    #[error("backup {base} holds bytes of backup {of}, and cannot be used")]
    Unusable {
        base: BackupId,
        of: BackupId,
        #[source]
        source: Box<CatalogError>,
    },
    #[error("backup {base} is another than the one that holds bytes of backup {of}")]
    Replaced { base: BackupId, of: BackupId },
    /// Whether it is there is not known.
    #[error("backup {base} cannot be fetched")]
    Store {
        base: BackupId,
        #[source]
        source: Box<CatalogError>,
    },
}

impl LineageError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unusable { .. } | Self::Replaced { .. } => Some(
                "restore a backup that does not need it (`pgproof list` shows what each follows), and find out who \
                 removed or changed it",
            ),
            Self::Store { .. } => None,
        }
    }
}
