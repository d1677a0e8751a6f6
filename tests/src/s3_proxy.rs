//! A proxy in front of the S3 server that misbehaves by script: it answers with errors or with what was true before, cuts
//! bodies short, loses responses, is slow, holds requests back or is not there at all, and keeps count of what passes.
//!
//! Requests go upstream with their own `Host` header, because the signature covers it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, oneshot};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What [`Fault::Throttle`] lets pass at a time.
const THROTTLED_PIECE_BYTES: usize = 64 << 10;
/// What marks a request as a list of objects.
const LIST: &str = "list-type=2";

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
    /// The request waits until [`S3Proxy::release`] or [`S3Proxy::abandon`].
    Hold,
    /// The request is carried out, and its response waits for the same.
    HoldResponse,
    /// The request comes so much later.
    Delay(Duration),
    /// Of the request's body so many bytes come; then the connection ends, and nothing is carried out.
    CutRequest(usize),
    /// The response tells of another version of the object than the server has.
    WrongEtag,
    /// A list is answered by what the same request was answered with before; the first one is true.
    StaleList,
    /// Bodies of request and response pass at so many bytes a second.
    Throttle(u64),
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

#[derive(Debug)]
struct Script {
    rules: Mutex<Vec<Rule>>,
    outage: AtomicBool,
    /// Seconds.
    clock_ahead: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    released: broadcast::Sender<Release>,
    /// The last true answer to each list.
    lists: Mutex<BTreeMap<String, Bytes>>,
}

/// What becomes of requests that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Release {
    GoOn,
    End,
}

impl S3Proxy {
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let script = Arc::new(Script::new());
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

    /// Lets all requests go on that are held.
    pub fn release(&self) {
        self.clear();
        self.script.let_go(Release::GoOn);
    }

    /// Ends the connections of all requests that are held: what was not carried out is not carried out any more.
    pub fn abandon(&self) {
        self.clear();
        self.script.let_go(Release::End);
    }

