//! The backup's objects, opened for reading: every byte that comes out was authenticated against the signed manifest.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::inventory::{self, INVENTORY_BYTES_MAX, Inventory};
use pgproof_repository::keys::Identities;
use pgproof_repository::layout;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{Object, Role};
use pgproof_repository::sealed::{Expected, SealedReader, unseal_bytes};
use pgproof_repository::store::SharedStore;
use tokio::runtime::Handle;

use super::error::{RestoreError, Source};
use super::frames::FrameMap;

/// Bytes read at a time from a stream without index.
const STREAM_PIECE_BYTES: usize = 256 << 10;

/// Fetches and checks the inventory of a backup.
pub async fn fetch_inventory(
    store: &SharedStore,
    manifest: &SignedManifest,
    identities: &Identities,
) -> Result<Inventory, RestoreError> {
    let why = "the manifest names no inventory".to_owned();
    let object = manifest.get().object(Role::Inventory).ok_or(RestoreError::Inventory { why })?.clone();
    let key = key_of(manifest, &object)?;
    let (sealed, _) =
        store.get(&key, object.ciphertext.bytes).await.map_err(|source| unreadable(&object.name, source))?;
    let identities = identities.clone();
    let read = move || {
        let expected = Expected { plaintext: object.plaintext, ciphertext: object.ciphertext };
        let plain = unseal_bytes(&identities, &sealed, INVENTORY_BYTES_MAX, Some(&expected))
            .map_err(|source| unreadable(&object.name, source))?;
        inventory::parse(&plain).map_err(|source| unreadable(&object.name, source))
    };
    tokio::task::spawn_blocking(read).await.map_err(|source| RestoreError::Worker { source })?
}

/// One archive of the backup, opened.
#[derive(Debug, Clone)]
pub(crate) struct ArchiveObject {
    pub(crate) name: String,
    pub(crate) reader: SealedReader,
    /// Empty where the archive is not indexed.
    pub(crate) map: FrameMap,
    /// Which of the map's frames were decrypted, compared and decoded; clones share it.
    opened: Arc<[AtomicBool]>,
}

impl ArchiveObject {
    /// Opens the object; blocks.
    pub(crate) fn open(
        store: &SharedStore,
        runtime: &Handle,
        manifest: &SignedManifest,
        object: &Object,
        map: FrameMap,
        identities: &Identities,
    ) -> Result<Self, RestoreError> {
        let key = key_of(manifest, object)?;
        let expected = Expected { plaintext: object.plaintext, ciphertext: object.ciphertext };
        let reader = SealedReader::open(store.clone(), runtime.clone(), key, expected, identities)
            .map_err(|source| unreadable(&object.name, source))?;
        let opened = (0..map.len()).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { name: object.name.clone(), reader, map, opened })
    }

    /// Gives each of the frames with its plaintext to `take`, which says whether it wants more; blocks.
    pub(crate) fn each_frame(
        &self,
        frames: Range<usize>,
        mut take: impl FnMut(usize, Vec<u8>) -> Result<bool, RestoreError>,
    ) -> Result<(), RestoreError> {
        let records = frames.clone().map(|at| self.map.get(at).record);
        let plain = self.reader.read_frames(records).map_err(|source| unreadable(&self.name, source))?;
        for (at, bytes) in frames.zip(plain) {
            let bytes = bytes.map_err(|source| unreadable(&self.name, source))?;
            self.opened[at].store(true, Ordering::Relaxed);
            if !take(at, bytes)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives the archive's bytes in `range` to `take`, in pieces; blocks.
    pub(crate) fn each_piece(
        &self,
        range: &Range<u64>,
        mut take: impl FnMut(Bytes) -> bool,
    ) -> Result<(), RestoreError> {
        self.each_frame(self.map.overlapping(range), |at, bytes| {
            let start = self.map.get(at).record.plain_offset;
            let within = |offset: u64| {
                usize::try_from(offset.saturating_sub(start)).map_or(bytes.len(), |o| o.min(bytes.len()))
            };
            let wanted = within(range.start)..within(range.end);
            Ok(take(Bytes::from(bytes).slice(wanted)))
        })
    }

    /// Gives the whole archive to `take`, in pieces; blocks.
    ///
    /// With an index every frame is authenticated before its bytes are given away. Without one the object is read
    /// twice: hashed against the signed manifest first, then passed on and compared once more.
    pub(crate) fn each_piece_of_all(&self, mut take: impl FnMut(Bytes) -> bool) -> Result<(), RestoreError> {
        if self.map.len() > 0 {
            return self.each_piece(&(0..self.map.plain_bytes()), take);
        }
        let failed = |source| unreadable(&self.name, source);
        self.reader.stream().map_err(failed)?.check().map_err(failed)?;
        let mut stream = self.reader.stream().map_err(failed)?;
        loop {
            let mut piece = vec![0; STREAM_PIECE_BYTES];
            let count = stream.read(&mut piece).map_err(|source| unreadable(&self.name, source))?;
            if count == 0 {
                return stream.finish().map(drop).map_err(failed);
            }
            piece.truncate(count);
            if !take(piece.into()) {
                return Ok(());
            }
        }
    }
}

/// The archives as a restore leaves them, with what it has opened of them.
#[derive(Debug, Clone, Default)]
pub struct ReadArchives(Vec<Arc<ArchiveObject>>);

/// How the frames of indexed archives came to be opened, each at least once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenedFrames {
    pub while_restoring: u64,
    pub afterwards: u64,
}

impl ReadArchives {
    pub(crate) fn new(archives: impl IntoIterator<Item = Arc<ArchiveObject>>) -> Self {
        Self(archives.into_iter().collect())
    }

    /// Opens every frame that the restore had no need of, and sees that nothing lies behind the last one: then each byte was
    /// decrypted, compared with the signed inventory and decoded. Archives without frames are left out.
    pub async fn open_rest(self) -> Result<OpenedFrames, RestoreError> {
        let open = move || {
            let indexed = self.0.iter().filter(|archive| archive.map.len() > 0);
            indexed.map(|archive| archive.open_rest()).sum::<Result<_, _>>()
        };
        tokio::task::spawn_blocking(open).await.map_err(|source| RestoreError::Worker { source })?
    }
}

impl ArchiveObject {
    fn open_rest(&self) -> Result<OpenedFrames, RestoreError> {
        if self.map.sealed_bytes() != self.reader.sealed_bytes() {
            return Err(RestoreError::Inventory { why: format!("its frames are not all of {}", self.name) });
        }
        let rest: Vec<usize> =
            (0..self.map.len()).filter(|&at| !self.opened[at].load(Ordering::Relaxed)).collect();
        for run in rest.chunk_by(|one, next| one + 1 == *next) {
            self.each_frame(run[0]..run[0] + run.len(), |_, _| Ok(true))?;
        }
        let afterwards = rest.len() as u64;
        Ok(OpenedFrames { while_restoring: self.map.len() as u64 - afterwards, afterwards })
    }
}

impl std::iter::Sum for OpenedFrames {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            while_restoring: sum.while_restoring + part.while_restoring,
            afterwards: sum.afterwards + part.afterwards,
        })
    }
}

pub(crate) fn unreadable(object: &str, source: impl Into<Source>) -> RestoreError {
    RestoreError::Object { object: object.to_owned(), source: source.into() }
}

fn key_of(manifest: &SignedManifest, object: &Object) -> Result<ObjectKey, RestoreError> {
    let manifest = manifest.get();
    layout::backup_object(&manifest.source, &manifest.id, &object.name)
        .ok_or_else(|| RestoreError::Inventory { why: format!("{:?} is no name of an object", object.name) })
}
