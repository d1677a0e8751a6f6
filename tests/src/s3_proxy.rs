//! A proxy in front of the S3 server that misbehaves by script: it answers with errors, cuts bodies short, loses
//! responses, holds requests back or is not there at all, and keeps count of what passes.
//!
//! Requests go upstream with their own `Host` header, because the signature covers it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What happens to a request that a [`Rule`] is about.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answered by an error of the server; the request never arrives. 503 says `SlowDown`, 403 `AccessDenied`, 404
    /// `NoSuchBucket`.
    Status(u16),
    /// Answered by "200 OK" and an error document, as S3 may do for a completed upload; the request never arrives.
    ErrorDocument,
    /// The response's body ends after so many bytes, whatever length it announced.
    CutShort(usize),
    /// The request is carried out and its response never comes back.
    LoseResponse,
    /// The request never arrives and the connection ends.
    Disconnect,
    /// The request waits until [`S3Proxy::release`].
    Hold,
}

/// Which requests a fault is for: all conditions must hold.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<&'static str>,
    fragments: Vec<String>,
    skipped: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// A fault for every request, once the methods below have not narrowed it.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { method: None, fragments: Vec::new(), skipped: 0, times: usize::MAX, fault }
    }

    #[must_use]
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests whose path and query contain this; may be given several times.
    #[must_use]
    pub fn containing(mut self, fragment: impl Into<String>) -> Self {
        self.fragments.push(fragment.into());
        self
    }

    /// Lets the first so many pass.
    #[must_use]
    pub fn after(mut self, skipped: usize) -> Self {
        self.skipped = skipped;
        self
    }

    /// Lets all pass after so many faults.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    fn strikes(&mut self, method: &str, target: &str) -> bool {
        let meant = self.method.is_none_or(|wanted| wanted == method)
            && self.fragments.iter().all(|fragment| target.contains(fragment.as_str()));
        if !meant || self.times == 0 {
            return false;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// A request that came by.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// None where the proxy ended the connection instead.
    pub status: Option<u16>,
    /// Whether a rule or the outage struck it.
    pub faulty: bool,
}

/// The proxy; it stops when dropped.
#[derive(Debug)]
pub struct S3Proxy {
    address: SocketAddr,
    script: Arc<Script>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Script {
    rules: Mutex<Vec<Rule>>,
    outage: AtomicBool,
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    released: tokio::sync::Notify,
}

impl S3Proxy {
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let script = Arc::new(Script::default());
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&script);
        let address = crate::background::serve(stopped, move |listener| accept(listener, upstream, shared));
        Self { address, script, _stop: stop }
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn add(&self, rule: Rule) {
        locked(&self.script.rules).push(rule);
    }

    pub fn clear(&self) {
        locked(&self.script.rules).clear();
    }

    /// From now on no request gets through, or all do again.
    pub fn outage(&self, on: bool) {
        self.script.outage.store(on, Ordering::SeqCst);
    }

    /// Lets all requests go on that [`Fault::Hold`] keeps.
    pub fn release(&self) {
        self.clear();
        self.script.released.notify_waiters();
    }

    /// Everything that came by so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.script.seen).clone()
    }

    pub fn forget_seen(&self) {
        locked(&self.script.seen).clear();
    }

    /// Waits until what came by satisfies `enough`; false when `patience` ran out first.
    #[must_use]
    pub fn wait_until(&self, patience: Duration, enough: impl Fn(&[Seen]) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut seen = locked(&self.script.seen);
        while !enough(&seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            seen = self
                .script
                .changed
                .wait_timeout(seen, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Script {
    fn fault_for(&self, method: &str, target: &str) -> Option<Fault> {
        if self.outage.load(Ordering::SeqCst) {
            return Some(Fault::Disconnect);
        }
        let mut rules = locked(&self.rules);
        rules.iter_mut().find_map(|rule| rule.strikes(method, target).then(|| rule.fault.clone()))
    }

    fn note(&self, seen: Seen) {
        locked(&self.seen).push(seen);
        self.changed.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn accept(listener: TcpListener, upstream: SocketAddr, script: Arc<Script>) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    while let Ok((socket, _)) = listener.accept().await {
        let (client, script) = (client.clone(), Arc::clone(&script));
        tokio::spawn(async move {
            let service =
                service_fn(move |request| answer(request, upstream, client.clone(), Arc::clone(&script)));
            // An error here is a client that went away or a connection that a fault ended.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

/// An error ends the connection without a response.
async fn answer(
    request: Request<Incoming>,
    upstream: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    script: Arc<Script>,
) -> Result<Response<Body>, std::io::Error> {
    let method = request.method().to_string();
    let target = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let fault = script.fault_for(&method, &target);
    let mut seen =
        Seen { method, target, request_bytes: 0, response_bytes: 0, status: None, faulty: fault.is_some() };
    if let Some(Fault::Hold) = fault {
        let released = script.released.notified();
        script.note(seen.clone());
        released.await;
    }
    let outcome = carry(request, upstream, &client, fault, &mut seen).await;
    script.note(seen);
    outcome
}

async fn carry(
    request: Request<Incoming>,
    upstream: SocketAddr,
    client: &Client<HttpConnector, Full<Bytes>>,
    fault: Option<Fault>,
    seen: &mut Seen,
) -> Result<Response<Body>, std::io::Error> {
    if let Some(Fault::Disconnect) = fault {
        return Err(std::io::Error::other("the script ends this connection"));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    seen.request_bytes = body.len() as u64;
    match fault {
        Some(Fault::Status(code)) => return Ok(refusal(code, seen)),
        Some(Fault::ErrorDocument) => return Ok(error_document(StatusCode::OK, "InternalError", seen)),
        _ => {}
    }
    let mut forwarded = Request::from_parts(head, Full::new(body));
    *forwarded.uri_mut() = Uri::builder()
        .scheme("http")
        .authority(upstream.to_string())
        .path_and_query(seen.target.as_str())
        .build()
        .map_err(std::io::Error::other)?;
    let response = client.request(forwarded).await.map_err(std::io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    match fault {
        Some(Fault::LoseResponse) => Err(std::io::Error::other("the script loses this response")),
        Some(Fault::CutShort(bytes)) if bytes < body.len() => {
            seen.status = Some(head.status.as_u16());
            seen.response_bytes = bytes as u64;
            let mut response = Response::from_parts(head, cut_body(body.slice(..bytes)));
            response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
            Ok(response)
        }
        _ => {
            seen.status = Some(head.status.as_u16());
            seen.response_bytes = body.len() as u64;
            Ok(Response::from_parts(head, full_body(body)))
        }
    }
}

fn refusal(code: u16, seen: &mut Seen) -> Response<Body> {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let name = match code {
        403 => "AccessDenied",
        404 => "NoSuchBucket",
        503 => "SlowDown",
        _ => "InternalError",
    };
    error_document(status, name, seen)
}

fn error_document(status: StatusCode, code: &str, seen: &mut Seen) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>by the test's script</Message>\
         <RequestId>0</RequestId></Error>"
    );
    seen.status = Some(status.as_u16());
    seen.response_bytes = text.len() as u64;
    let mut response = Response::new(full_body(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/xml"));
    response
}

fn full_body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// These bytes and then a broken connection.
fn cut_body(bytes: Bytes) -> Body {
    let bytes = stream::once(async move { Ok(Frame::data(bytes)) });
    let broken = stream::once(async {
        // What was written so far is sent only while the body has nothing to say.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("the script cuts this body short"))
    });
    StreamBody::new(bytes.chain(broken)).boxed_unsync()
}
