//! Google Cloud Storage's XML API over the memory store: a stand-in, written from Google's pages.
//!
//! None of the emulators that can be had does what a backup needs: fake-gcs-server 1.54 answers a plain PUT with "invalid
//! uploadType" and knows no uploads of the XML API (fsouza/fake-gcs-server#852), gcp-storage-emulator 2026.7 has the JSON API
//! only. So what passes here is evidence of our reading of those pages, and not of Google's servers. It is stricter than
//! they are: whatever is put must carry a condition and a checksum.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE};
use hyper::http::response::Builder;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use md5::{Digest, Md5};
use pgproof_repository::ids::{KeyPrefix, ObjectKey};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::part_plan::PartLimits;
use pgproof_repository::store::{ObjectMeta, Part, PutCondition, Store, StoreError, Upload, Version};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The only access token that the server takes.
pub const TOKEN: &str = "a-token-for-tests-only";
/// The bucket that is there from the start.
pub const BUCKET: &str = "backups";
/// Names on a page of a list: few, so that every list has several pages.
const PAGE: usize = 7;
const CONDITION: &str = "x-goog-if-generation-match";
const GENERATION: &str = "x-goog-generation";
const MARK: &str = "x-goog-meta-pgproofupload";

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct GoogleServer {
    address: SocketAddr,
    state: Arc<State>,
    _stop: oneshot::Sender<()>,
}

