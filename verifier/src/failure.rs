//! How a failure is told: one line that chains its causes, a hint, and one of a few exit codes.

use std::error::Error;
use std::process::ExitCode;

use pgproof_monitoring::journal::say;
use pgproof_policies::moment::MomentError;
use pgproof_policies::policy::PolicyProblems;
use pgproof_postgres::disclosure;
use pgproof_repository::access::AccessError;
use pgproof_repository::catalog::CatalogError;
use pgproof_repository::manifest::ManifestError;
use pgproof_repository::store::StoreError;
use tracing::Level;

use crate::report::export::ExportError;
use crate::serve;

/// Exit codes, documented in `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The drill could not be run: nothing is known about the backup.
    NotRun = 1,
    /// The command line or the policy is wrong (clap's own code, too).
    Usage = 2,
    /// There is no such backup, or none at that time.
    NothingFound = 3,
    /// A check failed: the backup is not what was signed, or does not restore.
    CheckFailed = 4,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure that knows its exit code and hint. Everything else is [`Exit::NotRun`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub message: String,
    pub exit: Exit,
    pub hint: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), exit, hint: hint.into() }
    }
}

/// An error, and then each of its causes.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause| (**cause).source())
}

/// An error with all its causes, on one line, as it may stand in a report.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    disclosure::recorded(error)
}

/// Prints the chain and the hint to standard error and returns the exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Exit {
    let exit = error.chain().find_map(exit_of).unwrap_or(Exit::NotRun);
    let (message, hint) = (disclosure::told(error.as_ref()), error.chain().find_map(hint_of));
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

/// Whether the same may succeed later though nobody changes anything here: the repository is away, or not made yet.
pub(crate) fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<StoreError>()
            || cause.downcast_ref::<Failure>().is_some_and(|failure| failure.exit == Exit::NothingFound)
    })
}

fn exit_of(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if cause.is::<PolicyProblems>() || cause.is::<MomentError>() || cause.is::<serve::TokenError>() {
        return Some(Exit::Usage);
    }
    let access = cause.downcast_ref::<AccessError>();
    if let Some(AccessError::NoSuchSource { .. } | AccessError::NotInPolicy { .. }) = access {
        return Some(Exit::Usage);
    }
    if cause.is::<ManifestError>() {
        return Some(Exit::CheckFailed);
    }
    match cause.downcast_ref::<CatalogError>()? {
        CatalogError::NoSuchBackup { .. } => Some(Exit::NothingFound),
        CatalogError::Unsigned { .. } => Some(Exit::CheckFailed),
        _ => None,
    }
}

fn hint_of(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.hint.clone());
    }
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = cause.downcast_ref::<ManifestError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = cause.downcast_ref::<ExportError>() {
        return error.hint().map(str::to_owned);
    }
    if let Some(error) = cause.downcast_ref::<serve::TokenError>() {
        return Some(error.hint().to_owned());
    }
    cause.downcast_ref::<AccessError>()?.hint().map(str::to_owned)
}
