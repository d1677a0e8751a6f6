//! One backup, from lease to manifest: the sequence at the top, its steps below.

mod attempt;
mod by_hand;
mod configuration;
mod database;
mod expected;
mod files;
mod following;
mod held_snapshot;
mod hooks;
mod import;
mod memory;
mod stream;
mod streams;
mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::bail;
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{ConfigSource, FilesSource, Kind, Source};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Marker, Standing};
use pgproof_repository::ids::BackupId;
use pgproof_repository::keys::Recipients;
use pgproof_repository::lease::host_name;
use pgproof_repository::lifecycle::{Committed, Started};
use pgproof_repository::manifest::v1;
use pgproof_repository::prune;
use pgproof_repository::sealed::seal_bytes;
use pgproof_repository::signature::SigningKey;
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::part_plan::PartPlan;
use pgproof_repository::store::retry::RetryPolicy;
use tokio_util::sync::CancellationToken;

pub(crate) use self::attempt::{Attempt, BackedUp, Claim, Made, ensure_backups_count};
use self::database::{Database, Dump};
pub(crate) use self::hooks::HookError;
pub(crate) use self::import::Import;
use self::memory::UPLOADS_IN_FLIGHT;
pub(crate) use self::memory::{MemoryPlan, beyond};
use crate::failure::{Exit, Failure};
use crate::plain;

/// Compressors beyond this gain nothing: `pg_dump` reads from one connection.
const WORKERS_MAX: usize = 8;

/// What one backup needs. Existence means that policy, keys and connection were found usable.
#[derive(Debug)]
pub(crate) struct Job {
    pub loaded: Arc<LoadedPolicy>,
    pub source: Source,
    pub store: SharedStore,
    pub tags: BTreeMap<String, String>,
    pub reason: Option<String>,
    /// Progress is for a program.
    pub json: bool,
    /// Somebody looks on, so that progress is shown.
    pub is_watched: bool,
    /// Makes the folder that the repository lies in, and the repository, where there is none: asked for by somebody, not by
    /// a schedule, for which a disk may be away.
    pub begins_repository: bool,
    pub cancel: CancellationToken,
    recipients: Recipients,
    signing_key: SigningKey,
    work: Work,
}

/// What is backed up.
#[derive(Debug)]
enum Work {
    Database(Box<Database>),
    Configuration(ConfigSource),
    Files(FilesSource),
}

/// What is known when a backup begins.
#[derive(Debug, Clone, Copy)]
struct Begun<'a> {
    marker: &'a Marker,
    id: &'a BackupId,
    started_at: Timestamp,
}

/// What a manifest says that differs from kind to kind.
#[derive(Debug)]
struct Described {
    snapshot: v1::Snapshot,
    pg_dump: Option<String>,
    contents: v1::Contents,
    previous: v1::Previous,
    imported: Option<v1::Imported>,
    warnings: Vec<String>,
    restore: String,
}

impl Job {
    pub(crate) async fn new(
        loaded: Arc<LoadedPolicy>,
        name: &SourceName,
        cancel: CancellationToken,
    ) -> anyhow::Result<Self> {
        let source = loaded.source(name)?.clone();
        let (recipients, signing_key) = (loaded.recipients()?, loaded.signing_key()?);
        // A signing key that its own policy does not trust would make backups that nobody restores.
        loaded.trusted_signers()?;
        let work = match &source.kind {
            Kind::Postgres(reach) => Work::Database(Box::new(Database::new(reach.clone())?)),
            Kind::Config(config) => Work::Configuration(config.clone()),
            Kind::Files(files) => Work::Files(files.clone()),
        };
        let store = loaded.open_store_to_watch(RetryPolicy::default()).await?;
        let (tags, reason) = (BTreeMap::new(), None);
        Ok(Self {
            loaded,
            source,
            store,
            tags,
            reason,
            json: false,
            is_watched: true,
            begins_repository: true,
            cancel,
            recipients,
            signing_key,
            work,
        })
    }

    /// Compressing threads.
    pub(crate) fn workers(&self) -> usize {
        workers()
    }

    /// How an archive is cut into parts, given what is expected to be stored in it.
    fn part_plan(&self, expected_bytes: Option<u64>) -> PartPlan {
        let limits = self.store.part_limits();
        if let Some((bytes, most)) = expected_bytes.and_then(|bytes| Some((bytes, beyond(limits, bytes)?))) {
            let (bytes, most) = (plain::bytes(bytes), plain::bytes(most));
            tracing::warn!(
                "{bytes} are to be stored, of which one object takes {most}: more than compresses to that fails at its end"
            );
        }
        PartPlan::new(limits, expected_bytes)
    }

    /// What is in memory, given what is expected to be stored.
    pub(crate) fn memory(&self, expected_bytes: Option<u64>) -> MemoryPlan {
        MemoryPlan::new(self.store.part_limits(), &self.source, expected_bytes, self.workers())
    }

