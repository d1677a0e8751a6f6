//! What was told, as it lies in the repository: one object a source, changed in place by whoever is first.
//!
//! It is signed, so that whoever can only write the bucket cannot make one up. An older one that is put back can still keep an
//! alert from being told, at most until `repeat_after` is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use pgproof_policies::alerts::{Message, Sent};
use pgproof_policies::names::SourceName;
use pgproof_repository::layout;
use pgproof_repository::signature::{SigningKey, TrustedSigners, namespace};
use pgproof_repository::store::{PutCondition, SharedStore, StoreError, Version};
use serde::{Deserialize, Serialize};

/// Largest memory that is read: thousands of alerts.
const BYTES_MAX: u64 = 4 << 20;
/// Hosts that may change it at the same moment before one tells without having remembered.
const TRIES_MAX: u32 = 5;

/// The stored form: the signature covers `told` as it stands here.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    told: String,
    signature: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Told {
    /// So that another source's does not pass for this one's.
    source: SourceName,
    at: Timestamp,
    sent: Sent,
}

/// What this process told and could not write down: while a repository cannot be reached, that is told once, too.
#[derive(Debug, Default)]
pub struct Recollection(Mutex<BTreeMap<SourceName, Sent>>);

impl Recollection {
    /// What was told according to the repository, and to this process beside it.
    fn beside(&self, source: &SourceName, mut stored: Sent) -> Sent {
        let own =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get(source).cloned().unwrap_or_default();
        for (key, known) in own.alerts {
            stored.alerts.entry(key).or_insert_with(|| known.clone()).told.extend(known.told);
        }
        for (route, times) in own.recent {
            stored.recent.entry(route).or_default().extend(times);
        }
        stored
    }

    fn keep(&self, source: &SourceName, sent: Sent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(source.clone(), sent);
    }

    /// It was written down.
    fn forget(&self, source: &SourceName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(source);
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Memory<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) source: &'a SourceName,
    pub(super) key: Option<&'a SigningKey>,
    pub(super) signers: &'a TrustedSigners,
    pub(super) own: &'a Recollection,
}

/// Messages that are this process's to send.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) messages: Vec<Message>,
    /// What was told before.
    pub(super) before: Sent,
}

/// What was told of a source and is not over. What cannot be trusted counts as nothing.
pub async fn recall(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Sent, StoreError> {
    let memory = Memory { store, source, key: None, signers, own: &Recollection::default() };
    Ok(memory.load().await?.0)
}

impl Memory<'_> {
    /// Decides what is due, and notes it as told before it is: of two hosts one then tells it.
    pub(super) async fn claim(
        &self,
        due: &(dyn Fn(&Sent) -> Vec<Message> + Sync),
        now: Timestamp,
    ) -> Claimed {
        for _ in 0..TRIES_MAX {
            let (stored, version) = match self.load().await {
                Ok(loaded) => loaded,
                Err(error) => {
                    tracing::warn!(source = %self.source, %error, "it is not known what was told already");
                    break;
                }
            };
            let before = self.own.beside(self.source, stored);
            let messages = due(&before);
            if messages.is_empty() {
                return Claimed { messages, before };
            }
            match self.keep(&entered(&before, &messages, now), version).await {
                Ok(true) => {
                    self.own.forget(self.source);
                    return Claimed { messages, before };
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(source = %self.source, %error, "what is told now cannot be written down");
                    return self.claim_unwritten(before, due, now);
                }
            }
        }
        self.claim_unwritten(self.own.beside(self.source, Sent::default()), due, now)
    }

    fn claim_unwritten(
        &self,
        before: Sent,
        due: &(dyn Fn(&Sent) -> Vec<Message> + Sync),
        now: Timestamp,
    ) -> Claimed {
        let messages = due(&before);
        self.own.keep(self.source, entered(&before, &messages, now));
        Claimed { messages, before }
    }

    /// These did not get through: they are due again.
    pub(super) async fn take_back(&self, messages: &[Message], before: &Sent) {
        let without = |mut sent: Sent| {
            messages.iter().for_each(|message| sent.take_back(message, before));
            sent
        };
        for _ in 0..TRIES_MAX {
            let Ok((stored, version)) = self.load().await else { break };
            match self.keep(&without(stored), version).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => break,
            }
        }
        self.own.keep(self.source, without(self.own.beside(self.source, Sent::default())));
    }

    async fn load(&self) -> Result<(Sent, Option<Version>), StoreError> {
        match self.store.get(&layout::alerts(self.source), BYTES_MAX).await {
            Ok((bytes, version)) => Ok((self.trusted(&bytes).unwrap_or_default(), Some(version))),
            Err(StoreError::NotFound { .. }) => Ok((Sent::default(), None)),
            Err(error) => Err(error),
        }
    }

    fn trusted(&self, bytes: &[u8]) -> Option<Sent> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let told: Told = serde_json::from_str(&stored.told).ok()?;
        let verified =
            self.signers.verify(namespace::ALERTS, stored.told.as_bytes(), &stored.signature, told.at);
        match verified {
            Ok(_) if told.source == *self.source => Some(told.sent),
            Ok(_) => {
                tracing::warn!(source = %self.source, other = %told.source, "what was told is of another source: it is told again");
                None
            }
            Err(error) => {
                tracing::warn!(source = %self.source, %error, "what was told is signed by nobody who is trusted: it is told again");
                None
            }
        }
    }

    /// Whether it was as it was read; else somebody else has changed it meanwhile.
    async fn keep(
        &self,
        sent: &Sent,
        version: Option<Version>,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let key = self.key.ok_or("there is no signing key")?;
        let told = Told { source: self.source.clone(), at: Timestamp::now(), sent: sent.clone() };
        let told = serde_json::to_string(&told)?;
        let signature = key.sign(namespace::ALERTS, told.as_bytes())?;
        let stored = Stored { version: 1, told, signature };
        let condition = version.map_or(PutCondition::IfAbsent, PutCondition::IfVersion);
        let bytes = Bytes::from(serde_json::to_vec(&stored)?);
        match self.store.put(&layout::alerts(self.source), bytes, condition).await {
            Ok(_) => Ok(true),
            Err(
                StoreError::AlreadyExists { .. }
                | StoreError::VersionChanged { .. }
                | StoreError::NotFound { .. },
            ) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn entered(before: &Sent, messages: &[Message], now: Timestamp) -> Sent {
    let mut after = before.clone();
    messages.iter().for_each(|message| after.enter(message, now));
    after.forget();
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        const GOLDEN_V1: &str = include_str!("../../../repository/fixtures/alerts-sent.v1.json");
        let stored: Stored = serde_json::from_str(GOLDEN_V1).unwrap();
        assert_eq!(serde_json::to_string_pretty(&stored).unwrap() + "\n", GOLDEN_V1);
        let told: Told = serde_json::from_str(&stored.told).unwrap();
        assert_eq!(told.sent.alerts["no_backup"].told.len(), 1);
        assert_eq!(serde_json::to_string(&told).unwrap(), stored.told);
    }
}
