//! How a failure is told: one line that chains its causes, a hint, and one of a few exit codes.

use std::process::ExitCode;

use pgproof_files as files;
use pgproof_monitoring::alerts::NotTold;
use pgproof_monitoring::fleet::FleetError;
use pgproof_monitoring::journal::say;
use pgproof_policies::backups::Cause;
use pgproof_policies::moment::MomentError;
use pgproof_policies::policy::PolicyProblems;
use pgproof_postgres::archive::ArchiveError;
use pgproof_postgres::archive::origin::NotWhole;
use pgproof_postgres::client::ClientError;
use pgproof_postgres::connection::{ConnectError, ConnectionError};
use pgproof_postgres::disclosure;
use pgproof_postgres::dump::DumpError;
use pgproof_postgres::restore::RestoreError;
use pgproof_postgres::snapshot::SnapshotError;
use pgproof_repository::access::AccessError;
use pgproof_repository::catalog::CatalogError;
use pgproof_repository::keys::KeyError;
use pgproof_repository::lease::LeaseError;
use pgproof_repository::lifecycle::LifecycleError;
use pgproof_repository::lineage::LineageError;
use pgproof_repository::manifest::ManifestError;
use pgproof_repository::restore_point::NoRestorePoint;
use pgproof_repository::sealed::{ReadError, UnsealError};
use pgproof_repository::signature::{SignatureError, TrustError};
use pgproof_repository::store::StoreError;
use tracing::Level;

use crate::backup::HookError;
use crate::configuration::{GatherError, WriteError};

/// Exit codes, documented in `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed; nothing half-done counts.
    Failed = 1,
    /// The command line or the policy is wrong (clap's own code, too).
    Usage = 2,
    /// There is no such backup, or none at that time.
    NothingFound = 3,
    /// Bytes, signatures or digests are not what was signed.
    Integrity = 4,
    /// Another process is at work on this source.
    Busy = 5,
    /// So much would be removed that somebody must confirm the number.
    Unconfirmed = 6,
    /// The backup stands, and files are missing or damaged in it.
    Incomplete = 7,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that knows its exit code and hint. Everything else is [`Exit::Failed`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub message: String,
    pub exit: Exit,
    pub hint: Option<String>,
    /// It stays so until somebody mends something.
    is_standing: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), exit, hint: Some(hint.into()), is_standing: exit == Exit::Usage }
    }

    /// The same, where no retry mends it.
    pub(crate) fn standing(self) -> Self {
        Self { is_standing: true, ..self }
    }
}

/// Prints the chain and the hint to standard error and returns the exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Exit {
    let (message, hint, exit) = (message(error), hint(error), exit(error));
    if json {
        let document = serde_json::json!({ "error": message, "hint": hint, "exit": exit as u8 });
        say(Level::ERROR, &document.to_string());
        return exit;
    }
    say(Level::ERROR, &format!("error: {message}"));
    if let Some(hint) = hint {
        say(Level::ERROR, &format!("hint: {hint}"));
    }
    exit
}

