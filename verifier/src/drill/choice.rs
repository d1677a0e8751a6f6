//! Which backup a drill takes, and what the catalog says about it.

use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgproof_policies::cadence::randomness_of;
use pgproof_policies::policy::Source;
use pgproof_policies::{drills, moment};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Entry};
use pgproof_repository::chain;
use pgproof_repository::ids::BackupId;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::Postgres;
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::SharedStore;

use super::agenda::{self, NothingDue};
use crate::failure::{Exit, Failure};
use crate::verifier::Verifier;
use pgproof_repository::report::chain::Found;
use pgproof_repository::report::{Outcome, v1};

/// Rules as reports name them; the schedule's picks are told from one another by these two.
pub(super) const NEWEST: &str = "newest";
pub(super) const UNPROVED: &str = "unproved";

/// Which backup is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Pick {
    /// The newest from this time or before.
    At(String),
    Backup(BackupId),
    Newest,
    Oldest,
    /// Any of the good ones.
    Random,
    /// One that was never proved, or else the one that was proved longest ago.
    Unproved,
    /// What the schedule asks for; [`NothingDue`] where that is nothing.
    Due,
}

/// A signed backup of this repository.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub signed: SignedManifest,
    /// What the manifest says of the database.
    pub dumped: Postgres,
    pub choice: v1::Choice,
    /// Whether it is the one that was asked for, or one stands aside that is nearer and cannot be used.
    pub selection: Outcome,
    /// Whether every backup names the one before it, back to the first.
    pub chain: Outcome,
}

pub(crate) async fn choose(
    verifier: &Verifier,
    source: &Source,
    pick: &Pick,
    entries: &[Entry],
    past: &[Found],
    now: Timestamp,
) -> anyhow::Result<Chosen> {
    let Verifier { store, signers, .. } = verifier;
    let at = at(&verifier.loaded, pick, now)?;
    let mut rule = rule(pick);
    let (signed, selection) = match pick {
        Pick::Backup(id) => (catalog::find(store, &source.name, id, signers).await?, Outcome::Passed),
        Pick::At(_) | Pick::Newest => nearest(entries, at)?,
        Pick::Oldest | Pick::Random | Pick::Unproved => (by_rule(pick, entries)?, Outcome::Passed),
        Pick::Due => {
            let plan = agenda::plan(verifier, source, entries, past, now)?;
            let nothing = || NothingDue { wake_at: plan.wake_at(now), shortfall: plan.shortfall };
            let due = plan.due().first().ok_or_else(nothing)?;
            rule = agenda::rule(due.reason);
            (of_id(entries, &due.id)?, selection_of_due(entries, due))
        }
    };
    let dumped = signed.get().postgres().cloned().ok_or_else(|| no_database(signed.get().contents.kind()))?;
    let asked = match pick {
        Pick::Backup(id) => Some(id.to_string()),
        Pick::At(at) => Some(at.clone()),
        Pick::Newest | Pick::Oldest | Pick::Random | Pick::Unproved | Pick::Due => None,
    };
    let candidates = entries.iter().filter_map(Entry::whole).count() as u64;
    let choice = v1::Choice { rule: rule.to_owned(), asked, candidates };
    Ok(Chosen { chain: chain_outcome(store, entries, signers).await, signed, dumped, selection, choice })
}

fn rule(pick: &Pick) -> &'static str {
    match pick {
        Pick::Backup(_) => "backup",
        Pick::At(_) => "at",
        Pick::Newest => NEWEST,
        Pick::Oldest => "oldest",
        Pick::Random => "random",
        Pick::Unproved | Pick::Due => UNPROVED,
    }
}

fn by_rule(pick: &Pick, entries: &[Entry]) -> anyhow::Result<SignedManifest> {
    let randomness = RandomState::new().hash_one(0);
    let backups = agenda::backups(entries);
    let chance = |backup: &&drills::Backup| randomness_of((randomness, &backup.id));
    let found = match pick {
        Pick::Oldest => backups.iter().min_by_key(|backup| (backup.snapshot_at, &backup.id)),
        Pick::Random => backups.iter().min_by_key(chance),
        _ => drills::least_proved(&backups, randomness),
    };
    of_id(entries, &found.ok_or_else(|| nothing_good("there is no good backup"))?.id)
}

fn of_id(entries: &[Entry], id: &str) -> anyhow::Result<SignedManifest> {
    let signed = entries.iter().filter_map(Entry::whole).find(|signed| signed.get().id.as_str() == id);
    Ok(signed.cloned().ok_or_else(|| nothing_good("the backup was removed"))?)
}

/// The newest that is good may not be the newest that there is.
fn selection_of_due(entries: &[Entry], due: &drills::Pick) -> Outcome {
    if due.reason != drills::Reason::Newest {
        return Outcome::Passed;
    }
    let nearer = |entry: &&Entry| {
        entry.id.as_str() != due.id
            && entry.id.started_at() >= due.snapshot_at
            && match &entry.standing {
                catalog::Standing::Whole(_) => entry.proofs.is_refuted(),
                catalog::Standing::Quarantined(_) | catalog::Standing::Unsigned => true,
                catalog::Standing::Incomplete | catalog::Standing::Pruned => false,
            }
    };
    passed_over(entries.iter().filter(nearer))
}

fn passed_over<'a>(nearer: impl Iterator<Item = &'a Entry>) -> Outcome {
    let nearer: Vec<_> = nearer.map(|entry| entry.id.to_string()).collect();
    match nearer.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Degraded { reason: format!("nearer and not usable: {}", nearer.join(", ")) },
    }
}

/// Only databases are drilled.
pub(super) fn no_database(kind: &str) -> Failure {
    let hint = "`pgproof check --read-data` reads through backups of other kinds";
    Failure::new(Exit::Usage, format!("a source of kind {kind} is no database, and cannot be drilled"), hint)
}

fn nothing_good(message: &str) -> Failure {
    Failure::new(Exit::NothingFound, message, "`pgproof list` shows what is there")
}

fn at(loaded: &LoadedPolicy, pick: &Pick, now: Timestamp) -> anyhow::Result<Timestamp> {
    // Without a time, the newest of all, whatever this host's clock says.
    let Pick::At(text) = pick else { return Ok(Timestamp::MAX) };
    Ok(moment::parse(text, loaded.policy.zone.as_deref(), &TimeZone::system(), now)?)
}

fn nearest(entries: &[Entry], at: Timestamp) -> anyhow::Result<(SignedManifest, Outcome)> {
    let choice = catalog::choose(entries, at)
        .ok_or_else(|| nothing_good("there is no good backup from that time or before"))?;
    Ok((choice.backup.clone(), passed_over(choice.unusable.into_iter())))
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