    /// From now on the store's clock is ahead by so much.
    pub fn move_clock(&self, by: Duration) {
        self.script.clock_ahead.store(by.as_secs(), Ordering::SeqCst);
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
    fn new() -> Self {
        Self {
            rules: Mutex::default(),
            outage: AtomicBool::default(),
            clock_ahead: AtomicU64::default(),
            seen: Mutex::default(),
            changed: Condvar::new(),
            released: broadcast::Sender::new(1),
            lists: Mutex::default(),
        }
    }

    fn let_go(&self, release: Release) {
        // Nobody may be held.
        let _ = self.released.send(release);
    }

    fn fault_for(&self, method: &str, target: &str) -> Option<Fault> {
        if self.outage.load(Ordering::SeqCst) {
            return Some(Fault::Disconnect);
        }
        let mut rules = locked(&self.rules);
        rules.iter_mut().find_map(|rule| rule.strikes(method, target).then(|| rule.fault.clone()))
    }

    /// What a list is answered with, given the true answer.
    fn list(&self, target: &str, answer: Bytes, is_stale: bool) -> Bytes {
        let mut lists = locked(&self.lists);
        match lists.get(target) {
            Some(before) if is_stale => before.clone(),
            _ => {
                lists.insert(target.to_owned(), answer.clone());
                answer
            }
        }
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
    match fault {
        Some(Fault::Hold) => hold(&script, &seen).await?,
        Some(Fault::Delay(by)) => tokio::time::sleep(by).await,
        _ => {}
    }
    let outcome = carry(request, upstream, &client, fault, &script, &mut seen).await;
    script.note(seen);
    outcome
}

/// Returns when held requests may go on.
async fn hold(script: &Script, seen: &Seen) -> Result<(), std::io::Error> {
    let mut released = script.released.subscribe();
    script.note(seen.clone());
    match released.recv().await {
        Ok(Release::GoOn) => Ok(()),
        Ok(Release::End) | Err(_) => Err(std::io::Error::other("the script ends what it held")),
    }
}

async fn carry(
    request: Request<Incoming>,
    upstream: SocketAddr,
    client: &Client<HttpConnector, Full<Bytes>>,
    fault: Option<Fault>,
    script: &Script,
    seen: &mut Seen,
) -> Result<Response<Body>, std::io::Error> {
    if let Some(Fault::Disconnect) = fault {
        return Err(std::io::Error::other("the script ends this connection"));
    }
    let (head, body) = request.into_parts();
    let body = read_body(body, fault.as_ref()).await?;
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
    let mut body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    if let Some(Fault::HoldResponse) = fault {
        seen.status = Some(head.status.as_u16());
        hold(script, seen).await?;
    }
    if head.status.is_success() && seen.method == "GET" && seen.target.contains(LIST) {
        body = script.list(&seen.target, body, matches!(fault, Some(Fault::StaleList)));
    }
    if let Some(Fault::LoseResponse) = fault {
        return Err(std::io::Error::other("the script loses this response"));
    }
    let bytes = body.len();
    let (sent, body) = match fault {
        Some(Fault::CutShort(at)) if at < bytes => (at, cut_body(body.slice(..at))),
        Some(Fault::Throttle(rate)) => (bytes, slow_body(body, rate)),
        _ => (bytes, full_body(body)),
    };
    (seen.status, seen.response_bytes) = (Some(head.status.as_u16()), sent as u64);
    let mut response = Response::from_parts(head, body);
    // What HEAD is answered with announces an object's length and has no body of its own.
    let has_other_body = matches!(fault, Some(Fault::CutShort(_) | Fault::Throttle(_) | Fault::StaleList));
    if has_other_body && seen.method != "HEAD" {
        // The announced length is that of the whole, whatever comes of it.
        response.headers_mut().remove(TRANSFER_ENCODING);
        response.headers_mut().insert(CONTENT_LENGTH, bytes.into());
    }
    let ahead = script.clock_ahead.load(Ordering::SeqCst);
    if ahead != 0 {
        // Without the header hyper would set its own.
        response.headers_mut().insert(DATE, date(Timestamp::now() + Duration::from_secs(ahead)));
    }
    if let Some(Fault::WrongEtag) = fault {
        let another = HeaderValue::from_static("\"00000000000000000000000000000000\"");
        response.headers_mut().insert(ETAG, another);
    }
    Ok(response)
}

fn date(at: Timestamp) -> HeaderValue {
    let text = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).expect("a date of our days");
    HeaderValue::from_str(&text).expect("a date is plain text")
}

/// A request's body, as slow as it is to pass, or as much of it as is to come.
async fn read_body(mut body: Incoming, fault: Option<&Fault>) -> Result<Bytes, std::io::Error> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(std::io::Error::other)?.into_data() else { continue };
        read.extend_from_slice(&piece);
        match fault {
            Some(Fault::CutRequest(at)) if read.len() > *at => break,
            Some(Fault::Throttle(rate)) => tokio::time::sleep(time_of(piece.len(), *rate)).await,
            _ => {}
        }
    }
    match fault {
        Some(Fault::CutRequest(_)) => Err(std::io::Error::other("the script cuts this request short")),
        _ => Ok(read.into()),
    }
}

fn time_of(bytes: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
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
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

fn full_body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// These bytes at so many a second.
fn slow_body(bytes: Bytes, rate: u64) -> Body {
    let starts = (0..bytes.len()).step_by(THROTTLED_PIECE_BYTES);
    let pieces = stream::iter(starts).then(move |start| {
        let piece = bytes.slice(start..bytes.len().min(start + THROTTLED_PIECE_BYTES));
        async move {
            tokio::time::sleep(time_of(piece.len(), rate)).await;
            Ok(Frame::data(piece))
        }
    });
    StreamBody::new(pieces).boxed_unsync()
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
