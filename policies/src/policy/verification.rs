//! The sections `[sources.….verification]`: what proves a source's backups, and how often.

use jiff::SignedDuration;
use jiff::civil::Date;

use super::raw::{Field, Report, Table};
use super::{Connection, source, values};
use std::path::PathBuf;

/// Within this span every kept backup is proved once, unless the policy names another: a quarter, as reports are read.
pub const WINDOW_DEFAULT: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Of so many drills one also tests the verifier's own alarm.
pub const NEGATIVE_CONTROL_EVERY_DEFAULT: u32 = 10;
/// Older backups that one scheduled run drills beside the newest, at most: a night has so many hours.
const OLDER_PER_RUN_DEFAULT: u32 = 4;
/// How often a drill is tried in all when the machine or the store, not the backup, was at fault.
const ATTEMPTS_DEFAULT: u32 = 3;
/// How long a drill may take. Whatever hangs must not hang for ever: in its place no other proof is made.
pub const DRILL_TIME_LIMIT_DEFAULT: SignedDuration = SignedDuration::from_hours(48);
/// How long one check of the policy may run. Larger questions belong to a restore that somebody looks at.
const CHECK_TIME_LIMIT_DEFAULT: SignedDuration = SignedDuration::from_mins(5);
/// What a scratch database's name starts with, so that nobody takes it for one with a use.
pub const SCRATCH_PREFIX_DEFAULT: &str = "pgproof_drill_";
/// Drills between two tests of the alarm, at most.
const NEGATIVE_CONTROL_EVERY_MAX: u32 = 1_000;
const OLDER_PER_RUN_MAX: u32 = 1_000;
const ATTEMPTS_MAX: u32 = 10;
/// A PostgreSQL name has at most 63 bytes, and a time and a random part follow the prefix.
const SCRATCH_PREFIX_BYTES_MAX: usize = 30;
/// Without these there is no proof at all, so no exception can stand in for one.
const CHECKS_WITHOUT_EXCEPTION: [&str; 4] = ["signature", "objects", "restore", "tables"];
/// The other checks of a drill by their names in reports, beside those of the policy.
pub const CHECKS_WITH_EXCEPTION: [&str; 15] = [
    "selection",
    "chain",
    "server",
    "globals",
    "indexes",
    "sequences",
    "large objects",
    "structure",
    "constraints",
    "materialized views",
    "extensions",
    "collation versions",
    "amcheck",
    "recovery point",
    "recovery time",
];

#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// Five cron fields, in the policy's zone.
    pub schedule: String,
    /// A scheduled drill starts up to so much later, so that many sources do not start at once.
    pub jitter: SignedDuration,
    /// Within this span every kept backup has been proved once.
    pub window: SignedDuration,
    pub older_per_run_max: u32,
    pub negative_control_every: u32,
    pub attempts: u32,
    /// How long a drill may take, with all its attempts.
    pub time_limit: SignedDuration,
    /// Extensions that may be missing where drills run; what depends on them is then not proved.
    pub missing_extensions: Vec<String>,
    /// A server to drill on, in place of a private one.
    pub scratch: Option<Scratch>,
    pub checks: Vec<SqlCheck>,
    pub exceptions: Vec<Exception>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    pub connection: Connection,
    pub password_file: Option<PathBuf>,
    /// What the names of the databases that drills make there start with.
    pub database_prefix: String,
}

/// A query on the restored database and what its only value must be.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlCheck {
    pub name: String,
    pub sql: String,
    pub expect: Expectation,
    /// Asked as this role, which finds missing grants and hidden rows.
    pub role: Option<String>,
    pub time_limit: SignedDuration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expectation {
    /// The value's text is this.
    Equals(String),
    /// The value is a number in this range; either end may be open.
    Between { at_least: Option<f64>, at_most: Option<f64> },
}

