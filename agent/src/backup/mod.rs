//! One backup, from lease to manifest: the sequence at the top, its steps below.

mod expected;
mod files;
mod stream;
mod watchdog;

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{FilesSource, Kind, PostgresSource, Source};
use pgproof_postgres::archive::TocEntry;
use pgproof_postgres::client::{Client, ClientTools, Program};
use pgproof_postgres::connection::{ConnectionSpec, Environment};
use pgproof_postgres::dump::{DumpOrder, DumpedGlobals, dump_globals, encoding_of_dump};
use pgproof_postgres::preflight::Preflight;
use pgproof_postgres::snapshot::{ExportedSnapshot, ServerSetting, SnapshotFacts};
use pgproof_postgres::{source, structure};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Marker, Standing};
use pgproof_repository::ids::{BackupId, RepositoryId};
use pgproof_repository::inventory::{self, Inventory};
use pgproof_repository::keys::Recipients;
use pgproof_repository::lease::{Lease, host_name};
use pgproof_repository::lifecycle::{Committed, PartsUploaded, Started, upload_parts};
use pgproof_repository::manifest::v1;
use pgproof_repository::records::{self, Run, RunOutcome};
use pgproof_repository::sealed::{Sealer, seal_bytes};
use pgproof_repository::signature::SigningKey;
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::part_plan::PartPlan;
use pgproof_repository::{layout, prune};
use tokio_util::sync::CancellationToken;

use self::stream::{Found, SealedArchive, StreamError};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;

/// Parts that are uploaded at the same time: enough to hide a round trip behind another, few enough for little memory.
pub(crate) const UPLOADS_IN_FLIGHT: usize = 3;
/// Compressors beyond this gain nothing: `pg_dump` reads from one connection.
const WORKERS_MAX: usize = 8;

/// What one backup needs. Existence means that policy, keys and connection were found usable.
#[derive(Debug)]
pub(crate) struct Job {
    pub loaded: LoadedPolicy,
    pub source: Source,
    pub store: SharedStore,
    pub tags: BTreeMap<String, String>,
    pub reason: Option<String>,
    /// Progress is for a program.
    pub json: bool,
    pub cancel: CancellationToken,
    recipients: Recipients,
    signing_key: SigningKey,
    work: Work,
}

/// What is backed up.
#[derive(Debug)]
enum Work {
    Database(Box<Database>),
    Files(FilesSource),
}

#[derive(Debug)]
struct Database {
    source: PostgresSource,
    connection: ConnectionSpec,
    tools: ClientTools,
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

impl Work {
    fn of(source: &Source) -> anyhow::Result<Self> {
        Ok(match &source.kind {
            Kind::Postgres(postgres) => Self::Database(Box::new(Database {
                source: postgres.clone(),
                connection: source::connection(postgres, &Environment::of_process())?,
                tools: source::tools(postgres),
            })),
            Kind::Files(files) => Self::Files(files.clone()),
        })
    }
}

impl Job {
    pub(crate) async fn new(
        loaded: LoadedPolicy,
        name: &SourceName,
        cancel: CancellationToken,
    ) -> anyhow::Result<Self> {
        let source = loaded.source(name)?.clone();
        let (recipients, signing_key) = (loaded.recipients()?, loaded.signing_key()?);
        // A signing key that its own policy does not trust would make backups that nobody restores.
        loaded.trusted_signers()?;
        let work = Work::of(&source)?;
        let store = loaded.open_store().await?;
        let (tags, reason) = (BTreeMap::new(), None);
        Ok(Self { loaded, source, store, tags, reason, json: false, cancel, recipients, signing_key, work })
    }

    /// Compressing threads.
    pub(crate) fn workers(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
    }

    /// How the archive is cut into parts, given what the database measures.
    pub(crate) fn part_plan(&self, database_bytes: Option<u64>) -> PartPlan {
        PartPlan::new(self.store.part_limits(), database_bytes)
    }

    /// What is read, as people know it.
    pub(crate) fn describe(&self) -> String {
        match &self.work {
            Work::Database(database) => database.connection.describe(),
            Work::Files(files) => {
                files.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            }
        }
    }

    pub(crate) fn is_of_files(&self) -> bool {
        matches!(self.work, Work::Files(_))
    }

