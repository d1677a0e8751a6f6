//! A small HTTP server: so many connections, each with limits in bytes and time, and an end that lets answers finish.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::survey::on_one_line;

/// Connections at the same time: a Prometheus pair, a few probes, some people at browsers.
const CONNECTIONS_MAX: usize = 32;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How long a client may take to send it.
const HEAD_TIME_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection lives: Prometheus keeps one open between scrapes, and opens another as easily.
const CONNECTION_TIME_LIMIT: Duration = Duration::from_secs(300);
/// How long answers that are under way may take when the server stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// After an error of accepting, such as too many open files, which an immediate new try meets again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until the token is cancelled, and then as long as answers that are under way may take.
pub async fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accepting = async {
        loop {
            // Who comes while all are taken waits in the kernel's queue.
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answering = answer(stream, &router, &graceful);
                    tokio::spawn(async move {
                        answering.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    cancel.run_until_cancelled(accepting).await;
    if tokio::time::timeout(STOP_DEADLINE, graceful.shutdown()).await.is_err() {
        tracing::info!("an answer was cut short");
    }
}

fn answer(
    stream: TcpStream,
    router: &Router,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_LIMIT).max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(router.clone());
    let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
    async move {
        if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME_LIMIT, connection).await {
            tracing::debug!(error = on_one_line(&error), "a client went away");
        }
    }
}
