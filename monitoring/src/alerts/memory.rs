//! What was told, as it lies in the repository: one object a source, changed in place by whoever is first.
//!
//! It is signed, so that whoever can only write the bucket cannot make one up. An older one that is put back can still keep an
//! alert from being told, at most until `repeat_after` is over.

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

/// The stored form: the signature covers `sent` as it stands here.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    at: Timestamp,
    sent: String,
    signature: String,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Memory<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) source: &'a SourceName,
    pub(super) key: Option<&'a SigningKey>,
    pub(super) signers: &'a TrustedSigners,
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
    let memory = Memory { store, source, key: None, signers };
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
            let (before, version) = match self.load().await {
                Ok(loaded) => loaded,
                Err(error) => {
                    tracing::warn!(source = %self.source, %error, "it is not known what was told already");
                    break;
                }
            };
            let messages = due(&before);
            if messages.is_empty() {
                return Claimed { messages, before };
            }
            let mut after = before.clone();
            messages.iter().for_each(|message| after.enter(message, now));
            after.forget();
            match self.keep(&after, version).await {
                Ok(true) => return Claimed { messages, before },
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(source = %self.source, %error, "what is told now cannot be remembered");
                    return Claimed { messages, before };
                }
            }
        }
        Claimed { messages: due(&Sent::default()), before: Sent::default() }
    }

    /// These did not get through: they are due again.
    pub(super) async fn take_back(&self, messages: &[Message], before: &Sent) {
        for _ in 0..TRIES_MAX {
            let Ok((mut sent, version)) = self.load().await else { return };
            messages.iter().for_each(|message| sent.take_back(message, before));
            if !matches!(self.keep(&sent, version).await, Ok(false)) {
                return;
            }
        }
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
        let verified =
            self.signers.verify(namespace::ALERTS, stored.sent.as_bytes(), &stored.signature, stored.at);
        if let Err(error) = verified {
            tracing::warn!(source = %self.source, %error, "what was told is signed by nobody who is trusted: it is told again");
            return None;
        }
        serde_json::from_str(&stored.sent).ok()
    }

    /// Whether it was as it was read; else somebody else has changed it meanwhile.
    async fn keep(
        &self,
        sent: &Sent,
        version: Option<Version>,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let key = self.key.ok_or("there is no signing key")?;
        let sent = serde_json::to_string(sent)?;
        let signature = key.sign(namespace::ALERTS, sent.as_bytes())?;
        let stored = Stored { version: 1, at: Timestamp::now(), sent, signature };
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
