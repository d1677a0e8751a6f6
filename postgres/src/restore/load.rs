//! Filling the tables: pieces of them over several connections at a time, each row counted and hashed on its way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures::SinkExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Progress;
use super::binary::{self, Column};
use super::error::RestoreError;
use super::object::ArchiveObject;
use super::plan::{Load, Unit};
use super::target::open;
use crate::archive::INT_BYTES;
use crate::connection::{ConnectionSpec, Session};
use crate::digest::{RowDigest, RowHasher};
use crate::payload::CopyText;

/// Rows that are handed to the connection at a time, in bytes: few enough that they are sent while they are still in the
/// processor's cache.
const BATCH_BYTES: usize = 512 << 10;
/// Batches that wait for a connection; with the frame they come from this bounds a worker's memory to about 10 MiB.
const BATCHES_WAITING: usize = 4;
/// Rows sent in one message: large enough to be cheap, small enough for the server's buffers.
const MESSAGE_BYTES: usize = 128 << 10;
/// Tables with less data than this are loaded as text, and neighbours of them in one transaction: asking for their columns'
/// types, or having their files made anew for rows that are frozen from the start, would take longer than it saves.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// The encoding in which text is the same to the server as to us.
const BINARY_ENCODING: &str = "UTF8";
/// What a table's data begins with: a kind byte and the dump id.
const DATA_HEADER_BYTES: usize = 1 + INT_BYTES;
const DATA_KIND_ROWS: u8 = 1;

/// What `pg_restore` sets in its sessions, beside the pins that every session of ours has.
const SESSION: &str = "
    SET row_security = off;
    SET check_function_bodies = off;
    SET xmloption = content;
    SET client_min_messages = warning;
    SET default_tablespace = ''";

/// A table to be filled.
#[derive(Debug)]
pub(crate) struct TableTask {
    /// For messages.
    pub(crate) label: String,
    /// The COPY statement without its options.
    pub(crate) copy: String,
    /// The table itself, where it was made by this restore and so is known to be empty.
    pub(crate) fresh: Option<String>,
    /// The columns as the COPY statement lists them.
    pub(crate) columns: String,
    pub(crate) relation: String,
    pub(crate) form: RowForm,
    pub(crate) expected: RowDigest,
    pub(crate) done: Mutex<TableDone>,
}

/// Whether a table's rows go to the server as text or, with less work for it, in binary form.
#[derive(Debug, Default)]
pub(crate) struct RowForm {
    /// Set once somebody asked for the types; `None` where one of them goes as text.
    columns: OnceLock<Option<Vec<Column>>>,
    /// A row came up that has no plain form.
    given_up: AtomicBool,
}

impl RowForm {
    /// How each column is made binary, where all can be.
    fn columns(&self) -> Option<&[Column]> {
        self.columns.get().and_then(Option::as_deref)
    }

    fn is_binary(&self) -> bool {
        self.columns().is_some() && !self.given_up.load(Ordering::Relaxed)
    }
}

/// How far a table is.
#[derive(Debug)]
pub(crate) struct TableDone {
    pub(crate) digest: RowDigest,
    pub(crate) bytes_left: u64,
}

/// An archive with its tables, in the inventory's order. `None` for those that are not wanted.
#[derive(Debug)]
pub(crate) struct LoadArchive {
    pub(crate) object: ArchiveObject,
    pub(crate) tables: Vec<Option<TableTask>>,
    /// Where each table's data begins.
    pub(crate) starts: Vec<u64>,
}

/// Everything the workers share.
#[derive(Debug)]
pub(crate) struct Loader {
    pub(crate) archives: Vec<LoadArchive>,
    pub(crate) target: ConnectionSpec,
    pub(crate) encoding: String,
    pub(crate) queue: Mutex<VecDeque<Unit>>,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) bytes_total: u64,
    pub(crate) bytes_done: AtomicU64,
}

