//! Leases: two hosts never back up or prune one source at the same time.
//!
//! A lease is an object created only if absent and renewed only if unchanged, with a time to live. A holder that
//! crashed delays the next run by at most that time; on the same host a dead holder's lease is taken over at once.
//!
//! Where the store heeds no conditions, an election decides who writes that object. Renewing it is then a look and a
//! write, in which a holder trusts its own clock: it gives up while nobody else may have taken over yet.

mod election;
mod holder;
mod renewal;

use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use tokio::time::Instant;

use self::election::Claim;
pub use election::Settling;
pub use holder::{Holder, host_name};
pub use renewal::Renewal;

use crate::ids::ObjectKey;
use crate::store::{PutCondition, SharedStore, StoreError, Version};

/// How long a lease is good for without renewal: long enough for a minute's outage of the store.
pub const LEASE_TTL: SignedDuration = SignedDuration::from_secs(180);
/// How often it is renewed: several tries fit in its life.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(30);
/// A lease holds four short fields.
const LEASE_BYTES_MAX: u64 = 64 << 10;
/// Without conditions, a lease of which less than this is left is not renewed but lost: the write could land over that of
/// somebody else.
const RENEWAL_RESERVE: Duration = Duration::from_secs(45);
/// The life of a lease by a clock that nobody sets.
const LIFE: Duration = Duration::from_secs(LEASE_TTL.as_secs().unsigned_abs());

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    holder: Holder,
    /// Counts takeovers: a holder that lost its lease can see it.
    generation: u64,
    expires_at: Timestamp,
    released: bool,
}

/// A held lease. [`Lease::release`] gives it back; dropped without, it runs out.
#[derive(Debug)]
pub struct Lease {
    store: SharedStore,
    key: ObjectKey,
    stored: Stored,
    version: Version,
    /// When the write began that made or last renewed it.
    written: Instant,
    /// What proves it where the store heeds no conditions.
    claim: Option<Claim>,
}

impl Lease {
    /// Takes the lease for this process if it is free, released, run out, or its holder died on this host.
    pub async fn take(store: SharedStore, key: ObjectKey, now: Timestamp) -> Result<Self, LeaseError> {
        Self::acquire(store, key, Holder::this_process(), now, Holder::is_dead).await
    }

    /// Takes the lease if it is free, released, run out, or `is_dead` says that its holder is.
    pub async fn acquire(
        store: SharedStore,
        key: ObjectKey,
        holder: Holder,
        now: Timestamp,
        is_dead: impl Fn(&Holder) -> bool,
    ) -> Result<Self, LeaseError> {
        Self::acquire_settling(store, key, holder, now, is_dead, Settling::USUAL).await
    }

    async fn acquire_settling(
        store: SharedStore,
        key: ObjectKey,
        holder: Holder,
        now: Timestamp,
        is_dead: impl Fn(&Holder) -> bool,
        settling: Settling,
    ) -> Result<Self, LeaseError> {
        let began = Instant::now();
        let free = Free::find(&store, &key, now, &is_dead).await?;
        if store.conditions().keep_leases() {
            return Self::write(store, key, holder, free, now).await;
        }
        say_that_it_takes_long();
        let mut claim = Claim::stand(&store, &key, &holder, &is_dead, settling).await?;
        let now = now + SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
        let written = async {
            // Whoever was there before has written it by now.
            let free = Free::find(&store, &key, now, &is_dead).await?;
            let prolonged = Instant::now();
            claim.prolong(LIFE).await?;
            let lease = Self::write(store.clone(), key.clone(), holder, free, now).await?;
            Ok(Self { written: prolonged, ..lease })
        };
        match written.await {
            Ok(lease) if claim.counts() => {
                claim.sweep_others(&key).await;
                Ok(Self { claim: Some(claim), ..lease })
            }
            // It took so long that somebody else may have the lease, over whom it was written.
            Ok(_) => Err(LeaseError::Lost),
            Err(error) => {
                claim.withdraw().await;
                Err(error)
            }
        }
    }

    async fn write(
        store: SharedStore,
        key: ObjectKey,
        holder: Holder,
        free: Free,
        now: Timestamp,
    ) -> Result<Self, LeaseError> {
        let written = Instant::now();
        let Free { generation, condition } = free;
        let stored = Stored { holder, generation, expires_at: now + LEASE_TTL, released: false };
        let version = put(&store, &key, &stored, condition).await?;
        Ok(Self { store, key, stored, version, written, claim: None })
    }

    /// Prolongs the lease; [`LeaseError::Lost`] when somebody else has it now.
    pub async fn renew(&mut self, now: Timestamp) -> Result<(), LeaseError> {
        let began = Instant::now();
        if let Some(claim) = &mut self.claim {
            if self.written.elapsed() + RENEWAL_RESERVE > LIFE {
                return Err(LeaseError::Lost);
            }
            claim.prolong(LIFE).await?;
        }
        self.write_again(Stored { expires_at: now + LEASE_TTL, ..self.stored.clone() }).await?;
        if self.claim.is_some() && self.written.elapsed() > LIFE {
            return Err(LeaseError::Lost);
        }
        self.written = began;
        Ok(())
    }

