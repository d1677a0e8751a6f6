//! What single stores and wrappers do beyond what every store must.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use pgproof_repository::ids::{KeyPrefix, ObjectKey};
use pgproof_repository::store::counting::CountingStore;
use pgproof_repository::store::directory::DirectoryStore;
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::operation::Operation;
use pgproof_repository::store::retry::{GaveUp, RetryPolicy, RetryStore};
use pgproof_repository::store::{PutCondition, Store, StoreError};

#[tokio::test]
async fn files_and_folders_are_the_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path().join("repository")).unwrap();
    put(&store, "app/backups/manifest", b"x").await;
    let upload = store.start_upload(&key("app/backups/data")).await.unwrap();
    let part = upload.put_part(1, Bytes::from_static(b"data")).await.unwrap();
    upload.complete(vec![part]).await.unwrap();
    let mode = |path: &str| {
        let path = folder.path().join("repository").join(path);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!([mode(""), mode("app"), mode("app/backups")], [0o700; 3]);
    assert_eq!([mode("app/backups/manifest"), mode("app/backups/data")], [0o600; 2]);
}

#[tokio::test]
async fn nothing_outside_the_folder_or_hidden_in_it_is_reached() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    symlink(outside.path(), folder.path().join("way")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("file")).unwrap();
    for name in ["way/secret", "file", ".tmp/lock"] {
        assert!(store.get(&key(name), 10).await.is_err(), "{name}");
        let written = store.put(&key(name), Bytes::from_static(b"x"), PutCondition::IfAbsent).await;
        assert!(written.is_err(), "{name}");
    }
    store.start_upload(&key("pending")).await.unwrap();
    let listed: Vec<_> = store.list(&KeyPrefix::everything(), None).try_collect().await.unwrap();
    assert!(listed.is_empty(), "{listed:?}");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_pending_upload_is_found_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let before = DirectoryStore::open(folder.path()).unwrap();
    let upload = before.start_upload(&key("app/data")).await.unwrap();
    upload.put_part(1, Bytes::from_static(b"half")).await.unwrap();
    drop((upload, before));
    let after = DirectoryStore::open(folder.path()).unwrap();
    let pending = after.list_uploads(&KeyPrefix::everything()).await.unwrap();
    assert_eq!(pending[0].key, key("app/data"));
    after.abort_upload(&pending[0]).await.unwrap();
    assert_eq!(after.list_uploads(&KeyPrefix::everything()).await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_parent_is_no_such_place() {
    let folder = tempfile::tempdir().unwrap();
    let error = DirectoryStore::open(folder.path().join("missing/repository")).unwrap_err();
    assert!(matches!(error, StoreError::NoSuchPlace { .. }), "{error:?}");
}

#[tokio::test]
async fn ranges_read_what_they_name_and_no_more() {
    let memory = MemoryStore::new();
    put(&memory, "a", &[7; 100_000]).await;
    let store = CountingStore::new(Arc::new(memory));
    store.get_range(&key("a"), 500..1_500).await.unwrap();
    let count = store.counters().of(Operation::GetRange);
    assert_eq!((count.requests, count.bytes, store.counters().bytes_read()), (1, 1_000, 1_000));
}

#[tokio::test]
async fn a_stream_that_breaks_off_goes_on_where_it_broke() {
    let memory = MemoryStore::new();
    let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    put(&memory, "a", &body).await;
    let counting = CountingStore::new(Arc::new(memory));
    let cuts = Rule::on(Operation::GetStream, Fault::Cut { bytes: 70_000 }).times(2);
    let faulty = FaultyStore::scripted(Arc::new(counting.clone()), vec![cuts]);
    let store = RetryStore::with_policy(Arc::new(faulty), quick(Duration::from_secs(60)));
    let pieces = store.get_stream(&key("a"), 0..200_000).await.unwrap();
    let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), body);
    assert_eq!((store.retries(), counting.counters().of(Operation::GetStream).requests), (2, 3));
}

