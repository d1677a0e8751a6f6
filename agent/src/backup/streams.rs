//! The streams of a dump, side by side and of one moment. One that fails ends the others; then nothing is stored.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Fuse, FusedFuture, join_all};
use jiff::SignedDuration;
use pgproof_postgres::archive::{Toc, TocEntry};
use pgproof_postgres::client::Client;
use pgproof_postgres::division::Division;
use pgproof_postgres::dump::{
    DumpError, DumpOrder, DumpOutcome, HeldDump, HeldDumpError, Scope, TableName, encoding_of_dump,
};
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::layout;
use pgproof_repository::lifecycle::{PartsUploaded, Started, upload_parts_unless};
use pgproof_repository::sealed::Workers;
use pgproof_repository::store::{SharedStore, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::database::Dump;
use super::held_snapshot::HeldSnapshot;
use super::stream::{self, BlockDigests, Found, SealedArchive, StreamError};
use super::{UPLOADS_IN_FLIGHT, interrupted, watchdog};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;

/// How long a stream may wait for a lock that is held for it already. It waits at all only where somebody who wants the
/// table for himself stands in between, who waits for us as we do for him, and all others behind him.
const HELD_LOCK_WAIT: Duration = Duration::from_secs(10);
/// How long a stream that was told to stop may take. One whose store does not answer may take minutes.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What all streams of a dump are made of.
#[derive(Debug)]
pub(super) struct Streams<'a> {
    pub(super) dump: &'a Dump<'a>,
    pub(super) held: &'a HeldSnapshot,
    pub(super) pg_dump: &'a Client,
    pub(super) started: &'a Started,
    /// Cancelled when one of them failed, or somebody else on whom the backup depends: then all of them end.
    pub(super) failed: CancellationToken,
}

/// All streams, whole, in the order of their numbers.
#[derive(Debug)]
pub(super) struct Dumped {
    pub(super) archives: Vec<(SealedArchive, PartsUploaded)>,
    pub(super) warnings: Vec<String>,
}

impl Dumped {
    /// Leaves nothing of it in the store.
    pub(super) async fn give_up(self) {
        for (_, parts) in self.archives {
            parts.abort_or_tell().await;
        }
    }
}

