//! Why a restore failed, and what an operator can do about it.

use std::path::PathBuf;
use std::time::Duration;

use super::complaints;
use super::sections::Section;
use crate::archive::ArchiveError;
use crate::archive::selection::SelectionError;
use crate::client::ClientError;
use crate::connection::{ConnectError, ConnectionError};
use crate::infrastructure;

/// What was being done when rights are missing decides which.
pub(super) const CREATING: &str = "create the database";
pub(super) const RENAMING: &str = "rename the databases";
pub(super) const ENDING_SESSIONS: &str = "end the databases' sessions";

/// The cause below an error that another crate or module told.
pub(super) type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    #[error("backup is of kind {kind}, not of a database")]
    NotADatabase { kind: &'static str },
    #[error("database {database:?} exists and holds {objects} objects")]
    TargetNotEmpty { database: String, objects: i64 },
    #[error("a new database cannot have the name {database:?}")]
    BadName { database: String },
    #[error("the target has no role {}", roles.join(", "))]
    MissingRoles { roles: Vec<String> },
    #[error("the target's server cannot create a database with locale {locale:?} and encoding {encoding}")]
    Locale {
        locale: String,
        encoding: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("cannot {doing}")]
    Server {
        doing: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("no session with the target")]
    Connect {
        #[source]
        source: ConnectError,
    },
    #[error(
        "database {new:?} is restored, but did not take the place of {old:?}: both are there and open as before"
    )]
    NotSwapped {
        new: String,
        old: String,
        /// What renames them, in SQL.
        by_hand: String,
        #[source]
        source: Box<RestoreError>,
    },
    #[error("database {new:?} is restored, and whether it took the place of {old:?} is not known")]
    SwapUnknown {
        new: String,
        old: String,
        /// The name under which the old one is kept, if there was one.
        kept: Option<String>,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("the target's server answered nothing for {} s", after.as_secs())]
    Silent { after: Duration },
    #[error("no environment for pg_restore")]
    Environment {
        #[source]
        source: ConnectionError,
    },
    #[error("no usable pg_restore")]
    Client {
        #[source]
        source: ClientError,
    },
    #[error("object {object} of the backup cannot be read")]
    Object {
        object: String,
        #[source]
        source: Source,
    },
    #[error("the backup's inventory does not fit its archive: {why}")]
    Inventory { why: String },
    #[error("the archive's contents cannot be read")]
    Archive {
        #[source]
        source: ArchiveError,
    },
    #[error("{doing} {path}", path = path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot run pg_restore")]
    Spawn {
        #[source]
        source: std::io::Error,
    },
    #[error("pg_restore failed on {section} with {status}: {}", complaints::shown(stderr))]
    PgRestore { section: Section, status: String, stderr: String },
    #[error("cannot load table {table}")]
    Load {
        table: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("table {table} was loaded with {found} where the backup holds {expected}")]
    Mismatch { table: String, expected: String, found: String },
    #[error("the selection cannot be restored")]
    Selection {
        #[source]
        source: SelectionError,
    },
    #[error("single tables cannot be restored from an archive that is not indexed")]
    SelectionWithoutIndex,
    #[error("only an indexed archive can be restored without extension {}", extensions.join(", "))]
    LenienceWithoutIndex { extensions: Vec<String> },
    #[error("the restored archive cannot be written out")]
    Output {
        #[source]
        source: std::io::Error,
    },
    #[error("the restore was cancelled")]
    Cancelled,
    #[error("a worker of the restore died")]
    Worker {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl RestoreError {
    /// What an operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TargetNotEmpty { .. } => {
                Some("name a database that does not exist yet; swap it for the old one afterwards".to_owned())
            }
            Self::MissingRoles { .. } => Some(
                "restore the roles first (--globals), or give everything to yourself (--no-owner)".to_owned(),
            ),
            Self::Locale { locale, .. } => Some(format!(
                "install the locale {locale:?} on the target's machine (Debian: locales-all) and restart the server"
            )),
            Self::Connect { source } => source.hint(),
            Self::Silent { .. } => Some(
                "look for a stopped server or a dead network path; `no_progress_timeout` in the policy sets how long is \
                 too long"
                    .to_owned(),
            ),
            Self::Environment { source } => source.hint(),
            Self::Client { source } => source.hint(),
            Self::PgRestore { stderr, .. } => hint_for(stderr),
            Self::NotSwapped { by_hand, source, .. } => Some(match hint_for_swap(source) {
                Some(hint) => format!("{hint}, then swap by hand: {by_hand}"),
                None => format!("swap by hand, from any other database: {by_hand}"),
            }),
            Self::SwapUnknown { kept: Some(kept), .. } => {
                Some(format!("nothing is closed or lost: it did if there is a database {kept:?}"))
            }
            Self::SwapUnknown { new, kept: None, .. } => {
                Some(format!("nothing is closed or lost: it did if there is no database {new:?}"))
            }
            Self::Server { doing, source } => hint_for_answer(doing, source),
            Self::Load { source, .. } => hint_for_answer("load a table", source),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("free space there, or set TMPDIR to a folder with space".to_owned())
            }
            Self::Cancelled => Some("nothing half-made is left on the target; run it again".to_owned()),
            Self::SelectionWithoutIndex => {
                Some("restore the whole database, and take the tables from there".to_owned())
            }
            Self::Mismatch { .. } => {
                Some("the restored database must not be used; try an older backup".to_owned())
            }
            _ => None,
        }
    }
}

/// What the commonest refusals of the target's server call for.
fn hint_for_answer(doing: &str, error: &tokio_postgres::Error) -> Option<String> {
    let Some(code) = error.code() else { return infrastructure::hint(error) };
    let hint = match code.code() {
        "53100" => "free space on the target's machine, then restore again; nothing half-made is left",
        "42501" if doing == CREATING => {
            "the role must be allowed to create databases: ALTER ROLE … CREATEDB, or another --target"
        }
        "42501" => "the role lacks a right: restore as a superuser, or with --no-owner and --no-acl",
        "53300" => "the target has no connection left: fewer --jobs, or a higher max_connections",
        "57P01" | "57P02" | "57P03" => "the target's server went down: look into its log, then restore again",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What is to be done before another try; the restored database is there already.
fn hint_for_swap(source: &RestoreError) -> Option<&'static str> {
    let RestoreError::Server { doing, source } = source else { return None };
    match (*doing, source.code()?.code()) {
        (ENDING_SESSIONS, "42501") => {
            Some("have the sessions in both databases ended, those of superusers by a superuser")
        }
        (_, "42501") => Some("the role must own both databases and be allowed to create some (CREATEDB)"),
        (_, "55006") => Some("end the sessions and prepared transactions in both databases"),
        _ => None,
    }
}

/// What the commonest complaints of pg_restore call for.
fn hint_for(stderr: &str) -> Option<String> {
    let stderr = stderr.to_lowercase();
    let hint = if stderr.contains("extension") && stderr.contains("is not available") {
        "install the extension's package on the target's machine"
    } else if stderr.contains("role") && stderr.contains("does not exist") {
        "restore the roles first (--globals), or leave access rights out (--no-acl)"
    } else if stderr.contains("no space left on device") || stderr.contains("could not extend file") {
        "free space on the target's machine, then restore again"
    } else if stderr.contains("must be superuser") || stderr.contains("permission denied") {
        "restore as a superuser, or with --no-owner and --no-acl"
    } else if stderr.contains("server closed the connection") || stderr.contains("terminating connection") {
        infrastructure::HINT_OF_A_LOST_CONNECTION
    } else {
        return None;
    };
    Some(hint.to_owned())
}
