//! A page of the newest backups takes the requests of a page, however many backups there are.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_repository::catalog::{self, Before, Entry, Folders, Page, Standing};
use pgproof_repository::ids::{BackupId, ManifestSha256};
use pgproof_repository::layout;
use pgproof_repository::manifest::{self, v1::Previous};
use pgproof_repository::records;
use pgproof_repository::report::{Report, v1};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::counting::CountingStore;
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::operation::Operation;
use pgproof_repository::store::{PutCondition, SharedStore};

const MANIFEST: &[u8] = include_bytes!("../fixtures/manifest.v1.json");
const REPORT: &[u8] = include_bytes!("../fixtures/report.v1.json");
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// Backups of a page.
const LIMIT: usize = 20;
/// To find where the page begins, and what of holds and reports belongs to it.
const LISTINGS_MAX: u64 = 6;

#[tokio::test]
async fn a_page_of_many_takes_the_requests_of_a_page() {
    let mut bucket = Bucket::new();
    for count in [30, 6_000] {
        bucket.backups_up_to(count).await;
        let (page, counting) = bucket.page(None).await;
        let newest: Vec<&BackupId> = bucket.ids.iter().rev().take(LIMIT).rev().collect();
        assert_eq!(page.entries.iter().map(|entry| &entry.id).collect::<Vec<_>>(), newest);
        assert!(page.has_older);
        assert!(page.entries.iter().all(|entry| entry.whole().is_some()));
        let counters = counting.counters();
        let listings = counters.of(Operation::List).requests + counters.of(Operation::ListFolders).requests;
        // The marker, and two for each backup.
        assert_eq!(counters.of(Operation::Get).requests, 1 + 2 * LIMIT as u64, "{:?}", counters.all());
        assert!(listings <= LISTINGS_MAX, "{:?}", counters.all());
        assert_eq!(counters.of(Operation::Head).requests, 0);
    }
    // One in the middle, found by a time.
    let middle = &bucket.ids[3_000];
    let (page, counting) = bucket.page(Some(Before::time(middle.started_at()))).await;
    assert_eq!(page.entries.last().unwrap().id, bucket.ids[2_999]);
    let listed = counting.counters().of(Operation::ListFolders).requests;
    assert!(listed <= LISTINGS_MAX, "{listed}");
}

#[tokio::test]
async fn pages_together_are_the_list() {
    let mut bucket = Bucket::new();
    bucket.backups_up_to(90).await;
    let [unsigned, begun, removed, held] = [83, 61, 40, 20].map(|number| bucket.ids[number].clone());
    bucket.delete(&layout::manifest_signature(&source(), &unsigned)).await;
    bucket.delete(&layout::manifest(&source(), &begun)).await;
    bucket.delete(&layout::manifest(&source(), &removed)).await;
    bucket.put(&layout::tombstone(&source(), &removed), b"{}").await;
    bucket.put(&layout::hold(&source(), &held), b"{}").await;
    bucket.proof(&bucket.ids[59].clone()).await;

    let all = catalog::list(&bucket.store, &source(), &bucket.signers).await.unwrap();
    let (mut pages, mut before) = (Vec::new(), None);
    loop {
        let (page, _) = bucket.page(before).await;
        before = page.entries.first().map(|entry| Before::id(&entry.id));
        let has_older = page.has_older;
        pages.splice(0..0, page.entries);
        if !has_older {
            break;
        }
    }
    let told =
        |entries: &[Entry]| -> Vec<String> { entries.iter().map(|entry| format!("{entry:?}")).collect() };
    assert_eq!(told(&pages), told(&all));
    assert!(matches!(all[40].standing, Standing::Pruned));
    assert!(matches!(all[61].standing, Standing::Incomplete));
    assert!(all[20].held && all[59].proofs.proved_at.is_some());
    let nothing = bucket.page(Some(Before::time("2001-01-01T00:00:00Z".parse().unwrap()))).await.0;
    assert!(nothing.entries.is_empty() && !nothing.has_older);
}

#[tokio::test]
async fn the_newest_first_are_all_of_them() {
    let mut bucket = Bucket::new();
    bucket.backups_up_to(2_300).await;
    let folders = Folders::open(&bucket.store, &source()).await.unwrap();
    let ids: Vec<BackupId> = pin!(folders.newest_first(None)).try_collect().await.unwrap();
    assert!(ids.iter().eq(bucket.ids.iter().rev()), "{} of {}", ids.len(), bucket.ids.len());
    assert_eq!(folders.oldest(), bucket.ids.first());
}

