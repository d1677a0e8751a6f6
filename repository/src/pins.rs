//! Pins: a backup that somebody restores now is not removed from below their hands.
//!
//! A pin is an object of its own beside the backup, renewed while its holder is at work. One whose holder crashed runs out
//! by itself. It stops nothing but the removal: whoever may only read restores without, and is told so.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ids::{BackupId, KeyPrefix, ObjectKey};
use crate::layout;
use crate::lease::Holder;
use crate::store::{PutCondition, SharedStore, StoreError, Version};

/// How long a pin holds without renewal: far longer than an outage of the store and the skew of two clocks together. It
/// costs no more than that a backup goes half an hour later.
pub const PIN_TTL: SignedDuration = SignedDuration::from_mins(30);
/// How often it is renewed: many tries fit in its life.
pub const PIN_RENEWAL: Duration = Duration::from_secs(60);
/// Pins that ended so long ago are litter.
const LITTER_GRACE: SignedDuration = SignedDuration::from_hours(24);
/// The version of pins; a newer one holds, whatever it says.
const VERSION: u32 = 1;
/// A pin holds a few short fields.
const PIN_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    holder: Holder,
    since: Timestamp,
    expires_at: Timestamp,
    released: bool,
}

/// A backup kept while this lives. [`Pin::release`] ends it and waits for that; dropped, it ends as soon as it can.
#[derive(Debug)]
pub struct Pin {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Pin {
    /// Pins a backup for this process and keeps the pin renewed.
    pub async fn set(
        store: SharedStore,
        source: &SourceName,
        id: &BackupId,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let stored = Stored {
            version: VERSION,
            holder: Holder::this_process(),
            since: now,
            expires_at: now + PIN_TTL,
            released: false,
        };
        let key = layout::pin(source, id, &format!("{:08x}", rand::rng().random::<u32>()));
        let version = put(&store, &key, &stored, PutCondition::IfAbsent).await?;
        let stop = CancellationToken::new();
        let kept = Kept { store, key, stored, version: Some(version) };
        let task = tokio::spawn(kept.keep(stop.clone()));
        Ok(Self { task, stop })
    }

    /// The same for work that goes on without a pin, with a warning.
    pub async fn try_set(store: &SharedStore, source: &SourceName, id: &BackupId) -> Option<Self> {
        let set = Self::set(store.clone(), source, id, Timestamp::now()).await;
        set.inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::warn!(error, "no pin could be left: a prune at the same time could remove backup {id}");
        })
        .ok()
    }

    pub async fn release(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::warn!(%error, "the pin's renewal broke off; the pin runs out by itself");
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The side of a pin that is at work.
struct Kept {
    store: SharedStore,
    key: ObjectKey,
    stored: Stored,
    /// `None` once the object was found gone.
    version: Option<Version>,
}

impl Kept {
    async fn keep(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PIN_RENEWAL) => {}
            }
            self.stored.expires_at = Timestamp::now() + PIN_TTL;
            self.write().await;
        }
        self.stored.released = true;
        self.write().await;
    }

    async fn write(&mut self) {
        let written = match self.put().await {
            // Nobody else writes this object: an earlier write took place, and its answer was lost.
            Err(
                StoreError::VersionChanged { .. }
                | StoreError::AlreadyExists { .. }
                | StoreError::NotFound { .. },
            ) => match self.look_up().await {
                Ok(()) => self.put().await,
                Err(error) => Err(error),
            },
            written => written,
        };
        if let Err(error) = written {
            tracing::warn!(%error, "a pin could not be renewed or released; without that it runs out by itself");
        }
    }

    async fn put(&mut self) -> Result<(), StoreError> {
        let condition = self.version.clone().map_or(PutCondition::IfAbsent, PutCondition::IfVersion);
        self.version = Some(put(&self.store, &self.key, &self.stored, condition).await?);
        Ok(())
    }

    async fn look_up(&mut self) -> Result<(), StoreError> {
        self.version = match self.store.head(&self.key).await {
            Ok(found) => Some(found.version),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

async fn put(
    store: &SharedStore,
    key: &ObjectKey,
    stored: &Stored,
    condition: PutCondition,
) -> Result<Version, StoreError> {
    let bytes = serde_json::to_vec_pretty(stored).expect("a pin has only string keys");
    store.put(key, Bytes::from(bytes), condition).await
}

/// Who is at work on a backup. `Display` is what a plan prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InUse {
    By {
        host: String,
        until: Timestamp,
    },
    /// What cannot be understood may be a pin of a newer version.
    Unreadable {
        key: ObjectKey,
    },
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By { host, until } => write!(f, "{host} until {}", until.strftime("%Y-%m-%d %H:%M:%S UTC")),
            Self::Unreadable { key } => write!(f, "somebody whose pin cannot be read ({key})"),
        }
    }
}

