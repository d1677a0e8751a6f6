//! Who may take a lease where the store heeds no condition on a write.
//!
//! Every candidate puts a claim under a key of its own, which nobody else ever writes, waits until every claim that could
//! come before it must be visible, and looks: the earliest claim wins, and all others withdraw. Claims are ordered by the
//! store's clock, so that the candidates' clocks do not matter. A claim that took too long to write could turn up behind
//! the back of somebody who has looked already, and is withdrawn by whoever wrote it. The wait is longer than that limit
//! and the store's own uncertainty together: of two claims whose owners do not see each other, the later one then does
//! see the earlier, and gives way.
//!
//! The winner prolongs its claim for as long as it has the lease. So a write of the lease itself that was on its way for
//! minutes, and lands over somebody else's, makes nobody believe that the lease is free.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Holder, LeaseError};
use crate::ids::ObjectKey;
use crate::layout;
use crate::store::{ObjectMeta, PutCondition, SharedStore, StoreError, Version};

/// A claim holds three short fields.
const CLAIM_BYTES_MAX: u64 = 64 << 10;
/// Claims from before this are not looked at: the lease itself still tells of work that takes longer.
const LOOKED_BACK: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Claims that were over for so long are litter, which whoever may delete removes.
const LITTER_GRACE: SignedDuration = SignedDuration::from_hours(24);
/// Old claims that are removed with one lease: enough to keep up with a run every minute.
const SWEPT_MAX: usize = 2_000;

/// How long things may take, and how long is waited for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settling {
    /// From asking the store's clock until the claim is confirmed; a slower one is withdrawn.
    pub write_max: Duration,
    /// By how much two answers of the store may differ: its servers' clocks, whole seconds, and when a list shows what was put.
    pub store_uncertainty: Duration,
    /// How long a candidate waits between its claim and its look at the others: both of these together.
    pub wait: Duration,
    /// What a claim counts until its owner has the lease, or gave up, or died.
    pub candidacy: Duration,
}

impl Settling {
    /// Seconds are ample for a few hundred bytes over a bad line, and a store whose clocks differ by more is ill.
    pub const USUAL: Self = Self {
        write_max: Duration::from_secs(10),
        store_uncertainty: Duration::from_secs(3),
        wait: Duration::from_secs(10 + 3),
        candidacy: Duration::from_secs(90),
    };
}

/// As it lies in the store. A claim that was withdrawn by somebody who may not delete is an empty object.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    holder: Holder,
    /// By the store's clock, as the next one.
    at: Timestamp,
    expires_at: Timestamp,
}

/// A claim of this process.
#[derive(Debug)]
pub(super) struct Claim {
    store: SharedStore,
    key: ObjectKey,
    stored: Stored,
    version: Version,
    /// When the store was asked for `stored.at`.
    began: Instant,
    /// Until when it counts, at least, by a clock that nobody sets.
    counts_until: Instant,
}

impl Claim {
    /// Stands for the lease and waits for the outcome: [`LeaseError::Held`] by whose claim came earlier.
    pub(super) async fn stand(
        store: &SharedStore,
        lease: &ObjectKey,
        holder: &Holder,
        is_dead: &impl Fn(&Holder) -> bool,
        settling: Settling,
    ) -> Result<Self, LeaseError> {
        let claim = Self::put(store, lease, holder, settling).await?;
        let took = claim.began.elapsed();
        if took > settling.write_max {
            claim.withdraw().await;
            return Err(LeaseError::Slow { took });
        }
        tokio::time::sleep(settling.wait).await;
        let refused = match claim.earlier(lease, is_dead).await {
            Ok(None) => return Ok(claim),
            Ok(Some(rival)) => LeaseError::Held { holder: rival.holder, expires_at: rival.expires_at },
            Err(error) => error,
        };
        claim.withdraw().await;
        Err(refused)
    }

    async fn put(
        store: &SharedStore,
        lease: &ObjectKey,
        holder: &Holder,
        settling: Settling,
    ) -> Result<Self, LeaseError> {
        let began = Instant::now();
        let at = store.clock().await.map_err(|source| LeaseError::Store { source })?;
        let at = at.ok_or(LeaseError::NoClock)?;
        let stored = Stored { holder: holder.clone(), at, expires_at: at + signed(settling.candidacy) };
        let key = layout::claim(lease, at, &format!("{:016x}", rand::rng().random::<u64>()));
        let put = store.put(&key, bytes_of(&stored), PutCondition::IfAbsent).await;
        let version = put.map_err(|source| LeaseError::Store { source })?;
        // Others see it end by the store's clock, whose answers differ a little.
        let counts_until = began + settling.candidacy.saturating_sub(settling.store_uncertainty);
        Ok(Self { store: store.clone(), key, stored, version, began, counts_until })
    }