impl Streams<'_> {
    /// Dumps the database. `begun` is cancelled once all tables are locked and compared with the snapshot's.
    pub(super) async fn run(&self, begun: CancellationToken) -> anyhow::Result<Dumped> {
        let (divided, warnings) = Box::pin(self.divide()).await?;
        let (division, locks) = divided.unzip();
        let orders = self.orders(division);
        let beginning = Arc::new(Beginning { _locks: locks, _begun: begun.drop_guard() });
        let job = self.dump.job;
        let (level, workers) = (job.source.compression_level, job.workers());
        let shared = Shared {
            workers: Workers::shared_by(level, workers, orders.len(), UPLOADS_IN_FLIGHT)?,
            progress: Arc::new(InWork::new(self.progress(), orders.len())),
        };
        let streams: Vec<_> = orders
            .into_iter()
            .map(|order| Box::pin(self.with_others(order, &shared, beginning.clone())))
            .collect();
        // Each stream has its own from here on; the last one that has begun lets go of the locks.
        drop(beginning);
        Ok(Dumped { archives: all_or_none(join_all(streams).await).await?, warnings })
    }

    /// Asks `pg_dump` what there is to be dumped, and divides that among streams. Not where it is not worth while, nor where
    /// the answer cannot be read, which is a warning.
    async fn divide(&self) -> anyhow::Result<(Option<(Arc<Division>, HeldDump)>, Vec<String>)> {
        let relations = &self.held.snapshot.facts().relations;
        let jobs = self.dump.job.source.jobs as usize;
        if !Division::is_worth_while(relations, jobs) {
            return Ok((None, Vec::new()));
        }
        let everything = match Box::pin(self.hold_everything()).await {
            Ok(everything) => everything,
            Err(error) => match error.downcast_ref() {
                Some(HeldDumpError::Foreign { reason }) => {
                    return Ok((None, vec![format!("the database was dumped in one stream: {reason}")]));
                }
                _ => return Err(error),
            },
        };
        let contents = everything.contents();
        self.refuse_displaced(&tables(contents)).await?;
        let large_objects = self.held.snapshot.large_object_bytes().await?;
        let division = Division::of(contents, relations, large_objects, jobs);
        for (number, stream) in division.streams().iter().enumerate() {
            tracing::debug!(number, bytes = stream.bytes, tables = stream.tables().count(), "stream");
        }
        let is_divided = division.streams().len() > 1;
        Ok((is_divided.then(|| (Arc::new(division), everything)), Vec::new()))
    }

    async fn hold_everything(&self) -> anyhow::Result<HeldDump> {
        let dump = self.everything().start(&self.dump.database.connection)?;
        let stopper = dump.stopper();
        let mut reading = tokio::task::spawn_blocking(move || HeldDump::of(dump));
        let beat = watchdog::Beat::default();
        tokio::select! {
            read = &mut reading => Ok(read??),
            stopped = self.stop_asked(&beat) => {
                stopper.stop(&stopped.message);
                // With its writer gone the pipe ends, and so does the reading.
                let _ = reading.await;
                Err(stopped.into())
            }
        }
    }

    /// A dump of all that the policy does not leave out.
    fn everything(&self) -> DumpOrder {
        let (snapshot, reach) = (&self.held.snapshot, &self.dump.database.reach);
        DumpOrder {
            encoding: Some(encoding_of_dump(&snapshot.facts().database.encoding).to_owned()),
            exclude_tables: reach.exclude_tables.clone(),
            exclude_table_data: reach.exclude_table_data.clone(),
            lock_wait: reach.lock_wait.try_into().unwrap_or(Duration::ZERO),
            ..DumpOrder::everything(self.pg_dump.path.clone(), Some(snapshot.id().to_owned()))
        }
    }

    fn orders(&self, division: Option<Arc<Division>>) -> Vec<Order> {
        let everything = self.everything();
        let Some(division) = division else {
            let bytes = self.held.snapshot.facts().database.bytes;
            return vec![Order { number: 0, dump: everything, bytes, division: None }];
        };
        let streams = division.streams().iter().zip(0..);
        let orders = streams.map(|(stream, number)| Order {
            number,
            dump: match number {
                0 => main_order(&everything, &division),
                _ => rows_order(&everything, stream.tables().cloned().collect()),
            },
            bytes: Some(stream.bytes),
            division: Some(division.clone()),
        });
        orders.collect()
    }

    /// One stream, which ends when another one failed, and the others when it does.
    async fn with_others(
        &self,
        order: Order,
        shared: &Shared,
        beginning: Arc<Beginning>,
    ) -> anyhow::Result<(SealedArchive, PartsUploaded)> {
        let number = order.number;
        let ended = Box::pin(self.one(order, shared, beginning)).await;
        if ended.is_err() {
            self.failed.cancel();
        }
        shared.progress.at(number, None);
        ended
    }

    async fn one(
        &self,
        order: Order,
        shared: &Shared,
        beginning: Arc<Beginning>,
    ) -> anyhow::Result<(SealedArchive, PartsUploaded)> {
        let Order { number, dump, bytes, division } = order;
        let is_divided = division.is_some();
        let job = self.dump.job;
        let mut dump = dump.start(&self.dump.database.connection)?;
        let (stopper, output) = (dump.stopper(), dump.take_stdout().context("pg_dump has no output")?);
        let plan = job.part_plan(bytes);
        let part_bytes = move |number| plan.part_bytes(number);
        let (sealer, parts) = shared.workers.sealer(&job.recipients, part_bytes)?;
        let mut upload =
            Upload::start(job.store.clone(), self.started.key(&layout::archive_name(number)), parts);

        let beat = watchdog::Beat::default();
        let (ask, asked) = oneshot::channel();
        let contents = move |toc: &Toc| may_go_on(toc, number, division.as_deref(), ask);
        let (progress, beating) = (shared.progress.clone(), beat.clone());
        let reading = tokio::task::spawn_blocking(move || {
            stream::seal(output, sealer, contents, |block, table| {
                beating.now();
                progress.advance(number, block.bytes.len() as u64, table);
            })
        });
        let mut sealing = reading.fuse();
        let finished = async {
            let sealed = (&mut sealing).await?;
            // What is left is up to the store, which has its own time limits.
            beat.rest();
            if sealed.as_ref().is_err_and(StreamError::is_ours) {
                stopper.stop("its output is not taken");
            }
            let exited = tokio::task::spawn_blocking(move || dump.wait()).await?;
            let archive = judge(sealed, exited, is_divided)?;
            Ok((archive, upload.done().await?))
        };
        let (error, is_stopped) = tokio::select! {
            finished = finished => match finished {
                Ok(whole) => return Ok(whole),
                Err(error) => (error, false),
            },
            refused = self.answer(asked, beginning) => (refused, true),
            stopped = self.stop_asked(&beat) => (stopped.into(), true),
            () = self.failed.cancelled() => (Echo.into(), true),
        };
        stopper.stop(&error.to_string());
        let not_stored = upload.give_up().await;
        // With its writer and its taker gone, the thread ends.
        if !sealing.is_terminated() {
            let _ = tokio::time::timeout(STOP_WITHIN, sealing).await;
        }
        match not_stored {
            // Where storing failed, the end of what was to be stored is only its echo.
            Some(cause) if !is_stopped => Err(cause),
            _ => Err(error),
        }
    }

    /// Lets a stream go on whose tables are the snapshot's; ends where one is not, or where that cannot be found out.
    async fn answer(&self, asked: oneshot::Receiver<Question>, beginning: Arc<Beginning>) -> anyhow::Error {
        if let Ok(Question { tables, go_on }) = asked.await {
            if let Err(refused) = self.refuse_displaced(&tables).await {
                return refused;
            }
            let _ = go_on.send(());
        }
        drop(beginning);
        std::future::pending().await
    }

    /// Of tables that are locked: whether each is the one that its name meant in the snapshot.
    async fn refuse_displaced(&self, tables: &[u32]) -> anyhow::Result<()> {
        let displaced = self.held.snapshot.displaced(tables).await?;
        match displaced.first() {
            None => Ok(()),
            Some(first) => Err(no_longer_there(first, displaced.len()).into()),
        }
    }

    fn progress(&self) -> Option<Progress> {
        let job = self.dump.job;
        let bytes = self.held.snapshot.facts().relations.iter().map(|relation| relation.bytes).sum();
        job.is_watched.then(|| Progress::new("dump", bytes, job.json))
    }

    /// Ends when the dump is to be stopped, and says why.
    async fn stop_asked(&self, beat: &watchdog::Beat) -> Failure {
        let job = self.dump.job;
        let timeout = job.source.no_progress_timeout;
        tokio::select! {
            () = job.cancel.cancelled() => interrupted(),
            () = beat.stopped_for(timeout) => no_progress(timeout),
            too_long = self.held.too_long() => too_long,
        }
    }
}

