//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pgproof_monitoring::fleet::DEADLINE_DEFAULT;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{JOBS_MAX, Provider};
use pgproof_postgres::archive::selection::QualifiedName;
use pgproof_repository::ids::BackupId;

/// Backups of a source that are listed unless more are asked for: what a screen or two show.
const LISTED_BY_DEFAULT: NonZeroUsize = NonZeroUsize::new(50).expect("more than none");

/// Nobody waits longer for a table.
const DEADLINE_MAX_SECONDS: u64 = 3600;

/// Bytes of a name that PostgreSQL keeps, as it is usually built; of a longer one it takes the beginning.
const NAME_BYTES_MAX: usize = 63;

/// PostgreSQL backup, restore and proof of restore.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Cli {
    /// The policy file; pgproof.toml in this folder if not given, or else /etc/pgproof/pgproof.toml.
    #[arg(long, short, global = true, env = "PGPROOF_POLICY", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Print one JSON document on standard output instead of text.
    ///
    /// Standard error then has lines of JSON: {"progress": …} every five seconds and at each new step of a backup or
    /// restore, {"note": …} for what an operator should know of a restore, {"error": …, "hint": …, "exit": …} for a failure.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log on standard error: error, warn, info, debug, or a tracing filter.
    ///
    /// Without it warnings, and what `run`, `backup --all` and `backup --due` do.
    #[arg(long, global = true, env = "PGPROOF_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented policy and generate the keys; try whether the store heeds conditional writes.
    Init(Init),
    /// Work on the policy file.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Back up a source now; with --all every source; with --due what its schedule asks for.
    Backup(Backup),
    /// Take in a dump that pg_dump made without pgproof, as a backup of the time it was taken at.
    ///
    /// The file is one of pg_dump's custom format (-Fc) of a whole database. It is decompressed, counted and sealed like a backup
    /// made here, and says for ever that it was imported and on whose word its time is.
    Import(Import),
    /// Back up all sources by their schedules, until it is stopped.
    ///
    /// SIGHUP reads the policy again; SIGTERM stops what is at work and leaves nothing half-done.
    Run(Run),
    /// Restore a source as it was at a time, into a new database.
    Restore(Restore),
    /// Try the routes of alerts, and see what is raised.
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Back up configuration and databases together, as one restore point.
    Snapshot(Snapshot),
    /// Look at restore points.
    #[command(subcommand)]
    RestorePoint(RestorePointCommand),
    /// Say what changed between two backups of a configuration, without values unless they are asked for.
    Diff(Diff),
    /// Try all that backups need against the real store, servers and host, and say what is missing.
    ///
    /// It puts a few small objects and one of 10 MiB below doctor/ in the repository and removes them again; nothing that is
    /// there is touched, and no alert is sent. Exit code: 0 nothing failed, warnings or not; 1 something failed; 2 usage.
    Doctor(Doctor),
    /// List backups.
    List(List),
    /// Show one backup.
    Show(Show),
    /// Check what lies in the repository.
    Check(Check),
    /// Remove what retention no longer keeps. Without --yes it only prints the plan.
    Prune(Prune),
    /// Keep a backup whatever retention says.
    Hold(Hold),
    /// Give a held backup back to retention.
    Release(Release),
    /// List who did what to the backups, and what of it does not check.
    Audit(Audit),
    /// How the sources stand, by the age of their newest good backup and proof.
    ///
    /// Exit code: 0 all is well; 1 something needs a look; 2 critical; 3 it could not be found out. It needs no key but the
    /// trusted signers.
    Status(Status),
    /// Who is unprotected: the sources of many repositories, from the buckets alone, the worst first.
    ///
    /// Each repository is read with a deadline of its own; what could not be read is unknown, never taken for empty. Exit code: 0 all are protected; 1 one is at risk; 2 one is
    /// unprotected; 3 it could not be found out. It needs no key but the trusted signers.
    Fleet(Fleet),
    /// Write manual pages and shell completions into a folder, for whoever packages this.
    Documents {
        /// The folder; it is made where there is none.
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
}

