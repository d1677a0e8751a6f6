//! A dump that pgproof did not make, taken in as a backup of its source.
//!
//! The file goes through the same cutter and seal as a dump of our own, so that its rows are counted and a drill can prove
//! that it restores. What only its server could have told is not known, and the manifest says whose word the time is. It is no attempt of
//! the schedule: no hook runs, no run is recorded, and nobody is told that backups go well.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgproof_postgres::archive::origin::Origin;
use pgproof_postgres::archive::wording::ZoneWitness;
use pgproof_postgres::archive::{Compression, Inflated, Toc, repeated_contents};
use pgproof_postgres::client::Version;
use pgproof_repository::catalog::Entry;
use pgproof_repository::ids::{BackupId, PlaintextSha256};
use pgproof_repository::inventory::{self, Inventory, Wording};
use pgproof_repository::layout;
use pgproof_repository::lifecycle::{Committed, PartsUploaded, Started, upload_parts};
use pgproof_repository::manifest::v1;
use pgproof_repository::sealed::{Sealer, Workers};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::attempt::Claim;
use super::database::{archive_facts, archive_object, not_indexed};
use super::stream::{self, SealedArchive};
use super::streams::in_work;
use super::{Begun, Described, Job, UPLOADS_IN_FLIGHT, by_hand, interrupted};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;

/// Zones reach from UTC-12 to UTC+14, and a clock may be an hour off: beyond this the time given is another dump's.
const CLOCK_DISTANCE_MAX: SignedDuration = SignedDuration::from_hours(15);
/// What is read of a file at a time to compare it with one that was imported before.
const HASH_BYTES: usize = 1 << 20;

/// A dump to be taken in. Existence means that its head was read, and that it is of a whole database.
#[derive(Debug)]
pub(crate) struct Import {
    path: PathBuf,
    bytes: u64,
    /// Without what some versions of `pg_dump` leave behind it.
    archive_bytes: u64,
    toc: Toc,
    origin: Origin,
    taken_at: Timestamp,
    told_by: String,
    time_zone: String,
    zone: TimeZone,
    globals: Option<String>,
}

impl Import {
    /// Reads the head of the file. Blocks.
    pub(crate) fn open(path: &Path, taken_at: Timestamp, told_by: String) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        let refused = |error| {
            let message = format!("cannot open {}: {error}", named());
            Failure::new(Exit::Failed, message, "is it there, and may this user read it?")
        };
        // Before it is opened: of a pipe that waits for whoever writes into it.
        let metadata = std::fs::metadata(path).map_err(refused)?;
        if !metadata.is_file() {
            let hint = "a dump in the directory format (-Fd) cannot be imported; one in the custom format (-Fc) is one file";
            return Err(Failure::new(Exit::Usage, format!("{} is no file", named()), hint).into());
        }
        let mut file = File::open(path).map_err(refused)?;
        let (toc, _) = Toc::read(&mut file).with_context(named)?;
        let repeated = repeated_contents(&mut file).with_context(named)?;
        let origin = Origin::of(&toc).with_context(named)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: metadata.len(),
            archive_bytes: metadata.len() - repeated,
            toc,
            origin,
            taken_at,
            told_by,
            time_zone: "UTC".to_owned(),
            zone: TimeZone::UTC,
            globals: None,
        })
    }

    /// The same, made by a server whose `TimeZone` was another one.
    pub(crate) fn in_time_zone(self, name: &str) -> anyhow::Result<Self> {
        let zone = TimeZone::get(name).map_err(|_| {
            let hint = "such as Europe/Paris: what SHOW TimeZone says on the server that was dumped";
            Failure::new(Exit::Usage, format!("{name:?} is not a known time zone"), hint)
        })?;
        Ok(Self { time_zone: name.to_owned(), zone, ..self })
    }

    /// The same with roles, as `pg_dumpall --globals-only` writes them.
    pub(crate) fn with_globals(self, text: String) -> Self {
        Self { globals: Some(text), ..self }
    }

    /// A time that has not come would keep alarms silent until it has.
    pub(crate) fn refuse_future(&self, now: Timestamp) -> Result<(), Failure> {
        if self.taken_at <= now {
            return Ok(());
        }
        let message = format!("{} has not come yet", self.taken_at);
        Err(Failure::new(Exit::Usage, message, "--taken-at is when the dump began"))
    }

    /// A time that cannot be that of this dump is a slip of the pen, and once signed it stays.
    pub(crate) fn check_clock(&self) -> Result<(), Failure> {
        let Some(began) = self.origin.began else { return Ok(()) };
        let Ok(as_utc) = began.to_zoned(TimeZone::UTC) else { return Ok(()) };
        if self.taken_at.duration_since(as_utc.timestamp()).abs() <= CLOCK_DISTANCE_MAX {
            return Ok(());
        }
        let message =
            format!("the dump began at {began} by its host's clock, and {} is given", self.taken_at);
        let hint =
            "give the time at which the dump began; --trust-time takes yours where that clock was wrong";
        Err(Failure::new(Exit::Usage, message, hint))
    }

    /// The backup that was made of this very file before, as it is safe to run a loop over many files twice. Blocks.
    pub(crate) fn made_before<'a>(&self, entries: &'a [Entry]) -> anyhow::Result<Option<&'a BackupId>> {
        let alike = |file: &v1::Imported| file.file.bytes == self.bytes;
        let of_file = |entry: &'a Entry| Some((&entry.id, entry.whole()?));
        let mut candidates = entries
            .iter()
            .filter_map(of_file)
            .filter(|(_, signed)| signed.snapshot_at() == self.taken_at)
            .filter_map(|(id, signed)| Some((id, signed.get().imported.as_ref().filter(|it| alike(it))?)))
            .peekable();
        if candidates.peek().is_none() {
            return Ok(None);
        }
        let sha256 = hash(&self.path).with_context(|| self.path.display().to_string())?;
        Ok(candidates.find(|(_, imported)| imported.file.sha256 == sha256).map(|(id, _)| id))
    }

    fn is_compressed(&self) -> bool {
        matches!(self.toc.header.compression, Compression::Gzip | Compression::Zstd)
    }
}

