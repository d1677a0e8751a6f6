//! The work of one drill: read everything, restore it with the code that an operator runs, compare every row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use pgproof_policies::policy::{DRILL_TIME_LIMIT_DEFAULT, PostgresSource, Source};
use pgproof_postgres::client::{self, Version};
use pgproof_postgres::comparison::{self, TableComparison};
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::digest::RowDigest;
use pgproof_postgres::restore::{LeftOut, ReadArchives, Restore, RestoreError, RestoreReport, Unwatched};
use pgproof_postgres::scratch::Identity;
use pgproof_repository::catalog::Entry;
use pgproof_repository::contents;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::keys::Identities;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{Postgres, Role};
use pgproof_repository::report::{self, Outcome, Report, v1};
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::SharedStore;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use super::checks::{self, Finding, Subject};
use super::control::Control;
use super::names::{GLOBALS, INDEXES, OBJECTS, RECOVERY_TIME, RESTORE, SEQUENCES, SERVER, TABLES};
use super::queries;
use super::scratch::{self, Fault, Roles, Scratch, Started, extensions, of_reading, of_restore};
use crate::failure::chain;

/// A drill under way. Every check starts as not run, so whatever ends it early cannot pass for a proof.
#[derive(Debug)]
pub(super) struct Drill {
    pub store: SharedStore,
    pub source: Source,
    pub signed: SignedManifest,
    /// What the manifest says of the database.
    pub dumped: Postgres,
    /// How the policy reaches it.
    pub reach: PostgresSource,
    pub identities: Identities,
    pub jobs: usize,
    pub refuse_vulnerable: bool,
    /// What the negative control needs, where it is to be made.
    pub control: Option<ControlOrder>,
    pub report: Report,
    /// What kept the last attempt from getting on, where that may be over soon.
    pub trouble: Option<String>,
    /// What the last attempt could not restore for want of extensions.
    pub left_out: LeftOut,
}

/// What is known before a restore begins.
struct Prepared {
    inventory: Inventory,
    /// Extensions that the restore must do without.
    missing: Vec<String>,
    roles: Roles,
}

/// The negative control is to be made, by these trusted signers and beside these backups.
#[derive(Debug)]
pub(super) struct ControlOrder {
    pub signers: TrustedSigners,
    pub entries: Vec<Entry>,
}

impl Drill {
    /// Goes as far as it makes sense, and enters each check as it ends. Whatever was started is removed, also when
    /// the token is cancelled.
    pub(super) async fn work(&mut self, cancel: &CancellationToken) {
        self.left_out = LeftOut::default();
        // A start that is broken off removes by itself what it made.
        let started = tokio::select! {
            started = self.read_and_start() => started,
            () = cancel.cancelled() => None,
        };
        let Some(scratch) = started else { return };
        Box::pin(self.restore_and_compare(&scratch, cancel)).await;
        self.finish(scratch).await;
    }

    async fn finish(&mut self, scratch: Scratch) {
        let since = Instant::now();
        if let Err(fault) = scratch.finish().await {
            self.report.warnings.push(format!("what the drill made was not removed: {}", fault.reason()));
        }
        self.took("remove", since);
    }

    async fn restore_and_compare(&mut self, scratch: &Scratch, cancel: &CancellationToken) {
        let since = Instant::now();
        let prepared = tokio::select! {
            prepared = self.prepare(scratch) => prepared,
            () = cancel.cancelled() => None,
        };
        let Some(prepared) = prepared else { return };
        // Not to be broken off from here: it would be unknown whether there is a database to drop.
        let Some(archives) = self.restore(scratch, &prepared, cancel).await else { return };
        self.recovered(since);
        let restored_in = since.elapsed();
        let restored = extensions::without(prepared.inventory, &self.left_out);
        let prove = async {
            self.open_rest(archives).await;
            Box::pin(self.check(scratch, &restored, restored_in)).await;
        };
        tokio::select! {
            () = prove => {}
            () = cancel.cancelled() => {}
        }
        // Checks that could not be made for want of a server are worth another attempt, whichever they were.
        if let Some(reason) = scratch.gone().await {
            self.trouble.get_or_insert(reason);
        }
    }

    async fn prepare(&mut self, scratch: &Scratch) -> Option<Prepared> {
        let inventory = match contents::inventory(&self.store, &self.signed, &self.identities).await {
            Ok(inventory) => inventory,
            Err(error) => {
                self.blame(RESTORE, of_reading(&error), None);
                return None;
            }
        };
        let verification = self.source.verification.as_ref();
        let allowed = verification.map(|verification| verification.missing_extensions.clone());
        match extensions::missing(scratch.server(), &inventory, &allowed.unwrap_or_default()).await {
            Ok(missing) => {
                let roles = self.make_roles(scratch).await;
                Some(Prepared { inventory, missing, roles })
            }
            Err(fault) => {
                self.blame(SERVER, fault, None);
                None
            }
        }
    }

