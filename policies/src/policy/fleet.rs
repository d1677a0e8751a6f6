//! The fleet file: repositories that are looked at together, each by its policy, or by its place and what is promised of it.
//!
//! It is read as strictly as a policy: a repository that is left out by a misspelling would be one that nobody looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::SignedDuration;
use toml::de::DeTable;

use super::raw::{Field, Report, Table};
use super::{
    Agent, Alarms, COMPRESSION_LEVEL_DEFAULT, Connection, DRILL_TIME_LIMIT_DEFAULT, Hooks, JOBS_DEFAULT,
    Kind, LOCK_WAIT_DEFAULT, Monitoring, NEGATIVE_CONTROL_EVERY_DEFAULT, NO_PROGRESS_TIMEOUT_DEFAULT,
    Objectives, Policy, PolicyProblems, PostgresSource, Repository, Source, Thresholds, Timing, Verification,
    WINDOW_DEFAULT, document, location, required,
};
use crate::names::SourceName;
use crate::retention::Retention;

/// Longest name of a repository in bytes: it is a column of a table.
const NAME_BYTES_MAX: usize = 63;

const REPOSITORIES: &str = "repositories";
const POLICY_OR_REPOSITORY: &str =
    "must say which policy it goes by, or else `repository`, `trusted_signers` and `recovery_point`";
const SIGNERS: &str = "must name the file with the public keys that are trusted";
const RECOVERY_POINT: &str = "must say how old the newest backup of a source may be, such as \"26h\"";
const BESIDE_POLICY: &str = "must be left out where `policy` says it";

/// Repositories by the names that this file gives them.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    pub repositories: BTreeMap<String, FleetRepository>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FleetRepository {
    pub goes_by: GoesBy,
    /// Sources whose backups are still there, and that nobody backs up any more.
    pub retired: BTreeSet<SourceName>,
}

/// What a repository's sources are held to.
#[derive(Clone, Debug, PartialEq)]
pub enum GoesBy {
    /// A policy file of which only place, signers, sources and what is promised of them matter.
    Policy(PathBuf),
    Promise(Box<Promise>),
}

/// What is promised of every source of a repository whose policy is not at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    pub repository: Repository,
    pub trusted_signers: PathBuf,
    /// Those that must be there; others that lie there are held to the same.
    pub sources: BTreeSet<SourceName>,
    pub recovery_point: SignedDuration,
    pub recovery_time: Option<SignedDuration>,
    /// Without it nobody promised a proof.
    pub proof_age: Option<SignedDuration>,
}

impl Fleet {
    /// Whether a text is a fleet file's and not a policy's: it says which repositories there are.
    pub fn is_meant_by(text: &str) -> bool {
        DeTable::parse_recoverable(text).0.get_ref().contains_key(REPOSITORIES)
    }

    /// Reads and checks the text of a fleet file. `file` is what problems call it.
    ///
    /// # Errors
    /// All problems of the file at once.
    pub fn parse(text: &str, file: &str) -> Result<Self, PolicyProblems> {
        document(text, file, read)
    }
}

impl Promise {
    /// The same as a policy that has these sources, as far as anybody asks who only looks.
    pub fn as_policy(&self, sources: impl IntoIterator<Item = SourceName>) -> Policy {
        let sources = sources.into_iter().map(|name| (name.clone(), self.source(name)));
        Policy {
            repository: self.repository.clone(),
            recipients: Vec::new(),
            recipients_waiver: None,
            identity_files: Vec::new(),
            signing_key: None,
            trusted_signers: Some(self.trusted_signers.clone()),
            zone: None,
            sources: sources.collect(),
            refuse_vulnerable_clients: false,
            alerts: None,
            verifier: None,
            agent: Agent::default(),
            monitoring: Monitoring::default(),
        }
    }

