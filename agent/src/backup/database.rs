//! The backup of a database: from the exported snapshot to the inventory.

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use futures::future::{self, Either};
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::policy::PostgresSource;
use pgproof_postgres::client::{self, Client, ClientTools, Program, Version};
use pgproof_postgres::connection::{ConnectionSpec, Environment};
use pgproof_postgres::dump::{DumpedGlobals, dump_globals};
use pgproof_postgres::preflight::Preflight;
use pgproof_postgres::snapshot::{ExportedSnapshot, ServerSetting, SnapshotFacts};
use pgproof_postgres::source;
use pgproof_postgres::structure::{self, StructureError};
use pgproof_repository::catalog::Standing;
use pgproof_repository::inventory::{self, Inventory, Structure};
use pgproof_repository::layout;
use pgproof_repository::lifecycle::{self, Committed, Started};
use pgproof_repository::manifest::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::held_snapshot::HeldSnapshot;
use super::stream::{Found, SealedArchive};
use super::streams::{Dumped, Streams};
use super::{Begun, Described, Job, by_hand, expected, interrupted};
use crate::failure::{Exit, Failure};

/// How a database is reached, and with which programs.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: ConnectionSpec,
    pub(super) reach: PostgresSource,
    tools: ClientTools,
}

impl Database {
    pub(super) fn new(reach: PostgresSource) -> anyhow::Result<Self> {
        let connection = source::connection(&reach, &Environment::of_process())?;
        Ok(Self { connection, tools: source::tools(&reach), reach })
    }

    /// What it measures, which the role may not be told.
    pub(super) async fn bytes(&self) -> anyhow::Result<Option<u64>> {
        let snapshot = ExportedSnapshot::open(&self.connection).await?;
        let bytes = snapshot.facts().database.bytes;
        snapshot.close().await?;
        Ok(bytes)
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
        let opening = HeldSnapshot::open(&self.database.connection, self.database.reach.snapshot_max);
        let held = self.answered(Box::pin(opening)).await??;
        let facts = held.snapshot.facts().clone();
        lifecycle::ensure_near(begun.id, facts.snapshot_at)?;
        let facts = &facts;
        let mut warnings = self.answered(Box::pin(self.preflight(&held.snapshot))).await??;

        let dump_program = self.find(Program::PgDump, facts).await?;
        warnings.extend(self.vulnerable(dump_program.version)?);
        let mut started =
            Started::new(self.job.store.clone(), self.job.source.name.clone(), begun.id.clone());
        let (dumped, described) = self.read(&held, &dump_program, &started).await?;
        let Dumped { archives, warnings: of_dump } = dumped;
        let (structure, settings) = described;
        warnings.extend(of_dump);
        let (archives, uploads): (Vec<_>, Vec<_>) = archives.into_iter().unzip();
        let snapshot_held = self.answered(held.release()).await?;
        warnings.extend(archives.iter().filter_map(not_indexed));

        let objects = archives.iter().zip(0..).map(|(archive, number)| archive_object(archive, number));
        // A store may need long to put the parts together.
        let completing = started.complete_uploads(uploads.into_iter().zip(objects).collect());
        let (completed, globals, previous, another) = tokio::join!(
            completing,
            self.dump_globals(facts),
            self.job.previous(),
            self.another_server(facts)
        );
        completed?;
        let globals = globals?;
        self.job.put(&mut started, layout::GLOBALS, v1::Role::Globals, globals.text.as_bytes()).await?;
        warnings.extend(another);
        warnings.extend(globals.degraded.into_iter().chain(globals.warnings));
        let mut inventory = inventory_of(&archives, facts, &settings)?;
        warnings.extend(expected::record(&mut inventory, &archives[0], structure, &self.database.reach));
        let inventory_bytes = serde_json::to_vec(&inventory)?;
        self.job.put(&mut started, layout::INVENTORY, v1::Role::Inventory, &inventory_bytes).await?;
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
                archive: archive_facts(&archives, &inventory, Some(snapshot_held)),
            })),
            previous,
            imported: None,
            warnings,
            restore: by_hand::restore(archives.len()),
        };
        self.job.commit(begun, started, described).await
    }

    /// All that the snapshot is needed for.
    async fn read(
        &self,
        held: &HeldSnapshot,
        pg_dump: &Client,
        started: &Started,
    ) -> anyhow::Result<(Dumped, Description)> {
        let (locked, failed) = (CancellationToken::new(), CancellationToken::new());
        let streams = Streams { dump: self, held, pg_dump, started, failed: failed.clone() };
        let dumping = Box::pin(streams.run(locked.clone()));
        let describing = Box::pin(describe(held, &locked, &self.job.cancel));
        let (dumped, described) = match future::select(dumping, describing).await {
            Either::Left((dumped, describing)) => {
                (dumped?, self.answered(describing).await.and_then(|described| described))
            }
            Either::Right((Ok(described), dumping)) => return Ok((dumping.await?, described)),
            Either::Right((Err(error), dumping)) => {
                failed.cancel();
                match dumping.await {
                    Ok(dumped) => (dumped, Err(error)),
                    Err(_) => return Err(error),
                }
            }
        };
        match described {
            Ok(described) => Ok((dumped, described)),
            Err(error) => {
                dumped.give_up().await;
                Err(error)
            }
        }
    }

    /// Says so where the backup before this one is of another server or database: a copy that was set up with the same
    /// policy, or a policy that points elsewhere, goes on with a series that is not its own.
    async fn another_server(&self, facts: &SnapshotFacts) -> Option<String> {
        let Ok(Some((id, Standing::Whole(before)))) = self.job.newest().await else { return None };
        let difference = before.get().postgres()?.server.difference_to(&server(facts))?;
        Some(format!("{difference} (the backup before it is {id})"))
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

    /// What is asked of the server, unless it answers nothing for as long as a dump may stand still, or somebody stops it.
    async fn answered<T>(&self, asked: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::select! {
            answer = asked => Ok(answer),
            stopped = self.stopped("the server") => Err(stopped.into()),
        }
    }

    /// Ends when nobody is to wait any longer for an answer of `whom`.
    async fn stopped(&self, whom: &str) -> Failure {
        let timeout = self.job.source.no_progress_timeout;
        tokio::select! {
            () = self.job.cancel.cancelled() => interrupted(),
            () = tokio::time::sleep(timeout.try_into().unwrap_or(Duration::MAX)) => no_answer(whom, timeout),
        }
    }

    async fn find(&self, program: Program, facts: &SnapshotFacts) -> anyhow::Result<Client> {
        let (tools, major) = (self.database.tools.clone(), facts.server_version.major);
        Ok(tokio::task::spawn_blocking(move || tools.find(program, major)).await??)
    }

    /// Names a `pg_dump` that a hostile server could take over; refuses it where the policy says so.
    fn vulnerable(&self, pg_dump: Version) -> anyhow::Result<Option<String>> {
        if !client::is_vulnerable_dump(pg_dump) {
            return Ok(None);
        }
        let told = format!("pg_dump {pg_dump} is older than the fix of CVE-2026-6477");
        if self.job.loaded.policy.refuse_vulnerable_clients {
            let hint = "update the PostgreSQL client programs (14.23, 15.18, 16.14, 17.10, 18.4 or later)";
            return Err(Failure::new(Exit::Failed, told, hint).standing().into());
        }
        Ok(Some(format!("{told}: a hostile server could run code with it")))
    }

    /// Roles, memberships, tablespaces, and what had to be left out.
    async fn dump_globals(&self, facts: &SnapshotFacts) -> anyhow::Result<DumpedGlobals> {
        let pg_dumpall = self.find(Program::PgDumpall, facts).await?;
        let connection = self.database.connection.clone();
        let (started, stopper) = watch::channel(None);
        let mut dumping = tokio::task::spawn_blocking(move || {
            dump_globals(&pg_dumpall.path, &connection, |stopper| drop(started.send_replace(Some(stopper))))
        });
        let stopped = tokio::select! {
            dumped = &mut dumping => return Ok(dumped??),
            stopped = self.stopped("pg_dumpall") => stopped,
        };
        if let Some(stopper) = &*stopper.borrow() {
            stopper.stop(&stopped.to_string());
        }
        // With its program gone the thread ends, and how does not matter.
        drop(dumping.await);
        Err(stopped.into())
    }
}

