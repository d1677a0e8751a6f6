//! What a run that ends leaves for the node exporter.

use std::path::Path;

use pgproof_monitoring::journal::say;
use pgproof_monitoring::textfile;
use pgproof_repository::access::LoadedPolicy;
use tracing::Level;

use crate::failure::{Exit, Failure, chain};

/// Writes the metrics if the policy wants them, and passes on how the run ended. That they cannot be written is told, and
/// fails a run that went well; reports that are stored stand.
pub(crate) async fn leave(
    policy: &Path,
    ended: anyhow::Result<Option<Exit>>,
) -> anyhow::Result<Option<Exit>> {
    // The policy was read a moment ago; if it cannot be now, the run itself has said so or somebody is editing it.
    let Ok(loaded) = LoadedPolicy::read(policy) else { return ended };
    let Err(error) = textfile::write_if_asked(&loaded.for_verifier()).await else { return ended };
    if let Ok(None) = ended {
        let hint = "reports are stored; is the folder of `verifier.monitoring.textfile` there, and writable?";
        return Err(Failure::new(Exit::NotRun, chain(&error), hint).into());
    }
    say(Level::WARN, &format!("warning: {}", chain(&error)));
    ended
}
