//! Key custody: proof that the private half of each recipient still exists and still opens what is sealed to it.
//!
//! Backups that nobody can open are inert, and whether a key in a safe still works shows only when it is used. A key is
//! *shown* when it opens a canary sealed to its recipient alone: on this host, or by a [`Challenge`] that its custodian
//! answers elsewhere with stock `age`, so that an offline key need not travel. What was shown is a signed record.

use std::collections::BTreeMap;
use std::io::Write;

use data_encoding::HEXLOWER;
use futures::stream::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{BackupId, KeyPrefix, ObjectKey, RepositoryId};
use crate::keys::{Identities, KeyError, Recipients};
use crate::layout;
use crate::records::{self, Record, RecordError};
use crate::sealed::{UnsealError, seal_bytes, unseal_bytes};
use crate::signature::{TrustedSigners, namespace};
use crate::store::{SharedStore, StoreError};

/// Bytes of a canary's secret: as hard to guess as a key.
const SECRET_BYTES: usize = 32;
const CANARY_BYTES_MAX: u64 = 1 << 10;
/// How long a challenge may lie with its custodian before its answer is worth nothing.
pub const CHALLENGE_LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The recipients of a policy, and which of them were shown to open what is sealed to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Custody {
    pub version: u32,
    pub source: SourceName,
    pub repository: RepositoryId,
    pub at: Timestamp,
    pub host: String,
    /// The backup that keys on this host had to open, too.
    pub backup: Option<BackupId>,
    pub recipients: Vec<Shown>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The public key.
    pub key: String,
    /// How it was shown this time; absent where it was not.
    pub how: Option<String>,
    /// When it was last shown: this time, or as an earlier record says.
    pub shown_at: Option<Timestamp>,
    /// Why it was tried and did not open.
    pub problem: Option<String>,
}

/// Canaries that were handed out, by the hashes of their secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Challenge {
    pub version: u32,
    pub source: SourceName,
    pub at: Timestamp,
    pub expires_at: Timestamp,
    pub host: String,
    /// SHA-256 of each recipient's secret, in hexadecimal.
    pub canaries: BTreeMap<String, String>,
}

impl Record for Custody {
    const NAMESPACE: &'static str = namespace::CUSTODY;
    fn at(&self) -> Timestamp {
        self.at
    }
}

impl Record for Challenge {
    const NAMESPACE: &'static str = namespace::CHALLENGE;
    fn at(&self) -> Timestamp {
        self.at
    }
}

/// A secret sealed to one recipient, as an age file that holds a line of text.
#[derive(Debug)]
pub struct Canary {
    pub recipient: String,
    pub sealed: Vec<u8>,
    pub secret_sha256: String,
}

impl Canary {
    pub fn of(recipient: &str, random: &mut impl Rng) -> Result<Self, KeyError> {
        let mut secret = [0; SECRET_BYTES];
        random.fill(&mut secret);
        let secret = HEXLOWER.encode(&secret);
        let mut writer = Recipients::parse([recipient])?.encrypt_writer(Vec::new())?;
        let finished = writeln!(writer, "{secret}").and_then(|()| writer.finish());
        let sealed = finished.map_err(|source| KeyError::Encrypt { source: source.into() })?;
        Ok(Self { recipient: recipient.to_owned(), sealed, secret_sha256: sha256(secret.as_bytes()) })
    }
}

impl Challenge {
    /// The recipient whose canary this text came out of, if the challenge has not run out.
    pub fn answered_by(&self, text: &str, now: Timestamp) -> Option<&str> {
        let answer = sha256(text.trim().as_bytes());
        let found = self.canaries.iter().find(|(_, secret)| **secret == answer)?;
        (now <= self.expires_at).then_some(found.0.as_str())
    }
}