impl Command {
    /// Whether it is made for timers and daemons.
    pub(crate) fn is_unattended(&self) -> bool {
        match self {
            Self::Run(args) => !args.dry_run,
            Self::Backup(args) => args.all || args.due,
            _ => false,
        }
    }

    /// Whether it puts right what it began when it is told to stop. All others may be broken off anywhere: they read, or
    /// put an object or two of which half counts for nothing.
    pub(crate) fn cleans_up(&self) -> bool {
        match self {
            Self::Backup(_)
            | Self::Import(_)
            | Self::Run(_)
            | Self::Restore(_)
            | Self::Snapshot(_)
            | Self::Doctor(_)
            | Self::Prune(_) => true,
            Self::Init(_)
            | Self::Policy(_)
            | Self::Alert(_)
            | Self::RestorePoint(_)
            | Self::Diff(_)
            | Self::List(_)
            | Self::Show(_)
            | Self::Check(_)
            | Self::Hold(_)
            | Self::Release(_)
            | Self::Audit(_)
            | Self::Status(_)
            | Self::Fleet(_)
            | Self::Documents { .. } => false,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Read the policy and report every problem at once.
    Check,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where backups go: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory.
    #[arg(long, value_name = "URL")]
    pub location: String,
    /// For a store that is not where its maker has it: https://host or https://host:port.
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The bucket's region; as the provider has it if not given.
    #[arg(long)]
    pub region: Option<String>,
    /// Who runs the store, where the endpoint's host does not tell: minio, garage, ceph-rgw and others.
    #[arg(long, value_name = "NAME", value_parser = provider)]
    pub provider: Option<Provider>,
    /// The name of the first source.
    #[arg(long, default_value = "app")]
    pub source: SourceName,
    /// How to reach its database, without a password.
    #[arg(long, value_name = "URI", default_value = "postgresql:///app")]
    pub connection: String,
    /// Folder for the keys; the policy's own folder if not given.
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// A further recipient that can decrypt, kept off this host (may be repeated).
    #[arg(long, value_name = "PUBLIC KEY")]
    pub recipient: Vec<String>,
    /// The verifier's public signing key, ssh-ed25519 AAAA…: then it alone can sign reports, and this host backups.
    #[arg(long, value_name = "PUBLIC KEY")]
    pub verifier_key: Option<String>,
    /// Accept that only one key can decrypt, for this reason.
    #[arg(long, value_name = "REASON")]
    pub single_recipient_waiver: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[arg(required_unless_present = "all")]
    pub source: Option<SourceName>,
    /// Every source of the policy.
    #[arg(long, conflicts_with_all = ["source", "tag", "reason", "hold", "jobs", "explain"])]
    pub all: bool,
    /// Only what the schedule asks for now: what `pgproof run` would do. For timers.
    #[arg(long, conflicts_with_all = ["tag", "reason", "hold", "jobs", "explain"])]
    pub due: bool,
    /// A label, key=value (may be repeated).
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub tag: Vec<(String, String)>,
    /// Why this backup is taken, for whoever reads the list.
    #[arg(long)]
    pub reason: Option<String>,
    /// Keep it whatever retention says, until `pgproof release`.
    #[arg(long)]
    pub hold: bool,
    /// Streams of a database's dump, in place of the policy's `jobs`: each is a connection to the server.
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(JOBS_MAX)))]
    pub jobs: Option<u32>,
    /// Print what would be done and how much memory it takes, and stop.
    #[arg(long)]
    pub explain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The dump.
    pub file: PathBuf,
    /// The source that it is a backup of.
    #[arg(long)]
    pub source: SourceName,
    /// When the dump began: what `restore --at` and retention go by. Times are given as to `restore --at`.
    #[arg(long, value_name = "TIME")]
    pub taken_at: String,
    /// Roles, memberships and tablespaces, as `pg_dumpall --globals-only` wrote them.
    #[arg(long, value_name = "FILE")]
    pub globals: Option<PathBuf>,
    /// The `TimeZone` of the server that was dumped; its rows are compared in it.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub time_zone: String,
    /// Take the time although the clock of the host that made the dump says another.
    #[arg(long)]
    pub trust_time: bool,
    /// A label, key=value (may be repeated).
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub tag: Vec<(String, String)>,
    /// Why it is imported, for whoever reads the list.
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Do what is due now, and end; like `pgproof backup --all --due`.
    #[arg(long, conflicts_with = "dry_run")]
    pub once: bool,
    /// Print what would be done now, and when the next runs begin.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    pub source: SourceName,
    /// The moment to go back to: RFC 3339, "2026-11-24 01:30 UTC", "2 hours ago", "now".
    #[arg(long, value_name = "TIME", required_unless_present_any = ["backup", "before_deploy"])]
    #[arg(conflicts_with_all = ["backup", "before_deploy"])]
    pub at: Option<String>,
    /// As it was right before this deployment: the reference that `pgproof snapshot --ref` was given, or its beginning.
    #[arg(long, value_name = "REF", conflicts_with = "backup")]
    pub before_deploy: Option<String>,
    /// This backup rather than the one a time asks for.
    #[arg(long, value_name = "ID")]
    pub backup: Option<BackupId>,
    /// The name of the new database; the source's with the snapshot time if not given.
    #[arg(long, value_name = "NAME", value_parser = database_name)]
    pub into: Option<String>,
    /// The server to restore to, without a password; the source's if not given.
    #[arg(long, value_name = "URI")]
    pub target: Option<String>,
    /// After a good restore, rename: the new database takes the old one's place, which is kept beside it.
    #[arg(long, conflicts_with_all = ["table", "schema", "stdout"])]
    pub swap: bool,
    /// Only this table, schema.name (may be repeated).
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub table: Vec<QualifiedName>,
    /// Only this schema (may be repeated).
    #[arg(long, value_name = "SCHEMA")]
    pub schema: Vec<String>,
    /// Connections that load at the same time; the number of processors if not given.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=i64::from(JOBS_MAX)))]
    pub jobs: Option<u32>,
    /// The whole stream into one pg_restore: slow, and the path of last resort.
    #[arg(long)]
    pub serial: bool,
    /// Create roles, memberships and tablespaces first.
    #[arg(long)]
    pub globals: bool,
    /// Leave ownership out.
    #[arg(long)]
    pub no_owner: bool,
    /// Leave grants out.
    #[arg(long)]
    pub no_acl: bool,
    /// Print the plan, with what will be missing, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Write the plain pg_dump archive to standard output, for stock tools.
    #[arg(long, conflicts_with_all = ["into", "target", "serial", "globals", "json", "dry_run"])]
    pub stdout: bool,
    /// Which of a backup's archives --stdout writes, where there are several: `pgproof show` tells how they are restored.
    #[arg(long, value_name = "N", requires = "stdout")]
    pub archive: Option<u32>,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Restore although the target's file system has less space than the database took.
    #[arg(long)]
    pub ignore_space: bool,
    /// Of files and configuration: the folder to restore into.
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,
    /// Of files: only this file or folder, by its path as it was backed up (may be repeated).
    #[arg(long, value_name = "PATH")]
    pub path: Vec<PathBuf>,
    /// Of files: restore into a folder that is not empty, and what to do with a file that is there.
    #[arg(long, value_name = "WHICH")]
    pub overwrite: Option<Overwrite>,
    /// Of files, as root: keep set-user-id and set-group-id bits and file capabilities.
    #[arg(long)]
    pub special_bits: bool,
}

