//! How a failure is told: one line that chains its causes, a hint, and one of a few exit codes.

use std::process::ExitCode;

use pgproof_files as files;
use pgproof_policies::moment::MomentError;
use pgproof_policies::policy::PolicyProblems;
use pgproof_postgres::archive::ArchiveError;
use pgproof_postgres::client::ClientError;
use pgproof_postgres::connection::{ConnectError, ConnectionError};
use pgproof_postgres::dump::DumpError;
use pgproof_postgres::restore::RestoreError;
use pgproof_postgres::snapshot::SnapshotError;
use pgproof_repository::access::AccessError;
use pgproof_repository::catalog::CatalogError;
use pgproof_repository::keys::KeyError;
use pgproof_repository::lease::LeaseError;
use pgproof_repository::manifest::ManifestError;
use pgproof_repository::sealed::{ReadError, UnsealError};
use pgproof_repository::signature::{SignatureError, TrustError};
use pgproof_repository::store::StoreError;

/// Exit codes, documented in the README.
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
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), exit, hint: Some(hint.into()) }
    }
}

/// Prints the chain and the hint to standard error and returns the exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Exit {
    let (message, hint, exit) = (message(error), hint(error), exit(error));
    if json {
        let document = serde_json::json!({ "error": message, "hint": hint, "exit": exit as u8 });
        eprintln!("{document}");
        return exit;
    }
    eprintln!("error: {message}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    exit
}

/// The chain on one line, whatever line breaks a server or library put in; a policy's problems keep a line each.
fn message(error: &anyhow::Error) -> String {
    let told = format!("{error:#}");
    match error.chain().any(|cause| cause.is::<PolicyProblems>()) {
        true => told,
        false => told.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
    }
}

fn exit(error: &anyhow::Error) -> Exit {
    error.chain().find_map(exit_of).unwrap_or(Exit::Failed)
}

fn exit_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if cause.is::<PolicyProblems>() || cause.is::<MomentError>() {
        return Some(Exit::Usage);
    }
    if let Some(
        AccessError::PolicyFile { .. } | AccessError::NoSuchSource { .. } | AccessError::NotInPolicy { .. },
    ) = cause.downcast_ref::<AccessError>()
    {
        return Some(Exit::Usage);
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

fn hint(error: &anyhow::Error) -> Option<String> {
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
    if let Some(LeaseError::Held { .. }) = cause.downcast_ref::<LeaseError>() {
        return Some("wait until it ends; if that host is gone, the lease runs out by itself".to_owned());
    }
    first_hint!(
        PolicyProblems,
        MomentError,
        AccessError,
        StoreError,
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
        RestoreError,
        SnapshotError,
        ReadError,
        files::backup::BackupError,
        files::restore::RestoreError,
    );
    None
}