/// Every backup of a source that is pinned at `now`.
pub async fn all(
    store: &SharedStore,
    source: &SourceName,
    now: Timestamp,
) -> Result<BTreeMap<BackupId, InUse>, StoreError> {
    let prefix = layout::pins(source);
    let mut pinned = BTreeMap::new();
    for key in keys(store, &prefix).await? {
        let id =
            key.as_str().strip_prefix(prefix.as_str()).and_then(|path| path.split('/').next()?.parse().ok());
        if let (Some(id), Some(in_use)) = (id, in_use(store, &key, now).await?) {
            pinned.insert(id, in_use);
        }
    }
    Ok(pinned)
}

/// Who has pinned this one.
pub async fn of(
    store: &SharedStore,
    source: &SourceName,
    id: &BackupId,
    now: Timestamp,
) -> Result<Option<InUse>, StoreError> {
    for key in keys(store, &layout::pins_of(source, id)).await? {
        if let Some(in_use) = in_use(store, &key, now).await? {
            return Ok(Some(in_use));
        }
    }
    Ok(None)
}

/// Removes pins that ended long ago. Whoever sets pins need not be allowed to delete.
pub async fn sweep(store: &SharedStore, source: &SourceName, now: Timestamp) -> Result<usize, StoreError> {
    let mut swept = 0;
    for key in keys(store, &layout::pins(source)).await? {
        let Some(Ok(pin)) = read(store, &key).await? else { continue };
        if pin.expires_at < now - LITTER_GRACE {
            store.delete(&key).await?;
            swept += 1;
        }
    }
    Ok(swept)
}

async fn keys(store: &SharedStore, prefix: &KeyPrefix) -> Result<Vec<ObjectKey>, StoreError> {
    store.list(prefix, None).map_ok(|meta| meta.key).try_collect().await
}

async fn in_use(store: &SharedStore, key: &ObjectKey, now: Timestamp) -> Result<Option<InUse>, StoreError> {
    Ok(match read(store, key).await? {
        None => None,
        Some(Err(_)) => Some(InUse::Unreadable { key: key.clone() }),
        Some(Ok(pin)) if pin.released || pin.expires_at <= now || pin.holder.is_dead() => None,
        Some(Ok(pin)) => Some(InUse::By { host: pin.holder.host, until: pin.expires_at }),
    })
}

/// `None` where it is gone meanwhile.
async fn read(store: &SharedStore, key: &ObjectKey) -> Result<Option<Result<Stored, NotRead>>, StoreError> {
    match store.get(key, PIN_BYTES_MAX).await {
        Ok((bytes, _)) => {
            let read = serde_json::from_slice::<Stored>(&bytes).ok();
            Ok(Some(read.filter(|pin| pin.version == VERSION).ok_or(NotRead)))
        }
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(StoreError::TooLarge { .. } | StoreError::Damaged { .. }) => Ok(Some(Err(NotRead))),
        Err(error) => Err(error),
    }
}

