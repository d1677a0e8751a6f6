//! Sources of kind `config`: which files and variables are the configuration.

use std::path::PathBuf;

use super::raw::{Field, Report, Table};

/// Files and variables that are backed up when something is deployed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSource {
    /// Absolute paths, in which `*` and `?` stand for names.
    pub files: Vec<String>,
    pub environment: Option<Environment>,
}

/// Variables, and where they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Names that are taken, in which `*` stands for any characters.
    pub names: Vec<String>,
    /// From the environment of the process that makes the backup.
    pub process: bool,
    /// From files of `NAME=value` lines.
    pub env_files: Vec<PathBuf>,
    /// From units of systemd.
    pub units: Vec<String>,
}

pub(super) fn read(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<ConfigSource> {
    let files = absolute(table.texts("files", report), report);
    let environment_is_there = table.has("environment");
    let environment = table.table("environment", report).and_then(|table| environment(table, report));
    if files.is_empty() && !environment_is_there {
        table.missing("files", "must name a file, unless `environment` is there", report);
        return None;
    }
    if environment_is_there && environment.is_none() {
        return None;
    }
    Some(ConfigSource { files, environment })
}

fn environment(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Environment> {
    let offset = table.offset();
    let texts = |fields: Vec<Field<String>>| fields.into_iter().map(|field| field.value).collect::<Vec<_>>();
    if !table.has("names") {
        table.missing("names", "must say which variables are taken, such as `[\"APP_*\"]`", report);
    }
    let names = texts(table.texts("names", report));
    let process = table.flag("process", report).is_some_and(|field| field.value);
    let env_files = absolute(table.texts("env_files", report), report);
    let units = table.texts("units", report);
    for unit in units.iter().filter(|unit| !is_unit(&unit.value)) {
        report.refuse(unit, "must be the name of a unit, such as `app.service`", Some(unit.value.clone()));
    }
    if !process && env_files.is_empty() && units.is_empty() {
        let constraint = "must say where: `process = true`, `env_files` or `units`";
        report.add(offset, &table.path_of(""), constraint, Some("none of them".to_owned()));
    }
    table.finish(report);
    let env_files = env_files.into_iter().map(PathBuf::from).collect();
    (!names.is_empty()).then(|| Environment { names, process, env_files, units: texts(units) })
}

fn absolute(fields: Vec<Field<String>>, report: &mut Report<'_>) -> Vec<String> {
    for field in fields.iter().filter(|field| !field.value.starts_with('/')) {
        report.refuse(field, "must be an absolute path", Some(field.value.clone()));
    }
    fields.into_iter().map(|field| field.value).collect()
}

/// <https://www.freedesktop.org/software/systemd/man/systemd.unit.html>: no path can hide in a name.
fn is_unit(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.contains('.') && !name.starts_with('.') && name.bytes().all(plain)
}