    fn source(&self, name: SourceName) -> Source {
        Source {
            name,
            kind: Kind::Postgres(unreached()),
            schedule: None,
            objectives: Objectives {
                recovery_point: Some(self.recovery_point),
                recovery_time: self.recovery_time,
            },
            retention: Retention { keep_all: true, ..Retention::default() },
            compression_level: COMPRESSION_LEVEL_DEFAULT,
            jobs: JOBS_DEFAULT,
            verification: self.proof_age.map(|_| of_unknown_rhythm()),
            no_progress_timeout: NO_PROGRESS_TIMEOUT_DEFAULT,
            timing: Timing::default(),
            hooks: Hooks::default(),
            alarms: Alarms { proof_age: self.proof_age.map(twice_is_critical), ..Alarms::default() },
        }
    }
}

/// Of what kind a source is, its backups know; who looks at them connects to nothing.
fn unreached() -> PostgresSource {
    PostgresSource {
        connection: Connection::Environment,
        password_file: None,
        client_dirs: Vec::new(),
        exclude_tables: Vec::new(),
        exclude_table_data: Vec::new(),
        lock_wait: LOCK_WAIT_DEFAULT,
        snapshot_max: None,
    }
}

/// When drills run is not known here: how old the newest proof may be is said in its place.
fn of_unknown_rhythm() -> Verification {
    Verification {
        schedule: String::new(),
        jitter: SignedDuration::ZERO,
        window: WINDOW_DEFAULT,
        older_per_run_max: 0,
        negative_control_every: NEGATIVE_CONTROL_EVERY_DEFAULT,
        attempts: 1,
        time_limit: DRILL_TIME_LIMIT_DEFAULT,
        missing_extensions: Vec::new(),
        scratch: None,
        checks: Vec::new(),
        exceptions: Vec::new(),
    }
}

/// As for backups, whose age is critical at twice the objective.
fn twice_is_critical(age: SignedDuration) -> Thresholds {
    Thresholds { warning: age, critical: age.checked_mul(2).unwrap_or(SignedDuration::MAX) }
}

