//! What is tried with objects below `doctor/`.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use super::{Flaw, Found, Probe, Replacing, Subject};
use crate::ids::{KeyPrefix, ObjectKey};
use crate::layout;
use crate::store::s3::S3Store;
use crate::store::{PutCondition, Store, StoreError, Version};

/// The name of the first object.
const OBJECT: &str = "object";
/// Of an object that is put whole: more than one packet, less than a wait.
const OBJECT_BYTES: usize = 100_000;
/// By how much the second part of an upload is larger than the first: parts grow with their number.
const PART_GROWTH: usize = 64 << 10;
const LAST_PART_BYTES: usize = 1_234;
/// `-`, `.` and `/` sort in this order, in which a server easily goes wrong; put backwards.
const LISTED: [&str; 6] = ["list/b", "list/a0", "list/a/b", "list/a/a", "list/a.b", "list/a-b"];

impl Subject {
    /// Everything that needs an object of our own, as far as one can be put.
    pub(super) async fn try_all(&self, found: &mut Found) {
        self.try_conditions(found).await;
        let Probe::Found(_) = found.put else { return };
        found.complete_if_absent = self.complete_if_absent(&self.traces.key(OBJECT)).await;
        found.upload = self.upload(&self.traces.key("upload")).await.into();
        (found.abort, found.highest_part) = self.abort(&self.traces.key("aborted")).await;
        found.list = self.list().await.into();
    }

    pub(super) async fn try_conditions(&self, found: &mut Found) {
        found.put = self.put(&self.traces.key(OBJECT)).await;
        let Probe::Found(_) = found.put else { return };
        found.put_if_absent = self.put_if_absent(&self.traces.key(OBJECT)).await;
        found.replace = self.replace(&self.traces.key("replaced")).await;
    }

    /// Puts an object, and reads it whole and in part.
    async fn put(&self, key: &ObjectKey) -> Probe<Flaw> {
        let body = pattern(OBJECT_BYTES);
        match self.store.put(key, body.clone(), PutCondition::IfAbsent).await {
            Ok(_) => self.read(key, &body).await.into(),
            Err(error) => Err(error).into(),
        }
    }

    async fn read(&self, key: &ObjectKey, body: &Bytes) -> Result<Flaw, StoreError> {
        let (whole, _) = self.store.get(key, body.len() as u64).await?;
        if whole != *body {
            return Ok(Some("what is read is not what was put".to_owned()));
        }
        let part = self.store.get_range(key, 1_000..50_000).await?;
        if part != body.slice(1_000..50_000) {
            return Ok(Some("a range that is read is not the one that was asked for".to_owned()));
        }
        let told = self.store.head(key).await?.bytes;
        Ok((told != body.len() as u64).then(|| format!("it tells {told} bytes and not {}", body.len())))
    }

    /// `true` where an object that is there stays.
    async fn put_if_absent(&self, key: &ObjectKey) -> Probe<bool> {
        match self.heeding.put(key, Bytes::from_static(b"another"), PutCondition::IfAbsent).await {
            Ok(_) => Probe::Found(false),
            Err(StoreError::AlreadyExists { .. }) => Probe::Found(true),
            Err(error) => Err(error).into(),
        }
    }

