//! The work of one drill: read everything, restore it with the code that an operator runs, compare every row.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgproof_policies::policy::{Kind, PostgresSource, Source};
use pgproof_postgres::client::{self, Client, Version};
use pgproof_postgres::cluster::Cluster;
use pgproof_postgres::comparison::{self, TableComparison};
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::digest::RowDigest;
use pgproof_postgres::restore::{Restore, RestoreError, Unwatched};
use pgproof_repository::contents;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::keys::Identities;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::Role;
use pgproof_repository::report::{self, Outcome, Report, v1};
use pgproof_repository::store::{SharedStore, StoreError};
use tokio_util::sync::CancellationToken;

use super::checks::{self, Finding, Subject};
use super::names::{GLOBALS, INDEXES, OBJECTS, RECOVERY_TIME, RESTORE, SERVER, TABLES, own_check};
use super::{queries, scratch};
use crate::failure::{causes, chain};

/// The name of the restored database: no name that a new cluster has already.
const DATABASE: &str = "drill";

/// A drill under way. Every check starts as not run, so whatever ends it early cannot pass for a proof.
#[derive(Debug)]
pub(super) struct Drill {
    pub store: SharedStore,
    pub source: Source,
    pub signed: SignedManifest,
    pub identities: Identities,
    pub jobs: usize,
    pub refuse_vulnerable: bool,
    pub report: Report,
}

impl Drill {
    /// Goes as far as it makes sense, and enters each check as it ends.
    pub(super) async fn work(&mut self, cancel: &CancellationToken) {
        if !self.read_objects().await {
            return;
        }
        let Some((cluster, restore_program)) = self.start_server().await else { return };
        Box::pin(self.restore_and_compare(&cluster, &restore_program, cancel)).await;
        let since = Instant::now();
        if let Err(error) = cluster.stop().await {
            self.report.warnings.push(format!("the private server was not removed: {}", chain(&error)));
        }
        self.took("remove", since);
    }

    async fn restore_and_compare(&mut self, cluster: &Cluster, program: &Client, cancel: &CancellationToken) {
        let since = Instant::now();
        let inventory = match contents::inventory(&self.store, &self.signed, &self.identities).await {
            Ok(inventory) => inventory,
            Err(error) => return self.enter(RESTORE, of_reading(&error), None),
        };
        let with_roles = self.make_roles(cluster).await;
        if !self.restore(cluster, program, &inventory, with_roles, cancel).await {
            return;
        }
        self.recovered(since);
        let restored_in = since.elapsed();
        let database = cluster.spec().with_database(DATABASE);
        self.compare(&database, &inventory).await;
        self.enter(INDEXES, queries::invalid_indexes(&database).await, None);
        self.own_checks(&database).await;
        self.check_contents(&database, &inventory, restored_in).await;
    }

