//! `pgproof-verifier doctor`: tries all that drills need against the real store and host.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_monitoring::answer;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Kind, Source};
use pgproof_postgres::cluster;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Standing};
use pgproof_repository::custody;
use pgproof_repository::doctor::host::{self, Signs};
use pgproof_repository::doctor::store::{self, Role};
use pgproof_repository::doctor::{Document, Line, Verdict, chain, has_failed, text};
use pgproof_repository::keys::NoPrompts;
use pgproof_repository::manifest::v1;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::drill::scratch;
use crate::failure::{Exit, Failure};

/// A restored database and its write-ahead log beside what it measured.
const ROOM_PERCENT: u64 = 130;

pub(crate) async fn run(
    policy: &Path,
    args: cli::Doctor,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let loaded = LoadedPolicy::read(policy)?.for_verifier();
    let chosen = chosen(&loaded, &args.source)?;
    let names: Vec<SourceName> = chosen.iter().map(|source| source.name.clone()).collect();
    let mut lines = host::keys(&loaded, Signs::Reports, Timestamp::now());
    lines.push(identities(&loaded).await);
    lines.push(host::zone(&loaded));
    let tried = Box::pin(store::lines(&loaded, Role::Verifier, names, &cancel)).await;
    lines.extend(tried.map_err(|store::Stopped| stopped())?);
    let of_sources = tokio::select! {
        lines = Box::pin(of_sources(&loaded, &chosen)) => lines,
        () = cancel.cancelled() => return Err(stopped().into()),
    };
    lines.extend(of_sources);
    match json {
        true => answer::print_json(&Document::of(&lines))?,
        false => answer::say(&told(&lines))?,
    }
    Ok(if has_failed(&lines) { Exit::NotRun.into() } else { ExitCode::SUCCESS })
}

/// The databases of the policy: nothing else is drilled.
fn chosen(loaded: &LoadedPolicy, names: &[SourceName]) -> anyhow::Result<Vec<Source>> {
    if names.is_empty() {
        let is_database = |source: &&Source| matches!(source.kind, Kind::Postgres(_));
        return Ok(loaded.policy.sources.values().filter(is_database).cloned().collect());
    }
    Ok(names.iter().map(|name| loaded.source(name).cloned()).collect::<Result<_, _>>()?)
}

/// Keys that can be read may be another host's: each is tried on what is sealed to the policy's recipients.
async fn identities(loaded: &LoadedPolicy) -> Line {
    let line = |verdict, text: String| Line::new(verdict, "host", "identities", text);
    let opened = loaded.identities(Arc::new(NoPrompts)).and_then(|keys| Ok((keys, loaded.recipients()?)));
    let (identities, recipients) = match opened {
        Ok((identities, recipients)) => (identities, recipients.public_lines()),
        Err(error) => return line(Verdict::Fail, chain(&error)).maybe_hint(error.hint()),
    };
    let all = recipients.len();
    let tried = tokio::task::spawn_blocking(move || {
        let tried = recipients.iter().map(|key| custody::opens(key, &identities, &mut rand::rng()));
        tried.collect::<Vec<_>>()
    });
    let tried = match tried.await {
        Ok(tried) => tried,
        Err(error) => return line(Verdict::Fail, chain(&error)),
    };
    let opened = tried.iter().filter(|opens| matches!(opens, Ok(true))).count();
    match (opened, tried.into_iter().find_map(Result::err)) {
        (0, Some(error)) => line(Verdict::Fail, chain(&error)),
        (0, None) => {
            line(Verdict::Fail, "none is of the policy's recipients: no drill opens a backup".to_owned())
                .hint("give the identity file of one of `keys.recipients`: keys.identity_files in the policy")
        }
        (opened, _) => line(Verdict::Ok, format!("they open what is sealed to {opened} of {all} recipients")),
    }
}

/// What was backed up last says what a drill of it takes.
async fn of_sources(loaded: &LoadedPolicy, sources: &[Source]) -> Vec<Line> {
    let (mut lines, mut largest) = (Vec::new(), None);
    for source in sources {
        let about = format!("source {}", source.name);
        match newest(loaded, &source.name).await {
            Ok(Some(dumped)) => {
                largest = largest.max(Some(dumped.server.database_bytes));
                lines.extend(scratch::examine(&about, source, &dumped.server).await);
            }
            Ok(None) => {
                lines.push(Line::new(Verdict::NotTried, &about, "drill", "there is no backup of it yet"))
            }
            Err(why) => lines.push(Line::new(Verdict::Fail, &about, "drill", why)),
        }
    }
    let wanted = largest.map(|bytes| bytes / 100 * ROOM_PERCENT);
    lines.push(host::room("room for drills", Path::new(cluster::ROOT), wanted));
    lines
}

async fn newest(loaded: &LoadedPolicy, source: &SourceName) -> Result<Option<v1::Postgres>, String> {
    let store = loaded.open_store().await.map_err(|error| chain(&error))?;
    let signers = loaded.trusted_signers().map_err(|error| chain(&error))?;
    match catalog::newest(&store, source, &signers).await {
        Ok(Some((_, Standing::Whole(signed)))) => Ok(signed.get().postgres().cloned()),
        Ok(Some((id, _))) => Err(format!("the newest backup, {id}, cannot be used")),
        Ok(None) => Ok(None),
        Err(error) => Err(chain(&error)),
    }
}

fn told(lines: &[Line]) -> String {
    if !std::io::stdout().is_terminal() {
        return text::plain(lines);
    }
    text::table(lines, std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()))
}

fn stopped() -> Failure {
    let hint = "what was put below doctor/ was removed where these credentials may; run it again";
    Failure::new(Exit::Interrupted, "stopped by a signal", hint)
}