/// A check that may fall short for a while, and why. Its failure then counts as a weaker proof, not as a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The name of the check as reports print it; of one of the policy's own, that is [`SqlCheck::name_in_reports`].
    pub check: String,
    pub reason: String,
    /// The last day on which it holds.
    pub until: Date,
}

impl SqlCheck {
    /// `check "orders exist"`, which none of a drill's other checks is called.
    #[must_use]
    pub fn name_in_reports(&self) -> String {
        format!("check {:?}", self.name)
    }
}

impl Expectation {
    /// Whether a value's text is as expected.
    pub fn is_met_by(&self, value: &str) -> bool {
        match self {
            Self::Equals(expected) => value == expected,
            Self::Between { at_least, at_most } => value.trim().parse::<f64>().is_ok_and(|number| {
                at_least.is_none_or(|least| number >= least) && at_most.is_none_or(|most| number <= most)
            }),
        }
    }
}

impl std::fmt::Display for Expectation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Equals(expected) => write!(f, "{expected:?}"),
            Self::Between { at_least: Some(least), at_most: Some(most) } => {
                write!(f, "from {least} to {most}")
            }
            Self::Between { at_least: Some(least), at_most: None } => write!(f, "at least {least}"),
            Self::Between { at_least: None, at_most: Some(most) } => write!(f, "at most {most}"),
            Self::Between { at_least: None, at_most: None } => f.write_str("a number"),
        }
    }
}

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Verification> {
    if !table.has("schedule") {
        table.missing("schedule", values::SCHEDULE, report);
    }
    let schedule = table.schedule("schedule", report);
    let jitter = table.duration("jitter", report).unwrap_or_default();
    let window = table.duration("window", report).unwrap_or(WINDOW_DEFAULT);
    let older = table.number("older_per_run_max", 0..=OLDER_PER_RUN_MAX, report);
    let control = table.number("negative_control_every", 1..=NEGATIVE_CONTROL_EVERY_MAX, report);
    let attempts = table.number("attempts", 1..=ATTEMPTS_MAX, report);
    let time_limit = table.duration("time_limit", report).unwrap_or(DRILL_TIME_LIMIT_DEFAULT);
    let missing = table.texts("missing_extensions", report).into_iter().map(|field| field.value).collect();
    let scratch_is_there = table.has("scratch");
    let scratch = table.table("scratch", report).and_then(|table| scratch(table, report));
    let checks = checks(&mut table, report);
    let exceptions = table.tables("exceptions", report).into_iter();
    let exceptions = exceptions.filter_map(|table| exception(table, &checks, report)).collect();
    table.finish(report);
    if scratch_is_there && scratch.is_none() {
        return None;
    }
    Some(Verification {
        schedule: schedule?,
        jitter,
        window,
        older_per_run_max: older.unwrap_or(OLDER_PER_RUN_DEFAULT),
        negative_control_every: control.unwrap_or(NEGATIVE_CONTROL_EVERY_DEFAULT),
        attempts: attempts.unwrap_or(ATTEMPTS_DEFAULT),
        time_limit,
        missing_extensions: missing,
        scratch,
        checks,
        exceptions,
    })
}

fn scratch(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Scratch> {
    let connection = source::connection(&mut table, report);
    let password_file = table.path("password_file", report);
    let constraint = format!("must be a-z, 0-9 and _, at most {SCRATCH_PREFIX_BYTES_MAX} of them");
    let prefix = table.converted("database_prefix", &constraint, report, |text| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let fits = (1..=SCRATCH_PREFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| text.to_owned())
    });
    table.finish(report);
    let database_prefix = prefix.map_or_else(|| SCRATCH_PREFIX_DEFAULT.to_owned(), |field| field.value);
    Some(Scratch { connection: connection?, password_file, database_prefix })
}

fn checks(table: &mut Table<'_>, report: &mut Report<'_>) -> Vec<SqlCheck> {
    let mut checks: Vec<SqlCheck> = Vec::new();
    for table in table.tables("checks", report) {
        let offset = table.offset();
        let path = table.path_of("name");
        let Some(check) = sql_check(table, report) else { continue };
        if checks.iter().any(|known| known.name == check.name) {
            report.add(offset, &path, "must be a name of its own", Some(format!("{:?} again", check.name)));
        }
        checks.push(check);
    }
    checks
}

