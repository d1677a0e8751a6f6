//! Candidates in simulated hours, on a store that overwrites whatever is there, slowly and at times very slowly.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::{LEASE_TTL, Lease};
use super::*;
use crate::catalog::{ensure_marker, find_marker};
use crate::ids::{KeyPrefix, RepositoryId};
use crate::store::conditions::Conditions;
use crate::store::memory::MemoryStore;
use crate::store::part_plan::PartLimits;
use crate::store::{FolderPage, PendingUpload, Store, Upload};

const CANDIDATES: u32 = 4;
const HOURS: Duration = Duration::from_secs(3 * 3_600);
/// Of a hundred writes so many take longer than a claim may.
const STALLS_PERCENT: u32 = 4;

/// Heeds nothing, and takes its time before a write takes effect and after.
#[derive(Debug, Clone)]
struct Careless {
    memory: MemoryStore,
    random: Arc<Mutex<StdRng>>,
    epoch: (Instant, Timestamp),
    may_delete: bool,
    is_slow: bool,
}

impl Careless {
    fn new(seed: u64) -> Self {
        let epoch = (Instant::now(), "2026-11-24T02:00:00Z".parse().unwrap());
        let random = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        let may_delete = seed.is_multiple_of(2);
        Self { memory: MemoryStore::new(), random, epoch, may_delete, is_slow: true }
    }

    /// Takes no time for anything.
    fn quick(may_delete: bool) -> Self {
        Self { may_delete, is_slow: false, ..Self::new(0) }
    }

    fn shared(&self) -> SharedStore {
        Arc::new(self.clone())
    }

    fn now(&self) -> Timestamp {
        self.epoch.1 + signed(self.epoch.0.elapsed())
    }

    fn random(&self, range: Range<u64>) -> u64 {
        self.random.lock().unwrap().random_range(range)
    }

    async fn pass(&self, milliseconds: Range<u64>) {
        let milliseconds = self.random(milliseconds);
        if self.is_slow {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
    }

    async fn pass_writing(&self) {
        match self.random(0..100) < u64::from(STALLS_PERCENT) {
            true => self.pass(9_000..400_000).await,
            false => self.pass(1..3_000).await,
        }
    }
}

#[async_trait]
impl Store for Careless {
    fn location(&self) -> String {
        "careless:".to_owned()
    }

    async fn put(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: PutCondition,
    ) -> Result<Version, StoreError> {
        match (condition, self.head(key).await) {
            (PutCondition::IfAbsent, Err(StoreError::NotFound { .. })) => {}
            (PutCondition::IfVersion(wanted), Ok(found)) if found.version == wanted => {}
            (PutCondition::IfAbsent, _) => return Err(StoreError::AlreadyExists { key: key.to_string() }),
            (PutCondition::IfVersion(_), _) => {
                return Err(StoreError::VersionChanged { key: key.to_string() });
            }
        }
        self.pass_writing().await;
        self.memory.overwrite(key, body);
        // Nobody awaits between these two.
        let version = self.memory.head(key).await?.version;
        self.pass_writing().await;
        Ok(version)
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        self.pass(1..800).await;
        self.memory.get(key, bytes_max).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.pass(1..800).await;
        self.memory.head(key).await
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.memory.list(prefix, start_after)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.pass_writing().await;
        match self.may_delete {
            true => self.memory.delete(key).await,
            false => Err(StoreError::Unsupported { operation: "delete" }),
        }
    }

    /// One of several servers, whose clocks differ, in whole seconds.
    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.pass(1..400).await;
        let off = SignedDuration::from_millis(self.random(0..1_500).try_into().unwrap());
        Ok(Some(Timestamp::from_second((self.now() - off).as_second()).unwrap()))
    }

    fn conditions(&self) -> Conditions {
        Conditions::IGNORED
    }

    fn part_limits(&self) -> PartLimits {
        PartLimits::S3
    }

    async fn get_range(&self, _: &ObjectKey, _: Range<u64>) -> Result<Bytes, StoreError> {
        unused()
    }

    async fn get_stream(
        &self,
        _: &ObjectKey,
        _: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        unused()
    }

    async fn list_folders(&self, _: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        unused()
    }

    async fn folders_from(&self, _: &KeyPrefix, _: Option<&str>, _: usize) -> Result<FolderPage, StoreError> {
        unused()
    }

    async fn start_upload(&self, _: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        unused()
    }

    async fn list_uploads(&self, _: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        unused()
    }

