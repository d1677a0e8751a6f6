use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::store::PutCondition;
use crate::store::memory::MemoryStore;

const NOW: &str = "2026-11-24T12:00:00Z";
/// Few for a search that begins with a list of the first thousand, and enough for the worst of these shapes.
const REQUESTS_MAX: usize = 40;

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn id(at: Timestamp, number: usize) -> String {
    const TAIL: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
    let tail: String = (0..6).map(|place| TAIL[number / 26_usize.pow(place) % 26] as char).collect();
    format!("{}-{tail}", name_at(at))
}

/// So many, one after each step, up to `until`.
fn every(step: SignedDuration, count: usize, until: Timestamp) -> Vec<String> {
    (0..count).map(|number| id(until - step * i32::try_from(number).unwrap(), number)).collect()
}

/// A bucket that answers as S3 does.
struct Bucket {
    names: Vec<String>,
}

impl Bucket {
    fn of(mut names: Vec<String>) -> Self {
        names.sort();
        names.dedup();
        Self { names }
    }

    fn answer(&self, from: Option<&str>, end: &str) -> Answer {
        let after = |name: &&String| from.is_none_or(|from| format!("{name}/").as_str() > from);
        let mut names = self.names.iter().filter(after);
        let page: Vec<String> = names.by_ref().take(NAMES_PER_REQUEST).cloned().collect();
        let ids = page.iter().filter_map(|name| name.parse().ok()).collect();
        Answer { ids, last: page.last().cloned(), more: names.next().is_some() }.cut(end)
    }

    /// What a search finds, and how many requests it takes.
    fn search(&self, before: Option<&str>, count: usize) -> (Option<Vec<BackupId>>, usize) {
        let end = before.unwrap_or(AFTER_ALL);
        let mut search = Search::new(self.answer(None, end), count, end, now());
        let mut requests = 1;
        while let Some(from) = search.next_from() {
            search.learn(self.answer(Some(&from), end));
            requests += 1;
            assert!(requests <= 1000, "it does not end");
        }
        (search.found(), requests)
    }

    fn expected(&self, before: Option<&str>, count: usize) -> Vec<BackupId> {
        let ids = self.names.iter().rev().filter_map(|name| name.parse::<BackupId>().ok());
        ids.filter(|id| before.is_none_or(|before| id.as_str() < before)).take(count).collect()
    }
}

#[test]
fn however_they_lie_the_newest_are_found_in_few_requests() {
    let (second, hour) = (SignedDuration::from_secs(1), SignedDuration::from_hours(1));
    let years_ago = now() - hour * (24 * 365 * 3);
    let far = "2099-01-01T00:00:00Z".parse().unwrap();
    let shapes: [(&str, usize, Vec<String>); 8] = [
        ("nothing", 1, Vec::new()),
        ("a year of nights", 1, every(hour * 24, 365, now())),
        ("an hour each", 3, every(hour, 100_000, now())),
        ("silent for years", 16, every(hour, 100_000, years_ago)),
        ("many of late", 16, [every(hour * 24, 3_000, now()), every(second * 60, 3_000, now())].concat()),
        ("few of late", 16, [every(second * 60, 50_000, years_ago), every(hour * 24, 7, now())].concat()),
        ("a flood from the future", 40, [every(hour, 20_000, now()), every(second, 5_000, far)].concat()),
        ("all in one second", 50, (0..5_000).map(|number| id(now(), number)).collect()),
    ];
    for (shape, requests_max, names) in shapes {
        let bucket = Bucket::of(names);
        for count in [1, 51, 500] {
            let (found, requests) = bucket.search(None, count);
            assert_eq!(found, Some(bucket.expected(None, count)), "{shape}");
            assert!(requests <= requests_max, "{shape}: {requests} requests for {count}");
        }
    }
}

#[test]
fn pages_follow_one_another_without_a_gap() {
    let names = every(SignedDuration::from_mins(7), 6_000, now());
    let bucket = Bucket::of(names);
    let (mut read, mut before) = (Vec::new(), None::<String>);
    loop {
        let (found, _) = bucket.search(before.as_deref(), 450);
        let found = found.unwrap();
        let Some(last) = found.last() else { break };
        before = Some(last.to_string());
        read.extend(found);
    }
    assert_eq!(read, bucket.expected(None, usize::MAX));
}

#[test]
fn other_names_do_not_pass_for_backups() {
    let mut names = every(SignedDuration::from_hours(1), 3_000, now());
    names.extend((0..2_000).map(|number| format!("lost+found-{number:05}")));
    names.extend((0..30).map(|number| format!("20261124-{number}")));
    let bucket = Bucket::of(names);
    let (found, requests) = bucket.search(None, 50);
    assert_eq!(found, Some(bucket.expected(None, 50)));
    assert!(requests <= 4, "{requests}");
}

/// Guesses lead nowhere among names that are no backups: then all are listed.
#[tokio::test]
async fn a_flood_of_other_names_hides_no_backup() {
    let (store, source): (SharedStore, SourceName) = (Arc::new(MemoryStore::new()), "app".parse().unwrap());
    let ids = every(SignedDuration::from_hours(1), 5, now());
    let flood = (0..2_500).map(|number| format!("0-{number:04}"));
    for name in flood.chain(ids.iter().cloned()) {
        let key = format!("app/backups/{name}/x").parse().unwrap();
        store.put(&key, Bytes::new(), PutCondition::IfAbsent).await.unwrap();
    }
    let folders = Folders::open(&store, &source).await.unwrap();
    let newest = async |before: Option<&Before>, count| {
        let found = folders.newest(before, count).await.unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(newest(None, 50).await, ids);
    assert_eq!(newest(None, 2).await, ids[..2]);
    let before = Before::id(&ids[1].parse().unwrap());
    assert_eq!(newest(Some(&before), 50).await, ids[2..]);
    assert!(folders.first().is_empty() && folders.oldest().is_none());
    let other: SourceName = "other".parse().unwrap();
    let key = layout::backup_object(&other, &ids[0].parse().unwrap(), "x").unwrap();
    store.put(&key, Bytes::new(), PutCondition::IfAbsent).await.unwrap();
    let folders = Folders::open(&store, &other).await.unwrap();
    assert_eq!((folders.first().len(), folders.oldest()), (1, folders.first().first()));
}

proptest! {
    #[test]
    fn no_shape_leads_astray(
        clusters in proptest::collection::vec((0..60 * 60 * 24 * 4000_i64, 1..4_000_usize, 0..5_000_i64), 0..6),
        before in proptest::option::of(0..60 * 60 * 24 * 4000_i64),
        count in 1..=SEARCHED_MAX,
    ) {
        let ago = |seconds: i64| now() - SignedDuration::from_secs(seconds);
        let clusters = clusters.into_iter();
        let names = clusters.flat_map(|(end, count, step)| every(SignedDuration::from_secs(step), count, ago(end)));
        let bucket = Bucket::of(names.collect());
        let before = before.map(|seconds| name_at(ago(seconds)));
        let (found, requests) = bucket.search(before.as_deref(), count);
        prop_assert_eq!(found, Some(bucket.expected(before.as_deref(), count)));
        prop_assert!(requests <= REQUESTS_MAX, "{requests}");
    }
}