    /// Takes the lease, backs up, and leaves a record of how it ended.
    pub(crate) async fn run(&self) -> anyhow::Result<Committed> {
        let started_at = Timestamp::now();
        let id = BackupId::new(started_at, &mut rand::rng());
        let new_id = RepositoryId::generate(&mut rand::rng());
        let marker = catalog::ensure_marker(&*self.store, new_id, started_at).await?;
        let key = layout::backup_lease(&self.source.name);
        let renewal = Lease::take(self.store.clone(), key, started_at).await?.keep();
        let begun = Begun { marker: &marker, id: &id, started_at };
        let outcome = tokio::select! {
            outcome = self.back_up(&begun) => outcome,
            lost = renewal.lost() => Err(anyhow!(lost).context("the lease on this source was lost")),
        };
        let outcome = match self.cancel.is_cancelled() {
            true if outcome.is_err() => Err(interrupted().into()),
            _ => outcome,
        };
        self.record(&id, started_at, &outcome).await;
        renewal.release().await;
        outcome
    }

    async fn back_up(&self, begun: &Begun<'_>) -> anyhow::Result<Committed> {
        // With the lease held, whatever is still open was left by a run that died.
        let stale = prune::abort_uploads(&*self.store, &self.source.name, |_| true).await;
        if stale.count > 0 {
            tracing::warn!(count = stale.count, "aborted uploads that an earlier run left behind");
        }
        match &self.work {
            Work::Database(database) => self.back_up_database(database, begun).await,
            Work::Files(files) => Box::pin(self.back_up_files(files, begun)).await,
        }
    }

