use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::*;
use crate::alerts::{Kind as AlertKind, Severity};

mod files;
mod forms;
mod keys;
mod location;
mod monitoring;
mod problems;
mod source;
mod template;
mod verification;

const DIRECTORY: &str = include_str!("../../examples/directory.toml");
const NIGHTLY: &str = include_str!("../../examples/nightly.toml");
const FILES: &str = include_str!("../../examples/files.toml");
const SEVERAL: &str = include_str!("../../examples/several.toml");
const DEPLOYMENT: &str = include_str!("../../examples/deployment.toml");

const AGE: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN safe";

fn parsed(text: &str) -> Policy {
    Policy::parse(text, "pgproof.toml").unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str) -> String {
    Policy::parse(text, "pgproof.toml").expect_err("the policy has a problem").to_string()
}

/// The problems of a good policy in which `from` was replaced by `to`.
fn problems_with(from: &str, to: &str) -> String {
    assert!(NIGHTLY.contains(from), "{from:?} is not in the example");
    problems(&NIGHTLY.replacen(from, to, 1))
}

fn source(policy: &Policy, name: &str) -> Source {
    policy.sources[&name.parse().unwrap()].clone()
}

#[test]
fn every_example_is_tested_and_parses() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        parsed(&std::fs::read_to_string(&path).unwrap());
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["deployment.toml", "directory.toml", "files.toml", "nightly.toml", "several.toml"]);
}

#[test]
fn the_smallest_policy_has_the_stated_defaults() {
    let policy = parsed(DIRECTORY);
    assert_eq!(policy.repository.location, Location::Directory { path: "/var/backups/pgproof".into() });
    assert_eq!(policy.recipients, [AGE]);
    assert!(policy.recipients_waiver.is_some());
    assert_eq!(policy.time_zone(), TimeZone::UTC);
    assert!(!policy.refuse_vulnerable_clients);
    let app = source(&policy, "app");
    let postgres = database_of(&app);
    assert_eq!(postgres.connection, Connection::Environment);
    assert_eq!((postgres.lock_wait, postgres.snapshot_max), (LOCK_WAIT_DEFAULT, None));
    assert_eq!((app.schedule.as_ref(), app.verification.as_ref()), (None, None));
    assert_eq!((app.compression_level, app.jobs), (COMPRESSION_LEVEL_DEFAULT, JOBS_DEFAULT));
    assert_eq!(app.no_progress_timeout, NO_PROGRESS_TIMEOUT_DEFAULT);
    assert_eq!(app.retention, Retention { last: 7, ..Retention::default() });
}

#[test]
fn the_nightly_policy_says_what_it_says() {
    let policy = parsed(NIGHTLY);
    let Location::S3 { bucket, prefix, sse, max_parts, path_style, .. } = &policy.repository.location else {
        panic!("not a bucket");
    };
    assert_eq!((bucket.as_str(), prefix.as_str()), ("example-backups", "production"));
    assert_eq!(*sse, Some(Sse::Kms { key_id: Some("alias/backups".to_owned()) }));
    assert_eq!((*max_parts, *path_style), (None, None));
    assert_eq!(policy.recipients, [AGE, SSH]);
    assert_eq!(policy.recipients_waiver, None);
    assert!(policy.refuse_vulnerable_clients);

    let app = source(&policy, "app");
    assert_eq!(app.name.as_str(), "app");
    assert_eq!(app.schedule.as_deref(), Some("0 2 * * *"));
    assert_eq!(
        app.retention,
        Retention { daily: 30, monthly: 12, gate_verified: true, ..Retention::default() }
    );
    assert_eq!(app.objectives.recovery_point, Some(SignedDuration::from_hours(1)));
    assert_eq!(app.objectives.recovery_time, Some(SignedDuration::from_hours(2)));
    let verification = app.verification.unwrap();
    assert_eq!(verification.schedule, "0 4 * * 0");
    assert_eq!(verification.checks.len(), 2);
    assert_eq!(verification.checks[0].expect, Expectation::Equals("t".to_owned()));
    assert_eq!(verification.checks[1].role.as_deref(), Some("shop"));
    assert_eq!(verification.checks[1].time_limit, SignedDuration::from_mins(2));
    assert_eq!((verification.jitter, verification.older_per_run_max), (SignedDuration::from_mins(30), 4));
    assert_eq!(verification.window, SignedDuration::from_hours(90 * 24));
    assert_eq!(verification.time_limit, SignedDuration::from_hours(12));
    // Its only shortfall is the one that it speaks of.
    let shortfalls = crate::objective::shortfalls(&policy, "2026-11-24T00:00:00Z".parse().unwrap());
    assert!(
        matches!(shortfalls[..], [crate::objective::Shortfall::ScheduleTooSparse { .. }]),
        "{shortfalls:?}"
    );
}

#[test]
fn what_the_nightly_policy_leaves_as_comments_can_be_used() {
    let used = NIGHTLY
        .replace("# missing_extensions", "missing_extensions")
        .replace("# [[sources", "[[sources")
        .replace("# check =", "check =")
        .replace("# reason =", "reason =")
        .replace("# until =", "until =");
    let verification = source(&parsed(&used), "app").verification.unwrap();
    assert_eq!(verification.missing_extensions, ["postgis"]);
    assert_eq!(verification.exceptions[0].check, "collation versions");
    assert_eq!(source(&parsed(NIGHTLY), "app").verification.unwrap().exceptions, []);
}

#[test]
fn several_sources_keep_to_themselves() {
    let policy = parsed(SEVERAL);
    let names: Vec<&str> = policy.sources.keys().map(SourceName::as_str).collect();
    assert_eq!(names, ["books", "shop", "staging"]);
    assert_eq!(policy.time_zone().iana_name(), Some("Europe/Berlin"));
    let shop = source(&policy, "shop");
    let postgres = database_of(&shop);
    assert_eq!(postgres.exclude_table_data, ["public.page_cache"]);
    assert_eq!(postgres.lock_wait, SignedDuration::from_secs(30));
    assert_eq!(postgres.snapshot_max, Some(SignedDuration::from_mins(30)));
    assert_eq!(postgres.client_dirs.len(), 2);
    assert_eq!(shop.objectives.recovery_time, Some(SignedDuration::from_mins(90)));
    assert_eq!(source(&policy, "staging").retention.within, Some(SignedDuration::from_hours(7 * 24)));
    assert!(source(&policy, "books").retention.keep_all);
}

fn database_of(source: &Source) -> PostgresSource {
    match &source.kind {
        Kind::Postgres(postgres) => postgres.clone(),
        other => panic!("{other:?}"),
    }
}