    async fn check(&mut self, scratch: &Scratch, inventory: &Inventory, restored_in: Duration) {
        let database = scratch.server().with_database(scratch.database());
        self.compare(&database, inventory).await;
        self.enter(INDEXES, queries::invalid_indexes(&database).await, None);
        self.own_checks(&database).await;
        self.check_contents(&database, inventory, restored_in).await;
        self.control(&database, inventory).await;
    }

    /// Comes last: afterwards the restored database is no longer what was restored.
    async fn control(&mut self, database: &ConnectionSpec, inventory: &Inventory) {
        let Some(ControlOrder { signers, entries }) = &self.control else { return };
        let since = Instant::now();
        let control = Control {
            store: &self.store,
            signed: &self.signed,
            signers,
            identities: &self.identities,
            entries,
            inventory,
            database,
        };
        let found = Box::pin(control.make(&self.report, &mut StdRng::from_os_rng())).await;
        self.report.negative_control = found;
        self.took("negative control", since);
    }

    /// Reads all objects while the server is made: neither needs the other.
    async fn read_and_start(&mut self) -> Option<Scratch> {
        let since = Instant::now();
        let (reach, dumped, source) = (self.reach.clone(), self.dumped.server.clone(), self.source.clone());
        let wanted = scratch::Wanted {
            source: &reach,
            verification: source.verification.as_ref(),
            dumped: &dumped,
            major: Version::from_number(dumped.version_number).major,
            durable: source.objectives.recovery_time.is_some(),
            patience: Duration::try_from(source.no_progress_timeout).unwrap_or(Duration::MAX),
            time_limit: self.time_limit(),
        };
        let start = async {
            let started = Box::pin(scratch::start(&wanted)).await;
            (started, since.elapsed())
        };
        let (read, (started, took)) = tokio::join!(self.read_objects(), start);
        self.phase("start server, meanwhile", took.as_secs_f64());
        match (read, started) {
            (true, Ok(Started { scratch, identity })) => self.accepted(scratch, &identity, wanted.major),
            (true, Err(fault)) => {
                self.blame(SERVER, fault, None);
                None
            }
            (false, Ok(Started { scratch, .. })) => {
                self.finish(scratch).await;
                None
            }
            (false, Err(_)) => None,
        }
    }

    /// Enters what was started, and looks whether the policy wants to restore with it.
    fn accepted(&mut self, scratch: Scratch, identity: &Identity, dumped: u32) -> Option<Scratch> {
        let version = scratch.restore_client().version;
        self.report.scratch = scratch.described(identity);
        let programs = [("postgres", identity.version.clone()), ("pg_restore", version.to_string())];
        self.report.programs.extend(programs.map(|(name, version)| (name.to_owned(), version)));
        // The restore itself warns; only the policy makes it a reason to stop.
        if self.refuse_vulnerable && client::is_vulnerable_restore(version) {
            let reason = format!(
                "pg_restore {version} is older than the fix of CVE-2026-116314, and the policy refuses it"
            );
            self.enter(SERVER, Outcome::NotRun { reason }, None);
            return None;
        }
        let newer = (identity.major != dumped)
            .then(|| format!("restored into {}, dumped from {dumped}", identity.version));
        let open = scratch.exposure().map(|why| format!("it could read the verifier's own files: {why}"));
        let outcome = match newer.into_iter().chain(open).reduce(|all, reason| format!("{all}; {reason}")) {
            None => Outcome::Passed,
            Some(reason) => Outcome::Degraded { reason },
        };
        self.enter(SERVER, outcome, Some(identity.version.clone()));
        Some(scratch)
    }

    /// Makes the roles, so that owners and rights can be restored; where that cannot be, they are left out.
    async fn make_roles(&mut self, scratch: &Scratch) -> Roles {
        let since = Instant::now();
        let (roles, outcome) = if !scratch.takes_roles() {
            let reason = "a scratch server gets no roles: restored without owners and rights".to_owned();
            (Roles::LeftOut, Outcome::Degraded { reason })
        } else if self.signed.get().object(Role::Globals).is_none() {
            let reason = "the backup holds no roles: restored without owners and rights".to_owned();
            (Roles::LeftOut, Outcome::Degraded { reason })
        } else {
            match contents::globals(&self.store, &self.signed, &self.identities).await {
                Ok(text) => scratch::make_roles(scratch.server(), &text).await,
                Err(error) => (Roles::LeftOut, self.outcome_of(of_reading(&error))),
            }
        };
        self.enter(GLOBALS, outcome, None);
        self.took("globals", since);
        roles
    }

