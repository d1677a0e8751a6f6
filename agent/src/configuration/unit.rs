//! Units of systemd: their files, and the variables that these set.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgproof_repository::configuration::{Origin, Variable};

use super::{GatherError, env_file};

/// Where units lie, the first before the others: <https://www.freedesktop.org/software/systemd/man/systemd.unit.html>.
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// What a unit is made of.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its own file, and those that add to it.
    pub(super) files: Vec<PathBuf>,
    pub(super) variables: Vec<Variable>,
}

/// Reads a unit below `root`.
pub(super) fn read(root: &Path, name: &str) -> Result<Unit, GatherError> {
    let own = find(root, name).ok_or_else(|| GatherError::NoUnit { unit: name.to_owned() })?;
    let files: Vec<PathBuf> = std::iter::once(own).chain(additions(root, name)).collect();
    let mut variables: Vec<Variable> = Vec::new();
    for path in &files {
        let text =
            fs::read_to_string(path).map_err(|source| GatherError::Read { path: path.clone(), source })?;
        for setting in settings(&text) {
            match setting {
                Setting::Reset => variables.retain(|variable| !matches!(variable.origin, Origin::Unit(_))),
                Setting::Variable { name: variable, value } => {
                    let origin = Origin::Unit(name.to_owned());
                    variables.push(Variable { origin, name: variable, value });
                }
                Setting::File { path, may_be_absent } => {
                    variables.extend(of_file(&below(root, &path), &path, may_be_absent)?);
                }
            }
        }
    }
    Ok(Unit { files, variables })
}

/// A line of the unit that sets variables.
#[derive(Debug, PartialEq, Eq)]
enum Setting {
    /// `Environment=` with nothing behind it forgets those before.
    Reset,
    Variable {
        name: String,
        value: String,
    },
    File {
        path: PathBuf,
        may_be_absent: bool,
    },
}

fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let names = std::iter::once(name.to_owned()).chain(template(name));
    let mut places = names.flat_map(|name| FOLDERS.map(|folder| root.join(folder).join(&name)));
    places.find(|path| path.is_file())
}

/// `worker@.service` of `worker@3.service`.
fn template(name: &str) -> Option<String> {
    let (before, after) = name.split_once('@')?;
    let (_, kind) = after.rsplit_once('.')?;
    Some(format!("{before}@.{kind}"))
}

/// Files that add to the unit, in the order of their names, wherever they lie.
fn additions(root: &Path, name: &str) -> Vec<PathBuf> {
    let names = std::iter::once(name.to_owned()).chain(template(name));
    let folders = names.flat_map(|name| FOLDERS.map(|folder| root.join(folder).join(format!("{name}.d"))));
    let mut found: Vec<PathBuf> = folders
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    // Of two with one name the first folder's counts.
    found.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    found.dedup_by(|later, earlier| later.file_name() == earlier.file_name());
    found
}

fn settings(text: &str) -> Vec<Setting> {
    // A backslash at a line's end joins it with the next.
    let joined = text.replace("\\\n", " ");
    joined.lines().map(str::trim).flat_map(of_line).collect()
}

fn of_line(line: &str) -> Vec<Setting> {
    if let Some(assigned) = line.strip_prefix("Environment=") {
        let words = words(assigned);
        if words.is_empty() {
            return vec![Setting::Reset];
        }
        let variable = |word: String| {
            let (name, value) = word.split_once('=')?;
            Some(Setting::Variable { name: name.to_owned(), value: value.to_owned() })
        };
        return words.into_iter().filter_map(variable).collect();
    }
    let Some(path) = line.strip_prefix("EnvironmentFile=").filter(|path| !path.is_empty()) else {
        return Vec::new();
    };
    let (may_be_absent, path) = match path.strip_prefix('-') {
        Some(path) => (true, path),
        None => (false, path),
    };
    vec![Setting::File { path: PathBuf::from(path), may_be_absent }]
}

/// Words between spaces, in which quotes hold spaces together.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in text.chars() {
        match (character, quote) {
            ('"' | '\'', None) => quote = Some(character),
            (_, Some(open)) if character == open => quote = None,
            (' ' | '\t', None) => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(character),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

fn of_file(path: &Path, named: &Path, may_be_absent: bool) -> Result<Vec<Variable>, GatherError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_absent => return Ok(Vec::new()),
        Err(source) => return Err(GatherError::Read { path: named.to_owned(), source }),
    };
    let origin = Origin::File(named.display().to_string());
    let variable = |(name, value)| Variable { origin: origin.clone(), name, value };
    Ok(env_file::parse(&text).into_iter().map(variable).collect())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_its_file_what_adds_to_it_and_what_it_reads() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "usr/lib/systemd/system/app@.service",
            "[Service]\nEnvironment=A=1 \"B=two words\"\nEnvironmentFile=-/etc/none\n",
        );
        write("etc/systemd/system/app@3.service.d/10-more.conf", "[Service]\nEnvironmentFile=/etc/app.env\n");
        write(
            "run/systemd/system/app@.service.d/20-last.conf",
            "[Service]\nEnvironment=\nEnvironment='C=3' \\\n  D=4\n",
        );
        write("etc/app.env", "TOKEN=x\n");
        let unit = read(root.path(), "app@3.service").unwrap();
        let names: Vec<_> =
            unit.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["app@.service", "10-more.conf", "20-last.conf"]);
        let told: Vec<_> =
            unit.variables.iter().map(|v| format!("{}={} of {}", v.name, v.value, v.origin)).collect();
        assert_eq!(
            told,
            ["TOKEN=x of /etc/app.env", "C=3 of unit app@3.service", "D=4 of unit app@3.service"]
        );
        assert!(matches!(read(root.path(), "other.service"), Err(GatherError::NoUnit { .. })));
        write("etc/systemd/system/strict.service", "[Service]\nEnvironmentFile=/etc/none\n");
        assert!(matches!(read(root.path(), "strict.service"), Err(GatherError::Read { .. })));
    }
}
