//! Programs of the operator's that run around a backup.

use std::path::PathBuf;

use jiff::SignedDuration;

use super::raw::{Report, Table};

/// How long a program may take that the policy sets no limit: long enough to put an application to rest.
const TIME_LIMIT_DEFAULT: SignedDuration = SignedDuration::from_mins(5);

/// What runs around a source's backups, those by hand too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Without its success there is no backup.
    pub before: Option<HookProgram>,
    /// After a backup was stored.
    pub after: Option<HookProgram>,
    /// When there was none.
    pub on_failure: Option<HookProgram>,
    /// For each of them.
    pub time_limit: SignedDuration,
}

/// A program and its arguments; no shell reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookProgram {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { before: None, after: None, on_failure: None, time_limit: TIME_LIMIT_DEFAULT }
    }
}

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>) -> Hooks {
    let hooks = Hooks {
        before: program(&mut table, "before", report),
        after: program(&mut table, "after", report),
        on_failure: program(&mut table, "on_failure", report),
        time_limit: table.duration("time_limit", report).unwrap_or(TIME_LIMIT_DEFAULT),
    };
    table.finish(report);
    hooks
}

pub(super) fn program(
    table: &mut Table<'_>,
    key: &'static str,
    report: &mut Report<'_>,
) -> Option<HookProgram> {
    const CONSTRAINT: &str =
        "must be a program's whole path and its arguments, such as [\"/usr/bin/x\", \"-v\"]";
    let is_there = table.has(key);
    let mut words = table.texts(key, report).into_iter();
    let Some(path) = words.next() else {
        if is_there {
            table.refuse(key, CONSTRAINT, None, report);
        }
        return None;
    };
    if !path.value.starts_with('/') {
        report.refuse(&path, CONSTRAINT, Some(format!("{:?}", path.value)));
    }
    Some(HookProgram { path: path.value.into(), arguments: words.map(|word| word.value).collect() })
}