#[tokio::test]
async fn what_a_moment_asks_for_is_found_in_few_requests_and_is_what_all_of_them_say() {
    let mut bucket = Bucket::new();
    bucket.backups_up_to(2_000).await;
    let hours_ago = |hours: i32| bucket.now - HOUR * hours;
    bucket.proof(&bucket.ids[1_999].clone()).await;
    // Taken in an hour ago, it shows what was there a thousand hours ago.
    let imported =
        bucket.backup(hours_ago(1) + SignedDuration::from_mins(7), hours_ago(1_000) + HOUR / 2).await;
    bucket.delete(&layout::manifest_signature(&source(), &bucket.ids[998])).await;

    let all = catalog::list(&bucket.store, &source(), &bucket.signers).await.unwrap();
    for (at, requests_max) in [
        (Timestamp::MAX, 140),
        (bucket.now, 140),
        (hours_ago(1_000) - HOUR / 2, 4_100),
        (hours_ago(1_000) + HOUR / 2, 4_100),
        (hours_ago(9_000), 4_100),
    ] {
        let counting = CountingStore::new(bucket.store.clone());
        let store: SharedStore = Arc::new(counting.clone());
        let entries = catalog::for_moment(&store, &source(), &bucket.signers, at).await.unwrap();
        let told = |entries: &[Entry]| {
            let choice = catalog::choose(entries, at)?;
            let proofs = entries.iter().find(|entry| entry.id == choice.backup.get().id).map(|it| &it.proofs);
            Some(format!("{:?} {:?} {proofs:?}", choice, choice.later.len()))
        };
        assert_eq!(told(&entries), told(&all), "{at}");
        let requests: u64 = counting.counters().all().values().map(|count| count.requests).sum();
        assert!(requests <= requests_max, "{at}: {requests}");
    }
    let entries =
        catalog::for_moment(&bucket.store, &source(), &bucket.signers, hours_ago(999)).await.unwrap();
    let choice = catalog::choose(&entries, hours_ago(999) - HOUR / 4).unwrap();
    assert_eq!(choice.backup.get().id, imported);
}

/// A repository in memory, of a backup an hour.
struct Bucket {
    store: SharedStore,
    key: SigningKey,
    signers: TrustedSigners,
    /// Oldest first.
    ids: Vec<BackupId>,
    /// When the newest of them was made.
    now: Timestamp,
}

impl Bucket {
    fn new() -> Self {
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let signers = TrustedSigners::parse(&format!("host {}\n", key.public_line())).unwrap();
        Self { store: Arc::new(MemoryStore::new()), key, signers, ids: Vec::new(), now: Timestamp::now() }
    }

    async fn backups_up_to(&mut self, count: usize) {
        for number in self.ids.len()..count {
            let at = self.now - HOUR * i32::try_from(number).unwrap();
            let id = self.backup(at, at).await;
            self.ids.push(id);
        }
        self.ids.sort();
    }

    async fn backup(&self, at: Timestamp, snapshot_at: Timestamp) -> BackupId {
        let mut made = manifest::parse(MANIFEST).unwrap();
        made.previous = Previous::None;
        let id: BackupId = format!("{}-aaaaaa", at.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap();
        (made.id, made.started_at, made.finished_at, made.snapshot.at) = (id.clone(), at, at, snapshot_at);
        let bytes = made.to_bytes();
        let signature = self.key.sign(manifest::NAMESPACE, &bytes).unwrap();
        self.put(&layout::manifest_signature(&source(), &id), signature.as_bytes()).await;
        self.put(&layout::manifest(&source(), &id), &bytes).await;
        id
    }

    async fn proof(&self, id: &BackupId) {
        let mut report: Report = serde_json::from_slice(REPORT).unwrap();
        let (bytes, _) = self.store.get(&layout::manifest(&source(), id), 1 << 20).await.unwrap();
        (report.backup, report.manifest_sha256) = (id.clone(), ManifestSha256::of(&bytes));
        (report.number, report.previous) = (1, v1::Previous::None);
        let place = layout::verification(&source(), id, report.finished_at);
        records::put(&*self.store, &place, &report, &self.key).await.unwrap();
    }

    async fn page(&self, before: Option<Before>) -> (Page, CountingStore) {
        let counting = CountingStore::new(self.store.clone());
        let store: SharedStore = Arc::new(counting.clone());
        let page = catalog::page(&store, &source(), &self.signers, before.as_ref(), LIMIT).await.unwrap();
        (page, counting)
    }

    async fn put(&self, key: &pgproof_repository::ids::ObjectKey, bytes: &[u8]) {
        self.store.put(key, Bytes::copy_from_slice(bytes), PutCondition::IfAbsent).await.unwrap();
    }

    async fn delete(&self, key: &pgproof_repository::ids::ObjectKey) {
        self.store.delete(key).await.unwrap();
    }
}

fn source() -> SourceName {
    "app".parse().unwrap()
}
