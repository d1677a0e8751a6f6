//! The backup of a database: from the exported snapshot to the inventory.

use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::policy::PostgresSource;
use pgproof_postgres::archive::TocEntry;
use pgproof_postgres::client::{Client, ClientTools, Program};
use pgproof_postgres::connection::{ConnectionSpec, Environment};
use pgproof_postgres::dump::{DumpOrder, DumpedGlobals, dump_globals, encoding_of_dump};
use pgproof_postgres::preflight::Preflight;
use pgproof_postgres::snapshot::{ExportedSnapshot, ServerSetting, SnapshotFacts};
use pgproof_postgres::{source, structure};
use pgproof_repository::inventory::{self, Inventory};
use pgproof_repository::layout;
use pgproof_repository::lifecycle::{Committed, PartsUploaded, Started, upload_parts};
use pgproof_repository::manifest::v1;
use pgproof_repository::sealed::Sealer;

use super::stream::{self, Found, SealedArchive, StreamError};
use super::{Begun, Described, Job, UPLOADS_IN_FLIGHT, expected, interrupted, watchdog};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;

/// How a database is reached, and with which programs.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: ConnectionSpec,
    tools: ClientTools,
    reach: PostgresSource,
}

impl Database {
    pub(super) fn new(reach: PostgresSource) -> anyhow::Result<Self> {
        let connection = source::connection(&reach, &Environment::of_process())?;
        Ok(Self { connection, tools: source::tools(&reach), reach })
    }
}

/// A dump on its way.
#[derive(Debug)]
pub(super) struct Dump<'a> {
    pub(super) job: &'a Job,
    pub(super) database: &'a Database,
}

impl Dump<'_> {
    /// The whole sequence.
    pub(super) async fn back_up(&self, begun: &Begun<'_>) -> anyhow::Result<Committed> {
        let snapshot = tokio::select! {
            snapshot = ExportedSnapshot::open(&self.database.connection) => snapshot?,
            () = self.job.cancel.cancelled() => bail!(interrupted()),
        };
        let facts = snapshot.facts().clone();
        let facts = &facts;
        let mut warnings = self.preflight(&snapshot).await?;

        let dump_program = self.find(Program::PgDump, facts).await?;
        let mut started =
            Started::new(self.job.store.clone(), self.job.source.name.clone(), begun.id.clone());
        let (dumped, structure) = tokio::join!(
            self.dump_archive(&started, &snapshot, &dump_program),
            structure::read(snapshot.session())
        );
        let (archive, parts) = dumped?;
        if let Found::Uncut { reason } = &archive.found {
            warnings.push(format!("the archive is not indexed and will be restored serially: {reason}"));
        }
        // A store may need long to put the parts together.
        let completing = started.complete_upload(parts, archive_object(&archive));
        let (completed, globals, previous) =
            tokio::join!(completing, self.dump_globals(facts), self.job.previous());
        completed?;
        let globals = globals?;
        self.job.put(&mut started, layout::GLOBALS, v1::Role::Globals, globals.text.as_bytes()).await?;
        warnings.extend(globals.degraded.into_iter().chain(globals.warnings));
        let settings = snapshot.server_settings().await?;
        let mut inventory = inventory_of(&archive, facts, &settings)?;
        warnings.extend(expected::record(&mut inventory, &archive, structure, &self.database.reach));
        let inventory_bytes = serde_json::to_vec(&inventory)?;
        self.job.put(&mut started, layout::INVENTORY, v1::Role::Inventory, &inventory_bytes).await?;
        snapshot.close().await?;
        self.job.stop_if_cancelled()?;

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
            imported: None,
            warnings,
            restore: restore_line(),
        };
        self.job.commit(begun, started, described).await
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
        .standing()
        .into())
    }

    async fn find(&self, program: Program, facts: &SnapshotFacts) -> anyhow::Result<Client> {
        let (tools, major) = (self.database.tools.clone(), facts.server_version.major);
        Ok(tokio::task::spawn_blocking(move || tools.find(program, major)).await??)
    }

    async fn dump_archive(
        &self,
        started: &Started,
        snapshot: &ExportedSnapshot,
        pg_dump: &Client,
    ) -> anyhow::Result<(SealedArchive, PartsUploaded)> {
        let (facts, reach) = (snapshot.facts(), &self.database.reach);
        let order = DumpOrder {
            encoding: Some(encoding_of_dump(&facts.database.encoding).to_owned()),
            exclude_tables: reach.exclude_tables.clone(),
            exclude_table_data: reach.exclude_table_data.clone(),
            ..DumpOrder::everything(pg_dump.path.clone(), Some(snapshot.id().to_owned()))
        };
        let mut dump = order.start(&self.database.connection)?;
        let (stopper, output) = (dump.stopper(), dump.take_stdout().context("pg_dump has no output")?);
        let plan = self.job.part_plan(facts.database.bytes);
        let part_bytes = move |number| plan.part_bytes(number);
        let (sealer, parts) = Sealer::start(
            &self.job.recipients,
            self.job.source.compression_level,
            self.job.workers(),
            part_bytes,
        )?;
        let key = started.key(&layout::archive_name(0));
        let upload = tokio::spawn(upload_parts(self.job.store.clone(), key, parts, UPLOADS_IN_FLIGHT));

        let beat = watchdog::Beat::default();
        let (progress, beating) = (self.progress(facts), beat.clone());
        let mut sealing = tokio::task::spawn_blocking(move || {
            stream::seal(output, sealer, |block, table| {
                beating.now();
                let Some(progress) = &progress else { return };
                progress.advance(block.bytes.len() as u64);
                if let Some(entry) = table {
                    progress.at(&in_work(entry));
                }
            })
        });
        let timeout = self.job.source.no_progress_timeout;
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

    fn progress(&self, facts: &SnapshotFacts) -> Option<Progress> {
        let bytes = facts.relations.iter().map(|relation| relation.bytes).sum();
        self.job.is_watched.then(|| Progress::new("dump", bytes, self.job.json))
    }

    /// Ends when the dump is to be stopped, and says why.
    async fn stop_asked(&self, beat: &watchdog::Beat, timeout: SignedDuration) -> Failure {
        tokio::select! {
            () = self.job.cancel.cancelled() => interrupted(),
            () = beat.stopped_for(timeout) => no_progress(timeout),
        }
    }

    /// Roles, memberships, tablespaces, and what had to be left out.
    async fn dump_globals(&self, facts: &SnapshotFacts) -> anyhow::Result<DumpedGlobals> {
        let pg_dumpall = self.find(Program::PgDumpall, facts).await?;
        let connection = self.database.connection.clone();
        Ok(tokio::task::spawn_blocking(move || dump_globals(&pg_dumpall.path, &connection)).await??)
    }
}

/// How stock tools restore it.
pub(super) fn restore_line() -> String {
    format!("age -d -i IDENTITY {} | zstd -d | pg_restore -d DATABASE", layout::archive_name(0))
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
pub(super) fn in_work(entry: &TocEntry) -> String {
    match &entry.namespace {
        Some(schema) if entry.is_table_data() => format!("{schema}.{}", entry.tag),
        _ => entry.desc.to_lowercase(),
    }
}

pub(super) fn archive_object(archive: &SealedArchive) -> v1::Object {
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
        wording: None,
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

pub(super) fn archive_facts(archive: &SealedArchive, inventory: &Inventory) -> v1::Archive {
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