impl Job {
    /// Takes the dump in, under the source's lease.
    pub(crate) async fn import(&self, import: Import, claim: Claim) -> anyhow::Result<Committed> {
        let Claim { marker, renewal } = claim;
        let started_at = Timestamp::now();
        let id = BackupId::new(started_at, &mut rand::rng());
        let begun = Begun { marker: &marker, id: &id, started_at };
        let outcome = tokio::select! {
            outcome = self.take_in(import, &begun) => outcome,
            lost = renewal.lost() => Err(anyhow!(lost).context("the lease on this source was lost")),
        };
        renewal.release().await;
        match self.cancel.is_cancelled() && outcome.is_err() {
            true => Err(interrupted().into()),
            false => outcome,
        }
    }

    async fn take_in(&self, import: Import, begun: &Begun<'_>) -> anyhow::Result<Committed> {
        let mut started = Started::new(self.store.clone(), self.source.name.clone(), begun.id.clone());
        let import = Arc::new(import);
        let Sealed { archive, file, parts } = self.seal_file(&started, &import).await?;
        started.complete_upload(parts, archive_object(&archive, 0)).await?;
        if let Some(globals) = &import.globals {
            self.put(&mut started, layout::GLOBALS, v1::Role::Globals, globals.as_bytes()).await?;
        }
        let (inventory, warnings) = inventory_of(&archive, &import);
        let inventory_bytes = serde_json::to_vec(&inventory)?;
        self.put(&mut started, layout::INVENTORY, v1::Role::Inventory, &inventory_bytes).await?;
        let previous = self.previous().await;
        self.stop_if_cancelled()?;
        let mut server = import.origin.server.clone();
        // Nobody measured the database; what the archive holds is the nearest that is known.
        server.database_bytes = archive.plaintext.bytes;
        let imported =
            v1::Imported { told_by: import.told_by.clone(), file, decompressed: import.is_compressed() };
        let described = Described {
            snapshot: v1::Snapshot { at: import.taken_at, lsn: None, in_recovery: false },
            pg_dump: import.origin.pg_dump.as_deref().map(version),
            contents: v1::Contents::Postgres(Box::new(v1::Postgres {
                server,
                archive: archive_facts(std::slice::from_ref(&archive), &inventory, None),
            })),
            previous,
            imported: Some(imported),
            warnings,
            restore: by_hand::restore(1),
        };
        self.commit(begun, started, described).await
    }

    /// Reads the file to its end; its parts are in the store when it ends well, and nothing is when it does not.
    async fn seal_file(&self, started: &Started, import: &Arc<Import>) -> anyhow::Result<Sealed> {
        let plan = self.part_plan(Some(import.bytes));
        let part_bytes = move |number| plan.part_bytes(number);
        let level = self.source.compression_level;
        let workers = Workers::shared_by(level, self.workers(), 1, UPLOADS_IN_FLIGHT)?;
        let (sealer, parts) = workers.sealer(&self.recipients, part_bytes)?;
        let key = started.key(&layout::archive_name(0));
        let upload = tokio::spawn(upload_parts(self.store.clone(), key, parts, UPLOADS_IN_FLIGHT));
        let progress = self.is_watched.then(|| Progress::new("import", import.bytes, self.json));
        let (order, stop) = (Arc::clone(import), self.cancel.child_token());
        let sealing = tokio::task::spawn_blocking(move || seal(&order, sealer, progress.as_ref(), &stop));
        let (sealed, uploaded) = (sealing.await?, upload.await?);
        match (uploaded, sealed) {
            (Ok(parts), Ok((archive, file))) => Ok(Sealed { archive, file, parts }),
            (Ok(parts), Err(error)) => {
                parts.abort_or_tell().await;
                Err(error)
            }
            (Err(error), Ok(_) | Err(_)) => {
                Err(anyhow::Error::from(error).context("archive cannot be uploaded"))
            }
        }
    }
}