/// Whether one of the identities opens what is sealed to this recipient alone.
pub fn opens(recipient: &str, identities: &Identities, random: &mut impl Rng) -> Result<bool, UnsealError> {
    let mut secret = [0; SECRET_BYTES];
    random.fill(&mut secret);
    let key = |source| UnsealError::Key { source };
    let sealed = seal_bytes(&Recipients::parse([recipient]).map_err(key)?, 1, &secret)
        .map_err(|source| UnsealError::Damaged { source: std::io::Error::other(source) })?;
    match unseal_bytes(identities, &sealed.bytes, CANARY_BYTES_MAX, None) {
        Ok(plain) => Ok(plain == secret),
        Err(UnsealError::Key { source: KeyError::NoMatchingIdentity }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// When each recipient was last shown, by the well signed records of a source.
pub async fn last_shown(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<BTreeMap<String, Timestamp>, RecordError> {
    let mut last: BTreeMap<String, Timestamp> = BTreeMap::new();
    for record in records_below::<Custody>(store, &layout::custodies(source), signers).await? {
        let shown = record.recipients.iter().filter(|shown| shown.how.is_some());
        for shown in shown.filter(|_| record.source == *source) {
            let latest = last.entry(shown.key.clone()).or_insert(record.at);
            *latest = record.at.max(*latest);
        }
    }
    Ok(last)
}

/// The well signed challenges of a source.
pub async fn challenges(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Vec<Challenge>, RecordError> {
    let mut found = records_below::<Challenge>(store, &layout::challenges(source), signers).await?;
    found.retain(|challenge| challenge.source == *source);
    Ok(found)
}

/// What is not well signed counts for nothing, and hides nothing: an absent record proves no key.
async fn records_below<R: Record>(
    store: &SharedStore,
    prefix: &KeyPrefix,
    signers: &TrustedSigners,
) -> Result<Vec<R>, RecordError> {
    let failed = |source: StoreError| RecordError::Store { source };
    let objects: Vec<_> = store.list(prefix, None).try_collect().await.map_err(failed)?;
    let keys: Vec<ObjectKey> = objects.into_iter().map(|meta| meta.key).collect();
    let mut found = Vec::new();
    for key in keys.iter().filter(|key| key.as_str().ends_with(".json")) {
        match records::get::<R>(&**store, key, signers).await {
            Ok((record, _)) => found.push(record),
            Err(error) if error.is_of_the_store() => return Err(error),
            Err(error) => tracing::warn!(%key, %error, "a record of key custody counts for nothing"),
        }
    }
    Ok(found)
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::keys::{NoPrompts, generate_identity};
    use crate::signature::{SigningKey, generate};
    use crate::store::faulty::{Fault, FaultyStore, Rule};
    use crate::store::memory::MemoryStore;
    use crate::store::operation::Operation;

    fn pair() -> (Identities, String) {
        let (identity, recipient) = generate_identity();
        (Identities::parse(&identity, Path::new("a test"), Arc::new(NoPrompts)).unwrap(), recipient)
    }

    #[test]
    fn a_recipient_is_shown_by_its_own_identity_alone() {
        let (identities, recipient) = pair();
        let (others, other) = pair();
        let random = &mut rand::rng();
        assert!(opens(&recipient, &identities, random).unwrap());
        assert!(!opens(&recipient, &others, random).unwrap());
        assert!(!opens(&other, &identities, random).unwrap());
        assert!(opens("age1nonsense", &identities, random).is_err());
    }

    #[test]
    fn a_challenge_is_answered_by_what_was_in_the_canary_and_in_time() {
        let (identities, recipient) = pair();
        let canary = Canary::of(&recipient, &mut rand::rng()).unwrap();
        let decryptor = age::Decryptor::new_buffered(&canary.sealed[..]).unwrap();
        let key = crate::keys::KnownFileKey::unwrap(&canary.sealed[..], &identities).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(
            &mut decryptor.decrypt(std::iter::once(&key as _)).unwrap(),
            &mut answer,
        )
        .unwrap();
        let at: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let challenge = Challenge {
            version: 1,
            source: "app".parse().unwrap(),
            at,
            expires_at: at + CHALLENGE_LIFE,
            host: "here".to_owned(),
            canaries: [(recipient.clone(), canary.secret_sha256)].into(),
        };
        assert_eq!(challenge.answered_by(&answer, at), Some(recipient.as_str()));
        assert_eq!(challenge.answered_by("something else", at), None);
        let late = at + CHALLENGE_LIFE + SignedDuration::from_secs(1);
        assert_eq!(challenge.answered_by(&answer, late), None);
    }

    #[tokio::test]
    async fn only_signed_records_that_show_a_key_count() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let source: SourceName = "app".parse().unwrap();
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let stranger = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let signers = TrustedSigners::parse(&format!("v {}\n", key.public_line())).unwrap();
        let custody = |second, how: Option<&str>| {
            let at = Timestamp::from_second(second).unwrap();
            let (key, how) = ("age1x".to_owned(), how.map(str::to_owned));
            let shown = Shown { key, how, shown_at: None, problem: None };
            let repository = "abcdefghijklmnopqrstuvwxyz".parse().unwrap();
            let (source, host) = (source.clone(), "h".to_owned());
            Custody { version: 1, source, repository, at, host, backup: None, recipients: vec![shown] }
        };
        for (second, how, signer) in [
            (10, Some("identity file"), &key),
            (20, None, &key),
            (5, Some("identity file"), &key),
            (30, Some("identity file"), &stranger),
        ] {
            let record = custody(second, how);
            records::put(&*store, &layout::custody(&source, record.at), &record, signer).await.unwrap();
        }
        let last = last_shown(&store, &source, &signers).await.unwrap();
        assert_eq!(last, [("age1x".to_owned(), Timestamp::from_second(10).unwrap())].into());
        // What cannot be fetched now may say more; what is damaged says nothing.
        for (fault, is_known) in [(Fault::FailBefore, false), (Fault::Damage, true)] {
            let rules = vec![Rule::on(Operation::Get, fault).keyed("19700101T000010").times(9)];
            let faulty: SharedStore = Arc::new(FaultyStore::scripted(store.clone(), rules));
            let last = last_shown(&faulty, &source, &signers).await;
            assert_eq!(last.is_ok(), is_known, "{fault:?}: {last:?}");
            let at = last.ok().map(|last| last["age1x"]);
            assert_eq!(at, is_known.then(|| Timestamp::from_second(5).unwrap()));
        }
    }

    #[tokio::test]
    async fn only_signed_challenges_of_the_source_can_be_answered() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let stranger = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let signers = TrustedSigners::parse(&format!("v {}\n", key.public_line())).unwrap();
        let app: SourceName = "app".parse().unwrap();
        for (second, of, signer) in [(1, "app", &key), (2, "other", &key), (3, "app", &stranger)] {
            let at = Timestamp::from_second(second).unwrap();
            let (source, host) = (of.parse().unwrap(), "h".to_owned());
            let (expires_at, canaries) = (at + CHALLENGE_LIFE, BTreeMap::new());
            let record = Challenge { version: 1, source, at, expires_at, host, canaries };
            records::put(&*store, &layout::challenge(&app, at), &record, signer).await.unwrap();
        }
        let found = challenges(&store, &app, &signers).await.unwrap();
        assert_eq!(found.iter().map(|it| it.at.as_second()).collect::<Vec<_>>(), [1]);
    }
}
