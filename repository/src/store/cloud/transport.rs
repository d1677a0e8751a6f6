//! The HTTP client under `object_store`: rustls with ring, limits of time, checksums of what is put, and what answers mean.
//!
//! `object_store` is told to try nothing again ([`NO_RETRIES`]): [`crate::store::retry`] alone decides that. Whatever went
//! wrong on the way, or was answered, is a [`Fault`] at the end of the chain of causes of its errors.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use md5::{Digest, Md5};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{BackoffConfig, RetryConfig};
use tokio::time::{Instant, Sleep};

use super::strangers;

/// TCP and TLS to a reachable endpoint take far less.
const CONNECT: Duration = Duration::from_secs(10);
/// A server that sends nothing for this long, of an answer or of a body, has stalled.
const READ_IDLE: Duration = Duration::from_secs(30);
/// An upload slower than this counts as failed: 64 KiB/s moves a first part of 8 MiB in two minutes.
const SLOWEST_UPLOAD_BYTES_PER_SECOND: u64 = 64 * 1024;
/// What joining the parts of an upload may take, or storing a body, besides sending it.
const WRITE_ANSWER: Duration = Duration::from_secs(60);
/// What an answer that is an error says fits in this many bytes; of a longer one nothing is told.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Longest message of a server that is repeated, in characters.
const MESSAGE_CHARS_MAX: usize = 300;
/// Idle connections are closed before the services close them (Azure: after four minutes).
const POOL_IDLE: Duration = Duration::from_secs(60);

/// The house tries again, and not the library.
pub(in crate::store) const NO_RETRIES: RetryConfig = RetryConfig {
    backoff: BackoffConfig { init_backoff: Duration::ZERO, max_backoff: Duration::ZERO, base: 1.0 },
    max_retries: 0,
    retry_timeout: Duration::ZERO,
};

/// Why a call failed, below whatever `object_store` says of it.
#[derive(Debug, Clone, thiserror::Error)]
pub(in crate::store) enum Fault {
    #[error("the store answered {0}")]
    Answered(Answer),
    /// By the service that gives out access tokens.
    #[error("no access token was given: {host} answered {answer}")]
    Token { host: String, answer: Answer },
    #[error("{host} cannot be reached")]
    NoConnection {
        host: String,
        #[source]
        source: Cause,
    },
    #[error("{host} sent nothing for {} s", after.as_secs())]
    Silent { host: String, after: Duration },
    #[error("the connection to {host} broke off")]
    Broken {
        host: String,
        #[source]
        source: Cause,
    },
}

type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// An answer that is not what was asked for.
#[derive(Debug, Clone)]
pub(in crate::store) struct Answer {
    pub(in crate::store) status: u16,
    /// As the service names it; empty where it does not.
    pub(in crate::store) code: String,
    message: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = if self.code.is_empty() { "without a code" } else { &self.code };
        write!(f, "{} {code}", self.status)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

/// One client for all requests to a store. Clones share connections.
#[derive(Clone)]
pub(in crate::store) struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client<HttpsConnector<TcpConnector>, HttpRequestBody>,
    /// The store's; any other one gives out access tokens.
    host: String,
    /// Whatever is put gets a `Content-MD5`.
    puts_md5: bool,
    /// What the store's last answer said of the time.
    told: Mutex<Option<Timestamp>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("host", &self.shared.host).finish_non_exhaustive()
    }
}

impl Transport {
    /// For a store at this URL.
    pub(in crate::store) fn new(store: &str) -> Result<Self, std::io::Error> {
        Self::make(store, false)
    }

    /// The same with a `Content-MD5` on all that is put, which the store compares. Not where signatures cover that header.
    pub(in crate::store) fn with_md5(store: &str) -> Result<Self, std::io::Error> {
        Self::make(store, true)
    }

