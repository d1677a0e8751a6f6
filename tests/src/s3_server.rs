//! A real S3 server inside the test's process, on a port and in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The only access key that the server knows.
pub const ACCESS_KEY: &str = "AKIATESTTESTTEST";
/// Its secret.
pub const SECRET_KEY: &str = "a-secret-for-tests-only";
/// The bucket that is there from the start.
pub const BUCKET: &str = "backups";

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    folder: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl S3Server {
    /// # Panics
    /// When the machine gives no port or no temporary folder.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("pgproof-s3.").tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let (stop, stopped) = oneshot::channel();
        let service = service(folder.path());
        let address = crate::background::serve(stopped, |listener| accept(listener, service));
        Self { address, folder, _stop: stop }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the bucket's objects lie as files, for tests that damage them behind the server's back.
    #[must_use]
    pub fn bucket_folder(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }
}

fn service(folder: &Path) -> S3Service {
    let files = s3s_fs::FileSystem::new(folder).expect("a folder for the S3 server");
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    builder.build()
}

async fn accept(listener: TcpListener, service: S3Service) {
    while let Ok((socket, _)) = listener.accept().await {
        let service = service.clone();
        tokio::spawn(async move {
            // A client that goes away in mid-request is what many tests are about.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
