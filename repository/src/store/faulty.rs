//! A store that fails on purpose, by script or by seeded chance: what networks and servers do, without waiting for it.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::conditions::Conditions;
use super::operation::Operation;
use super::part_plan::PartLimits;
use super::{
    FolderPage, Lock, ObjectMeta, Part, PendingUpload, PutCondition, SharedStore, Store, StoreError, Upload,
    Version,
};
use crate::ids::{KeyPrefix, ObjectKey};

/// What goes wrong in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request never arrives: unreachable, no effect.
    FailBefore,
    /// The answer is lost: unreachable, but what was asked for happened.
    FailAfter,
    /// No answer, until the caller gives up.
    Hang,
    /// The server says no.
    Deny,
    /// All bytes come, with a checksum that they do not have.
    Damage,
    /// A body ends after so many bytes.
    Cut { bytes: u64 },
    /// A body whose byte at this place (or its last) is another one; nothing says so.
    Corrupt { at: u64 },
}

/// When a fault strikes.
#[derive(Debug, Clone)]
pub struct Rule {
    operation: Option<Operation>,
    key_part: String,
    from_call: u64,
    calls: u64,
    fault: Fault,
    seen: u64,
}

impl Rule {
    /// The fault strikes the first call of this operation; narrow or widen it with the methods below.
    pub fn on(operation: Operation, fault: Fault) -> Self {
        Self { operation: Some(operation), ..Self::always(fault) }.times(1)
    }

    /// The fault strikes every call.
    pub fn always(fault: Fault) -> Self {
        Self { operation: None, key_part: String::new(), from_call: 1, calls: u64::MAX, fault, seen: 0 }
    }

    /// Only keys (or prefixes) that contain this text; only their calls count.
    pub fn keyed(self, part: impl Into<String>) -> Self {
        Self { key_part: part.into(), ..self }
    }

    /// Strikes from the nth matching call on, counted from 1.
    pub fn from_call(self, nth: u64) -> Self {
        Self { from_call: nth, ..self }
    }

    /// Strikes so many calls in a row.
    pub fn times(self, calls: u64) -> Self {
        Self { calls, ..self }
    }

    fn strikes(&mut self, operation: Operation, key: &str) -> bool {
        if self.operation.is_some_and(|wanted| wanted != operation) || !key.contains(&self.key_part) {
            return false;
        }
        self.seen += 1;
        self.seen >= self.from_call && self.seen - self.from_call < self.calls
    }
}

/// A store with faults. Clones share script and counters.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: SharedStore,
    faults: Faults,
}

#[derive(Debug, Clone)]
struct Faults(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    chance: Option<Chance>,
    calls: u64,
    struck: u64,
}

#[derive(Debug)]
struct Chance {
    random: StdRng,
    permille: u32,
}

impl FaultyStore {
    /// Faults by rules; the first rule that strikes wins.
    pub fn scripted(inner: SharedStore, rules: Vec<Rule>) -> Self {
        Self::with(inner, State { rules, chance: None, calls: 0, struck: 0 })
    }

    /// So many calls in a thousand fail, before or after their effect, as `seed` has it.
    pub fn random(inner: SharedStore, seed: u64, permille: u32) -> Self {
        let chance = Chance { random: StdRng::seed_from_u64(seed), permille };
        Self::with(inner, State { rules: Vec::new(), chance: Some(chance), calls: 0, struck: 0 })
    }

    /// Replaces the rules, for instance when an outage ends.
    pub fn script(&self, rules: Vec<Rule>) {
        self.faults.lock().rules = rules;
    }

    /// How many calls were made, each of which a rule can strike by its number.
    pub fn calls(&self) -> u64 {
        self.faults.lock().calls
    }

    /// How many calls were struck.
    pub fn struck(&self) -> u64 {
        self.faults.lock().struck
    }