fn no_answer(whom: &str, after: SignedDuration) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{whom} answered nothing for {after:#}"),
        "look for a dead network path; `no_progress_timeout` in the policy sets how long is too long",
    )
}

/// What the session of the snapshot says of the database and the server.
type Description = (Result<Structure, StructureError>, Vec<ServerSetting>);

/// Asks the snapshot's session, once it is no longer asked about locks.
async fn describe(
    held: &HeldSnapshot,
    locked: &CancellationToken,
    cancel: &CancellationToken,
) -> anyhow::Result<Description> {
    let read = async {
        locked.cancelled().await;
        let structure = structure::read(held.snapshot.session()).await;
        Ok((structure, held.snapshot.server_settings().await?))
    };
    tokio::select! {
        read = read => read,
        too_long = held.too_long() => Err(too_long.into()),
        () = cancel.cancelled() => Err(interrupted().into()),
    }
}

pub(super) fn not_indexed(archive: &SealedArchive) -> Option<String> {
    match &archive.found {
        Found::Indexed(_) => None,
        Found::Uncut { reason } => {
            Some(format!("the archive is not indexed and will be restored serially: {reason}"))
        }
    }
}

pub(super) fn archive_object(archive: &SealedArchive, number: u32) -> v1::Object {
    let (plaintext, ciphertext) = (archive.plaintext, archive.ciphertext);
    v1::Object { name: layout::archive_name(number), role: v1::Role::Archive, plaintext, ciphertext }
}

fn inventory_of(
    archives: &[SealedArchive],
    facts: &SnapshotFacts,
    settings: &[ServerSetting],
) -> anyhow::Result<Inventory> {
    let stored = |(archive, number): (&SealedArchive, u32)| archive.inventory(layout::archive_name(number));
    Ok(Inventory {
        format: inventory::FORMAT.to_owned(),
        version: inventory::VERSION,
        archives: archives.iter().zip(0..).map(stored).collect(),
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

/// `snapshot_held` of a dump of our own.
pub(super) fn archive_facts(
    archives: &[SealedArchive],
    inventory: &Inventory,
    snapshot_held: Option<SignedDuration>,
) -> v1::Archive {
    let tables = || inventory.archives.iter().flat_map(|archive| &archive.tables);
    let (format_version, not_indexed_because) = match &archives[0].found {
        Found::Indexed(index) => (Some(index.toc.header.version.to_string()), None),
        Found::Uncut { reason } => (None, Some(reason.clone())),
    };
    v1::Archive {
        indexed: not_indexed_because.is_none(),
        format_version,
        not_indexed_because,
        table_count: tables().count() as u64,
        row_count: tables().map(|table| table.rows).sum(),
        snapshot_seconds: snapshot_held.and_then(|held| u64::try_from(held.as_secs()).ok()),
    }
}