    pub(super) fn counts(&self) -> bool {
        Instant::now() < self.counts_until
    }

    /// Lets it count for `life` from now on. Without success it ends when it would have.
    pub(super) async fn prolong(&mut self, life: Duration) -> Result<(), LeaseError> {
        let began = Instant::now();
        let stored = Stored { expires_at: self.now() + signed(life), ..self.stored.clone() };
        let condition = PutCondition::IfVersion(self.version.clone());
        match self.store.put(&self.key, bytes_of(&stored), condition).await {
            Ok(version) => (self.version, self.stored) = (version, stored),
            Err(StoreError::VersionChanged { .. } | StoreError::NotFound { .. }) => {
                return Err(LeaseError::Lost);
            }
            Err(source) => return Err(LeaseError::Store { source }),
        }
        if !self.counts() {
            return Err(LeaseError::Lost);
        }
        self.counts_until = began + life.saturating_sub(Settling::USUAL.store_uncertainty);
        Ok(())
    }

    /// Whoever may not delete leaves it empty. Without either it is over when its time is.
    pub(super) async fn withdraw(self) {
        let Self { store, key, version, .. } = self;
        if store.delete(&key).await.is_ok() {
            return;
        }
        if let Err(error) = store.put(&key, Bytes::new(), PutCondition::IfVersion(version)).await {
            tracing::warn!(%key, %error, "a claim to a lease could not be withdrawn; it runs out by itself");
        }
    }

    /// The store's time, as far as this process can tell.
    fn now(&self) -> Timestamp {
        self.stored.at + signed(self.began.elapsed())
    }

    /// The earliest claim before this one that counts.
    async fn earlier(
        &self,
        lease: &ObjectKey,
        is_dead: &impl Fn(&Holder) -> bool,
    ) -> Result<Option<Stored>, LeaseError> {
        let since = layout::claims_from(lease, self.stored.at - LOOKED_BACK);
        let mut listed = self.store.list(&layout::claims(lease), Some(&since));
        while let Some(meta) = listed.try_next().await.map_err(|source| LeaseError::Store { source })? {
            if meta.key >= self.key {
                return Ok(None);
            }
            if let Some(claim) = read(&self.store, &meta).await?
                && claim.expires_at > self.now()
                && !is_dead(&claim.holder)
            {
                return Ok(Some(claim));
            }
        }
        Ok(None)
    }

    /// Removes claims that were over long ago. Whoever may not delete finds out with the first one.
    pub(super) async fn sweep_others(&self, lease: &ObjectKey) {
        let before = self.now() - LITTER_GRACE;
        let (litter, mut listed) =
            (layout::claims_from(lease, before), self.store.list(&layout::claims(lease), None));
        for _ in 0..SWEPT_MAX {
            let Ok(Some(meta)) = listed.try_next().await else { return };
            if meta.key >= litter {
                return;
            }
            let is_over = match read(&self.store, &meta).await {
                Ok(None) => true,
                Ok(Some(claim)) => claim.expires_at < before,
                Err(_) => false,
            };
            if is_over && self.store.delete(&meta.key).await.is_err() {
                return;
            }
        }
    }
}

/// `None` where it was withdrawn.
async fn read(store: &SharedStore, meta: &ObjectMeta) -> Result<Option<Stored>, LeaseError> {
    if meta.bytes == 0 {
        return Ok(None);
    }
    match store.get(&meta.key, CLAIM_BYTES_MAX).await {
        Ok((bytes, _)) if bytes.is_empty() => Ok(None),
        Ok((bytes, _)) => {
            let read = serde_json::from_slice(&bytes).map(Some);
            read.map_err(|source| LeaseError::unreadable(&meta.key, source))
        }
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(source) => Err(LeaseError::Store { source }),
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn bytes_of(stored: &Stored) -> Bytes {
    Bytes::from(serde_json::to_vec_pretty(stored).expect("a claim has only string keys"))
}

#[cfg(test)]
mod tests;