    async fn abort_upload(&self, _: &PendingUpload) -> Result<(), StoreError> {
        unused()
    }
}

fn unused<T>() -> Result<T, StoreError> {
    Err(StoreError::Unsupported { operation: "do what leases do not need" })
}

/// Who holds the lease, by its own account, and until when at most.
#[derive(Debug, Default)]
struct Held {
    by: Option<(u32, Instant)>,
    taken: u32,
    lost: u32,
    refused: u32,
    slow: u32,
}

async fn candidate(number: u32, store: Careless, held: Arc<Mutex<Held>>, settling: Settling) {
    let ttl = Duration::try_from(LEASE_TTL).unwrap();
    let holder = Holder { host: format!("host{number}"), boot: String::new(), pid: number };
    let end = store.epoch.0 + HOURS;
    while Instant::now() < end {
        store.pass(1..40_000).await;
        let key: ObjectKey = "leases/backup.app.json".parse().unwrap();
        let (shared, holder, now) = (store.shared(), holder.clone(), store.now());
        let acquired = Lease::acquire_settling(shared, key, holder, now, |_| false, settling).await;
        let mut lease = match acquired {
            Ok(lease) => lease,
            Err(LeaseError::Held { .. }) => {
                held.lock().unwrap().refused += 1;
                continue;
            }
            Err(LeaseError::Slow { .. }) => {
                held.lock().unwrap().slow += 1;
                continue;
            }
            Err(LeaseError::Lost) => {
                held.lock().unwrap().lost += 1;
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        {
            let mut held = held.lock().unwrap();
            if let Some((other, until)) = held.by {
                assert!(until <= Instant::now(), "{number} took what {other} holds");
            }
            (held.by, held.taken) = (Some((number, lease.written + ttl)), held.taken + 1);
        }
        let mut is_lost = false;
        for _ in 0..store.random(0..6) {
            tokio::time::sleep(super::super::LEASE_RENEWAL).await;
            // Between two renewals a process may stand still.
            if store.random(0..30) == 0 {
                store.pass(100_000..500_000).await;
            }
            is_lost = lease.renew(store.now()).await.is_err();
            let mut held = held.lock().unwrap();
            let is_mine = held.by.is_some_and(|(by, _)| by == number);
            if is_lost {
                held.lost += 1;
                held.by = held.by.filter(|_| !is_mine);
                break;
            }
            assert!(is_mine, "{number} renewed what {:?} holds", held.by);
            held.by = Some((number, lease.written + ttl));
        }
        if !is_lost {
            {
                let mut held = held.lock().unwrap();
                held.by = held.by.filter(|(by, _)| *by != number);
            }
            // A lease that was lost meanwhile cannot be given back.
            let _ = lease.release().await;
        }
    }
}

async fn race(seed: u64, settling: Settling) -> Arc<Mutex<Held>> {
    let (store, held) = (Careless::new(seed), Arc::new(Mutex::new(Held::default())));
    let candidates =
        (0..CANDIDATES).map(|number| candidate(number, store.clone(), Arc::clone(&held), settling));
    futures::future::join_all(candidates).await;
    held
}

/// The simulation itself is tried: whoever waits too short a time is caught.
#[tokio::test(start_paused = true)]
#[should_panic(expected = "holds")]
async fn two_hold_a_lease_where_nobody_waits_long_enough() {
    let hasty = Settling { wait: Duration::from_millis(100), ..Settling::USUAL };
    for seed in 0..40 {
        race(seed, hasty).await;
    }
}

#[test]
fn the_wait_is_as_long_as_all_that_can_be_late() {
    let Settling { write_max, store_uncertainty, wait, .. } = Settling::USUAL;
    assert!(wait >= write_max + store_uncertainty);
}

#[tokio::test(start_paused = true)]
async fn no_two_hold_a_lease_on_a_store_that_heeds_nothing() {
    for seed in 0..40 {
        let held = race(seed, Settling::USUAL).await;
        let held = held.lock().unwrap();
        assert!(held.taken > 20 && held.refused > 20, "seed {seed}: {held:?}");
        assert!(held.slow > 0 && held.lost > 0, "seed {seed}: {held:?}");
    }
}

/// A write that was on its way for minutes lands over a lease that is held: nobody may think that it is free.
#[tokio::test(start_paused = true)]
async fn a_late_write_over_a_lease_makes_it_free_for_nobody() {
    let store = Careless::new(1);
    let key: ObjectKey = "leases/backup.app.json".parse().unwrap();
    let holder = |pid| Holder { host: "db1".to_owned(), boot: String::new(), pid };
    let acquire = |pid| Lease::acquire(store.shared(), key.clone(), holder(pid), store.now(), |_| false);
    let mut first = loop {
        match acquire(1).await {
            Ok(lease) => break lease,
            Err(LeaseError::Slow { .. } | LeaseError::Held { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    };
    store.memory.overwrite(
        &key,
        Bytes::from_static(
            br#"{"holder":{"host":"db2","boot":"","pid":9},"generation":1,"expires_at":"2026-11-24T01:00:00Z","released":false}"#,
        ),
    );
    let refused = acquire(2).await;
    assert!(matches!(refused, Err(LeaseError::Held { .. } | LeaseError::Slow { .. })), "{refused:?}");
    assert!(matches!(first.renew(store.now()).await, Err(LeaseError::Lost)));
}

/// Without conditions the marker that was put last stays, and all who were there take that one.
#[tokio::test(start_paused = true)]
async fn two_that_make_a_repository_at_once_agree_on_its_marker() {
    let memory = MemoryStore::new();
    let began = Instant::now();
    let id = || RepositoryId::generate(&mut rand::rng());
    ensure_marker(&memory, id(), Timestamp::now()).await.unwrap();
    assert!(began.elapsed() < Settling::USUAL.wait, "a store that heeds conditions lets nobody wait");
    for seed in 0..4 {
        let store = Careless::new(seed);
        let (one, other) =
            tokio::join!(ensure_marker(&store, id(), store.now()), ensure_marker(&store, id(), store.now()));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one, other, "seed {seed}");
        assert_eq!(find_marker(&store).await.unwrap(), Some(one));
    }
}

fn of_this_pid(pid: u32) -> Holder {
    Holder { host: "db1".to_owned(), boot: String::new(), pid }
}

/// A write that begins late could land over somebody else's.
#[tokio::test(start_paused = true)]
async fn with_less_left_than_a_write_may_take_a_lease_is_lost() {
    let key: ObjectKey = "leases/backup.app.json".parse().unwrap();
    for (waited, is_held) in [(30, true), (135, true), (136, false), (170, false)] {
        let store = Careless::quick(true);
        let (began, now) = (Instant::now(), store.now());
        let acquired = Lease::acquire(store.shared(), key.clone(), of_this_pid(1), now, |_| false).await;
        let mut lease = acquired.unwrap();
        assert_eq!(began.elapsed(), Settling::USUAL.wait);
        assert_eq!(lease.stored.expires_at, store.now() + LEASE_TTL);
        tokio::time::sleep_until(lease.written + Duration::from_secs(waited)).await;
        let renewed = lease.renew(store.now()).await;
        assert_eq!(renewed.is_ok(), is_held, "{waited}: {renewed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn claims_that_were_over_long_ago_are_removed_by_whoever_may() {
    let lease: ObjectKey = "leases/backup.app.json".parse().unwrap();
    for may_delete in [true, false] {
        let store = Careless::quick(may_delete);
        let ago = |hours: i64| store.now() - SignedDuration::from_hours(hours);
        let put = |hours: i64, over_since: Option<i64>| {
            let key = layout::claim(&lease, ago(hours), "t");
            let body = match over_since {
                Some(hours_ago) => {
                    bytes_of(&Stored { holder: of_this_pid(9), at: ago(hours), expires_at: ago(hours_ago) })
                }
                // Withdrawn by somebody who might not delete.
                None => Bytes::new(),
            };
            store.memory.overwrite(&key, body);
            key
        };
        // Held for long, so that it was over but lately.
        let late = put(40, Some(1));
        let (over, withdrawn) = (put(30, Some(25)), put(29, None));
        let young = [put(3, Some(2)), put(2, None)];
        let acquired = Lease::acquire(store.shared(), lease.clone(), of_this_pid(1), store.now(), |_| false);
        acquired.await.unwrap();
        let there = store.memory.keys();
        for key in [&late, &young[0], &young[1]] {
            assert!(there.contains(key), "{key}");
        }
        for key in [&over, &withdrawn] {
            assert_eq!(there.contains(key), !may_delete, "{key}");
        }
    }
}

#[test]
fn version_1_reads_for_ever_and_writes_as_it_was() {
    const GOLDEN_V1: &str = include_str!("../../../fixtures/lease-claim.v1.json");
    let stored: Stored = serde_json::from_str(GOLDEN_V1).unwrap();
    assert_eq!(serde_json::to_string_pretty(&stored).unwrap() + "\n", GOLDEN_V1);
}