impl Loader {
    /// Loads every unit of the queue. The first failure ends all workers.
    pub(crate) async fn run(self: Arc<Self>, jobs: usize) -> Result<(), RestoreError> {
        let mut workers = JoinSet::new();
        let units = self.queue.lock().unwrap_or_else(PoisonError::into_inner).len();
        for _ in 0..jobs.min(units).max(1) {
            workers.spawn(Box::pin(work(self.clone())));
        }
        // Dropping the set on the first error ends the other workers, and with them their connections.
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|source| RestoreError::Worker { source })??;
        }
        self.check_all()
    }

    fn next(&self) -> Option<Unit> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn task(&self, archive: usize, load: &Load) -> Result<&TableTask, RestoreError> {
        let task = self.archives[archive].tables[load.table].as_ref();
        task.ok_or_else(|| RestoreError::Inventory {
            why: "a table is loaded that was not chosen".to_owned(),
        })
    }

    /// Rows went out to the server.
    fn advance(&self, bytes: u64) {
        let so_far = self.bytes_done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.bytes(so_far, self.bytes_total);
    }

    /// Adds a finished load to its table, and compares the table when that was its last.
    fn note(&self, task: &TableTask, load: &Load, loaded: Loaded) -> Result<(), RestoreError> {
        let bytes = load.bytes();
        let Loaded { digest, row_bytes } = loaded;
        let (total, finished) = {
            let mut done = task.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.digest += digest;
            done.bytes_left = done.bytes_left.saturating_sub(bytes);
            (done.digest, done.bytes_left == 0)
        };
        // What lies between the rows was counted by nobody yet.
        self.advance(bytes.saturating_sub(row_bytes));
        if finished {
            compare(task, total)?;
            self.progress.table(&task.label, total.rows);
        }
        Ok(())
    }

    /// Finds out which of a unit's tables can be loaded in binary form.
    async fn ask_for_columns(&self, session: &Session, unit: &Unit) -> Result<(), RestoreError> {
        for load in unit.loads.iter().filter(|load| !is_small(load)) {
            let task = self.task(unit.archive, load)?;
            if self.encoding != BINARY_ENCODING || task.form.columns.get().is_some() {
                continue;
            }
            let query = format!("SELECT {} FROM {} LIMIT 0", task.columns, task.relation);
            let columns = match session.prepare(&query).await {
                Ok(statement) => {
                    statement.columns().iter().map(|column| Column::of(column.type_())).collect()
                }
                // The COPY itself will say what is the matter.
                Err(_) => None,
            };
            // Another worker may have found out the same.
            let _ = task.form.columns.set(columns);
        }
        Ok(())
    }

    /// No table may have been forgotten.
    fn check_all(&self) -> Result<(), RestoreError> {
        for task in self.archives.iter().flat_map(|archive| archive.tables.iter().flatten()) {
            let total = task.done.lock().unwrap_or_else(PoisonError::into_inner).digest;
            compare(task, total)?;
        }
        Ok(())
    }
}

fn compare(task: &TableTask, found: RowDigest) -> Result<(), RestoreError> {
    if found == task.expected {
        return Ok(());
    }
    let (expected, found) = (task.expected.to_string(), found.to_string());
    Err(RestoreError::Mismatch { table: task.label.clone(), expected, found })
}

/// What the reading thread hands to the connection.
enum Piece {
    Rows {
        rows: Bytes,
        /// What they measure in the archive, whatever their form.
        text_bytes: u64,
    },
    /// The load must be begun again, as text.
    NotPlain,
    /// The load's rows have all been given.
    End(RowDigest),
}

type Pieces = mpsc::Receiver<Result<Piece, RestoreError>>;

async fn work(loader: Arc<Loader>) -> Result<(), RestoreError> {
    let session = open(&loader.target).await?;
    session
        .batch_execute(SESSION)
        .await
        .map_err(|source| RestoreError::Server { doing: "prepare a session for loading", source })?;
    while let Some(unit) = loader.next() {
        loader.ask_for_columns(&session, &unit).await?;
        load_unit(&loader, &session, &unit).await?;
    }
    Ok(())
}

async fn load_unit(loader: &Arc<Loader>, session: &Session, unit: &Unit) -> Result<(), RestoreError> {
    let mut next = 0;
    let mut together = false;
    while next < unit.loads.len() {
        let (sender, mut pieces) = mpsc::channel(BATCHES_WAITING);
        // Decided once for reader and connection: another worker may give a table's binary form up meanwhile.
        let tasks = unit.loads.iter().map(|load| loader.task(unit.archive, load));
        let binary: Vec<bool> =
            tasks.map(|task| task.map(|task| task.form.is_binary())).collect::<Result<_, _>>()?;
        let reading = tokio::task::spawn_blocking({
            let (loader, unit, binary) = (loader.clone(), unit.clone(), binary.clone());
            move || read_unit(&loader.archives[unit.archive], &unit, &binary, next, &sender)
        });
        while let Some(load) = unit.loads.get(next) {
            let task = loader.task(unit.archive, load)?;
            if together != is_small(load) {
                together = !together;
                transaction(session, if together { "BEGIN" } else { "COMMIT" }).await?;
            }
            let loaded = load_piece(session, loader, binary[next], task, load, &mut pieces);
            let Some(loaded) = Box::pin(loaded).await? else {
                task.form.given_up.store(true, Ordering::Relaxed);
                break;
            };
            loader.note(task, load, loaded)?;
            next += 1;
        }
        // A reader that was given up waits for somebody to take its rows.
        drop(pieces);
        reading.await.map_err(|source| RestoreError::Worker { source })?;
    }
    if together {
        transaction(session, "COMMIT").await?;
    }
    Ok(())
}

