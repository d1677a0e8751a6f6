//! Restoring a backup into a new database.
//!
//! The archive's head goes to a private file, from which `pg_restore` makes the tables; then workers load pieces of
//! them over several connections, counting and hashing every row on its way; sequences and large objects follow, then
//! indexes and constraints, then ANALYZE. The serial path gives the whole stream to one `pg_restore` instead. Nothing
//! that was not authenticated against the signed manifest reaches either.

mod binary;
mod blobs;
mod complaints;
mod error;
mod frames;
mod head;
mod lenience;
mod load;
mod object;
mod phases;
mod plan;
mod prepared;
mod properties;
mod pulse;
mod sections;
mod serial;
mod space;
mod swap;
mod target;
mod witness;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgproof_repository::inventory::Inventory;
use pgproof_repository::keys::Identities;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::store::SharedStore;
use tokio_util::sync::CancellationToken;

pub(crate) use complaints::named;
pub use complaints::tell_of_server;
pub use error::RestoreError;
pub use lenience::LeftOut;
pub use object::{OpenedFrames, ReadArchives, fetch_inventory};
pub use plan::{Mode, Plan};
pub use sections::Section;
pub use serial::write_archive;
pub use space::{Room, Space};
pub use swap::{Renames, swap};

use crate::archive::selection::Filter;
use crate::client::ClientTools;
use crate::connection::ConnectionSpec;
use properties::Properties;
use target::Made;

/// Everything a restore needs to know.
#[derive(Debug, Clone)]
pub struct Restore {
    pub store: SharedStore,
    pub manifest: SignedManifest,
    /// As [`fetch_inventory`] gives it: checked against the manifest.
    pub inventory: Inventory,
    pub identities: Identities,
    pub tools: ClientTools,
    /// The target's server; its database is used for maintenance only.
    pub target: ConnectionSpec,
    /// The new database.
    pub database: String,
    /// The new database's comment, from its first moment on and in place of the backup's: says who made it.
    pub marker: Option<String>,
    pub jobs: usize,
    /// Only these tables and schemas, with what they depend on.
    pub selection: Option<Filter>,
    pub no_owner: bool,
    pub no_acl: bool,
    /// Extensions that the target lacks and that this restore may do without, with all that depends on them.
    pub without_extensions: Vec<String>,
    /// Use one `pg_restore` for everything.
    pub serial: bool,
    /// Where the private directory for the head and lists is made.
    pub temp_root: PathBuf,
    pub progress: Arc<dyn Progress>,
    pub cancel: CancellationToken,
}

/// Told how a restore goes on. Called from many tasks; must not block.
pub trait Progress: fmt::Debug + Send + Sync {
    fn phase(&self, _phase: Phase) {}

    /// Rows of this table are on their way.
    fn loading(&self, _table: &str) {}

    /// Bytes of the archive that were loaded.
    fn bytes(&self, _done: u64, _total: u64) {}

    /// A table is complete, and its rows are those of the backup.
    fn table(&self, _table: &str, _rows: u64) {}

    /// Something the operator should know.
    fn note(&self, _text: &str) {}
}

/// Nobody watches.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Progress for Unwatched {}

/// The parts of a restore, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Fetching the head, checking the target, making the database.
    Prepare,
    PreData,
    Load,
    /// Sequences and large objects.
    OtherData,
    PostData,
    Analyze,
    /// All data and definitions by one program, in place of the four before.
    Serial,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::PreData => "pre-data",
            Self::Load => "load",
            Self::OtherData => "other data",
            Self::PostData => "post-data",
            Self::Analyze => "analyze",
            Self::Serial => "serial",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a restore ended well.
#[derive(Debug, Clone, Default)]
pub struct RestoreReport {
    pub phases: Vec<(Phase, Duration)>,
    pub tables: u64,
    pub rows: u64,
    /// Whether rows were counted and hashed while they were loaded; the serial path cannot.
    pub rows_compared: bool,
    /// Sealed bytes read from the store.
    pub bytes_fetched: u64,
    pub warnings: Vec<String>,
    /// What could not be made for want of extensions.
    pub left_out: LeftOut,
    /// For those who want to know that what was not needed can be read as well.
    pub archives: ReadArchives,
}

impl RestoreReport {
    pub fn duration(&self) -> Duration {
        self.phases.iter().map(|(_, duration)| *duration).sum()
    }
}

impl Restore {
    /// What would be done. Touches nothing.
    pub fn plan(&self) -> Result<Plan, RestoreError> {
        prepared::Prepared::new(self).map(|prepared| prepared.plan(self))
    }

    /// Does it. After a failure or a cancellation nothing is left behind: programs are killed, sessions closed, and a
    /// database that this made is dropped again.
    pub async fn run(&self) -> Result<RestoreReport, RestoreError> {
        let mut clock = PhaseClock::new(self.progress.clone());
        clock.enter(Phase::Prepare);
        let properties = Properties::of(&self.inventory.facts)?;
        let ready = self.unless_cancelled(phases::prepare(self)).await?;
        // Not to be broken off: it would be unknown whether there is a database to drop.
        let made = target::create(
            &self.target,
            &self.database,
            &ready.prepared.facts.server,
            properties.icu_rules(),
            self.marker.as_deref(),
        )
        .await?;
        match self.unless_cancelled(phases::fill(self, &mut clock, ready, (&properties, made))).await {
            Ok(mut report) => {
                report.phases = clock.finish();
                Ok(report)
            }
            Err(error) => {
                self.clean_up(made).await;
                Err(error)
            }
        }
    }

    async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, RestoreError>>,
    ) -> Result<T, RestoreError> {
        tokio::select! {
            done = Box::pin(work) => done,
            after = pulse::lost(&self.target) => Err(RestoreError::Silent { after }),
            () = self.cancel.cancelled() => Err(RestoreError::Cancelled),
        }
    }

    async fn clean_up(&self, made: Made) {
        if made != Made::Here {
            return;
        }
        match target::remove(&self.target, &self.database).await {
            Ok(()) => self.progress.note(&format!("the half-made database {:?} was dropped", self.database)),
            Err(error) => {
                tracing::warn!(database = %self.database, %error, "the half-made database could not be dropped");
                self.progress.note(&format!("the half-made database {:?} is still there", self.database));
            }
        }
    }
}

/// Measures the phases.
#[derive(Debug)]
pub(crate) struct PhaseClock {
    progress: Arc<dyn Progress>,
    done: Vec<(Phase, Duration)>,
    current: Option<(Phase, Instant)>,
}

impl PhaseClock {
    fn new(progress: Arc<dyn Progress>) -> Self {
        Self { progress, done: Vec::new(), current: None }
    }

    pub(crate) fn enter(&mut self, phase: Phase) {
        self.leave();
        self.progress.phase(phase);
        self.current = Some((phase, Instant::now()));
    }

    fn leave(&mut self) {
        if let Some((phase, since)) = self.current.take() {
            self.done.push((phase, since.elapsed()));
        }
    }

    fn finish(mut self) -> Vec<(Phase, Duration)> {
        self.leave();
        self.done
    }
}
