use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use pgproof_policies::backups::Cause;

use super::*;
use crate::acts::{Book, WriterId};
use crate::custody::{Challenge, Custody, Shown};
use crate::holds;
use crate::layout;
use crate::manifest::{
    self,
    v1::{Manifest, Previous},
};
use crate::records::{self, Hold, Record, Run, Tombstone};
use crate::report;
use crate::signature::{SigningKey, generate};
use crate::store::PutCondition;
use crate::store::faulty::{Fault, FaultyStore, Rule};
use crate::store::memory::MemoryStore;
use crate::store::operation::Operation;

/// A source with a record of each kind, signed by one key.
struct World {
    store: SharedStore,
    source: SourceName,
    key: SigningKey,
    signers: TrustedSigners,
}

impl World {
    fn new() -> Self {
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let signers = TrustedSigners::parse(&format!("host@example.org {}\n", key.public_line())).unwrap();
        Self { store: Arc::new(MemoryStore::new()), source: "app".parse().unwrap(), key, signers }
    }

    /// Two backups, of which the first is held and drilled, and the second was removed.
    async fn lived_in() -> Self {
        let world = Self::new();
        world.manifest(&id(1), |_| {}).await;
        world.run(1, "p", RunOutcome::Committed { warnings: Vec::new() }).await;
        world.run(2, "p", RunOutcome::Committed { warnings: vec!["slow".to_owned()] }).await;
        world.run(3, "p", RunOutcome::Unchanged { since: id(1) }).await;
        let failed = RunOutcome::Failed { error: "no server".to_owned(), cause: Cause::Standing };
        world.run(4, "q", failed).await;
        world.act(What::Hold { backup: id(1), reason: "evidence".to_owned() }).await;
        world.hold(1).await;
        let removed = vec![id(2)];
        world
            .act(What::Prune {
                removed,
                swept: Vec::new(),
                aborted_uploads: 0,
                failures: Vec::new(),
                locked: Vec::new(),
                confirmed: None,
            })
            .await;
        let (source, host) = (world.source.clone(), "db1".to_owned());
        let tombstone =
            Tombstone { version: 1, source, id: id(2), at: at(7), host, snapshot_at: id(2).started_at() };
        world.record(&layout::tombstone(&world.source, &id(2)), &tombstone).await;
        world.report(1, 1, report::v1::Previous::None).await;
        let (source, host) = (world.source.clone(), "db1".to_owned());
        let shown = |how: Option<&str>| Shown {
            key: "age1x".to_owned(),
            how: how.map(str::to_owned),
            shown_at: None,
            problem: None,
        };
        let recipients = vec![shown(Some("identity file")), shown(None)];
        let repository = "abcdefghijklmnopqrstuvwxyz".parse().unwrap();
        let custody = Custody { version: 1, source, repository, at: at(9), host, backup: None, recipients };
        world.record(&layout::custody(&world.source, at(9)), &custody).await;
        let (source, host, canaries) = (world.source.clone(), "db1".to_owned(), [].into());
        let challenge = Challenge { version: 1, source, at: at(8), expires_at: at(9), host, canaries };
        world.record(&layout::challenge(&world.source, at(8)), &challenge).await;
        world
    }

    async fn record<R: Record>(&self, key: &ObjectKey, record: &R) {
        records::put(&*self.store, key, record, &self.key).await.unwrap();
    }

    async fn manifest(&self, id: &BackupId, change: fn(&mut Manifest)) {
        let mut made: Manifest = manifest::parse(include_bytes!("../../fixtures/manifest.v1.json")).unwrap();
        (made.id, made.previous) = (id.clone(), Previous::None);
        (made.started_at, made.finished_at, made.snapshot.at) =
            (id.started_at(), id.started_at(), id.started_at());
        change(&mut made);
        let bytes = made.to_bytes();
        let signature = self.key.sign(manifest::NAMESPACE, &bytes).unwrap();
        self.put(&layout::manifest_signature(&self.source, id), signature.as_bytes()).await;
        self.put(&layout::manifest(&self.source, id), &bytes).await;
    }

    async fn run(&self, second: u8, policy: &str, outcome: RunOutcome) {
        let (source, id, host) = (self.source.clone(), id(second), "db1".to_owned());
        let (started_at, policy_sha256) = (id.started_at(), Some(policy.to_owned()));
        let run =
            Run { version: 1, source, id, started_at, ended_at: started_at, host, policy_sha256, outcome };
        self.record(&layout::run(&self.source, &run.id), &run).await;
    }

