//! One attempt to back up: between the lease and its release, between the source's hooks, and with a record of how it ended.

use anyhow::anyhow;
use jiff::Timestamp;
use pgproof_monitoring::alerts::{NotTold, Recollection, Teller};
use pgproof_policies::alerts::{Alert, Kind};
use pgproof_policies::backups::Cause;
use pgproof_repository::catalog::{self, Marker};
use pgproof_repository::ids::{BackupId, ManifestSha256, RepositoryId};
use pgproof_repository::layout;
use pgproof_repository::lease::{Lease, Renewal, host_name};
use pgproof_repository::lifecycle::Committed;
use pgproof_repository::manifest::{SignedManifest, v1};
use pgproof_repository::records::{self, Run, RunOutcome};
use pgproof_repository::signature::{SigningKey, TrustedSigners, namespace, trusted_line};

use super::hooks::{Hook, HookError, Outcome, Surroundings};
use super::{Begun, Job, interrupted};
use crate::failure::{self, Exit, Failure};

/// The right to back up a source, held until it is used or given back.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(super) marker: Marker,
    pub(super) renewal: Renewal,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub id: BackupId,
    pub outcome: anyhow::Result<BackedUp>,
    /// Its record lies in the repository, for whoever plans the next one.
    pub is_recorded: bool,
    /// Routes by which nobody could be told of it.
    pub not_told: Vec<NotTold>,
}

/// The newest good backup of a source, as an attempt leaves it.
#[derive(Debug)]
pub(crate) enum Made {
    New(Box<Committed>),
    /// Nothing has changed since this one.
    Unchanged(Box<SignedManifest>),
}

/// A good backup, and what came after it.
#[derive(Debug)]
pub(crate) struct BackedUp {
    pub made: Made,
    /// The hook that runs then. Its failure makes the backup no worse.
    pub after: Result<(), HookError>,
}

impl Claim {
    pub(crate) async fn give_back(self) {
        self.renewal.release().await;
    }
}

impl Made {
    pub(crate) fn manifest(&self) -> &v1::Manifest {
        match self {
            Self::New(committed) => &committed.manifest,
            Self::Unchanged(signed) => signed.get(),
        }
    }

    pub(crate) fn sha256(&self) -> ManifestSha256 {
        match self {
            Self::New(committed) => committed.sha256,
            Self::Unchanged(signed) => signed.sha256(),
        }
    }
}

impl BackedUp {
    /// What a person should know of the run.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let after = self.after.as_ref().err().map(|error| failure::message_of(error));
        self.made.manifest().warnings.iter().cloned().chain(after).collect()
    }
}

impl Job {
    /// Takes the source's lease, so that nobody else backs it up.
    pub(crate) async fn claim(&self) -> anyhow::Result<Claim> {
        let now = Timestamp::now();
        ensure_backups_count(&self.loaded.trusted_signers()?, &self.signing_key, now)?;
        let marker = self.marker(now).await?;
        let key = layout::backup_lease(&self.source.name);
        let renewal = Lease::take(self.store.clone(), key, now).await?.keep();
        Ok(Claim { marker, renewal })
    }

    /// The repository's, which is made where that may be.
    async fn marker(&self, now: Timestamp) -> anyhow::Result<Marker> {
        if !self.begins_repository && self.loaded.is_in_a_folder() {
            return catalog::find_marker(&*self.store).await?.ok_or_else(|| {
                let message = format!("there is no repository at {}", self.store.location());
                let hint = "mount the disk that it lies on; a new repository is made by a first backup by hand, \
                            `pgproof backup SOURCE`";
                Failure::new(Exit::NothingFound, message, hint).into()
            });
        }
        if self.begins_repository {
            self.loaded.make_place()?;
        }
        let new_id = RepositoryId::generate(&mut rand::rng());
        Ok(catalog::ensure_marker(&*self.store, new_id, now).await?)
    }

    /// The same for somebody who tries once and is gone: what stands in the way is told, too, unless it is another backup.
    pub(crate) async fn claim_or_tell(&self) -> anyhow::Result<Claim> {
        let claimed = self.claim().await;
        if let Err(error) = &claimed
            && failure::exit(error) != Exit::Busy
        {
            Box::pin(self.tell(Err(error))).await;
        }
        claimed
    }

    /// Backs up between the source's hooks, leaves a record of how it ended, and gives the lease back.
    pub(crate) async fn run(&self, claim: Claim) -> Attempt {
        let started_at = Timestamp::now();
        let id = BackupId::new(started_at, &mut rand::rng());
        let Claim { marker, renewal } = claim;
        let outcome = tokio::select! {
            outcome = self.back_up_between_hooks(Begun { marker: &marker, id: &id, started_at }) => outcome,
            lost = renewal.lost() => Err(anyhow!(lost).context("the lease on this source was lost")),
        };
        let outcome = match self.cancel.is_cancelled() {
            true if outcome.is_err() => Err(interrupted().into()),
            _ => outcome,
        };
        if let Err(error) = &outcome {
            self.tell_hook_of_failure(&id, error).await;
        }
        let is_recorded = self.record(&id, started_at, &outcome).await;
        renewal.release().await;
        let not_told = Box::pin(self.tell(outcome.as_ref())).await;
        Attempt { id, outcome, is_recorded, not_told }
    }

