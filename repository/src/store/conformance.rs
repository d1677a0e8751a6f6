//! What every store must do, as checks that run against any of them: in this crate's tests, and by `doctor` against the
//! real bucket, where a provider may ignore what it does not know.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;

use super::{Part, PutCondition, Store, StoreError, Version};
use crate::ids::{KeyPrefix, ObjectKey};

/// Writers in the race for one key.
const RACERS: usize = 10;
/// Objects below one prefix in the check of lists.
const LISTED: usize = 25;

/// A promise that a store does not keep.
#[derive(Debug, thiserror::Error)]
#[error("{check}: {why}")]
pub struct Broken {
    pub check: &'static str,
    pub why: String,
    #[source]
    pub source: Option<StoreError>,
}

/// Runs every check against an empty store and leaves it with what they wrote.
///
/// # Panics
/// On the first promise that is broken.
pub async fn run_all(store: &dyn Store) {
    objects_are_put_once(store).await.expect("objects are put once");
    one_of_many_writers_wins(store).await.expect("one of many writers wins");
    versions_guard_replacement(store).await.expect("versions guard replacement");
    bodies_come_back_whole_and_in_ranges(store).await.expect("bodies come back");
    what_is_missing_is_not_found(store).await.expect("what is missing is not found");
    lists_are_complete_and_in_order(store).await.expect("lists are complete");
    folders_are_those_with_objects(store).await.expect("folders are found");
    deleting_is_repeatable(store).await.expect("deleting is repeatable");
    uploads_appear_whole(store).await.expect("uploads appear whole");
    uploads_do_not_overwrite(store).await.expect("uploads do not overwrite");
    aborted_uploads_leave_nothing(store).await.expect("aborted uploads leave nothing");
    pending_uploads_are_found(store).await.expect("pending uploads are found");
    store.clock().await.expect("the clock is told or not");
}

/// `If-None-Match: *` is heeded, and the first object stays.
pub async fn objects_are_put_once(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("put if absent");
    let key = key("once/object");
    let put =
        |body: &'static str| store.put(&key, Bytes::from_static(body.as_bytes()), PutCondition::IfAbsent);
    check.ok(put("first").await)?;
    match put("second").await {
        Err(StoreError::AlreadyExists { .. }) => {}
        other => return check.unexpected("a second put was not refused as existing", other),
    }
    let (body, _) = check.ok(store.get(&key, 100).await)?;
    check.that(body == "first", "the first object was replaced")
}

/// Of writers at the same moment exactly one is told that it wrote, and its bytes are there.
pub async fn one_of_many_writers_wins(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("race of puts");
    let key = key("race/object");
    let bodies: Vec<Bytes> = (0..RACERS).map(|racer| Bytes::from(format!("racer {racer}"))).collect();
    let puts = bodies.iter().map(|body| store.put(&key, body.clone(), PutCondition::IfAbsent));
    let mut winners = Vec::new();
    for (body, outcome) in bodies.iter().zip(join_all(puts).await) {
        match outcome {
            Ok(_) => winners.push(body),
            Err(StoreError::AlreadyExists { .. }) => {}
            Err(e) => return check.unexpected("a losing put failed otherwise", Err::<(), _>(e)),
        }
    }
    check.that(winners.len() == 1, &format!("{} of {RACERS} puts were told that they won", winners.len()))?;
    let (body, _) = check.ok(store.get(&key, 100).await)?;
    check.that(body == winners[0], "the bytes are not the winner's")
}

/// `If-Match` is heeded.
pub async fn versions_guard_replacement(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("put if unchanged");
    let key = key("versions/lease");
    let put = |body: &'static str, condition| store.put(&key, Bytes::from_static(body.as_bytes()), condition);
    let first = check.ok(put("one", PutCondition::IfAbsent).await)?;
    let (_, read) = check.ok(store.get(&key, 100).await)?;
    check.that(read == first, "get tells another version than put")?;
    let second = check.ok(put("two", PutCondition::IfVersion(first.clone())).await)?;
    check.that(second != first, "the version did not change with the content")?;
    match put("three", PutCondition::IfVersion(first)).await {
        Err(StoreError::VersionChanged { .. }) => {}
        other => return check.unexpected("an outdated version was not refused", other),
    }
    let (body, version) = check.ok(store.get(&key, 100).await)?;
    check.that(body == "two" && version == second, "the object is not the one of the second put")?;
    let meta = check.ok(store.head(&key).await)?;
    check.that(meta.version == second, "head tells another version than put")
}

