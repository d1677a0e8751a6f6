//! Whether a backup of files follows an earlier one, which is decided before the first file is read.
//!
//! Whatever is not sure makes a full backup, which needs nothing of any earlier one. Only a store that does not answer ends the
//! attempt: nothing is known then, and there is no backup without it either.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_files::entry::Moment;
use pgproof_policies::increments::{Chain, ChainEnd, Incremental};
use pgproof_repository::catalog::{self, Standing};
use pgproof_repository::contents;
use pgproof_repository::host_secret::HostSecret;
use pgproof_repository::ids::BackupId;
use pgproof_repository::keys::KeyError;
use pgproof_repository::lineage::{self, LineageError};
use pgproof_repository::manifest::{SignedManifest, v1};
use pgproof_repository::sealed::{ReadError, SealedReader};
use tokio::runtime::Handle;

use super::{Begun, Job};
use crate::failure;

/// An earlier backup, with which the files are compared.
#[derive(Debug)]
pub(super) struct Following {
    /// It, and then those that hold bytes of it: what its index says of them goes by these numbers.
    pub sources: Vec<v1::Base>,
    pub full: BackupId,
    /// Of the backup that follows.
    pub depth: u32,
    /// When the walk began that made the earlier one.
    pub walk_began: Moment,
    /// What this host knows of its files.
    pub host_index: SealedReader,
}

/// Why a backup is a full one. `Display` stands behind "full, because".
#[derive(Debug)]
pub(super) enum FullBecause {
    First,
    ChainEnd(ChainEnd),
    /// The policy knew no incremental ones then, or another kind of source.
    NothingKept {
        before: BackupId,
    },
    Recipients {
        before: BackupId,
    },
    /// Another host, or another signing key.
    NotOurs {
        before: BackupId,
    },
    NotWhole {
        before: BackupId,
    },
    /// A backup that the one before needs.
    Lost {
        error: String,
    },
    Damaged {
        before: BackupId,
        error: String,
    },
}

type Found = Result<Following, FullBecause>;

impl Job {
    /// The backup that this one follows.
    pub(super) async fn following(
        &self,
        policy: &Incremental,
        secret: &HostSecret,
        begun: &Begun<'_>,
    ) -> anyhow::Result<Found> {
        let now = begun.started_at;
        let parent = match self.parent(now).await? {
            Ok(parent) => parent,
            Err(because) => return Ok(Err(because)),
        };
        let (manifest, before) = (parent.get(), parent.get().id.clone());
        let chain = chain_of(manifest);
        if let Some(end) = policy.end_of(&chain, now) {
            return Ok(Err(FullBecause::ChainEnd(end)));
        }
        let Some(object) = manifest.object(v1::Role::HostIndex) else {
            return Ok(Err(FullBecause::NothingKept { before }));
        };
        // Whoever can open only the new one could not open what it shares with the old one.
        let sorted = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
        if sorted(&manifest.recipients) != sorted(&self.recipients.public_lines()) {
            return Ok(Err(FullBecause::Recipients { before }));
        }
        if let Some(error) = self.lost(&before, manifest.bases()).await? {
            return Ok(Err(FullBecause::Lost { error }));
        }
        let host_index = match self.open_host_index(&parent, object, secret).await? {
            Ok(reader) => reader,
            Err(because) => return Ok(Err(because)),
        };
        let itself = v1::Base { id: before.clone(), manifest_sha256: parent.sha256() };
        Ok(Ok(Following {
            sources: std::iter::once(itself).chain(manifest.bases().iter().cloned()).collect(),
            full: manifest.chain().map_or(before, |chain| chain.full.clone()),
            depth: chain.depth + 1,
            walk_began: moment(manifest.snapshot.at),
            host_index,
        }))
    }

    /// Why one of these backups does not hold what `of` needs of it, if that is so.
    pub(super) async fn lost(&self, of: &BackupId, bases: &[v1::Base]) -> anyhow::Result<Option<String>> {
        let signers = self.loaded.trusted_signers()?;
        match lineage::find(&self.store, &self.source.name, of, bases, &signers).await {
            Ok(_) => Ok(None),
            Err(error @ LineageError::Store { .. }) => Err(error.into()),
            Err(error) => Ok(Some(failure::message_of(&error))),
        }
    }

    /// The newest backup that is not dated ahead: one from before the clock was set back would be newest for ever.
    async fn parent(&self, now: Timestamp) -> anyhow::Result<Result<SignedManifest, FullBecause>> {
        let signers = self.loaded.trusted_signers()?;
        let newest = catalog::newest_until(&self.store, &self.source.name, &signers, now).await;
        Ok(match newest.context("the newest backup cannot be compared")? {
            None => Err(FullBecause::First),
            Some((_, Standing::Whole(signed))) => Ok(*signed),
            Some((before, _)) => Err(FullBecause::NotWhole { before }),
        })
    }

    async fn open_host_index(
        &self,
        parent: &SignedManifest,
        object: &v1::Object,
        secret: &HostSecret,
    ) -> anyhow::Result<Result<SealedReader, FullBecause>> {
        let before = parent.get().id.clone();
        let key = contents::object_key(&self.source.name, &before, object)?;
        let (store, runtime, expected) = (self.store.clone(), Handle::current(), contents::expected(object));
        let identities = secret.identities()?;
        let open = move || SealedReader::open(store, runtime, key, expected, &identities);
        match tokio::task::spawn_blocking(open).await? {
            Ok(reader) => Ok(Ok(reader)),
            Err(ReadError::Key { source: KeyError::NoMatchingIdentity }) => {
                Ok(Err(FullBecause::NotOurs { before }))
            }
            Err(ReadError::Store { source }) if source.is_transient() => Err(source.into()),
            Err(error) => Ok(Err(FullBecause::Damaged { before, error: failure::message_of(&error) })),
        }
    }
}

pub(super) fn moment(at: Timestamp) -> Moment {
    Moment(at.as_second(), at.subsec_nanosecond().unsigned_abs())
}

fn chain_of(manifest: &v1::Manifest) -> Chain {
    match manifest.chain() {
        Some(chain) => Chain { full_at: chain.full.started_at(), depth: chain.depth },
        None => Chain { full_at: manifest.started_at, depth: 0 },
    }
}

impl FullBecause {
    /// Whether somebody should know, because a policy of incremental backups expects another one.
    pub(super) fn is_odd(&self) -> bool {
        match self {
            Self::First | Self::NothingKept { .. } | Self::Recipients { .. } => false,
            Self::ChainEnd(end) => matches!(end, ChainEnd::Future { .. }),
            Self::NotOurs { .. } | Self::NotWhole { .. } | Self::Lost { .. } | Self::Damaged { .. } => true,
        }
    }
}

impl fmt::Display for FullBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("there is no earlier one"),
            Self::ChainEnd(end) => end.fmt(f),
            Self::NothingKept { before } => {
                write!(f, "{before} was made without `incremental`, and left nothing to compare with")
            }
            Self::Recipients { before } => write!(f, "{before} is sealed to other recipients"),
            Self::NotOurs { before } => {
                write!(f, "{before} was made by another host, or with another signing key")
            }
            Self::NotWhole { before } => write!(f, "{before} cannot be used"),
            Self::Lost { error } => f.write_str(error),
            Self::Damaged { before, error } => {
                write!(f, "what this host kept of {before} cannot be used: {error}")
            }
        }
    }
}