/// It is there, and may be anybody's pin.
struct NotRead;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::faulty::{Fault, FaultyStore, Rule};
    use crate::store::memory::MemoryStore;
    use crate::store::operation::Operation;

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        const GOLDEN_V1: &str = include_str!("../fixtures/pin.v1.json");
        let stored: Stored = serde_json::from_str(GOLDEN_V1).unwrap();
        assert_eq!(serde_json::to_string_pretty(&stored).unwrap() + "\n", GOLDEN_V1);
    }

    fn id() -> BackupId {
        "20261124T020000Z-aaaaaa".parse().unwrap()
    }

    fn source() -> SourceName {
        "app".parse().unwrap()
    }

    #[tokio::test]
    async fn a_pin_holds_until_it_is_released() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let now = Timestamp::now();
        let pin = Pin::set(store.clone(), &source(), &id(), now).await.unwrap();
        let found = of(&store, &source(), &id(), now).await.unwrap();
        assert!(matches!(&found, Some(InUse::By { until, .. }) if *until == now + PIN_TTL), "{found:?}");
        assert_eq!(all(&store, &source(), now).await.unwrap().len(), 1);
        pin.release().await;
        assert_eq!(of(&store, &source(), &id(), now).await.unwrap(), None);
        assert_eq!(sweep(&store, &source(), now).await.unwrap(), 0);
        assert_eq!(sweep(&store, &source(), now + PIN_TTL + LITTER_GRACE + LITTER_GRACE).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pin_is_renewed_while_its_holder_works() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        // Set as if long ago, so that only a renewal can carry it to now.
        let pin = Pin::set(store.clone(), &source(), &id(), Timestamp::now() - PIN_TTL).await.unwrap();
        assert_eq!(all(&store, &source(), Timestamp::now()).await.unwrap().len(), 0);
        tokio::time::sleep(PIN_RENEWAL + Duration::from_secs(1)).await;
        assert_eq!(all(&store, &source(), Timestamp::now()).await.unwrap().len(), 1);
        pin.release().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_whose_answer_was_lost_is_not_the_last() {
        // The first call sets the pin, the second renews it.
        let lost = Rule::on(Operation::Put, Fault::FailAfter).from_call(2);
        let store: SharedStore = Arc::new(FaultyStore::scripted(Arc::new(MemoryStore::new()), vec![lost]));
        let pin = Pin::set(store.clone(), &source(), &id(), Timestamp::now()).await.unwrap();
        let mut until = Timestamp::MIN;
        for renewal in 1..5 {
            tokio::time::sleep(PIN_RENEWAL + Duration::from_secs(1)).await;
            let found = of(&store, &source(), &id(), Timestamp::now()).await.unwrap();
            let Some(InUse::By { until: renewed, .. }) = found else { panic!("{found:?}") };
            assert!(renewed > until, "renewal {renewal} came to nothing");
            until = renewed;
        }
        pin.release().await;
        assert_eq!(of(&store, &source(), &id(), Timestamp::now()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_dead_holder_s_pin_runs_out_and_what_cannot_be_read_holds() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let holder = Holder { host: "elsewhere".to_owned(), boot: "b".to_owned(), pid: 7 };
        let stored = Stored { version: 1, holder, since: now, expires_at: now + PIN_TTL, released: false };
        put(&store, &layout::pin(&source(), &id(), "a"), &stored, PutCondition::IfAbsent).await.unwrap();
        let found = of(&store, &source(), &id(), now).await.unwrap().unwrap();
        assert_eq!(found.to_string(), "elsewhere until 2026-11-24 02:30:00 UTC");
        assert_eq!(of(&store, &source(), &id(), now + PIN_TTL).await.unwrap(), None);
        let newer = Stored { version: VERSION + 1, ..stored };
        for odd in
            [b"{".to_vec(), vec![b'0'; PIN_BYTES_MAX as usize + 1], serde_json::to_vec(&newer).unwrap()]
        {
            let key = layout::pin(&source(), &id(), "b");
            store.put(&key, Bytes::from(odd), PutCondition::IfAbsent).await.unwrap();
            let found = of(&store, &source(), &id(), now + PIN_TTL).await.unwrap();
            assert_eq!(found, Some(InUse::Unreadable { key: key.clone() }));
            store.delete(&key).await.unwrap();
        }
    }
}