    async fn act(&self, what: What) {
        let (store, source, signing_key) = (&self.store, &self.source, &self.key);
        Book { store, source, signing_key, policy_sha256: "q" }.enter(what).await.unwrap();
    }

    async fn hold(&self, second: u8) {
        let (source, host) = (self.source.clone(), "db1".to_owned());
        let reason = "evidence".to_owned();
        let hold = Hold { version: 1, source, id: id(second), at: at(6), host, reason };
        holds::put(&self.store, &hold, &self.key).await.unwrap();
    }

    async fn report(&self, second: u8, number: u64, previous: report::v1::Previous) {
        let golden = include_bytes!("../../fixtures/report.v1.json");
        let mut made: report::Report = serde_json::from_slice(golden).unwrap();
        (made.backup, made.number, made.previous) = (id(second), number, previous);
        made.finished_at = at(second);
        let place = layout::verification(&self.source, &made.backup, made.finished_at);
        self.record(&place, &made).await;
    }

    async fn put(&self, key: &ObjectKey, bytes: &[u8]) {
        self.store.put(key, Bytes::copy_from_slice(bytes), PutCondition::IfAbsent).await.unwrap();
    }

    /// With its signature, as the next one.
    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) {
        for (from, to) in [(from, to), (&layout::signature_of(from), &layout::signature_of(to))] {
            let (bytes, _) = self.store.get(from, 1 << 20).await.unwrap();
            self.put(to, &bytes).await;
        }
    }

    async fn remove(&self, key: &ObjectKey) {
        for object in [key, &layout::signature_of(key)] {
            self.store.delete(object).await.unwrap();
        }
    }

    async fn audit(&self) -> Audit {
        super::of(&self.store, &self.source, &self.signers).await.unwrap()
    }

    async fn problems(&self) -> Vec<String> {
        let told = |it: Finding| format!("{}: {}", it.record.unwrap_or_default(), it.problem);
        self.audit().await.findings.into_iter().map(told).collect()
    }

    fn act_key(&self, number: u64) -> ObjectKey {
        layout::act(&self.source, &WriterId::of(&self.key.fingerprint()), number)
    }
}

fn id(second: u8) -> BackupId {
    format!("20261124T0200{second:02}Z-aaaaaa").parse().unwrap()
}

fn at(second: u8) -> Timestamp {
    id(second).started_at()
}

#[tokio::test]
async fn every_record_is_an_act_of_its_kind_in_the_order_of_signed_times() {
    let world = World::lived_in().await;
    let Audit { acts, findings, .. } = world.audit().await;
    assert_eq!(findings, []);
    let (now, past): (Vec<_>, Vec<_>) = acts.into_iter().partition(|act| act.at > at(59));
    let told = |acts: &[Entry]| -> Vec<String> {
        acts.iter().map(|act| format!("{} {}", act.act, act.outcome)).collect()
    };
    let expected = [
        "backup committed",
        "drill report 1: PASSED",
        "backup committed, 1 warning(s)",
        "backup unchanged since 20261124T020001Z-aaaaaa",
        "policy policy q in place of p",
        "backup failed: no server",
        "removal snapshot of 2026-11-24T02:00:02Z",
        "challenge 0 canary(s) handed out",
        "custody 1 of 2 key(s) shown",
    ];
    assert_eq!(told(&past), expected);
    // Acts are dated when they are entered. The hold is told of once, by its act.
    let expected = ["hold evidence", "prune removed 1, swept 0, aborted 0 upload(s), 0 failure(s)"];
    assert_eq!(told(&now), expected);
    assert!(past.iter().chain(&now).all(|act| act.who == "host@example.org"));
}

