//! What single stores and wrappers do beyond what every store must.

use std::ops::Range;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use pgproof_repository::ids::{KeyPrefix, ObjectKey};
use pgproof_repository::store::altered::{Alteration, AlteredStore};
use pgproof_repository::store::conditions::Conditions;
use pgproof_repository::store::counting::CountingStore;
use pgproof_repository::store::directory::DirectoryStore;
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use pgproof_repository::store::frugal::FrugalStore;
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::operation::Operation;
use pgproof_repository::store::part_plan::PartLimits;
use pgproof_repository::store::retry::{GaveUp, RetryPolicy, RetryStore};
use pgproof_repository::store::{
    FolderPage, Lock, ObjectMeta, OutOfRange, PendingUpload, PutCondition, SharedStore, Store, StoreError,
    Upload, Version,
};

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
    // What lies behind a link is not known, which is another answer than that nothing does.
    let way = "way/".parse::<KeyPrefix>().unwrap();
    assert!(store.list(&way, None).try_collect::<Vec<_>>().await.is_err());
    assert!(store.list_folders(&way).await.is_err());
    assert!(store.start_upload(&key("way/data")).await.is_err());
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
async fn what_a_killed_process_left_of_a_put_goes_after_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let left = |name: &str, age: Duration| {
        let path = folder.path().join(".tmp").join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
        path
    };
    let hour = Duration::from_secs(3600);
    let (old, young) = (left("put-a", hour * 25), left("put-b", hour * 23));
    store.start_upload(&key("app/data")).await.unwrap();
    assert_eq!((old.exists(), young.exists()), (false, true));
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

#[tokio::test(start_paused = true)]
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

/// Bytes may be damaged on their way; what comes so twice lies there so.
#[tokio::test]
async fn damaged_bytes_are_asked_for_once_more() {
    for (times, is_whole) in [(1, true), (2, false)] {
        let memory = MemoryStore::new();
        put(&memory, "a", b"body").await;
        let rule = Rule::on(Operation::Get, Fault::Damage).times(times);
        let faulty = FaultyStore::scripted(Arc::new(memory), vec![rule]);
        let store = RetryStore::with_policy(Arc::new(faulty.clone()), quick(Duration::from_secs(60)));
        let got = store.get(&key("a"), 10).await;
        assert_eq!((got.is_ok(), faulty.calls()), (is_whole, 2), "{got:?}");
        assert!(is_whole || matches!(got, Err(StoreError::Damaged { .. })));
    }
}

