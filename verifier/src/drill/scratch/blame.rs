//! Whose fault it is that a drill did not get on: the backup's, or that of the machine, the store or a server.
//!
//! What is in doubt is put on the backup only when something looked at its bytes or its objects and refused them.

use std::error::Error;
use std::io;

use pgproof_postgres::cluster::ClusterError;
use pgproof_postgres::restore::{self, RestoreError};
use pgproof_postgres::scratch::ScratchError;
use pgproof_postgres::{disclosure, infrastructure};
use pgproof_repository::custody;
use pgproof_repository::keys::{Identities, KeyError};
use pgproof_repository::report::Outcome;
use pgproof_repository::store::StoreError;
use tokio_postgres::error::SqlState;

use crate::failure::{causes, chain};

/// What a machine lacks that has not all that the source's server had.
const WORDS_OF_LACK: [&str; 4] = [
    "is not available",
    "could not open extension control file",
    "could not access file \"$libdir",
    "icu is not supported in this build",
];
/// What a role without the superuser's rights is refused on a server of others.
const WORDS_OF_RIGHTS: [&str; 3] = ["permission denied", "must be superuser", "must be owner"];

/// What kept a drill from getting on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The backup is not what was signed, or does not restore.
    Backup { reason: String },
    /// The machine, a server or the store, in a way that may be over in a minute.
    Passing { reason: String },
    /// Something that is missing here until somebody provides it.
    Lasting { reason: String },
}

impl Fault {
    /// Only a backup's fault is a failed check; of everything else nothing is known about the backup.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Backup { reason } => Outcome::Failed { reason },
            Self::Passing { reason } | Self::Lasting { reason } => Outcome::NotRun { reason },
        }
    }

    /// The same, with what it is about.
    #[must_use]
    pub(crate) fn about(self, what: &str) -> Self {
        let told = |reason: String| format!("{what}: {reason}");
        match self {
            Self::Backup { reason } => Self::Backup { reason: told(reason) },
            Self::Passing { reason } => Self::Passing { reason: told(reason) },
            Self::Lasting { reason } => Self::Lasting { reason: told(reason) },
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Backup { reason } | Self::Passing { reason } | Self::Lasting { reason } => reason,
        }
    }
}

