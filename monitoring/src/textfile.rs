//! The metrics as a file that the node exporter's textfile collector reads, for runs that end.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pgproof_repository::access::{AccessError, LoadedPolicy};

use crate::metrics::{self, LastRead};
use crate::survey::{Subject, Survey};

/// The node exporter is another user.
const MODE: u32 = 0o644;

/// Reads the repository and writes the file that the policy names, if it names one. Whoever reads it sees the old one
/// or the new one, and never half of it.
///
/// # Errors
/// When the file cannot be written, or the repository not be opened. The run that it tells of stands all the same.
pub async fn write_if_asked(loaded: &LoadedPolicy) -> Result<(), TextfileError> {
    let Some(path) = &loaded.policy.monitoring.textfile else { return Ok(()) };
    let now = Timestamp::now();
    let subject = Subject::open(loaded, now)
        .await
        .map_err(|source| TextfileError::Open { path: path.clone(), source })?;
    let survey = subject.survey(now).await;
    let last_read = last_read(&survey);
    write(path, &metrics::encode(&survey.repository, Some(&survey), &last_read, now))
        .map_err(|source| TextfileError::Write { path: path.clone(), source })
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextfileError {
    #[error("the metrics cannot be written to {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the repository cannot be read for the metrics in {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: AccessError,
    },
}

/// When the sources of one survey were read: those that could be, just then.
fn last_read(survey: &Survey) -> LastRead {
    let standings = survey.judge(survey.read_at);
    let read = standings.iter().filter(|standing| standing.facts.is_some());
    read.map(|standing| (standing.source.name.clone(), survey.read_at)).collect()
}

/// The temporary name has no `.prom` at its end, so that the collector does not read it.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".pgproof.").suffix(".tmp").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(MODE))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_others_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgproof.prom");
        for text in ["# a long line of an earlier run\n", "# EOF\n"] {
            write(&path, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "litter");
        assert!(write(&folder.path().join("absent/pgproof.prom"), "").is_err());
    }
}