/// Whole bodies, ranges, streams, and the refusal of what does not fit.
pub async fn bodies_come_back_whole_and_in_ranges(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("get");
    let (key, empty) = (key("bodies/object"), key("bodies/empty"));
    let body = pattern(300_000);
    check.ok(store.put(&key, body.clone(), PutCondition::IfAbsent).await)?;
    check.ok(store.put(&empty, Bytes::new(), PutCondition::IfAbsent).await)?;

    check.that(check.ok(store.get(&key, 300_000).await)?.0 == body, "a whole body differs")?;
    check.that(check.ok(store.get(&empty, 0).await)?.0.is_empty(), "an empty body is not empty")?;
    match store.get(&key, 299_999).await {
        Err(StoreError::TooLarge { bytes: 300_000, bytes_max: 299_999, .. }) => {}
        other => return check.unexpected("a body that is too large was not refused", other),
    }
    for range in [0..1, 0..300_000, 299_999..300_000, 1_000..250_000, 7..7] {
        let wanted = body.slice(range.start as usize..range.end as usize);
        let got = check.ok(store.get_range(&key, range.clone()).await)?;
        check.that(got == wanted, &format!("range {range:?} differs"))?;
        let pieces = check.ok(store.get_stream(&key, range.clone()).await)?;
        let pieces: Vec<Bytes> = check.ok(pieces.try_collect().await)?;
        check.that(pieces.concat() == wanted, &format!("the stream of {range:?} differs"))?;
    }
    for range in [0..300_001, 300_000..300_001, 400_000..400_010] {
        match store.get_range(&key, range).await {
            Err(StoreError::Refused { .. }) => {}
            other => return check.unexpected("a range beyond the end was not refused", other),
        }
    }
    let meta = check.ok(store.head(&key).await)?;
    check.that(meta.bytes == 300_000 && meta.key == key, "head tells another size or key")?;
    check.that(check.ok(store.head(&empty).await)?.bytes == 0, "head of an empty object tells bytes")
}

/// Absence has its own outcome in every reading call.
pub async fn what_is_missing_is_not_found(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("missing object");
    let key = key("missing/object");
    let replace = PutCondition::IfVersion(Version("\"0123456789abcdef0123456789abcdef\"".to_owned()));
    let outcomes = [
        store.get(&key, 100).await.map(drop),
        store.get_range(&key, 0..1).await.map(drop),
        store.get_stream(&key, 0..1).await.map(drop),
        store.head(&key).await.map(drop),
    ];
    for outcome in outcomes {
        match outcome {
            Err(StoreError::NotFound { .. }) => {}
            other => return check.unexpected("not reported as missing", other),
        }
    }
    match store.put(&key, Bytes::from_static(b"x"), replace).await {
        Err(StoreError::NotFound { .. } | StoreError::VersionChanged { .. }) => Ok(()),
        other => check.unexpected("a put on the version of a missing object was not refused", other),
    }
}

/// Key order, prefixes and continuation.
pub async fn lists_are_complete_and_in_order(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("list");
    // `-`, `.` and `/` sort in this order; a walk over folders easily gets it wrong.
    let odd = ["a-b", "a.b", "a/b", "a/b.c", "a0", "b/c+d=e", "b/c%20d", "b/c~d"];
    let mut keys: Vec<ObjectKey> = odd.iter().map(|name| key(&format!("list/{name}"))).collect();
    keys.extend((0..LISTED).map(|n| key(&format!("list/n/{n:03}"))));
    for key in keys.iter().rev() {
        check.ok(store.put(key, Bytes::from_static(b"12345"), PutCondition::IfAbsent).await)?;
    }
    keys.sort();
    let listed = |prefix: &str, after: Option<ObjectKey>| {
        let found = store.list(&prefix.parse().expect("a prefix of this file"), after.as_ref());
        async move { check.ok(found.map_ok(|meta| (meta.key, meta.bytes)).try_collect::<Vec<_>>().await) }
    };
    let all = listed("list/", None).await?;
    let names: Vec<&ObjectKey> = all.iter().map(|(key, _)| key).collect();
    check.that(names.iter().copied().eq(&keys), &format!("listed {names:?} and not {keys:?}"))?;
    check.that(all.iter().all(|(_, bytes)| *bytes == 5), "a size is wrong")?;
    for after in [0, 2, 4, keys.len() - 1] {
        let rest = listed("list/", Some(keys[after].clone())).await?;
        check
            .that(rest.iter().map(|(key, _)| key).eq(&keys[after + 1..]), "the rest after a key is wrong")?;
    }
    check.that(listed("list/n/", None).await?.len() == LISTED, "a deeper prefix has another count")?;
    check.that(listed("list/none/", None).await?.is_empty(), "a prefix without objects lists some")
}