    fn with(inner: SharedStore, state: State) -> Self {
        Self { inner, faults: Faults(Arc::new(Mutex::new(state))) }
    }
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn decide(&self, operation: Operation, key: &str) -> Option<Fault> {
        let mut state = self.lock();
        state.calls += 1;
        let mut fault = None;
        for rule in &mut state.rules {
            if rule.strikes(operation, key) {
                fault = fault.or(Some(rule.fault));
            }
        }
        let fault = fault.or_else(|| state.chance.as_mut()?.draw());
        state.struck += u64::from(fault.is_some());
        fault
    }

    /// Runs `call` with the fault that strikes it; `damage` is what a cut or corrupted body does to its result.
    async fn around<T>(
        &self,
        operation: Operation,
        key: &impl ToString,
        call: impl Future<Output = Result<T, StoreError>>,
        damage: impl FnOnce(T, Fault) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let key = key.to_string();
        let fault = self.decide(operation, &key);
        let name = operation.name();
        match fault {
            None => call.await,
            Some(Fault::FailBefore) => {
                Err(unreachable_error(name, key, "scripted: the request never arrived"))
            }
            Some(Fault::FailAfter) => {
                call.await?;
                Err(unreachable_error(name, key, "scripted: the answer was lost"))
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Deny) => {
                Err(StoreError::Denied { operation: name, key, source: "scripted: access denied".into() })
            }
            Some(Fault::Damage) => {
                call.await?;
                Err(StoreError::Damaged { operation: name, key, source: "scripted: other bytes".into() })
            }
            Some(fault @ (Fault::Cut { .. } | Fault::Corrupt { .. })) => damage(call.await?, fault),
        }
    }

    /// The same for calls without a body.
    async fn plain<T>(
        &self,
        operation: Operation,
        key: &impl ToString,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.around(operation, key, call, |result, _| Ok(result)).await
    }
}

impl Chance {
    fn draw(&mut self) -> Option<Fault> {
        if self.random.random_range(0..1000) >= self.permille {
            return None;
        }
        Some(if self.random.random() { Fault::FailBefore } else { Fault::FailAfter })
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: PutCondition,
    ) -> Result<Version, StoreError> {
        self.faults.plain(Operation::Put, key, self.inner.put(key, body, condition)).await
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        let damage = |(body, version), fault| Ok((damaged(body, fault, Operation::Get, key)?, version));
        self.faults.around(Operation::Get, key, self.inner.get(key, bytes_max), damage).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let damage = |body, fault| damaged(body, fault, Operation::GetRange, key);
        self.faults.around(Operation::GetRange, key, self.inner.get_range(key, range), damage).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let bytes = range.end.saturating_sub(range.start);
        let damage = |pieces, fault| Ok(damaged_stream(pieces, bytes, fault, key.clone()));
        self.faults.around(Operation::GetStream, key, self.inner.get_stream(key, range), damage).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.faults.plain(Operation::Head, key, self.inner.head(key)).await
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let (name, key) = (Operation::List.name(), prefix.to_string());
        let found = self.inner.list(prefix, start_after);
        match self.faults.decide(Operation::List, prefix.as_str()) {
            None | Some(Fault::Corrupt { .. } | Fault::Damage) => found,
            Some(Fault::Hang) => stream::pending().boxed(),
            Some(Fault::Deny) => {
                let source = "scripted: access denied".into();
                stream::iter([Err(StoreError::Denied { operation: name, key, source })]).boxed()
            }
            Some(Fault::FailBefore) => {
                stream::iter([Err(unreachable_error(name, key, "scripted: no list"))]).boxed()
            }
            // After one entry, as when the second page fails.
            Some(Fault::FailAfter) => broken_after(found, 1, name, key),
            Some(Fault::Cut { bytes }) => broken_after(found, bytes as usize, name, key),
        }
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        self.faults.plain(Operation::ListFolders, prefix, self.inner.list_folders(prefix)).await
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        let asked = self.inner.folders_from(prefix, from, at_most);
        self.faults.plain(Operation::ListFolders, prefix, asked).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.faults.plain(Operation::Delete, key, self.inner.delete(key)).await
    }

