//! What a run that ends leaves for the node exporter.

use std::path::Path;
use std::process::ExitCode;

use pgproof_monitoring::journal::say;
use pgproof_monitoring::textfile;
use pgproof_repository::access::LoadedPolicy;
use tracing::Level;

use super::list::chain;
use crate::failure::{Exit, Failure};

/// Writes the metrics if the policy wants them, and passes on how the run ended. That they cannot be written is told and
/// fails the run; what the run did stands.
pub(crate) async fn leave(policy: &Path, ended: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    // The policy was read a moment ago; if it cannot be now, the run itself has said so or somebody is editing it.
    let Ok(loaded) = LoadedPolicy::read(policy) else { return ended };
    let Err(error) = textfile::write_if_asked(&loaded).await else { return ended };
    match ended {
        Ok(_) => {
            let hint = "what was done stands; is the folder of `monitoring.textfile` there, and writable?";
            Err(Failure::new(Exit::Failed, chain(&error), hint).into())
        }
        Err(ended) => {
            say(Level::WARN, &format!("warning: {}", chain(&error)));
            Err(ended)
        }
    }
}
