use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use pgproof_policies::locks::Locks;
use pgproof_policies::policy::Policy;
use pgproof_policies::retention::{self, Candidate, Retention, Standing};

use super::*;
use crate::lease::Lease;
use crate::report::Proofs;
use crate::signature::generate;
use crate::store::PutCondition;
use crate::store::faulty::{Fault, FaultyStore, Rule};
use crate::store::memory::MemoryStore;
use crate::store::operation::Operation;

const SECOND: SignedDuration = SignedDuration::from_secs(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
const POLICY: &str = "[repository]\nlocation = \"s3://backups\"\n\
    object_lock = { mode = \"compliance\", retain = \"by class\", otherwise = \"1d\" }\n[keys]\n\
    recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
    single_recipient_waiver = \"a test\"\nsigning_key = \"/k\"\ntrusted_signers = \"/t\"\n[sources.app]\n\
    kind = \"postgres\"\nconnection = \"postgresql:///app\"\nretention = { daily = 3 }\n";

/// A repository in memory that holds objects of backups, and no manifests that anybody reads.
struct Bucket {
    memory: Arc<MemoryStore>,
    key: SigningKey,
    signers: TrustedSigners,
}

impl Bucket {
    fn new() -> Self {
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let signers = TrustedSigners::parse(&format!("host {}\n", key.public_line())).unwrap();
        Self { memory: Arc::new(MemoryStore::new()), key, signers }
    }

    /// A folder with a manifest and one other object.
    async fn put(&self, id: &BackupId) {
        for name in ["data.000.zst.age", "manifest.json"] {
            let key = layout::backup_object(&source(), id, name).unwrap();
            self.memory.put(&key, Bytes::from_static(b"x"), PutCondition::IfAbsent).await.unwrap();
        }
    }

    /// A folder without a manifest.
    async fn put_litter(&self, id: &BackupId) {
        self.put(id).await;
        self.memory.delete(&layout::manifest(&source(), id)).await.unwrap();
    }

    async fn bury(&self, place: &BackupId, source: SourceName, id: &BackupId) {
        let (id, at) = (id.clone(), now());
        let tombstone = Tombstone { version: 1, source, id, at, host: "h".to_owned(), snapshot_at: at };
        let key = layout::tombstone(&self::source(), place);
        records::put(&*self.memory, &key, &tombstone, &self.key).await.unwrap();
    }

    async fn prune(&self, expired: &[&Brief], briefs: &[Brief]) -> Outcome {
        self.prune_in(&(self.memory.clone() as SharedStore), expired, briefs).await
    }

    async fn prune_in(&self, store: &SharedStore, expired: &[&Brief], briefs: &[Brief]) -> Outcome {
        self.pruner(store, &source()).carry_out(expired, briefs, now()).await
    }

    fn pruner<'a>(&'a self, store: &'a SharedStore, source: &'a SourceName) -> Pruner<'a> {
        let cancel = CancellationToken::new();
        Pruner { store, source, signing_key: &self.key, signers: &self.signers, host: "here", cancel }
    }

    fn holds(&self, id: &BackupId) -> bool {
        self.memory.keys().iter().any(|key| key.as_str().starts_with(layout::backup(&source(), id).as_str()))
    }
}

fn source() -> SourceName {
    "app".parse().unwrap()
}

/// Far ahead of the store's own clock, which so refuses whatever is locked beyond the year that this is written in.
fn now() -> Timestamp {
    "2096-11-24T12:00:00Z".parse().unwrap()
}

/// The id of what was begun so long ago.
fn ago(span: SignedDuration) -> BackupId {
    format!("{}-aaaaaa", (now() - span).strftime("%Y%m%dT%H%M%SZ")).parse().unwrap()
}

fn brief(id: &BackupId, standing: BriefStanding) -> Brief {
    Brief { id: id.clone(), standing, needs: Vec::new(), held: false, proofs: Proofs::default() }
}

