//! Writing a restored configuration into a folder of its own, from which its owner takes what is needed.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use pgproof_repository::configuration::{Configuration, File, Origin, Variable};

/// Below the folder: files by their whole path, and variables by where they were read.
const FILES: &str = "files";
const ENVIRONMENT: &str = "environment";
/// Rights that a restored file may have: those that make a program run as somebody else are not for a copy.
const MODE_BITS: u32 = 0o777;
const FOLDER_MODE: u32 = 0o700;
const SECRET_MODE: u32 = 0o600;

/// Writes everything below `folder`, which must be empty or absent, and answers what was written. Blocks.
pub(crate) fn write(configuration: &Configuration, folder: &Path) -> Result<Vec<PathBuf>, WriteError> {
    let failed = |source| WriteError::Write { path: folder.to_owned(), source };
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(WriteError::NotEmpty { folder: folder.to_owned() });
    }
    let mut written = Vec::new();
    for file in &configuration.files {
        let path = folder.join(FILES).join(inside(&file.path)?);
        write_file(&path, &file.content.0, file.mode & MODE_BITS)?;
        give_back(file, &path)?;
        written.push(path);
    }
    for (name, text) in environments(&configuration.variables) {
        let path = folder.join(ENVIRONMENT).join(name);
        write_file(&path, text.as_bytes(), SECRET_MODE)?;
        written.push(path);
    }
    Ok(written)
}

/// A stored path as one that leads nowhere else.
fn inside(path: &str) -> Result<PathBuf, WriteError> {
    let refused = || WriteError::Path { path: path.to_owned() };
    let path = Path::new(path.strip_prefix('/').ok_or_else(refused)?);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    (plain && path.file_name().is_some()).then(|| path.to_owned()).ok_or_else(refused)
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), WriteError> {
    let failed = |source| WriteError::Write { path: path.to_owned(), source };
    let parent = path.parent().expect("files lie in a folder");
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(parent).map_err(failed)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(SECRET_MODE).open(path).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

/// Only root can give a file away; anybody else keeps what was restored.
fn give_back(file: &File, path: &Path) -> Result<(), WriteError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    chown(path, Some(file.uid), Some(file.gid))
        .map_err(|source| WriteError::Write { path: path.to_owned(), source })
}

/// One file of `NAME=value` lines for each place, under a name that no other place has.
fn environments(variables: &[Variable]) -> Vec<(String, String)> {
    let mut files: Vec<(Origin, String)> = Vec::new();
    for variable in variables {
        if !files.iter().any(|(origin, _)| *origin == variable.origin) {
            files.push((variable.origin.clone(), format!("# {}\n", variable.origin)));
        }
        let text = files.iter_mut().find(|(origin, _)| *origin == variable.origin).map(|(_, text)| text);
        if let Some(text) = text {
            let _ = writeln!(text, "{}={}", variable.name, variable.value);
        }
    }
    let named = |(number, (origin, text)): (usize, (Origin, String))| {
        let kind = match origin {
            Origin::Process => "process",
            Origin::File(_) => "file",
            Origin::Unit(_) => "unit",
        };
        (format!("{:02}-{kind}.env", number + 1), text)
    };
    files.into_iter().enumerate().map(named).collect()
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("{} holds something already", folder.display())]
    NotEmpty { folder: PathBuf },
    #[error("{path:?} is no path that is restored")]
    Path { path: String },
    #[error("{} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl WriteError {
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotEmpty { .. } => {
                Some("name a folder that does not exist yet, and take from it what is needed")
            }
            Self::Path { .. } => Some("the backup is signed, and holds what no backup of this program holds"),
            Self::Write { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pgproof_repository::configuration::Content;

    use super::*;

    fn file(path: &str) -> File {
        File {
            path: path.to_owned(),
            mode: 0o4755,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            modified_at: Timestamp::UNIX_EPOCH,
            content: Content(b"a = 1\n".to_vec()),
        }
    }

    #[test]
    fn files_and_variables_lie_where_they_are_looked_for() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        let variable =
            |origin: Origin, name: &str| Variable { origin, name: name.into(), value: "\"x\"".into() };
        let variables = vec![
            variable(Origin::Process, "A"),
            variable(Origin::File("/srv/.env".into()), "B"),
            variable(Origin::Process, "C"),
        ];
        let written = write(&Configuration::new(vec![file("/etc/app/a.toml")], variables), &folder).unwrap();
        let names: Vec<_> =
            written.iter().map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["files/etc/app/a.toml", "environment/01-process.env", "environment/02-file.env"]);
        assert_eq!(fs::metadata(&written[0]).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_to_string(&written[1]).unwrap(), "# process\nA=\"x\"\nC=\"x\"\n");
        let again = write(&Configuration::new(Vec::new(), Vec::new()), &folder);
        assert!(matches!(again, Err(WriteError::NotEmpty { .. })));
    }

    #[test]
    fn no_path_leads_out_of_the_folder() {
        for path in ["etc/passwd", "/../x", "/a/../../x", "/", "", "//", "/a/./.."] {
            let folder = tempfile::tempdir().unwrap();
            let written = write(&Configuration::new(vec![file(path)], Vec::new()), folder.path());
            assert!(matches!(written, Err(WriteError::Path { .. })), "{path:?}: {written:?}");
        }
    }
}