/// Names between a prefix and the next slash.
pub async fn folders_are_those_with_objects(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("list folders");
    for name in ["folders/b/c/d", "folders/a/x", "folders/a/y", "folders/a.b/x", "folders/file"] {
        check.ok(store.put(&key(name), Bytes::from_static(b"x"), PutCondition::IfAbsent).await)?;
    }
    let below = async |prefix: &str| check.ok(store.list_folders(&self::prefix(prefix)).await);
    check.that(below("folders/").await? == ["a", "a.b", "b"], "the names are wrong")?;
    check.that(below("folders/b/").await? == ["c"], "the names one level down are wrong")?;
    check.that(below("folders/a/").await?.is_empty(), "objects are taken for folders")?;
    let from = async |from: Option<&'static str>, at_most| {
        let page = check.ok(store.folders_from(&prefix("folders/"), from, at_most).await)?;
        Ok::<_, Broken>((page.names, page.more))
    };
    // `.` sorts before the slash that ends a folder's name.
    check.that(from(None, 2).await? == (owned(["a.b", "a"]), true), "the first names are wrong")?;
    check.that(from(None, 9).await? == (owned(["a.b", "a", "b"]), false), "an end is not seen as one")?;
    check.that(from(Some("a.c"), 9).await? == (owned(["a", "b"]), false), "a beginning is not heeded")?;
    check.that(from(Some("a0"), 9).await? == (owned(["b"]), false), "what is past a folder is wrong")?;
    check.that(from(Some("c"), 9).await? == (Vec::new(), false), "something follows the last name")?;
    let top = check.ok(store.list_folders(&KeyPrefix::everything()).await)?;
    check.that(top.contains(&"folders".to_owned()), "the top level misses a folder")?;
    check.that(!top.iter().any(|name| name.starts_with('.')), "a hidden folder is shown")
}

/// Gone is gone, once or twice.
pub async fn deleting_is_repeatable(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("delete");
    let key = key("deleted/folder/object");
    check.ok(store.put(&key, Bytes::from_static(b"x"), PutCondition::IfAbsent).await)?;
    check.ok(store.delete(&key).await)?;
    check.ok(store.delete(&key).await)?;
    match store.head(&key).await {
        Err(StoreError::NotFound { .. }) => {}
        other => return check.unexpected("a deleted object is still there", other),
    }
    let left = check.ok(store.list_folders(&prefix("deleted/")).await)?;
    check.that(left.is_empty(), "a folder without objects is shown")?;
    check.ok(store.put(&key, Bytes::from_static(b"y"), PutCondition::IfAbsent).await).map(drop)
}

/// Parts in any order make one object, and nothing is visible before.
pub async fn uploads_appear_whole(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("upload");
    let key = key("uploads/whole");
    let size = usize::try_from(store.part_limits().part_bytes_min).unwrap_or(usize::MAX).max(1_000);
    let bodies = [pattern(size), pattern(size + 77), pattern(123)];
    let upload = check.ok(store.start_upload(&key).await)?;
    // The second at the same time as the third, then the first, then the second once more as after a lost answer.
    let (second, third) =
        tokio::join!(upload.put_part(2, bodies[1].clone()), upload.put_part(3, bodies[2].clone()));
    check.ok(second)?;
    let first = check.ok(upload.put_part(1, bodies[0].clone()).await)?;
    let second = check.ok(upload.put_part(2, bodies[1].clone()).await)?;
    match store.head(&key).await {
        Err(StoreError::NotFound { .. }) => {}
        other => return check.unexpected("an upload is visible before its completion", other),
    }
    let meta = check.ok(upload.complete(vec![first, second, check.ok(third)?]).await)?;
    let whole = Bytes::from(bodies.concat());
    check
        .that(meta.bytes == whole.len() as u64 && meta.key == key, "completion tells another size or key")?;
    let (body, version) = check.ok(store.get(&key, meta.bytes).await)?;
    check.that(body == whole, "the object is not its parts in order")?;
    check.that(version == meta.version, "completion tells another version than get")
}

/// A completion where an object lies is refused and changes nothing.
pub async fn uploads_do_not_overwrite(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("upload if absent");
    let key = key("uploads/taken");
    let upload = check.ok(store.start_upload(&key).await)?;
    let part = check.ok(upload.put_part(1, pattern(2_000)).await)?;
    check.ok(store.put(&key, Bytes::from_static(b"was first"), PutCondition::IfAbsent).await)?;
    match upload.clone().complete(vec![part]).await {
        Err(StoreError::AlreadyExists { .. }) => {}
        other => return check.unexpected("a completion over an object was not refused", other),
    }
    check.ok(upload.abort().await)?;
    let (body, _) = check.ok(store.get(&key, 100).await)?;
    check.that(body == "was first", "the object was replaced")
}

