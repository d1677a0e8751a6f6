//! The backup of a source of files: one thread reads, the tar and its indexes are uploaded side by side.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use pgproof_files::backup::{self, Backed, BackupError, Memory, Size};
use pgproof_files::entry::{Moment, Note};
use pgproof_files::host_index::{self, HostIndex, HostIndexError};
use pgproof_files::inventory::{self, Frames, Inventory, Totals};
use pgproof_files::path::StoredPath;
use pgproof_files::{Filter, Watch};
use pgproof_policies::policy::{FilesSource, Location};
use pgproof_repository::host_secret::HostSecret;
use pgproof_repository::ids::BackupId;
use pgproof_repository::keys::Recipients;
use pgproof_repository::layout;
use pgproof_repository::lifecycle::{Committed, PartsUploaded, Started, upload_parts};
use pgproof_repository::manifest::v1;
use pgproof_repository::sealed::{SealError, SealedReader, SealedSummary, Sealer, Workers};
use pgproof_repository::store::StoreError;
use pgproof_repository::store::part_plan::{PartLimits, PartPlan};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::following::{self, Following, FullBecause};
use super::memory::{INDEX_UPLOADS_IN_FLIGHT, INDEX_WORKERS, UPLOADS_IN_FLIGHT};
use super::{Begun, Described, Job, interrupted, watchdog};
use crate::failure::{self, Exit, Failure};
use crate::progress::Progress;

/// How long a reader that was told to stop may take. One that hangs in a dead network file system never does.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// Files that are named on standard error; the index names all.
const NAMED_MAX: usize = 20;
/// The share of a tree for which an incremental backup has room before its parts grow, whatever the files' times say: a folder that
/// was moved is read again, and does not show in them.
const MOVED_SHARE: u64 = 4;

type Upload = JoinHandle<Result<PartsUploaded, StoreError>>;

/// How a backup hangs together with earlier ones.
enum Way {
    /// It does not, and the next one will not either.
    Alone,
    Full(HostSecret, FullBecause),
    Following(HostSecret, Box<Following>),
}

/// Everything that was read, and lies in the store in parts.
struct Read {
    backed: Backed,
    data: PartsUploaded,
    index: PartsUploaded,
    host_index: Option<PartsUploaded>,
}

impl Job {
    pub(super) async fn back_up_files(
        &self,
        files: &FilesSource,
        begun: &Begun<'_>,
    ) -> anyhow::Result<Committed> {
        self.refuse_own_repository(files)?;
        let way = self.way(files, begun).await?;
        let since = way.following().map(|following| host_index::settled_until(following.walk_began));
        let size = self.measure(files, since).await?;
        // Whatever was written before this moment is in the backup.
        let at = Timestamp::now();
        let mut started = Started::new(self.store.clone(), self.source.name.clone(), begun.id.clone());
        let (way, read) = self.read_files_or_all(files, &started, way, size, at).await?;
        let Read { backed, data: data_parts, index: index_parts, host_index: host_parts } = read;
        let data = object(layout::archive_name(0), v1::Role::Archive, &backed.data);
        let index = object(layout::INDEX.to_owned(), v1::Role::Index, &backed.index);
        let previous = self.previous().await;
        started.complete_upload(data_parts, data).await?;
        started.complete_upload(index_parts, index).await?;
        if let Some((parts, remembered)) = host_parts.zip(backed.remembered.as_ref()) {
            let role = v1::Role::HostIndex;
            let host_index = object(layout::HOST_INDEX.to_owned(), role, &remembered.host_index);
            started.complete_upload(parts, host_index).await?;
        }
        let inventory = serde_json::to_vec(&inventory_of(&backed))?;
        self.put(&mut started, layout::INVENTORY, v1::Role::Inventory, &inventory).await?;
        let contents = contents(&way, &backed);
        self.refuse_lost_bases(begun, contents.chain.as_ref()).await?;
        self.stop_if_cancelled()?;
        let described = Described {
            snapshot: v1::Snapshot { at, lsn: None, in_recovery: false },
            pg_dump: None,
            restore: by_hand(begun.id, contents.chain.as_ref()),
            contents: v1::Contents::Files(contents),
            previous,
            imported: None,
            warnings: warnings(&way, &backed),
        };
        self.commit(begun, started, described).await
    }

