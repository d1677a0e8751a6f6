//! Uploads in parts to a folder.
//!
//! Parts mostly arrive in order, so each is written straight to its place in one file, and completion is a sync and a link.
//! A part whose place is not known yet gets a file of its own; completion then joins the parts into a new file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use super::blocking;
use super::files::{Root, io_error, make_folder, modified, writable};
use crate::ids::{KeyPrefix, ObjectKey};
use crate::store::operation::Operation;
use crate::store::part_plan::PartLimits;
use crate::store::{ObjectMeta, Part, PendingUpload, StoreError, Upload, Version};

/// The file that says which key an upload is for.
const KEY_FILE: &str = "key";
/// The file of parts in order.
const DATA_FILE: &str = "data";
/// No key is longer (see [`ObjectKey`]).
const KEY_FILE_BYTES_MAX: u64 = 1024;

/// An upload under way; a handle on what blocking work shares.
#[derive(Debug)]
pub(super) struct DirectoryUpload(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Arc<Root>,
    key: ObjectKey,
    folder: PathBuf,
    data: Arc<File>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stored: BTreeMap<u32, Stored>,
    /// The number and the offset of the part that comes next in the file of parts in order.
    next: Option<(u32, u64)>,
    writes: u64,
    /// What a completion made, for one that is repeated after a lost answer.
    completed: Option<(Vec<Part>, ObjectMeta)>,
}

#[derive(Debug, Clone)]
struct Stored {
    part: Part,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    InOrder { offset: u64 },
    Alone { path: PathBuf },
}

impl DirectoryUpload {
    pub(super) fn start(root: Arc<Root>, key: &ObjectKey) -> Result<Self, StoreError> {
        // Where it could not be completed, nothing need be uploaded.
        root.resolve(key, Operation::StartUpload)?;
        let folder = root.uploads().join(format!("{:032x}", rand::random::<u128>()));
        let started = || -> io::Result<File> {
            root.begin_uploads()?;
            make_folder(&folder)?;
            let named = writable().create_new(true).open(folder.join(KEY_FILE))?;
            named.write_all_at(key.as_str().as_bytes(), 0)?;
            named.sync_all()?;
            writable().create_new(true).open(folder.join(DATA_FILE))
        };
        let data = started().map_err(|e| root.unless_gone(io_error(e, Operation::StartUpload, key)))?;
        let state = Mutex::new(State { next: Some((1, 0)), ..State::default() });
        Ok(Self(Arc::new(Inner { root, key: key.clone(), folder, data: Arc::new(data), state })))
    }
}

impl Inner {
    /// Where part `number` goes, and how it will be confirmed.
    fn reserve(&self, number: u32, bytes: u64) -> Stored {
        let mut state = self.lock();
        state.writes += 1;
        let version = Version(format!("p{}", state.writes));
        let place =
            match (state.next, state.stored.get(&number).map(|stored| (&stored.place, stored.part.bytes))) {
                (Some((next, offset)), None) if next == number => {
                    state.next = Some((next + 1, offset + bytes));
                    Place::InOrder { offset }
                }
                // The same part once more, after a failure.
                (_, Some((Place::InOrder { offset }, before))) if before == bytes => {
                    Place::InOrder { offset: *offset }
                }
                _ => Place::Alone { path: self.folder.join(format!("part-{number:05}-{}", state.writes)) },
            };
        let stored = Stored { part: Part { number, bytes, version, checksum: None }, place };
        state.stored.insert(number, stored.clone());
        stored
    }

