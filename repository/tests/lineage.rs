//! Chains of incremental backups in a repository: what each needs is there, and stays as long as it is needed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgproof_policies::names::SourceName;
use pgproof_policies::retention::{self, Decision, Retention};
use pgproof_repository::catalog::{self, Brief};
use pgproof_repository::ids::{BackupId, ManifestSha256, ObjectKey};
use pgproof_repository::layout;
use pgproof_repository::lineage::{self, LineageError};
use pgproof_repository::manifest::v1::{Base, Chain, Contents, Manifest, Previous};
use pgproof_repository::manifest::{self, SignedManifest};
use pgproof_repository::pins::Pin;
use pgproof_repository::prune::{self, Outcome, Pruner};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::operation::Operation;
use pgproof_repository::store::{PutCondition, SharedStore};
use tokio_util::sync::CancellationToken;

const GOLDEN: &[u8] = include_bytes!("../fixtures/manifest.files.v1.json");
const NOW: &str = "2026-11-24T12:00:00Z";

#[tokio::test]
async fn bases_are_found_in_the_order_of_their_numbers() {
    let repository = Repository::new();
    let full = repository.put(20, &[]).await;
    let second = repository.put(21, &[&full]).await;
    let third = repository.put(22, &[&second, &full]).await;
    let ids = |found: Vec<SignedManifest>| -> Vec<BackupId> {
        found.into_iter().map(|signed| signed.get().id.clone()).collect()
    };
    assert_eq!(ids(repository.bases(&third).await.unwrap()), [second.id.clone(), full.id.clone()]);
    assert_eq!(ids(repository.bases(&full).await.unwrap()), []);
}