/// What was tried once says nothing of tries.
#[tokio::test]
async fn who_has_no_patience_gives_nothing_up() {
    let faulty = FaultyStore::scripted(Arc::new(MemoryStore::new()), vec![Rule::always(Fault::FailBefore)]);
    let store = RetryStore::with_policy(Arc::new(faulty.clone()), quick(Duration::ZERO));
    let error = store.head(&key("a")).await.unwrap_err();
    let StoreError::Unreachable { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.downcast_ref::<GaveUp>().is_none() && faulty.calls() == 1);
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

/// Each piece that comes ends a row of failures: outages of half a minute to a minute do not add up.
#[tokio::test(start_paused = true)]
async fn failures_of_a_stream_are_counted_in_a_row() {
    let memory = MemoryStore::new();
    put(&memory, "a", &[7; 300_000]).await;
    let outages = [1, 12, 23].map(|call| {
        let cut = Rule::on(Operation::GetStream, Fault::Cut { bytes: 70_000 }).from_call(call);
        [cut, Rule::on(Operation::GetStream, Fault::FailBefore).from_call(call + 1).times(10)]
    });
    let faulty = FaultyStore::scripted(Arc::new(memory), outages.concat());
    let store = RetryStore::new(Arc::new(faulty.clone()));
    let began = tokio::time::Instant::now();
    let pieces = store.get_stream(&key("a"), 0..300_000).await.unwrap();
    let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
    assert_eq!((pieces.concat().len(), faulty.struck()), (300_000, 33));
    let (lasted, patience) = (began.elapsed(), RetryPolicy::default().total);
    assert!(patience < lasted && lasted < patience * 3, "{lasted:?}");
}

/// A put whose answer was lost was made: what lies there is looked up, and an outage in between is waited for.
#[tokio::test]
async fn a_lost_answer_is_looked_up_until_there_is_one() {
    let lost = Rule::on(Operation::Put, Fault::FailAfter);
    let away = Rule::on(Operation::Get, Fault::FailBefore).times(2);
    let faulty = FaultyStore::scripted(Arc::new(MemoryStore::new()), vec![lost, away]);
    let store = RetryStore::with_policy(Arc::new(faulty), quick(Duration::from_secs(60)));
    put(&store, "a", b"mine").await;
    assert_eq!(store.get(&key("a"), 10).await.unwrap().0, "mine");
}

/// What stands between a command and its store tells what the store tells.
#[tokio::test]
async fn wrappers_change_no_answer() {
    let inner: SharedStore = Arc::new(Peculiar::new().await);
    let told = answers(&*inner).await;
    let altered = || AlteredStore::new(inner.clone(), key("another"), Alteration::Cut { bytes: 0 });
    let lenders: [(SharedStore, bool); 4] = [
        (Arc::new(RetryStore::new(inner.clone())), true),
        (Arc::new(CountingStore::new(inner.clone())), true),
        (Arc::new(FrugalStore::new(inner.clone(), 100)), false),
        (Arc::new(altered()), false),
    ];
    for (number, (wrapper, writes)) in lenders.into_iter().enumerate() {
        assert_eq!(answers(&*wrapper).await, told, "{wrapper:?}");
        let locked = key("app/one");
        let until: Timestamp = format!("2027-01-0{}T00:00:00Z", number + 1).parse().unwrap();
        let pending = wrapper.list_uploads(&KeyPrefix::everything()).await.unwrap();
        if writes {
            wrapper.extend_lock(&locked, until).await.unwrap();
            assert_eq!(inner.lock(&locked).await.unwrap(), Some(Lock::Until(until)));
            assert_eq!(wrapper.lock(&locked).await.unwrap(), Some(Lock::Until(until)));
            assert!(wrapper.left_versions());
        } else {
            let looked = wrapper.lock(&locked).await;
            assert!(matches!(looked, Ok(Some(_)) | Err(StoreError::Unsupported { .. })), "{looked:?}");
            assert!(wrapper.extend_lock(&locked, until).await.is_err());
            assert!(wrapper.abort_upload(&pending[0]).await.is_err());
            assert_eq!(inner.list_uploads(&KeyPrefix::everything()).await.unwrap(), pending);
        }
    }
    let plain: SharedStore = Arc::new(MemoryStore::new());
    assert!(!RetryStore::new(plain.clone()).left_versions() && !CountingStore::new(plain).left_versions());
}

/// Everything that can be asked of a store without changing it.
async fn answers(store: &dyn Store) -> Vec<String> {
    let (one, app, all) = (key("app/one"), "app/".parse().unwrap(), KeyPrefix::everything());
    let listed: Vec<_> = store.list(&app, Some(&key("app/another"))).try_collect().await.unwrap();
    let streamed: Vec<_> = store.get_stream(&one, 1..3).await.unwrap().try_collect().await.unwrap();
    vec![
        store.location(),
        format!("{:?}", store.get(&one, 10).await.unwrap()),
        format!("{:?}", store.get(&one, 1).await.unwrap_err()),
        format!("{:?} {streamed:?}", store.get_range(&one, 1..3).await.unwrap()),
        format!("{:?} {listed:?}", store.head(&one).await.unwrap()),
        format!("{:?}", store.list_folders(&all).await.unwrap()),
        format!("{:?}", store.folders_from(&all, Some("a"), 1).await.unwrap()),
        format!("{:?}", store.list_uploads(&all).await.unwrap()),
        format!("{:?} {:?}", store.clock().await.unwrap(), store.part_limits()),
        format!("{:?}", store.conditions()),
    ]
}

/// A store in memory that has a place, a clock, limits and conditions like no other.
#[derive(Debug)]
struct Peculiar(MemoryStore);

impl Peculiar {
    async fn new() -> Self {
        let memory = MemoryStore::new();
        for name in ["app/another", "app/one", "other/two"] {
            put(&memory, name, b"body").await;
        }
        memory.start_upload(&key("app/pending")).await.unwrap();
        Self(memory)
    }
}

#[async_trait]
impl Store for Peculiar {
    fn location(&self) -> String {
        "nowhere:".to_owned()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, only: PutCondition) -> Result<Version, StoreError> {
        self.0.put(key, body, only).await
    }

    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<(Bytes, Version), StoreError> {
        self.0.get(key, bytes_max).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.0.get_range(key, range).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.0.get_stream(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.0.head(key).await
    }

    fn list(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.0.list(prefix, start_after)
    }

    async fn list_folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        self.0.list_folders(prefix).await
    }

    async fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: Option<&str>,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        self.0.folders_from(prefix, from, at_most).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key).await
    }

    async fn lock(&self, key: &ObjectKey) -> Result<Option<Lock>, StoreError> {
        self.0.lock(key).await
    }

    async fn extend_lock(&self, key: &ObjectKey, until: Timestamp) -> Result<(), StoreError> {
        self.0.extend_lock(key, until).await
    }

    fn left_versions(&self) -> bool {
        true
    }

    async fn start_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>, StoreError> {
        self.0.start_upload(key).await
    }

    async fn list_uploads(&self, prefix: &KeyPrefix) -> Result<Vec<PendingUpload>, StoreError> {
        self.0.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &PendingUpload) -> Result<(), StoreError> {
        self.0.abort_upload(upload).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(Some("2001-02-03T04:05:06Z".parse().unwrap()))
    }

    fn part_limits(&self) -> PartLimits {
        PartLimits { parts_max: 7, ..PartLimits::S3 }
    }

    fn conditions(&self) -> Conditions {
        Conditions { put_if_absent: false, ..Conditions::HONOURED }
    }
}

