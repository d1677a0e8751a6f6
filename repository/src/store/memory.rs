//! A store in memory: for tests, and as the plainest reading of what [`Store`] promises.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;

use super::operation::Operation;
use super::part_plan::PartLimits;
use super::{
    FolderPage, Lock, ObjectMeta, OutOfRange, Part, PendingUpload, PutCondition, Store, StoreError, Upload,
    Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// Pieces of [`Store::get_stream`]: small, so that tests meet more than one.
const STREAM_PIECE_BYTES: usize = 64 * 1024;
/// Small parts let tests of many parts stay small; a real store's limits are larger.
const TEST_PART_BYTES_MIN: u64 = 1024;

/// Sorts after every character that a key may have.
const LAST_IN_KEYS: char = '\u{7f}';

/// Objects in memory, gone with the value. Clones share the objects; [`MemoryStore::fork`] does not.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    limits: PartLimits,
}

#[derive(Debug, Clone, Default)]
struct State {
    objects: BTreeMap<ObjectKey, Object>,
    /// Until when objects cannot be removed.
    locks: BTreeMap<ObjectKey, Timestamp>,
    uploads: BTreeMap<String, Parts>,
    /// What completed uploads were made of, for a completion that is repeated after a lost answer.
    completed: BTreeMap<String, (Vec<Part>, ObjectMeta)>,
    /// Counts writes: the source of versions and upload ids.
    writes: u64,
}

#[derive(Debug, Clone)]
struct Object {
    body: Bytes,
    version: Version,
    modified_at: Timestamp,
}

#[derive(Debug, Clone)]
struct Parts {
    key: ObjectKey,
    started_at: Timestamp,
    bodies: BTreeMap<u32, (Part, Bytes)>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::with_part_limits(PartLimits { part_bytes_min: TEST_PART_BYTES_MIN, ..PartLimits::S3 })
    }

    pub fn with_part_limits(limits: PartLimits) -> Self {
        Self { state: Arc::default(), limits }
    }

    /// A store of its own that holds what this one does now.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.lock().clone())), limits: self.limits }
    }

    /// Puts these bytes at `key` whatever lies there: what a failing disk or a hostile administrator can do.
    pub fn overwrite(&self, key: &ObjectKey, body: Bytes) {
        self.lock().insert(key, body);
    }

    /// Every key there is, in order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.lock().objects.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn slice(&self, key: &ObjectKey, range: Range<u64>, operation: Operation) -> Result<Bytes, StoreError> {
        let body = self.lock().object(key)?.body.clone();
        if range.start > range.end || range.end > body.len() as u64 {
            let source = Box::new(OutOfRange { range, bytes: body.len() as u64 });
            return Err(StoreError::Refused { operation: operation.name(), key: key.to_string(), source });
        }
        Ok(body.slice(range.start as usize..range.end as usize))
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn object(&self, key: &ObjectKey) -> Result<&Object, StoreError> {
        self.objects.get(key).ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }

    fn insert(&mut self, key: &ObjectKey, body: Bytes) -> Version {
        self.writes += 1;
        let version = Version(format!("v{}", self.writes));
        let object = Object { body, version: version.clone(), modified_at: Timestamp::now() };
        self.objects.insert(key.clone(), object);
        version
    }

    fn put_if(
        &mut self,
        key: &ObjectKey,
        body: Bytes,
        condition: &PutCondition,
    ) -> Result<Version, StoreError> {
        match (condition, self.objects.get(key)) {
            (PutCondition::IfAbsent, Some(_)) => Err(StoreError::AlreadyExists { key: key.to_string() }),
            (PutCondition::IfVersion(_), None) => Err(StoreError::NotFound { key: key.to_string() }),
            (PutCondition::IfVersion(wanted), Some(now)) if *wanted != now.version => {
                Err(StoreError::VersionChanged { key: key.to_string() })
            }
            _ => Ok(self.insert(key, body)),
        }
    }
}

