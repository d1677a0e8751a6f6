//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::civil::Date;
use pgproof_policies::names::SourceName;
use pgproof_repository::ids::BackupId;

use crate::failure::{Exit, Failure};
use crate::report::span::Days;

/// Proof that PostgreSQL backups can be restored.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Cli {
    /// The policy file; pgproof.toml in this folder if not given, or else /etc/pgproof-verifier/pgproof.toml.
    #[arg(long, short, global = true, env = "PGPROOF_POLICY", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Print the report as JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log on standard error: error, warn, info, debug, or a tracing filter; warn if not given, and for `run`
    /// and `serve` what the verifier does.
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
    /// Try all that drills need against the real store and host, and say what is missing. Nothing is drilled.
    ///
    /// Exit code: 0 nothing failed, warnings or not; 1 something failed; 2 usage.
    Doctor(Doctor),
    /// Print which backups the schedule drills next and why, and how many are proved. Nothing is drilled.
    Plan(Plan),
    /// Drill all sources on their schedules, until SIGTERM or SIGINT; SIGHUP reads the policy again.
    ///
    /// Exit code with --once as that of `drill`, the worst of all drills; 0 when nothing was due. Without it 0 once asked to end.
    Run(Run),
    /// Read, hand on and check stored reports.
    #[command(subcommand)]
    Report(Report),
    /// Serve pages for reviewers: sources, backups and drills by date, reports with what their signatures are worth.
    ///
    /// They are read and nothing can be changed there; the bucket is only read. It speaks plain HTTP: for others than this
    /// machine put a proxy with TLS before it. SIGHUP reads the policy again. Ends with 0 on SIGTERM or SIGINT.
    Serve(Serve),
    /// Write manual pages and shell completions into a folder, for whoever packages this.
    Documents {
        /// The folder; it is made where there is none.
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
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
pub(crate) struct Doctor {
    /// Only these sources; every database of the policy if not given.
    pub source: Vec<SourceName>,
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

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8431")]
    pub listen: SocketAddr,
    /// Show pages only to those who have the token on the first line of this file, or in PGPROOF_SERVE_TOKEN.
    ///
    /// Other addresses than loopback take it.
    #[arg(long, value_name = "FILE", conflicts_with = "without_token")]
    pub token_file: Option<PathBuf>,
    /// Show them to everybody who reaches the address.
    #[arg(long)]
    pub without_token: bool,
    /// A name under which this server is asked (may be repeated): a proxy's. On loopback, and where any is given, others
    /// are refused.
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Report {
    /// Every report of a source or of all; those that are unreadable or badly signed with what is the matter.
    List { source: Option<SourceName> },
    /// One report.
    Show {
        source: SourceName,
        /// A report's number, or latest.
        #[arg(value_name = "NUMBER", default_value = "latest")]
        which: Which,
    },
    /// Write reports into a folder: the signed JSON and its signature, a page, a CSV file of the tables, and a list of all.
    ///
    /// A file that is there is never overwritten with another; the list alone is made anew.
    Export(Export),
    /// Find out whether reports are what was signed, and whether one is missing.
    ///
    /// Of a folder it needs the files and the signers' public keys, no policy and no network. Exit code 0: all is well;
    /// 1: a file could not be compared; 3: there is no report; 4: something is not what was signed.
    Check(Check),
    /// Write what all drills of a span say together: a page, a CSV file of the drills, and JSON, signed where the policy
    /// has a key. Days are those of UTC.
    Period(Period),
    /// The JSON Schema of reports.
    Schema,
}

/// Which report of a source.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    Latest,
    Number(u64),
}

impl std::str::FromStr for Which {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
            number => number.parse().map(Self::Number).map_err(|_| "must be a number or latest"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    pub source: SourceName,
    /// The folder; it is made where there is none.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Only the report with this number.
    #[arg(long, value_name = "N", conflicts_with = "since")]
    pub number: Option<u64>,
    /// Only reports of drills that ended at this time or later, such as "2026-11-01 00:00 UTC".
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A folder of exported reports.
    #[arg(value_name = "DIR", requires = "signers", required_unless_present = "source")]
    pub dir: Option<PathBuf>,
    /// The signers that are trusted, in the format of OpenSSH's allowed signers.
    #[arg(long, value_name = "FILE", requires = "dir")]
    pub signers: Option<PathBuf>,
    /// The reports of this source in the policy's repository.
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    pub source: Option<SourceName>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("span").required(true).args(["month", "quarter", "from"]))]
pub(crate) struct Period {
    pub source: SourceName,
    /// A month, such as 2026-11.
    #[arg(long, value_name = "YYYY-MM", value_parser = Days::month)]
    pub month: Option<Days>,
    /// A quarter, such as 2026-Q4.
    #[arg(long, value_name = "YYYY-QN", value_parser = Days::quarter)]
    pub quarter: Option<Days>,
    /// The first day, such as 2026-11-01.
    #[arg(long, value_name = "DATE", requires = "last")]
    pub from: Option<Date>,
    /// The last day; it belongs to the span.
    #[arg(long = "until", id = "last", value_name = "DATE", requires = "from")]
    pub last: Option<Date>,
    /// The folder; it is made where there is none.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

impl Period {
    /// The span that was named, in whichever way.
    pub(crate) fn days(&self) -> Result<Days, Failure> {
        let hint = "name --month, --quarter, or --from and --until, the last day";
        let wrong = |message: String| Failure::new(Exit::Usage, message, hint);
        match (self.month.or(self.quarter), self.from, self.last) {
            (Some(days), ..) => Ok(days),
            (None, Some(first), Some(last)) => {
                Days::new(first, last).map_err(|error| wrong(error.to_string()))
            }
            _ => Err(wrong("no span was named".to_owned())),
        }
    }
}
