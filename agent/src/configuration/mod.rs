//! Reading the configuration of this host: files, and variables of processes, files and units.
//!
//! What the policy names and what is not there fails the backup: a configuration that lacks a file looks whole to whoever
//! restores it.

mod env_file;
mod restored;
mod unit;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) use restored::{WriteError, write};

use glob::{MatchOptions, Pattern};
use jiff::Timestamp;
use pgproof_policies::policy::{ConfigSource, Environment};
use pgproof_repository::configuration::{
    CONFIGURATION_BYTES_MAX, Configuration, Content, File, Origin, Variable,
};

/// Bytes of all files together: base64 makes a third more of them, and the rest must have room, too.
const FILES_BYTES_MAX: u64 = CONFIGURATION_BYTES_MAX / 2;
/// Permission bits, without the kind of file.
const MODE_BITS: u32 = 0o7777;
/// `*` stands for a name, not for several folders, as in a shell; hidden files are named or not taken.
const AS_IN_A_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Reads all that the policy names. Blocks.
pub(crate) fn gather(source: &ConfigSource) -> Result<Configuration, GatherError> {
    let mut files = BTreeSet::new();
    let mut variables = Vec::new();
    for pattern in &source.files {
        files.extend(expand(pattern)?);
    }
    if let Some(environment) = &source.environment {
        for unit in read_units(environment)? {
            files.extend(unit.files);
            variables.extend(unit.variables);
        }
        variables.extend(of_files(environment)?);
        variables.extend(of_process(environment));
        let names = patterns(&environment.names)?;
        variables.retain(|variable| names.iter().any(|name| name.matches(&variable.name)));
        if variables.is_empty() {
            return Err(GatherError::NoVariable { names: environment.names.clone() });
        }
    }
    let mut left = FILES_BYTES_MAX;
    let files = files.into_iter().map(|path| read_file(&path, &mut left)).collect::<Result<Vec<_>, _>>()?;
    Ok(Configuration::new(files, variables))
}

fn expand(pattern: &str) -> Result<Vec<PathBuf>, GatherError> {
    let bad = |source| GatherError::Pattern { pattern: pattern.to_owned(), source };
    let mut found = Vec::new();
    for path in glob::glob_with(pattern, AS_IN_A_SHELL).map_err(bad)? {
        let path = path.map_err(|error| {
            let path = error.path().to_owned();
            GatherError::Read { path, source: error.into() }
        })?;
        // A pattern that means files meets folders, too; one that names a folder means it, and cannot have it.
        if !path.is_dir() {
            found.push(path);
        } else if Pattern::escape(pattern) == pattern {
            return Err(GatherError::Folder { path });
        }
    }
    match found.is_empty() {
        true => Err(GatherError::NoFile { pattern: pattern.to_owned() }),
        false => Ok(found),
    }
}

fn read_file(path: &Path, left: &mut u64) -> Result<File, GatherError> {
    let failed = |source| GatherError::Read { path: path.to_owned(), source };
    let text = path.to_str().ok_or_else(|| GatherError::Name { path: path.to_owned() })?;
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(GatherError::NotAFile { path: path.to_owned() });
    }
    *left = left.checked_sub(metadata.len()).ok_or(GatherError::TooLarge)?;
    let content = fs::read(path).map_err(failed)?;
    let modified_at = metadata.modified().map_err(failed)?;
    Ok(File {
        path: text.to_owned(),
        mode: metadata.mode() & MODE_BITS,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_at: Timestamp::try_from(modified_at).unwrap_or(Timestamp::UNIX_EPOCH),
        content: Content(content),
    })
}

fn read_units(environment: &Environment) -> Result<Vec<unit::Unit>, GatherError> {
    environment.units.iter().map(|name| unit::read(Path::new("/"), name)).collect()
}

fn of_files(environment: &Environment) -> Result<Vec<Variable>, GatherError> {
    let mut variables = Vec::new();
    for path in &environment.env_files {
        let text =
            fs::read_to_string(path).map_err(|source| GatherError::Read { path: path.clone(), source })?;
        let origin = Origin::File(path.display().to_string());
        variables.extend(env_file::parse(&text).into_iter().map(|(name, value)| Variable {
            origin: origin.clone(),
            name,
            value,
        }));
    }
    Ok(variables)
}