/// A long list costs a request a thousand names, whoever counts.
#[tokio::test]
async fn names_are_counted_by_the_thousand() {
    let memory = MemoryStore::new();
    for number in 0..2_500 {
        put(&memory, &format!("{number:04}/object"), b"").await;
    }
    let (inner, all): (SharedStore, _) = (Arc::new(memory), KeyPrefix::everything());
    let counting = CountingStore::new(inner.clone());
    let listed: Vec<_> = counting.list(&all, None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 2_500);
    assert_eq!(counting.list_folders(&all).await.unwrap().len(), 2_500);
    let counters = counting.counters();
    for operation in [Operation::List, Operation::ListFolders] {
        assert_eq!(counters.of(operation).requests, 3, "{operation}");
    }
    for (allowed, is_enough) in [(3, true), (2, false)] {
        let listed: Result<Vec<_>, _> =
            FrugalStore::new(inner.clone(), allowed).list(&all, None).try_collect().await;
        assert_eq!(listed.is_ok(), is_enough);
        let folders = FrugalStore::new(inner.clone(), allowed).list_folders(&all).await;
        assert_eq!(folders.is_ok(), is_enough);
    }
}

#[tokio::test]
async fn only_the_folder_of_an_upload_is_removed_by_its_abort() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    put(&store, "app/backups/manifest", b"x").await;
    store.start_upload(&key("app/data")).await.unwrap();
    let pending = store.list_uploads(&KeyPrefix::everything()).await.unwrap().remove(0);
    let up = "../".repeat(10) + "..";
    for upload_id in
        ["", ".", "..", "../..", &up, &pending.upload_id[..31], "../../app/../app/../app/backups"]
    {
        let forged = PendingUpload { upload_id: upload_id.to_owned(), ..pending.clone() };
        assert!(store.abort_upload(&forged).await.is_err(), "{upload_id}");
    }
    assert_eq!(store.list_uploads(&KeyPrefix::everything()).await.unwrap(), std::slice::from_ref(&pending));
    assert!(store.head(&key("app/backups/manifest")).await.is_ok());
    // One that is gone counts as aborted.
    for _ in 0..2 {
        store.abort_upload(&pending).await.unwrap();
    }
}

