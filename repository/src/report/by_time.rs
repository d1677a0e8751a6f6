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
