//! `pgproof-verifier restorability`: whether the keys that the policy encrypts to can still open what is sealed to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use pgproof_monitoring::answer;
use pgproof_policies::names::SourceName;
use pgproof_repository::catalog::{self, Entry};
use pgproof_repository::custody::{self, CHALLENGE_LIFE, Canary, Challenge, Custody, Shown};
use pgproof_repository::keys::{Identities, Recipients, TerminalPrompts};
use pgproof_repository::lease::host_name;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::{contents, layout, records};

use crate::cli;
use crate::failure::{Exit, Failure, chain};
use crate::report::export;
use crate::verifier::Verifier;

/// A key that nobody has seen at work for longer than this counts as not shown. Once a year is what custodians can be
/// asked for.
const SHOWN_FOR: SignedDuration = SignedDuration::from_hours(366 * 24);

pub(crate) async fn run(policy: &Path, args: cli::Restorability, json: bool) -> anyhow::Result<ExitCode> {
    let verifier = Verifier::open(policy).await?;
    verifier.loaded.source(&args.source)?;
    let recipients = verifier.loaded.recipients()?.public_lines();
    match &args.challenge {
        Some(folder) => challenge(&verifier, &args.source, &recipients, folder, json).await,
        None => show(&verifier, &args, recipients, json).await,
    }
}