/// Which files that are there are replaced.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Overwrite {
    /// None: they stay.
    Never,
    /// Those that are older than the backup's.
    Older,
    /// All.
    Always,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// Send a message that says it is a test, and tell what came of it.
    Test {
        /// Only by this route.
        #[arg(long)]
        route: Option<String>,
    },
    /// Look at every source as `status` does, and tell whom the policy names. For timers where no daemon runs.
    Check,
    /// List what was told and is not over.
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// Only this source (may be repeated); every database and configuration of the policy if not given.
    #[arg(long)]
    pub source: Vec<SourceName>,
    /// Why it is made.
    #[arg(long)]
    pub reason: String,
    /// What will be deployed, such as the SHA of a commit; `restore --before-deploy` finds it by this.
    #[arg(long = "ref", value_name = "REF")]
    pub reference: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RestorePointCommand {
    /// List them.
    List,
    /// Show one: its members, and whether they are still there.
    Show {
        /// Its id, the beginning of its deployment's reference, or "newest".
        which: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The earlier backup's id.
    pub before: BackupId,
    /// The later backup's id; what this host has now if not given.
    pub after: Option<BackupId>,
    /// The source; not needed where the policy has one of kind "config".
    #[arg(long)]
    pub source: Option<SourceName>,
    /// Print the values too; takes the identity.
    #[arg(long)]
    pub values: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Only these sources; all of the policy's if not given.
    pub source: Vec<SourceName>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only this source.
    pub source: Option<SourceName>,
    /// So many backups of each source, the newest.
    #[arg(long, value_name = "N", default_value_t = LISTED_BY_DEFAULT)]
    pub limit: NonZeroUsize,
    /// Those before this backup, or before this time.
    #[arg(long, value_name = "ID|TIME")]
    pub before: Option<String>,
    /// All of them, however many there are.
    #[arg(long, conflicts_with_all = ["limit", "before"])]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    pub source: SourceName,
    pub backup: BackupId,
    /// List the tables or files too; takes the identity.
    #[arg(long)]
    pub inventory: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Only this source.
    pub source: Option<SourceName>,
    /// Read every object and compare its hash; with the identity, decode all of it too.
    #[arg(long)]
    pub read_data: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    pub source: SourceName,
    /// Carry the plan out.
    #[arg(long, conflicts_with = "dry_run")]
    pub yes: bool,
    /// Print the plan only.
    #[arg(long)]
    pub dry_run: bool,
    /// Yes, remove exactly so many backups: asked for where a plan removes an unusual share of them.
    #[arg(long, value_name = "N")]
    pub confirm_removal: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct Hold {
    pub source: SourceName,
    pub backup: BackupId,
    /// Why it is kept.
    #[arg(long)]
    pub reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    pub source: SourceName,
    pub backup: BackupId,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only this source.
    pub source: Option<SourceName>,
    /// Only acts from then on; what does not check is always told. Times are given as to `restore --at`.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Only these sources.
    pub source: Vec<SourceName>,
    /// One line with performance data, for Nagios and what is like it.
    #[arg(long, conflicts_with = "json")]
    pub nagios: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fleet {
    /// Policies, and fleet files: repositories by name, each with its policy, or with its place and what is promised of it.
    ///
    /// Without any it is the repository of the policy that other commands go by.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How long reading one repository may take.
    #[arg(long, value_name = "SECONDS", default_value_t = DEADLINE_DEFAULT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=DEADLINE_MAX_SECONDS))]
    pub deadline: u64,
}

fn provider(name: &str) -> Result<Provider, String> {
    let names = || Provider::ALL.map(Provider::name).join(", ");
    Provider::by_name(name).ok_or_else(|| format!("it is one of {}", names()))
}

fn database_name(text: &str) -> Result<String, String> {
    match text.len() {
        1..=NAME_BYTES_MAX => Ok(text.to_owned()),
        0 => Err("a database has a name".to_owned()),
        length => {
            Err(format!("PostgreSQL keeps {NAME_BYTES_MAX} bytes of a name, and this one has {length}"))
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is key=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_restore_can_take_is_refused_before_any() {
        let parsed = |further: &[&str]| {
            let arguments = ["pgproof", "restore", "app", "--at", "now"];
            Cli::try_parse_from(arguments.iter().chain(further)).map(drop)
        };
        let longest = "d".repeat(NAME_BYTES_MAX);
        let too_long = "d".repeat(NAME_BYTES_MAX + 1);
        for wrong in [
            &["--stdout", "--dry-run"][..],
            &["--table", "nope"],
            &["--into", ""],
            &["--into", &too_long],
            &["--jobs", "0"],
            &["--jobs", "65"],
        ] {
            let refused = parsed(wrong).expect_err(&format!("{wrong:?}"));
            assert_eq!(refused.exit_code(), 2, "{wrong:?}");
        }
        for right in [&["--stdout"][..], &["--table", "public.t"], &["--into", &longest], &["--jobs", "64"]] {
            parsed(right).unwrap_or_else(|error| panic!("{right:?}: {error}"));
        }
    }
}
