//! An S3 server in this process, on a port of the loopback interface and a folder of its own.

use std::path::Path;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use pgproof_repository::store::s3::{S3Settings, S3Store};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

pub(crate) const BUCKET: &str = "backups";
const ACCESS_KEY: &str = "test-access";
const SECRET_KEY: &str = "test-secret";

/// Stops with the test's runtime.
pub(crate) struct Server {
    _folder: tempfile::TempDir,
    endpoint: String,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let endpoint = serve(folder.path()).await;
        Self { _folder: folder, endpoint }
    }

    pub(crate) fn settings(&self) -> S3Settings {
        settings(&self.endpoint)
    }
}

pub(crate) fn settings(endpoint: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint.to_owned()),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        ..S3Settings::new(BUCKET, "team/pgproof")
    }
}

pub(crate) async fn connect(settings: S3Settings) -> S3Store {
    S3Store::connect_with_keys(settings, ACCESS_KEY, &SECRET_KEY.into()).await.unwrap()
}

async fn serve(folder: &Path) -> String {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
    service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // This server checks a condition and writes later; S3 does both at once, and so does this with one lock.
    let conditional = Arc::new(Mutex::new(()));
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (service, conditional) = (service.clone(), Arc::clone(&conditional));
            let handler = service_fn(move |request: Request<Incoming>| {
                let (service, conditional) = (service.clone(), Arc::clone(&conditional));
                async move {
                    let has = |name| request.headers().contains_key(name);
                    let _alone = match has("if-none-match") || has("if-match") {
                        true => Some(conditional.lock().await),
                        false => None,
                    };
                    service.call(request.map(s3s::Body::from)).await
                }
            });
            tokio::spawn(async move {
                let _ =
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), handler).await;
            });
        }
    });
    endpoint
}