#[tokio::test]
async fn base_that_is_gone_unsigned_or_another_is_named() {
    for what in ["gone", "unsigned", "by a stranger", "another"] {
        let repository = Repository::new();
        let full = repository.put(20, &[]).await;
        let last = repository.put(21, &[&full]).await;
        let places = [layout::manifest(&source(), &full.id), layout::manifest_signature(&source(), &full.id)];
        let removed = if what == "unsigned" { &places[1..] } else { &places[..] };
        for place in removed {
            repository.store.delete(place).await.unwrap();
        }
        match what {
            "by a stranger" => drop(repository.put_by(&signing_key(), 20, &[]).await),
            "another" => drop(repository.put(20, &[&last]).await),
            _ => {}
        }
        let error = repository.bases(&last).await.unwrap_err();
        assert!(error.to_string().contains(full.id.as_str()), "{what}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("pgproof list")), "{what}: {error}");
        match what {
            "another" => assert!(matches!(error, LineageError::Replaced { .. }), "{error:?}"),
            _ => assert!(matches!(error, LineageError::Unusable { .. }), "{what}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn store_that_fails_says_nothing_of_a_base() {
    let repository = Repository::new();
    let full = repository.put(20, &[]).await;
    let last = repository.put(21, &[&full]).await;
    let signed = repository.find(&last).await;
    let rule = Rule::on(Operation::Get, Fault::FailBefore).times(9);
    let store: SharedStore = Arc::new(FaultyStore::scripted(repository.store.clone(), vec![rule]));
    let found = lineage::bases_of(&store, &signed, &repository.signers).await;
    assert!(matches!(found, Err(LineageError::Store { .. })), "{found:?}");
}

#[tokio::test]
async fn chain_is_removed_as_a_whole_and_from_its_end() {
    let repository = Repository::new();
    let full = repository.put(20, &[]).await;
    let second = repository.put(21, &[&full]).await;
    let third = repository.put(22, &[&full, &second]).await;
    let next_full = repository.put(23, &[]).await;
    let plan = repository.plan(1).await;
    let kept: Vec<_> = plan.lines.iter().filter(|line| line.decision != Decision::Expire).collect();
    assert_eq!(kept.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), [next_full.id.as_str()]);
    let outcome = repository.prune(&repository.store, 1).await;
    assert_eq!(outcome.removed, [third.id, second.id, full.id], "{outcome:?}");
}

#[tokio::test]
async fn what_a_kept_backup_needs_is_kept_and_the_plan_says_for_which() {
    let repository = Repository::new();
    let full = repository.put(20, &[]).await;
    let unneeded = repository.put(21, &[&full]).await;
    let last = repository.put(22, &[&full]).await;
    let plan = repository.plan(1).await;
    let decisions: BTreeMap<_, _> =
        plan.lines.iter().map(|line| (line.id.as_str(), &line.decision)).collect();
    assert_eq!(*decisions[unneeded.id.as_str()], Decision::Expire);
    let Decision::Keep(reasons) = decisions[full.id.as_str()] else { panic!("{plan:?}") };
    assert_eq!(reasons[0].to_string(), format!("needed by {}", last.id));
    let outcome = repository.prune(&repository.store, 1).await;
    assert_eq!(outcome.removed, [unneeded.id]);
    assert!(repository.bases(&last).await.is_ok());
}

#[tokio::test]
async fn what_cannot_go_yet_holds_what_it_needs() {
    // Somebody restores the last of a chain, which the plan did not know.
    let (repository, chain) = Repository::with_expired_chain().await;
    let expired = repository.expired(1).await;
    let last = &chain[2];
    let pin = Pin::set(repository.store.clone(), &source(), &last.id, Timestamp::now()).await.unwrap();
    let outcome = repository.carry_out(&repository.store, &expired).await;
    assert_eq!((outcome.removed.len(), outcome.put_off.len()), (0, 3), "{outcome:?}");
    let why: Vec<_> = outcome.put_off.iter().map(|it| it.why.to_string()).collect();
    assert!(why[0].starts_with("in use by"), "{why:?}");
    assert!(why[1..].iter().all(|why| why.starts_with("needed by ")), "{why:?}");
    assert!(repository.bases(last).await.is_ok());
    pin.release().await;
    assert_eq!(repository.prune(&repository.store, 1).await.removed.len(), 3);
}

#[tokio::test]
async fn delete_that_fails_leaves_nothing_without_what_it_needs() {
    let (repository, chain) = Repository::with_expired_chain().await;
    let place = layout::manifest(&source(), &chain[1].id);
    let rule = Rule::on(Operation::Delete, Fault::Deny).keyed(place.as_str()).times(9);
    let faulty: SharedStore = Arc::new(FaultyStore::scripted(repository.store.clone(), vec![rule]));
    let outcome = repository.prune(&faulty, 1).await;
    assert_eq!(outcome.removed, [chain[2].id.clone()], "{outcome:?}");
    assert_eq!(outcome.failures.len(), 1);
    assert_eq!(outcome.put_off[0].why.to_string(), format!("needed by {}", chain[1].id));
    assert!(repository.bases(&chain[1]).await.is_ok());
    let outcome = repository.prune(&repository.store, 1).await;
    assert_eq!(outcome.removed, [chain[1].id.clone(), chain[0].id.clone()], "{outcome:?}");
}

#[tokio::test]
async fn backup_whose_base_is_gone_is_kept_and_displaces_nothing() {
    let repository = Repository::new();
    let full = repository.put(18, &[]).await;
    let good = repository.put(19, &[]).await;
    let broken = repository.put(20, &[&full]).await;
    repository.store.delete(&layout::manifest(&source(), &full.id)).await.unwrap();
    let plan = repository.plan(1).await;
    let reasons =
        |of: &Made| match plan.lines.iter().find(|line| line.id == of.id.as_str()).map(|it| &it.decision) {
            Some(Decision::Keep(reasons)) => reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
    assert_eq!(reasons(&good), ["newest good backup", "last 1"]);
    let why = format!("never delete what cannot be read: it needs {}, which is gone", full.id);
    assert_eq!(reasons(&broken), [why]);
    // Nor is the rest of what it needs litter, without a manifest.
    let outcome = repository.prune(&repository.store, 1).await;
    assert!(outcome.swept.is_empty() && outcome.removed.is_empty(), "{outcome:?}");
    assert!(outcome.failures[0].error.to_string().contains("no tombstone says why"), "{outcome:?}");
}

/// A backup that was put, and which one.
struct Made {
    id: BackupId,
    sha256: ManifestSha256,
}

/// A repository in memory whose one key is trusted.
struct Repository {
    store: SharedStore,
    key: SigningKey,
    signers: TrustedSigners,
}

impl Repository {
    fn new() -> Self {
        let key = signing_key();
        let signers = TrustedSigners::parse(&format!("host {}\n", key.public_line())).unwrap();
        Self { store: Arc::new(MemoryStore::new()), key, signers }
    }

    /// A chain of three, each of which needs all before, and a newer full backup.
    async fn with_expired_chain() -> (Self, [Made; 3]) {
        let repository = Self::new();
        let full = repository.put(20, &[]).await;
        let second = repository.put(21, &[&full]).await;
        let third = repository.put(22, &[&full, &second]).await;
        repository.put(23, &[]).await;
        (repository, [full, second, third])
    }

    /// Puts a backup of two o'clock on a day of November, with what is to be its tar.
    async fn put(&self, day: u8, bases: &[&Made]) -> Made {
        self.put_by(&self.key, day, bases).await
    }

    async fn put_by(&self, key: &SigningKey, day: u8, bases: &[&Made]) -> Made {
        let id: BackupId = format!("202611{day:02}T020000Z-aaaaaa").parse().unwrap();
        let mut made: Manifest = manifest::parse(GOLDEN).unwrap();
        (made.id, made.previous) = (id.clone(), Previous::None);
        (made.started_at, made.finished_at, made.snapshot.at) =
            (id.started_at(), id.started_at(), id.started_at());
        let Contents::Files(files) = &mut made.contents else { panic!("of files") };
        files.chain = bases.last().map(|parent| Chain {
            full: bases[0].id.clone(),
            parent: parent.id.clone(),
            depth: bases.len() as u32,
            bases: bases
                .iter()
                .map(|base| Base { id: base.id.clone(), manifest_sha256: base.sha256 })
                .collect(),
            own_files: 1,
            own_bytes: 1,
        });
        let bytes = made.to_bytes();
        let signature = key.sign(manifest::NAMESPACE, &bytes).unwrap();
        let data = layout::backup_object(&source(), &id, &layout::archive_name(0)).unwrap();
        // It may be there already, from the one in whose place this is put.
        let _ = self.store.put(&data, Bytes::from_static(b"sealed"), PutCondition::IfAbsent).await;
        self.raw(&layout::manifest_signature(&source(), &id), signature.as_bytes()).await;
        self.raw(&layout::manifest(&source(), &id), &bytes).await;
        Made { id, sha256: ManifestSha256::of(&bytes) }
    }

    async fn raw(&self, key: &ObjectKey, bytes: &[u8]) {
        self.store.put(key, Bytes::copy_from_slice(bytes), PutCondition::IfAbsent).await.unwrap();
    }

    async fn find(&self, made: &Made) -> SignedManifest {
        catalog::find(&self.store, &source(), &made.id, &self.signers).await.unwrap()
    }

    async fn bases(&self, made: &Made) -> Result<Vec<SignedManifest>, LineageError> {
        lineage::bases_of(&self.store, &self.find(made).await, &self.signers).await
    }

    async fn survey(&self) -> Vec<Brief> {
        catalog::survey(&self.store, &source(), &self.signers).await.unwrap()
    }

    async fn plan(&self, last: u32) -> retention::Plan {
        let now = NOW.parse().unwrap();
        let candidates = prune::candidates(&self.survey().await, &BTreeMap::new(), now);
        let rule = Retention { last, ..Retention::default() };
        retention::plan(&candidates, &rule, &TimeZone::UTC, now)
    }

    /// What a plan lets go, in its order.
    async fn expired(&self, last: u32) -> Vec<Brief> {
        let (plan, briefs) = (self.plan(last).await, self.survey().await);
        let of = |id: &str| briefs.iter().find(|brief| brief.id.as_str() == id).cloned();
        plan.expired().filter_map(of).collect()
    }

    async fn carry_out(&self, store: &SharedStore, expired: &[Brief]) -> Outcome {
        let (source, signing_key, signers) = (&source(), &self.key, &self.signers);
        let pruner =
            Pruner { store, source, signing_key, signers, host: "here", cancel: CancellationToken::new() };
        let expired: Vec<&Brief> = expired.iter().collect();
        pruner.carry_out(&expired, &self.survey().await, NOW.parse().unwrap()).await
    }

    async fn prune(&self, store: &SharedStore, last: u32) -> Outcome {
        self.carry_out(store, &self.expired(last).await).await
    }
}

fn signing_key() -> SigningKey {
    SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap()
}

fn source() -> SourceName {
    "uploads".parse().unwrap()
}