    async fn replace(&self, key: &ObjectKey) -> Probe<Replacing> {
        let first = match self.store.put(key, Bytes::from_static(b"one"), PutCondition::IfAbsent).await {
            Ok(version) => version,
            Err(error) => return Err(error).into(),
        };
        let put = |body: &'static [u8], version: &Version| {
            self.heeding.put(key, Bytes::from_static(body), PutCondition::IfVersion(version.clone()))
        };
        match put(b"two", &first).await {
            Ok(_) => {}
            Err(StoreError::VersionChanged { .. }) => return self.replace_quoted_otherwise(key, first).await,
            Err(error) => return Err(error).into(),
        }
        match put(b"three", &first).await {
            Ok(_) => Probe::Found(Replacing::Ignored),
            Err(StoreError::VersionChanged { .. }) => Probe::Found(Replacing::Honoured),
            Err(error) => Err(error).into(),
        }
    }

    async fn replace_quoted_otherwise(&self, key: &ObjectKey, version: Version) -> Probe<Replacing> {
        let Some(bucket) = &self.bucket else { return Probe::Found(Replacing::NeverMatches) };
        let condition = PutCondition::IfVersion(version);
        match bucket.quoted_otherwise.put(key, Bytes::from_static(b"two"), condition).await {
            Ok(_) => Probe::Found(Replacing::MatchesQuotedOtherwise),
            Err(_) => Probe::Found(Replacing::NeverMatches),
        }
    }

    /// `true` where an object that is there stays.
    async fn complete_if_absent(&self, key: &ObjectKey) -> Probe<bool> {
        let completed = async {
            let upload = self.traces.start_upload(&self.heeding, key).await?;
            let part = upload.put_part(1, pattern(LAST_PART_BYTES)).await?;
            Arc::clone(&upload).complete(vec![part]).await.map(|_| upload)
        };
        match completed.await {
            Ok(upload) => {
                self.traces.completed(&upload);
                Probe::Found(false)
            }
            Err(StoreError::AlreadyExists { .. }) => Probe::Found(true),
            Err(error) => Err(error).into(),
        }
    }

    /// Parts as backups have them: each larger than the one before, unless this store wants them of one size.
    async fn upload(&self, key: &ObjectKey) -> Result<Flaw, StoreError> {
        let limits = self.store.part_limits();
        let first = usize::try_from(limits.part_bytes_min).unwrap_or(usize::MAX).max(PART_GROWTH);
        let second = if limits.equal_parts { first } else { first + PART_GROWTH };
        let bodies = [pattern(first), pattern(second), pattern(LAST_PART_BYTES)];
        let upload = self.traces.start_upload(&self.store, key).await?;
        let mut parts = Vec::new();
        for (number, body) in (1..).zip(&bodies) {
            parts.push(upload.put_part(number, body.clone()).await?);
        }
        match self.store.head(key).await {
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(Some("it is to be seen before it is complete".to_owned())),
        }
        Arc::clone(&upload).complete(parts).await?;
        self.traces.completed(&upload);
        // Across the seam of two parts, and the end.
        for range in [first - 500..first + 500, first + second - 500..first + second + LAST_PART_BYTES] {
            let wanted = Bytes::from(bodies.concat()).slice(range.clone());
            if self.store.get_range(key, range.start as u64..range.end as u64).await? != wanted {
                return Ok(Some("what is read is not what the parts were".to_owned()));
            }
        }
        Ok(None)
    }

    /// Gives an upload up that has a part of the highest number.
    async fn abort(&self, key: &ObjectKey) -> (Probe<Flaw>, Probe<bool>) {
        let highest = self.store.part_limits().parts_max;
        let upload = match self.traces.start_upload(&self.store, key).await {
            Ok(upload) => upload,
            Err(error) => return (Err(error).into(), Probe::NotTried("no upload could be begun")),
        };
        let highest_part = match upload.put_part(highest, pattern(LAST_PART_BYTES)).await {
            Ok(_) => Probe::Found(true),
            Err(StoreError::Refused { .. }) => Probe::Found(false),
            Err(error) => Err(error).into(),
        };
        let gone = async {
            upload.abort().await?;
            match self.store.list_uploads(&layout::doctor_run(self.traces.run())).await {
                Ok(left) if left.iter().any(|upload| upload.key == *key) => {
                    Ok(Some("an upload that was given up is still listed".to_owned()))
                }
                Ok(_) | Err(StoreError::Unsupported { .. } | StoreError::Denied { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        (gone.await.into(), highest_part)
    }

    async fn list(&self) -> Result<Flaw, StoreError> {
        let mut keys: Vec<ObjectKey> = LISTED.iter().map(|name| self.traces.key(name)).collect();
        for key in &keys {
            self.store.put(key, Bytes::from_static(b"12345"), PutCondition::IfAbsent).await?;
        }
        keys.sort();
        if let Some(flaw) = differs(&self.listed(None).await?, &keys) {
            return Ok(Some(flaw));
        }
        let rest = self.listed(Some(&keys[2])).await?;
        Ok(differs(&rest, &keys[3..]).map(|flaw| format!("from one key on, {flaw}")))
    }

    async fn listed(&self, start_after: Option<&ObjectKey>) -> Result<Vec<ObjectKey>, StoreError> {
        let listed = self.store.list(&self.list_folder(), start_after);
        listed.map_ok(|meta| meta.key).try_collect().await
    }

    pub(super) async fn pages(&self, bucket: &S3Store) -> Probe<Flaw> {
        let mut keys: Vec<ObjectKey> = LISTED.iter().map(|name| self.traces.key(name)).collect();
        keys.sort();
        let listed = bucket.list_in_small_pages(&self.list_folder()).await;
        listed.map(|listed| differs(&listed, &keys).map(|flaw| format!("in pages of two, {flaw}"))).into()
    }

    fn list_folder(&self) -> KeyPrefix {
        let folder = layout::doctor_run(self.traces.run()).to_string() + "list/";
        folder.parse().expect("made of checked names")
    }

    /// `true` where a body with the wrong checksum is refused.
    pub(super) async fn checksum(&self, bucket: &S3Store) -> Probe<bool> {
        match bucket.put_with_wrong_checksum(&self.traces.key("checksum")).await {
            Ok(()) => Probe::Found(false),
            Err(StoreError::Refused { .. }) => Probe::Found(true),
            Err(error) => Err(error).into(),
        }
    }
}

fn differs(listed: &[ObjectKey], wanted: &[ObjectKey]) -> Flaw {
    if listed == wanted {
        return None;
    }
    let mut sorted = listed.to_vec();
    sorted.sort();
    Some(match sorted == wanted {
        true => "the keys come in another order".to_owned(),
        false => format!("{} keys are listed and not the {} that are there", listed.len(), wanted.len()),
    })
}

/// Bytes in which a shifted or swapped piece shows.
fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i % 251) as u8 ^ (i >> 8) as u8).collect()
}
