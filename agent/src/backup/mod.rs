//! One backup, from lease to manifest: the sequence at the top, its steps below.

mod configuration;
mod database;
mod expected;
mod hooks;
mod stream;
mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use jiff::Timestamp;
use pgproof_policies::backups::Cause;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{ConfigSource, Kind, Source};
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Marker, Standing};
use pgproof_repository::ids::{BackupId, ManifestSha256, RepositoryId};
use pgproof_repository::keys::Recipients;
use pgproof_repository::lease::{Lease, Renewal, host_name};
use pgproof_repository::lifecycle::{Committed, Started};
use pgproof_repository::manifest::{SignedManifest, v1};
use pgproof_repository::records::{self, Run, RunOutcome};
use pgproof_repository::sealed::seal_bytes;
use pgproof_repository::signature::SigningKey;
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::part_plan::PartPlan;
use pgproof_repository::{layout, prune};
use tokio_util::sync::CancellationToken;

use self::database::{Database, Dump};
pub(crate) use self::hooks::HookError;
use self::hooks::{Hook, Outcome, Surroundings};
use crate::failure::{self, Exit, Failure};

/// Parts that are uploaded at the same time: enough to hide a round trip behind another, few enough for little memory.
pub(crate) const UPLOADS_IN_FLIGHT: usize = 3;
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
    pub cancel: CancellationToken,
    recipients: Recipients,
    signing_key: SigningKey,
    work: Work,
}

/// What is backed up.
#[derive(Debug)]
enum Work {
    Database(Database),
    Configuration(ConfigSource),
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
    warnings: Vec<String>,
    restore: String,
}

/// The right to back up a source, held until it is used or given back.
#[derive(Debug)]
pub(crate) struct Claim {
    marker: Marker,
    renewal: Renewal,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub id: BackupId,
    pub outcome: anyhow::Result<BackedUp>,
    /// Its record lies in the repository, for whoever plans the next one.
    pub is_recorded: bool,
}

/// The newest good backup of a source, as an attempt leaves it.
#[derive(Debug)]
pub(crate) enum Made {
    New(Box<Committed>),
    /// Nothing has changed since this one.
    Unchanged(Box<SignedManifest>),
}

/// A good backup, and what came after it.
#[derive(Debug)]
pub(crate) struct BackedUp {
    pub made: Made,
    /// The hook that runs then. Its failure makes the backup no worse.
    pub after: Result<(), HookError>,
}

impl Claim {
    pub(crate) async fn give_back(self) {
        self.renewal.release().await;
    }
}

impl Made {
    pub(crate) fn manifest(&self) -> &v1::Manifest {
        match self {
            Self::New(committed) => &committed.manifest,
            Self::Unchanged(signed) => signed.get(),
        }
    }

    pub(crate) fn sha256(&self) -> ManifestSha256 {
        match self {
            Self::New(committed) => committed.sha256,
            Self::Unchanged(signed) => signed.sha256(),
        }
    }
}