/// Bytes that are gone or differ are the backup's fault; a store that does not answer says nothing about it.
pub(crate) fn of_reading(error: &(dyn Error + 'static)) -> Fault {
    let reason = chain(error);
    match causes(error).find_map(|cause| cause.downcast_ref::<StoreError>()) {
        None
        | Some(StoreError::NotFound { .. } | StoreError::Damaged { .. } | StoreError::TooLarge { .. }) => {
            Fault::Backup { reason }
        }
        // An object that is shorter than was signed is found out by its size: a body that ends early is a lost line.
        Some(StoreError::Unreachable { .. } | StoreError::Short { .. }) => Fault::Passing { reason },
        Some(_) => Fault::Lasting { reason },
    }
}

/// The same of an object that is opened with these identities. Whether an altered header or a foreign identity keeps it shut
/// its own bytes cannot tell: what is sealed to its recipients afresh can.
pub(crate) fn of_opening(
    error: &(dyn Error + 'static),
    recipients: &[String],
    identities: &Identities,
) -> Fault {
    let is_shut = causes(error)
        .filter_map(|cause| cause.downcast_ref::<KeyError>())
        .any(|cause| matches!(cause, KeyError::NoMatchingIdentity));
    let opens =
        |recipient: &String| matches!(custody::opens(recipient, identities, &mut rand::rng()), Ok(true));
    if is_shut && !recipients.iter().any(opens) {
        let reason =
            format!("no identity here is of this backup's recipients, which are {}", recipients.join(", "));
        return Fault::Lasting { reason };
    }
    of_reading(error)
}

/// Why a restore failed. `shared` is a server on which the drill's role may lack rights.
pub(crate) fn of_restore(error: &RestoreError, shared: bool) -> Fault {
    let reason = told(error);
    match error {
        RestoreError::Connect { .. }
        | RestoreError::Silent { .. }
        | RestoreError::File { .. }
        | RestoreError::Spawn { .. }
        | RestoreError::Worker { .. } => Fault::Passing { reason },
        RestoreError::Environment { .. }
        | RestoreError::Client { .. }
        | RestoreError::Locale { .. }
        | RestoreError::BadName { .. }
        | RestoreError::TargetNotEmpty { .. }
        | RestoreError::LenienceWithoutIndex { .. }
        | RestoreError::Cancelled => Fault::Lasting { reason },
        RestoreError::PgRestore { stderr, .. } => of_complaints(stderr, shared, reason),
        RestoreError::Server { source, .. } | RestoreError::Load { source, .. } => {
            of_answer(source, shared, reason)
        }
        _ => of_reading(error),
    }
}

/// Servers and their databases are no part of the backup.
pub(crate) fn of_cluster(error: &ClusterError) -> Fault {
    let reason = told_with(error, error.hint());
    match error {
        ClusterError::NoAccount { .. } | ClusterError::Setting { .. } => Fault::Lasting { reason },
        ClusterError::Run { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Fault::Lasting { reason }
        }
        _ => Fault::Passing { reason },
    }
}

pub(crate) fn of_scratch(error: &ScratchError) -> Fault {
    Fault::Passing { reason: chain(error) }
}

fn of_answer(error: &tokio_postgres::Error, shared: bool, reason: String) -> Fault {
    if infrastructure::in_error(error) {
        Fault::Passing { reason }
    } else if shared && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        Fault::Lasting { reason }
    } else {
        Fault::Backup { reason }
    }
}

fn of_complaints(stderr: &str, shared: bool, reason: String) -> Fault {
    let own_lines: Vec<String> = stderr
        .lines()
        .filter(|line| line.starts_with("pg_restore: error: "))
        .map(str::to_lowercase)
        .collect();
    let any = |words: &[&str]| own_lines.iter().any(|line| words.iter().any(|word| line.contains(word)));
    if restore::tell_of_server(stderr) {
        Fault::Passing { reason }
    } else if any(&WORDS_OF_LACK) || shared && any(&WORDS_OF_RIGHTS) {
        Fault::Lasting { reason }
    } else {
        Fault::Backup { reason }
    }
}

/// The log has more than a report may.
fn told(error: &RestoreError) -> String {
    tracing::warn!(error = disclosure::told(error), "the restore failed");
    told_with(error, error.hint())
}

fn told_with(error: &(dyn Error + 'static), hint: Option<String>) -> String {
    match hint {
        Some(hint) => format!("{}; {hint}", chain(error)),
        None => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use pgproof_repository::keys::{NoPrompts, generate_identity};
    use pgproof_repository::sealed::UnsealError;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Kind {
        Backup,
        Passing,
        Lasting,
    }

    fn kind(fault: &Fault) -> Kind {
        match fault {
            Fault::Backup { .. } => Kind::Backup,
            Fault::Passing { .. } => Kind::Passing,
            Fault::Lasting { .. } => Kind::Lasting,
        }
    }

    #[test]
    fn only_pg_restores_own_lines_blame_the_server() {
        let of = |stderr: &str, shared| kind(&of_complaints(stderr, shared, String::new()));
        let full = "pg_restore: error: could not execute query: ERROR:  could not extend file: No space left on device";
        assert_eq!(of(full, false), Kind::Passing);
        let lack = "pg_restore: error: could not execute query: ERROR:  extension \"x\" is not available";
        assert_eq!(of(lack, false), Kind::Lasting);
        let table = "pg_restore: error: could not execute query: ERROR:  syntax error\n\
                     Command was: CREATE TABLE x (y text DEFAULT 'no space left on device');";
        assert_eq!(of(table, true), Kind::Backup);
        let rights =
            "pg_restore: error: could not execute query: ERROR:  permission denied to create extension \"x\"";
        assert_eq!((of(rights, true), of(rights, false)), (Kind::Lasting, Kind::Backup));
    }

    #[test]
    fn a_store_that_does_not_answer_says_nothing_about_a_backup() {
        let source = || -> Box<dyn Error + Send + Sync> { "time-out".into() };
        let key = || "k".to_owned();
        let away = StoreError::Unreachable { operation: "get", key: key(), source: source() };
        let denied = StoreError::Denied { operation: "get", key: key(), source: source() };
        let damaged = StoreError::Damaged { operation: "get", key: key(), source: source() };
        let kinds =
            [&away, &denied, &damaged, &StoreError::NotFound { key: key() }].map(|e| kind(&of_reading(e)));
        assert_eq!(kinds, [Kind::Passing, Kind::Lasting, Kind::Backup, Kind::Backup]);
    }

    #[test]
    fn a_foreign_identity_says_nothing_about_a_backup_and_an_altered_header_does() {
        let pair = || {
            let (identity, recipient) = generate_identity();
            let path = Path::new("a test");
            (Identities::parse(&identity, path, Arc::new(NoPrompts)).unwrap(), recipient)
        };
        let ((own, recipient), (foreign, _)) = (pair(), pair());
        let recipients = [recipient, pair().1];
        let shut = UnsealError::Key { source: KeyError::NoMatchingIdentity };
        let Fault::Lasting { reason } = of_opening(&shut, &recipients, &foreign) else {
            panic!("a foreign identity blames the backup")
        };
        assert!(reason.contains(&recipients[0]), "{reason}");
        assert_eq!(kind(&of_opening(&shut, &recipients, &own)), Kind::Backup);
        let gone = StoreError::NotFound { key: "k".to_owned() };
        assert_eq!(kind(&of_opening(&gone, &recipients, &foreign)), Kind::Backup);
    }

    #[test]
    fn what_pg_restore_makes_of_a_dead_server_is_not_the_backups_fault() {
        let stderr =
            "pg_restore: error: could not execute query: ERROR:  relation \"a\" does not exist".to_owned();
        let section = pgproof_postgres::restore::Section::PreData;
        let error = RestoreError::PgRestore { section, status: "exit status: 1".to_owned(), stderr };
        assert_eq!(kind(&of_restore(&error, false)), Kind::Backup);
        assert_eq!(kind(&of_restore(&RestoreError::Cancelled, false)), Kind::Lasting);
    }
}
