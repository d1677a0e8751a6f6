//! Acts that leave no object of their own: holding, giving back, restoring, pruning, each a signed record.
//!
//! Backups, drills, custody of keys and removals have records already. Acts are numbered by the key that signed them, and
//! each names the one before by its hash, so that one that was removed from between two others shows. Numbers are
//! taken by creating the object only if absent, so two processes with one key never share one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::stream::TryStreamExt;
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::ids::{BackupId, ObjectKey};
use crate::layout;
use crate::lease::host_name;
use crate::records::{self, RECORD_BYTES_MAX, Record, RecordError};
use crate::signature::{SigningKey, namespace};
use crate::store::{SharedStore, StoreError};

/// Processes of one key that may take a number at the same moment before one gives up.
const NUMBER_TRIES_MAX: u32 = 8;
/// From an act's signature to the act: whoever takes longer counts as dead, and shows in the numbers if it was not.
const WRITING_MAX: Duration = Duration::from_secs(10);
const LOOKED_EVERY: Duration = Duration::from_millis(200);
/// Hexadecimal digits of a [`WriterId`]: 64 bits tell the few keys of a repository apart.
const WRITER_DIGITS: usize = 16;

/// Which key signed: the start of the SHA-256 of its fingerprint, which unlike the fingerprint fits into a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId(String);

impl WriterId {
    /// `fingerprint` as `ssh-keygen -l` prints it.
    pub fn of(fingerprint: &str) -> Self {
        let mut digits = HEXLOWER.encode(&Sha256::digest(fingerprint.as_bytes()));
        digits.truncate(WRITER_DIGITS);
        Self(digits)
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One act as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Act {
    pub version: u32,
    pub source: SourceName,
    /// Counted from 1 by each key that signs.
    pub number: u64,
    /// The act of the same key before this one; absent in the first.
    pub previous: Option<Link>,
    pub at: Timestamp,
    pub host: String,
    /// SHA-256 of the policy file's bytes.
    pub policy_sha256: String,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub number: u64,
    /// SHA-256 of the stored act, in hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum What {
    Hold {
        backup: BackupId,
        reason: String,
    },
    Release {
        backup: BackupId,
    },
    Restore {
        backup: BackupId,
        started_at: Timestamp,
        /// Where to, without a password; absent where the archive was written to standard output.
        target: Option<String>,
        #[serde(flatten)]
        ended: Ended,
    },
    /// What one prune did, whose removals have tombstones, too.
    Prune {
        removed: Vec<BackupId>,
        swept: Vec<BackupId>,
        aborted_uploads: usize,
        failures: Vec<String>,
        /// Backups that were locked for longer; absent in records of versions that did not.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        locked: Vec<BackupId>,
        /// The number of removals that an operator confirmed, where one was asked for.
        confirmed: Option<usize>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Ended {
    Done,
    Failed { error: String },
}

impl Record for Act {
    const NAMESPACE: &'static str = namespace::ACT;
    fn at(&self) -> Timestamp {
        self.at
    }
}

/// Writes acts of one source as one key signs them.
#[derive(Debug)]
pub struct Book<'a> {
    pub store: &'a SharedStore,
    pub source: &'a SourceName,
    pub signing_key: &'a SigningKey,
    pub policy_sha256: &'a str,
}

impl Book<'_> {
    /// Signs and stores an act under this key's next number.
    pub async fn enter(&self, what: What) -> Result<Act, RecordError> {
        let writer = WriterId::of(&self.signing_key.fingerprint());
        let mut tries = 0;
        loop {
            let (number, previous) = self.next(&writer).await?;
            let act = Act {
                version: 1,
                source: self.source.clone(),
                number,
                previous,
                at: Timestamp::now(),
                host: host_name(),
                policy_sha256: self.policy_sha256.to_owned(),
                what: what.clone(),
            };
            let key = layout::act(self.source, &writer, number);
            match records::put(&**self.store, &key, &act, self.signing_key).await {
                Err(RecordError::Store { source: StoreError::AlreadyExists { .. } })
                    if tries < NUMBER_TRIES_MAX =>
                {
                    tries += 1;
                }
                put => return put.map(|()| act),
            }
        }
    }

    /// The number after the highest that was ever begun, and the link to the newest act. A number without an act is that of
    /// a process at work, whose act is waited for, or of one that died, which no link names.
    async fn next(&self, writer: &WriterId) -> Result<(u64, Option<Link>), RecordError> {
        let failed = |source: StoreError| RecordError::Store { source };
        let patience = Instant::now() + WRITING_MAX;
        loop {
            let (begun, newest) = self.begun_and_newest(writer).await.map_err(failed)?;
            let whole = newest.as_ref().map_or(0, |(number, _)| *number);
            if whole < begun && Instant::now() < patience {
                tokio::time::sleep(LOOKED_EVERY).await;
                continue;
            }
            let previous = match newest {
                None => None,
                Some((number, key)) => {
                    let (bytes, _) = self.store.get(&key, RECORD_BYTES_MAX).await.map_err(failed)?;
                    Some(Link { number, sha256: HEXLOWER.encode(&Sha256::digest(&bytes)) })
                }
            };
            return Ok((begun.saturating_add(1), previous));
        }
    }

    /// The highest number of which there is anything, or 0, and the newest act that is there.
    async fn begun_and_newest(
        &self,
        writer: &WriterId,
    ) -> Result<(u64, Option<(u64, ObjectKey)>), StoreError> {
        let listed = self.store.list(&layout::acts_of(self.source, writer), None);
        let found: Vec<ObjectKey> = listed.map_ok(|meta| meta.key).try_collect().await?;
        let begun = found.iter().filter_map(number_of).max().unwrap_or(0);
        let whole = found.into_iter().filter(|key| key.as_str().ends_with(".json"));
        Ok((begun, whole.filter_map(|key| Some((number_of(&key)?, key))).max()))
    }
}

fn number_of(key: &ObjectKey) -> Option<u64> {
    let name = key.as_str().rsplit('/').next()?;
    name.split('.').next()?.parse().ok()
}

/// A place where the acts of one key are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// The act that this one follows is gone.
    Missing { number: u64, previous: u64 },
    /// The act before is there and is not the one that was followed.
    Replaced { number: u64 },
    /// Another act of the key lies between this one and the one that it names.
    Misnumbered { number: u64 },
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { number, previous } => {
                write!(f, "act {previous} is missing, or does not check; act {number} followed it")
            }
            Self::Replaced { number } => {
                write!(f, "act {number} was made after another act than the one here")
            }
            Self::Misnumbered { number } => write!(f, "act {number} does not follow the act before it"),
        }
    }
}

