//! How the files of one report are called, and how anybody checks them.

use pgproof_repository::report::Report;

/// What stands before the endings `.json`, `.json.sig`, `.html` and `.csv`: names sort by source and number, and tell
/// when the drill ended.
pub(crate) fn name(report: &Report) -> String {
    format!("{}-{:06}-{}", report.source, report.number, report.finished_at.strftime("%Y%m%dT%H%M%S%3fZ"))
}

/// The command of stock OpenSSH that checks the signature of `NAME.json`. It finds the signer's name itself.
pub(crate) fn verify_command(name: &str, namespace: &str) -> String {
    format!(
        "ssh-keygen -Y verify -f trusted_signers -n {namespace} -s {name}.json.sig \\\n  \
         -I \"$(ssh-keygen -Y find-principals -f trusted_signers -s {name}.json.sig)\" < {name}.json"
    )
}