/// An aborted upload cannot be completed, and aborting is repeatable.
pub async fn aborted_uploads_leave_nothing(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("abort");
    let key = key("uploads/aborted");
    let upload = check.ok(store.start_upload(&key).await)?;
    let part: Part = check.ok(upload.put_part(1, pattern(2_000)).await)?;
    check.ok(upload.clone().abort().await)?;
    check.ok(upload.clone().abort().await)?;
    if upload.complete(vec![part]).await.is_ok() {
        return check.that(false, "an aborted upload could be completed");
    }
    match store.head(&key).await {
        Err(StoreError::NotFound { .. }) => Ok(()),
        other => check.unexpected("an aborted upload is visible", other),
    }
}

/// What a killed agent left behind is listed and can be aborted, where the store can say at all.
pub async fn pending_uploads_are_found(store: &dyn Store) -> Result<(), Broken> {
    let check = Check("list uploads");
    let key = key("pending/object");
    let upload = check.ok(store.start_upload(&key).await)?;
    check.ok(upload.put_part(1, pattern(2_000)).await)?;
    let of_key = match store.list_uploads(&prefix("pending/")).await {
        Err(StoreError::Unsupported { .. }) => return check.ok(upload.abort().await),
        other => check.ok(other)?,
    };
    check.that(of_key.len() == 1 && of_key[0].key == key, "the upload is not found")?;
    check.ok(store.abort_upload(&of_key[0]).await)?;
    check.ok(store.abort_upload(&of_key[0]).await)?;
    let left = check.ok(store.list_uploads(&prefix("pending/")).await)?;
    check.that(left.is_empty(), "an aborted upload is still found")
}

#[derive(Debug, Clone, Copy)]
struct Check(&'static str);

impl Check {
    fn ok<T>(self, outcome: Result<T, StoreError>) -> Result<T, Broken> {
        outcome.map_err(|e| Broken { check: self.0, why: "a call failed".to_owned(), source: Some(e) })
    }

    fn that(self, holds: bool, why: &str) -> Result<(), Broken> {
        if holds { Ok(()) } else { Err(Broken { check: self.0, why: why.to_owned(), source: None }) }
    }

    fn unexpected<T, U>(self, why: &str, outcome: Result<T, StoreError>) -> Result<U, Broken> {
        Err(Broken { check: self.0, why: why.to_owned(), source: outcome.err() })
    }
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a key of this file")
}

fn prefix(text: &str) -> KeyPrefix {
    text.parse().expect("a prefix of this file")
}

/// Bytes in which a shifted or swapped piece shows.
fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i % 251) as u8 ^ (i >> 8) as u8).collect()
}

fn owned<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::store::counting::CountingStore;
    use crate::store::directory::DirectoryStore;
    use crate::store::faulty::FaultyStore;
    use crate::store::memory::MemoryStore;
    use crate::store::retry::{RetryPolicy, RetryStore};

    #[tokio::test]
    async fn the_memory_store_conforms() {
        run_all(&MemoryStore::new()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_directory_store_conforms() {
        let folder = tempfile::tempdir().unwrap();
        run_all(&DirectoryStore::open(folder.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn the_wrappers_conform() {
        run_all(&CountingStore::new(Arc::new(MemoryStore::new()))).await;
        run_all(&FaultyStore::scripted(Arc::new(MemoryStore::new()), Vec::new())).await;
        run_all(&RetryStore::new(Arc::new(MemoryStore::new()))).await;
    }

    /// Retrying hides failures before and after the effect, in every operation, over many seeds.
    #[tokio::test]
    async fn retrying_over_a_store_that_fails_at_random_conforms() {
        for seed in 0..20 {
            let faulty = FaultyStore::random(Arc::new(MemoryStore::new()), seed, 300);
            let wait = Duration::from_millis(1);
            let policy = RetryPolicy { first_wait: wait, longest_wait: wait, ..RetryPolicy::default() };
            run_all_but_pending(&RetryStore::with_policy(Arc::new(faulty.clone()), policy)).await;
            assert!(faulty.struck() > 20);
        }
    }

    /// A start that was answered into the void leaves a pending upload, so that check would count one too many.
    async fn run_all_but_pending(store: &dyn Store) {
        objects_are_put_once(store).await.unwrap();
        one_of_many_writers_wins(store).await.unwrap();
        bodies_come_back_whole_and_in_ranges(store).await.unwrap();
        what_is_missing_is_not_found(store).await.unwrap();
        lists_are_complete_and_in_order(store).await.unwrap();
        folders_are_those_with_objects(store).await.unwrap();
        deleting_is_repeatable(store).await.unwrap();
        uploads_appear_whole(store).await.unwrap();
        aborted_uploads_leave_nothing(store).await.unwrap();
    }
}