#[tokio::test]
async fn what_was_removed_changed_or_moved_is_found() {
    let world = World::lived_in().await;
    let source = &world.source;
    // What a hand took away, and what is said of it.
    let cases = [
        (layout::manifest(source, &id(1)), "committed and is gone, and no tombstone"),
        (layout::tombstone(source, &id(2)), "was pruned, and its tombstone is gone"),
        (layout::hold(source, &id(1)), "the hold on 20261124T020001Z-aaaaaa is gone"),
        (world.act_key(1), "act 1 is missing"),
    ];
    for (key, expected) in cases {
        let signature = layout::signature_of(&key);
        let [record, signed] = [&key, &signature].map(|object| world.store.get(object, 1 << 20));
        let (record, signed) = (record.await.unwrap().0, signed.await.unwrap().0);
        world.remove(&key).await;
        let problems = world.problems().await;
        assert!(problems.iter().any(|told| told.contains(expected)), "{key}: {problems:?}");
        if !key.as_str().contains("/backups/") {
            world.put(&signature, &signed).await;
            let problems = world.problems().await;
            assert!(problems.iter().any(|told| told.contains("stands alone")), "{key}: {problems:?}");
            world.put(&key, b"{").await;
            let problems = world.problems().await;
            let at_key = format!("{key}: record cannot be read: ");
            assert!(problems.iter().any(|told| told.starts_with(&at_key)), "{problems:?}");
        }
        world.remove(&key).await;
        world.put(&signature, &signed).await;
        world.put(&key, &record).await;
        assert_eq!(world.problems().await, [""; 0]);
    }
    // Moved to where it says nothing of.
    let (run, place) = (layout::run(source, &id(4)), layout::run(source, &id(5)));
    world.copy(&run, &place).await;
    assert_eq!(world.problems().await, [format!("{place}: is signed for {run}")]);
}

#[tokio::test]
async fn a_broken_chain_of_reports_and_reports_of_other_places_are_found() {
    let world = World::lived_in().await;
    let unknown = || report::v1::Previous::Unknown { reason: "could not be read".to_owned() };
    world.report(3, 9, unknown()).await;
    let problems = world.problems().await;
    assert!(problems.iter().any(|told| told.contains("reports of drills: ")), "{problems:?}");
    let key = layout::verification(&world.source, &id(3), at(3));
    world.remove(&key).await;
    let moved = layout::verification(&world.source, &id(4), at(4));
    let report = layout::verification(&world.source, &id(1), at(1));
    world.copy(&report, &moved).await;
    let problems = world.problems().await;
    assert!(
        problems.iter().any(|told| told.starts_with(&format!("{moved}: is signed for "))),
        "{problems:?}"
    );
    world.remove(&moved).await;
    world.put(&moved, b"{").await;
    world.put(&layout::signature_of(&moved), b"x").await;
    let problems = world.problems().await;
    assert!(problems.iter().any(|told| told.starts_with(&moved.to_string())), "{problems:?}");
}

#[tokio::test]
async fn a_backup_and_a_hold_without_a_record_of_their_act_are_told_of() {
    let world = World::new();
    world.manifest(&id(1), |_| {}).await;
    world.hold(1).await;
    let unsigned = layout::manifest(&world.source, &id(2));
    world.put(&unsigned, b"{}").await;
    let Audit { acts, findings, .. } = world.audit().await;
    let told: Vec<_> = acts.iter().map(|act| (act.act, act.outcome.as_str())).collect();
    let expected = [(Kind::Backup, "committed, and its run left no record"), (Kind::Hold, "evidence")];
    assert_eq!(told, expected);
    assert_eq!((findings.len(), findings[0].record.as_deref()), (1, Some(unsigned.as_str())));
    // Given back since: then nobody misses it.
    world.act(What::Hold { backup: id(1), reason: "evidence".to_owned() }).await;
    world.remove(&layout::hold(&world.source, &id(1))).await;
    assert_eq!(world.problems().await.len(), 2);
    world.act(What::Release { backup: id(1) }).await;
    assert_eq!(world.problems().await.len(), 1);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_no_finding() {
    let world = World::lived_in().await;
    for operation in [Operation::List, Operation::Get] {
        for part in ["/runs/", "/audit/", "/verifications/", "/backups/", "/pruned/", "/holds/"] {
            let rules = vec![Rule::on(operation, Fault::FailBefore).keyed(part).times(9)];
            let faulty = FaultyStore::scripted(world.store.clone(), rules);
            let store: SharedStore = Arc::new(faulty.clone());
            let audit = super::of(&store, &world.source, &world.signers).await;
            assert_eq!(audit.is_err(), faulty.struck() > 0, "{operation} of {part}");
            assert!(faulty.struck() > 0 || part == "/backups/", "{operation} of {part}");
        }
    }
}
