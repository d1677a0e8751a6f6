//! A daemon's beginning. The host may be up before its network, and the verifier before the first backup: what may pass by
//! itself is waited for, as it would be an hour later.

use std::path::Path;
use std::time::Duration;

use pgproof_monitoring::service_manager::ServiceManager;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::failure;
use crate::verifier::Verifier;

/// The store's own retries are behind each attempt, so this is no hammering.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// So that a drill begins soon after the repository is back.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The verifier, as soon as its repository is there; None when it was cancelled before. Reads the policy at each attempt,
/// and makes the next one at once when it is told of a new policy.
pub(super) async fn open(
    policy: &Path,
    json: bool,
    manager: &mut ServiceManager,
    hangup: &mut Signal,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Verifier>> {
    let mut pause = FIRST_WAIT;
    loop {
        let opened = tokio::select! {
            opened = manager.alive_during(Verifier::open(policy)) => opened,
            () = cancel.cancelled() => return Ok(None),
        };
        match opened {
            Err(error) if failure::may_pass(&error) => {
                failure::report(&error, json);
                tracing::warn!("trying again in {} s", pause.as_secs());
            }
            opened => return opened.map(Some),
        }
        manager.ready();
        manager.status("waiting for the repository".to_owned());
        let next_attempt = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = hangup.recv() => {}
            }
        };
        tokio::select! {
            () = manager.alive_during(next_attempt) => {}
            () = cancel.cancelled() => return Ok(None),
        }
        pause = (pause * 2).min(LONGEST_WAIT);
    }
}
