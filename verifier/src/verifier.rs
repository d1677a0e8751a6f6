//! What every command of the verifier works with: the policy as the verifier has it, the repository, the keys.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Marker};
use pgproof_repository::keys::{Identities, NoPrompts};
use pgproof_repository::signature::{SigningKey, TrustedSigners, namespace, trusted_line};
use pgproof_repository::store::SharedStore;

use crate::failure::{Exit, Failure};

/// A verifier at work on one repository. Existence means that its keys were found usable and that the repository is there.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub loaded: LoadedPolicy,
    pub store: SharedStore,
    pub marker: Marker,
    pub signers: TrustedSigners,
    pub signing_key: SigningKey,
    pub identities: Identities,
}

impl Verifier {
    pub(crate) async fn open(policy: &Path) -> anyhow::Result<Self> {
        let loaded = LoadedPolicy::read(policy)?.for_verifier();
        let (signing_key, signers) = (loaded.signing_key()?, loaded.trusted_signers()?);
        let identities = loaded.identities(Arc::new(NoPrompts))?;
        let (store, marker) = open_repository(&loaded).await?;
        Ok(Self { loaded, store, marker, signers, signing_key, identities })
    }

    /// Reports that nobody trusts prove nothing, and a schedule that goes by them would drill for ever.
    pub(crate) fn ensure_reports_count(&self, now: Timestamp) -> anyhow::Result<()> {
        self.signers.would_accept(&self.signing_key, namespace::REPORT, now).map_err(|error| {
            let message = format!("reports of this verifier would not be trusted: {error}");
            let line = trusted_line("verifier", &namespace::OF_VERIFIER, &self.signing_key.public_line());
            let hint = format!("add to `keys.trusted_signers`, here and where backups are made: {line}");
            Failure::new(Exit::Usage, message, hint).into()
        })
    }

    /// That the repository is where it was: an empty folder may be the place of a disk that is away.
    pub(crate) async fn ensure_repository_is_there(&self) -> anyhow::Result<()> {
        let (_, marker) = find_repository(self.store.clone()).await?;
        if marker.id != self.marker.id {
            let message = format!("there is another repository at {} than before", self.store.location());
            let hint = "if that is meant, have the policy read again: systemctl reload, or SIGHUP";
            return Err(Failure::new(Exit::NothingFound, message, hint).into());
        }
        Ok(())
    }
}

/// The repository that the policy names, which must exist.
pub(crate) async fn open_repository(loaded: &LoadedPolicy) -> anyhow::Result<(SharedStore, Marker)> {
    find_repository(loaded.open_store().await?).await
}

async fn find_repository(store: SharedStore) -> anyhow::Result<(SharedStore, Marker)> {
    let marker = catalog::find_marker(&*store).await?.ok_or_else(|| {
        let message = format!("there is no repository at {}", store.location());
        Failure::new(Exit::NothingFound, message, "the first `pgproof backup` makes one")
    })?;
    Ok((store, marker))
}