    async fn back_up_between_hooks(&self, begun: Begun<'_>) -> anyhow::Result<BackedUp> {
        let hooks = self.hooks(begun.id);
        hooks.run(Hook::Before, Outcome::Starting).await?;
        let made = self.back_up(&begun).await?;
        let after = hooks.run(Hook::After, Outcome::Committed).await;
        Ok(BackedUp { made, after })
    }

    /// There is no backup already: what happens to this program makes it no worse.
    async fn tell_hook_of_failure(&self, id: &BackupId, error: &anyhow::Error) {
        let told = failure::message(error);
        let outcome = match failure::cause(error) {
            Cause::Stopped => Outcome::Stopped { error: &told },
            Cause::Passing | Cause::Standing => Outcome::Failed { error: &told },
        };
        if let Err(error) = self.hooks(id).run(Hook::OnFailure, outcome).await {
            let error = failure::message(&error.into());
            tracing::warn!(source = %self.source.name, %error, "the hook on failure failed, too");
        }
    }

    fn hooks<'a>(&'a self, id: &'a BackupId) -> Surroundings<'a> {
        Surroundings { hooks: &self.source.hooks, source: &self.source.name, id, cancel: &self.cancel }
    }

    /// Tells whom the policy names of a failure, of its end, and whoever waits for whole backups of this one.
    async fn tell(&self, outcome: Result<&BackedUp, &anyhow::Error>) -> Vec<NotTold> {
        let (Some(policy), Ok(signers)) = (&self.loaded.policy.alerts, self.loaded.trusted_signers()) else {
            return Vec::new();
        };
        let (source, store) = (&self.source.name, &self.store);
        let (signing_key, own) = (Some(&self.signing_key), &Recollection::default());
        let teller = Teller { policy, source, store, signing_key, signers: &signers, own };
        let raised = match outcome {
            // That it was stopped somebody knows who stopped it.
            Err(error) if failure::cause(error) == Cause::Stopped => return Vec::new(),
            Err(error) => vec![Alert {
                kind: Kind::RunFailed,
                about: String::new(),
                subject: "the backup failed".to_owned(),
                text: told(error),
            }],
            Ok(_) => Vec::new(),
        };
        let mut not_told = teller.tell(&raised, &|kind, _| kind == Kind::RunFailed).await;
        if outcome.is_ok_and(|backed_up| backed_up.made.manifest().losses() == 0) {
            not_told.extend(teller.ping().await);
        }
        for NotTold { route, source: why } in &not_told {
            let why = failure::message_of(why);
            tracing::error!(%source, route, "an alert did not get through: {why}");
        }
        not_told
    }

    /// Answers whether the record could be stored.
    async fn record(&self, id: &BackupId, started_at: Timestamp, outcome: &anyhow::Result<BackedUp>) -> bool {
        let outcome = match outcome {
            Ok(backed_up) => match &backed_up.made {
                Made::New(_) => RunOutcome::Committed { warnings: backed_up.warnings() },
                Made::Unchanged(signed) => RunOutcome::Unchanged { since: signed.get().id.clone() },
            },
            Err(error) => RunOutcome::Failed { error: failure::record(error), cause: failure::cause(error) },
        };
        let run = Run {
            version: 1,
            source: self.source.name.clone(),
            id: id.clone(),
            started_at,
            ended_at: Timestamp::now(),
            host: host_name(),
            policy_sha256: Some(self.loaded.sha256.clone()),
            outcome,
        };
        let put =
            records::put(&*self.store, &layout::run(&self.source.name, id), &run, &self.signing_key).await;
        if let Err(error) = &put {
            let error = failure::message_of(error);
            tracing::warn!(source = %self.source.name, %error, "the record of this run could not be stored");
        }
        put.is_ok()
    }
}

/// Backups that nobody trusts are none: whoever made one would be told that all is well.
pub(crate) fn ensure_backups_count(
    signers: &TrustedSigners,
    signing_key: &SigningKey,
    now: Timestamp,
) -> anyhow::Result<()> {
    for namespace in [namespace::MANIFEST, namespace::RUN] {
        signers.would_accept(signing_key, namespace, now).map_err(|error| {
            let message = format!("backups of this host would not be trusted: {error}");
            let line = trusted_line("agent", &namespace::OF_AGENT, &signing_key.public_line());
            let hint =
                format!("add this line to `keys.trusted_signers` here and wherever backups are read: {line}");
            Failure::new(Exit::Usage, message, hint)
        })?;
    }
    Ok(())
}

fn told(error: &anyhow::Error) -> String {
    let hint = failure::hint(error).map(|hint| format!("\nhint: {hint}"));
    failure::record(error) + &hint.unwrap_or_default()
}
