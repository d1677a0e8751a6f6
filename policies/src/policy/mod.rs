//! The policy: what is backed up, where to, when, and how long it is kept.
//!
//! [`Policy::parse`] reads the text of a policy file. Values that would lose data if they were guessed have
//! no default: their absence is a problem like any other, and all problems of a file are reported together.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use jiff::{SignedDuration, tz::TimeZone};
use toml::de::DeTable;

use crate::{
    increments::Incremental,
    names::SourceName,
    retention::{Class, Retention},
};

mod alarms;
mod alerts;
mod configuration;
mod files;
mod fleet;
mod hooks;
mod location;
mod monitoring;
mod problems;
mod provider;
mod raw;
mod source;
mod template;
#[cfg(test)]
mod tests;
mod timing;
mod values;
mod verification;

pub use alarms::{Alarms, Thresholds};
pub use alerts::{Alerts, Delivery, Email, REPEAT_AFTER_DEFAULT, Route, Tls, Url, holds_user};
pub use configuration::{ConfigSource, Environment};
pub use fleet::{Fleet, FleetRepository, GoesBy, Promise};
pub use hooks::{HookProgram, Hooks};
pub use monitoring::{Monitoring, REFRESH_DEFAULT};
pub use problems::{PolicyProblems, Problem};
pub use provider::{Checksums, ConditionalWrites, Provider};
pub use template::{Template, template};
pub use timing::Timing;
pub use verification::{
    CHECKS_WITH_EXCEPTION, DRILL_TIME_LIMIT_DEFAULT, Exception, Expectation, NEGATIVE_CONTROL_EVERY_DEFAULT,
    SCRATCH_PREFIX_DEFAULT, Scratch, SqlCheck, Verification, WINDOW_DEFAULT,
};

use raw::{Report, Table};

/// zstd level of a source that names none: the level zstd itself calls its default.
pub const COMPRESSION_LEVEL_DEFAULT: i32 = 3;
/// Streams per dump of a source that names no number: one, because each costs the server a connection.
pub const JOBS_DEFAULT: u32 = 1;
/// Most streams per dump: each is a connection to the server, which allows 100 by default.
pub const JOBS_MAX: u32 = 64;
/// How long a dump waits for any one table's lock. Meanwhile it has locked others, which holds up whoever alters those.
pub const LOCK_WAIT_DEFAULT: SignedDuration = SignedDuration::from_mins(5);
/// How long a dump may stand still before it is given up: long enough for a lock held by a migration.
pub const NO_PROGRESS_TIMEOUT_DEFAULT: SignedDuration = SignedDuration::from_mins(10);
/// Sources that a daemon backs up at the same time, unless the policy says otherwise: one slow server holds up no other.
pub const CONCURRENCY_DEFAULT: u32 = 2;
/// Each takes the memory of a backup.
const CONCURRENCY_MAX: u32 = 64;
/// Parts of one multipart upload that S3 allows.
pub const UPLOAD_PARTS_MAX: u32 = 10_000;

/// Largest policy file in bytes: a thousand sources fit, and a wrong file is refused before it is read whole.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;
/// Recipients without which the loss of one key is the loss of every backup.
pub const RECIPIENTS_MIN: usize = 2;

/// A checked policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub repository: Repository,
    /// Recipient lines as written: `age1…`, `ssh-ed25519 …`, `ssh-rsa …`.
    pub recipients: Vec<String>,
    /// Why one recipient is enough here. Without it there are at least two.
    pub recipients_waiver: Option<String>,
    /// Only on hosts that restore or verify.
    pub identity_files: Vec<PathBuf>,
    pub signing_key: Option<PathBuf>,
    pub trusted_signers: Option<PathBuf>,
    /// IANA name of the zone of schedules, calendar periods and `--at`.
    pub zone: Option<String>,
    pub sources: BTreeMap<SourceName, Source>,
    pub refuse_vulnerable_clients: bool,
    /// What `[alerts]` says; without it nobody is told of anything.
    pub alerts: Option<Alerts>,
    /// What `[verifier]` says; present where the verifier runs.
    pub verifier: Option<Verifier>,
    pub agent: Agent,
    /// What `[monitoring]` says.
    pub monitoring: Monitoring,
}

/// What `[agent]` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Sources that are backed up at the same time.
    pub concurrency: u32,
}

