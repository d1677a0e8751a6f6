//! `pgproof-verifier doctor`: tries all that drills need against the real store and host.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Kind, Source};
use pgproof_postgres::cluster;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::catalog::{self, Standing};
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
    lines.push(identities(&loaded));
    lines.push(host::zone(&loaded));
    let tried = Box::pin(store::lines(&loaded, Role::Verifier, names, &cancel)).await;
    lines.extend(tried.map_err(|store::Stopped| stopped())?);
    let of_sources = tokio::select! {
        lines = Box::pin(of_sources(&loaded, &chosen)) => lines,
        () = cancel.cancelled() => return Err(stopped().into()),
    };
    lines.extend(of_sources);
    match json {
        true => println!("{}", serde_json::to_string_pretty(&Document::of(&lines))?),
        false => println!("{}", told(&lines)),
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

fn identities(loaded: &LoadedPolicy) -> Line {
    match loaded.identities(Arc::new(NoPrompts)) {
        Ok(_) => Line::new(
            Verdict::Ok,
            "host",
            "identities",
            "they can be used; `restorability` shows what they open",
        ),
        Err(error) => Line::new(Verdict::Fail, "host", "identities", chain(&error)).maybe_hint(error.hint()),
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
