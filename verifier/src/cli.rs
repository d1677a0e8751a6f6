//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pgproof_policies::names::SourceName;
use pgproof_repository::ids::BackupId;

/// Proof that PostgreSQL backups can be restored.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Cli {
    /// The policy file.
    #[arg(
        long,
        short,
        global = true,
        env = "PGPROOF_POLICY",
        default_value = "pgproof.toml",
        value_name = "FILE"
    )]
    pub policy: PathBuf,
    /// Print the report as JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log on standard error: error, warn, info, debug, or a tracing filter; warn if not given, and for `run`
    /// what the verifier does.
    #[arg(long, global = true, env = "PGPROOF_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Restore a backup into a throw-away server, compare every row, and sign a report.
    ///
    /// Exit code 0: passed or degraded; 1: could not be run; 2: usage; 3: no such backup; 4: a check failed.
    Drill(Drill),
    /// Show that the keys which the policy encrypts to still open what is sealed to them.
    ///
    /// Exit code 0: every one was shown within a year; 1: some were not; 4: one does not open it.
    Restorability(Restorability),
    /// Print which backups the schedule drills next and why, and how many are proved. Nothing is drilled.
    Plan(Plan),
    /// Drill all sources on their schedules, until SIGTERM or SIGINT; SIGHUP reads the policy again.
    ///
    /// Exit code with --once as that of `drill`, the worst of all drills; 0 when nothing was due. Without it 0 once asked to end.
    Run(Run),
}

#[derive(Debug, Args)]
pub(crate) struct Drill {
    pub source: SourceName,
    /// The newest backup from this time or before, such as "2026-11-24 01:30 UTC"; the newest of all if not given.
    #[arg(long, value_name = "TIME", conflicts_with = "backup")]
    pub at: Option<String>,
    /// This backup.
    #[arg(long, value_name = "ID")]
    pub backup: Option<BackupId>,
    /// The one that this rule picks.
    #[arg(long, value_name = "RULE", conflicts_with_all = ["at", "backup"])]
    pub pick: Option<Rule>,
    /// Connections that load and read tables at the same time; the number of processors if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Test the verifier's own alarm, too: copies of the backup that it damages must be called bad.
    #[arg(long)]
    pub negative_control: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restorability {
    pub source: SourceName,
    /// Try this identity file, beside those of the policy (may be repeated).
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// Write a canary for each recipient here, to be opened by its custodian elsewhere; nothing else is done.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["identity", "answer"])]
    pub challenge: Option<PathBuf>,
    /// What a custodian's `age -d` made of a canary (may be repeated).
    #[arg(long, value_name = "FILE")]
    pub answer: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Rule {
    Newest,
    Oldest,
    /// Any good one.
    Random,
    /// One that was never proved, or else the one that was proved longest ago.
    Unproved,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    pub source: SourceName,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Do what is due and end, for timers.
    #[arg(long)]
    pub once: bool,
    /// Print what is due and end.
    #[arg(long, conflicts_with = "once")]
    pub dry_run: bool,
    /// Drills at the same time, each of another source and with a server of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Connections of each drill that load and read tables at the same time; the number of processors if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
}
