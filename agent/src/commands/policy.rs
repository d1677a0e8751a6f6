//! `pgproof policy check`.

use std::path::Path;
use std::process::ExitCode;

use pgproof_repository::access::LoadedPolicy;

use super::print_json;

/// Reads the policy and what it points to, without touching the network.
pub(crate) fn check(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let loaded = LoadedPolicy::read(path)?;
    loaded.recipients()?;
    if loaded.policy.signing_key.is_some() {
        loaded.signing_key()?;
    }
    if loaded.policy.trusted_signers.is_some() {
        loaded.trusted_signers()?;
    }
    let sources: Vec<_> = loaded.policy.sources.keys().map(ToString::to_string).collect();
    match json {
        true => {
            print_json(&serde_json::json!({ "policy": path, "sha256": loaded.sha256, "sources": sources }))?
        }
        false => println!("{} is sound: {} source(s): {}", path.display(), sources.len(), sources.join(", ")),
    }
    Ok(ExitCode::SUCCESS)
}