async fn transaction(session: &Session, statement: &str) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Server { doing: "load small tables in one transaction", source };
    session.batch_execute(statement).await.map_err(failed)
}

fn is_small(load: &Load) -> bool {
    load.bytes() < SMALL_BYTES_MAX
}

/// What one COPY brought in.
struct Loaded {
    digest: RowDigest,
    row_bytes: u64,
}

/// One COPY, of text or of binary rows; `None` when it was broken off because a row has no plain form. A large, whole table
/// that this restore made is emptied in the same transaction, so that the server may skip the log where its settings
/// allow, and write the rows as already frozen.
async fn load_piece(
    session: &Session,
    loader: &Loader,
    is_binary: bool,
    task: &TableTask,
    load: &Load,
    pieces: &mut Pieces,
) -> Result<Option<Loaded>, RestoreError> {
    loader.progress.loading(&task.label);
    let mut row_bytes = 0;
    let failed = |source| RestoreError::Load { table: task.label.clone(), source };
    let alone = task.fresh.as_ref().filter(|_| load.whole && !is_small(load));
    if let Some(table) = alone {
        session.batch_execute(&format!("BEGIN; TRUNCATE ONLY {table}")).await.map_err(failed)?;
    }
    let freeze = if alone.is_some() { ", FREEZE" } else { "" };
    let text = || format!("ENCODING '{}'", loader.encoding);
    let form = if is_binary { "FORMAT binary".to_owned() } else { text() };
    let statement = format!("{} WITH ({form}{freeze})", task.copy);
    let sink = session.answered(session.copy_in::<_, Bytes>(&statement)).await.map_err(failed)?;
    let mut sink = Box::pin(sink);
    if is_binary {
        session.answered(sink.feed(Bytes::from_static(binary::HEADER))).await.map_err(failed)?;
    }
    let digest = loop {
        match pieces.recv().await {
            Some(Ok(Piece::NotPlain)) => {
                // Dropped unfinished, the COPY fails, and with it what it has loaded so far.
                drop(sink);
                if alone.is_some() {
                    session.batch_execute("ROLLBACK").await.map_err(failed)?;
                }
                loader.bytes_done.fetch_sub(row_bytes, Ordering::Relaxed);
                return Ok(None);
            }
            Some(Ok(Piece::Rows { mut rows, text_bytes })) => {
                while !rows.is_empty() {
                    let message = rows.split_to(rows.len().min(MESSAGE_BYTES));
                    session.answered(sink.feed(message)).await.map_err(failed)?;
                }
                row_bytes += text_bytes;
                loader.advance(text_bytes);
            }
            Some(Ok(Piece::End(digest))) => break digest,
            Some(Err(error)) => return Err(error),
            None => {
                return Err(RestoreError::Inventory {
                    why: format!("the data of {} ends early", task.label),
                });
            }
        }
    };
    if is_binary {
        session.answered(sink.feed(Bytes::from_static(binary::TRAILER))).await.map_err(failed)?;
    }
    let rows = session.answered(sink.as_mut().finish()).await.map_err(failed)?;
    if rows != digest.rows {
        let (expected, found) = (format!("{} rows", digest.rows), format!("{rows} rows"));
        return Err(RestoreError::Mismatch { table: task.label.clone(), expected, found });
    }
    if alone.is_some() {
        // Under `wal_level = minimal` the server first writes the whole table out.
        session.unhurried().batch_execute("COMMIT").await.map_err(failed)?;
    }
    Ok(Some(Loaded { digest, row_bytes }))
}

/// Reads, decodes, counts and hashes a unit's rows from load `at` on, on a thread of its own.
fn read_unit(
    archive: &LoadArchive,
    unit: &Unit,
    binary: &[bool],
    at: usize,
    sender: &mpsc::Sender<Result<Piece, RestoreError>>,
) {
    let mut reading = UnitReading { archive, unit, binary, sender, at, open: None };
    let range = match (unit.loads.get(at), unit.loads.last()) {
        (Some(first), Some(last)) => first.range.start..last.range.end,
        _ => return,
    };
    let frames = archive.object.map.overlapping(&range);
    if let Err(error) = archive.object.each_frame(frames, |frame, bytes| reading.take(frame, &bytes)) {
        // A receiver that is gone has its own reason to fail.
        let _ = sender.blocking_send(Err(error));
    }
}