fn whole(id: &BackupId, needs: &[&BackupId]) -> Brief {
    let needs = needs.iter().map(|id| (*id).clone()).collect();
    let (snapshot_at, server) = (id.started_at(), Some("16/7".to_owned()));
    Brief { needs, ..brief(id, BriefStanding::Whole { snapshot_at, server, previous: None }) }
}

#[tokio::test]
async fn what_may_belong_to_a_run_that_goes_on_is_left_alone() {
    let bucket = Bucket::new();
    let (young, old) = (ago(LITTER_GRACE - SECOND * 5), ago(LITTER_GRACE + SECOND * 5));
    for id in [&young, &old] {
        bucket.put_litter(id).await;
        let upload = layout::backup_object(&source(), id, "data.001.zst.age").unwrap();
        let _begun = bucket.memory.start_upload(&upload).await.unwrap();
    }
    let briefs = [&young, &old].map(|id| brief(id, BriefStanding::Incomplete));
    let outcome = bucket.prune(&[], &briefs).await;
    assert_eq!((outcome.swept, outcome.aborted_uploads), (vec![old.clone()], 1));
    assert_eq!((bucket.holds(&young), bucket.holds(&old)), (true, false));
    let uploads = bucket.memory.list_uploads(&layout::backups(&source())).await.unwrap();
    assert_eq!(uploads.len(), 1);
    assert!(uploads[0].key.as_str().contains(young.as_str()), "{uploads:?}");
}

#[tokio::test]
async fn while_a_backup_is_at_work_no_litter_goes_whatever_its_age() {
    let bucket = Bucket::new();
    let store: SharedStore = bucket.memory.clone();
    let id = ago(DAY * 9);
    bucket.put_litter(&id).await;
    let _begun = store
        .start_upload(&layout::backup_object(&source(), &id, "data.001.zst.age").unwrap())
        .await
        .unwrap();
    let briefs = [brief(&id, BriefStanding::Incomplete)];
    let holder = Holder { host: "elsewhere".to_owned(), boot: "b".to_owned(), pid: 7 };
    let key = layout::backup_lease(&source());
    // By a clock that is some minutes behind.
    let theirs = now() - retention::CLOCK_SKEW_MAX;
    let lease = Lease::acquire(store, key.clone(), holder, theirs, |_| false).await.unwrap();
    let outcome = bucket.prune(&[], &briefs).await;
    assert_eq!((outcome.swept.len(), outcome.aborted_uploads), (0, 0), "{outcome:?}");
    let why = "process 7 on elsewhere is at work on a backup";
    assert_eq!(outcome.put_off.iter().map(|it| it.why.to_string()).collect::<Vec<_>>(), [why]);
    lease.release().await.unwrap();
    let outcome = bucket.prune(&[], &briefs).await;
    assert_eq!((outcome.swept, outcome.aborted_uploads), (vec![id.clone()], 1));
    // Nobody knows who holds what cannot be read.
    bucket.put_litter(&id).await;
    bucket.memory.overwrite(&key, Bytes::from_static(b"{"));
    let outcome = bucket.prune(&[], &briefs).await;
    assert!(matches!(outcome.failures[0].error, PruneError::Lease { .. }), "{outcome:?}");
    assert!(bucket.holds(&id));
}

#[tokio::test]
async fn what_was_committed_since_it_was_looked_at_is_no_litter() {
    let bucket = Bucket::new();
    let id = ago(DAY * 2);
    bucket.put(&id).await;
    let outcome = bucket.prune(&[], &[brief(&id, BriefStanding::Incomplete)]).await;
    assert!(!outcome.did_something(), "{outcome:?}");
    assert!(bucket.holds(&id));
}

#[tokio::test]
async fn half_a_hold_that_is_newer_than_the_plan_keeps() {
    let bucket = Bucket::new();
    let id = ago(DAY);
    bucket.put(&id).await;
    let half = layout::signature_of(&layout::hold(&source(), &id));
    bucket.memory.put(&half, Bytes::from_static(b"x"), PutCondition::IfAbsent).await.unwrap();
    let briefs = [whole(&id, &[])];
    let outcome = bucket.prune(&[&briefs[0]], &briefs).await;
    assert!(matches!(outcome.failures[0].error, PruneError::Held { .. }), "{outcome:?}");
    assert!(bucket.holds(&id));
}