/// The verifier's own keys, credentials and places. What it leaves out is taken from `[keys]` and `[repository]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verifier {
    pub identity_files: Vec<PathBuf>,
    pub signing_key: Option<PathBuf>,
    /// Profile of the shared credentials file: one that reads the bucket and puts reports, and cannot put backups.
    pub profile: Option<String>,
    /// Every report is written here, too.
    pub report_directory: Option<PathBuf>,
    /// In place of the agent's, not beside it: two processes cannot share a port or a file.
    pub monitoring: Monitoring,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Repository {
    pub location: Location,
    /// Why plain http to another host is accepted here.
    pub allow_plain_http_reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Location {
    S3 {
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
        region: Option<String>,
        endpoint: Option<String>,
        /// Who runs the store; told from the endpoint's host where it is not said.
        provider: Option<Provider>,
        /// This and the next ones: as the provider has it where nothing is said.
        path_style: Option<bool>,
        conditional_writes: Option<ConditionalWrites>,
        checksums: Option<Checksums>,
        storage_class: Option<String>,
        sse: Option<Sse>,
        /// Profile of the shared credentials file.
        profile: Option<String>,
        /// As many as the provider allows where nothing is said.
        max_parts: Option<u32>,
        object_lock: Option<Box<ObjectLock>>,
        /// In a bucket that keeps versions, prune removes all of them and leaves no delete marker.
        delete_versions: bool,
    },
    /// Google Cloud Storage.
    Google {
        bucket: String,
        prefix: String,
        /// Of a private endpoint, or of a test's server.
        endpoint: Option<String>,
    },
    /// Azure Blob Storage.
    Azure {
        container: String,
        prefix: String,
        /// Otherwise from the environment.
        account: Option<String>,
        /// Of another cloud, a private endpoint, or a test's server.
        endpoint: Option<String>,
        /// The account in the path instead of the host name.
        path_style: bool,
    },
    Directory {
        path: PathBuf,
    },
}

/// As an operator writes it, without what is set up beside it.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, prefix) = match self {
            Self::S3 { bucket, prefix, .. } => ("s3", bucket, prefix),
            Self::Google { bucket, prefix, .. } => ("gs", bucket, prefix),
            Self::Azure { container, prefix, .. } => ("az", container, prefix),
            Self::Directory { path } => return write!(f, "file://{}", path.display()),
        };
        let slash = if prefix.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{bucket}{slash}{prefix}")
    }
}

/// What nobody can remove before its time, not even somebody with every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    pub mode: LockMode,
    pub retain: Retain,
}

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// From when an object is put.
    For(SignedDuration),
    /// A backup for as long as retention is sure to keep it, `spans` in place of what follows from its rules; what no rule
    /// with a length keeps, and the records of acts, for `otherwise`.
    ByClass { otherwise: SignedDuration, spans: ClassSpans },
}

/// Lengths of locks by class, counted from the snapshot, where the policy sets its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassSpans([Option<SignedDuration>; Class::ALL.len()]);

impl ClassSpans {
    pub fn of(&self, class: Class) -> Option<SignedDuration> {
        self.0[class as usize]
    }

    /// The same with this length.
    #[must_use]
    pub fn with(mut self, class: Class, span: Option<SignedDuration>) -> Self {
        self.0[class as usize] = span;
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Who has `s3:BypassGovernanceRetention` can remove it all the same.
    Governance,
    /// Nobody can, nor shorten the time.
    Compliance,
}

/// Encryption by the store, beside that by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    Aes256,
    Kms { key_id: Option<String> },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub name: SourceName,
    pub kind: Kind,
    /// Five cron fields, in the policy's zone.
    pub schedule: Option<String>,
    pub objectives: Objectives,
    pub retention: Retention,
    pub compression_level: i32,
    pub jobs: u32,
    pub verification: Option<Verification>,
    pub no_progress_timeout: SignedDuration,
    pub timing: Timing,
    pub hooks: Hooks,
    pub alarms: Alarms,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Postgres(PostgresSource),
    Config(ConfigSource),
    Files(FilesSource),
}