/// Variables of this process. Those that are not text are none that a policy could name.
fn of_process(environment: &Environment) -> Vec<Variable> {
    if !environment.process {
        return Vec::new();
    }
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some(Variable {
            origin: Origin::Process,
            name: name.into_string().ok()?,
            value: value.into_string().ok()?,
        })
    };
    let mut variables: Vec<_> =
        std::env::vars_os().filter(|(name, _)| !name.as_bytes().is_empty()).filter_map(text).collect();
    variables.sort_by(|a, b| a.name.cmp(&b.name));
    variables
}

fn patterns(names: &[String]) -> Result<Vec<Pattern>, GatherError> {
    let pattern = |name: &String| {
        Pattern::new(name).map_err(|source| GatherError::Pattern { pattern: name.clone(), source })
    };
    names.iter().map(pattern).collect()
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GatherError {
    #[error("{pattern:?} is no pattern of names")]
    Pattern {
        pattern: String,
        #[source]
        source: glob::PatternError,
    },
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no file is there by the name {pattern:?}")]
    NoFile { pattern: String },
    #[error("{} is a folder", path.display())]
    Folder { path: PathBuf },
    #[error("{} is no regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("the name {} is not text", path.display())]
    Name { path: PathBuf },
    #[error("the files measure more than {} MiB", FILES_BYTES_MAX >> 20)]
    TooLarge,
    #[error("no variable is there by the names {}", names.join(", "))]
    NoVariable { names: Vec<String> },
    #[error("there is no unit {unit}")]
    NoUnit { unit: String },
}

impl GatherError {
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Folder { .. } => {
                Some("name its files (folder/*), or back it up as a source of kind \"files\"")
            }
            Self::TooLarge => Some("back trees of files up as a source of kind \"files\""),
            Self::NoFile { .. } | Self::NoVariable { .. } | Self::NoUnit { .. } => {
                Some("configuration that the policy names must be there; name what is, or run where it is")
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as a user that may read it, or leave it out of the policy")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_taken_by_pattern_and_what_is_named_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for name in ["b.toml", "a.toml", ".hidden.toml", "other"] {
            fs::write(at(name), name).unwrap();
        }
        fs::create_dir(at("c.toml")).unwrap();
        let of = |files: Vec<String>| gather(&ConfigSource { files, environment: None });
        let read = of(vec![at("*.toml"), at("a.toml")]).unwrap();
        let names: Vec<_> = read.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(names, [at("a.toml"), at("b.toml")]);
        assert_eq!(read.files[0].content.0, b"a.toml");
        assert!(matches!(of(vec![at("*.yaml")]), Err(GatherError::NoFile { .. })));
        assert!(matches!(of(vec![at("c.toml")]), Err(GatherError::Folder { .. })));
        assert!(matches!(of(vec![at("gone")]), Err(GatherError::NoFile { .. })));
    }

    #[test]
    fn variables_are_taken_by_name_from_where_the_policy_says() {
        let folder = tempfile::tempdir().unwrap();
        let env_file = folder.path().join(".env");
        fs::write(&env_file, "APP_A=1\nOTHER=2\n").unwrap();
        let of = |names: &[&str], process| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let environment =
                Environment { names, process, env_files: vec![env_file.clone()], units: Vec::new() };
            gather(&ConfigSource { files: Vec::new(), environment: Some(environment) })
        };
        let names = |read: Configuration| -> Vec<String> {
            read.variables.iter().map(|v| format!("{} of {}", v.name, v.origin)).collect()
        };
        let file = env_file.display();
        assert_eq!(names(of(&["APP_*"], false).unwrap()), [format!("APP_A of {file}")]);
        assert_eq!(
            names(of(&["OTHER", "PATH"], true).unwrap()),
            [format!("OTHER of {file}"), "PATH of process".to_owned()]
        );
        assert!(matches!(of(&["NONE_*"], true), Err(GatherError::NoVariable { .. })));
    }
}