/// Another process may have aborted it: nothing that is put then passes for stored.
#[tokio::test]
async fn nothing_is_put_into_an_upload_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let body = || Bytes::from_static(b"body");
    let upload = store.start_upload(&key("app/data")).await.unwrap();
    let first = upload.put_part(1, body()).await.unwrap();
    let pending = store.list_uploads(&KeyPrefix::everything()).await.unwrap().remove(0);
    store.abort_upload(&pending).await.unwrap();
    let gone = |error: &StoreError| {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        matches!(error, StoreError::Refused { .. }) && cause.is_some_and(|told| told == "the upload is gone")
    };
    // In its order, and beside it.
    for number in [2, 9] {
        assert!(upload.put_part(number, body()).await.is_err_and(|error| gone(&error)), "{number}");
    }
    assert!(upload.complete(vec![first]).await.is_err_and(|error| gone(&error)));
    assert!(store.head(&key("app/data")).await.is_err());
}

/// Parts come in any order, once more after a failure, and then with other bytes too: the last of each number counts.
#[tokio::test]
async fn an_uploads_parts_make_one_object_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    let orders: [&[(u32, &str)]; 6] = [
        &[(1, "one"), (2, "two"), (3, "three")],
        &[(3, "three"), (1, "one"), (2, "two")],
        &[(1, "uno"), (1, "one"), (2, "two"), (3, "THREE"), (3, "three")],
        &[(1, "one"), (2, "longer"), (3, "three"), (2, "two")],
        &[(1, "one"), (2, "2"), (2, "two"), (3, "three")],
        &[(2, "two"), (1, "1"), (1, "one"), (3, "three"), (2, "two")],
    ];
    for (number, order) in orders.into_iter().enumerate() {
        let key = key(&format!("app/data{number}"));
        let upload = store.start_upload(&key).await.unwrap();
        let mut parts = std::collections::BTreeMap::new();
        for (part, body) in order {
            parts.insert(*part, upload.put_part(*part, Bytes::from_static(body.as_bytes())).await.unwrap());
        }
        let made = upload.complete(parts.into_values().collect()).await.unwrap();
        let (body, version) = store.get(&key, 100).await.unwrap();
        assert_eq!((body, version, made.bytes), (Bytes::from_static(b"onetwothree"), made.version, 11));
    }
    assert_eq!(store.list_uploads(&KeyPrefix::everything()).await.unwrap(), []);
}

#[tokio::test]
async fn a_folder_refuses_what_does_not_lie_in_an_object_and_parts_beyond_the_limits() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).unwrap();
    assert_eq!(store.location(), format!("file://{}", folder.path().canonicalize().unwrap().display()));
    put(&store, "a", b"body").await;
    for range in [3..5, 5..5, Range { start: 3, end: 2 }] {
        let error = store.get_range(&key("a"), range.clone()).await.unwrap_err();
        let StoreError::Refused { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.downcast_ref(), Some(&OutOfRange { range: range.clone(), bytes: 4 }));
        assert!(store.get_stream(&key("a"), range).await.is_err());
    }
    let upload = store.start_upload(&key("b")).await.unwrap();
    for number in [0, PartLimits::S3.parts_max + 1] {
        assert!(upload.put_part(number, Bytes::new()).await.is_err(), "{number}");
    }
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