/// What one stream is to dump.
struct Order {
    number: u32,
    dump: DumpOrder,
    /// What it takes in the database, if that is known.
    bytes: Option<u64>,
    division: Option<Arc<Division>>,
}

/// What the streams have in common.
struct Shared {
    workers: Workers<BlockDigests>,
    progress: Arc<InWork>,
}

/// Ends when the last stream has locked its tables.
struct Beginning {
    _locks: Option<HeldDump>,
    _begun: DropGuard,
}

/// Whether the tables with these oids are those of the snapshot.
struct Question {
    tables: Vec<u32>,
    go_on: oneshot::Sender<()>,
}

/// A stream was stopped because another one failed, which says why.
#[derive(Debug, thiserror::Error)]
#[error("another stream of the dump failed")]
struct Echo;

/// The tables in work, one a stream.
#[derive(Debug)]
struct InWork {
    progress: Option<Progress>,
    tables: Mutex<Vec<Option<String>>>,
}

impl InWork {
    fn new(progress: Option<Progress>, streams: usize) -> Self {
        Self { progress, tables: Mutex::new(vec![None; streams]) }
    }

    fn advance(&self, stream: u32, bytes: u64, table: Option<&TocEntry>) {
        let Some(progress) = &self.progress else { return };
        progress.advance(bytes);
        if let Some(entry) = table {
            self.at(stream, Some(in_work(entry)));
        }
    }

    fn at(&self, stream: u32, table: Option<String>) {
        let Some(progress) = &self.progress else { return };
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables[stream as usize] = table;
        let at: Vec<&str> = tables.iter().flatten().map(String::as_str).collect();
        progress.at(&at.join(", "));
    }
}

/// The entry as people know it.
pub(super) fn in_work(entry: &TocEntry) -> String {
    match &entry.namespace {
        Some(schema) if entry.is_table_data() => format!("{schema}.{}", entry.tag),
        _ => entry.desc.to_lowercase(),
    }
}

/// The oids of the tables that a dump has locked.
fn tables(contents: &Toc) -> Vec<u32> {
    let entries = contents.entries.iter().filter(|entry| entry.desc == "TABLE" || entry.is_table_data());
    let mut tables: Vec<u32> = entries.map(|entry| entry.oid).collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}

fn main_order(everything: &DumpOrder, division: &Division) -> DumpOrder {
    let scope = Scope::Everything { without_data_of: division.moved() };
    let lock_wait = everything.lock_wait.min(HELD_LOCK_WAIT);
    DumpOrder { scope, lock_wait, ..everything.clone() }
}

/// What the policy leaves out is not among the tables.
fn rows_order(everything: &DumpOrder, tables: Vec<TableName>) -> DumpOrder {
    let (exclude_tables, exclude_table_data) = (Vec::new(), Vec::new());
    let lock_wait = everything.lock_wait.min(HELD_LOCK_WAIT);
    DumpOrder {
        scope: Scope::RowsOf(tables),
        exclude_tables,
        exclude_table_data,
        lock_wait,
        ..everything.clone()
    }
}

