//! What is told, and how often, whatever becomes of the memory of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::SignedDuration;
use pgproof_monitoring::alerts::{Recollection, Teller, recall};
use pgproof_policies::alerts::{Alert, Kind};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Alerts, Delivery, HookProgram, Route};
use pgproof_repository::layout;
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use serde_json::Value;

use crate::support::{Bucket, source};

/// A route that appends each message to a file, and one that takes nothing where it is wanted.
fn policy(file: &Path, with_broken: bool) -> Alerts {
    let route = |path: &str, arguments: Vec<String>| Route {
        severities: [].into(),
        sources: [].into(),
        time_limit: SignedDuration::from_secs(10),
        delivery: Delivery::Command(HookProgram { path: path.into(), arguments }),
    };
    let arguments = vec!["-c".to_owned(), format!("cat >>{0}; echo >>{0}", file.display())];
    let mut routes = BTreeMap::from([("works".to_owned(), route("/bin/sh", arguments))]);
    if with_broken {
        routes.insert("broken".to_owned(), route("/bin/false", Vec::new()));
    }
    Alerts { repeat_after: SignedDuration::from_hours(24), severities: BTreeMap::new(), routes }
}

struct World {
    bucket: Bucket,
    folder: tempfile::TempDir,
    policy: Alerts,
    own: Recollection,
}

impl World {
    fn new(with_broken: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = policy(&folder.path().join("told"), with_broken);
        Self { bucket: Bucket::new(), folder, policy, own: Recollection::default() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("told")
    }

    /// Tells a failed backup, or that it is over, by way of `store`.
    async fn tell(&self, source: &SourceName, store: &SharedStore, is_failing: bool) -> usize {
        let alert = Alert {
            kind: Kind::RunFailed,
            about: String::new(),
            subject: "the backup failed".to_owned(),
            text: String::new(),
        };
        let Bucket { key, signers, .. } = &self.bucket;
        let teller =
            Teller { policy: &self.policy, source, store, signing_key: Some(key), signers, own: &self.own };
        let raised: Vec<Alert> = is_failing.then_some(alert).into_iter().collect();
        teller.tell(&raised, &|kind, _| kind == Kind::RunFailed).await.len()
    }

    fn told(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let word = |message: &Value, key: &str| message[key].as_str().unwrap().to_owned();
        messages.map(|message| (word(&message, "kind"), word(&message, "event"))).collect()
    }
}

fn failed(event: &str) -> (String, String) {
    ("run_failed".to_owned(), event.to_owned())
}

#[tokio::test]
async fn while_the_repository_is_gone_a_process_tells_a_thing_once() {
    let world = World::new(false);
    let gone: SharedStore =
        Arc::new(FaultyStore::scripted(world.bucket.store.clone(), vec![Rule::always(Fault::FailBefore)]));
    for _ in 0..3 {
        world.tell(&source(), &gone, true).await;
    }
    assert_eq!(world.told(), [failed("raised")]);
    // It is there again: it is over once, and what the process had kept to itself is forgotten.
    for _ in 0..2 {
        world.tell(&source(), &world.bucket.store, false).await;
    }
    assert_eq!(world.told(), [failed("raised"), failed("recovered")]);
    world.tell(&source(), &world.bucket.store, true).await;
    assert_eq!(world.told().len(), 3);
    // Another process knows it from the repository.
    let other = World { own: Recollection::default(), ..world };
    other.tell(&source(), &other.bucket.store, true).await;
    assert_eq!(other.told().len(), 3);
}

#[tokio::test]
async fn a_route_that_takes_nothing_is_told_once_by_the_other_and_tried_again() {
    let mut world = World::new(true);
    for _ in 0..3 {
        assert_eq!(world.tell(&source(), &world.bucket.store, true).await, 1);
    }
    let broken = |event: &str| ("notifier_failed".to_owned(), event.to_owned());
    assert_eq!(world.told(), [failed("raised"), broken("raised")]);
    world.policy.routes.get_mut("broken").unwrap().delivery =
        Delivery::Command(HookProgram { path: "/bin/true".into(), arguments: Vec::new() });
    assert_eq!(world.tell(&source(), &world.bucket.store, true).await, 0);
    assert_eq!(world.told(), [failed("raised"), broken("raised"), broken("recovered")]);
}

#[tokio::test]
async fn what_was_told_of_another_source_or_by_nobody_trusted_silences_nothing() {
    let world = World::new(false);
    let other: SourceName = "other".parse().unwrap();
    world.tell(&source(), &world.bucket.store, true).await;
    let (bytes, _) = world.bucket.store.get(&layout::alerts(&source()), 1 << 20).await.unwrap();
    world.bucket.put(&layout::alerts(&other), bytes.to_vec()).await;
    assert!(recall(&world.bucket.store, &other, &world.bucket.signers).await.unwrap().alerts.is_empty());
    world.tell(&other, &world.bucket.store, true).await;
    assert_eq!(world.told().len(), 2, "another source's memory was believed");

    let stranger = Bucket::new();
    assert!(recall(&world.bucket.store, &source(), &stranger.signers).await.unwrap().alerts.is_empty());
    assert_eq!(recall(&world.bucket.store, &source(), &world.bucket.signers).await.unwrap().alerts.len(), 1);
}