impl Object {
    fn meta(&self, key: &ObjectKey) -> ObjectMeta {
        ObjectMeta {
            key: key.clone(),
            bytes: self.body.len() as u64,
            version: self.version.clone(),
            modified_at: self.modified_at,
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: PutCondition,
    ) -> Result<Version, StoreError> {
        self.lock().put_if(key, body, &condition)
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        let object = self.lock().object(key)?.clone();
        let bytes = object.body.len() as u64;
        if bytes > bytes_max {
            return Err(StoreError::TooLarge { key: key.to_string(), bytes, bytes_max });
        }
        Ok((object.body, object.version))
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.slice(key, range, Operation::GetRange)
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let body = self.slice(key, range, Operation::GetStream)?;
        let starts = (0..body.len()).step_by(STREAM_PIECE_BYTES);
        let piece = move |start: usize| Ok(body.slice(start..body.len().min(start + STREAM_PIECE_BYTES)));
        Ok(stream::iter(starts.map(piece)).boxed())
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        Ok(self.lock().object(key)?.meta(key))
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let state = self.lock();
        let found = state.objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix.as_str()));
        let found = found.filter(|(key, _)| start_after.is_none_or(|after| *key > after));
        let metas: Vec<_> = found.map(|(key, object)| Ok(object.meta(key))).collect();
        stream::iter(metas).boxed()
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        let state = self.lock();
        let below = state.objects.keys().filter_map(|key| key.as_str().strip_prefix(prefix.as_str()));
        let names: BTreeSet<String> =
            below.filter_map(|rest| rest.split_once('/')).map(|(name, _)| name.to_owned()).collect();
        Ok(names.into_iter().collect())
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        let state = self.lock();
        let mut page = FolderPage::default();
        let mut start = format!("{}{}", prefix.as_str(), from.unwrap_or_default());
        loop {
            let mut after =
                state.objects.range::<str, _>((Bound::Excluded(start.as_str()), Bound::Unbounded));
            let below = after.next().and_then(|(key, _)| key.as_str().strip_prefix(prefix.as_str()));
            let Some(below) = below else { return Ok(page) };
            start = match below.split_once('/') {
                Some(_) if page.names.len() == at_most => {
                    page.more = true;
                    return Ok(page);
                }
                Some((name, _)) => {
                    page.names.push(name.to_owned());
                    // Past all that is in the folder.
                    format!("{}{name}/{LAST_IN_KEYS}", prefix.as_str())
                }
                None => format!("{}{below}", prefix.as_str()),
            };
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.locks.get(key).is_some_and(|until| *until > Timestamp::now()) {
            let (operation, key) = (Operation::Delete.name(), key.to_string());
            return Err(StoreError::Denied { operation, key, source: "it is locked".into() });
        }
        state.objects.remove(key);
        state.locks.remove(key);
        Ok(())
    }

    async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        let state = self.lock();
        state.object(key)?;
        Ok(state.locks.get(key).copied().map(Lock::Until))
    }

    async fn extend_lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.object(key)?;
        let lock = state.locks.entry(key.clone()).or_insert(until);
        *lock = until.max(*lock);
        Ok(())
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        let mut state = self.lock();
        state.writes += 1;
        let id = format!("upload-{:08}", state.writes);
        let parts = Parts { key: key.clone(), started_at: Timestamp::now(), bodies: BTreeMap::new() };
        state.uploads.insert(id.clone(), parts);
        Ok(Arc::new(MemoryUpload { store: self.clone(), key: key.clone(), id }))
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        let state = self.lock();
        let pending = state.uploads.iter().filter(|(_, u)| u.key.as_str().starts_with(prefix.as_str()));
        Ok(pending
            .map(|(id, u)| PendingUpload {
                key: u.key.clone(),
                upload_id: id.clone(),
                started_at: u.started_at,
            })
            .collect())
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        self.lock().uploads.remove(&upload.upload_id);
        Ok(())
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(Some(Timestamp::now()))
    }

    fn part_limits(&self) -> PartLimits {
        self.limits
    }
}

#[derive(Debug)]
struct MemoryUpload {
    store: MemoryStore,
    key: ObjectKey,
    id: String,
}

impl MemoryUpload {
    fn refused(&self, operation: Operation, why: &str) -> StoreError {
        StoreError::Refused { operation: operation.name(), key: self.key.to_string(), source: why.into() }
    }
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError> {
        let limits = self.store.limits;
        if !(1..=limits.parts_max).contains(&number) || body.len() as u64 > limits.part_bytes_max {
            return Err(self.refused(Operation::PutPart, "the part's number or size is beyond the limits"));
        }
        let mut state = self.store.lock();
        state.writes += 1;
        let version = Version(format!("p{}", state.writes));
        let part = Part { number, bytes: body.len() as u64, version, checksum: None };
        let upload = state.uploads.get_mut(&self.id);
        let upload = upload.ok_or_else(|| self.refused(Operation::PutPart, "the upload is gone"))?;
        upload.bodies.insert(number, (part.clone(), body));
        Ok(part)
    }

    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError> {
        let mut state = self.store.lock();
        if let Some((_, meta)) = state.completed.get(&self.id).filter(|(made_of, _)| *made_of == parts) {
            return Ok(meta.clone());
        }
        let gone = || self.refused(Operation::CompleteUpload, "the upload is gone");
        let upload = state.uploads.get(&self.id).ok_or_else(gone)?;
        let mut body = Vec::new();
        for (part, number) in parts.iter().zip(1..) {
            let stored = upload.bodies.get(&number).filter(|(stored, _)| stored == part);
            let (_, bytes) =
                stored.ok_or_else(|| self.refused(Operation::CompleteUpload, "a part is missing"))?;
            let last = number as usize == parts.len();
            if !last && part.bytes < self.store.limits.part_bytes_min {
                return Err(self.refused(Operation::CompleteUpload, "a part before the last is too small"));
            }
            if !last && self.store.limits.equal_parts && part.bytes != parts[0].bytes {
                return Err(
                    self.refused(Operation::CompleteUpload, "a part before the last has another size")
                );
            }
            body.extend_from_slice(bytes);
        }
        state.put_if(&self.key, body.into(), &PutCondition::IfAbsent)?;
        state.uploads.remove(&self.id);
        let meta = state.object(&self.key)?.meta(&self.key);
        state.completed.insert(self.id.clone(), (parts, meta.clone()));
        Ok(meta)
    }

    async fn abort(self: Arc<Self>) -> Result<(), StoreError> {
        self.store.lock().uploads.remove(&self.id);
        Ok(())
    }
}