#[tokio::test]
async fn a_removal_is_at_work_where_the_tombstone_lies_and_somebody_prunes() {
    let bucket = Bucket::new();
    let store: SharedStore = bucket.memory.clone();
    let id = ago(DAY);
    let at_work = async || {
        let found = removal_at_work(&store, &source(), &id, now()).await.unwrap();
        found.map(|holder| holder.host)
    };
    let holder = Holder { host: "elsewhere".to_owned(), boot: "b".to_owned(), pid: 7 };
    let lease = Lease::acquire(store.clone(), layout::prune_lease(&source()), holder, now(), |_| false);
    let lease = lease.await.unwrap();
    assert_eq!(at_work().await, None);
    bucket.bury(&id, source(), &id).await;
    assert_eq!(at_work().await.as_deref(), Some("elsewhere"));
    lease.release().await.unwrap();
    assert_eq!(at_work().await, None);
}

#[test]
fn what_a_newer_version_wrote_keeps_what_it_names() {
    let (full, newer) = (ago(DAY * 2), ago(DAY));
    let newer = Brief { needs: vec![full.clone()], ..brief(&newer, BriefStanding::Newer) };
    let briefs = [whole(&full, &[]), newer, whole(&ago(SECOND), &[])];
    let found = candidates(&briefs, &BTreeMap::new(), now());
    assert_eq!(found[1].standing, Standing::Newer);
    let last = Retention { last: 1, ..Retention::default() };
    assert_eq!(retention::plan(&found, &last, &jiff::tz::TimeZone::UTC, now()).expired().count(), 0);
}

#[tokio::test]
async fn a_tombstone_counts_for_the_backup_that_it_names() {
    let (id, other) = (ago(SECOND * 60), ago(SECOND * 61));
    for (of_source, of_id, counts) in
        [("app", &id, true), ("other", &id, false), ("app", &other, false), ("other", &other, false)]
    {
        let bucket = Bucket::new();
        bucket.put(&id).await;
        bucket.bury(&id, of_source.parse().unwrap(), of_id).await;
        let outcome = bucket.prune(&[], &[brief(&id, BriefStanding::Pruned)]).await;
        assert_eq!(outcome.swept.len(), usize::from(counts), "{of_source} {of_id}: {outcome:?}");
        assert_eq!(bucket.holds(&id), !counts, "{of_source} {of_id}");
    }
}

#[tokio::test]
async fn where_the_store_fails_nothing_is_known_and_nothing_swept() {
    for record in ["pruned/", "runs/"] {
        let bucket = Bucket::new();
        let id = ago(DAY * 9);
        bucket.put_litter(&id).await;
        let rule = Rule::on(Operation::Get, Fault::FailBefore).keyed(record).times(9);
        let store: SharedStore = Arc::new(FaultyStore::scripted(bucket.memory.clone(), vec![rule]));
        let outcome = bucket.prune_in(&store, &[], &[brief(&id, BriefStanding::Incomplete)]).await;
        assert_eq!((outcome.swept.len(), outcome.failures.len()), (0, 1), "{record}: {outcome:?}");
        assert!(bucket.holds(&id));
    }
}

#[tokio::test]
async fn what_a_backup_that_stays_needs_stays_whatever_was_planned() {
    let bucket = Bucket::new();
    let (full, last) = (ago(DAY * 2), ago(DAY));
    bucket.put(&full).await;
    let briefs = [whole(&full, &[]), whole(&last, &[&full])];
    let outcome = bucket.prune(&[&briefs[0]], &briefs).await;
    assert_eq!(outcome.put_off.len(), 1, "{outcome:?}");
    assert_eq!(outcome.put_off[0].why.to_string(), format!("needed by {last}"));
    assert!(bucket.holds(&full));
}

