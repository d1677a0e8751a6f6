//! The path of last resort: whole archives, byte for byte, into one `pg_restore` or to whoever asks for them.

use std::io::Write;
use std::path::{Path, PathBuf};

use pgproof_repository::inventory::Inventory;
use pgproof_repository::keys::Identities;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::Role;
use pgproof_repository::store::SharedStore;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::blobs::{Stream, run_with_stream};
use super::error::RestoreError;
use super::frames::FrameMap;
use super::object::ArchiveObject;
use super::phases::OpenArchive;
use super::sections::{PgRestore, Run, Section};

/// Restores every archive from its stream, of each what its list names. With several, constraints must wait for the rows of
/// all; and the main one's data comes last, because archives of a table's rows set its sequence, too, to a later value.
pub(crate) async fn run(
    program: &PgRestore,
    archives: &[OpenArchive],
    lists: Option<&[PathBuf]>,
) -> Result<(), RestoreError> {
    let (main, further) = archives.split_first().expect("a backup has an archive");
    if further.is_empty() {
        return part(program, Section::Whole, main, list(lists, 0)).await;
    }
    part(program, Section::PreData, main, list(lists, 0)).await?;
    for (at, archive) in further.iter().enumerate() {
        part(program, Section::Data, archive, list(lists, at + 1)).await?;
    }
    part(program, Section::Data, main, list(lists, 0)).await?;
    part(program, Section::PostData, main, list(lists, 0)).await
}

fn list(lists: Option<&[PathBuf]>, archive: usize) -> Option<&Path> {
    lists.map(|lists| lists[archive].as_path())
}

async fn part(
    program: &PgRestore,
    section: Section,
    archive: &OpenArchive,
    list: Option<&Path>,
) -> Result<(), RestoreError> {
    run_with_stream(program, Run { section, list, jobs: 1 }, &archive.object, Stream::Whole).await
}

/// Writes one archive of a backup, as `pg_dump` made it, to `output`; answers its length.
///
/// `object` is its file name in the backup. Every byte is authenticated before it is written where the archive is
/// indexed; where it is not, the object is read and checked once before the first byte is written. Cancelled, it ends at once, be
/// it store or reader that keeps it waiting.
pub async fn write_archive<W: Write + Send + 'static>(
    store: &SharedStore,
    manifest: &SignedManifest,
    inventory: &Inventory,
    identities: &Identities,
    object: &str,
    mut output: W,
    cancel: &CancellationToken,
) -> Result<u64, RestoreError> {
    let named = |o: &&pgproof_repository::manifest::v1::Object| o.role == Role::Archive && o.name == object;
    let found = manifest.get().objects.iter().find(named).cloned();
    let why = format!("the backup has no archive {object:?}");
    let found = found.ok_or(RestoreError::Inventory { why })?;
    let described =
        inventory.archives.iter().find(|archive| archive.object == object && !archive.frames.is_empty());
    let map = described.map(FrameMap::new).transpose()?.unwrap_or_default();
    let (store, manifest, identities) = (store.clone(), manifest.clone(), identities.clone());
    let (runtime, stop) = (Handle::current(), cancel.clone());
    let write = move || {
        let archive = ArchiveObject::open(&store, &runtime, &manifest, &found, map, &identities)?;
        let (mut written, mut result) = (0, Ok(()));
        archive.each_piece_of_all(|piece| {
            written += piece.len() as u64;
            result = output.write_all(&piece);
            result.is_ok() && !stop.is_cancelled()
        })?;
        result.and_then(|()| output.flush()).map_err(|source| RestoreError::Output { source })?;
        match written == found.plaintext.bytes {
            true => Ok(written),
            false if stop.is_cancelled() => Err(RestoreError::Cancelled),
            false => Err(RestoreError::Inventory { why: "its frames are not all of the archive".to_owned() }),
        }
    };
    tokio::select! {
        written = tokio::task::spawn_blocking(write) => {
            written.map_err(|source| RestoreError::Worker { source })?
        }
        () = cancel.cancelled() => Err(RestoreError::Cancelled),
    }
}
