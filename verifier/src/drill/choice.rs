//! Which backup a drill takes, and what the catalog says about it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgproof_policies::moment;
use pgproof_policies::names::SourceName;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Entry};
use pgproof_repository::chain;
use pgproof_repository::ids::BackupId;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::SharedStore;

use crate::failure::{Exit, Failure};
use crate::verifier::Verifier;
use pgproof_repository::report::{Outcome, v1};

/// Which backup is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Pick {
    /// The newest from this time or before.
    At(String),
    Backup(BackupId),
    Newest,
}

/// A signed backup of this repository.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub signed: SignedManifest,
    pub choice: v1::Choice,
    /// Whether it is the one that was asked for, or one stands aside that is nearer and cannot be used.
    pub selection: Outcome,
    /// Whether every backup names the one before it, back to the first.
    pub chain: Outcome,
}

pub(crate) async fn choose(
    verifier: &Verifier,
    source: &SourceName,
    pick: &Pick,
    entries: &[Entry],
    now: Timestamp,
) -> anyhow::Result<Chosen> {
    let Verifier { store, signers, marker, .. } = verifier;
    let at = at(&verifier.loaded, pick, now)?;
    let (signed, selection) = match pick {
        Pick::Backup(id) => (catalog::find(store, source, id, signers).await?, Outcome::Passed),
        Pick::At(_) | Pick::Newest => nearest(entries, at)?,
    };
    if signed.get().repository != marker.id {
        let message = format!("backup {} was made for another repository", signed.get().id);
        return Err(Failure::new(
            Exit::CheckFailed,
            message,
            "it was copied here; drill it where it belongs",
        )
        .into());
    }
    let (rule, asked) = match pick {
        Pick::Backup(id) => ("backup", Some(id.to_string())),
        Pick::At(at) => ("at", Some(at.clone())),
        Pick::Newest => ("newest", None),
    };
    let candidates = entries.iter().filter_map(Entry::whole).count() as u64;
    let choice = v1::Choice { rule: rule.to_owned(), asked, candidates };
    Ok(Chosen { chain: chain_outcome(store, entries, signers).await, signed, selection, choice })
}

fn at(loaded: &LoadedPolicy, pick: &Pick, now: Timestamp) -> anyhow::Result<Timestamp> {
    // Without a time, the newest of all, whatever this host's clock says.
    let Pick::At(text) = pick else { return Ok(Timestamp::MAX) };
    Ok(moment::parse(text, loaded.policy.zone.as_deref(), &TimeZone::system(), now)?)
}

fn nearest(entries: &[Entry], at: Timestamp) -> anyhow::Result<(SignedManifest, Outcome)> {
    let Some(choice) = catalog::choose(entries, at) else {
        let message = "there is no good backup from that time or before";
        return Err(Failure::new(Exit::NothingFound, message, "`pgproof list` shows what is there").into());
    };
    let nearer: Vec<_> = choice.unusable.iter().map(|entry| entry.id.to_string()).collect();
    let selection = match nearer.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Degraded { reason: format!("nearer and not usable: {}", nearer.join(", ")) },
    };
    Ok((choice.backup.clone(), selection))
}

async fn chain_outcome(store: &SharedStore, entries: &[Entry], signers: &TrustedSigners) -> Outcome {
    let whole: Vec<_> = entries.iter().filter_map(Entry::whole).collect();
    match chain::breaks_among(store, &whole, signers).await {
        Err(error) => Outcome::NotRun { reason: crate::failure::chain(&error) },
        Ok(breaks) if breaks.is_empty() => Outcome::Passed,
        Ok(breaks) => {
            let breaks: Vec<_> = breaks.iter().map(ToString::to_string).collect();
            Outcome::Degraded { reason: breaks.join("; ") }
        }
    }
}
