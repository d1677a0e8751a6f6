//! What the catalog, the chain and prune make of what lies in a repository, whoever put it there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::backups::{Attempt, Cause, Known};
use pgproof_policies::names::SourceName;
use pgproof_policies::retention::{self, Candidate, Retention};
use pgproof_repository::acts::{self, Act, Book, WriterId};
use pgproof_repository::catalog::{self, Brief, BriefStanding, CatalogError, Entry, Marker, Standing};
use pgproof_repository::chain::{self, Break};
use pgproof_repository::custody::{Challenge, Custody};
use pgproof_repository::history;
use pgproof_repository::holds;
use pgproof_repository::ids::{BackupId, ManifestSha256, ObjectKey, RepositoryId};
use pgproof_repository::layout;
use pgproof_repository::manifest::v1::{Manifest, Previous};
use pgproof_repository::manifest::{self, ManifestError, SignedManifest};
use pgproof_repository::pins::{self, Pin};
use pgproof_repository::prune::{self, Pruner};
use pgproof_repository::records::{self, Hold, RecordError, Run, RunOutcome, Tombstone};
use pgproof_repository::report::{Report, Verdict, v1};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::operation::Operation;
use pgproof_repository::store::{PutCondition, SharedStore, StoreError};
use tokio_util::sync::CancellationToken;

const GOLDEN: &[u8] = include_bytes!("../fixtures/manifest.v1.json");
const GOLDEN_INCREMENTAL: &[u8] = include_bytes!("../fixtures/manifest.files.incremental.v1.json");
const GOLDEN_IMPORTED: &[u8] = include_bytes!("../fixtures/manifest.imported.v1.json");
const GOLDEN_REPORT: &[u8] = include_bytes!("../fixtures/report.v1.json");
const NOW: &str = "2026-12-24T00:00:00Z";

#[tokio::test]
async fn of_backups_in_the_same_second_the_signed_times_decide() {
    // Whichever way the random ends of the ids fall.
    for (first, second) in [("aaaaaa", "zzzzzz"), ("zzzzzz", "aaaaaa")] {
        let repository = Repository::new();
        let older = repository.put(&format!("20261124T020000Z-{first}"), "02:00:00.1", Previous::None).await;
        let previous = Previous::Known { id: older.0.clone(), manifest_sha256: older.1 };
        let newer = repository.put(&format!("20261124T020000Z-{second}"), "02:00:00.9", previous).await;
        let newest = catalog::newest(&repository.store, &source(), &repository.signers).await.unwrap();
        assert_eq!(newest.unwrap().0, newer.0);
        let entries = repository.list().await;
        let chosen = catalog::choose(&entries, Timestamp::MAX).unwrap();
        assert_eq!(chosen.backup.get().id, newer.0);
        assert_eq!(repository.breaks().await, []);
    }
}

#[tokio::test]
async fn marker_names_the_repository_and_others_are_refused_by_reason() {
    let store = MemoryStore::new();
    let (id, now) = (RepositoryId::generate(&mut rand::rng()), NOW.parse().unwrap());
    assert_eq!(catalog::find_marker(&store).await.unwrap(), None);
    let made = catalog::ensure_marker(&store, id.clone(), now).await.unwrap();
    assert_eq!((&made.id, made.created_at), (&id, now));
    // Whoever comes later takes the one that is there.
    let other = RepositoryId::generate(&mut rand::rng());
    assert_eq!(catalog::ensure_marker(&store, other, now).await.unwrap(), made);
    assert_eq!(catalog::find_marker(&store).await.unwrap().as_ref(), Some(&made));
    let refused = async |change: fn(&mut Marker)| {
        let mut marker = made.clone();
        change(&mut marker);
        store.overwrite(&layout::repository_marker(), serde_json::to_vec(&marker).unwrap().into());
        catalog::find_marker(&store).await.unwrap_err().to_string()
    };
    let newer = refused(|marker| marker.version += 1).await;
    assert!(newer.starts_with("repository has layout version 2"), "{newer}");
    let foreign = refused(|marker| marker.format = "another".to_owned()).await;
    assert!(foreign.contains("this is not a pgproof repository"), "{foreign}");
}