/// An archive that is stored but for its completion, and the file that it came from.
struct Sealed {
    archive: SealedArchive,
    file: v1::Plaintext,
    parts: PartsUploaded,
}

fn seal(
    import: &Import,
    sealer: Sealer<stream::BlockDigests>,
    progress: Option<&Progress>,
    stop: &CancellationToken,
) -> anyhow::Result<(SealedArchive, v1::Plaintext)> {
    let named = || import.path.display().to_string();
    let mut file = Fed::open(&import.path, stop.clone()).with_context(named)?;
    let read = Arc::clone(&file.read);
    let mut witness = ZoneWitness::new(&import.time_zone, import.zone.clone());
    witness.learn(&import.toc);
    let mut refuted = None;
    let archive = Inflated::new((&mut file).take(import.archive_bytes));
    let sealed = stream::seal(
        archive,
        sealer,
        |_| Ok(()),
        |block, table| {
            if let Err(other) = witness.look(block) {
                refuted.get_or_insert(other);
                stop.cancel();
            }
            let Some(progress) = progress else { return };
            progress.reach(read.load(Ordering::Relaxed), import.bytes);
            if let Some(entry) = table {
                progress.at(&in_work(entry));
            }
        },
    );
    if let Some(other) = refuted {
        let hint = "--time-zone names the TimeZone of the server that was dumped (SHOW TimeZone), so that its rows can be compared";
        return Err(Failure::new(Exit::Usage, other.to_string(), hint).into());
    }
    let sealed = sealed.with_context(named)?;
    io::copy(&mut file, &mut io::sink()).with_context(named)?;
    let bytes = read.load(Ordering::Relaxed);
    let sha256 = PlaintextSha256::new(file.hash.finalize().into());
    Ok((sealed, v1::Plaintext { bytes, sha256 }))
}

/// The file, hashed and counted as it is read; it ends with an error when it is to stop.
struct Fed {
    file: File,
    hash: Sha256,
    read: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Fed {
    fn open(path: &Path, stop: CancellationToken) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.rewind()?;
        Ok(Self { file, hash: Sha256::new(), read: Arc::default(), stop })
    }
}

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("it was told to stop"));
        }
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn hash(path: &Path) -> io::Result<PlaintextSha256> {
    let mut file = Fed::open(path, CancellationToken::new())?;
    let mut buffer = vec![0; HASH_BYTES];
    while file.read(&mut buffer)? > 0 {}
    Ok(PlaintextSha256::new(file.hash.finalize().into()))
}

fn version(of_dump: &str) -> String {
    of_dump.parse::<Version>().map_or_else(|_| of_dump.to_owned(), |version| version.to_string())
}

/// The inventory, and what a drill or a restore will have to do without.
fn inventory_of(archive: &SealedArchive, import: &Import) -> (Inventory, Vec<String>) {
    let origin = &import.origin;
    let mut warnings: Vec<String> = not_indexed(archive).into_iter().collect();
    if import.globals.is_none() {
        warnings.push(
            "the backup holds no roles: they must be there before it is restored with owners".to_owned(),
        );
    }
    if origin.has_settings {
        warnings.push(
            "settings of the database (ALTER DATABASE … SET) are in the archive and are not restored"
                .to_owned(),
        );
    }
    let sequences = match archive.sequences().transpose() {
        Ok(sequences) => sequences,
        Err(why) => {
            warnings.push(format!("a drill will not compare sequences: {why}"));
            None
        }
    };
    let extensions = origin.extensions.iter().map(|name| serde_json::json!({ "name": name }));
    let inventory = Inventory {
        format: inventory::FORMAT.to_owned(),
        version: inventory::VERSION,
        archives: vec![archive.inventory(layout::archive_name(0))],
        facts: serde_json::json!({ "extensions": extensions.collect::<Vec<_>>() }),
        server_settings: Default::default(),
        sequences,
        large_objects: archive.large_objects(),
        structure: None,
        wording: Some(Wording { encoding: origin.encoding.clone(), time_zone: import.time_zone.clone() }),
    };
    (inventory, warnings)
}