fn read(mut top: Table<'_>, report: &mut Report<'_>) -> Option<Fleet> {
    let mut repositories = BTreeMap::new();
    if let Some(table) = required(&mut top, REPOSITORIES, report) {
        let (here, offset) = (table.path_of("<name>"), table.offset());
        let tables = table.named_tables(report);
        if tables.is_empty() {
            report.add(offset, &here, "must be there at least once", Some("nothing".to_owned()));
        }
        for (name, table) in tables {
            if !is_name(&name.value) {
                let constraint =
                    format!("a name is 1 to {NAME_BYTES_MAX} letters, digits, dots, hyphens or underscores");
                report.refuse(&name, &constraint, None);
            }
            let repository = repository(table, report);
            repositories.extend(repository.map(|repository| (name.value, repository)));
        }
    }
    top.finish(report);
    Some(Fleet { repositories })
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

fn repository(mut table: Table<'_>, report: &mut Report<'_>) -> Option<FleetRepository> {
    let policy = table.path("policy", report);
    let goes_by = match (table.has("policy"), table.has("repository")) {
        (true, _) => {
            for key in ["repository", "trusted_signers", "sources"].into_iter().chain(PROMISED) {
                if table.has(key) {
                    table.refuse(key, BESIDE_POLICY, None, report);
                }
            }
            // Known, so that each is told of once.
            promise(&mut table, report);
            policy.map(GoesBy::Policy)
        }
        (false, true) => {
            if !table.has("trusted_signers") {
                table.missing("trusted_signers", SIGNERS, report);
            }
            if !table.has("recovery_point") {
                table.missing("recovery_point", RECOVERY_POINT, report);
            }
            promise(&mut table, report).map(|promise| GoesBy::Promise(Box::new(promise)))
        }
        (false, false) => {
            table.missing("policy", POLICY_OR_REPOSITORY, report);
            promise(&mut table, report);
            None
        }
    };
    let retired = names(&mut table, "retired", report);
    table.finish(report);
    Some(FleetRepository { goes_by: goes_by?, retired })
}

const PROMISED: [&str; 3] = ["recovery_point", "recovery_time", "proof_age"];

fn promise(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Promise> {
    let repository = table.table("repository", report).and_then(|table| location::read(table, report));
    let trusted_signers = table.path("trusted_signers", report);
    let sources = names(table, "sources", report);
    let [recovery_point, recovery_time, proof_age] = PROMISED.map(|key| table.duration(key, report));
    Some(Promise {
        repository: repository?,
        trusted_signers: trusted_signers?,
        sources,
        recovery_point: recovery_point?,
        recovery_time,
        proof_age,
    })
}

fn names(table: &mut Table<'_>, key: &'static str, report: &mut Report<'_>) -> BTreeSet<SourceName> {
    let mut names = BTreeSet::new();
    for field in table.texts(key, report) {
        match name(&field) {
            Ok(name) => {
                names.insert(name);
            }
            Err(constraint) => report.refuse(&field, &constraint, None),
        }
    }
    names
}

fn name(field: &Field<String>) -> Result<SourceName, String> {
    field.value.parse().map_err(|error: crate::names::NameError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::Limits;

    const BOTH: &str = r#"
[repositories.shop]
policy = "shop/pgproof.toml"
retired = ["old-shop"]

[repositories."crm.example"]
repository = { location = "s3://backups/crm", region = "eu-central-1" }
trusted_signers = "crm.signers"
sources = ["app", "mail"]
recovery_point = "26h"
recovery_time = "4h"
proof_age = "8d"
"#;

    fn problems(text: &str) -> Vec<String> {
        let problems = Fleet::parse(text, "fleet.toml").unwrap_err().problems;
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_repository_goes_by_its_policy_or_by_what_is_promised_here() {
        assert!(Fleet::is_meant_by(BOTH) && !Fleet::is_meant_by("[repository]\n"));
        let fleet = Fleet::parse(BOTH, "fleet.toml").unwrap();
        let shop = &fleet.repositories["shop"];
        assert_eq!(shop.goes_by, GoesBy::Policy("shop/pgproof.toml".into()));
        assert_eq!(shop.retired.iter().map(SourceName::as_str).collect::<Vec<_>>(), ["old-shop"]);
        let GoesBy::Promise(promise) = &fleet.repositories["crm.example"].goes_by else { panic!("a policy") };
        let policy = promise.as_policy(promise.sources.clone());
        let mail = &policy.sources[&"mail".parse().unwrap()];
        let limits = Limits::of(mail, &policy.time_zone(), jiff::Timestamp::UNIX_EPOCH);
        let hours = |thresholds: Option<Thresholds>| {
            thresholds.map(|it| (it.warning.as_hours(), it.critical.as_hours()))
        };
        assert_eq!(hours(limits.backup_age), Some((26, 52)));
        assert_eq!(hours(limits.proof_age), Some((8 * 24, 16 * 24)));
        assert_eq!(limits.host_silent, None);
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        assert_eq!(problems(""), ["fleet.toml:1: repositories: must be there as a table, got nothing"]);
        let misspelt = problems(&BOTH.replace("retired", "retierd").replace("proof_age", "proofage"));
        assert_eq!(misspelt.len(), 2, "{misspelt:#?}");
        assert!(
            misspelt[0].contains(":4: ") && misspelt[0].contains("did you mean `retired`?"),
            "{misspelt:?}"
        );
        let both = problems("[repositories.a]\npolicy = \"a.toml\"\nrecovery_point = \"1h\"\n");
        assert_eq!(
            both,
            ["fleet.toml:3: repositories.a.recovery_point: must be left out where `policy` says it"]
        );
        let neither = problems("[repositories.a]\nretired = [\"Old\"]\n");
        assert!(neither[0].contains("must say which policy"), "{neither:#?}");
        assert!(neither[1].contains("a source name must"), "{neither:#?}");
        let silent = problems("[repositories.a]\nrepository = { location = \"s3://bucket/a\" }\n");
        assert!(silent.len() == 2 && silent.iter().all(|it| it.contains("got nothing")), "{silent:#?}");
        let named = problems("[repositories.\"a b\"]\npolicy = \"a.toml\"\n");
        assert!(named[0].contains("letters, digits"), "{named:#?}");
    }
}
