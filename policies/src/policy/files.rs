//! What a source of `kind = "files"` says.

use std::path::{Component, PathBuf};

use globset::Glob;

use super::{
    FilesSource,
    raw::{Field, Report, Table},
    timing,
};
use crate::increments::{CHAIN_MAX_LIMIT, Incremental};

const NO_JOBS: &str = "must be left out: files are read one after the other";
const PATHS: &str = "must list the folders to back up, such as `[\"/srv/uploads\"]`";
const PATH: &str = "must be an absolute path without `..`";
const FULL_EVERY: &str = "must say how long backups follow one full backup, such as \"7d\"";
const CHAIN_MAX: &str = "must say how many backups may follow one full backup, such as 14";
const PATTERN: &str = "must be a pattern such as \"*.tmp\" or \"/srv/uploads/cache\"";

pub(super) fn read(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<FilesSource> {
    if table.has("jobs") {
        table.refuse("jobs", NO_JOBS, None, report);
    }
    let listed = table.has("paths");
    let paths = table.texts("paths", report);
    match (listed, paths.is_empty()) {
        (false, _) => table.missing("paths", PATHS, report),
        (true, true) => table.refuse("paths", PATHS, Some("none".to_owned()), report),
        _ => {}
    }
    let paths = paths.into_iter().filter_map(|field| path(field, report)).collect();
    let (include, exclude) = (patterns(table, "include", report), patterns(table, "exclude", report));
    let incremental = table.table("incremental", report).and_then(|table| incremental(table, report));
    let mut flag = |key| table.flag(key, report).is_some_and(|field| field.value);
    Some(FilesSource {
        paths,
        include,
        exclude,
        one_file_system: flag("one_file_system"),
        allow_empty: flag("allow_empty"),
        incremental,
    })
}

/// What never makes an incremental backup is a mistake. `schedule` is that of the source.
pub(super) fn refuse_rhythm(
    source: &FilesSource,
    schedule: Option<&str>,
    table: &Table<'_>,
    report: &mut Report<'_>,
) {
    let gap = schedule.and_then(timing::shortest_gap);
    let Some((incremental, gap)) = source.incremental.zip(gap) else { return };
    if incremental.full_every <= gap {
        let constraint = format!(
            "must have a `full_every` longer than the shortest time between two runs, {gap:#}, or be left out: then \
             every backup is a full one"
        );
        table.refuse("incremental", &constraint, Some(format!("{:#}", incremental.full_every)), report);
    }
}

fn incremental(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Incremental> {
    for (key, constraint) in [("full_every", FULL_EVERY), ("chain_max", CHAIN_MAX)] {
        if !table.has(key) {
            table.missing(key, constraint, report);
        }
    }
    let full_every = table.duration("full_every", report);
    let chain_max = table.number("chain_max", 1..=CHAIN_MAX_LIMIT, report);
    table.finish(report);
    Some(Incremental { full_every: full_every?, chain_max: chain_max? })
}

fn path(field: Field<String>, report: &mut Report<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(&field.value);
    let is_plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    if !is_plain || field.value.contains('\0') {
        report.refuse(&field, PATH, Some(format!("{:?}", field.value)));
        return None;
    }
    Some(path)
}

fn patterns(table: &mut Table<'_>, key: &'static str, report: &mut Report<'_>) -> Vec<String> {
    let mut patterns = Vec::new();
    for field in table.texts(key, report) {
        match Glob::new(&field.value) {
            Ok(_) => patterns.push(field.value),
            Err(_) => report.refuse(&field, PATTERN, Some(format!("{:?}", field.value))),
        }
    }
    patterns
}
