//! Names of reports by their time: reports lie with the backups that they are about, and whoever asks for the newest ones
//! need not list all.
//!
//! A name is an empty object, put after the report, and proves nothing: what it leads to is fetched and its signature
//! checked. That one is missing hides a report from those who look by time alone, so what matters of a certain backup is
//! looked for with it as well ([`chain::keys_of`]).

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;

use super::chain;
use super::v1::Report;
use crate::ids::ObjectKey;
use crate::layout;
use crate::store::{PutCondition, SharedStore, Store, StoreError};

/// Keys that a store tells in one answer.
const KEYS_PER_REQUEST: usize = 1000;
/// Where there are more names than one answer holds, those of so long are listed; where these are too few, those of the
/// next span, at last all.
const LISTED_FOR: [SignedDuration; 4] = [
    SignedDuration::from_hours(2 * 24),
    SignedDuration::from_hours(16 * 24),
    SignedDuration::from_hours(128 * 24),
    SignedDuration::from_hours(1024 * 24),
];

/// Names a report that was stored.
pub async fn name(store: &dyn Store, report: &Report) -> Result<(), StoreError> {
    let key = layout::verification_name(&report.source, &report.backup, report.finished_at);
    match store.put(&key, Bytes::new(), PutCondition::IfAbsent).await {
        Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The keys of the newest `count` reports, newest first. All keys are listed where there are fewer names than that: the
/// reports of older versions have none.
pub async fn newest(
    store: &SharedStore,
    source: &SourceName,
    count: usize,
    now: Timestamp,
) -> Result<Vec<ObjectKey>, StoreError> {
    let mut keys = named(store, source, count, now).await?;
    if keys.len() < count {
        keys = chain::keys(store, source).await?.into_iter().map(|(_, key)| key).collect();
    }
    newest_first(&mut keys);
    keys.truncate(count);
    Ok(keys)
}

/// Sorts keys of reports by the times at which the drills ended.
pub fn newest_first(keys: &mut [ObjectKey]) {
    keys.sort_by(|one, other| (file_name(other), other).cmp(&(file_name(one), one)));
}

async fn named(
    store: &SharedStore,
    source: &SourceName,
    count: usize,
    now: Timestamp,
) -> Result<Vec<ObjectKey>, StoreError> {
    let prefix = layout::verification_names(source);
    let listed = async |from: Option<&ObjectKey>, keys_max: usize| -> Result<Vec<ObjectKey>, StoreError> {
        let listed = store.list(&prefix, from).take(keys_max);
        listed.map_ok(|meta| meta.key).try_collect().await
    };
    let mut names = listed(None, KEYS_PER_REQUEST).await?;
    let mut is_enough = names.len() < KEYS_PER_REQUEST;
    let mut spans = LISTED_FOR.iter();
    while !is_enough {
        let since = spans.next().and_then(|span| now.checked_sub(*span).ok());
        let since = since.and_then(|since| layout::verification_names_from(source, since));
        names = listed(since.as_ref(), usize::MAX).await?;
        is_enough = since.is_none() || names.len() >= count;
    }
    let named = names.iter().filter_map(|name| layout::verification_named(source, name));
    Ok(named.map(|(id, at)| layout::verification(source, &id, at)).collect())
}

fn file_name(key: &ObjectKey) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::BackupId;
    use crate::store::counting::CountingStore;
    use crate::store::memory::MemoryStore;
    use crate::store::operation::Operation;

    const NOW: &str = "2026-11-24T12:00:00Z";

    fn source() -> SourceName {
        "app".parse().unwrap()
    }

    fn id() -> BackupId {
        "20260101T020000Z-aaaaaa".parse().unwrap()
    }

    fn hours_ago(hours: i64) -> Timestamp {
        NOW.parse::<Timestamp>().unwrap() - SignedDuration::from_hours(hours)
    }

    async fn put(store: &SharedStore, key: ObjectKey) {
        store.put(&key, Bytes::new(), PutCondition::IfAbsent).await.unwrap();
    }

    /// The newest reports, and the lists that this takes.
    async fn newest_of(store: &SharedStore, count: usize) -> (Vec<ObjectKey>, u64) {
        let counting = CountingStore::new(store.clone());
        let counted: SharedStore = Arc::new(counting.clone());
        let found = newest(&counted, &source(), count, NOW.parse().unwrap()).await.unwrap();
        (found, counting.counters().of(Operation::List).requests)
    }

    fn reports(hours: impl IntoIterator<Item = i64>) -> Vec<ObjectKey> {
        hours.into_iter().map(|hours| layout::verification(&source(), &id(), hours_ago(hours))).collect()
    }

    #[tokio::test]
    async fn the_newest_are_found_by_their_names_in_few_lists_however_many_there_are() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let mut report: Report =
            serde_json::from_slice(include_bytes!("../../fixtures/report.v1.json")).unwrap();
        report.backup = id();
        // Named twice: once more after an answer that was lost.
        for hours in [1, 1, 2, 3] {
            report.finished_at = hours_ago(hours);
            name(&*store, &report).await.unwrap();
        }
        assert_eq!(newest_of(&store, 2).await, (reports([1, 2]), 1));
        assert_eq!(newest_of(&store, 3).await, (reports([1, 2, 3]), 1));
        for hours in 100..1_300 {
            put(&store, layout::verification_name(&source(), &id(), hours_ago(hours))).await;
        }
        // More than one answer tells: first those of two days, then of sixteen.
        assert_eq!(newest_of(&store, 3).await, (reports([1, 2, 3]), 2));
        assert_eq!(newest_of(&store, 4).await, (reports([1, 2, 3, 100]), 3));
        let (all, _) = newest_of(&store, 1_203).await;
        assert_eq!(all, reports((1..=3).chain(100..1_300)));
    }

    #[tokio::test]
    async fn reports_without_names_are_found_where_names_are_too_few() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        for hours in [5, 6] {
            put(&store, layout::verification(&source(), &id(), hours_ago(hours))).await;
        }
        put(&store, layout::verification(&source(), &id(), hours_ago(1))).await;
        put(&store, layout::verification_name(&source(), &id(), hours_ago(1))).await;
        assert_eq!(newest_of(&store, 1).await.0, reports([1]));
        assert_eq!(newest_of(&store, 2).await.0, reports([1, 5]));
        assert_eq!(newest_of(&store, 9).await.0, reports([1, 5, 6]));
        // The time of the drill decides, and not that of the backup.
        let later: BackupId = "20260201T020000Z-aaaaaa".parse().unwrap();
        let of_later = layout::verification(&source(), &later, hours_ago(7));
        put(&store, of_later.clone()).await;
        assert_eq!(newest_of(&store, 9).await.0, [reports([1, 5, 6]), vec![of_later]].concat());
    }
}