    async fn way(&self, files: &FilesSource, begun: &Begun<'_>) -> anyhow::Result<Way> {
        let Some(incremental) = &files.incremental else { return Ok(Way::Alone) };
        let secret = HostSecret::of(&self.signing_key)?;
        Ok(match self.following(incremental, &secret, begun).await? {
            Ok(following) => Way::Following(secret, Box::new(following)),
            Err(because) => Way::Full(secret, because),
        })
    }

    /// Reads what changed, or all of it where what was known of the backup before turns out to be of no use.
    async fn read_files_or_all(
        &self,
        files: &FilesSource,
        started: &Started,
        way: Way,
        size: Size,
        at: Timestamp,
    ) -> anyhow::Result<(Way, Read)> {
        match (self.read_files(files, started, &way, size, at).await, way) {
            (Err(error), Way::Following(secret, following)) if is_of_memory(&error) => {
                let before = following.sources[0].id.clone();
                let because = FullBecause::Damaged { before, error: failure::message(&error) };
                tracing::warn!("a full backup is made, because {because}");
                let way = Way::Full(secret, because);
                let read = self.read_files(files, started, &way, size, at).await?;
                Ok((way, read))
            }
            (read, way) => Ok((way, read?)),
        }
    }

    /// What this backup shares with earlier ones must still be there when it becomes one.
    async fn refuse_lost_bases(&self, begun: &Begun<'_>, chain: Option<&v1::Chain>) -> anyhow::Result<()> {
        let bases = chain.map_or(&[][..], |chain| &chain.bases);
        match self.lost(begun.id, bases).await? {
            None => Ok(()),
            Some(error) => {
                let hint = "find out who removed it; the next backup is a full one";
                Err(Failure::new(Exit::Failed, error, hint).into())
            }
        }
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

    /// Reads the files; what was read is in the store when it ends well, and nothing is when it does not.
    async fn read_files(
        &self,
        files: &FilesSource,
        started: &Started,
        way: &Way,
        size: Size,
        at: Timestamp,
    ) -> anyhow::Result<Read> {
        let parts = self.part_plan(Some(expected(way.following().is_some(), size, self.store.part_limits())));
        let sealing = Sealing {
            recipients: &self.recipients,
            workers: self.workers(),
            parts,
            in_flight: UPLOADS_IN_FLIGHT,
        };
        let (data, data_upload) = self.start_upload(started, &layout::archive_name(0), sealing)?;
        let sealing = self.of_index(&self.recipients);
        let (index, index_upload) = self.start_upload(started, layout::INDEX, sealing)?;
        let (remembering, host_upload) = match way {
            Way::Alone => (None, None),
            Way::Full(secret, _) => self.start_host_index(started, secret, None)?,
            Way::Following(secret, following) => self.start_host_index(started, secret, Some(following))?,
        };
        let (files, beat, stop) = (files.clone(), watchdog::Beat::default(), CancellationToken::new());
        let watch = Reading {
            beat: beat.clone(),
            progress: self.is_watched.then(|| Progress::new("files", 0, self.json)),
            stop: stop.clone(),
            named: AtomicUsize::new(0),
        };
        let walk_began = following::moment(at);
        let mut reading = tokio::task::spawn_blocking(move || {
            let memory = remembering.map(|remembering| remembering.memory(walk_began)).transpose()?;
            backup::run(&files, data, index, memory, &watch)
        });
        let uploads: Vec<Upload> = [data_upload, index_upload].into_iter().chain(host_upload).collect();
        let read = tokio::select! {
            read = &mut reading => read?.map_err(anyhow::Error::from),
            stopped = self.stop_reading(&beat) => {
                stop.cancel();
                if tokio::time::timeout(STOP_WITHIN, reading).await.is_err() {
                    // Its uploads would wait for it for ever; the next run aborts what they leave.
                    uploads.iter().for_each(JoinHandle::abort);
                }
                Err(stopped.into())
            }
        };
        let mut uploaded = Vec::new();
        for upload in uploads {
            uploaded.push(parts_of(upload.await));
        }
        // Asked to stop, it completes nothing, even where everything is there to be completed.
        let read = read.and_then(|backed| self.stop_if_cancelled().map(|()| backed));
        let backed = match read {
            Ok(backed) if uploaded.iter().all(Result::is_ok) => backed,
            read => return Err(first_cause(read, uploaded).await),
        };
        let mut parts = uploaded.into_iter().flatten();
        let (Some(data), Some(index)) = (parts.next(), parts.next()) else {
            unreachable!("both were begun above")
        };
        Ok(Read { backed, data, index, host_index: parts.next() })
    }

    /// The index that this host keeps for itself, and the one that it kept of the backup before.
    fn start_host_index(
        &self,
        started: &Started,
        secret: &HostSecret,
        following: Option<&Following>,
    ) -> anyhow::Result<(Option<Remembering>, Option<Upload>)> {
        let recipients = secret.recipients()?;
        let (sealer, upload) = self.start_upload(started, layout::HOST_INDEX, self.of_index(&recipients))?;
        let earlier = following.map(|following| {
            let bases = following.sources.len() as u32 - 1;
            (following.host_index.clone(), bases)
        });
        Ok((Some(Remembering { earlier, sealer }), Some(upload)))
    }

    fn of_index<'r>(&self, recipients: &'r Recipients) -> Sealing<'r> {
        let parts = PartPlan::of_small(self.store.part_limits());
        Sealing { recipients, workers: INDEX_WORKERS, parts, in_flight: INDEX_UPLOADS_IN_FLIGHT }
    }

    fn start_upload(
        &self,
        started: &Started,
        name: &str,
        sealing: Sealing<'_>,
    ) -> Result<(Sealer<()>, Upload), SealError> {
        let Sealing { recipients, workers, parts: plan, in_flight } = sealing;
        let workers = Workers::shared_by(self.source.compression_level, workers, 1, in_flight)?;
        let (sealer, parts) = workers.sealer(recipients, move |number| plan.part_bytes(number))?;
        let upload = upload_parts(self.store.clone(), started.key(name), parts, in_flight);
        Ok((sealer, tokio::spawn(upload)))
    }

    /// What a backup would read, before it does.
    pub(super) async fn measure(&self, files: &FilesSource, since: Option<Moment>) -> anyhow::Result<Size> {
        let (files, beat, stop) = (files.clone(), watchdog::Beat::default(), CancellationToken::new());
        let (progress, named) = (None, AtomicUsize::new(0));
        let watch = Reading { beat: beat.clone(), progress, stop: stop.clone(), named };
        let mut looking = tokio::task::spawn_blocking(move || backup::measure(&files, since, &watch));
        tokio::select! {
            size = &mut looking => Ok(size??),
            stopped = self.stop_reading(&beat) => {
                stop.cancel();
                let _ = tokio::time::timeout(STOP_WITHIN, looking).await;
                Err(stopped.into())
            }
        }
    }

    async fn stop_reading(&self, beat: &watchdog::Beat) -> Failure {
        let timeout = self.source.no_progress_timeout;
        tokio::select! {
            () = self.cancel.cancelled() => interrupted(),
            () = beat.stopped_for(timeout) => stuck(timeout),
        }
    }
}

