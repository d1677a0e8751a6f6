//! A real S3 server inside the test's process, on a port and in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::{CompleteMultipartUploadInput, PutObjectInput};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Request, S3Result, s3_error};
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
    ways: Arc<Ways>,
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
        let ways = Arc::new(Ways::default());
        let service = service(folder.path(), Arc::clone(&ways));
        let address = crate::background::serve(stopped, |listener| accept(listener, service));
        Self { address, folder, ways, _stop: stop }
    }

    /// From now on conditions of writes are taken and not acted on, as by Garage and older stores.
    pub fn ignore_conditions(&self) {
        self.ways.ignores_conditions.store(true, Ordering::SeqCst);
    }

    /// From now on this operation, by S3's name for it, is refused on keys that contain this.
    pub fn deny(&self, operation: &'static str, key_part: &'static str) {
        self.ways.denied.lock().unwrap_or_else(PoisonError::into_inner).push((operation, key_part));
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

/// What this server does otherwise than it was made to.
#[derive(Debug, Default)]
struct Ways {
    ignores_conditions: AtomicBool,
    denied: Mutex<Vec<(&'static str, &'static str)>>,
}

#[derive(Debug)]
struct Access(Arc<Ways>);

/// Signatures cover the headers of conditions, so they are dropped behind the check of the signature.
#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let (operation, key) = (cx.s3_op().name().to_owned(), cx.uri().path().to_owned());
        let denied = self.0.denied.lock().unwrap_or_else(PoisonError::into_inner);
        let is_denied = cx.credentials().is_none()
            || denied.iter().any(|(of, part)| *of == operation && key.contains(part));
        if is_denied { Err(s3_error!(AccessDenied, "by the test's policy")) } else { Ok(()) }
    }

    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        if self.0.ignores_conditions.load(Ordering::SeqCst) {
            (request.input.if_none_match, request.input.if_match) = (None, None);
        }
        Ok(())
    }

    async fn complete_multipart_upload(
        &self,
        request: &mut S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<()> {
        if self.0.ignores_conditions.load(Ordering::SeqCst) {
            (request.input.if_none_match, request.input.if_match) = (None, None);
        }
        Ok(())
    }
}

fn service(folder: &Path, ways: Arc<Ways>) -> S3Service {
    let files = s3s_fs::FileSystem::new(folder).expect("a folder for the S3 server");
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    builder.set_access(Access(ways));
    // Tests of days move the programs' clocks, and S3 would refuse what is dated a quarter of an hour off.
    let mut config = S3Config::default();
    config.presigned_url_max_skew_time_secs = u32::MAX;
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
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