impl Kind {
    /// As `kind` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Config(_) => "config",
            Self::Files(_) => "files",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct PostgresSource {
    pub connection: Connection,
    pub password_file: Option<PathBuf>,
    /// Where client programs are looked for first.
    pub client_dirs: Vec<PathBuf>,
    /// Patterns of tables that are left out entirely.
    pub exclude_tables: Vec<String>,
    /// Patterns of tables whose rows are left out.
    pub exclude_table_data: Vec<String>,
    /// How long a dump may wait for any one table's lock.
    pub lock_wait: SignedDuration,
    /// How long a backup may hold its snapshot; without it as long as it takes.
    pub snapshot_max: Option<SignedDuration>,
}

/// Folders, and files, with all that is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesSource {
    /// Absolute, and at least one.
    pub paths: Vec<PathBuf>,
    /// Patterns of files that alone are taken; empty for all of them.
    pub include: Vec<String>,
    /// Patterns of files and folders that are left out.
    pub exclude: Vec<String>,
    /// Folders on which another file system is mounted are not entered.
    pub one_file_system: bool,
    /// A backup without a single file is accepted.
    pub allow_empty: bool,
    /// Backups leave out what an earlier one holds; `None` where each is full.
    pub incremental: Option<Incremental>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// A connection URI; never one with a password in it.
    Uri(String),
    /// A section of the connection service file.
    Service(String),
    /// `PGHOST`, `PGDATABASE` and so on.
    Environment,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// The newest good backup is never older than this.
    pub recovery_point: Option<SignedDuration>,
    /// A restore takes no longer than this.
    pub recovery_time: Option<SignedDuration>,
}

impl Default for Agent {
    fn default() -> Self {
        Self { concurrency: CONCURRENCY_DEFAULT }
    }
}

impl Policy {
    /// Reads and checks the text of a policy file. `file` is what problems call it.
    ///
    /// # Errors
    /// All problems of the file at once.
    pub fn parse(text: &str, file: &str) -> Result<Self, PolicyProblems> {
        document(text, file, read)
    }

    /// The policy as the verifier has it: with its own keys and credentials in place of the agent's.
    #[must_use]
    pub fn for_verifier(mut self) -> Self {
        let Some(verifier) = self.verifier.clone() else {
            self.monitoring = Monitoring::default();
            return self;
        };
        if !verifier.identity_files.is_empty() {
            self.identity_files = verifier.identity_files;
        }
        self.signing_key = verifier.signing_key.or(self.signing_key);
        self.monitoring = verifier.monitoring;
        if let (Some(own), Location::S3 { profile, .. }) = (verifier.profile, &mut self.repository.location) {
            *profile = Some(own);
        }
        self
    }

    /// The zone of schedules and calendar periods.
    pub fn time_zone(&self) -> TimeZone {
        // A zone that parsing found and that is gone since can only mean the machine's database went away.
        self.zone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC)
    }
}

/// Reads a file by its tables.
fn document<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(Table<'_>, &mut Report<'_>) -> Option<T>,
) -> Result<T, PolicyProblems> {
    let mut report = Report::of(text, file);
    if text.len() > POLICY_BYTES_MAX {
        let constraint = format!("the file must have at most {POLICY_BYTES_MAX} bytes");
        report.add(0, "", &constraint, Some(text.len().to_string()));
        return report.conclude(None);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What could be recovered is a guess, and problems found in a guess mislead.
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            report.add(offset, "", &format!("is not TOML: {}", error.message()), None);
        }
        return report.conclude(None);
    }
    let value = read(Table::top(document.get_ref()), &mut report);
    report.conclude(value)
}

/// What `[keys]` says.
struct Keys {
    recipients: Vec<String>,
    recipients_waiver: Option<String>,
    identity_files: Vec<PathBuf>,
    signing_key: Option<PathBuf>,
    trusted_signers: Option<PathBuf>,
}

/// What `[clients]` says.
#[derive(Default)]
struct Clients {
    directories: Vec<PathBuf>,
    refuse_vulnerable: bool,
}