/// Hands out a canary for each recipient, to be opened where its key is.
async fn challenge(
    verifier: &Verifier,
    source: &SourceName,
    recipients: &[String],
    folder: &Path,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let canaries: Result<Vec<Canary>, _> =
        recipients.iter().map(|recipient| Canary::of(recipient, &mut rand::rng())).collect();
    let canaries = canaries.context("a canary cannot be sealed")?;
    let secrets = canaries.iter().map(|canary| (canary.recipient.clone(), canary.secret_sha256.clone()));
    let challenge = Challenge {
        version: 1,
        source: source.clone(),
        at: now,
        expires_at: now + CHALLENGE_LIFE,
        host: host_name(),
        canaries: secrets.collect(),
    };
    export::make_folder(folder)?;
    let mut files = BTreeMap::new();
    for (number, canary) in canaries.iter().enumerate() {
        let path = folder.join(format!("canary-{}.age", number + 1));
        export::put(&path, &canary.sealed)?;
        files.insert(canary.recipient.clone(), path);
    }
    // A canary that nobody has is harmless; an answer to a challenge that is not on record would count for nothing.
    records::put(&*verifier.store, &layout::challenge(source, now), &challenge, &verifier.signing_key)
        .await?;
    if json {
        let document = serde_json::json!({ "files": files, "expires_at": challenge.expires_at });
        answer::print_json(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines: Vec<String> =
        files.iter().map(|(recipient, path)| format!("{} is for {recipient}", path.display())).collect();
    lines.push(String::new());
    lines.push("where the key is:  age -d -i KEY canary-N.age > answer-N.txt".to_owned());
    lines.push(format!("back here:         pgproof-verifier restorability {source} --answer answer-N.txt"));
    lines.push(format!("until {}", challenge.expires_at.strftime("%Y-%m-%d")));
    answer::say(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(
    verifier: &Verifier,
    args: &cli::Restorability,
    recipients: Vec<String>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let (source, store, signers) = (&args.source, &verifier.store, &verifier.signers);
    let entries = catalog::list(store, source, signers).await?;
    let newest = catalog::choose(&entries, Timestamp::MAX).map(|choice| choice.backup);
    let earlier = custody::last_shown(store, source, signers).await?;
    let answered = answered(verifier, args, now).await?;
    let keys = key_files(verifier, args)?;

    let (mut shown, mut has_opened) = (Vec::new(), false);
    for recipient in recipients {
        let mut entry =
            Shown { shown_at: earlier.get(&recipient).copied(), key: recipient, how: None, problem: None };
        if let Some(how) = answered.get(&entry.key) {
            entry.how = Some(how.clone());
        }
        for key in &keys {
            match try_key(verifier, &entry.key, key, newest).await {
                Ok(true) => {
                    entry.how = Some(format!("identity file {}", key.path.display()));
                    has_opened = true;
                }
                Ok(false) => {}
                Err(problem) => entry.problem = Some(problem),
            }
        }
        if entry.how.is_some() {
            entry.shown_at = Some(now);
        }
        shown.push(entry);
    }
    let record = Custody {
        version: 1,
        source: source.clone(),
        repository: verifier.marker.id.clone(),
        at: now,
        host: host_name(),
        backup: newest.map(|signed| signed.get().id.clone()),
        recipients: shown,
    };
    records::put(&**store, &layout::custody(source, now), &record, &verifier.signing_key).await?;
    match json {
        true => answer::print_json(&record)?,
        false => answer::say(&told(&record, &entries, newest, has_opened))?,
    }
    verdict(&record)
}

/// An identity file, opened.
struct KeyFile {
    path: PathBuf,
    identities: Identities,
}

fn key_files(verifier: &Verifier, args: &cli::Restorability) -> anyhow::Result<Vec<KeyFile>> {
    let paths = verifier.loaded.policy.identity_files.iter().chain(&args.identity);
    let open = |path: &PathBuf| {
        let identities = Identities::load(&[path], Arc::new(TerminalPrompts))?;
        Ok(KeyFile { path: path.clone(), identities })
    };
    paths.map(open).collect()
}

/// Whether the key opens what is sealed to the recipient alone. One that does must open the newest backup, too.
async fn try_key(
    verifier: &Verifier,
    recipient: &str,
    key: &KeyFile,
    newest: Option<&SignedManifest>,
) -> Result<bool, String> {
    let (recipient, identities) = (recipient.to_owned(), key.identities.clone());
    let opens = move || custody::opens(&recipient, &identities, &mut rand::rng());
    let opens = tokio::task::spawn_blocking(opens).await.map_err(|error| error.to_string())?;
    if !opens.map_err(|error| chain(&error))? {
        return Ok(false);
    }
    if let Some(signed) = newest {
        contents::inventory(&verifier.store, signed, &key.identities).await.map_err(|error| {
            format!("opens its canary and not backup {}: {}", signed.get().id, chain(&error))
        })?;
    }
    Ok(true)
}

/// Recipients whose custodians answered a challenge, and how.
async fn answered(
    verifier: &Verifier,
    args: &cli::Restorability,
    now: Timestamp,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut answered = BTreeMap::new();
    if args.answer.is_empty() {
        return Ok(answered);
    }
    let challenges = custody::challenges(&verifier.store, &args.source, &verifier.signers).await?;
    for path in &args.answer {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let found = challenges.iter().find_map(|challenge| {
            challenge.answered_by(&text, now).map(|recipient| (recipient.to_owned(), challenge.at))
        });
        let (recipient, at) = found.ok_or_else(|| {
            let message = format!("{} answers no challenge that is still open", path.display());
            Failure::new(
                Exit::CheckFailed,
                message,
                "it holds what `age -d` wrote; a challenge runs out after 30 days",
            )
        })?;
        answered.insert(recipient, format!("challenge of {}", at.strftime("%Y-%m-%d")));
    }
    Ok(answered)
}

/// `has_opened`: whether a key that is here opened the newest backup.
fn told(record: &Custody, entries: &[Entry], newest: Option<&SignedManifest>, has_opened: bool) -> String {
    let mut lines = Vec::new();
    for shown in &record.recipients {
        let state = match (&shown.how, shown.shown_at, &shown.problem) {
            (_, _, Some(problem)) => format!("FAILED: {problem}"),
            (Some(how), ..) => format!("shown now, {how}"),
            (None, Some(at), _) => format!("last shown {}", at.strftime("%Y-%m-%d %H:%M UTC")),
            (None, None, _) => "never shown".to_owned(),
        };
        lines.push(format!("{}  {state}", shown.key));
    }
    match newest {
        Some(signed) => {
            let id = &signed.get().id;
            let who = if has_opened { "keys on this host" } else { "no key on this host" };
            lines.push(format!("{who} opened the newest backup, {id}"));
            let missing = missing_recipients(record, signed).into_iter();
            lines.extend(missing.map(|missing| format!("warning: backup {id} is not sealed to {missing}")));
        }
        None => lines.push(format!("no good backup among {} to try the keys on", entries.len())),
    }
    lines.join("\n")
}

/// Recipients of the policy that the backup is not sealed to: the policy was changed since.
fn missing_recipients<'a>(record: &'a Custody, signed: &SignedManifest) -> Vec<&'a str> {
    let sealed_to =
        Recipients::parse(&signed.get().recipients).map(|known| known.public_lines()).unwrap_or_default();
    record
        .recipients
        .iter()
        .map(|shown| &*shown.key)
        .filter(|key| !sealed_to.iter().any(|known| known == key))
        .collect()
}

fn verdict(record: &Custody) -> anyhow::Result<ExitCode> {
    if let Some(failed) = record.recipients.iter().find(|shown| shown.problem.is_some()) {
        let message = format!("the key of {} does not open what is sealed to it", failed.key);
        let hint = "replace the recipient in the policy by one whose key is at hand, and back up again";
        return Err(Failure::new(Exit::CheckFailed, message, hint).into());
    }
    let stale = |shown: &&Shown| shown.shown_at.is_none_or(|at| record.at.duration_since(at) > SHOWN_FOR);
    let missing: Vec<_> = record.recipients.iter().filter(stale).map(|shown| &*shown.key).collect();
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!("not shown within a year: {}", missing.join(", "));
    let hint = "give the key with --identity, or send its custodian a canary: --challenge DIR";
    Err(Failure::new(Exit::NotRun, message, hint).into())
}
