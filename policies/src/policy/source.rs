//! The sections `[sources.…]`: what is backed up, when, and how long it is kept.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Alarms, COMPRESSION_LEVEL_DEFAULT, Connection, Hooks, JOBS_DEFAULT, JOBS_MAX, Kind, LOCK_WAIT_DEFAULT,
    NO_PROGRESS_TIMEOUT_DEFAULT, Objectives, PostgresSource, Source, Timing, Verification, alarms,
    configuration, files, hooks,
    raw::{Field, Report, Table},
    timing, values, verification,
};
use crate::{
    names::SourceName,
    retention::{Retention, removal::ShareMax},
};

/// zstd levels above this need more memory than a backup may take.
const COMPRESSION_LEVEL_MAX: u32 = 19;
/// Backups per rule: hourly ones of more than ten years.
const KEEP_MAX: u32 = 100_000;

const RETENTION: &str = "must say how many backups are kept, such as `{ daily = 30, monthly = 12 }`, or \
                         `{ keep_all = true }`";
const NO_VERIFICATION: &str =
    "must be left out: only databases are drilled, and `pgproof check --read-data` reads the others through";
const NO_INCREMENTAL: &str = "must be left out: only backups of files are incremental";
const CONNECTION_KEYS: [&str; 3] = ["connection", "service", "from_environment"];

pub(super) fn read_all(
    table: Table<'_>,
    client_dirs: &[PathBuf],
    report: &mut Report<'_>,
) -> BTreeMap<SourceName, Source> {
    let here = table.path_of("<name>");
    let offset = table.offset();
    let tables = table.named_tables(report);
    if tables.is_empty() {
        report.add(offset, &here, "must be there at least once", Some("nothing".to_owned()));
    }
    let mut sources = BTreeMap::new();
    for (field, table) in tables {
        let name = match field.value.parse::<SourceName>() {
            Ok(name) => Some(name),
            Err(error) => {
                report.refuse(&field, &error.to_string(), None);
                None
            }
        };
        let body = read(table, client_dirs, report);
        if let (Some(name), Some(body)) = (name, body) {
            sources.insert(name.clone(), body.named(name));
        }
    }
    sources
}

/// A source but for its name.
struct Body {
    kind: Kind,
    schedule: Option<String>,
    objectives: Objectives,
    retention: Retention,
    compression_level: i32,
    jobs: u32,
    verification: Option<Verification>,
    no_progress_timeout: jiff::SignedDuration,
    timing: Timing,
    hooks: Hooks,
    alarms: Alarms,
}

impl Body {
    fn named(self, name: SourceName) -> Source {
        Source {
            name,
            kind: self.kind,
            schedule: self.schedule,
            objectives: self.objectives,
            retention: self.retention,
            compression_level: self.compression_level,
            jobs: self.jobs,
            verification: self.verification,
            no_progress_timeout: self.no_progress_timeout,
            timing: self.timing,
            hooks: self.hooks,
            alarms: self.alarms,
        }
    }
}

fn read(mut table: Table<'_>, client_dirs: &[PathBuf], report: &mut Report<'_>) -> Option<Body> {
    let kind = kind(&mut table, client_dirs, report);
    let schedule = table.schedule("schedule", report);
    let timing = timing::read(&mut table, schedule.as_deref(), report);
    match &kind {
        Some(Kind::Files(source)) => files::refuse_rhythm(source, schedule.as_deref(), &table, report),
        Some(_) if table.has("incremental") => {
            table.table("incremental", report);
            table.refuse("incremental", NO_INCREMENTAL, None, report);
        }
        _ => {}
    }
    let hooks = table.table("hooks", report).map(|table| hooks::read(table, report)).unwrap_or_default();
    let objectives = table.table("objectives", report).map(|table| objectives(table, report));
    let verification_is_there = table.has("verification");
    if verification_is_there && kind.as_ref().is_some_and(|kind| !matches!(kind, Kind::Postgres(_))) {
        table.refuse("verification", NO_VERIFICATION, None, report);
    }
    let verification =
        table.table("verification", report).and_then(|table| verification::read(table, report));
    if !table.has("retention") {
        table.missing("retention", RETENTION, report);
    }
    let retention =
        table.table("retention", report).map(|table| retention(table, verification_is_there, report));
    let alarms = table.table("alarms", report).map(|table| alarms::read(table, report)).unwrap_or_default();
    let level = table.number("compression_level", 1..=COMPRESSION_LEVEL_MAX, report);
    let jobs = table.number("jobs", 1..=JOBS_MAX, report).unwrap_or(JOBS_DEFAULT);
    let no_progress_timeout =
        table.duration("no_progress_timeout", report).unwrap_or(NO_PROGRESS_TIMEOUT_DEFAULT);
    table.finish(report);
    Some(Body {
        kind: kind?,
        schedule,
        objectives: objectives.unwrap_or_default(),
        retention: retention?,
        compression_level: level.map_or(COMPRESSION_LEVEL_DEFAULT, u32::cast_signed),
        jobs,
        verification,
        no_progress_timeout,
        timing,
        hooks,
        alarms,
    })
}