    /// What a backup that is not incremental is expected to store, as its run finds it; `None` where that is little, or not told.
    pub(crate) async fn expected_bytes(&self) -> anyhow::Result<Option<u64>> {
        match &self.work {
            Work::Database(database) => tokio::select! {
                bytes = database.bytes() => bytes,
                () = self.cancel.cancelled() => Err(interrupted().into()),
            },
            Work::Configuration(_) => Ok(None),
            Work::Files(files) => Ok(Some(self.measure(files, None).await?.bytes)),
        }
    }

    /// What is read, as people know it.
    pub(crate) fn describe(&self) -> String {
        match &self.work {
            Work::Database(database) => database.connection.describe(),
            Work::Configuration(_) => "this host".to_owned(),
            Work::Files(files) => {
                files.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// How its bytes come to be.
    pub(crate) fn procedure(&self) -> String {
        match &self.work {
            Work::Database(_) if self.streams() > 1 => {
                format!("one exported snapshot; pg_dump -Fc -Z0 in {} streams, or fewer", self.streams())
            }
            Work::Database(_) => "one exported snapshot; pg_dump -Fc -Z0".to_owned(),
            Work::Configuration(_) => "files and variables, small, and sealed in memory".to_owned(),
            Work::Files(_) => "one tar, and an index of it".to_owned(),
        }
    }

    /// Streams that are uploaded side by side, at most, and that share workers and memory.
    pub(crate) fn streams(&self) -> usize {
        match &self.work {
            Work::Database(_) => self.source.jobs as usize,
            Work::Configuration(_) | Work::Files(_) => 1,
        }
    }

    async fn back_up(&self, begun: &Begun<'_>) -> anyhow::Result<Made> {
        // With the lease held, whatever is still open was left by a run that died.
        let stale = prune::abort_uploads(&*self.store, &self.source.name, |_| true).await;
        if stale.count > 0 {
            tracing::warn!(count = stale.count, "aborted uploads that an earlier run left behind");
        }
        match &self.work {
            Work::Database(database) => {
                let committed = Dump { job: self, database }.back_up(begun).await?;
                Ok(Made::New(Box::new(committed)))
            }
            Work::Configuration(config) => self.back_up_configuration(config, begun).await,
            Work::Files(files) => {
                let committed = Box::pin(self.back_up_files(files, begun)).await?;
                Ok(Made::New(Box::new(committed)))
            }
        }
    }

    /// Writes down what the backup is: from here on it exists.
    async fn commit(
        &self,
        begun: &Begun<'_>,
        started: Started,
        described: Described,
    ) -> anyhow::Result<Committed> {
        let Described { snapshot, pg_dump, contents, previous, imported, warnings, restore } = described;
        let sealed = started.seal(|objects| v1::Manifest {
            format: v1::FORMAT.to_owned(),
            version: v1::VERSION,
            repository: begun.marker.id.clone(),
            source: self.source.name.clone(),
            id: begun.id.clone(),
            started_at: begun.started_at,
            // A clock that is set back meanwhile makes no backup whose times contradict each other.
            finished_at: Timestamp::now().max(begun.started_at),
            snapshot,
            programs: programs(pg_dump),
            contents,
            objects,
            recipients: self.recipients.public_lines(),
            policy_sha256: self.loaded.sha256.clone(),
            host: host_name(),
            reason: self.reason.clone(),
            tags: self.tags.clone(),
            previous,
            imported,
            warnings,
            restore,
        });
        Ok(sealed.commit(&self.signing_key).await?)
    }

    /// Seals and puts a small object.
    async fn put(
        &self,
        started: &mut Started,
        name: &str,
        role: v1::Role,
        plain: &[u8],
    ) -> anyhow::Result<()> {
        let sealed = seal_bytes(&self.recipients, self.source.compression_level, plain)?;
        Ok(started.put_sealed(name, role, sealed).await?)
    }

    /// The newest backup before this one. That it cannot be read is written down and stops nothing.
    async fn previous(&self) -> v1::Previous {
        let unknown = |reason: String| v1::Previous::Unknown { reason };
        match self.newest().await {
            Ok(None) => v1::Previous::None,
            Ok(Some((id, Standing::Whole(signed)))) => {
                v1::Previous::Known { id, manifest_sha256: signed.sha256() }
            }
            Ok(Some((id, _))) => unknown(format!("{id} cannot be used")),
            Err(error) => unknown(error.to_string()),
        }
    }

    async fn newest(&self) -> anyhow::Result<Option<(BackupId, Standing)>> {
        let signers = self.loaded.trusted_signers()?;
        Ok(catalog::newest(&self.store, &self.source.name, &signers).await?)
    }

    pub(crate) fn stop_if_cancelled(&self) -> anyhow::Result<()> {
        match self.cancel.is_cancelled() {
            true => bail!(interrupted()),
            false => Ok(()),
        }
    }
}

/// Compressing threads of one backup.
pub(crate) fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
}

pub(crate) fn interrupted() -> Failure {
    Failure::new(
        Exit::Interrupted,
        "stopped by a signal",
        "nothing half-done counts as a backup; run it again",
    )
}

fn programs(pg_dump: Option<String>) -> v1::Programs {
    v1::Programs {
        pgproof: env!("CARGO_PKG_VERSION").to_owned(),
        pg_dump,
        zstd: zstd::zstd_safe::version_string().to_owned(),
    }
}