#[tokio::test]
async fn a_prune_that_was_told_to_stop_begins_with_no_further_backup() {
    let bucket = Bucket::new();
    let (old, litter) = (ago(DAY * 2), ago(DAY * 3));
    for id in [&old, &litter] {
        bucket.put(id).await;
    }
    let briefs = [whole(&old, &[]), brief(&litter, BriefStanding::Incomplete)];
    let (store, source) = (bucket.memory.clone() as SharedStore, source());
    let pruner = bucket.pruner(&store, &source);
    pruner.cancel.cancel();
    for expired in [&[&briefs[0]][..], &[]] {
        let outcome = pruner.carry_out(expired, &briefs, now()).await;
        assert!(outcome.was_stopped && !outcome.did_something(), "{outcome:?}");
    }
    assert!(bucket.holds(&old) && bucket.holds(&litter));
}

#[tokio::test]
async fn what_the_store_locks_waits_for_the_longest_lock() {
    let bucket = Bucket::new();
    let (locked, litter, free) = (ago(DAY * 3), ago(DAY * 5), ago(DAY * 4));
    for id in [&locked, &litter, &free] {
        bucket.put(id).await;
    }
    bucket.memory.delete(&layout::manifest(&source(), &litter)).await.unwrap();
    let lock = async |id: &BackupId, name: &str, until: Timestamp| {
        let key = layout::backup_object(&source(), id, name).unwrap();
        bucket.memory.extend_lock(&key, until).await.unwrap();
    };
    let until = now() + DAY * 2;
    lock(&locked, "data.000.zst.age", now() + DAY).await;
    lock(&locked, "manifest.json", until).await;
    lock(&litter, "data.000.zst.age", until).await;
    lock(&free, "manifest.json", "2020-01-01T00:00:00Z".parse().unwrap()).await;
    let briefs = [whole(&locked, &[]), brief(&litter, BriefStanding::Incomplete), whole(&free, &[])];
    let outcome = bucket.prune(&[&briefs[0], &briefs[2]], &briefs).await;
    assert_eq!(outcome.removed, [free], "{outcome:?}");
    let why: Vec<_> = outcome.put_off.iter().map(|it| (&it.id, it.why.to_string())).collect();
    let expected = Lock::Until(until).to_string();
    assert_eq!(why, [(&locked, expected.clone()), (&litter, expected)]);
    // No tombstone promises what the store refuses.
    assert!(bucket.memory.head(&layout::tombstone(&source(), &locked)).await.is_err());
}

