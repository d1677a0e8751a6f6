//! SIGINT and SIGTERM become one cancellation: stop taking work, kill children, abort uploads, exit.

use std::time::Duration;

use pgproof_monitoring::journal::say;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::Level;

/// How long blocked threads may take to end once everything was cancelled.
pub(crate) const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

/// A token that is cancelled by the first SIGINT, SIGTERM or one of `further`. A second one ends the process as usual.
pub(crate) fn cancel_on_signal(
    further: impl IntoIterator<Item = SignalKind>,
) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(further);
    let mut signals = kinds.map(signal).collect::<Result<Vec<_>, _>>()?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        let any = futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())));
        any.await;
        // Before anything is said: a terminal that is gone may take no word any more.
        cancelled.cancel();
        say(Level::INFO, "stopping: the signal is being carried out; a second one ends at once");
        let again = futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())));
        again.await;
        std::process::exit(130);
    });
    Ok(token)
}