    /// Renews the lease until it is released or lost.
    pub fn keep(self) -> Renewal {
        Renewal::of(self)
    }

    /// When it runs out without another renewal, by a clock that nobody sets.
    fn ends(&self) -> Instant {
        self.written + LIFE
    }

    /// By either clock, since the machine may have slept.
    fn has_run_out(&self, now: Timestamp) -> bool {
        Instant::now() >= self.ends() || self.stored.expires_at <= now
    }

    pub async fn release(mut self) -> Result<(), LeaseError> {
        let released = self.write_again(Stored { released: true, ..self.stored.clone() }).await;
        if let Some(claim) = self.claim {
            claim.withdraw().await;
        }
        released
    }

    /// Writes what the lease becomes, which it is only once that was written. What lies there in another version may be
    /// an earlier write of its own, whose answer was lost.
    async fn write_again(&mut self, stored: Stored) -> Result<(), LeaseError> {
        let condition = PutCondition::IfVersion(self.version.clone());
        self.version = match put(&self.store, &self.key, &stored, condition).await {
            Err(LeaseError::Lost) => {
                let own = PutCondition::IfVersion(self.own_version().await?);
                put(&self.store, &self.key, &stored, own).await?
            }
            written => written?,
        };
        self.stored = stored;
        Ok(())
    }

    /// The version that lies there, if nobody has taken the lease since.
    async fn own_version(&self) -> Result<Version, LeaseError> {
        let (bytes, version) = match self.store.get(&self.key, LEASE_BYTES_MAX).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Err(LeaseError::Lost),
            Err(source) => return Err(LeaseError::Store { source }),
        };
        let there: Stored =
            serde_json::from_slice(&bytes).map_err(|source| LeaseError::unreadable(&self.key, source))?;
        let is_own = (&there.holder, there.generation) == (&self.stored.holder, self.stored.generation);
        if is_own { Ok(version) } else { Err(LeaseError::Lost) }
    }
}

/// A lease that may be taken, and how.
#[derive(Debug)]
struct Free {
    generation: u64,
    condition: PutCondition,
}

impl Free {
    async fn find(
        store: &SharedStore,
        key: &ObjectKey,
        now: Timestamp,
        is_dead: &impl Fn(&Holder) -> bool,
    ) -> Result<Self, LeaseError> {
        let (bytes, version) = match store.get(key, LEASE_BYTES_MAX).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => {
                return Ok(Self { generation: 1, condition: PutCondition::IfAbsent });
            }
            Err(source) => return Err(LeaseError::Store { source }),
        };
        let old: Stored =
            serde_json::from_slice(&bytes).map_err(|source| LeaseError::unreadable(key, source))?;
        if !old.released && old.expires_at > now && !is_dead(&old.holder) {
            return Err(LeaseError::Held { holder: old.holder, expires_at: old.expires_at });
        }
        Ok(Self { generation: old.generation.saturating_add(1), condition: PutCondition::IfVersion(version) })
    }
}

/// Once in a process: a daemon takes many leases.
fn say_that_it_takes_long() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "the store heeds no conditions on writes, so that every lease takes {} s of waiting",
            Settling::USUAL.wait.as_secs()
        );
    });
}

/// Who holds a lease at `now`; `None` where nobody does. It takes nothing.
pub async fn holder_at(
    store: &SharedStore,
    key: &ObjectKey,
    now: Timestamp,
) -> Result<Option<Holder>, LeaseError> {
    let bytes = match store.get(key, LEASE_BYTES_MAX).await {
        Ok((bytes, _)) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(LeaseError::Store { source }),
    };
    let stored: Stored =
        serde_json::from_slice(&bytes).map_err(|source| LeaseError::unreadable(key, source))?;
    Ok((!stored.released && stored.expires_at > now).then_some(stored.holder))
}