#[tokio::test]
async fn patience_ends_and_a_refusal_is_not_repeated() {
    let faulty = FaultyStore::scripted(Arc::new(MemoryStore::new()), vec![Rule::always(Fault::FailBefore)]);
    let store = RetryStore::with_policy(Arc::new(faulty.clone()), quick(Duration::from_millis(50)));
    let error = store.head(&key("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(store.retries() > 1);
    faulty.script(vec![Rule::always(Fault::Deny)]);
    let before = store.retries();
    assert!(matches!(store.head(&key("a")).await.unwrap_err(), StoreError::Denied { .. }));
    assert_eq!(store.retries(), before);
}

/// With the clock that ships: what every command gets.
#[tokio::test(start_paused = true)]
async fn an_outage_of_a_minute_is_carried_through() {
    const OUTAGE: Duration = Duration::from_secs(60);
    let (faulty, store) = in_an_outage().await;
    let ends = async {
        tokio::time::sleep(OUTAGE).await;
        faulty.script(Vec::new());
    };
    let upload = async {
        let upload = store.start_upload(&key("app/data")).await?;
        let part = upload.put_part(1, Bytes::from_static(b"whole")).await?;
        upload.complete(vec![part]).await
    };
    let (there, new) = (key("there"), key("new"));
    let (got, put, uploaded, ()) = tokio::join!(
        store.get(&there, 100),
        store.put(&new, Bytes::from_static(b"x"), PutCondition::IfAbsent),
        upload,
        ends
    );
    assert_eq!(got.unwrap().0, "body");
    put.unwrap();
    assert_eq!(uploaded.unwrap().bytes, 5);
}

#[tokio::test(start_paused = true)]
async fn a_longer_outage_ends_in_an_error_that_counts_its_tries() {
    let (faulty, store) = in_an_outage().await;
    let started = tokio::time::Instant::now();
    let error = store.get(&key("there"), 100).await.unwrap_err();
    let lasted = started.elapsed();
    assert!(lasted >= Duration::from_secs(90) && lasted < Duration::from_secs(92), "{lasted:?}");
    let StoreError::Unreachable { source, .. } = &error else { panic!("{error:?}") };
    let gave_up = source.downcast_ref::<GaveUp>().expect("that it gave up");
    assert_eq!(u64::from(gave_up.tries), faulty.struck());
    assert!(gave_up.tries > 10, "{gave_up}");
    assert_eq!(gave_up.to_string(), format!("gave up after {} tries in 90 s", gave_up.tries));
    assert!(std::error::Error::source(gave_up).is_some());
}

#[tokio::test]
async fn a_lost_answer_does_not_hide_another_writer() {
    let memory = MemoryStore::new();
    put(&memory, "a", b"theirs").await;
    let lost = Rule::on(Operation::Put, Fault::FailBefore);
    let faulty = FaultyStore::scripted(Arc::new(memory), vec![lost]);
    let store = RetryStore::with_policy(Arc::new(faulty), quick(Duration::from_secs(60)));
    let error = store.put(&key("a"), Bytes::from_static(b"mine"), PutCondition::IfAbsent).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error:?}");
}

/// A store with one object, `there`, that cannot be reached until the script is another one.
async fn in_an_outage() -> (FaultyStore, RetryStore) {
    let memory = MemoryStore::new();
    put(&memory, "there", b"body").await;
    let faulty = FaultyStore::scripted(Arc::new(memory), vec![Rule::always(Fault::FailBefore)]);
    (faulty.clone(), RetryStore::new(Arc::new(faulty)))
}

fn quick(total: Duration) -> RetryPolicy {
    let wait = Duration::from_millis(2);
    RetryPolicy { total, first_wait: wait, longest_wait: wait }
}

async fn put(store: &dyn Store, name: &str, body: &[u8]) {
    store.put(&key(name), Bytes::copy_from_slice(body), PutCondition::IfAbsent).await.unwrap();
}

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_folder_that_went_away_is_no_empty_repository() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("repository");
    let missing = DirectoryStore::open_existing(&root).unwrap_err();
    assert!(matches!(missing, StoreError::NoSuchPlace { .. }), "{missing:?}");
    assert!(!root.exists(), "who looks makes nothing");
    DirectoryStore::open(&root).unwrap();
    let store = DirectoryStore::open_existing(&root).unwrap();
    let (key, everything) = ("app/runs/one.json".parse().unwrap(), KeyPrefix::everything());
    assert!(matches!(store.get(&key, 10).await, Err(StoreError::NotFound { .. })));
    assert!(store.folders_from(&everything, None, 10).await.unwrap().names.is_empty());
    std::fs::remove_dir_all(&root).unwrap();
    let gone = |error: &StoreError| matches!(error, StoreError::NoSuchPlace { .. });
    assert!(store.get(&key, 10).await.is_err_and(|error| gone(&error)));
    assert!(store.head(&key).await.is_err_and(|error| gone(&error)));
    assert!(store.folders_from(&everything, None, 10).await.is_err_and(|error| gone(&error)));
    let listed: Result<Vec<_>, _> = store.list(&everything, None).try_collect().await;
    assert!(listed.is_err_and(|error| gone(&error)));
}
