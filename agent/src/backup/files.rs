//! The backup of a source of files: one thread reads, the tar and its index are uploaded side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use pgproof_files::backup::{self, Backed, BackupError};
use pgproof_files::entry::Note;
use pgproof_files::inventory::{self, Frames, Inventory, Totals};
use pgproof_files::path::StoredPath;
use pgproof_files::{Filter, Watch};
use pgproof_policies::policy::{FilesSource, Location};
use pgproof_repository::layout;
use pgproof_repository::lifecycle::{Committed, PartsUploaded, Started, upload_parts};
use pgproof_repository::manifest::v1;
use pgproof_repository::sealed::{SealError, SealedSummary, Sealer};
use pgproof_repository::store::StoreError;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Begun, Described, Job, UPLOADS_IN_FLIGHT, interrupted, watchdog};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;

/// How long a reader that was told to stop may take. One that hangs in a dead network file system never does.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Files that are named on standard error; the index names all.
const NAMED_MAX: usize = 20;
/// An index has a hundredth of the archive's bytes: one part of it at a time is enough.
const INDEX_UPLOADS_IN_FLIGHT: usize = 1;

type Upload = JoinHandle<Result<PartsUploaded, StoreError>>;

impl Job {
    pub(super) async fn back_up_files(
        &self,
        files: &FilesSource,
        begun: &Begun<'_>,
    ) -> anyhow::Result<Committed> {
        self.refuse_own_repository(files)?;
        // Whatever was written before this moment is in the backup.
        let at = Timestamp::now();
        let mut started = Started::new(self.store.clone(), self.source.name.clone(), begun.id.clone());
        let (backed, data_parts, index_parts) = self.read_files(files, &started).await?;
        let data = object(layout::archive_name(0), v1::Role::Archive, &backed.data);
        let index = object(layout::INDEX.to_owned(), v1::Role::Index, &backed.index);
        let previous = self.previous().await;
        started.complete_upload(data_parts, data).await?;
        started.complete_upload(index_parts, index).await?;
        let inventory = serde_json::to_vec(&inventory_of(&backed))?;
        self.put(&mut started, layout::INVENTORY, v1::Role::Inventory, &inventory).await?;
        self.stop_if_cancelled()?;
        let described = Described {
            snapshot: v1::Snapshot { at, lsn: None, in_recovery: false },
            pg_dump: None,
            contents: v1::Contents::Files(v1::Files { tree: tree(&backed.totals) }),
            previous,
            imported: None,
            warnings: backed.totals.warnings(),
            restore: format!(
                "age -d -i IDENTITY {} | zstd -d | tar -x --xattrs --xattrs-include='*'",
                layout::archive_name(0)
            ),
        };
        self.commit(begun, started, described).await
    }

    /// A repository that backs itself up doubles every night.
    fn refuse_own_repository(&self, files: &FilesSource) -> anyhow::Result<()> {
        let Location::Directory { path } = &self.loaded.policy.repository.location else { return Ok(()) };
        let Ok(Some(stored)) = StoredPath::below_root(path) else { return Ok(()) };
        let is_read = files.paths.iter().any(|root| path.starts_with(root));
        if !is_read || Filter::new(&files.include, &files.exclude)?.leaves_out(&stored) {
            return Ok(());
        }
        let message = format!("the source's paths contain the repository itself, {}", path.display());
        let hint = format!("add {:?} to the source's `exclude`", path.display().to_string());
        Err(Failure::new(Exit::Usage, message, hint).into())
    }

    /// Reads all files; tar and index are in the store when it ends well, and nothing is when it does not.
    async fn read_files(
        &self,
        files: &FilesSource,
        started: &Started,
    ) -> anyhow::Result<(Backed, PartsUploaded, PartsUploaded)> {
        let (data, data_upload) =
            self.start_upload(started, &layout::archive_name(0), self.workers(), UPLOADS_IN_FLIGHT)?;
        let (index, index_upload) = self.start_upload(started, layout::INDEX, 1, INDEX_UPLOADS_IN_FLIGHT)?;
        let (files, beat, stop) = (files.clone(), watchdog::Beat::default(), CancellationToken::new());
        let watch = Reading {
            beat: beat.clone(),
            progress: self.is_watched.then(|| Progress::new("files", 0, self.json)),
            stop: stop.clone(),
            named: AtomicUsize::new(0),
        };
        let mut reading = tokio::task::spawn_blocking(move || backup::run(&files, data, index, &watch));
        let read = tokio::select! {
            read = &mut reading => read?.map_err(anyhow::Error::from),
            stopped = self.stop_reading(&beat) => {
                stop.cancel();
                if tokio::time::timeout(STOP_WITHIN, reading).await.is_err() {
                    // Its uploads would wait for it for ever; the next run aborts what they leave.
                    data_upload.abort();
                    index_upload.abort();
                }
                Err(stopped.into())
            }
        };
        let (data, index) = (uploaded(data_upload.await), uploaded(index_upload.await));
        // Asked to stop, it completes nothing, even where everything is there to be completed.
        let read = read.and_then(|backed| self.stop_if_cancelled().map(|()| backed));
        match (read, data, index) {
            (Ok(backed), Ok(data), Ok(index)) => Ok((backed, data, index)),
            (read, data, index) => {
                let error = first_cause(read, [data, index]).await;
                Err(error)
            }
        }
    }

