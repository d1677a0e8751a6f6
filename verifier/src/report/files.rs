//! How the files of one report are called, and how anybody checks them.

use jiff::Timestamp;
use pgproof_repository::report::Report;

/// What stands before the endings `.json`, `.json.sig`, `.html` and `.csv`: names sort by source and number, and tell
/// when the drill ended.
pub(crate) fn name(report: &Report) -> String {
    format!("{}-{:06}-{}", report.source, report.number, report.finished_at.strftime("%Y%m%dT%H%M%S%3fZ"))
}

/// The command of stock OpenSSH that checks the signature of `NAME.json`. It finds the signer's name itself, and asks
/// whether the key was valid at `at`, as `report check` does.
pub(crate) fn verify_command(name: &str, namespace: &str, at: Timestamp) -> String {
    let at = at.strftime("%Y%m%d%H%M%SZ");
    let common = format!("-f trusted_signers -s {name}.json.sig -O verify-time={at}");
    format!(
        "ssh-keygen -Y verify {common} -n {namespace} \\\n  \
         -I \"$(ssh-keygen -Y find-principals {common} | head -n 1)\" < {name}.json"
    )
}