impl Way {
    fn following(&self) -> Option<&Following> {
        match self {
            Self::Following(_, following) => Some(following),
            Self::Alone | Self::Full(..) => None,
        }
    }
}

/// What will be stored of a tree. Of too low an estimate parts grow, unless the store wants all of one size: then it is what must fit.
fn expected(follows: bool, size: Size, limits: PartLimits) -> u64 {
    match follows && !limits.equal_parts {
        true => size.changed_bytes.max(size.bytes / MOVED_SHARE),
        false => size.bytes,
    }
}

/// What made it end: the store where that failed, because the reader's end is then only its echo. Uploads that went well are
/// aborted.
async fn first_cause(
    read: anyhow::Result<Backed>,
    uploads: Vec<anyhow::Result<PartsUploaded>>,
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

/// Whether what was kept of the backup before, and nothing else, was at fault.
fn is_of_memory(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(BackupError::Memory { .. }))
}

/// Whether a reader only ended because nobody took what it read.
fn is_echo(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(BackupError::Seal { .. }))
}

fn parts_of(joined: Result<Result<PartsUploaded, StoreError>, JoinError>) -> anyhow::Result<PartsUploaded> {
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

fn contents(way: &Way, backed: &Backed) -> v1::Files {
    let (chain, full_because) = match way {
        Way::Alone => (None, None),
        Way::Full(_, because) => (None, Some(because.to_string())),
        Way::Following(_, following) => (Some(chain(following, backed)), None),
    };
    v1::Files { tree: tree(&backed.totals), chain, full_because }
}

fn warnings(way: &Way, backed: &Backed) -> Vec<String> {
    let of_way = match way {
        Way::Full(_, because) if because.is_odd() => Some(format!("a full backup, because {because}")),
        _ => None,
    };
    backed.totals.warnings().into_iter().chain(of_way).collect()
}

fn chain(following: &Following, backed: &Backed) -> v1::Chain {
    let numbers = backed.remembered.iter().flat_map(|remembered| &remembered.bases);
    v1::Chain {
        full: following.full.clone(),
        parent: following.sources[0].id.clone(),
        depth: following.depth,
        bases: numbers.map(|number| following.sources[*number as usize].clone()).collect(),
        own_files: backed.own.files,
        own_bytes: backed.own.bytes,
    }
}

/// The line of stock tools. Files that were deleted since one of the earlier backups are there again after it.
fn by_hand(id: &BackupId, chain: Option<&v1::Chain>) -> String {
    const UNPACK: &str = "zstd -d | tar -x --xattrs --xattrs-include='*'";
    let archive = layout::archive_name(0);
    let mut ids: Vec<&BackupId> =
        chain.into_iter().flat_map(|chain| &chain.bases).map(|base| &base.id).collect();
    if ids.is_empty() {
        return format!("age -d -i IDENTITY {archive} | {UNPACK}");
    }
    ids.sort();
    ids.push(id);
    let ids = ids.into_iter().map(BackupId::as_str).collect::<Vec<_>>().join(" ");
    format!("for id in {ids}; do age -d -i IDENTITY ../$id/{archive} | {UNPACK} || break; done")
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

/// To whom an object is sealed, and how.
struct Sealing<'a> {
    recipients: &'a Recipients,
    workers: usize,
    parts: PartPlan,
    in_flight: usize,
}

/// What a reader takes to know the files of the backup before, and to let the next one know those of this one.
struct Remembering {
    /// With the number of backups that hold bytes of that one.
    earlier: Option<(SealedReader, u32)>,
    sealer: Sealer<()>,
}

impl Remembering {
    fn memory(self, walk_began: Moment) -> Result<Memory, BackupError> {
        let earlier = match self.earlier {
            Some((reader, bases)) => {
                let stream = reader.stream().map_err(io::Error::other);
                let stream = stream.map_err(|source| HostIndexError::Read { source })?;
                Some(HostIndex::open(Box::new(stream), bases)?)
            }
            None => None,
        };
        Memory::new(walk_began, earlier, self.sealer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_tree_that_is_followed_what_changed_is_expected_or_a_quarter() {
        const GIB: u64 = 1 << 30;
        let size = |changed: u64| Size { bytes: 400 * GIB, changed_bytes: changed * GIB, is_whole: true };
        assert_eq!(expected(false, size(1), PartLimits::S3), 400 * GIB);
        assert_eq!(expected(true, size(1), PartLimits::S3), 100 * GIB);
        assert_eq!(expected(true, size(300), PartLimits::S3), 300 * GIB);
        // Its parts cannot grow.
        let equal = PartLimits { equal_parts: true, ..PartLimits::S3 };
        assert_eq!(expected(true, size(1), equal), 400 * GIB);
    }
}
