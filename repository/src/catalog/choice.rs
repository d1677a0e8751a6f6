//! Which backup a moment asks for.

use std::sync::Arc;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;

use super::reading::Reader;
use super::{Before, CatalogError, Entry, Folders, Standing, by_backup, held};
use crate::lifecycle::SNAPSHOT_AFTER_START_MAX;
use crate::manifest::SignedManifest;
use crate::report::chain;
use crate::signature::TrustedSigners;
use crate::store::SharedStore;

/// Folders that are read first: what is asked for is most often among the newest, and these are more than two days of
/// hourly backups.
const READ_FIRST: usize = 64;
/// Folders that are read next, and again until it is found.
const READ_NEXT: usize = 500;

/// What a moment asks for.
#[derive(Debug)]
pub struct Choice<'a> {
    pub backup: &'a SignedManifest,
    /// Whole backups whose snapshot is later than the moment, oldest first.
    pub later: Vec<&'a SignedManifest>,
    /// Backups nearer to the moment that cannot be used, with the reason.
    pub unusable: Vec<&'a Entry>,
}

/// The entries that [`choose`] needs for `at`, oldest first: all that were begun after it, since one that was imported may
/// show an earlier moment than its name says, and so many before that none of the others can be what is asked for.
///
/// Reports are weighed among those of the entries, as in [`super::page`].
pub async fn for_moment(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    at: Timestamp,
) -> Result<Vec<Entry>, CatalogError> {
    let folders = Folders::open(store, source).await?;
    let held = held(store, source).await?;
    let reader = Reader::open(store, source, signers).await?;
    let (mut entries, mut before, mut count) = (Vec::new(), None, READ_FIRST);
    loop {
        let mut ids = folders.newest(before.as_ref(), count).await?;
        let (Some(newest), Some(oldest)) = (ids.first(), ids.last().cloned()) else { return Ok(entries) };
        let reports = chain::keys_of(store, source, &oldest, newest).await;
        let reports = by_backup(reports.map_err(|source| CatalogError::Report { source })?);
        ids.reverse();
        let read = Arc::clone(&reader).folders(ids, reports, &held, |standing| standing).await?;
        entries.splice(0..0, read.into_iter().map(Entry::from));
        // Of those begun earlier than this before a snapshot, none can be nearer to the moment.
        let nearest = choose(&entries, at).map(|choice| choice.backup.snapshot_at());
        if nearest
            .is_some_and(|nearest| nearest.duration_since(oldest.started_at()) > SNAPSHOT_AFTER_START_MAX)
        {
            return Ok(entries);
        }
        (before, count) = (Some(Before::id(&oldest)), READ_NEXT);
    }
}

/// The newest whole backup whose snapshot is not after `at`.
pub fn choose(entries: &[Entry], at: Timestamp) -> Option<Choice<'_>> {
    let whole = || entries.iter().filter_map(Entry::whole);
    let backup =
        whole().filter(|m| m.snapshot_at() <= at).max_by_key(|m| (m.snapshot_at(), m.get().finished_at))?;
    let mut later: Vec<_> = whole().filter(|m| m.snapshot_at() > at).collect();
    later.sort_by_key(|m| m.snapshot_at());
    // Nothing unusable has a time of its own that can be believed, but for that in its name.
    let since = backup.get().id.started_at();
    let nearer = |entry: &&Entry| {
        entry.id != backup.get().id && entry.id.started_at() >= since && entry.id.started_at() <= at
    };
    let unusable = entries
        .iter()
        .filter(nearer)
        .filter(|e| matches!(e.standing, Standing::Quarantined(_) | Standing::Unsigned))
        .collect();
    Some(Choice { backup, later, unusable })
}