/// An error of a library as [`message`] has it.
pub(crate) fn message_of(error: &(dyn std::error::Error + 'static)) -> String {
    on_one_line(&disclosure::told(error))
}

/// What a failed backup calls for: whether it may be over by itself.
pub(crate) fn cause(error: &anyhow::Error) -> Cause {
    match exit(error) {
        Exit::Interrupted => Cause::Stopped,
        _ if error.chain().any(is_standing) => Cause::Standing,
        _ => Cause::Passing,
    }
}

/// Failures that stay the same however often a backup is tried.
fn is_standing(cause: &(dyn std::error::Error + 'static)) -> bool {
    let is_denied = |error: &StoreError| match error {
        StoreError::Denied { .. } => true,
        // A disk that is away may be back in a minute.
        StoreError::NoSuchPlace { location, .. } => !location.starts_with("file://"),
        _ => false,
    };
    cause.downcast_ref::<Failure>().is_some_and(|failure| failure.is_standing)
        || cause.downcast_ref::<StoreError>().is_some_and(is_denied)
        || cause.downcast_ref::<ConnectError>().is_some_and(ConnectError::is_standing)
        || matches!(cause.downcast_ref::<HookError>(), Some(HookError::Start { .. }))
        || matches!(cause.downcast_ref::<LifecycleError>(), Some(LifecycleError::LateSnapshot { .. }))
        || cause.is::<GatherError>()
        || cause
            .downcast_ref::<files::backup::BackupError>()
            .is_some_and(files::backup::BackupError::is_standing)
        || cause.is::<PolicyProblems>()
        || cause.is::<AccessError>()
        || cause.is::<KeyError>()
        || cause.is::<SignatureError>()
        || cause.is::<TrustError>()
        || cause.is::<ConnectionError>()
        || cause.is::<ClientError>()
}

/// The chain on one line, whatever line breaks a server or library put in; a policy's problems keep a line each.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let told = disclosure::told(error.as_ref());
    match error.chain().any(|cause| cause.is::<PolicyProblems>()) {
        true => told,
        false => on_one_line(&told),
    }
}

/// The chain as it may stand in a record or an alert: without what may be a row.
pub(crate) fn record(error: &anyhow::Error) -> String {
    on_one_line(&disclosure::recorded(error.as_ref()))
}

pub(crate) fn on_one_line(told: &str) -> String {
    told.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn exit(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of).unwrap_or(Exit::Failed)
}

fn exit_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    match cause.downcast_ref::<NoRestorePoint>() {
        Some(NoRestorePoint::Absent { .. }) => return Some(Exit::NothingFound),
        Some(_) => return Some(Exit::Usage),
        None => {}
    }
    if cause.is::<PolicyProblems>() || cause.is::<MomentError>() || cause.is::<NotWhole>() {
        return Some(Exit::Usage);
    }
    if let Some(
        AccessError::PolicyFile { .. } | AccessError::NoSuchSource { .. } | AccessError::NotInPolicy { .. },
    ) = cause.downcast_ref::<AccessError>()
    {
        return Some(Exit::Usage);
    }
    if let Some(LineageError::Unusable { .. } | LineageError::Replaced { .. }) = cause.downcast_ref() {
        return Some(Exit::Integrity);
    }
    if cause.is::<ManifestError>()
        || matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Damaged { .. }))
    {
        return Some(Exit::Integrity);
    }
    if let Some(RestoreError::Cancelled) = cause.downcast_ref::<RestoreError>() {
        return Some(Exit::Interrupted);
    }
    match cause.downcast_ref::<files::restore::RestoreError>() {
        Some(files::restore::RestoreError::Cancelled) => return Some(Exit::Interrupted),
        Some(files::restore::RestoreError::NotEmpty { .. }) => return Some(Exit::Usage),
        Some(files::restore::RestoreError::NotInBackup { .. }) => return Some(Exit::NothingFound),
        Some(files::restore::RestoreError::Hash { .. }) => return Some(Exit::Integrity),
        _ => {}
    }
    match (cause.downcast_ref::<CatalogError>(), cause.downcast_ref::<LeaseError>()) {
        (Some(CatalogError::NoSuchBackup { .. }), _) => Some(Exit::NothingFound),
        (Some(CatalogError::Unsigned { .. }), _) => Some(Exit::Integrity),
        (_, Some(LeaseError::Held { .. })) => Some(Exit::Busy),
        _ => None,
    }
}

pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(hint_of)
}

fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    /// The hint of the first of these types that the cause is.
    macro_rules! first_hint {
        ($($type:ty),* $(,)?) => {
            $(if let Some(error) = cause.downcast_ref::<$type>() {
                return error.hint().map(|hint| hint.to_string());
            })*
        };
    }
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return failure.hint.clone();
    }
    match cause.downcast_ref::<LeaseError>() {
        Some(LeaseError::Held { .. }) => {
            return Some("wait until it ends; if that host is gone, the lease runs out by itself".to_owned());
        }
        Some(LeaseError::Slow { .. }) => {
            return Some(
                "run it again; if it stays so, see to the network between this host and the store".to_owned(),
            );
        }
        _ => {}
    }
    first_hint!(
        GatherError,
        WriteError,
        NotTold,
        FleetError,
        NoRestorePoint,
        PolicyProblems,
        MomentError,
        AccessError,
        StoreError,
        LineageError,
        LifecycleError,
        ManifestError,
        KeyError,
        UnsealError,
        TrustError,
        SignatureError,
        ConnectionError,
        ConnectError,
        ClientError,
        DumpError,
        ArchiveError,
        NotWhole,
        RestoreError,
        SnapshotError,
        ReadError,
        HookError,
        files::backup::BackupError,
        files::restore::RestoreError,
    );
    None
}
