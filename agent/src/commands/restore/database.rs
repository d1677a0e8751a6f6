//! Restoring a database: into a new one, and on request in the place of the old.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Kind, PostgresSource};
use pgproof_postgres::archive::selection::{Filter, QualifiedName};
use pgproof_postgres::client::{self, Program, Version};
use pgproof_postgres::connection::{ConnectionSpec, Environment};
use pgproof_postgres::globals::{self, ApplyOptions, Globals, Outcome};
use pgproof_postgres::restore::{
    Phase, Plan, Restore, RestoreError, RestoreReport, Room, Space, Unwatched, swap, write_archive,
};
use pgproof_postgres::source;
use pgproof_repository::keys::TerminalPrompts;
use pgproof_repository::manifest::SignedManifest;
use pgproof_repository::manifest::v1::{Postgres, Role, Server};
use pgproof_repository::{contents, layout};
use tokio_util::sync::CancellationToken;

use crate::commands::{Opened, note, print_json, say};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::{cli, plain};

/// Restores the dump that `signed` is of.
pub(super) async fn run(
    opened: &Opened,
    args: cli::Restore,
    signed: SignedManifest,
    dumped: &Postgres,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let postgres = reach(opened, &args.source)?;
    let now = Timestamp::now();
    let identities = opened.loaded.identities(Arc::new(TerminalPrompts))?;
    let inventory = contents::inventory(&opened.store, &signed, &identities).await?;
    if args.stdout {
        let archive = archive(&args, &signed)?;
        let output = std::io::stdout();
        return match write_archive(&opened.store, &signed, &inventory, &identities, &archive, output).await {
            // The reader has seen enough (`| head`).
            Err(RestoreError::Output { source }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
                Ok(ExitCode::SUCCESS)
            }
            written => Ok(written.map(|_| ExitCode::SUCCESS)?),
        };
    }

    let patience = opened.loaded.source(&args.source)?.no_progress_timeout;
    let patience = Duration::try_from(patience).unwrap_or(Duration::MAX);
    let target = target(&args, postgres)?.with_patience(patience);
    let (tools, manifest, server) = (source::tools(postgres), signed.get(), &dumped.server);
    let database = args.into.clone().unwrap_or_else(|| new_name(&signed, &dumped.server));
    let mut restore = Restore {
        store: opened.store.clone(),
        manifest: signed.clone(),
        inventory,
        identities: identities.clone(),
        tools,
        target: target.clone(),
        database: database.clone(),
        marker: None,
        jobs: args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        selection: selection(&args)?,
        no_owner: args.no_owner,
        no_acl: args.no_acl,
        without_extensions: Vec::new(),
        serial: args.serial,
        temp_root: std::env::temp_dir(),
        progress: Arc::new(Unwatched),
        cancel,
    };
    let plan = restore.plan()?;
    let needed = bytes_needed(&restore, server, &plan);
    let room = Space::of(&target).await.room_for(needed);
    if args.dry_run {
        say(&format!("{plan}\n  space          {}", told_room(&room, needed)))?;
        return Ok(ExitCode::SUCCESS);
    }
    refuse_too_little(&room, needed, args.ignore_space, json)?;
    refuse_vulnerable(opened, &restore, server, json).await?;
    if args.swap {
        confirm_swap(&server.database, args.yes)?;
    }
    if args.globals {
        let text = contents::globals(&opened.store, &signed, &identities).await?;
        apply_globals(&target, &text, json).await?;
    }
    // Only now: what is printed below a bar tears it.
    restore.progress = Arc::new(Watch { bar: Progress::new("restore", server.database_bytes, json) });
    let report = Box::pin(restore.run()).await;
    drop(restore);
    let report = report?;
    let renamed = match args.swap {
        true => Some(swap(&target, &database, &server.database, now).await?),
        false => None,
    };
    if json {
        let phases: serde_json::Map<_, _> = report
            .phases
            .iter()
            .map(|(phase, took)| (phase.as_str().to_owned(), took.as_secs_f64().into()))
            .collect();
        print_json(&serde_json::json!({
            "backup": manifest.id, "snapshot_at": manifest.snapshot.at, "database": database,
            "tables": report.tables, "rows": report.rows, "rows_compared": report.rows_compared,
            "bytes_fetched": report.bytes_fetched, "phase_seconds": phases, "warnings": report.warnings,
            "kept_as": renamed.as_ref().and_then(|renames| renames.kept.clone()),
        }))?;
    } else {
        print(&report, &database)?;
        if let Some(renames) = &renamed {
            let kept = renames.kept.as_deref().unwrap_or("nothing: there was none");
            say(&format!("database {} is the restored one; kept beside it: {kept}", renames.current))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where it is restored to, for the record of the act: as parsed, since what was given may hold a password.
pub(super) fn told_target(
    opened: &Opened,
    args: &cli::Restore,
    signed: &SignedManifest,
    server: &Server,
) -> anyhow::Result<Option<String>> {
    if args.stdout {
        return Ok(None);
    }
    let target = target(args, reach(opened, &args.source)?)?.describe();
    let database = args.into.clone().unwrap_or_else(|| new_name(signed, server));
    let swapped = if args.swap { ", in the place of the old one" } else { "" };
    Ok(Some(format!("database {database} by way of {target}{swapped}")))
}

/// How the policy reaches the source's server.
fn reach<'a>(opened: &'a Opened, source: &SourceName) -> anyhow::Result<&'a PostgresSource> {
    let kind = &opened.loaded.source(source)?.kind;
    match kind {
        Kind::Postgres(postgres) => Ok(postgres),
        Kind::Config(_) | Kind::Files(_) => {
            let message =
                format!("the backup is of a database, and source {source} is now of kind {}", kind.name());
            Err(Failure::new(Exit::Usage, message, "restore it with the policy that it was made with").into())
        }
    }
}

fn target(args: &cli::Restore, postgres: &PostgresSource) -> anyhow::Result<ConnectionSpec> {
    let environment = Environment::of_process();
    Ok(match &args.target {
        Some(uri) => ConnectionSpec::from_uri(uri, &environment, None)?,
        // The source's database may be gone; `postgres` is there on every server.
        None => source::connection(postgres, &environment)?.with_database("postgres"),
    })
}

/// The one that is to be written. Without all of them a backup is not whole, and nobody may take one for it.
fn archive(args: &cli::Restore, signed: &SignedManifest) -> anyhow::Result<String> {
    let count = signed.get().objects.iter().filter(|object| object.role == Role::Archive).count();
    match args.archive {
        None if count > 1 => {
            let message = format!("the backup has {count} archives, and standard output takes one");
            let hint = format!(
                "name it with --archive 0 to {}; `pgproof show` tells in which order they are restored",
                count - 1
            );
            Err(Failure::new(Exit::Usage, message, hint).into())
        }
        number => Ok(layout::archive_name(number.unwrap_or(0))),
    }
}

fn new_name(signed: &SignedManifest, server: &Server) -> String {
    let at = signed.snapshot_at().strftime("%Y%m%dt%H%M%Sz");
    let name: String = server.database.chars().take(40).collect();
    format!("{name}_{at}")
}

fn selection(args: &cli::Restore) -> anyhow::Result<Option<Filter>> {
    if args.table.is_empty() && args.schema.is_empty() {
        return Ok(None);
    }
    let tables: Result<Vec<QualifiedName>, _> = args.table.iter().map(|text| text.parse()).collect();
    Ok(Some(Filter { tables: tables?, schemas: args.schema.clone() }))
}

/// What the restored database takes: as much as it took where it was dumped, or the rows that were chosen.
fn bytes_needed(restore: &Restore, server: &Server, plan: &Plan) -> u64 {
    match restore.selection {
        None => server.database_bytes,
        Some(_) => plan.plain_bytes,
    }
}

fn told_room(room: &Room, needed: u64) -> String {
    let needed = plain::bytes(needed);
    match room {
        Room::Enough => format!("enough for {needed}"),
        Room::TooLittle { free, folder } => {
            format!("TOO LITTLE: {} free at {}, {needed} needed", plain::bytes(*free), folder.display())
        }
        Room::NotKnown { why } => format!("not known, {needed} needed: {why}"),
    }
}

/// Where the room is not known that is said, and stops nothing.
fn refuse_too_little(room: &Room, needed: u64, ignore: bool, json: bool) -> anyhow::Result<()> {
    if let Room::TooLittle { free, folder } = room
        && !ignore
    {
        let (free, needed) = (plain::bytes(*free), plain::bytes(needed));
        let message =
            format!("the target has {free} free at {}, and the database needs {needed}", folder.display());
        return Err(Failure::new(
            Exit::Failed,
            message,
            "free space there, name another server with --target, or insist with --ignore-space (where tablespaces lie \
             elsewhere, or the source was bloated)",
        )
        .into());
    }
    note(json, "space", &told_room(room, needed));
    Ok(())
}

/// Roles, memberships and tablespaces, as far as they are not there. What is there is left as it is.
async fn apply_globals(target: &ConnectionSpec, text: &str, json: bool) -> anyhow::Result<()> {
    let session = target.connect().await?;
    let options = ApplyOptions { change_existing_roles: false, tablespaces: true };
    for applied in globals::apply(&session, &Globals::parse(text)?, options).await? {
        match applied.outcome {
            Outcome::Done => {}
            outcome => note(json, "globals", &format!("{:?} {}: {outcome:?}", applied.kind, applied.object)),
        }
    }
    Ok(())
}

/// Names a `pg_restore` that a hostile archive could take over; refuses it where the policy says so.
async fn refuse_vulnerable(
    opened: &Opened,
    restore: &Restore,
    server: &Server,
    json: bool,
) -> anyhow::Result<()> {
    let major = Version::from_number(server.version_number).major;
    let tools = restore.tools.clone();
    let found = tokio::task::spawn_blocking(move || tools.find(Program::PgRestore, major)).await??;
    if !client::is_vulnerable_restore(found.version) {
        return Ok(());
    }
    let message = format!("pg_restore {} is older than the fix of CVE-2026-116314", found.version);
    if opened.loaded.policy.refuse_vulnerable_clients {
        return Err(Failure::new(
            Exit::Failed,
            message,
            "update the PostgreSQL client programs (15.20, 16.16, 17.12, 18.7 or later)",
        )
        .into());
    }
    note(json, "WARNING", &format!("{message}; only signed archives reach it"));
    Ok(())
}

/// A swap is confirmed by typing the database's name, or by `--yes`.
fn confirm_swap(database: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let refused = |message: String| Failure::new(Exit::Usage, message, "--yes confirms without a question");
    if !std::io::stdin().is_terminal() {
        return Err(refused(format!(
            "--swap takes the place of database {database:?} and nobody is there to confirm it"
        ))
        .into());
    }
    eprint!(
        "--swap takes the place of database {database:?}, which is kept under another name. Type its name to go on: "
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("no answer")?;
    match answer.trim() == database {
        true => Ok(()),
        false => Err(refused("not confirmed; nothing was done".to_owned()).into()),
    }
}

fn print(report: &RestoreReport, database: &str) -> anyhow::Result<()> {
    say(&format!("restored {} tables, {} rows into database {database}", report.tables, report.rows))?;
    match report.rows_compared {
        true => say("  every row was counted and digested on its way in, and is what was dumped")?,
        false => say("  rows were not compared on this path")?,
    }
    for (phase, took) in &report.phases {
        say(&format!("  {:<12}{:.1} s", phase.as_str(), took.as_secs_f64()))?;
    }
    for warning in &report.warnings {
        say(&format!("  warning     {warning}"))?;
    }
    Ok(())
}

/// Shows a restore's progress.
#[derive(Debug)]
struct Watch {
    bar: Progress,
}

impl pgproof_postgres::restore::Progress for Watch {
    fn phase(&self, phase: Phase) {
        self.bar.step(phase.as_str());
    }

    fn loading(&self, table: &str) {
        self.bar.at(table);
    }

    fn bytes(&self, done: u64, total: u64) {
        self.bar.reach(done, total);
    }

    fn note(&self, text: &str) {
        tracing::info!("{text}");
    }
}
