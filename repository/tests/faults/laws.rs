//! What must be true of a repository, whatever happened to those who worked in it: each law by its name.

use std::collections::BTreeSet;
use std::fmt;

use futures::TryStreamExt;
use pgproof_repository::acts;
use pgproof_repository::audit;
use pgproof_repository::catalog::{self, Standing};
use pgproof_repository::ids::{BackupId, KeyPrefix, ObjectKey};
use pgproof_repository::layout;
use pgproof_repository::pins;
use pgproof_repository::records::{self, Tombstone};
use pgproof_repository::report::chain;
use pgproof_repository::store::Store;

use crate::world::{Act, Claimed, KEPT, World, source};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Law {
    /// Every backup that is listed can be read to its last byte, with all that it needs; nothing half is listed.
    Whole,
    /// A backup that was ever whole is there, or a trusted tombstone says that it was let go; the newest always are there.
    Kept,
    /// Reports follow each other without a gap, and so do the acts of a key.
    Unbroken,
    /// What a process said it had done is done.
    Answered,
    /// A process that nothing disturbs comes to its good end, whatever others left: no lease is stuck after its life.
    Undisturbed,
    /// With retries below it, a process gets over a request or an answer that was lost.
    CarriedThrough,
    /// After the grace nothing is left that belongs to no backup and is no record, and prune finds nothing more to do.
    Settled,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Panics with what `case` was, so that it can be tried again.
pub(crate) fn demand(law: Law, case: &dyn fmt::Display, holds: bool, what: &dyn fmt::Display) {
    assert!(holds, "law {law} is broken by {case}: {what}");
}

/// The laws of every moment, as a fresh process sees the repository.
pub(crate) async fn of_every_moment(world: &World, case: &dyn fmt::Display) {
    let fresh = world.process(0);
    let entries = catalog::list(&fresh.store, &source(), &world.keys.signers).await.unwrap();
    let mut whole = BTreeSet::new();
    for entry in &entries {
        match &entry.standing {
            Standing::Whole(signed) => {
                let read = fresh.read(signed).await;
                demand(Law::Whole, case, read.is_ok(), &format!("{}: {read:?}", entry.id));
                whole.insert(entry.id.clone());
            }
            Standing::Incomplete | Standing::Pruned => {}
            other => demand(Law::Whole, case, false, &format!("{} is {other:?}", entry.id)),
        }
    }
    for id in world.committed.difference(&whole) {
        let key = layout::tombstone(&source(), id);
        let tombstone = records::get::<Tombstone>(&world.memory, &key, &world.keys.signers).await;
        let is_let_go = tombstone.as_ref().is_ok_and(|(tombstone, _)| tombstone.id == *id);
        demand(Law::Kept, case, is_let_go, &format!("{id} is gone: {tombstone:?}"));
    }
    for id in newest(world) {
        let is_buried = world.memory.head(&layout::tombstone(&source(), &id)).await.is_ok();
        let is_kept = whole.contains(&id) && !is_buried;
        demand(Law::Kept, case, is_kept, &format!("{id}, one of the newest, is let go"));
    }
    let found = chain::list(&fresh.store, &source(), &world.keys.signers).await.unwrap();
    let unsound = found.iter().find(|found| found.signed().is_none());
    demand(Law::Unbroken, case, unsound.is_none(), &format!("{unsound:?}"));
    let breaks = chain::breaks(found.iter().filter_map(|found| found.signed()));
    demand(Law::Unbroken, case, breaks.is_empty(), &format!("reports: {breaks:?}"));
    demand_whole_books(world, case).await;
}

/// The newest backups, which retention keeps.
fn newest(world: &World) -> Vec<BackupId> {
    world.committed.iter().rev().take(KEPT).cloned().collect()
}

async fn demand_whole_books(world: &World, case: &dyn fmt::Display) {
    let keys = keys_below(world, &layout::acts(&source())).await;
    let mut signed = Vec::new();
    for key in keys.iter().filter(|key| key.as_str().ends_with(".json")) {
        let act = records::fetch::<acts::Act>(&world.memory, key, &world.keys.signers).await;
        demand(Law::Unbroken, case, act.is_ok(), &format!("{key}: {:?}", act.as_ref().err()));
        signed.extend(act.map(|act| (act.record, act.sha256)));
    }
    let breaks = acts::breaks(&signed);
    demand(Law::Unbroken, case, breaks.is_empty(), &format!("acts: {breaks:?}"));
}

/// That what a process claims is so.
pub(crate) async fn of_an_answer(world: &World, case: &dyn fmt::Display, claimed: &Claimed) {
    if let Some(id) = &claimed.made {
        let is_there = world.committed.contains(id);
        demand(Law::Answered, case, is_there, &format!("{id} was made and is not there"));
    }
    for id in &claimed.removed {
        let left = keys_below(world, &layout::backup(&source(), id)).await;
        demand(Law::Answered, case, left.is_empty(), &format!("{id} was removed and left {left:?}"));
    }
}

/// The laws of a repository in which undisturbed processes were at work a day after whatever happened before.
pub(crate) async fn of_rest(world: &World, case: &dyn fmt::Display) {
    of_every_moment(world, case).await;
    let again = world.process(0).carry_out(Act::Prune).await;
    let is_at_rest = again.as_ref().is_ok_and(|claimed| !claimed.did_something);
    demand(Law::Settled, case, is_at_rest, &format!("a further prune: {again:?}"));
    let entries = catalog::list(&world.store(), &source(), &world.keys.signers).await.unwrap();
    let whole: BTreeSet<BackupId> =
        entries.iter().filter(|it| it.whole().is_some()).map(|it| it.id.clone()).collect();
    let orphans: Vec<ObjectKey> =
        world.memory.keys().into_iter().filter(|key| !is_owned(key, &whole)).collect();
    demand(Law::Settled, case, orphans.is_empty(), &format!("orphans: {orphans:?}"));
    let uploads = world.memory.list_uploads(&KeyPrefix::everything()).await.unwrap();
    demand(Law::Settled, case, uploads.is_empty(), &format!("uploads: {uploads:?}"));
    let pinned = pins::all(&world.store(), &source(), world.now).await.unwrap();
    demand(Law::Settled, case, pinned.is_empty(), &format!("pins: {pinned:?}"));
    let audit = audit::of(&world.store(), &source(), &world.keys.signers).await.unwrap();
    // Half a hold keeps its backup until somebody makes it whole or gives it back, and is told as long.
    let findings: Vec<_> =
        audit.findings.iter().filter(|it| !it.problem.contains("half of a hold")).collect();
    demand(Law::Settled, case, findings.is_empty(), &format!("audit: {findings:?}"));
}

/// Whether an object is of a whole backup, or one of those that are kept for ever or rewritten in place.
fn is_owned(key: &ObjectKey, whole: &BTreeSet<BackupId>) -> bool {
    let source = source();
    if let Some(below) = key.as_str().strip_prefix(layout::backups(&source).as_str()) {
        return below.split('/').next().and_then(|id| id.parse().ok()).is_some_and(|id| whole.contains(&id));
    }
    let lasting = [
        layout::runs(&source),
        layout::acts(&source),
        layout::tombstones(&source),
        layout::verifications(&source),
    ];
    let rewritten = [
        layout::repository_marker(),
        layout::backup_lease(&source),
        layout::prune_lease(&source),
        layout::drill_lease(&source),
    ];
    rewritten.contains(key) || lasting.iter().any(|prefix| key.as_str().starts_with(prefix.as_str()))
}

async fn keys_below(world: &World, prefix: &KeyPrefix) -> Vec<ObjectKey> {
    world.memory.list(prefix, None).map_ok(|meta| meta.key).try_collect().await.unwrap()
}
