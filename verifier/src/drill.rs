//! A drill: read everything, restore it with the code that an operator runs, compare every row, sign what was found.
//!
//! Every check starts as not run, so whatever ends the drill early cannot pass for a proof.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use pgproof_policies::policy::{Kind, PostgresSource, Source};
use pgproof_postgres::client::{self, Client, Version};
use pgproof_postgres::cluster::Cluster;
use pgproof_postgres::comparison::{self, TableComparison};
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::digest::RowDigest;
use pgproof_postgres::restore::{Restore, RestoreError, Unwatched};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::keys::{Identities, NoPrompts};
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::Role;
use pgproof_repository::store::{SharedStore, StoreError};
use pgproof_repository::{contents, layout, records};
use tokio_util::sync::CancellationToken;

use crate::choice::{self, Chosen};
use crate::failure::{Exit, causes, chain};
use crate::{cli, queries, scratch};
use pgproof_repository::report::{self, Outcome, Report, Verdict, v1};

/// The name of the restored database: no name that a new cluster has already.
const DATABASE: &str = "drill";

const SELECTION: &str = "selection";
const SIGNATURE: &str = "signature";
const CHAIN: &str = "chain";
const OBJECTS: &str = "objects";
const SERVER: &str = "server";
const GLOBALS: &str = "globals";
const RESTORE: &str = "restore";
const TABLES: &str = "tables";
const INDEXES: &str = "indexes";
const SEQUENCES: &str = "sequences";
const LARGE_OBJECTS: &str = "large objects";
const OWN_CHECKS: &str = "own checks";
const RECOVERY_TIME: &str = "recovery time";

pub(crate) async fn run(
    policy: &Path,
    args: cli::Drill,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let loaded = LoadedPolicy::read(policy)?;
    let source = loaded.source(&args.source)?.clone();
    let (signing_key, signers) = (loaded.signing_key()?, loaded.trusted_signers()?);
    let identities = loaded.identities(Arc::new(NoPrompts))?;
    scratch::sweep().await;
    let store = loaded.open_store().await?;
    let now = Timestamp::now();
    let chosen = Box::pin(choice::choose(&store, &loaded, &args, &signers, now)).await?;

    let report = blank(&chosen, &loaded, &source, &signing_key.fingerprint(), now);
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.map_or_else(processors, usize::from);
    let refuse_vulnerable = loaded.policy.refuse_vulnerable_clients;
    let mut drill = Drill {
        store: store.clone(),
        source,
        signed: chosen.signed,
        identities,
        jobs,
        refuse_vulnerable,
        report,
    };
    // Cancelling drops the work, and with it the private server, which is stopped and removed.
    let stopped = tokio::select! {
        () = Box::pin(drill.work(&cancel)) => false,
        () = cancel.cancelled() => true,
    };
    let mut report = drill.report;
    if stopped {
        report.warnings.push("stopped by a signal".to_owned());
    }
    report.conclude(Timestamp::now());
    let key = layout::verification(&report.source, &report.backup, report.finished_at);
    let stored = records::put(&*store, &key, &report, &signing_key).await;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", report.text(stored.is_ok().then_some(key.as_str()))),
    }
    // A drill of which no report remains is no proof.
    stored.map_err(|error| anyhow::Error::new(error).context("the report could not be stored"))?;
    Ok(match report.verdict {
        Verdict::Passed | Verdict::Degraded => ExitCode::SUCCESS,
        Verdict::Failed => Exit::CheckFailed.into(),
        Verdict::NotRun if stopped => Exit::Interrupted.into(),
        Verdict::NotRun => Exit::NotRun.into(),
    })
}

/// The report before anything was done.
fn blank(
    chosen: &Chosen,
    loaded: &LoadedPolicy,
    source: &Source,
    report_signer: &str,
    now: Timestamp,
) -> Report {
    let (manifest, signer) = (chosen.signed.get(), chosen.signed.signer());
    let mut report = Report {
        format: v1::FORMAT.to_owned(),
        version: v1::VERSION,
        verdict: Verdict::NotRun,
        repository: manifest.repository.clone(),
        source: manifest.source.clone(),
        backup: manifest.id.clone(),
        manifest_sha256: chosen.signed.sha256(),
        snapshot_at: chosen.signed.snapshot_at(),
        started_at: now,
        finished_at: now,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        checks: Vec::new(),
        tables: Vec::new(),
        phases: Vec::new(),
        recovery_seconds: None,
        programs: BTreeMap::from([("pgproof-verifier".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        backup_signer: v1::Signer {
            principal: signer.principal.clone(),
            fingerprint: signer.fingerprint.clone(),
        },
        report_signer: report_signer.to_owned(),
        policy_sha256: loaded.sha256.clone(),
        warnings: manifest.warnings.iter().map(|warning| format!("of the backup: {warning}")).collect(),
    };
    report.enter(SELECTION, true, chosen.selection.clone(), None);
    report.enter(SIGNATURE, true, Outcome::Passed, Some(signer.principal.clone()));
    report.enter(CHAIN, true, chosen.chain.clone(), None);
    let not_run = |reason: &str| Outcome::NotRun { reason: reason.to_owned() };
    for name in [OBJECTS, SERVER, GLOBALS, RESTORE, TABLES, INDEXES] {
        report.enter(name, true, not_run("the drill did not get there"), None);
    }
    report.enter(SEQUENCES, false, not_run("restored, not compared"), None);
    report.enter(LARGE_OBJECTS, false, not_run("restored, not compared"), None);
    let own = source.verification.iter().flat_map(|verification| &verification.checks);
    for check in own.clone() {
        report.enter(&own_name(&check.name), true, not_run("the drill did not get there"), None);
    }
    if own.count() == 0 {
        report.enter(OWN_CHECKS, false, not_run("the policy names none"), None);
    }
    if source.objectives.recovery_time.is_some() {
        report.enter(RECOVERY_TIME, true, not_run("the drill did not get there"), None);
    }
    report
}

fn own_name(name: &str) -> String {
    format!("check {name:?}")
}

struct Drill {
    store: SharedStore,
    source: Source,
    signed: SignedManifest,
    identities: Identities,
    jobs: usize,
    refuse_vulnerable: bool,
    report: Report,
}

impl Drill {
    /// Goes as far as it makes sense, and enters each check as it ends.
    async fn work(&mut self, cancel: &CancellationToken) {
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
        let database = cluster.spec().with_database(DATABASE);
        self.compare(&database, &inventory).await;
        self.enter(INDEXES, queries::invalid_indexes(&database).await, None);
        self.own_checks(&database).await;
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

    async fn own_checks(&mut self, database: &ConnectionSpec) {
        let Some(verification) = self.source.verification.clone() else { return };
        let since = Instant::now();
        for check in &verification.checks {
            let outcome = queries::ask(database, check).await;
            self.enter(&own_name(&check.name), outcome, None);
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