fn read(mut top: Table<'_>, report: &mut Report<'_>) -> Option<Policy> {
    let zone = top.converted("zone", values::ZONE, report, values::zone).map(|field| field.value);
    let repository = required(&mut top, "repository", report).and_then(|table| location::read(table, report));
    let keys = required(&mut top, "keys", report).and_then(|table| keys(table, report));
    let clients = top.table("clients", report).map(|table| clients(table, report)).unwrap_or_default();
    let sources = required(&mut top, "sources", report)
        .map(|table| source::read_all(table, &clients.directories, report))
        .unwrap_or_default();
    let alerts = top.table("alerts", report).map(|table| alerts::read(table, report));
    let verifier = top.table("verifier", report).map(|table| verifier(table, report));
    let agent = top.table("agent", report).map(|table| agent(table, report)).unwrap_or_default();
    let monitoring = monitoring(&mut top, report);
    top.finish(report);
    let (repository, keys) = (repository?, keys?);
    Some(Policy {
        repository,
        recipients: keys.recipients,
        recipients_waiver: keys.recipients_waiver,
        identity_files: keys.identity_files,
        signing_key: keys.signing_key,
        trusted_signers: keys.trusted_signers,
        zone,
        sources,
        refuse_vulnerable_clients: clients.refuse_vulnerable,
        alerts,
        verifier,
        agent,
        monitoring,
    })
}

fn required<'a>(top: &mut Table<'a>, key: &'static str, report: &mut Report<'_>) -> Option<Table<'a>> {
    if !top.has(key) {
        top.missing(key, "must be there as a table", report);
    }
    top.table(key, report)
}

fn keys(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Keys> {
    let listed = table.has("recipients");
    let recipients = table.texts("recipients", report);
    for recipient in recipients.iter().filter(|recipient| !values::is_recipient(&recipient.value)) {
        // The text is not repeated: a secret key pasted by mistake must not reach a log.
        let constraint = "must be a public key: age1…, ssh-ed25519 AAAA… or ssh-rsa AAAA…";
        report.refuse(recipient, constraint, Some("something else".to_owned()));
    }
    let waiver = table.text("single_recipient_waiver", report);
    let mut distinct: Vec<String> =
        recipients.iter().map(|recipient| values::recipient_key(&recipient.value)).collect();
    distinct.sort();
    distinct.dedup();
    match (distinct.len(), &waiver) {
        (0, _) if !listed => {
            table.missing("recipients", "must list the public keys that backups are encrypted to", report);
        }
        (count, None) if count < RECIPIENTS_MIN => {
            let constraint = "must list two different keys or more, so that one lost key does not lose every \
                              backup, unless `single_recipient_waiver` says why one is enough";
            table.refuse("recipients", constraint, Some(count.to_string()), report);
        }
        (0, Some(_)) => {
            table.refuse("recipients", "must list one key at least", Some("0".to_owned()), report)
        }
        (count, Some(waiver)) if count >= RECIPIENTS_MIN => {
            report.refuse(waiver, "must be left out when there are several recipients", None);
        }
        _ => {}
    }
    let keys = Keys {
        recipients: recipients.into_iter().map(|field| field.value).collect(),
        recipients_waiver: waiver.map(|field| field.value),
        identity_files: paths(&mut table, "identity_files", report),
        signing_key: table.path("signing_key", report),
        trusted_signers: table.path("trusted_signers", report),
    };
    table.finish(report);
    Some(keys)
}

fn clients(mut table: Table<'_>, report: &mut Report<'_>) -> Clients {
    let clients = Clients {
        directories: paths(&mut table, "directories", report),
        refuse_vulnerable: table.flag("refuse_vulnerable", report).is_some_and(|field| field.value),
    };
    table.finish(report);
    clients
}

fn verifier(mut table: Table<'_>, report: &mut Report<'_>) -> Verifier {
    let verifier = Verifier {
        identity_files: paths(&mut table, "identity_files", report),
        signing_key: table.path("signing_key", report),
        profile: table.text("profile", report).map(|field| field.value),
        report_directory: table.path("report_directory", report),
        monitoring: monitoring(&mut table, report),
    };
    table.finish(report);
    verifier
}

fn agent(mut table: Table<'_>, report: &mut Report<'_>) -> Agent {
    let concurrency = table.number("concurrency", 1..=CONCURRENCY_MAX, report);
    table.finish(report);
    Agent { concurrency: concurrency.unwrap_or(CONCURRENCY_DEFAULT) }
}

fn monitoring(table: &mut Table<'_>, report: &mut Report<'_>) -> Monitoring {
    table.table("monitoring", report).map(|table| monitoring::read(table, report)).unwrap_or_default()
}

fn paths(table: &mut Table<'_>, key: &'static str, report: &mut Report<'_>) -> Vec<PathBuf> {
    table.texts(key, report).into_iter().map(|field| PathBuf::from(field.value)).collect()
}
