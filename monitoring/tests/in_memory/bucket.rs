//! What is made of a bucket, whoever put things there and however much there is.

use std::sync::Arc;

use bytes::Bytes;
use jiff::SignedDuration;
use pgproof_monitoring::facts::gather;
use pgproof_policies::standing::Verdict;
use pgproof_repository::ids::BackupId;
use pgproof_repository::layout;
use pgproof_repository::store::counting::CountingStore;
use pgproof_repository::store::operation::Operation;
use pgproof_repository::store::{PutCondition, SharedStore};

use crate::support::{self, Bucket, noon, source};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
/// GETs for one source, whatever lies there.
const GETS_MAX: u64 = 120;
/// Listings of a source, each page of one counted.
const LISTINGS_MAX: u64 = 20;

#[tokio::test]
async fn ten_thousand_backups_cost_no_more_requests_than_forty() {
    let bucket = Bucket::new();
    let mut requests = Vec::new();
    let mut made = 0;
    for count in [40, 10_000] {
        while made < count {
            made += 1;
            let at = noon() - HOUR * made;
            let id = bucket.backup(at).await;
            // Only that there are so many reports matters here.
            bucket.put(&layout::verification(&source(), &id, at), b"{}".to_vec()).await;
            bucket.named(&id, at).await;
        }
        let oldest = support::id_at(noon() - HOUR * made);
        bucket.report(&oldest, noon() + MINUTE * made, Verdict::Proved, &bucket.key).await;
        bucket.named(&oldest, noon() + MINUTE * made).await;
        bucket.run(noon() - HOUR, None, &bucket.key).await;
        let counting = CountingStore::new(bucket.store.clone());
        let store: SharedStore = Arc::new(counting.clone());
        let facts = gather(&store, &source(), &bucket.signers, noon()).await.unwrap();
        assert_eq!(facts.newest_backup(noon()).unwrap().snapshot_at, noon() - HOUR);
        assert!(facts.drills.iter().any(|drill| drill.backup == oldest.to_string()), "{:?}", facts.drills);
        let counters = counting.counters();
        let listings = counters.of(Operation::List).requests + counters.of(Operation::ListFolders).requests;
        assert!(counters.of(Operation::Get).requests <= GETS_MAX, "{:?}", counters.all());
        assert!(listings <= LISTINGS_MAX, "{:?}", counters.all());
        requests.push((counters.of(Operation::Get).requests, listings));
    }
    // The second time there are backups of a week and a month ago, each with its manifest and signature, and one list of
    // folders does not hold all.
    assert!(requests[1].0 <= requests[0].0 + 12, "{requests:?}");
    assert!(requests[1].1 <= requests[0].1 + 8, "{requests:?}");
}

#[tokio::test]
async fn what_was_copied_here_from_another_repository_is_told_and_never_counts() {
    let mut bucket = Bucket::new();
    let own = bucket.backup(noon() - HOUR * 2).await;
    bucket.repository = "zyxwvutsrqponmlkjihgfedcba".parse().unwrap();
    let foreign = bucket.backup(noon() - HOUR).await;
    bucket.report(&foreign, noon(), Verdict::Proved, &bucket.key).await;
    bucket.named(&foreign, noon()).await;
    let facts = bucket.facts(noon()).await;
    assert_eq!(facts.newest_backup(noon()).unwrap().id, own.to_string());
    let passed_over: Vec<_> = facts.passed_over.iter().map(|it| it.id.as_str()).collect();
    assert_eq!((passed_over, facts.drills.len(), facts.worthless_records), (vec![foreign.as_str()], 0, 1));
}

#[tokio::test]
async fn backups_without_the_marker_are_nobodys_and_nothing_is_known_of_them() {
    let bucket = Bucket::new();
    bucket.backup(noon() - HOUR).await;
    bucket.store.delete(&layout::repository_marker()).await.unwrap();
    let refused = gather(&bucket.store, &source(), &bucket.signers, noon()).await.unwrap_err();
    assert!(refused.to_string().contains("repository.json"), "{refused}");
}

#[tokio::test]
async fn unsigned_and_foreign_things_are_told_and_never_count() {
    let bucket = Bucket::new();
    let good = bucket.backup(noon() - HOUR * 3).await;
    let unsigned = bucket.backup(noon() - HOUR * 2).await;
    bucket.store.delete(&layout::manifest_signature(&source(), &unsigned)).await.unwrap();
    let stranger = support::signing_key();
    let foreign = bucket.backup_signed(noon() - HOUR, &stranger).await;
    bucket.run(noon() - HOUR, None, &stranger).await;
    let facts = bucket.facts(noon()).await;
    assert_eq!(facts.newest_backup(noon()).unwrap().id, good.to_string());
    let passed_over: Vec<_> = facts.passed_over.iter().map(|it| it.id.clone()).collect();
    assert_eq!(passed_over, [foreign.to_string(), unsigned.to_string()]);
    assert!(facts.passed_over[1].why.contains("not signed"), "{:?}", facts.passed_over);
    assert_eq!((facts.runs.len(), facts.worthless_records), (0, 1));
    // Folders without a manifest are runs that go on or died.
    let dead: BackupId = "20261124T115959Z-aaaaaa".parse().unwrap();
    let object = layout::backup_object(&source(), &dead, "data.000.zst.age").unwrap();
    bucket.store.put(&object, Bytes::from_static(b"x"), PutCondition::IfAbsent).await.unwrap();
    assert_eq!(bucket.facts(noon()).await.passed_over.len(), 2);
}