async fn put(
    store: &SharedStore,
    key: &ObjectKey,
    stored: &Stored,
    condition: PutCondition,
) -> Result<Version, LeaseError> {
    let bytes = Bytes::from(serde_json::to_vec_pretty(stored).expect("a lease has only string keys"));
    match store.put(key, bytes, condition).await {
        Ok(version) => Ok(version),
        Err(
            StoreError::AlreadyExists { .. }
            | StoreError::VersionChanged { .. }
            | StoreError::NotFound { .. },
        ) => Err(LeaseError::Lost),
        Err(source) => Err(LeaseError::Store { source }),
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    #[error("process {} on {} is at work on this source (its lease runs until {expires_at})", holder.pid, holder.host)]
    Held { holder: Holder, expires_at: Timestamp },
    #[error("another process took the lease")]
    Lost,
    #[error("the lease ran out before the store let it be renewed")]
    RanOut,
    /// Without conditions, what was written late cannot be told from what was written by another.
    #[error("the claim to the lease took {} s to write, which is too long on a store without conditional writes", took.as_secs())]
    Slow { took: Duration },
    #[error("the store tells no time, and without conditional writes a lease needs one")]
    NoClock,
    #[error("lease cannot be read or written")]
    Store {
        #[source]
        source: StoreError,
    },
    /// Whoever may put there has put it, and nobody takes the lease until somebody has looked and removed it.
    #[error("lease at {key} cannot be understood")]
    Unreadable {
        key: String,
        #[source]
        source: serde_json::Error,
    },
}

impl LeaseError {
    fn unreadable(key: &ObjectKey, source: serde_json::Error) -> Self {
        Self::Unreadable { key: key.to_string(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::faulty::{Fault, FaultyStore, Rule};
    use crate::store::memory::MemoryStore;
    use crate::store::operation::Operation;

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        const GOLDEN_V1: &str = include_str!("../../fixtures/lease.v1.json");
        let stored: Stored = serde_json::from_str(GOLDEN_V1).unwrap();
        assert_eq!(serde_json::to_string_pretty(&stored).unwrap() + "\n", GOLDEN_V1);
    }

    fn holder(pid: u32) -> Holder {
        Holder { host: "db1".to_owned(), boot: "b".to_owned(), pid }
    }

    #[tokio::test]
    async fn one_holder_at_a_time_until_it_releases_dies_or_runs_out() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let key: ObjectKey = "leases/backup.app.json".parse().unwrap();
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let acquire = |pid, now, dead: bool| {
            Lease::acquire(store.clone(), key.clone(), holder(pid), now, move |_| dead)
        };

        let mut first = acquire(1, now, false).await.unwrap();
        assert!(
            matches!(acquire(2, now, false).await, Err(LeaseError::Held { holder, .. }) if holder.pid == 1)
        );
        first.renew(now + LEASE_TTL).await.unwrap();
        assert!(acquire(2, now + LEASE_TTL, false).await.is_err());
        let second = acquire(2, now, true).await.unwrap();
        assert!(matches!(first.renew(now).await, Err(LeaseError::Lost)));
        second.release().await.unwrap();
        acquire(3, now, false).await.unwrap();
        acquire(4, now + LEASE_TTL + LEASE_TTL, false).await.unwrap();
    }

    #[tokio::test]
    async fn who_holds_it_is_told_until_it_runs_out_or_is_released() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let key: ObjectKey = "leases/backup.app.json".parse().unwrap();
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let told = async |at| holder_at(&store, &key, at).await.unwrap();
        assert_eq!(told(now).await, None);
        let lease = Lease::acquire(store.clone(), key.clone(), holder(1), now, |_| false).await.unwrap();
        assert_eq!(told(now).await, Some(holder(1)));
        assert_eq!(told(now + LEASE_TTL - SignedDuration::from_secs(1)).await, Some(holder(1)));
        assert_eq!(told(now + LEASE_TTL).await, None);
        lease.release().await.unwrap();
        assert_eq!(told(now).await, None);
    }

    /// Where the store tells who holds it, time alone takes nothing away.
    #[tokio::test(start_paused = true)]
    async fn a_late_renewal_is_none_too_late_while_nobody_took_it() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let key: ObjectKey = "leases/backup.app.json".parse().unwrap();
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let mut lease = Lease::acquire(store, key, holder(1), now, |_| false).await.unwrap();
        tokio::time::sleep(LIFE * 2).await;
        lease.renew(now + LEASE_TTL * 2).await.unwrap();
        assert!(!lease.has_run_out(now + LEASE_TTL * 3 - SignedDuration::from_secs(1)));
        assert!(lease.has_run_out(now + LEASE_TTL * 3));
        tokio::time::sleep(LIFE).await;
        assert!(lease.has_run_out(now));
    }

    #[tokio::test]
    async fn a_renewal_whose_answer_was_lost_is_no_loss() {
        // The first put takes the lease, the second renews it.
        let lost = Rule::on(Operation::Put, Fault::FailAfter).from_call(2);
        let store: SharedStore = Arc::new(FaultyStore::scripted(Arc::new(MemoryStore::new()), vec![lost]));
        let key: ObjectKey = "leases/backup.app.json".parse().unwrap();
        let now: Timestamp = "2026-11-24T02:00:00Z".parse().unwrap();
        let take = |pid, now| Lease::acquire(store.clone(), key.clone(), holder(pid), now, |_| false);
        let mut lease = take(1, now).await.unwrap();
        assert!(matches!(lease.renew(now).await, Err(LeaseError::Store { .. })));
        lease.renew(now).await.unwrap();
        lease.release().await.unwrap();
        // What another has taken is lost all the same.
        let mut lease = take(2, now).await.unwrap();
        take(3, now + LEASE_TTL).await.unwrap();
        assert!(matches!(lease.renew(now).await, Err(LeaseError::Lost)));
        assert!(matches!(lease.release().await, Err(LeaseError::Lost)));
    }
}
