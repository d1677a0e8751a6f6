//! Servers of a test run on a runtime and thread of their own, so that tests are plain functions.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Binds a free port of the loopback and serves until the other end of `stopped` is dropped.
pub(crate) fn serve<F>(
    stopped: oneshot::Receiver<()>,
    accept: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()>,
{
    let (bound, address) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime for a test's server");
        runtime.block_on(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
            bound.send(listener.local_addr().expect("a bound port")).expect("a test that waits");
            tokio::select! {
                () = accept(listener) => {}
                _ = stopped => {}
            }
        });
        runtime.shutdown_background();
    });
    address.recv().expect("a test's server")
}