/// What is backed up. Where that is not said, what a database needs is asked for.
fn kind(table: &mut Table<'_>, client_dirs: &[PathBuf], report: &mut Report<'_>) -> Option<Kind> {
    let constraint = "must be \"postgres\", \"files\" or \"config\"";
    if !table.has("kind") {
        table.missing("kind", constraint, report);
    }
    let known = |kind: &str| ["postgres", "files", "config"].contains(&kind).then(|| kind.to_owned());
    match table.converted("kind", constraint, report, known) {
        Some(kind) if kind.value == "files" => files::read(table, report).map(Kind::Files),
        Some(kind) if kind.value == "config" => configuration::read(table, report).map(Kind::Config),
        _ => postgres(table, client_dirs, report).map(Kind::Postgres),
    }
}

fn postgres(
    table: &mut Table<'_>,
    client_dirs: &[PathBuf],
    report: &mut Report<'_>,
) -> Option<PostgresSource> {
    let connection = connection(table, report);
    let password_file = table.path("password_file", report);
    let (exclude_tables, exclude_table_data) =
        (patterns(table, "exclude_tables", report), patterns(table, "exclude_table_data", report));
    let lock_wait = table.duration("lock_wait", report).unwrap_or(LOCK_WAIT_DEFAULT);
    let snapshot_max = table.duration("snapshot_max", report);
    let client_dirs = client_dirs.to_vec();
    Some(PostgresSource {
        connection: connection?,
        password_file,
        client_dirs,
        exclude_tables,
        exclude_table_data,
        lock_wait,
        snapshot_max,
    })
}

/// Patterns of `pg_dump` for tables. It runs without a search path, so that one without a schema would match nothing, and
/// what was to be left out would be dumped.
fn patterns(table: &mut Table<'_>, key: &'static str, report: &mut Report<'_>) -> Vec<String> {
    let mut patterns = Vec::new();
    for Field { value, path, offset } in table.texts(key, report) {
        // What is between quotes is a name, dots and all.
        if value.split('"').step_by(2).any(|unquoted| unquoted.contains('.')) {
            patterns.push(value);
        } else {
            let constraint =
                "must name a schema too, as in \"public.visits\", or \"*.visits\" for any schema";
            report.add(offset, &path, constraint, Some(value));
        }
    }
    patterns
}

pub(super) fn connection(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Connection> {
    let present: Vec<&str> = CONNECTION_KEYS.into_iter().filter(|key| table.has(key)).collect();
    match present[..] {
        [] => {
            let constraint =
                "must be a connection URI, unless `service` or `from_environment = true` is there";
            table.missing("connection", constraint, report);
        }
        [_] => {}
        [_, ref more @ ..] => {
            for key in more {
                let constraint = "must be the only one of `connection`, `service` and `from_environment`";
                table.refuse(key, constraint, None, report);
            }
        }
    }
    let uri = table.secret_text("connection", "must be a connection URI in quotes", report);
    let problem = uri.as_ref().and_then(|uri| values::connection_problem(&uri.value));
    if let (Some(uri), Some(problem)) = (&uri, problem) {
        report.refuse(uri, problem, None);
    }
    let service = table.text("service", report);
    let environment = table.flag("from_environment", report);
    if environment.as_ref().is_some_and(|field| !field.value) {
        table.refuse("from_environment", "must be true or be left out", Some("false".to_owned()), report);
    }
    uri.map(|field| Connection::Uri(field.value))
        .or_else(|| service.map(|field| Connection::Service(field.value)))
        .or_else(|| environment.map(|_| Connection::Environment))
}

fn objectives(mut table: Table<'_>, report: &mut Report<'_>) -> Objectives {
    let objectives = Objectives {
        recovery_point: table.duration("recovery_point", report),
        recovery_time: table.duration("recovery_time", report),
    };
    table.finish(report);
    objectives
}

fn retention(mut table: Table<'_>, verification_is_there: bool, report: &mut Report<'_>) -> Retention {
    let mut count = |key| table.number(key, 0..=KEEP_MAX, report).unwrap_or(0);
    let mut retention = Retention {
        last: count("last"),
        hourly: count("hourly"),
        daily: count("daily"),
        weekly: count("weekly"),
        monthly: count("monthly"),
        yearly: count("yearly"),
        ..Retention::default()
    };
    retention.within = table.duration("within", report);
    retention.keep_all = table.flag("keep_all", report).is_some_and(|field| field.value);
    // Once backups are verified, only a proved one may displace another, unless the policy says otherwise.
    retention.gate_verified =
        table.flag("gate_verified", report).map_or(verification_is_there, |field| field.value);
    let share = table.number("remove_share_max", 1..=100, report).and_then(ShareMax::of_percent);
    retention.remove_share_max = share.unwrap_or_default();
    match (retention.keep_all, retention.has_rules()) {
        (false, false) => {
            report.add(table.offset(), &table.path_of(""), RETENTION, Some("no rule".to_owned()))
        }
        (true, true) => {
            table.refuse("keep_all", "must stand alone: with it no other rule has a meaning", None, report);
        }
        _ => {}
    }
    table.finish(report);
    retention
}