    async fn back_up_database(&self, database: &Database, begun: &Begun<'_>) -> anyhow::Result<Committed> {
        let snapshot = ExportedSnapshot::open(&database.connection).await?;
        let facts = snapshot.facts().clone();
        let facts = &facts;
        let mut warnings = self.preflight(&snapshot).await?;

        let dump_program = database.find(Program::PgDump, facts).await?;
        let mut started = Started::new(self.store.clone(), self.source.name.clone(), begun.id.clone());
        let (dumped, structure) = tokio::join!(
            self.dump_archive(database, &started, &snapshot, &dump_program),
            structure::read(snapshot.session())
        );
        let (archive, parts) = dumped?;
        if let Found::Uncut { reason } = &archive.found {
            warnings.push(format!("the archive is not indexed and will be restored serially: {reason}"));
        }
        // A store may need long to put the parts together.
        let completing = started.complete_upload(parts, archive_object(&archive));
        let (completed, globals, previous) =
            tokio::join!(completing, database.dump_globals(facts), self.previous());
        completed?;
        let globals = globals?;
        self.put(&mut started, layout::GLOBALS, v1::Role::Globals, globals.text.as_bytes()).await?;
        warnings.extend(globals.degraded.into_iter().chain(globals.warnings));
        let settings = snapshot.server_settings().await?;
        let mut inventory = inventory_of(&archive, facts, &settings)?;
        warnings.extend(expected::record(&mut inventory, &archive, structure, &database.source));
        let inventory_bytes = serde_json::to_vec(&inventory)?;
        self.put(&mut started, layout::INVENTORY, v1::Role::Inventory, &inventory_bytes).await?;
        snapshot.close().await?;
        self.stop_if_cancelled()?;

        let described = Described {
            snapshot: v1::Snapshot {
                at: facts.snapshot_at,
                lsn: facts.lsn.clone(),
                in_recovery: facts.in_recovery,
            },
            pg_dump: Some(dump_program.version.to_string()),
            contents: v1::Contents::Postgres(Box::new(v1::Postgres {
                server: server(facts),
                archive: archive_facts(&archive, &inventory),
            })),
            previous,
            warnings,
            restore: format!(
                "age -d -i IDENTITY {} | zstd -d | pg_restore -d DATABASE",
                layout::archive_name(0)
            ),
        };
        self.commit(begun, started, described).await
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

    /// What would make the dump fail, or lack something, is found before anything is uploaded.
    async fn preflight(&self, snapshot: &ExportedSnapshot) -> anyhow::Result<Vec<String>> {
        let found = Preflight::run(snapshot.session(), snapshot.facts(), Timestamp::now()).await?;
        if found.is_clear() {
            return Ok(found.warnings);
        }
        let message = format!(
            "role {} cannot dump everything: {}",
            snapshot.facts().role.name,
            found.problems.join("; ")
        );
        Err(Failure::new(
            Exit::Failed,
            message,
            "grant pg_read_all_data to the role, and BYPASSRLS where row security is on",
        )
        .into())
    }

    async fn dump_archive(
        &self,
        database: &Database,
        started: &Started,
        snapshot: &ExportedSnapshot,
        pg_dump: &Client,
    ) -> anyhow::Result<(SealedArchive, PartsUploaded)> {
        let (facts, postgres) = (snapshot.facts(), &database.source);
        let order = DumpOrder {
            encoding: Some(encoding_of_dump(&facts.database.encoding).to_owned()),
            exclude_tables: postgres.exclude_tables.clone(),
            exclude_table_data: postgres.exclude_table_data.clone(),
            ..DumpOrder::everything(pg_dump.path.clone(), Some(snapshot.id().to_owned()))
        };
        let mut dump = order.start(&database.connection)?;
        let (stopper, output) = (dump.stopper(), dump.take_stdout().context("pg_dump has no output")?);
        let plan = self.part_plan(facts.database.bytes);
        let part_bytes = move |number| plan.part_bytes(number);
        let (sealer, parts) =
            Sealer::start(&self.recipients, self.source.compression_level, self.workers(), part_bytes)?;
        let key = started.key(&layout::archive_name(0));
        let upload = tokio::spawn(upload_parts(self.store.clone(), key, parts, UPLOADS_IN_FLIGHT));

        let beat = watchdog::Beat::default();
        let (progress, beating) = (self.progress(facts), beat.clone());
        let mut sealing = tokio::task::spawn_blocking(move || {
            stream::seal(output, sealer, |block, table| {
                beating.now();
                progress.advance(block.bytes.len() as u64);
                if let Some(entry) = table {
                    progress.at(&in_work(entry));
                }
            })
        });
        let timeout = self.source.no_progress_timeout;
        let (sealed, stopped) = tokio::select! {
            sealed = &mut sealing => (sealed?, None),
            stopped = self.stop_asked(&beat, timeout) => {
                stopper.stop(&stopped.message);
                // With its writer gone the pipe ends, and so does the thread.
                (sealing.await?, Some(stopped))
            }
        };
        if let Err(StreamError::Seal { .. }) = &sealed {
            stopper.stop("its output cannot be stored");
        }
        let exited = tokio::task::spawn_blocking(move || dump.wait()).await?;
        let uploaded = upload.await?;

        let whole = match (stopped, exited, sealed) {
            (Some(stopped), _, _) => Err(stopped.into()),
            // Where storing failed, pg_dump's end is only its echo.
            (None, _, Err(error @ StreamError::Seal { .. })) => Err(error.into()),
            (None, Err(error), _) => Err(error.into()),
            (None, Ok(_), Err(error)) => Err(error.into()),
            (None, Ok(_), Ok(sealed)) => Ok(sealed),
        };
        match (uploaded, whole) {
            (Ok(parts), Ok(sealed)) => Ok((sealed, parts)),
            (Ok(parts), Err(error)) => {
                if let Err(error) = parts.abort().await {
                    tracing::warn!(error = %error, "upload could not be aborted; the next run will");
                }
                Err(error)
            }
            (Err(error), Ok(_) | Err(_)) => {
                Err(anyhow::Error::from(error).context("archive cannot be uploaded"))
            }
        }
    }

    fn progress(&self, facts: &SnapshotFacts) -> Progress {
        let bytes = facts.relations.iter().map(|relation| relation.bytes).sum();
        Progress::new("dump", bytes, self.json)
    }

    /// Ends when the dump is to be stopped, and says why.
    async fn stop_asked(&self, beat: &watchdog::Beat, timeout: SignedDuration) -> Failure {
        tokio::select! {
            () = self.cancel.cancelled() => interrupted(),
            () = beat.stopped_for(timeout) => no_progress(timeout),
        }
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

    async fn record(&self, id: &BackupId, started_at: Timestamp, outcome: &anyhow::Result<Committed>) {
        let outcome = match outcome {
            Ok(committed) => RunOutcome::Committed { warnings: committed.manifest.warnings.clone() },
            Err(error) => RunOutcome::Failed { error: format!("{error:#}") },
        };
        let run = Run {
            version: 1,
            source: self.source.name.clone(),
            id: id.clone(),
            started_at,
            ended_at: Timestamp::now(),
            host: host_name(),
            outcome,
        };
        let put =
            records::put(&*self.store, &layout::run(&self.source.name, id), &run, &self.signing_key).await;
        if let Err(error) = put {
            let error = anyhow::Error::from(error);
            tracing::warn!(error = %format!("{error:#}"), "the record of this run could not be stored");
        }
    }

    fn stop_if_cancelled(&self) -> anyhow::Result<()> {
        match self.cancel.is_cancelled() {
            true => bail!(interrupted()),
            false => Ok(()),
        }
    }
}

impl Database {
    async fn find(&self, program: Program, facts: &SnapshotFacts) -> anyhow::Result<Client> {
        let (tools, major) = (self.tools.clone(), facts.server_version.major);
        Ok(tokio::task::spawn_blocking(move || tools.find(program, major)).await??)
    }

    /// Roles, memberships, tablespaces, and what had to be left out.
    async fn dump_globals(&self, facts: &SnapshotFacts) -> anyhow::Result<DumpedGlobals> {
        let pg_dumpall = self.find(Program::PgDumpall, facts).await?;
        let connection = self.connection.clone();
        Ok(tokio::task::spawn_blocking(move || dump_globals(&pg_dumpall.path, &connection)).await??)
    }
}

pub(crate) fn interrupted() -> Failure {
    Failure::new(
        Exit::Interrupted,
        "stopped by a signal",
        "nothing half-done counts as a backup; run it again",
    )
}

fn no_progress(after: SignedDuration) -> Failure {
    let message = format!("pg_dump sent nothing for {after:#}");
    Failure::new(
        Exit::Failed,
        message,
        "look for a lock or a dead network path; `no_progress_timeout` in the policy sets how long is too long",
    )
}

/// The entry as people know it.
fn in_work(entry: &TocEntry) -> String {
    match &entry.namespace {
        Some(schema) if entry.is_table_data() => format!("{schema}.{}", entry.tag),
        _ => entry.desc.to_lowercase(),
    }
}

fn archive_object(archive: &SealedArchive) -> v1::Object {
    let (plaintext, ciphertext) = (archive.plaintext, archive.ciphertext);
    v1::Object { name: layout::archive_name(0), role: v1::Role::Archive, plaintext, ciphertext }
}

fn inventory_of(
    archive: &SealedArchive,
    facts: &SnapshotFacts,
    settings: &[ServerSetting],
) -> anyhow::Result<Inventory> {
    Ok(Inventory {
        format: inventory::FORMAT.to_owned(),
        version: inventory::VERSION,
        archives: vec![archive.inventory(layout::archive_name(0))],
        facts: serde_json::to_value(facts).context("facts cannot be written down")?,
        server_settings: settings.iter().map(|s| (s.name.clone(), s.value.clone())).collect(),
        sequences: None,
        large_objects: None,
        structure: None,
    })
}

fn server(facts: &SnapshotFacts) -> v1::Server {
    let database = &facts.database;
    v1::Server {
        version: facts.server_version.to_string(),
        version_number: facts.server_version_number,
        system_identifier: facts.system_identifier.clone(),
        database: database.name.clone(),
        database_bytes: database.bytes.unwrap_or(0),
        encoding: database.encoding.clone(),
        collate: database.collate.clone(),
        ctype: database.ctype.clone(),
        locale_provider: Some(database.locale_provider.as_str().to_owned()),
        icu_locale: database.icu_locale.clone(),
        collation_version: database.collation_version.clone(),
    }
}

fn programs(pg_dump: Option<String>) -> v1::Programs {
    v1::Programs {
        pgproof: env!("CARGO_PKG_VERSION").to_owned(),
        pg_dump,
        zstd: zstd::zstd_safe::version_string().to_owned(),
    }
}

fn archive_facts(archive: &SealedArchive, inventory: &Inventory) -> v1::Archive {
    let tables = || inventory.archives.iter().flat_map(|archive| &archive.tables);
    let (format_version, not_indexed_because) = match &archive.found {
        Found::Indexed(index) => (Some(index.toc.header.version.to_string()), None),
        Found::Uncut { reason } => (None, Some(reason.clone())),
    };
    v1::Archive {
        indexed: not_indexed_because.is_none(),
        format_version,
        not_indexed_because,
        table_count: tables().count() as u64,
        row_count: tables().map(|table| table.rows).sum(),
    }
}