#[tokio::test]
async fn locks_are_made_longer_and_the_manifest_tells_of_all() {
    let bucket = Bucket::new();
    let policy = Policy::parse(POLICY, "pgproof.toml").unwrap_or_else(|problems| panic!("{problems}"));
    let (locks, rules) = (Locks::of(&policy).unwrap(), Retention { daily: 3, ..Retention::default() });
    let ids = [ago(DAY * 9), ago(DAY * 2), ago(DAY), ago(SECOND)];
    for id in &ids {
        bucket.put(id).await;
    }
    let [removed, short, bare, newest] = &ids;
    let (store, source) = (bucket.memory.clone() as SharedStore, source());
    let manifest = |id: &BackupId| layout::manifest(&source, id);
    let set = async |key: ObjectKey, until| bucket.memory.extend_lock(&key, until).await.unwrap();
    set(manifest(removed), now() + DAY).await;
    set(manifest(newest), now() + DAY * 30).await;
    set(manifest(short), now() - SECOND).await;
    let candidate = |id: &BackupId| Candidate {
        id: id.to_string(),
        snapshot_at: id.started_at(),
        standing: Standing::Good { proved: false },
        held: None,
        in_use: None,
        server: None,
        needs: Vec::new(),
    };
    let candidates: Vec<_> = ids.iter().map(candidate).collect();
    let plan = retention::plan(&candidates, &rules, &policy.time_zone(), now());
    let planned = LockPlan::of(&store, &source, &plan, &candidates, &locks, now()).await.unwrap();
    // Longest locks are let be, ended ones are none, and what goes is looked at.
    assert_eq!(planned.extensions.iter().map(|it| &it.id).collect::<Vec<_>>(), [bare, short]);
    assert_eq!(planned.extension(bare.as_str()).map(|it| &it.id), Some(bare));
    assert_eq!(planned.lock(removed.as_str()), Some(Lock::Until(now() + DAY)));
    assert_eq!((planned.lock(short.as_str()), planned.extension(newest.as_str())), (None, None));

    assert_eq!(Locked::of(&store, &source, bare).await.unwrap(), Locked::No);
    let (locked, objects) = (1, 2);
    assert_eq!(Locked::of(&store, &source, newest).await.unwrap(), Locked::InPart { locked, objects });
    // One of which an object cannot be locked is looked at again by the next prune, since its manifest comes last.
    for denied in ["data.000", "manifest.json"] {
        let rule = Rule::on(Operation::ExtendLock, Fault::Deny).keyed(denied).times(1);
        let faulty = Arc::new(FaultyStore::scripted(store.clone(), vec![rule])) as SharedStore;
        let (extended, failures) = bucket.pruner(&faulty, &source).extend_locks(&planned.extensions).await;
        assert_eq!((extended.len(), failures.len()), (1, 1), "{denied}: {failures:?}");
        assert!(store.lock(&manifest(bare)).await.unwrap().is_none(), "{denied}");
    }
    let (extended, failures) = bucket.pruner(&store, &source).extend_locks(&planned.extensions).await;
    assert_eq!((extended, failures.len()), (planned.extensions.clone(), 0));
    let until = planned.extension(bare.as_str()).unwrap().due.until;
    assert_eq!(Locked::of(&store, &source, bare).await.unwrap(), Locked::By(Lock::Until(until)));
    let again = LockPlan::of(&store, &source, &plan, &candidates, &locks, now()).await.unwrap();
    assert_eq!(again.extensions, []);
}

#[test]
fn whatever_was_done_or_failed_is_something() {
    assert!(!Outcome::default().did_something());
    let id = ago(DAY);
    let failure = || Failure { id: id.clone(), error: PruneError::Vanished };
    let due = pgproof_policies::locks::Due { until: now(), class: None };
    for outcome in [
        Outcome { removed: vec![id.clone()], ..Outcome::default() },
        Outcome { swept: vec![id.clone()], ..Outcome::default() },
        Outcome { aborted_uploads: 1, ..Outcome::default() },
        Outcome { locked: vec![Extension { id: id.clone(), due }], ..Outcome::default() },
        Outcome { failures: vec![failure()], ..Outcome::default() },
        Outcome { not_locked: vec![failure()], ..Outcome::default() },
    ] {
        assert!(outcome.did_something(), "{outcome:?}");
    }
    let why = Delay::NeededBy(id.clone());
    assert!(!Outcome { put_off: vec![PutOff { id, why }], ..Outcome::default() }.did_something());
}

#[test]
fn candidates_carry_what_drills_and_dumps_told() {
    let id = ago(DAY);
    let of = |proved_at: Option<Timestamp>, failed_at: Option<Timestamp>| {
        let proofs = Proofs { proved_at, failed_at, without_weight: 0 };
        let found = candidates(&[Brief { proofs, ..whole(&id, &[]) }], &BTreeMap::new(), now());
        assert_eq!(found[0].server.as_deref(), Some("16/7"));
        found[0].standing.clone()
    };
    let at = now();
    assert_eq!(of(None, None), Standing::Good { proved: false });
    assert_eq!(of(Some(at), None), Standing::Good { proved: true });
    assert_eq!(of(Some(at - SECOND), Some(at)), Standing::Failed);
    assert_eq!(of(Some(at), Some(at - SECOND)), Standing::Good { proved: true });
    // Clocks of two hosts differ a little; a drill that is still to come proves nothing.
    assert_eq!(of(Some(at + retention::CLOCK_SKEW_MAX - SECOND), None), Standing::Good { proved: true });
    assert_eq!(of(Some(at + DAY), None), Standing::Good { proved: false });
}