    fn start_upload(
        &self,
        started: &Started,
        name: &str,
        workers: usize,
        in_flight: usize,
    ) -> Result<(Sealer<()>, Upload), SealError> {
        let plan = self.part_plan(None);
        let (sealer, parts) =
            Sealer::start(&self.recipients, self.source.compression_level, workers, move |number| {
                plan.part_bytes(number)
            })?;
        let upload = upload_parts(self.store.clone(), started.key(name), parts, in_flight);
        Ok((sealer, tokio::spawn(upload)))
    }

    async fn stop_reading(&self, beat: &watchdog::Beat) -> Failure {
        let timeout = self.source.no_progress_timeout;
        tokio::select! {
            () = self.cancel.cancelled() => interrupted(),
            () = beat.stopped_for(timeout) => stuck(timeout),
        }
    }
}

/// What made it end: the store where that failed, because the reader's end is then only its echo. Uploads that went well are
/// aborted.
async fn first_cause(
    read: anyhow::Result<Backed>,
    uploads: [anyhow::Result<PartsUploaded>; 2],
) -> anyhow::Error {
    let mut cause = None;
    for upload in uploads {
        match upload {
            Ok(parts) => {
                if let Err(error) = parts.abort().await {
                    tracing::warn!(error = %error, "upload could not be aborted; the next run will");
                }
            }
            Err(error) => cause = cause.or(Some(error)),
        }
    }
    let read = read.err();
    match read {
        Some(error) if !is_echo(&error) => error,
        read => cause.or(read).unwrap_or_else(|| anyhow::anyhow!("archive cannot be uploaded")),
    }
}

/// Whether a reader only ended because nobody took what it read.
fn is_echo(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(BackupError::Seal { .. }))
}

fn uploaded(joined: Result<Result<PartsUploaded, StoreError>, JoinError>) -> anyhow::Result<PartsUploaded> {
    joined?.context("archive cannot be uploaded")
}

fn stuck(after: SignedDuration) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("no file could be read for {after:#}"),
        "look for a dead network file system; `no_progress_timeout` in the policy sets how long is too long",
    )
}

fn object(name: String, role: v1::Role, summary: &SealedSummary<()>) -> v1::Object {
    v1::Object { name, role, plaintext: summary.plaintext, ciphertext: summary.ciphertext }
}

fn inventory_of(backed: &Backed) -> Inventory {
    Inventory {
        format: inventory::FORMAT.to_owned(),
        version: inventory::VERSION,
        data: Frames::of(layout::archive_name(0), &backed.data.frames),
        index: Frames::of(layout::INDEX.to_owned(), &backed.index.frames),
        index_starts: backed.index_starts.clone(),
        totals: backed.totals.clone(),
    }
}

fn tree(totals: &Totals) -> v1::Tree {
    v1::Tree {
        files: totals.files,
        folders: totals.folders,
        symlinks: totals.symlinks,
        hard_links: totals.hard_links,
        content_bytes: totals.bytes,
        losses: totals.losses(),
    }
}

/// Looks on while files are read.
struct Reading {
    beat: watchdog::Beat,
    progress: Option<Progress>,
    stop: CancellationToken,
    named: AtomicUsize,
}

impl Watch for Reading {
    fn advance(&self, bytes: u64) {
        self.beat.now();
        if let Some(progress) = &self.progress {
            progress.advance(bytes);
        }
    }

    fn at(&self, path: &StoredPath) {
        if let Some(progress) = &self.progress {
            progress.at(&path.to_string());
        }
    }

    fn noted(&self, path: &StoredPath, note: Note) {
        let is_expected = matches!(note, Note::Special | Note::OtherFileSystem);
        if !is_expected && self.named.fetch_add(1, Ordering::Relaxed) < NAMED_MAX {
            tracing::warn!(path = %path, note = ?note, "a file is not stored as it was");
        }
    }

    /// Asked for at every entry, so a walk that finds nothing to read shows that it lives, too.
    fn is_cancelled(&self) -> bool {
        self.beat.now();
        self.stop.is_cancelled()
    }
}