#[tokio::test]
async fn a_backup_from_the_future_does_not_hide_the_one_before() {
    let bucket = Bucket::new();
    let good = bucket.backup(noon() - HOUR).await;
    bucket.backup(noon() + HOUR * 72).await;
    let facts = bucket.facts(noon()).await;
    assert_eq!(facts.backups.len(), 2);
    assert_eq!(facts.newest_backup(noon()).unwrap().id, good.to_string());
}

#[tokio::test]
async fn reports_prove_and_refute_and_only_signed_ones_do() {
    let bucket = Bucket::new();
    let older = bucket.backup(noon() - HOUR * 5).await;
    let newer = bucket.backup(noon() - HOUR * 4).await;
    bucket.report(&older, noon() - HOUR * 3, Verdict::Proved, &bucket.key).await;
    bucket.report(&newer, noon() - HOUR * 2, Verdict::Bad, &bucket.key).await;
    bucket.report(&newer, noon() - HOUR, Verdict::Proved, &support::signing_key()).await;
    let facts = bucket.facts(noon()).await;
    assert_eq!(facts.newest_proof(noon()).unwrap().backup, older.to_string());
    assert_eq!(facts.drills[0].verdict, Verdict::Bad);
    assert_eq!(facts.worthless_records, 1);
    // What a drill found bad is no good backup.
    assert_eq!(facts.newest_backup(noon()).unwrap().id, older.to_string());
    assert!(facts.passed_over[0].why.contains("a drill found it bad"));
    // A later drill may know better.
    bucket.report(&newer, noon(), Verdict::Proved, &bucket.key).await;
    assert_eq!(bucket.facts(noon()).await.newest_backup(noon()).unwrap().id, newer.to_string());
}

#[tokio::test]
async fn that_a_new_backup_was_found_bad_is_seen_without_the_name_of_its_report() {
    let bucket = Bucket::new();
    let older = bucket.backup(noon() - HOUR * 5).await;
    let newer = bucket.backup(noon() - HOUR * 4).await;
    for hours in 10..40 {
        let at = noon() - HOUR * hours;
        bucket.report(&older, at, Verdict::Proved, &bucket.key).await;
        bucket.named(&older, at).await;
    }
    bucket.report(&newer, noon() - HOUR, Verdict::Bad, &bucket.key).await;
    let facts = bucket.facts(noon()).await;
    assert_eq!(facts.drills[0].verdict, Verdict::Bad);
    assert_eq!(facts.newest_backup(noon()).unwrap().id, older.to_string());
    // A name whose report is gone is told, too.
    let gone = layout::verification(&source(), &older, noon() - HOUR * 10);
    bucket.store.delete(&gone).await.unwrap();
    assert_eq!(bucket.facts(noon()).await.worthless_records, 1);
}

#[tokio::test]
async fn runs_are_read_from_the_newest_and_the_first_is_remembered() {
    let bucket = Bucket::new();
    for hours in 1..=40 {
        bucket.run(noon() - HOUR * hours, Some("no server"), &bucket.key).await;
    }
    let facts = bucket.facts(noon()).await;
    assert_eq!(facts.runs.len(), 24);
    assert_eq!(facts.runs[0].started_at, noon() - HOUR);
    assert_eq!(facts.failures_in_a_row(noon()), 24);
    assert_eq!(facts.first_seen, Some(noon() - HOUR * 40));
    // After a year of silence the last ones are still found.
    let later = noon() + HOUR * 24 * 365;
    assert_eq!(bucket.facts(later).await.runs[0].started_at, noon() - HOUR);
}

#[tokio::test]
async fn a_backup_that_was_recorded_and_is_gone_is_told() {
    let bucket = Bucket::new();
    let older = bucket.backup(noon() - HOUR * 2).await;
    let newest = bucket.backup(noon() - HOUR).await;
    bucket.run(noon() - HOUR, None, &bucket.key).await;
    assert_eq!(bucket.facts(noon()).await.passed_over, []);
    bucket.store.delete(&layout::manifest(&source(), &newest)).await.unwrap();
    let facts = bucket.facts(noon()).await;
    assert_eq!(facts.newest_backup(noon()).unwrap().id, older.to_string());
    assert_eq!(facts.passed_over[0].id, newest.to_string());
    assert!(facts.passed_over[0].why.contains("manifest is gone"), "{:?}", facts.passed_over);
    // Where it was removed on purpose, nothing is missing.
    bucket.tombstone(&newest).await;
    assert_eq!(bucket.facts(noon()).await.passed_over, []);
}

#[tokio::test]
async fn a_removal_that_stopped_half_way_is_found() {
    let bucket = Bucket::new();
    let id = bucket.backup(noon() - HOUR * 48).await;
    bucket.backup(noon() - HOUR).await;
    bucket.tombstone(&id).await;
    // A tombstone alone makes nothing of a whole backup.
    assert_eq!(bucket.facts(noon()).await.unfinished_removals, 0);
    bucket.store.delete(&layout::manifest(&source(), &id)).await.unwrap();
    assert_eq!(bucket.facts(noon()).await.unfinished_removals, 1);
}