    /// A role that is missing there takes owners and rights from the proof, not the rows.
    async fn restore(
        &mut self,
        scratch: &Scratch,
        prepared: &Prepared,
        cancel: &CancellationToken,
    ) -> Option<ReadArchives> {
        let mut done = self.restored(scratch, prepared, prepared.roles, cancel).await;
        if prepared.roles == Roles::Made
            && let Err(missing) = &done
            && let Some(missing) = scratch::missing_roles(missing)
        {
            let reason = format!("no role {missing} here: restored without owners and rights");
            self.enter(GLOBALS, Outcome::Degraded { reason }, None);
            done = self.restored(scratch, prepared, Roles::LeftOut, cancel).await;
        }
        match done {
            Ok(done) => {
                for (phase, took) in &done.phases {
                    self.phase(&format!("restore: {phase}"), took.as_secs_f64());
                }
                self.report.warnings.extend(done.warnings.clone());
                let entries = done.left_out.entries.iter();
                self.report.warnings.extend(entries.map(|entry| format!("not restored: {entry}")));
                let detail = format!("{} tables, {} rows", done.tables, done.rows);
                self.enter(RESTORE, extensions::of_restore(&done.left_out), Some(detail));
                self.left_out = done.left_out;
                Some(done.archives)
            }
            Err(error) => {
                let fault = scratch.unless_gone(of_restore(&error, !scratch.takes_roles())).await;
                if matches!(error, RestoreError::Object { .. }) {
                    self.blame(OBJECTS, fault.clone(), None);
                }
                self.blame(RESTORE, fault, None);
                None
            }
        }
    }

    async fn restored(
        &self,
        scratch: &Scratch,
        prepared: &Prepared,
        roles: Roles,
        cancel: &CancellationToken,
    ) -> Result<RestoreReport, RestoreError> {
        let restore = Restore {
            store: self.store.clone(),
            manifest: self.signed.clone(),
            inventory: prepared.inventory.clone(),
            identities: self.identities.clone(),
            tools: scratch.tools(),
            target: scratch.server().clone(),
            database: scratch.database().to_owned(),
            marker: scratch.marker(),
            jobs: self.jobs,
            selection: None,
            no_owner: roles == Roles::LeftOut,
            no_acl: roles == Roles::LeftOut,
            without_extensions: prepared.missing.clone(),
            serial: false,
            temp_root: std::env::temp_dir(),
            progress: Arc::new(Unwatched),
            cancel: cancel.clone(),
        };
        Box::pin(restore.run()).await
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
        let archive = &self.dumped.archive;
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
            Err(error) => self.blame(TABLES, Fault::Passing { reason: chain(&error) }, None),
        }
    }

    fn judge_tables(&mut self, tables: &[TableComparison]) {
        let signed_tables = self.dumped.archive.table_count;
        let expected = signed_tables.saturating_sub(self.left_out.tables.len() as u64);
        let rows: u64 = tables.iter().filter_map(|table| table.found).map(|found| found.rows).sum();
        let compared: u64 = tables.iter().map(|table| table.tables).sum();
        let differing = tables.iter().filter(|table| !table.equal).count();
        let outcome = if differing > 0 {
            Outcome::Failed { reason: format!("{differing} table(s) do not hold what was dumped") }
        } else if compared != expected {
            let reason = format!("{compared} tables compared, {signed_tables} were signed");
            Outcome::Failed { reason }
        } else {
            extensions::of_tables(&self.left_out)
        };
        self.report.tables = tables.iter().map(stored_table).collect();
        let detail = format!("{compared} tables, {rows} rows counted and digested");
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
        let archive = &self.dumped.archive;
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
            let outcome = match (name, outcome) {
                (SEQUENCES, Outcome::Passed) => extensions::of_sequences(&self.left_out),
                (_, outcome) => outcome,
            };
            self.report.enter(name, required, outcome, detail);
        }
        self.took("check contents", since);
    }

    async fn own_checks(&mut self, database: &ConnectionSpec) {
        let Some(verification) = self.source.verification.clone() else { return };
        let since = Instant::now();
        for check in &verification.checks {
            let outcome = queries::ask(database, check).await;
            self.enter(&check.name_in_reports(), outcome, None);
        }
        self.took("own checks", since);
    }

    /// What the policy gives a drill, with all its attempts.
    pub(super) fn time_limit(&self) -> SignedDuration {
        let verification = self.source.verification.as_ref();
        verification.map_or(DRILL_TIME_LIMIT_DEFAULT, |verification| verification.time_limit)
    }

    /// Enters a check that could not be made, or was refused; what may be over soon is worth another attempt.
    pub(super) fn blame(&mut self, name: &str, fault: Fault, detail: Option<String>) {
        let outcome = self.outcome_of(fault);
        self.enter(name, outcome, detail);
    }

    fn outcome_of(&mut self, fault: Fault) -> Outcome {
        if let Fault::Passing { reason } = &fault {
            self.trouble.get_or_insert_with(|| reason.clone());
        }
        fault.outcome()
    }

    pub(super) fn enter(&mut self, name: &str, outcome: Outcome, detail: Option<String>) {
        self.report.enter(name, true, outcome, detail);
    }

    pub(super) fn took(&mut self, phase: &str, since: Instant) {
        self.phase(phase, since.elapsed().as_secs_f64());
    }

    fn phase(&mut self, name: &str, seconds: f64) {
        self.report.phases.push(v1::Phase { name: name.to_owned(), seconds });
    }
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