    fn write(&self, number: u32, body: &[u8]) -> Result<Part, StoreError> {
        let limits = PartLimits::S3;
        if !(1..=limits.parts_max).contains(&number) || body.len() as u64 > limits.part_bytes_max {
            return Err(self.refused(Operation::PutPart, "the part's number or size is beyond the limits"));
        }
        let stored = self.reserve(number, body.len() as u64);
        let written = match &stored.place {
            Place::InOrder { offset } if self.folder.exists() => self.data.write_all_at(body, *offset),
            Place::InOrder { .. } => Err(ErrorKind::NotFound.into()),
            Place::Alone { path } => {
                writable().create_new(true).open(path).and_then(|file| file.write_all_at(body, 0))
            }
        };
        match written {
            Ok(()) => Ok(stored.part),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.gone(Operation::PutPart)),
            Err(e) => Err(io_error(e, Operation::PutPart, &self.key)),
        }
    }

    fn link(&self, parts: &[Part]) -> Result<ObjectMeta, StoreError> {
        if let Some((_, meta)) = self.lock().completed.as_ref().filter(|(made_of, _)| made_of == parts) {
            return Ok(meta.clone());
        }
        let places = self.places(parts)?;
        let fail = |e: io::Error| match e.kind() {
            ErrorKind::NotFound => self.gone(Operation::CompleteUpload),
            _ => io_error(e, Operation::CompleteUpload, &self.key),
        };
        let (file, path) = if contiguous(parts, &places) {
            (Arc::clone(&self.data), self.folder.join(DATA_FILE))
        } else {
            self.join(parts, &places).map_err(fail)?
        };
        file.set_len(parts.iter().map(|part| part.bytes).sum()).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        let linked = self.root.link_new(&path, &self.key, Operation::CompleteUpload);
        linked.map_err(|error| match error {
            StoreError::NotFound { .. } => self.gone(Operation::CompleteUpload),
            other => other,
        })?;
        let (_, meta) = self.root.open_object(&self.key, Operation::CompleteUpload)?;
        self.lock().completed = Some((parts.to_vec(), meta.clone()));
        // The object is there; what is left of the upload is found again as pending if this fails.
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, key = %self.key, "cannot remove the folder of a completed upload");
        }
        Ok(meta)
    }

    /// Where the parts lie, all of which must be the ones stored last under their numbers.
    fn places(&self, parts: &[Part]) -> Result<Vec<Place>, StoreError> {
        let state = self.lock();
        let known = parts.iter().zip(1..).map(|(part, number)| {
            let stored = state.stored.get(&number).filter(|stored| stored.part == *part);
            stored.map(|stored| stored.place.clone())
        });
        known
            .collect::<Option<_>>()
            .ok_or_else(|| self.refused(Operation::CompleteUpload, "a part is missing or was put again"))
    }

    fn join(&self, parts: &[Part], places: &[Place]) -> io::Result<(Arc<File>, PathBuf)> {
        let path = self.folder.join("joined");
        let mut joined = writable().create(true).truncate(true).open(&path)?;
        for (part, place) in parts.iter().zip(places) {
            let (mut from, offset) = match place {
                Place::InOrder { offset } => (File::open(self.folder.join(DATA_FILE))?, *offset),
                Place::Alone { path } => (File::open(path)?, 0),
            };
            from.seek(SeekFrom::Start(offset))?;
            let copied = io::copy(&mut io::Read::take(from, part.bytes), &mut joined)?;
            if copied != part.bytes {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "a part lost bytes"));
            }
        }
        Ok((Arc::new(joined), path))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn gone(&self, operation: Operation) -> StoreError {
        self.refused(operation, "the upload is gone")
    }

    fn refused(&self, operation: Operation, why: &str) -> StoreError {
        StoreError::Refused { operation: operation.name(), key: self.key.to_string(), source: why.into() }
    }
}

#[async_trait]
impl Upload for DirectoryUpload {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.write(number, &body)).await
    }

    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError> {
        blocking(move || self.0.link(&parts)).await
    }

    async fn abort(self: Arc<Self>) -> Result<(), StoreError> {
        blocking(move || remove(&self.0.folder, &self.0.key)).await
    }
}

/// Uploads that were begun and neither completed nor aborted, by this process or another.
pub(super) fn pending(root: &Root, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
    let fail = |e| io_error(e, Operation::ListUploads, prefix);
    let mut found = Vec::new();
    let entries = match fs::read_dir(root.uploads()) {
        // None was ever begun, if the root is there.
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return match root.unless_gone(fail(e)) {
                StoreError::NotFound { .. } => Ok(found),
                gone => Err(gone),
            };
        }
        listed => listed.map_err(fail)?,
    };
    for entry in entries {
        let entry = entry.map_err(fail)?;
        let Some(upload) = describe(&entry).map_err(fail)? else { continue };
        if upload.key.as_str().starts_with(prefix.as_str()) {
            found.push(upload);
        }
    }
    found.sort_by(|a, b| (&a.key, &a.upload_id).cmp(&(&b.key, &b.upload_id)));
    Ok(found)
}

pub(super) fn abort(root: &Root, upload_id: &str, key: &ObjectKey) -> Result<(), StoreError> {
    if !is_upload_id(upload_id) {
        let operation = Operation::AbortUpload.name();
        return Err(StoreError::Refused {
            operation,
            key: key.to_string(),
            source: "no such upload id".into(),
        });
    }
    remove(&root.uploads().join(upload_id), key)
}

fn remove(folder: &std::path::Path, key: &ObjectKey) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| io_error(e, Operation::AbortUpload, key)),
    }
}

/// The upload of a folder; none where it just went, or where its key was never written.
fn describe(entry: &fs::DirEntry) -> io::Result<Option<PendingUpload>> {
    let id = entry.file_name().to_str().filter(|id| is_upload_id(id)).map(ToOwned::to_owned);
    let Some(upload_id) = id else { return Ok(None) };
    let path = entry.path().join(KEY_FILE);
    let read = fs::symlink_metadata(&path).and_then(|meta| {
        let text = if meta.is_file() && meta.len() <= KEY_FILE_BYTES_MAX {
            fs::read_to_string(&path)?
        } else {
            String::new()
        };
        Ok((text, modified(&meta)))
    });
    match read {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => {
            let (text, started_at) = other?;
            Ok(text.parse().ok().map(|key| PendingUpload { key, upload_id, started_at }))
        }
    }
}

fn is_upload_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether the parts lie one behind the other from the start of the file of parts in order.
fn contiguous(parts: &[Part], places: &[Place]) -> bool {
    let mut expected = 0;
    parts.iter().zip(places).all(|(part, place)| {
        let in_place = matches!(place, Place::InOrder { offset } if *offset == expected);
        expected += part.bytes;
        in_place
    })
}