impl BackedUp {
    /// What a person should know of the run.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let after = self.after.as_ref().err().map(|error| failure::message_of(error));
        self.made.manifest().warnings.iter().cloned().chain(after).collect()
    }
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
            Kind::Postgres(reach) => Work::Database(Database::new(reach.clone())?),
            Kind::Config(config) => Work::Configuration(config.clone()),
        };
        let store = loaded.open_store().await?;
        let (tags, reason) = (BTreeMap::new(), None);
        Ok(Self {
            loaded,
            source,
            store,
            tags,
            reason,
            json: false,
            is_watched: true,
            cancel,
            recipients,
            signing_key,
            work,
        })
    }

    /// Compressing threads.
    pub(crate) fn workers(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
    }

    /// How the archive is cut into parts, given what the database measures.
    pub(crate) fn part_plan(&self, database_bytes: Option<u64>) -> PartPlan {
        PartPlan::new(self.store.part_limits(), database_bytes)
    }

    /// Of a database.
    pub(crate) fn connection(&self) -> Option<&ConnectionSpec> {
        match &self.work {
            Work::Database(database) => Some(&database.connection),
            Work::Configuration(_) => None,
        }
    }

    /// Takes the source's lease, so that nobody else backs it up.
    pub(crate) async fn claim(&self) -> anyhow::Result<Claim> {
        let now = Timestamp::now();
        let new_id = RepositoryId::generate(&mut rand::rng());
        let marker = catalog::ensure_marker(&*self.store, new_id, now).await?;
        let key = layout::backup_lease(&self.source.name);
        let renewal = Lease::take(self.store.clone(), key, now).await?.keep();
        Ok(Claim { marker, renewal })
    }

    /// Backs up between the source's hooks, leaves a record of how it ended, and gives the lease back.
    pub(crate) async fn run(&self, claim: Claim) -> Attempt {
        let started_at = Timestamp::now();
        let id = BackupId::new(started_at, &mut rand::rng());
        let Claim { marker, renewal } = claim;
        let outcome = tokio::select! {
            outcome = self.back_up_between_hooks(Begun { marker: &marker, id: &id, started_at }) => outcome,
            lost = renewal.lost() => Err(anyhow!(lost).context("the lease on this source was lost")),
        };
        let outcome = match self.cancel.is_cancelled() {
            true if outcome.is_err() => Err(interrupted().into()),
            _ => outcome,
        };
        if let Err(error) = &outcome {
            self.tell_hook_of_failure(&id, error).await;
        }
        let is_recorded = self.record(&id, started_at, &outcome).await;
        renewal.release().await;
        Attempt { id, outcome, is_recorded }
    }

    async fn back_up_between_hooks(&self, begun: Begun<'_>) -> anyhow::Result<BackedUp> {
        let hooks = self.hooks(begun.id);
        hooks.run(Hook::Before, Outcome::Starting).await?;
        let made = self.back_up(&begun).await?;
        let after = hooks.run(Hook::After, Outcome::Committed).await;
        Ok(BackedUp { made, after })
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
        }
    }

    /// There is no backup already: what happens to this program makes it no worse.
    async fn tell_hook_of_failure(&self, id: &BackupId, error: &anyhow::Error) {
        let told = failure::message(error);
        let outcome = match failure::cause(error) {
            Cause::Stopped => Outcome::Stopped { error: &told },
            Cause::Passing | Cause::Standing => Outcome::Failed { error: &told },
        };
        if let Err(error) = self.hooks(id).run(Hook::OnFailure, outcome).await {
            let error = failure::message(&error.into());
            tracing::warn!(source = %self.source.name, %error, "the hook on failure failed, too");
        }
    }

    fn hooks<'a>(&'a self, id: &'a BackupId) -> Surroundings<'a> {
        Surroundings { hooks: &self.source.hooks, source: &self.source.name, id, cancel: &self.cancel }
    }

    /// Writes down what the backup is: from here on it exists.
    async fn commit(
        &self,
        begun: &Begun<'_>,
        started: Started,
        described: Described,
    ) -> anyhow::Result<Committed> {
        let Described { snapshot, pg_dump, contents, previous, warnings, restore } = described;
        let sealed = started.seal(|objects| v1::Manifest {
            format: v1::FORMAT.to_owned(),
            version: v1::VERSION,
            repository: begun.marker.id.clone(),
            source: self.source.name.clone(),
            id: begun.id.clone(),
            started_at: begun.started_at,
            finished_at: Timestamp::now(),
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
        let signers = match self.loaded.trusted_signers() {
            Ok(signers) => signers,
            Err(error) => return v1::Previous::Unknown { reason: error.to_string() },
        };
        match catalog::newest(&self.store, &self.source.name, &signers).await {
            Ok(None) => v1::Previous::None,
            Ok(Some((id, Standing::Whole(signed)))) => {
                v1::Previous::Known { id, manifest_sha256: signed.sha256() }
            }
            Ok(Some((id, _))) => v1::Previous::Unknown { reason: format!("{id} cannot be used") },
            Err(error) => v1::Previous::Unknown { reason: error.to_string() },
        }
    }

    /// Answers whether the record could be stored.
    async fn record(&self, id: &BackupId, started_at: Timestamp, outcome: &anyhow::Result<BackedUp>) -> bool {
        let outcome = match outcome {
            Ok(backed_up) => match &backed_up.made {
                Made::New(_) => RunOutcome::Committed { warnings: backed_up.warnings() },
                Made::Unchanged(signed) => RunOutcome::Unchanged { since: signed.get().id.clone() },
            },
            Err(error) => RunOutcome::Failed { error: format!("{error:#}"), cause: failure::cause(error) },
        };
        let run = Run {
            version: 1,
            source: self.source.name.clone(),
            id: id.clone(),
            started_at,
            ended_at: Timestamp::now(),
            host: host_name(),
            policy_sha256: Some(self.loaded.sha256.clone()),
            outcome,
        };
        let put =
            records::put(&*self.store, &layout::run(&self.source.name, id), &run, &self.signing_key).await;
        if let Err(error) = &put {
            let error = failure::message_of(error);
            tracing::warn!(source = %self.source.name, %error, "the record of this run could not be stored");
        }
        put.is_ok()
    }

    fn stop_if_cancelled(&self) -> anyhow::Result<()> {
        match self.cancel.is_cancelled() {
            true => bail!(interrupted()),
            false => Ok(()),
        }
    }
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
