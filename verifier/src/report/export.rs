//! Reports as files: the signed bytes and their signature as they lie in the store, and what is made from them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pgproof_repository::report::Report;
use pgproof_repository::report::chain::{Files, ReportError, SignedReport};
use pgproof_repository::signature::TrustedSigners;
use tempfile::NamedTempFile;

use super::{files, index, page, table};

/// The list of what lies in a folder; the only file that is ever replaced.
pub(crate) const INDEX: &str = "index.html";

/// Writes one report into a folder, `NAME.json` last: it is there only when all of its files are. The page's path.
pub(crate) fn write(folder: &Path, stored: &Files, signers: &TrustedSigners) -> Result<PathBuf, ExportError> {
    let signature = String::from_utf8_lossy(&stored.signature);
    let signed = SignedReport::check(&stored.report, &signature, signers)
        .map_err(|source| ExportError::Report { source })?;
    let (report, name) = (signed.get(), files::name(signed.get()));
    let path = |ending: &str| folder.join(format!("{name}.{ending}"));
    make_folder(folder)?;
    put(&path("csv"), table::csv(report).as_bytes())?;
    put(&path("html"), page::html(report, signed.sha256()).as_bytes())?;
    put(&path("json.sig"), &stored.signature)?;
    put(&path("json"), &stored.report)?;
    Ok(path("html"))
}

/// Writes the list of all reports in a folder anew.
pub(crate) fn write_index(folder: &Path) -> Result<PathBuf, ExportError> {
    let failed = |source| ExportError::File { path: folder.to_owned(), source };
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A folder may be called so, too.
        if path.extension().is_some_and(|ending| ending == "json") && path.is_file() {
            // Other JSON files may lie there; the list promises nothing, and `report check` judges.
            let bytes = std::fs::read(&path).map_err(failed)?;
            lines.extend(
                serde_json::from_slice::<Report>(&bytes).ok().map(|report| index::Line::from(&report)),
            );
        }
    }
    let path = folder.join(INDEX);
    let written = temporary(folder, index::html(lines).as_bytes())
        .and_then(|file| file.persist(&path).map_err(|error| error.error));
    written.map_err(|source| ExportError::File { path: path.clone(), source })?;
    Ok(path)
}

/// Makes the folder where there is none.
pub(crate) fn make_folder(folder: &Path) -> Result<(), ExportError> {
    std::fs::create_dir_all(folder).map_err(|source| ExportError::File { path: folder.to_owned(), source })
}

/// Writes a file that is not there yet. One with the same bytes is left alone; one with others is never overwritten.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let failed = |source| ExportError::File { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = temporary(folder, bytes).map_err(failed)?;
    let Err(error) = file.persist_noclobber(path) else { return Ok(()) };
    if error.error.kind() != io::ErrorKind::AlreadyExists {
        return Err(failed(error.error));
    }
    match std::fs::read(path).map_err(failed)? == bytes {
        true => Ok(()),
        false => Err(ExportError::Differs { path: path.to_owned() }),
    }
}

fn temporary(folder: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("report is not one to hand on")]
    Report {
        #[source]
        source: ReportError,
    },
    #[error("{} cannot be written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is there and holds something else", path.display())]
    Differs { path: PathBuf },
}

impl ExportError {
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Differs { .. } => Some(
                "files are never overwritten: `report check` tells whether they were changed; pages of another \
                 version differ, too, and go into another folder",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::Chain;

    fn stored(chain: &Chain, index: usize) -> Files {
        let (report, signature, _) = &chain.reports[index];
        Files { report: report.clone().into(), signature: signature.clone().into_bytes().into() }
    }

    #[test]
    fn a_report_is_written_once_and_never_over_another_file() {
        let (folder, chain) = (tempfile::tempdir().unwrap(), Chain::of(2));
        let target = folder.path().join("made");
        for index in [0, 1, 0] {
            write(&target, &stored(&chain, index), &chain.trusted()).unwrap();
        }
        let name = files::name(chain.reports[0].2.get());
        let json = target.join(format!("{name}.json"));
        assert_eq!(std::fs::read(&json).unwrap(), chain.reports[0].0);
        std::fs::write(&json, "something else").unwrap();
        let again = write(&target, &stored(&chain, 0), &chain.trusted());
        assert!(matches!(again, Err(ExportError::Differs { .. })), "{again:?}");
        assert_eq!(std::fs::read(&json).unwrap(), b"something else");
    }

    #[test]
    fn only_what_is_well_signed_is_handed_on() {
        let (folder, chain) = (tempfile::tempdir().unwrap(), Chain::of(1));
        let written = write(folder.path(), &stored(&chain, 0), &Chain::new().trusted());
        assert!(matches!(written, Err(ExportError::Report { .. })), "{written:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_list_is_replaced() {
        let (folder, chain) = (tempfile::tempdir().unwrap(), Chain::of(2));
        std::fs::create_dir(folder.path().join("a folder.json")).unwrap();
        for index in 0..2 {
            write(folder.path(), &stored(&chain, index), &chain.trusted()).unwrap();
            write_index(folder.path()).unwrap();
        }
        let list = std::fs::read_to_string(folder.path().join(INDEX)).unwrap();
        assert!(list.contains(">Report 1<") && list.contains(">Report 2<"));
    }
}