/// Every break among the well signed acts of one key, each with its hash. That the newest are missing does not show.
pub fn breaks(acts: &[(Act, String)]) -> Vec<Break> {
    let by_number: BTreeMap<u64, &str> =
        acts.iter().map(|(act, sha256)| (act.number, sha256.as_str())).collect();
    let broken = |(act, _): &(Act, String)| {
        let number = act.number;
        let before = by_number.range(..number).next_back().map(|(number, _)| *number);
        match &act.previous {
            None if before.is_none() => None,
            None => Some(Break::Misnumbered { number }),
            Some(link) => match by_number.get(&link.number) {
                None => Some(Break::Missing { number, previous: link.number }),
                Some(sha256) if *sha256 != link.sha256 => Some(Break::Replaced { number }),
                Some(_) if before != Some(link.number) => Some(Break::Misnumbered { number }),
                Some(_) => None,
            },
        }
    };
    acts.iter().filter_map(broken).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::signature::{TrustedSigners, generate};
    use crate::store::PutCondition;
    use crate::store::directory::DirectoryStore;
    use crate::store::memory::MemoryStore;

    struct World {
        store: SharedStore,
        key: SigningKey,
        source: SourceName,
    }

    impl World {
        fn new() -> Self {
            let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
            Self { store: Arc::new(MemoryStore::new()), key, source: "app".parse().unwrap() }
        }

        async fn enter(&self) -> Act {
            let (store, source, signing_key) = (&self.store, &self.source, &self.key);
            let book = Book { store, source, signing_key, policy_sha256: "p" };
            book.enter(What::Release { backup: "20261124T020000Z-aaaaaa".parse().unwrap() }).await.unwrap()
        }

        async fn read(&self) -> Vec<(Act, String)> {
            let signers = TrustedSigners::parse(&format!("h {}\n", self.key.public_line())).unwrap();
            let listed = self.store.list(&layout::acts(&self.source), None);
            let keys: Vec<ObjectKey> = listed.map_ok(|meta| meta.key).try_collect().await.unwrap();
            let mut acts = Vec::new();
            for key in keys.iter().filter(|key| key.as_str().ends_with(".json")) {
                let signed = records::fetch::<Act>(&*self.store, key, &signers).await.unwrap();
                acts.push((signed.record, signed.sha256));
            }
            acts
        }

        fn key(&self, number: u64) -> ObjectKey {
            layout::act(&self.source, &WriterId::of(&self.key.fingerprint()), number)
        }
    }

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        const GOLDEN_V1: &str = include_str!("../fixtures/act.v1.json");
        let act: Act = serde_json::from_str(GOLDEN_V1).unwrap();
        assert!(matches!(&act.what, What::Restore { ended: Ended::Failed { .. }, .. }), "{act:?}");
        assert_eq!(serde_json::to_string_pretty(&act).unwrap() + "\n", GOLDEN_V1);
    }

    #[tokio::test]
    async fn acts_are_numbered_and_one_from_between_is_missed() {
        let world = World::new();
        for number in 1..=4 {
            assert_eq!(world.enter().await.number, number);
        }
        let acts = world.read().await;
        assert_eq!(breaks(&acts), []);
        let without = |gone: u64| {
            let left: Vec<_> = acts.iter().filter(|(act, _)| act.number != gone).cloned().collect();
            breaks(&left)
        };
        assert_eq!(without(1), [Break::Missing { number: 2, previous: 1 }]);
        assert_eq!(without(3), [Break::Missing { number: 4, previous: 3 }]);
        assert_eq!(without(4), [], "the newest is followed by nothing");
        let mut other = acts.clone();
        other[1].1 = "another".to_owned();
        assert_eq!(breaks(&other), [Break::Replaced { number: 3 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_died_leaves_a_number_and_no_hole() {
        let world = World::new();
        world.enter().await;
        let half = layout::signature_of(&world.key(2));
        world.store.put(&half, bytes::Bytes::from_static(b"half"), PutCondition::IfAbsent).await.unwrap();
        assert_eq!(world.enter().await.number, 3);
        assert_eq!(breaks(&world.read().await), []);
    }

    #[test]
    fn acts_that_do_not_follow_the_one_before_them_are_told_of() {
        let golden: Act = serde_json::from_str(include_str!("../fixtures/act.v1.json")).unwrap();
        let act = |number, previous: Option<u64>| {
            let previous = previous.map(|number| Link { number, sha256: number.to_string() });
            (Act { number, previous, ..golden.clone() }, number.to_string())
        };
        let past_another = [act(1, None), act(2, Some(1)), act(3, Some(1))];
        assert_eq!(breaks(&past_another), [Break::Misnumbered { number: 3 }]);
        let first_again = [act(1, None), act(2, None)];
        assert_eq!(breaks(&first_again), [Break::Misnumbered { number: 2 }]);
        assert_eq!(breaks(&[act(3, None), act(7, Some(3))]), [], "numbers of writers that died are left out");
        let told = Break::Misnumbered { number: 7 }.to_string();
        assert!(told.contains("act 7"), "{told}");
    }

    #[tokio::test]
    async fn many_at_once_share_no_number() {
        // In files, so that each waits for the others in the middle of what it does.
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(folder.path()).unwrap();
        let world = World { store: Arc::new(store), ..World::new() };
        futures::future::join_all((0..5).map(|_| world.enter())).await;
        let acts = world.read().await;
        assert_eq!((acts.len(), breaks(&acts)), (5, Vec::new()));
    }
}