impl GoogleServer {
    /// # Panics
    /// When the machine gives no port.
    #[must_use]
    pub fn start() -> Self {
        let (stop, stopped) = oneshot::channel();
        let state = Arc::new(State::default());
        let served = Arc::clone(&state);
        let address = crate::background::serve(stopped, |listener| accept(listener, served));
        Self { address, state, _stop: stop }
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts something of which only lists tell, under a name that no store of ours takes.
    pub fn put_foreign(&self, name: &str) {
        self.state.foreign.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    }

    /// From now on requests of this method on names that contain this are refused.
    pub fn deny(&self, method: Method, part: &'static str) {
        self.state.denied.lock().unwrap_or_else(PoisonError::into_inner).push((method, part));
    }
}

#[derive(Debug)]
struct State {
    objects: MemoryStore,
    uploads: Mutex<BTreeMap<String, Begun>>,
    /// Of objects that came of uploads.
    marks: Mutex<BTreeMap<ObjectKey, String>>,
    denied: Mutex<Vec<(Method, &'static str)>>,
    foreign: Mutex<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Begun {
    key: ObjectKey,
    upload: Arc<dyn Upload>,
    mark: String,
    parts: BTreeMap<u32, Part>,
    initiated: Timestamp,
}

impl Default for State {
    fn default() -> Self {
        Self {
            objects: MemoryStore::with_part_limits(PartLimits::GOOGLE),
            uploads: Mutex::default(),
            marks: Mutex::default(),
            denied: Mutex::default(),
            foreign: Mutex::default(),
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { state.answer(request).await }
            });
            // A client that goes away is none of the server's business.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

/// A request as far as it matters.
struct Asked {
    method: Method,
    /// Empty for the bucket itself.
    name: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn of(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Answer = Response<Full<Bytes>>;
/// An answer, or what stands in its place.
type Answered = Result<Answer, Refusal>;

/// Status and code of an error.
struct Refusal(u16, &'static str);

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self(404, "NoSuchKey"),
            StoreError::AlreadyExists { .. } | StoreError::VersionChanged { .. } => {
                Self(412, "PreconditionFailed")
            }
            StoreError::Refused { .. } => Self(400, "InvalidArgument"),
            _ => Self(500, "InternalError"),
        }
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = parts.uri.path().trim_start_matches('/');
        let (bucket, name) = path.split_once('/').unwrap_or((path, ""));
        let decoded = url::form_urlencoded::parse(format!("k={}", name.replace('+', "%2B")).as_bytes())
            .map(|(_, value)| value.into_owned())
            .collect::<String>();
        let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let query = query.into_owned().collect();
        let asked = Asked { method: parts.method, name: decoded, query, headers: parts.headers, body };
        let answered = match bucket == BUCKET {
            true => self.act(&asked).await,
            false => Err(Refusal(404, "NoSuchBucket")),
        };
        Ok(answered.unwrap_or_else(|Refusal(status, code)| {
            let text = format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>by the stand-in</Message></Error>");
            reply(with(status), if asked.method == Method::HEAD { String::new() } else { text })
        }))
    }

    async fn act(&self, asked: &Asked) -> Answered {
        if asked.headers.get(AUTHORIZATION).is_none_or(|it| *it != format!("Bearer {TOKEN}")) {
            return Err(Refusal(401, "AuthenticationRequired"));
        }
        let denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if denied.iter().any(|(method, part)| *method == asked.method && asked.name.contains(part)) {
            return Err(Refusal(403, "AccessDenied"));
        }
        if asked.name.is_empty() {
            return if asked.of("uploads").is_some() {
                self.list_uploads(asked)
            } else {
                self.list(asked).await
            };
        }
        let key: ObjectKey = asked.name.parse().map_err(|_| Refusal(400, "InvalidArgument"))?;
        if asked.method == Method::PUT {
            let md5 = data_encoding::BASE64.encode(&Md5::digest(&asked.body));
            if asked.header("content-md5") != Some(md5.as_str()) {
                return Err(Refusal(400, "BadDigest"));
            }
        }
        match (&asked.method, asked.of("uploadId")) {
            (&Method::PUT, Some(id)) => self.put_part(asked, id).await,
            (&Method::PUT, None) => self.put(asked, &key).await,
            (&Method::POST, Some(id)) => self.complete(asked, id).await,
            (&Method::POST, None) => self.start_upload(asked, &key).await,
            (&Method::DELETE, Some(id)) => self.abort(id).await,
            (&Method::DELETE, None) => self.delete(&key).await,
            (&Method::GET | &Method::HEAD, _) => self.read(asked, &key).await,
            _ => Err(Refusal(405, "MethodNotAllowed")),
        }
    }

    async fn put(&self, asked: &Asked, key: &ObjectKey) -> Answered {
        let generation = asked.header(CONDITION).ok_or(Refusal(400, "NoConditionInATest"))?;
        let condition = match generation.parse::<u64>() {
            Ok(0) => PutCondition::IfAbsent,
            Ok(number) => PutCondition::IfVersion(Version(format!("v{number}"))),
            Err(_) => return Err(Refusal(400, "InvalidArgument")),
        };
        let put = self.objects.put(key, asked.body.clone(), condition).await;
        let version = put.map_err(|error| match error {
            // Here, too, it is the condition that does not hold.
            StoreError::NotFound { .. } => Refusal(412, "PreconditionFailed"),
            error => error.into(),
        })?;
        self.marks().remove(key);
        Ok(reply(versioned(200, &version), String::new()))
    }

    async fn delete(&self, key: &ObjectKey) -> Answered {
        self.objects.head(key).await?;
        self.objects.delete(key).await?;
        self.marks().remove(key);
        Ok(reply(with(204), String::new()))
    }

    async fn read(&self, asked: &Asked, key: &ObjectKey) -> Answered {
        let meta = self.objects.head(key).await?;
        let mut builder = versioned(200, &meta.version).header(LAST_MODIFIED, http_date(meta.modified_at));
        if let Some(mark) = self.marks().get(key) {
            builder = builder.header(MARK, mark);
        }
        if asked.method == Method::HEAD {
            let answer = builder.header(CONTENT_LENGTH, meta.bytes).body(Full::default());
            return Ok(answer.expect("an answer"));
        }
        let Some(range) = asked.header(RANGE.as_str()) else {
            let (body, _) = self.objects.get(key, u64::MAX).await?;
            return Ok(builder.body(Full::new(body)).expect("an answer"));
        };
        let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let bounds = bounds.and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
        let (from, to) = bounds.ok_or(Refusal(400, "InvalidArgument"))?;
        if from >= meta.bytes {
            return Err(Refusal(416, "InvalidRange"));
        }
        let end = (to + 1).min(meta.bytes);
        let body = self.objects.get_range(key, from..end).await?;
        let said = format!("bytes {from}-{}/{}", end - 1, meta.bytes);
        let builder = builder.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, said);
        Ok(builder.body(Full::new(body)).expect("an answer"))
    }

    async fn list(&self, asked: &Asked) -> Answered {
        let prefix = asked.of("prefix").unwrap_or_default();
        let below: KeyPrefix = prefix.parse().map_err(|_| Refusal(400, "InvalidArgument"))?;
        let after = asked.of("continuation-token").or(asked.of("start-after")).unwrap_or_default();
        let page = asked.of("max-keys").and_then(|it| it.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let all: Vec<ObjectMeta> = self.objects.list(&below, None).try_collect().await?;
        let foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let foreign = foreign.into_iter().filter(|name| name.starts_with(prefix));
        let foreign = foreign.map(|name| (contents(&name, "1", Timestamp::UNIX_EPOCH, 0), name));
        let ours = all.iter().map(|meta| {
            let generation = meta.version.0.trim_start_matches('v');
            let name = meta.key.to_string();
            (contents(&name, generation, meta.modified_at, meta.bytes), name)
        });
        let mut named: Vec<(String, String)> = foreign.chain(ours).map(|(xml, name)| (name, xml)).collect();
        named.sort_unstable();
        let mut entries: Vec<(String, String)> = Vec::new();
        for (name, xml) in named {
            let folder = asked.of("delimiter").and_then(|_| name[prefix.len()..].split_once('/'));
            let entry = match folder {
                Some((folder, _)) => {
                    let name = format!("{prefix}{folder}/");
                    let xml = format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>");
                    (name, xml)
                }
                None => (name, xml),
            };
            if entry.0.as_str() > after && entries.last() != Some(&entry) {
                entries.push(entry);
            }
        }
        let more = entries.len() > page;
        entries.truncate(page);
        let next = entries.last().filter(|_| more).map_or(String::new(), |(name, _)| {
            format!("<NextContinuationToken>{name}</NextContinuationToken>")
        });
        let entries: String = entries.into_iter().map(|(_, xml)| xml).collect();
        let xml = format!(
            "<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{more}</IsTruncated>{next}{entries}</ListBucketResult>"
        );
        Ok(reply(with(200), xml))
    }

    async fn start_upload(&self, asked: &Asked, key: &ObjectKey) -> Answered {
        let upload = self.objects.start_upload(key).await?;
        let mark = asked.header(MARK).unwrap_or_default().to_owned();
        let initiated = Timestamp::now();
        let begun = Begun { key: key.clone(), upload, mark, parts: BTreeMap::new(), initiated };
        let mut uploads = self.uploads();
        let id = format!("upload/{}+{}", uploads.len(), initiated.as_nanosecond());
        let xml = format!(
            "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
        );
        uploads.insert(id, begun);
        Ok(reply(with(200), xml))
    }

    async fn put_part(&self, asked: &Asked, id: &str) -> Answered {
        let begun = self.begun(id)?;
        let number = asked.of("partNumber").and_then(|it| it.parse().ok());
        let number = number.filter(|it| (1..=10_000).contains(it)).ok_or(Refusal(400, "InvalidArgument"))?;
        let part = begun.upload.put_part(number, asked.body.clone()).await?;
        let etag = format!("\"{}\"", part.version.0);
        self.uploads().entry(id.to_owned()).and_modify(|begun| {
            begun.parts.insert(number, part);
        });
        Ok(reply(with(200).header(ETAG, etag), String::new()))
    }

    /// Replaces whatever lies there; a condition is not implemented.
    async fn complete(&self, asked: &Asked, id: &str) -> Answered {
        if asked.header(CONDITION).is_some() {
            return Err(Refusal(400, "NotImplemented"));
        }
        let begun = self.begun(id)?;
        let text = String::from_utf8_lossy(&asked.body).into_owned();
        let parts = text.split("<Part>").skip(1).map(|part| {
            let number: u32 = element(part, "PartNumber")?.parse().ok()?;
            let known = begun.parts.get(&number)?.clone();
            (element(part, "ETag")?.trim_matches('"') == known.version.0).then_some(known)
        });
        let parts: Vec<Part> = parts.collect::<Option<_>>().ok_or(Refusal(400, "InvalidPart"))?;
        let (_, all_but_last) = parts.split_last().ok_or(Refusal(400, "MalformedXML"))?;
        if all_but_last.iter().any(|part| part.bytes < PartLimits::GOOGLE.part_bytes_min) {
            return Err(Refusal(400, "EntityTooSmall"));
        }
        self.objects.delete(&begun.key).await?;
        let meta = begun.upload.complete(parts).await?;
        self.uploads().remove(id);
        self.marks().insert(begun.key, begun.mark);
        let xml =
            "<CompleteMultipartUploadResult><ETag>\"made-of-parts\"</ETag></CompleteMultipartUploadResult>";
        Ok(reply(versioned(200, &meta.version), xml.to_owned()))
    }

    async fn abort(&self, id: &str) -> Answered {
        let begun = self.begun(id)?;
        begun.upload.abort().await?;
        self.uploads().remove(id);
        Ok(reply(with(204), String::new()))
    }

    fn list_uploads(&self, asked: &Asked) -> Answered {
        let prefix = asked.of("prefix").unwrap_or_default();
        let uploads = self.uploads();
        let after =
            (asked.of("key-marker").unwrap_or_default(), asked.of("upload-id-marker").unwrap_or_default());
        let mut found: Vec<(&str, &str, Timestamp)> =
            uploads.iter().map(|(id, begun)| (begun.key.as_str(), id.as_str(), begun.initiated)).collect();
        found.sort_unstable();
        found.retain(|(key, id, _)| key.starts_with(prefix) && (*key, *id) > after);
        let more = found.len() > PAGE;
        found.truncate(PAGE);
        let next = found.last().filter(|_| more).map_or(String::new(), |(key, id, _)| {
            format!("<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>")
        });
        let found: String = found
            .iter()
            .map(|(key, id, at)| {
                format!(
                    "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{at}</Initiated></Upload>"
                )
            })
            .collect();
        let xml = format!(
            "<ListMultipartUploadsResult>{next}<IsTruncated>{more}</IsTruncated>{found}</ListMultipartUploadsResult>"
        );
        Ok(reply(with(200), xml))
    }

    fn begun(&self, id: &str) -> Result<Begun, Refusal> {
        self.uploads().get(id).cloned().ok_or(Refusal(404, "NoSuchUpload"))
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Begun>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectKey, String>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with(status: u16) -> Builder {
    Response::builder().status(status).header("date", http_date(Timestamp::now()))
}

/// The memory store counts its writes: `v7` is the seventh.
fn versioned(status: u16, version: &Version) -> Builder {
    let generation = version.0.trim_start_matches('v');
    with(status).header(ETAG, format!("\"etag-{generation}\"")).header(GENERATION, generation)
}

fn reply(builder: Builder, body: String) -> Answer {
    builder.body(Full::from(body)).expect("an answer")
}

fn contents(name: &str, generation: &str, modified_at: Timestamp, bytes: u64) -> String {
    format!(
        "<Contents><Key>{name}</Key><Generation>{generation}</Generation><LastModified>{modified_at}</LastModified>\
         <ETag>\"e\"</ETag><Size>{bytes}</Size></Contents>"
    )
}

fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}
