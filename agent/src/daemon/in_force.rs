//! The policy that is in force, and what it asks for of a source.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_policies::backups::{self, Plan, Rhythm};
use pgproof_policies::cadence::randomness_of;
use pgproof_policies::names::SourceName;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::history;
use pgproof_repository::signature::{SigningKey, TrustedSigners, namespace};
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::retry::RetryPolicy;

use crate::failure::{Exit, Failure};

/// A policy whose keys could be read, and its store.
#[derive(Debug)]
pub(crate) struct InForce {
    pub loaded: Arc<LoadedPolicy>,
    pub store: SharedStore,
    signing_key: SigningKey,
    signers: TrustedSigners,
}

impl InForce {
    /// Whatever would make every backup fail is found here, so that a wrong policy is not taken for a right one.
    pub(crate) async fn open(policy: &Path) -> anyhow::Result<Self> {
        let loaded = LoadedPolicy::read(policy)?;
        loaded.recipients()?;
        let (signing_key, signers) = (loaded.signing_key()?, loaded.trusted_signers()?);
        let store = loaded.open_store_to_watch(RetryPolicy::default()).await?;
        let in_force = Self { loaded: Arc::new(loaded), store, signing_key, signers };
        in_force.ensure_backups_count(Timestamp::now())?;
        Ok(in_force)
    }

    /// Backups that nobody trusts are none, and a schedule that goes by them would back up for ever.
    fn ensure_backups_count(&self, now: Timestamp) -> anyhow::Result<()> {
        for namespace in [namespace::MANIFEST, namespace::RUN] {
            self.signers.would_accept(&self.signing_key, namespace, now).map_err(|error| {
                let message = format!("backups of this host would not be trusted: {error}");
                let hint = "add the public half of its signing key to `keys.trusted_signers`";
                Failure::new(Exit::Usage, message, hint)
            })?;
        }
        Ok(())
    }

    /// The sources with a schedule, of which there must be one.
    pub(crate) fn scheduled(&self) -> anyhow::Result<Vec<SourceName>> {
        let sources = self.loaded.policy.sources.values();
        let scheduled: Vec<_> =
            sources.filter(|source| source.schedule.is_some()).map(|source| source.name.clone()).collect();
        if scheduled.is_empty() {
            let hint = "add `schedule = \"0 2 * * *\"` to a section [sources.NAME]";
            return Err(Failure::new(Exit::Usage, "no source of the policy has a schedule", hint).into());
        }
        Ok(scheduled)
    }

    /// What the schedule asks for at `now`, as the repository stands.
    pub(crate) async fn plan(&self, name: &SourceName, now: Timestamp) -> anyhow::Result<Plan> {
        self.ensure_backups_count(now)?;
        let rhythm = self.rhythm(name)?;
        let zone = self.loaded.policy.time_zone();
        // The same for every host that has this source, so that all of them keep to one beginning.
        let randomness = randomness_of((self.store.location(), name.as_str()));
        let since = rhythm.cadence.run_at(&zone, now, randomness).begins_at;
        let known = history::of_late(&self.store, name, &self.signers, since, now).await?;
        Ok(backups::plan(&known, &rhythm, &zone, now, randomness))
    }

    fn rhythm(&self, name: &SourceName) -> anyhow::Result<Rhythm> {
        Rhythm::of(self.loaded.source(name)?)?.ok_or_else(|| {
            let message = format!("source {name} has no schedule, so that nothing is ever due");
            Failure::new(Exit::Usage, message, "back it up now, without --due, or give it a schedule").into()
        })
    }
}
