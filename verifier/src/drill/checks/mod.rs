//! What is proved of the restored database beside its tables' rows, one file a family of checks.
//!
//! Each check ends as passed, failed, degraded or not run; what the inventory does not tell, or the server does not
//! answer, is not run and never passed.

mod amcheck;
mod extensions;
mod large_objects;
mod sequences;
mod states;
mod structure;

use std::error::Error;
use std::time::Duration;

use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::snapshot::SnapshotFacts;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::report::Outcome;

use super::names::{AMCHECK, COLLATIONS, CONSTRAINTS, EXTENSIONS, LARGE_OBJECTS, MATERIALIZED_VIEWS};
use super::names::{SEQUENCES, STRUCTURE};
use crate::failure::chain;

/// Names in a reason: enough to know where to look, few enough to read.
const NAMES_SHOWN_MAX: usize = 10;

/// What is looked at, and with what it is compared.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub database: &'a ConnectionSpec,
    pub inventory: &'a Inventory,
    /// Why the archive passed by unread, if it did: then nothing was counted that could be compared.
    pub not_indexed_because: Option<&'a str>,
    /// Connections that read at the same time.
    pub jobs: usize,
    /// Extensions that the policy allows to be missing here.
    pub missing_extensions: &'a [String],
    /// How long the restore took: no check may take much beside it.
    pub restored_in: Duration,
}

/// How one check ended.
#[derive(Debug)]
pub(super) struct Finding {
    pub name: &'static str,
    /// Without which there is no proof.
    pub required: bool,
    pub outcome: Outcome,
    pub detail: Option<String>,
}

/// Makes all checks; the one that changes the database, by adding an extension, comes last.
pub(super) async fn run(subject: &Subject<'_>) -> Vec<Finding> {
    let expected = subject.inventory.structure.as_ref();
    let restored = Box::pin(structure::read(subject.database)).await;
    let facts = facts(&subject.inventory.facts);
    let installed = Box::pin(extensions::installed(subject.database)).await;
    let absent = extensions::absent(facts.as_ref().ok(), installed.as_deref().unwrap_or_default());
    vec![
        finding(SEQUENCES, true, Box::pin(sequences::check(subject)).await),
        finding(LARGE_OBJECTS, true, Box::pin(large_objects::check(subject)).await),
        // Where the source is too old to be asked for it, there is yet a proof of all its rows.
        finding(STRUCTURE, expected.is_some(), structure::check(expected, restored.as_ref(), &absent)),
        finding(CONSTRAINTS, false, states::constraints(expected, restored.as_ref())),
        finding(MATERIALIZED_VIEWS, false, states::materialized_views(expected, restored.as_ref())),
        finding(EXTENSIONS, false, extensions::check(facts.as_ref(), installed, subject.missing_extensions)),
        finding(COLLATIONS, false, Box::pin(extensions::collations(subject, facts.as_ref())).await),
        finding(AMCHECK, false, Box::pin(amcheck::check(subject)).await),
    ]
}

/// What the server said of itself and the database; nobody asked that of an imported dump.
fn facts(recorded: &serde_json::Value) -> Result<SnapshotFacts, String> {
    if recorded.get("database").is_none() {
        return Err("the inventory does not record what the server said of itself".to_owned());
    }
    serde_json::from_value(recorded.clone())
        .map_err(|error| format!("the inventory's facts cannot be read: {error}"))
}

/// An outcome and what there is to say beside it.
type Told = (Outcome, Option<String>);

fn finding(name: &'static str, required: bool, (outcome, detail): Told) -> Finding {
    Finding { name, required, outcome, detail }
}

fn failed(reason: String) -> Outcome {
    Outcome::Failed { reason }
}

fn degraded(reason: String) -> Outcome {
    Outcome::Degraded { reason }
}

fn not_run(reason: impl Into<String>) -> Told {
    (Outcome::NotRun { reason: reason.into() }, None)
}

fn not_run_for(error: &(dyn Error + 'static)) -> Told {
    not_run(chain(error))
}

/// The end of a check for which the backup recorded nothing to compare with.
fn not_recorded(subject: &Subject<'_>, what: &str) -> Told {
    match subject.not_indexed_because {
        Some(why) => (degraded(format!("the archive was not read: {why}")), None),
        None => not_run(format!("the inventory does not record {what}")),
    }
}

/// The first of these names, and how many more there are.
fn named<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN_MAX).map(AsRef::as_ref).collect();
    let more = match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_counted() {
        assert_eq!(named(&["a", "b"]), "a, b");
        let many: Vec<String> = (0..13).map(|n| n.to_string()).collect();
        assert!(named(&many).ends_with("8, 9 and 3 more"), "{}", named(&many));
    }
}