/// Where a reading thread is in its unit.
struct UnitReading<'a> {
    archive: &'a LoadArchive,
    unit: &'a Unit,
    /// Which loads' rows are made binary.
    binary: &'a [bool],
    sender: &'a mpsc::Sender<Result<Piece, RestoreError>>,
    /// The load at hand.
    at: usize,
    open: Option<(CopyText, RowHasher)>,
}

impl UnitReading<'_> {
    /// Takes all loads' rows out of one frame; answers whether more is wanted.
    fn take(&mut self, frame: usize, bytes: &[u8]) -> Result<bool, RestoreError> {
        let placed = self.archive.object.map.get(frame);
        let plain = placed.plain();
        while let Some(load) = self.unit.loads.get(self.at) {
            if load.range.start >= plain.end {
                return Ok(true);
            }
            let within =
                |offset: u64| offset.clamp(plain.start, plain.end).wrapping_sub(plain.start) as usize;
            let mut chunks = &bytes[within(load.range.start)..within(load.range.end)];
            let at_start = load.range.start == self.archive.starts[load.table];
            let (mut text, mut hasher) = self.open.take().unwrap_or_else(|| {
                if at_start {
                    chunks = without_header(chunks);
                }
                let open_chunk = if at_start { 0 } else { placed.open_chunk };
                (CopyText::resume(open_chunk, false), RowHasher::default())
            });
            let ends_here = load.range.end <= plain.end;
            if !self.give_rows(load, &mut text, &mut hasher, chunks)? {
                return Ok(false);
            }
            if !ends_here {
                self.open = Some((text, hasher));
                return Ok(true);
            }
            let digest = hasher.finish().map_err(|error| damaged(&error))?;
            if !self.send(Piece::End(digest)) {
                return Ok(false);
            }
            self.at += 1;
        }
        Ok(false)
    }

    /// Takes the rows out of a frame's chunks, digests them and hands them over in batches; answers whether more is
    /// wanted.
    fn give_rows(
        &self,
        load: &Load,
        text: &mut CopyText,
        hasher: &mut RowHasher,
        chunks: &[u8],
    ) -> Result<bool, RestoreError> {
        let mut rows = Vec::with_capacity(BATCH_BYTES.min(chunks.len()));
        for piece in text.pieces(chunks) {
            let piece = piece.map_err(|error| damaged(&error))?;
            hasher.update(piece);
            rows.extend_from_slice(piece);
            if rows.len() < BATCH_BYTES {
                continue;
            }
            // A row that is longer than a batch waits for its end.
            let Some(end) = memchr::memrchr(b'\n', piece) else { continue };
            let mut next = Vec::with_capacity(BATCH_BYTES);
            next.extend_from_slice(&piece[end + 1..]);
            rows.truncate(rows.len() - next.len());
            if !self.send_rows(load, std::mem::replace(&mut rows, next)) {
                return Ok(false);
            }
        }
        Ok(rows.is_empty() || self.send_rows(load, rows))
    }

    /// Answers whether more is wanted.
    fn send_rows(&self, load: &Load, rows: Vec<u8>) -> bool {
        let text_bytes = rows.len() as u64;
        let columns = self.archive.tables[load.table].as_ref().and_then(|task| task.form.columns());
        let Some(columns) = columns.filter(|_| self.binary[self.at]) else {
            return self.send(Piece::Rows { rows: rows.into(), text_bytes });
        };
        // Lengths take a little more room than the tabs between fields.
        let mut encoded = Vec::with_capacity(rows.len() + rows.len() / 4);
        match binary::encode_rows(&rows, columns, &mut encoded) {
            Ok(()) => self.send(Piece::Rows { rows: encoded.into(), text_bytes }),
            Err(binary::NotPlain) => {
                self.send(Piece::NotPlain);
                false
            }
        }
    }

    fn send(&self, piece: Piece) -> bool {
        self.sender.blocking_send(Ok(piece)).is_ok()
    }
}

/// Inventories may count a table's data with or without the block's header. Chunks begin with the sign of their
/// length, which is 0, so the two cannot be mistaken.
fn without_header(chunks: &[u8]) -> &[u8] {
    match chunks.first() {
        Some(&DATA_KIND_ROWS) => chunks.get(DATA_HEADER_BYTES..).unwrap_or(&[]),
        _ => chunks,
    }
}

fn damaged(error: &dyn std::error::Error) -> RestoreError {
    RestoreError::Inventory { why: error.to_string() }
}