/// Asks whether a stream may go on that has these contents, and waits for the answer.
fn may_go_on(
    contents: &Toc,
    number: u32,
    division: Option<&Division>,
    ask: oneshot::Sender<Question>,
) -> Result<(), StreamError> {
    if let Some(division) = division {
        let checked = division.check(number as usize, contents);
        checked.map_err(|source| StreamError::Misdivided { source })?;
    }
    let (go_on, told) = oneshot::channel();
    // Where nobody takes the question, nobody answers it either.
    let _ = ask.send(Question { tables: tables(contents), go_on });
    told.blocking_recv().map_err(|_| StreamError::GivenUp)
}

/// Whether what came through is a whole dump.
fn judge(
    sealed: Result<SealedArchive, StreamError>,
    exited: Result<DumpOutcome, DumpError>,
    is_divided: bool,
) -> anyhow::Result<SealedArchive> {
    match (sealed, exited) {
        // pg_dump's end is only the echo of ours.
        (Err(error), _) if error.is_ours() => Err(error.into()),
        (_, Err(error)) => Err(error.into()),
        (Err(error), Ok(_)) => Err(error.into()),
        (Ok(sealed), Ok(_)) => match &sealed.found {
            Found::Uncut { reason } if is_divided => {
                bail!("what a stream holds cannot be compared with the plan: {reason}")
            }
            _ => Ok(sealed),
        },
    }
}

/// The upload of a stream.
struct Upload {
    given_up: CancellationToken,
    task: Fuse<JoinHandle<Result<Option<PartsUploaded>, StoreError>>>,
    abort: AbortHandle,
}

impl Upload {
    fn start(store: SharedStore, key: ObjectKey, parts: mpsc::Receiver<Bytes>) -> Self {
        let given_up = CancellationToken::new();
        let stopped = given_up.clone();
        let task =
            tokio::spawn(
                async move { upload_parts_unless(&stopped, store, key, parts, UPLOADS_IN_FLIGHT).await },
            );
        Self { given_up, abort: task.abort_handle(), task: task.fuse() }
    }

    /// All parts are in the store.
    async fn done(&mut self) -> anyhow::Result<PartsUploaded> {
        let uploaded = (&mut self.task).await?.context("archive cannot be uploaded")?;
        uploaded.context("the upload was given up")
    }

    /// Leaves nothing of it in the store. Tells if it had failed by itself.
    async fn give_up(mut self) -> Option<anyhow::Error> {
        if self.task.is_terminated() {
            return None;
        }
        self.given_up.cancel();
        match tokio::time::timeout(STOP_WITHIN, &mut self.task).await {
            Ok(Ok(Ok(Some(parts)))) => parts.abort_or_tell().await,
            Ok(Ok(Ok(None))) => {}
            Ok(Ok(Err(error))) => {
                return Some(anyhow::Error::from(error).context("archive cannot be uploaded"));
            }
            Ok(Err(error)) => return Some(error.into()),
            // The store does not answer; the next run aborts what is left.
            Err(_) => self.abort.abort(),
        }
        None
    }
}

/// All streams, or the reason of the first that failed by itself; then no upload is left.
async fn all_or_none(
    ended: Vec<anyhow::Result<(SealedArchive, PartsUploaded)>>,
) -> anyhow::Result<Vec<(SealedArchive, PartsUploaded)>> {
    let (mut whole, mut failed) = (Vec::new(), Vec::new());
    for stream in ended {
        match stream {
            Ok(stream) => whole.push(stream),
            Err(error) => failed.push(error),
        }
    }
    // Last stands what is only an echo.
    failed.sort_by_key(|error| error.is::<Echo>());
    let Some(cause) = failed.into_iter().next() else { return Ok(whole) };
    for (_, parts) in whole {
        parts.abort_or_tell().await;
    }
    Err(cause)
}

fn no_progress(after: SignedDuration) -> Failure {
    let message = format!("pg_dump sent nothing for {after:#}");
    Failure::new(
        Exit::Failed,
        message,
        "look for a lock or a dead network path; `no_progress_timeout` in the policy sets how long is too long",
    )
}

fn no_longer_there(first: &TableName, count: usize) -> Failure {
    let others = if count > 1 { format!(" and {} other table(s)", count - 1) } else { String::new() };
    let message = format!("table {first}{others} was renamed, dropped or replaced while the dump began");
    Failure::new(Exit::Failed, message, "run it again once the change of the schema is through")
}
