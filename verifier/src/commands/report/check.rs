//! `pgproof-verifier report check`: of a folder, offline, or of the repository.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_monitoring::answer;
use pgproof_policies::names::SourceName;
use pgproof_repository::report::chain::REPORT_BYTES_MAX;
use pgproof_repository::signature::TrustedSigners;

use super::Archive;
use crate::cli;
use crate::failure::{Exit, Failure};
use crate::report::audit::{self, Audit, Bundle, Finding};

/// Largest file that is read: a page has about three times the bytes of its report.
const FILE_BYTES_MAX: u64 = 4 * REPORT_BYTES_MAX;

pub(super) async fn run(policy: &Path, args: cli::Check, json: bool) -> anyhow::Result<ExitCode> {
    let audit = match (&args.dir, &args.signers, &args.source) {
        (Some(folder), Some(signers), _) => of_folder(folder, signers)?,
        (_, _, Some(source)) => of_repository(policy, source).await?,
        _ => {
            let hint = "a folder and --signers FILE, or --source NAME with a policy";
            return Err(Failure::new(Exit::Usage, "nothing was named to check", hint).into());
        }
    };
    let now = Timestamp::now();
    match json {
        true => answer::print_json(&audit.json(now))?,
        false => answer::print(&audit.text(now))?,
    }
    Ok(match (audit.problems.is_empty(), audit.not_compared.is_empty()) {
        (false, _) => Exit::CheckFailed.into(),
        (true, _) if audit.sources.is_empty() => Exit::NothingFound.into(),
        (true, false) => Exit::NotRun.into(),
        (true, true) => ExitCode::SUCCESS,
    })
}

async fn of_repository(policy: &Path, source: &SourceName) -> anyhow::Result<Audit> {
    let archive = Archive::open(policy).await?;
    let mut audit = Audit::default();
    archive.reports(source).await?.into_iter().for_each(|found| audit.take(found));
    audit.conclude(&archive.signers);
    Ok(audit)
}

fn of_folder(folder: &Path, signers: &Path) -> anyhow::Result<Audit> {
    let text =
        std::fs::read_to_string(signers).with_context(|| format!("{} cannot be read", signers.display()))?;
    let signers = TrustedSigners::parse(&text)?;
    let unreadable = || format!("{} cannot be read", folder.display());
    let mut file_names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        file_names.push(entry.with_context(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    let (names, strangers) = audit::bundle_names(file_names.iter().map(String::as_str));
    let mut audit = Audit::default();
    for name in names {
        audit.examine(name, &bundle(folder, name)?, &signers);
    }
    strangers.into_iter().for_each(|file| audit.problem(file, Finding::Stranger));
    audit.conclude(&signers);
    Ok(audit)
}

fn bundle(folder: &Path, name: &str) -> anyhow::Result<Bundle> {
    let read = |ending: &str| {
        let path = folder.join(format!("{name}.{ending}"));
        read(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Bundle {
        json: read("json")?,
        signature: read("json.sig")?,
        page: read("html")?.map(text),
        csv: read("csv")?.map(text),
    })
}

/// A file that is not there is a finding, not a failure.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(io::ErrorKind::FileTooLarge.into()),
        _ => {}
    }
    std::fs::read(path).map(Some)
}