#[tokio::test]
async fn newest_until_a_second_and_pages_end_where_they_should() {
    let repository = Repository::new();
    let mut ids = Vec::new();
    for day in [20, 21, 22] {
        let id = format!("202611{day}T020000Z-aaaaaa");
        ids.push(repository.put(&id, "02:00:01", Previous::None).await.0);
    }
    let (store, signers) = (&repository.store, &repository.signers);
    let newest = async |until: Timestamp| {
        let found = catalog::newest_until(store, &source(), signers, until).await.unwrap();
        found.map(|(id, _)| id)
    };
    let at = ids[1].started_at();
    assert_eq!(newest(at).await.as_ref(), Some(&ids[1]));
    assert_eq!(newest(at - SignedDuration::from_secs(1)).await.as_ref(), Some(&ids[0]));
    for (limit, has_older) in [(2, true), (3, false), (4, false)] {
        let page = catalog::page(store, &source(), signers, None, limit).await.unwrap();
        assert_eq!((page.entries.len(), page.has_older), (limit.min(3), has_older), "{limit}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_named_where_it_is_nearer_to_the_moment() {
    let repository = Repository::new();
    let whole = repository.put("20261121T020000Z-aaaaaa", "02:00:01", Previous::None).await.0;
    let mut unsigned = Vec::new();
    for id in ["20261120T020000Z-aaaaaa", "20261121T020000Z-bbbbbb", "20261122T020000Z-aaaaaa"] {
        let id: BackupId = id.parse().unwrap();
        repository.raw(&layout::manifest(&source(), &id), b"{}").await;
        unsigned.push(id);
    }
    let entries = repository.list().await;
    let nearer = |at: Timestamp| {
        let choice = catalog::choose(&entries, at).unwrap();
        assert_eq!(choice.backup.get().id, whole);
        choice.unusable.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>()
    };
    let last = unsigned[2].started_at();
    assert_eq!(nearer(last - SignedDuration::from_secs(1)), unsigned[1..2]);
    assert_eq!(nearer(last), unsigned[1..]);
    let later = repository.put("20261123T020000Z-aaaaaa", "02:00:01", Previous::None).await.0;
    let entries = repository.list().await;
    let choice = catalog::choose(&entries, last).unwrap();
    assert_eq!(choice.later.iter().map(|it| &it.get().id).collect::<Vec<_>>(), [&later]);
    assert!(catalog::choose(&entries, whole.started_at() - SignedDuration::from_secs(1)).is_none());
}

#[tokio::test]
async fn records_are_signed_while_the_key_is_trusted() {
    let repository = Repository::new();
    let id: BackupId = "20261124T020000Z-aaaaaa".parse().unwrap();
    let (source, at) = (source(), NOW.parse::<Timestamp>().unwrap());
    let store = &*repository.store;
    repository.committed(&id).await;
    repository.tombstone(&id, &repository.key).await;
    let hold =
        Hold { version: 1, source: source.clone(), id: id.clone(), at, host: "h".into(), reason: "r".into() };
    holds::put(&repository.store, &hold, &repository.key).await.unwrap();
    let report = repository.report(&id, ManifestSha256::of(b""));
    repository.put_report(&report, &repository.key).await;
    let book =
        Book { store: &repository.store, source: &source, signing_key: &repository.key, policy_sha256: "p" };
    book.enter(acts::What::Release { backup: id.clone() }).await.unwrap();
    let (host, canaries) = ("h".to_owned(), BTreeMap::new());
    let challenge = Challenge { version: 1, source: source.clone(), at, expires_at: at, host, canaries };
    let place = layout::challenge(&source, at);
    records::put(store, &place, &challenge, &repository.key).await.unwrap();
    let (of_repository, host) = (RepositoryId::generate(&mut rand::rng()), "h".to_owned());
    let (backup, recipients) = (None, Vec::new());
    let custody = Custody {
        version: 1,
        source: source.clone(),
        repository: of_repository,
        at,
        host,
        backup,
        recipients,
    };
    records::put(store, &layout::custody(&source, at), &custody, &repository.key).await.unwrap();
    for (trusted, expected) in [("valid-before=\"20991231Z\"", true), ("valid-before=\"20200101Z\"", false)] {
        let line = format!("host {trusted} {}\n", repository.key.public_line());
        let signers = TrustedSigners::parse(&line).unwrap();
        let writer = WriterId::of(&repository.key.fingerprint());
        let is_signed = [
            records::get::<Run>(store, &layout::run(&source, &id), &signers).await.is_ok(),
            records::get::<Tombstone>(store, &layout::tombstone(&source, &id), &signers).await.is_ok(),
            records::get::<Hold>(store, &layout::hold(&source, &id), &signers).await.is_ok(),
            records::get::<Act>(store, &layout::act(&source, &writer, 1), &signers).await.is_ok(),
            records::get::<Challenge>(store, &place, &signers).await.is_ok(),
            records::get::<Custody>(store, &layout::custody(&source, at), &signers).await.is_ok(),
            records::get::<Report>(store, &layout::verification(&source, &id, report.finished_at), &signers)
                .await
                .is_ok(),
        ];
        assert_eq!(is_signed, [expected; 7], "{trusted}");
    }
}

#[tokio::test]
async fn a_pin_that_is_dropped_ends() {
    let repository = Repository::new();
    let id: BackupId = "20261124T020000Z-aaaaaa".parse().unwrap();
    let pin = Pin::set(repository.store.clone(), &source(), &id, Timestamp::now()).await.unwrap();
    drop(pin);
    let ended = async {
        while pins::of(&repository.store, &source(), &id, Timestamp::now()).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the pin goes on");
}

#[tokio::test]
async fn what_is_not_signed_is_no_part_of_the_past() {
    let repository = Repository::new();
    repository.put("20261123T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let (newest, _) = repository.put("20261124T020000Z-bbbbbb", "02:00:01", Previous::None).await;
    // Dated in the future, without a signature, and a folder without a manifest.
    let (future, _) = repository.put("20270101T020000Z-cccccc", "02:00:01", Previous::None).await;
    let unsigned: BackupId = "20261124T030000Z-dddddd".parse().unwrap();
    repository.raw(&layout::manifest(&source(), &unsigned), b"{}").await;
    let litter = layout::backup_object(&source(), &"20261124T040000Z-eeeeee".parse().unwrap(), "x").unwrap();
    repository.raw(&litter, b"x").await;
    // Of another time than its id says.
    repository.put_imported("20261124T045000Z-ffffff").await;
    let standing = repository.run("20261124T050000Z-aaaaaa", &repository.key, Cause::Standing).await;
    repository.run("20261124T060000Z-aaaaaa", &signing_key(), Cause::Passing).await;
    repository.run("20261122T050000Z-aaaaaa", &repository.key, Cause::Passing).await;
    // Signed, and of another run or another source than where it lies.
    let old: BackupId = "20261122T050000Z-aaaaaa".parse().unwrap();
    let moved: BackupId = "20261124T070000Z-aaaaaa".parse().unwrap();
    repository.copied(&layout::run(&source(), &old), &layout::run(&source(), &moved)).await;
    let other: SourceName = "other".parse().unwrap();
    let failed = RunOutcome::Failed { error: "no server".to_owned(), cause: Cause::Passing };
    let theirs = a_run(other, "20261124T080000Z-aaaaaa", failed);
    let place = layout::run(&source(), &theirs.id);
    records::put(&*repository.store, &place, &theirs, &repository.key).await.unwrap();
    let (since, now) = (newest.started_at(), "2026-11-24T12:00:00Z".parse().unwrap());
    let known = history::of_late(&repository.store, &source(), &repository.signers, since, now).await;
    let expected = Known { backups: vec![future.started_at(), newest.started_at()], failed: vec![standing] };
    assert_eq!(known.unwrap(), expected);
}

#[tokio::test]
async fn run_that_found_nothing_changed_counts_while_what_it_found_is_there() {
    let repository = Repository::new();
    let (newest, _) = repository.put("20261123T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let gone: BackupId = "20261123T120000Z-bbbbbb".parse().unwrap();
    let unchanged = |since: &BackupId| RunOutcome::Unchanged { since: since.clone() };
    let (counts, _) = repository.ended("20261124T020000Z-cccccc", &repository.key, unchanged(&newest)).await;
    repository.ended("20261124T030000Z-dddddd", &repository.key, unchanged(&gone)).await;
    let (since, now) = (newest.started_at(), "2026-11-24T12:00:00Z".parse().unwrap());
    let known = history::of_late(&repository.store, &source(), &repository.signers, since, now).await;
    assert_eq!(known.unwrap(), Known { backups: vec![newest.started_at(), counts], failed: Vec::new() });
}

#[tokio::test]
async fn store_that_fails_is_no_empty_past() {
    let repository = Repository::new();
    repository.put("20261124T020000Z-bbbbbb", "02:00:01", Previous::None).await;
    for operation in [Operation::List, Operation::Get] {
        let rule = Rule::on(operation, Fault::FailBefore).times(9);
        let store: SharedStore = Arc::new(FaultyStore::scripted(repository.store.clone(), vec![rule]));
        let (since, now) = (Timestamp::MIN, NOW.parse().unwrap());
        let known = history::of_late(&store, &source(), &repository.signers, since, now).await;
        assert!(matches!(known, Err(CatalogError::Store { .. })), "{known:?}");
    }
    // Nor are failures forgotten whose records cannot be fetched now; those that are damaged are no records.
    repository.run("20261124T050000Z-aaaaaa", &repository.key, Cause::Standing).await;
    for (fault, is_known) in [(Fault::FailBefore, false), (Fault::Damage, true)] {
        let rule = Rule::on(Operation::Get, fault).keyed(layout::runs(&source()).as_str()).times(9);
        let store: SharedStore = Arc::new(FaultyStore::scripted(repository.store.clone(), vec![rule]));
        let (since, now) = (Timestamp::MIN, NOW.parse().unwrap());
        match history::of_late(&store, &source(), &repository.signers, since, now).await {
            Ok(known) => assert!(is_known && known.failed.is_empty(), "{fault:?}: {known:?}"),
            Err(error) => assert!(!is_known && matches!(error, CatalogError::Record { .. }), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_signed_manifest_in_another_place_is_no_backup() {
    let repository = Repository::new();
    let (id, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let (later, elsewhere): (BackupId, SourceName) =
        ("20261224T020000Z-bbbbbb".parse().unwrap(), "other".parse().unwrap());
    for (source, place) in [(source(), &later), (elsewhere, &id)] {
        let signed = layout::manifest(&self::source(), &id);
        repository.copied(&signed, &layout::manifest(&source, place)).await;
        let entries = catalog::list(&repository.store, &source, &repository.signers).await.unwrap();
        let Some(Entry { standing: Standing::Quarantined(error), .. }) = entries.last() else {
            panic!("{entries:?}")
        };
        assert!(error.to_string().contains(id.as_str()), "{error}");
        let found = catalog::find(&repository.store, &source, place, &repository.signers).await;
        assert!(matches!(found, Err(CatalogError::Manifest { .. })), "{found:?}");
    }
}

#[tokio::test]
async fn a_backup_that_was_copied_here_from_another_repository_is_none() {
    let repository = Repository::new();
    let (own, _) = repository.put("20261123T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let id = manifest::parse(GOLDEN).unwrap().repository;
    catalog::ensure_marker(&*repository.store, id, NOW.parse().unwrap()).await.unwrap();
    let mut foreign: Manifest = manifest::parse(GOLDEN).unwrap();
    foreign.repository = RepositoryId::generate(&mut rand::rng());
    let (foreign, sha256) = repository.put_manifest(foreign).await;
    let mut report = repository.report(&foreign, sha256);
    report.verdict = Verdict::Passed;
    repository.put_report(&report, &repository.key).await;

    let entries = repository.list().await;
    assert_eq!(entries[1].id, foreign);
    assert!(
        matches!(&entries[1].standing, Standing::Quarantined(ManifestError::OtherRepository)),
        "{entries:?}"
    );
    assert_eq!(catalog::choose(&entries, Timestamp::MAX).unwrap().backup.get().id, own);
    let last = Retention { last: 1, ..Retention::default() };
    let plan = retention::plan(&repository.candidates(&entries), &last, &TimeZone::UTC, NOW.parse().unwrap());
    assert_eq!(plan.expired().count(), 0, "{plan:?}");
}

#[tokio::test]
async fn a_report_of_another_repository_proves_nothing() {
    let own = manifest::parse(GOLDEN).unwrap().repository;
    for (repository_of_report, proved) in
        [(own.clone(), true), (RepositoryId::generate(&mut rand::rng()), false)]
    {
        let repository = Repository::new();
        catalog::ensure_marker(&*repository.store, own.clone(), NOW.parse().unwrap()).await.unwrap();
        let (id, sha256) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
        let report = Report { repository: repository_of_report, ..repository.report(&id, sha256) };
        repository.put_report(&report, &repository.key).await;
        assert_eq!(repository.list().await[0].proofs.is_proved(), proved);
    }
}

#[tokio::test]
async fn times_that_contradict_each_other_make_no_backup() {
    let at = |time: &str| time.parse::<Timestamp>().unwrap();
    type Change = fn(&mut Manifest, Timestamp);
    let changes: [(&str, Change, &str, bool); 5] = [
        ("begun within the second of the name", |it, at| it.started_at = at, "2026-11-24T02:00:00.9Z", true),
        ("begun at another time", |it, at| it.started_at = at, "2026-11-24T02:00:01Z", false),
        // Whoever has a key that ended would say that it signed before it did.
        ("ended before it began", |it, at| it.finished_at = at, "2026-11-24T01:59:59Z", false),
        ("ended as it began", |it, at| it.finished_at = at, "2026-11-24T02:00:00Z", true),
        ("of days later", |it, at| it.snapshot.at = at, "2026-11-26T02:00:01Z", false),
    ];
    for (what, change, time, is_whole) in changes {
        let repository = Repository::new();
        let mut made: Manifest = manifest::parse(GOLDEN).unwrap();
        change(&mut made, at(time));
        repository.put_manifest(made).await;
        let entries = repository.list().await;
        let refused = matches!(entries[0].standing, Standing::Quarantined(ManifestError::Times { .. }));
        assert_eq!((entries[0].whole().is_some(), refused), (is_whole, !is_whole), "{what}: {entries:?}");
    }
}

#[tokio::test]
async fn retention_is_told_which_server_a_backup_is_of_and_why_another_cannot_be_used() {
    let repository = Repository::new();
    let (id, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let (bad, _) = repository.put("20261125T020000Z-bbbbbb", "02:00:01", Previous::None).await;
    repository.store.delete(&layout::manifest(&source(), &bad)).await.unwrap();
    repository.raw(&layout::manifest(&source(), &bad), b"{").await;
    let surveyed = catalog::survey(&repository.store, &source(), &repository.signers).await.unwrap();
    let BriefStanding::Whole { server, snapshot_at, .. } = &surveyed[0].standing else {
        panic!("{surveyed:?}")
    };
    let golden: Manifest = manifest::parse(GOLDEN).unwrap();
    let identifier = golden.postgres().unwrap().server.system_identifier.as_ref().unwrap().to_string();
    assert_eq!(server.as_deref(), Some(format!("15/{identifier}").as_str()));
    assert_eq!((*snapshot_at, surveyed[0].snapshot_at()), (id.started_at(), Some(id.started_at())));
    let BriefStanding::Unusable { why } = &surveyed[1].standing else { panic!("{surveyed:?}") };
    let entries = repository.list().await;
    let Standing::Quarantined(error) = &entries[1].standing else { panic!("{entries:?}") };
    assert!(why.starts_with(&format!("{error}: ")), "{why}");
}

#[tokio::test]
async fn damaged_objects_quarantine_their_backup_alone() {
    for damaged in ["manifest.json", "manifest.json.sig"] {
        let repository = Repository::new();
        let (bad, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
        let (good, _) = repository.put("20261125T020000Z-bbbbbb", "02:00:01", Previous::None).await;
        let key = layout::backup_object(&source(), &bad, damaged).unwrap();
        let rule = Rule::on(Operation::Get, Fault::Damage).keyed(key.as_str()).times(9);
        // `manifest.json` is the beginning of its signature's name, too.
        let store: SharedStore = Arc::new(FaultyStore::scripted(repository.store.clone(), vec![rule]));
        let entries = catalog::list(&store, &source(), &repository.signers).await.unwrap();
        assert!(matches!(entries[0].standing, Standing::Quarantined(_)), "{damaged}: {:?}", entries[0]);
        assert_eq!(entries[1].whole().unwrap().get().id, good);
    }
}

#[tokio::test]
async fn what_is_too_large_to_be_ours_quarantines_its_backup_alone() {
    let (manifest, signature) = (manifest::MANIFEST_BYTES_MAX, manifest::SIGNATURE_BYTES_MAX);
    for (name, bytes_max) in [("manifest.json", manifest), ("manifest.json.sig", signature)] {
        let repository = Repository::new();
        let (good, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
        let (bad, _) = repository.put("20261125T020000Z-bbbbbb", "02:00:01", Previous::None).await;
        let key = layout::backup_object(&source(), &bad, name).unwrap();
        repository.store.delete(&key).await.unwrap();
        repository.raw(&key, &vec![b'0'; usize::try_from(bytes_max).unwrap() + 1]).await;
        let entries = repository.list().await;
        assert!(matches!(entries[1].standing, Standing::Quarantined(_)), "{name}: {:?}", entries[1]);
        assert_eq!(catalog::choose(&entries, Timestamp::MAX).unwrap().backup.get().id, good);
    }
}

#[tokio::test]
async fn what_cannot_be_used_names_what_it_needs_all_the_same() {
    let repository = Repository::new();
    let made: Manifest = manifest::parse(GOLDEN_INCREMENTAL).unwrap();
    let needs: Vec<BackupId> = made.bases().iter().map(|base| base.id.clone()).collect();
    assert!(!needs.is_empty());
    let newer = Manifest { version: made.version + 1, ..made.clone() };
    repository.raw(&layout::manifest(&source(), &made.id), &newer.to_bytes()).await;
    for signature in ["", "not a signature"] {
        if !signature.is_empty() {
            repository.raw(&layout::manifest_signature(&source(), &made.id), signature.as_bytes()).await;
        }
        let surveyed = catalog::survey(&repository.store, &source(), &repository.signers).await.unwrap();
        assert!(surveyed[0].snapshot_at().is_none());
        assert_eq!(surveyed[0].needs, needs, "{surveyed:?}");
    }
}

#[tokio::test]
async fn records_of_a_newer_version_are_refused_by_name() {
    let repository = Repository::new();
    let id: BackupId = "20261124T020000Z-aaaaaa".parse().unwrap();
    let run =
        Run { version: 2, ..a_run(source(), id.as_str(), RunOutcome::Committed { warnings: Vec::new() }) };
    let place = layout::run(&source(), &id);
    records::put(&*repository.store, &place, &run, &repository.key).await.unwrap();
    let refused = records::get::<Run>(&*repository.store, &place, &repository.signers).await.unwrap_err();
    assert!(matches!(refused, RecordError::Newer { version: 2, known: 1 }), "{refused:?}");
    assert!(!refused.is_of_the_store());
}

#[tokio::test]
async fn tombstones_that_the_pruner_did_not_sign_remove_nothing() {
    let repository = Repository::new();
    let (id, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let stranger = signing_key();
    for key in [&stranger, &repository.key] {
        // Even a well-signed one is no deletion: with an agent's key, an intruder could sign it.
        repository.tombstone(&id, key).await;
        let entries = repository.list().await;
        assert!(entries[0].whole().is_some(), "{:?}", entries[0]);
        repository.prune(&[], &entries).await;
        assert!(repository.list().await[0].whole().is_some());
        repository.store.delete(&layout::tombstone(&source(), &id)).await.unwrap();
        repository.store.delete(&layout::signature_of(&layout::tombstone(&source(), &id))).await.unwrap();
    }
}

#[tokio::test]
async fn a_hole_in_the_chain_is_explained_only_by_a_trusted_tombstone() {
    let repository = Repository::new();
    let (first, sha256) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let previous = Previous::Known { id: first.clone(), manifest_sha256: sha256 };
    let (second, _) = repository.put("20261125T020000Z-bbbbbb", "02:00:01", previous).await;
    assert_eq!(repository.breaks().await, []);
    repository.store.delete(&layout::manifest(&source(), &first)).await.unwrap();
    let hole = [Break::Vanished { id: second, previous: first.clone() }];
    assert_eq!(repository.breaks().await, hole);
    repository.tombstone(&first, &signing_key()).await;
    assert_eq!(repository.breaks().await, hole, "a stranger's tombstone explains nothing");
    let key = layout::tombstone(&source(), &first);
    for (of_source, of_id) in [("app", "20261101T020000Z-aaaaaa"), ("other", first.as_str())] {
        for place in [&key, &layout::signature_of(&key)] {
            repository.store.delete(place).await.unwrap();
        }
        let (of_source, id) = (of_source.parse().unwrap(), of_id.parse().unwrap());
        let (at, host) = (NOW.parse().unwrap(), "elsewhere".to_owned());
        let tombstone = Tombstone { version: 1, source: of_source, id, at, host, snapshot_at: at };
        records::put(&*repository.store, &key, &tombstone, &repository.key).await.unwrap();
        assert_eq!(repository.breaks().await, hole, "nor does one that was moved here from {of_id}");
    }
    let rule = Rule::on(Operation::Get, Fault::FailBefore).keyed(key.as_str()).times(9);
    let store: SharedStore = Arc::new(FaultyStore::scripted(repository.store.clone(), vec![rule]));
    let entries = repository.list().await;
    let whole: Vec<_> = entries.iter().filter_map(Entry::whole).collect();
    let unknown = chain::breaks_among(&store, &whole, &repository.signers).await;
    assert!(unknown.unwrap_err().is_of_the_store(), "what cannot be fetched is no hole yet");
}

#[tokio::test]
async fn pruned_backups_leave_a_chain_without_holes_and_nothing_else() {
    let repository = Repository::new();
    let (first, sha256) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let previous = Previous::Known { id: first.clone(), manifest_sha256: sha256 };
    repository.put("20261125T020000Z-bbbbbb", "02:00:01", previous).await;
    // Litter in the tombstone's place, by a stranger: it must not stop the pruner.
    repository.tombstone(&first, &signing_key()).await;
    let entries = repository.list().await;
    let outcome = repository.prune(&[&entries[0]], &entries).await;
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    assert_eq!(outcome.removed, [first]);
    let entries = repository.list().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(repository.breaks().await, []);
}

#[tokio::test]
async fn a_delete_that_failed_is_finished_by_the_next_prune() {
    let repository = Repository::new();
    let (first, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    repository.put("20261125T020000Z-bbbbbb", "02:00:01", Previous::None).await;
    let data = layout::backup_object(&source(), &first, &layout::archive_name(0)).unwrap();
    repository.store.put(&data, Bytes::from_static(b"sealed"), PutCondition::IfAbsent).await.unwrap();
    let entries = repository.list().await;
    let rule = Rule::on(Operation::Delete, Fault::Deny).keyed("data.000");
    let faulty: SharedStore = Arc::new(FaultyStore::scripted(repository.store.clone(), vec![rule]));
    let outcome = repository.prune_in(&faulty, &[&entries[0]], &entries).await;
    assert_eq!(outcome.failures.len(), 1, "{outcome:?}");
    let entries = repository.list().await;
    assert!(matches!(entries[0].standing, Standing::Pruned), "{:?}", entries[0]);
    let outcome = repository.prune(&[], &entries).await;
    assert_eq!(outcome.swept, [first]);
    assert!(matches!(repository.store.head(&data).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_hold_that_is_newer_than_the_plan_still_holds() {
    let repository = Repository::new();
    let (id, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let entries = repository.list().await;
    repository.raw(&layout::hold(&source(), &id), b"{}").await;
    let outcome = repository.prune(&[&entries[0]], &entries).await;
    assert_eq!((outcome.removed.len(), outcome.failures.len()), (0, 1));
    assert!(repository.list().await[0].whole().is_some());
}

#[tokio::test]
async fn sixty_days_of_runs_that_died_cost_no_good_backup() {
    let repository = Repository::new();
    let (good, _) = repository.put("20260920T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    for number in 0..60 {
        let at = good.started_at() + SignedDuration::from_hours(24 * (number + 1));
        let id: BackupId = format!("{}-dddddd", at.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap();
        let data = layout::backup_object(&source(), &id, &layout::archive_name(0)).unwrap();
        repository.raw(&data, b"half").await;
    }
    let entries = repository.list().await;
    let last = Retention { last: 1, ..Retention::default() };
    let plan = retention::plan(&repository.candidates(&entries), &last, &TimeZone::UTC, NOW.parse().unwrap());
    assert_eq!(plan.expired().count(), 0);
    let outcome = repository.prune(&[], &entries).await;
    assert_eq!((outcome.swept.len(), outcome.failures.len()), (60, 0), "{outcome:?}");
    let left = repository.list().await;
    assert_eq!(left.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&good]);
    assert!(left[0].whole().is_some());
}

#[tokio::test]
async fn names_and_pins_from_the_end_of_time_stop_no_prune() {
    let repository = Repository::new();
    let (expired, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let end: BackupId = "99991230T215959Z-zzzzzz".parse().unwrap();
    let data = layout::backup_object(&source(), &end, &layout::archive_name(0)).unwrap();
    repository.raw(&data, b"half").await;
    let pin = format!(
        r#"{{"version": 1, "holder": {{"host": "h", "boot": "b", "pid": 1}}, "since": "{0}", "expires_at": "{0}",
            "released": false}}"#,
        end.started_at()
    );
    repository.raw(&layout::pin(&source(), &end, "a"), pin.as_bytes()).await;
    let entries = repository.list().await;
    let outcome = repository.prune(&[&entries[0]], &entries).await;
    assert_eq!(outcome.removed, [expired]);
    assert_eq!((outcome.swept.len(), outcome.failures.len()), (0, 0), "{outcome:?}");
    assert!(repository.store.head(&data).await.is_ok());
}

#[tokio::test]
async fn the_rest_of_a_backup_whose_manifest_vanished_is_no_litter() {
    for told_by_run in [true, false] {
        let repository = Repository::new();
        let (gone, sha256) = repository.put("20261120T020000Z-aaaaaa", "02:00:01", Previous::None).await;
        match told_by_run {
            true => repository.committed(&gone).await,
            false => {
                let previous = Previous::Known { id: gone.clone(), manifest_sha256: sha256 };
                repository.put("20261121T020000Z-bbbbbb", "02:00:01", previous).await;
            }
        }
        let data = layout::backup_object(&source(), &gone, &layout::archive_name(0)).unwrap();
        repository.raw(&data, b"sealed").await;
        repository.store.delete(&layout::manifest(&source(), &gone)).await.unwrap();
        // Nor does a tombstone count that nobody trusted signed.
        repository.tombstone(&gone, &signing_key()).await;
        let outcome = repository.prune(&[], &repository.list().await).await;
        assert!(outcome.swept.is_empty(), "{outcome:?}");
        assert!(outcome.failures[0].error.to_string().contains("no tombstone says why"), "{outcome:?}");
        assert!(repository.store.head(&data).await.is_ok());
    }
}

#[tokio::test]
async fn a_pin_that_is_newer_than_the_plan_puts_the_removal_off() {
    let repository = Repository::new();
    let (id, _) = repository.put("20261124T020000Z-aaaaaa", "02:00:01", Previous::None).await;
    let entries = repository.list().await;
    let pin = Pin::set(repository.store.clone(), &source(), &id, NOW.parse().unwrap()).await.unwrap();
    let outcome = repository.prune(&[&entries[0]], &entries).await;
    assert_eq!((outcome.removed.len(), outcome.put_off.len(), outcome.failures.len()), (0, 1, 0));
    assert!(outcome.put_off[0].why.to_string().starts_with("in use by "), "{outcome:?}");
    pin.release().await;
    let outcome = repository.prune(&[&entries[0]], &entries).await;
    assert_eq!(outcome.removed, [id]);
}

#[tokio::test]
async fn only_signed_chained_reports_of_this_manifest_prove() {
    let id = "20261124T020000Z-aaaaaa";
    let proved = |repository: &Repository, entries: &[Entry]| {
        let candidates = repository.candidates(entries);
        candidates[0].standing == retention::Standing::Good { proved: true }
    };
    let by_stranger = signing_key();
    type Change = fn(&mut Report);
    let none: Change = |_| {};
    let cases: [(&str, bool, bool, Change); 7] = [
        ("as it is", true, true, none),
        ("by a stranger", false, false, none),
        ("of another manifest", false, true, |report| report.manifest_sha256 = ManifestSha256::of(b"other")),
        ("not run", false, true, |report| report.verdict = Verdict::NotRun),
        ("still to come", false, true, |report| report.finished_at = "2027-06-01T00:00:00Z".parse().unwrap()),
        ("at odds with its chain", false, true, |report| report.number = 9),
        ("by way of an exception", false, true, |report| {
            report.verdict = Verdict::Degraded;
            report.exceptions[0].check = "tables".to_owned();
            report.exceptions[0].used = true;
        }),
    ];
    for (what, expected, trusted, change) in cases {
        let repository = Repository::new();
        let (id, sha256) = repository.put(id, "02:00:01", Previous::None).await;
        let mut report = repository.report(&id, sha256);
        change(&mut report);
        repository.put_report(&report, if trusted { &repository.key } else { &by_stranger }).await;
        assert_eq!(proved(&repository, &repository.list().await), expected, "{what}");
    }
    // Two that claim one number prove nothing, each of them.
    let repository = Repository::new();
    let (id, sha256) = repository.put(id, "02:00:01", Previous::None).await;
    let mut report = repository.report(&id, sha256);
    repository.put_report(&report, &repository.key).await;
    report.finished_at += SignedDuration::from_secs(60);
    repository.put_report(&report, &repository.key).await;
    assert!(!proved(&repository, &repository.list().await));
    assert_eq!(repository.list().await[0].proofs.without_weight, 2);
    // What does not count is counted, so that it can be told of.
    for _ in 0..2 {
        report.finished_at += SignedDuration::from_secs(60);
        repository.put_report(&report, &by_stranger).await;
    }
    assert_eq!(repository.list().await[0].proofs.without_weight, 4);
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

    /// Puts a signed manifest that says it was finished at `time` of its id's day.
    async fn put(&self, id: &str, time: &str, previous: Previous) -> (BackupId, ManifestSha256) {
        let id: BackupId = id.parse().unwrap();
        let day = id.started_at().strftime("%Y-%m-%d");
        let at: Timestamp = format!("{day}T{time}Z").parse().unwrap();
        let mut made: Manifest = manifest::parse(GOLDEN).unwrap();
        (made.id, made.previous, made.finished_at) = (id, previous, at);
        (made.started_at, made.snapshot.at) = (made.id.started_at(), made.id.started_at());
        self.put_manifest(made).await
    }

    async fn put_imported(&self, id: &str) {
        let mut made: Manifest = manifest::parse(GOLDEN_IMPORTED).unwrap();
        made.id = id.parse().unwrap();
        (made.started_at, made.finished_at) = (made.id.started_at(), made.id.started_at());
        self.put_manifest(made).await;
    }

    async fn put_manifest(&self, made: Manifest) -> (BackupId, ManifestSha256) {
        let id = made.id.clone();
        let bytes = made.to_bytes();
        let signature = self.key.sign(manifest::NAMESPACE, &bytes).unwrap();
        SignedManifest::check(&bytes, &signature, &self.signers).unwrap();
        self.raw(&layout::manifest_signature(&source(), &id), signature.as_bytes()).await;
        self.raw(&layout::manifest(&source(), &id), &bytes).await;
        (id, ManifestSha256::of(&bytes))
    }

    /// The record of the run that made it.
    async fn committed(&self, id: &BackupId) {
        self.ended(id.as_str(), &self.key, RunOutcome::Committed { warnings: Vec::new() }).await;
    }

    /// The first report of its source: it passed.
    fn report(&self, id: &BackupId, manifest: ManifestSha256) -> Report {
        let mut report: Report = serde_json::from_slice(GOLDEN_REPORT).unwrap();
        (report.backup, report.manifest_sha256) = (id.clone(), manifest);
        (report.number, report.previous) = (1, v1::Previous::None);
        report
    }

    async fn put_report(&self, report: &Report, key: &SigningKey) {
        let place = layout::verification(&source(), &report.backup, report.finished_at);
        records::put(&*self.store, &place, report, key).await.unwrap();
    }

    fn candidates(&self, entries: &[Entry]) -> Vec<Candidate> {
        let briefs: Vec<_> = entries.iter().map(Brief::from).collect();
        prune::candidates(&briefs, &BTreeMap::new(), NOW.parse().unwrap())
    }

    /// With its signature.
    async fn copied(&self, from: &ObjectKey, to: &ObjectKey) {
        for (from, to) in [(from, to), (&layout::signature_of(from), &layout::signature_of(to))] {
            let (bytes, _) = self.store.get(from, 1 << 20).await.unwrap();
            self.raw(to, &bytes).await;
        }
    }

    async fn raw(&self, key: &ObjectKey, bytes: &[u8]) {
        self.store.put(key, Bytes::copy_from_slice(bytes), PutCondition::IfAbsent).await.unwrap();
    }

    async fn tombstone(&self, id: &BackupId, key: &SigningKey) {
        let (at, host) = (NOW.parse().unwrap(), "elsewhere".to_owned());
        let tombstone = Tombstone { version: 1, source: source(), id: id.clone(), at, host, snapshot_at: at };
        records::put(&*self.store, &layout::tombstone(&source(), id), &tombstone, key).await.unwrap();
    }

    /// The record of an attempt that failed within a minute.
    async fn run(&self, id: &str, key: &SigningKey, cause: Cause) -> Attempt {
        let outcome = RunOutcome::Failed { error: "no server".to_owned(), cause };
        let (started_at, ended_at) = self.ended(id, key, outcome).await;
        Attempt { started_at, ended_at, cause }
    }

    async fn ended(&self, id: &str, key: &SigningKey, outcome: RunOutcome) -> (Timestamp, Timestamp) {
        let run = a_run(source(), id, outcome);
        records::put(&*self.store, &layout::run(&source(), &run.id), &run, key).await.unwrap();
        (run.started_at, run.ended_at)
    }

    async fn list(&self) -> Vec<Entry> {
        catalog::list(&self.store, &source(), &self.signers).await.unwrap()
    }

    async fn breaks(&self) -> Vec<Break> {
        let entries = self.list().await;
        let whole: Vec<_> = entries.iter().filter_map(Entry::whole).collect();
        chain::breaks_among(&self.store, &whole, &self.signers).await.unwrap()
    }

    async fn prune(&self, expired: &[&Entry], entries: &[Entry]) -> pgproof_repository::prune::Outcome {
        self.prune_in(&self.store, expired, entries).await
    }

    async fn prune_in(
        &self,
        store: &SharedStore,
        expired: &[&Entry],
        entries: &[Entry],
    ) -> pgproof_repository::prune::Outcome {
        let (source, signing_key, signers) = (&source(), &self.key, &self.signers);
        let pruner =
            Pruner { store, source, signing_key, signers, host: "here", cancel: CancellationToken::new() };
        let briefs = |entries: &[&Entry]| entries.iter().map(|entry| Brief::from(*entry)).collect::<Vec<_>>();
        let (expired, all) = (briefs(expired), briefs(&entries.iter().collect::<Vec<_>>()));
        pruner.carry_out(&expired.iter().collect::<Vec<_>>(), &all, NOW.parse().unwrap()).await
    }
}

/// The record of an attempt that took a minute.
fn a_run(source: SourceName, id: &str, outcome: RunOutcome) -> Run {
    let id: BackupId = id.parse().unwrap();
    let (started_at, host, policy_sha256) = (id.started_at(), "here".to_owned(), None);
    let ended_at = started_at + SignedDuration::from_mins(1);
    Run { version: 1, source, id, started_at, ended_at, host, policy_sha256, outcome }
}

fn signing_key() -> SigningKey {
    SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap()
}

fn source() -> SourceName {
    "app".parse().unwrap()
}