fn sql_check(mut table: Table<'_>, report: &mut Report<'_>) -> Option<SqlCheck> {
    let name = required_text(&mut table, "name", "must say what is checked", report);
    let sql = required_text(&mut table, "sql", "must be a query with one value", report);
    let expect = expectation(&mut table, report);
    let role = table.text("role", report).map(|field| field.value);
    let time_limit = table.duration("time_limit", report).unwrap_or(CHECK_TIME_LIMIT_DEFAULT);
    table.finish(report);
    Some(SqlCheck { name: name?.value, sql: sql?.value, expect: expect?, role, time_limit })
}

/// `expect = "t"`, or `at_least` and `at_most`, or one of the two.
fn expectation(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Expectation> {
    let bounded = table.has("at_least") || table.has("at_most");
    match (table.has("expect"), bounded) {
        (false, true) => {
            let at_least = table.decimal("at_least", report);
            let at_most = table.decimal("at_most", report);
            if at_least.zip(at_most).is_some_and(|(least, most)| least > most) {
                table.refuse("at_most", "must not be below `at_least`", None, report);
            }
            Some(Expectation::Between { at_least, at_most })
        }
        (true, true) => {
            table.refuse("expect", "must be left out beside `at_least` or `at_most`", None, report);
            // Asked for, so that they are not called unknown.
            table.decimal("at_least", report);
            table.decimal("at_most", report);
            table.text("expect", report);
            None
        }
        (_, false) => {
            let constraint =
                "must be the text of the value that is right, unless `at_least` or `at_most` is there";
            required_text(table, "expect", constraint, report).map(|field| Expectation::Equals(field.value))
        }
    }
}

fn exception(mut table: Table<'_>, checks: &[SqlCheck], report: &mut Report<'_>) -> Option<Exception> {
    let check = excepted_check(&mut table, checks, report);
    let reason = required_text(&mut table, "reason", "must say why it may fall short", report);
    let constraint = "must be the last day on which it holds, such as \"2027-03-31\"";
    if !table.has("until") {
        table.missing("until", constraint, report);
    }
    let until = table.converted("until", constraint, report, |text| text.parse::<Date>().ok());
    table.finish(report);
    Some(Exception { check: check?, reason: reason?.value, until: until?.value })
}

/// One of a drill's checks, or one of the source's own, also by its bare name. An exception for anything else would do
/// nothing, and nobody would know before the check fails.
fn excepted_check(table: &mut Table<'_>, checks: &[SqlCheck], report: &mut Report<'_>) -> Option<String> {
    let field = required_text(table, "check", "must name a check as reports print it", report)?;
    let name = &*field.value;
    if CHECKS_WITH_EXCEPTION.contains(&name) {
        return Some(field.value);
    }
    let own = checks.iter().find(|check| check.name == name || check.name_in_reports() == name);
    if let Some(own) = own.filter(|_| !CHECKS_WITHOUT_EXCEPTION.contains(&name)) {
        return Some(own.name_in_reports());
    }
    let constraint = match CHECKS_WITHOUT_EXCEPTION.contains(&name) {
        true => {
            format!("must be none of {}: without them there is no proof", CHECKS_WITHOUT_EXCEPTION.join(", "))
        }
        false => {
            format!("must be the name of one of `checks`, or one of {}", CHECKS_WITH_EXCEPTION.join(", "))
        }
    };
    report.refuse(&field, &constraint, Some(format!("{name:?}")));
    None
}

fn required_text(
    table: &mut Table<'_>,
    key: &'static str,
    constraint: &str,
    report: &mut Report<'_>,
) -> Option<Field<String>> {
    if !table.has(key) {
        table.missing(key, constraint, report);
    }
    table.text(key, report)
}