    /// Reads every byte of every object, down to the plaintext.
    async fn read_objects(&mut self) -> bool {
        let since = Instant::now();
        let signed = self.signed.clone();
        let manifest = signed.get();
        let detail = format!("{} objects, {} bytes", manifest.objects.len(), manifest.stored_bytes());
        for object in &manifest.objects {
            tracing::info!(object = object.name, bytes = object.ciphertext.bytes, "reading through");
            let read = match contents::object_key(&manifest.source, &manifest.id, object) {
                Ok(key) => contents::read_through(&self.store, &key, object, Some(&self.identities)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                self.took("read objects", since);
                self.enter(OBJECTS, of_reading(&error).about(&object.name), Some(detail));
                return false;
            }
        }
        self.took("read objects", since);
        self.enter(OBJECTS, Outcome::Passed, Some(detail));
        true
    }

    async fn start_server(&mut self) -> Option<(Cluster, Client)> {
        let since = Instant::now();
        let Kind::Postgres(postgres) = self.source.kind.clone();
        let started = self.start_checked(&postgres).await;
        self.took("start server", since);
        match started {
            Ok(started) => Some(started),
            Err(error) => {
                self.enter(SERVER, Outcome::NotRun { reason: format!("{error:#}") }, None);
                None
            }
        }
    }

    async fn start_checked(&mut self, postgres: &PostgresSource) -> anyhow::Result<(Cluster, Client)> {
        let dumped = Version::from_number(self.signed.get().server.version_number);
        // Only a server that makes its writes durable needs the time that a real one needs.
        let durable = self.source.objectives.recovery_time.is_some();
        let (cluster, program) = scratch::start(postgres, dumped.major, durable).await?;
        // The restore itself warns; only the policy makes it a reason to stop.
        let refused = self.refuse_vulnerable && client::is_vulnerable_restore(program.version);
        anyhow::ensure!(
            !refused,
            "pg_restore {} is older than the fix of CVE-2026-116314, and the policy refuses it",
            program.version
        );
        let version = queries::server_version(cluster.spec()).await?;
        let outcome = match program.version.major == dumped.major {
            true => Outcome::Passed,
            false => {
                let reason = format!("restored into {}, dumped from {dumped}", program.version);
                Outcome::Degraded { reason }
            }
        };
        self.enter(SERVER, outcome, Some(version.clone()));
        self.report.scratch = v1::Scratch {
            kind: Some("private cluster".to_owned()),
            server_version: Some(version.clone()),
            isolation: Some("unix socket only".to_owned()),
        };
        let programs = [("postgres", version), ("pg_restore", program.version.to_string())];
        self.report.programs.extend(programs.map(|(name, version)| (name.to_owned(), version)));
        Ok((cluster, program))
    }

    /// Whether the roles are there, so that owners and rights can be restored.
    async fn make_roles(&mut self, cluster: &Cluster) -> bool {
        let since = Instant::now();
        if self.signed.get().object(Role::Globals).is_none() {
            let reason = "the backup holds no roles: restored without owners and rights".to_owned();
            self.enter(GLOBALS, Outcome::Degraded { reason }, None);
            return false;
        }
        let outcome = match contents::globals(&self.store, &self.signed, &self.identities).await {
            Ok(text) => scratch::apply_globals(cluster, &text)
                .await
                .unwrap_or_else(|error| Outcome::Failed { reason: format!("{error:#}") }),
            Err(error) => of_reading(&error),
        };
        self.enter(GLOBALS, outcome, None);
        self.took("globals", since);
        true
    }

    async fn restore(
        &mut self,
        cluster: &Cluster,
        program: &Client,
        inventory: &Inventory,
        with_roles: bool,
        cancel: &CancellationToken,
    ) -> bool {
        let restore = Restore {
            store: self.store.clone(),
            manifest: self.signed.clone(),
            inventory: inventory.clone(),
            identities: self.identities.clone(),
            tools: scratch::tools(program),
            target: cluster.spec().clone(),
            database: DATABASE.to_owned(),
            jobs: self.jobs,
            selection: None,
            no_owner: !with_roles,
            no_acl: !with_roles,
            serial: false,
            temp_root: std::env::temp_dir(),
            progress: Arc::new(Unwatched),
            cancel: cancel.clone(),
        };
        match Box::pin(restore.run()).await {
            Ok(done) => {
                for (phase, took) in &done.phases {
                    self.phase(&format!("restore: {phase}"), took.as_secs_f64());
                }
                self.report.warnings.extend(done.warnings.clone());
                let detail = format!("{} tables, {} rows", done.tables, done.rows);
                self.enter(RESTORE, Outcome::Passed, Some(detail));
                true
            }
            Err(error) => {
                self.enter(RESTORE, of_restore(&error), None);
                false
            }
        }
    }

    fn recovered(&mut self, since: Instant) {
        let seconds = since.elapsed().as_secs_f64();
        self.report.recovery_seconds = Some(seconds);
        if let Some(objective) = self.source.objectives.recovery_time {
            let detail = Some(format!("{seconds:.1} s"));
            self.enter(RECOVERY_TIME, report::against_objective(seconds, objective), detail);
        }
    }

    async fn compare(&mut self, database: &ConnectionSpec, inventory: &Inventory) {
        let archive = &self.signed.get().archive;
        if !archive.indexed {
            let why = archive.not_indexed_because.as_deref().unwrap_or("the archive is not indexed");
            let reason = format!("no row could be compared: {why}");
            return self.enter(TABLES, Outcome::Degraded { reason }, None);
        }
        let since = Instant::now();
        let compared = Box::pin(comparison::compare(database, inventory, self.jobs)).await;
        self.took("compare tables", since);
        match compared {
            Ok(tables) => self.judge_tables(&tables),
            Err(error) => self.enter(TABLES, Outcome::NotRun { reason: chain(&error) }, None),
        }
    }

    fn judge_tables(&mut self, tables: &[TableComparison]) {
        let signed_tables = self.signed.get().archive.table_count;
        let rows: u64 = tables.iter().filter_map(|table| table.found).map(|found| found.rows).sum();
        let differing = tables.iter().filter(|table| !table.equal).count();
        let outcome = if differing > 0 {
            Outcome::Failed { reason: format!("{differing} table(s) do not hold what was dumped") }
        } else if u64::try_from(tables.len()) != Ok(signed_tables) {
            let reason = format!("{} tables compared, {signed_tables} were signed", tables.len());
            Outcome::Failed { reason }
        } else {
            Outcome::Passed
        };
        self.report.tables = tables.iter().map(stored_table).collect();
        let detail = format!("{} tables, {rows} rows counted and digested", tables.len());
        self.enter(TABLES, outcome, Some(detail));
    }

    /// After the policy's own checks, which see the database as it was restored.
    async fn check_contents(
        &mut self,
        database: &ConnectionSpec,
        inventory: &Inventory,
        restored_in: Duration,
    ) {
        let since = Instant::now();
        let verification = self.source.verification.as_ref();
        let missing_extensions =
            verification.map_or(&[][..], |verification| &verification.missing_extensions);
        let archive = &self.signed.get().archive;
        let because = archive.not_indexed_because.as_deref().unwrap_or("the archive is not indexed");
        let subject = Subject {
            database,
            inventory,
            not_indexed_because: (!archive.indexed).then_some(because),
            jobs: self.jobs,
            missing_extensions,
            restored_in,
        };
        for finding in Box::pin(checks::run(&subject)).await {
            let Finding { name, required, outcome, detail } = finding;
            self.report.enter(name, required, outcome, detail);
        }
        self.took("check contents", since);
    }

    async fn own_checks(&mut self, database: &ConnectionSpec) {
        let Some(verification) = self.source.verification.clone() else { return };
        let since = Instant::now();
        for check in &verification.checks {
            let outcome = queries::ask(database, check).await;
            self.enter(&own_check(&check.name), outcome, None);
        }
        self.took("own checks", since);
    }

    fn enter(&mut self, name: &str, outcome: Outcome, detail: Option<String>) {
        self.report.enter(name, true, outcome, detail);
    }

    fn took(&mut self, phase: &str, since: Instant) {
        self.phase(phase, since.elapsed().as_secs_f64());
    }

    fn phase(&mut self, name: &str, seconds: f64) {
        self.report.phases.push(v1::Phase { name: name.to_owned(), seconds });
    }
}

/// Bytes that are gone or differ are the backup's fault; a store that does not answer says nothing about it.
fn of_reading(error: &(dyn Error + 'static)) -> Outcome {
    let store = causes(error).find_map(|cause| cause.downcast_ref::<StoreError>());
    let reason = chain(error);
    match store {
        None
        | Some(
            StoreError::NotFound { .. }
            | StoreError::Short { .. }
            | StoreError::Damaged { .. }
            | StoreError::TooLarge { .. },
        ) => Outcome::Failed { reason },
        Some(_) => Outcome::NotRun { reason },
    }
}

/// What this machine lacks is not the backup's fault.
fn of_restore(error: &RestoreError) -> Outcome {
    let reason = chain(error);
    match error {
        RestoreError::Connect { .. }
        | RestoreError::Environment { .. }
        | RestoreError::Client { .. }
        | RestoreError::Locale { .. }
        | RestoreError::File { .. }
        | RestoreError::Spawn { .. }
        | RestoreError::Worker { .. }
        | RestoreError::Cancelled => Outcome::NotRun { reason },
        RestoreError::PgRestore { stderr, .. } if is_about_this_machine(stderr) => Outcome::NotRun { reason },
        _ => of_reading(error),
    }
}

fn is_about_this_machine(stderr: &str) -> bool {
    let stderr = stderr.to_lowercase();
    stderr.contains("no space left on device")
        || (stderr.contains("extension") && stderr.contains("is not available"))
}

fn stored_table(table: &TableComparison) -> v1::Table {
    let rows = |digest: RowDigest| v1::Rows { rows: digest.rows, digest: format!("{:032x}", digest.sum) };
    v1::Table {
        schema: table.schema.clone(),
        name: table.name.clone(),
        expected: rows(table.expected),
        found: table.found.map(rows),
        equal: table.equal,
        problem: table.problem.clone(),
    }
}
