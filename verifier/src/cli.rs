//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
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
    /// What to log on standard error: error, warn, info, debug, or a tracing filter.
    #[arg(long, global = true, env = "PGPROOF_LOG", default_value = "warn", value_name = "FILTER")]
    pub log: String,
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