    async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        self.faults.plain(Operation::Lock, key, self.inner.lock(key)).await
    }

    async fn extend_lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        self.faults.plain(Operation::ExtendLock, key, self.inner.extend_lock(key, until)).await
    }

    fn left_versions(&self) -> bool {
        self.inner.left_versions()
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        let inner = self.faults.plain(Operation::StartUpload, key, self.inner.start_upload(key)).await?;
        Ok(Arc::new(FaultyUpload { inner, key: key.clone(), faults: self.faults.clone() }))
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        self.faults.plain(Operation::ListUploads, prefix, self.inner.list_uploads(prefix)).await
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        self.faults.plain(Operation::AbortUpload, &upload.key, self.inner.abort_upload(upload)).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.faults.plain(Operation::Clock, &"the store", self.inner.clock()).await
    }

    fn part_limits(&self) -> PartLimits {
        self.inner.part_limits()
    }

    fn conditions(&self) -> Conditions {
        self.inner.conditions()
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Arc<dyn Upload>,
    key: ObjectKey,
    faults: Faults,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn put_part(&self, number: u32, body: Bytes) -> Result<Part, StoreError> {
        self.faults.plain(Operation::PutPart, &self.key, self.inner.put_part(number, body)).await
    }

    async fn complete(self: Arc<Self>, parts: Vec<Part>) -> Result<ObjectMeta, StoreError> {
        let call = Arc::clone(&self.inner).complete(parts);
        self.faults.plain(Operation::CompleteUpload, &self.key, call).await
    }

    async fn abort(self: Arc<Self>) -> Result<(), StoreError> {
        self.faults.plain(Operation::AbortUpload, &self.key, Arc::clone(&self.inner).abort()).await
    }
}

fn unreachable_error(operation: &'static str, key: String, why: &str) -> StoreError {
    StoreError::Unreachable { operation, key, source: why.into() }
}

fn damaged(body: Bytes, fault: Fault, operation: Operation, key: &ObjectKey) -> Result<Bytes, StoreError> {
    match fault {
        Fault::Cut { bytes } if bytes < body.len() as u64 => Err(StoreError::Short {
            operation: operation.name(),
            key: key.to_string(),
            got: bytes,
            expected: body.len() as u64,
        }),
        Fault::Corrupt { at } => Ok(flipped(body, at)),
        _ => Ok(body),
    }
}

/// One bit of the byte at `at` (or of the last) is turned over.
fn flipped(body: Bytes, at: u64) -> Bytes {
    let mut bytes = body.to_vec();
    if let Some(last) = bytes.len().checked_sub(1) {
        bytes[last.min(usize::try_from(at).unwrap_or(last))] ^= 1;
    }
    bytes.into()
}

fn damaged_stream(
    pieces: BoxStream<'static, Result<Bytes, StoreError>>,
    expected: u64,
    fault: Fault,
    key: ObjectKey,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    match fault {
        Fault::Corrupt { at } => {
            let turned = pieces.scan(0, move |start, piece| {
                let piece = piece.map(|piece| {
                    let here = (*start..*start + piece.len() as u64).contains(&at);
                    let within = at.saturating_sub(*start);
                    *start += piece.len() as u64;
                    if here { flipped(piece, within) } else { piece }
                });
                std::future::ready(Some(piece))
            });
            turned.boxed()
        }
        Fault::Cut { bytes } => {
            let whole = pieces.scan(bytes, |left, piece| {
                let piece = piece.map(|piece| {
                    let kept = (piece.len() as u64).min(*left);
                    *left -= kept;
                    piece.slice(..kept as usize)
                });
                std::future::ready(Some(piece).filter(|piece| piece.as_ref().map_or(true, |p| !p.is_empty())))
            });
            let (operation, key) = (Operation::GetStream.name(), key.to_string());
            let end =
                (bytes < expected).then_some(Err(StoreError::Short { operation, key, got: bytes, expected }));
            whole.chain(stream::iter(end)).boxed()
        }
        _ => pieces,
    }
}

fn broken_after(
    found: BoxStream<'static, Result<ObjectMeta, StoreError>>,
    entries: usize,
    operation: &'static str,
    key: String,
) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
    let broken = unreachable_error(operation, key, "scripted: the list broke off");
    found.take(entries).chain(stream::iter([Err(broken)])).boxed()
}
