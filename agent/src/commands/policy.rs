//! `pgproof policy check`.

use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;
use pgproof_policies::objective;
use pgproof_repository::access::LoadedPolicy;

use super::{print_json, say};

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
    let shortfalls: Vec<_> =
        objective::shortfalls(&loaded.policy, Timestamp::now()).iter().map(ToString::to_string).collect();
    if json {
        print_json(&serde_json::json!({
            "policy": path, "sha256": loaded.sha256, "sources": sources, "shortfalls": shortfalls,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("{} is sound: {} source(s): {}", path.display(), sources.len(), sources.join(", ")))?;
    for shortfall in &shortfalls {
        say(&format!("warning: {shortfall}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