    fn make(store: &str, puts_md5: bool) -> Result<Self, std::io::Error> {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let tls = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(tls.wrap_connector(tcp));
        let host = store.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
        let shared = Shared { client, host: host.unwrap_or_default(), puts_md5, told: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(in crate::store) fn client(&self) -> HttpClient {
        HttpClient::new(self.clone())
    }

    /// The store's clock by its last answer.
    pub(in crate::store) fn told(&self) -> Option<Timestamp> {
        *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.client())
    }
}

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let is_store = host == self.shared.host;
        if self.shared.puts_md5 && is_store && *request.method() == Method::PUT {
            let md5 = content_md5(request.body()).await;
            request.headers_mut().insert(HeaderName::from_static("content-md5"), md5);
        }
        let is_list =
            is_store && *request.method() == Method::GET && strangers::is_list(request.uri().query());
        let after = limit(&request);
        let sent = tokio::time::timeout(after, self.shared.client.request(request));
        let answer = match sent.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => {
                let fault = Fault::NoConnection { host, source: Arc::new(error) };
                return Err(HttpError::new(HttpErrorKind::Connect, fault));
            }
            Ok(Err(error)) => {
                let fault = Fault::Broken { host, source: Arc::new(error) };
                return Err(HttpError::new(HttpErrorKind::Interrupted, fault));
            }
            Err(_) => return Err(HttpError::new(HttpErrorKind::Timeout, Fault::Silent { host, after })),
        };
        let (mut parts, body) = answer.into_parts();
        if is_store {
            *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner) = date(&parts.headers);
        }
        let body = Watched::new(body, host.clone());
        if parts.status.is_success() && is_list {
            let page = body.collect().await?.to_bytes();
            let page =
                std::str::from_utf8(&page).map_or(page.clone(), |page| strangers::left_out(page).into());
            parts.headers.remove(CONTENT_LENGTH);
            return Ok(HttpResponse::from_parts(parts, page.into()));
        }
        if parts.status.is_success() {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)));
        }
        let body =
            Limited::new(body, ERROR_BYTES_MAX).collect().await.map(http_body_util::Collected::to_bytes);
        let answer = said(parts.status.as_u16(), &parts.headers, &body.unwrap_or_default());
        let fault = if is_store { Fault::Answered(answer) } else { Fault::Token { host, answer } };
        Err(HttpError::new(HttpErrorKind::Unknown, fault))
    }
}

/// How long the head of an answer may take.
fn limit(request: &HttpRequest) -> Duration {
    let sending = request.body().content_length() as u64 / SLOWEST_UPLOAD_BYTES_PER_SECOND;
    match *request.method() {
        Method::PUT | Method::POST => CONNECT + WRITE_ANSWER + Duration::from_secs(sending),
        _ => CONNECT + READ_IDLE,
    }
}

/// `Content-MD5` of a body.
pub(in crate::store) fn md5_of(body: &[u8]) -> String {
    data_encoding::BASE64.encode(&Md5::digest(body))
}

async fn content_md5(body: &HttpRequestBody) -> HeaderValue {
    let (mut pieces, mut md5) = (body.clone(), Md5::new());
    // Frames of a body that is in memory come without waiting and without errors.
    while let Some(Ok(frame)) = pieces.frame().await {
        if let Some(piece) = frame.data_ref() {
            md5.update(piece);
        }
    }
    let text = data_encoding::BASE64.encode(&md5.finalize());
    HeaderValue::from_str(&text).expect("base64 is a header's value")
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get("date")?.to_str().ok()?;
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// Both services say `<Error><Code>…</Code><Message>…</Message>`; Azure has the code in a header as well, for answers without
/// a body.
fn said(status: u16, headers: &HeaderMap, body: &[u8]) -> Answer {
    let body = String::from_utf8_lossy(body);
    let header = headers.get("x-ms-error-code").and_then(|value| value.to_str().ok());
    let code = header.or_else(|| element(&body, "Code")).unwrap_or_default().to_owned();
    let message = element(&body, "Message").unwrap_or_default();
    // Azure adds a line with the id of the request and one with the time.
    let message = message.lines().next().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect();
    Answer { status, code, message }
}

fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// A body that fails when nothing of it comes for too long.
struct Watched {
    body: Incoming,
    host: String,
    wait: Pin<Box<Sleep>>,
}

impl Watched {
    fn new(body: Incoming, host: String) -> Self {
        Self { body, host, wait: Box::pin(tokio::time::sleep(READ_IDLE)) }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let deadline = Instant::now() + READ_IDLE;
            self.wait.as_mut().reset(deadline);
            let broken = |error| {
                let fault = Fault::Broken { host: self.host.clone(), source: Arc::new(error) };
                HttpError::new(HttpErrorKind::Interrupted, fault)
            };
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        match self.wait.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let fault = Fault::Silent { host: self.host.clone(), after: READ_IDLE };
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, fault))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_is_found_with_and_without_a_body() {
        let google = "<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.\
                      </Message></Error>";
        let answer = said(404, &HeaderMap::new(), google.as_bytes());
        assert_eq!(answer.to_string(), "404 NoSuchKey: The specified key does not exist.");
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-error-code", HeaderValue::from_static("BlobNotFound"));
        let azure = "<Error><Code>BlobNotFound</Code><Message>The specified blob does not exist.\nRequestId:1\n</Message>";
        assert_eq!(said(404, &headers, b"").to_string(), "404 BlobNotFound");
        let answer = said(404, &headers, azure.as_bytes());
        assert_eq!(answer.to_string(), "404 BlobNotFound: The specified blob does not exist.");
        assert_eq!(said(502, &HeaderMap::new(), b"<html>bad gateway").to_string(), "502 without a code");
    }
}
