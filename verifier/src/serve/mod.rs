//! What reviewers look at in a browser: sources, their backups and drills, reports with what their signatures are worth, and
//! who did what. It reads and never writes, and it shows signed facts; what is not well signed is shown as that.
//!
//! - [`access`]: who may look.
//! - [`bucket`]: what is read, in how many requests, and for how long it is kept.
//! - [`views`]: pages, pure functions of what was read.
//! - here: routes, which are thin.
//!
//! Whatever comes from the bucket was written by somebody else. It reaches a page through templates that escape it, and
//! no script runs on any page.

mod access;
mod bucket;
mod cache;
mod shield;
mod views;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

pub(crate) use access::{Access, Hosts, Token, TokenError};
pub(crate) use bucket::Bucket;

use access::Entrance;
use bucket::{Asked, Handed};
use views::Frame;

/// A form with a token and the page that was asked for.
const FORM_BYTES_MAX: usize = 8 << 10;
/// How long somebody may take to send it.
const FORM_TIME_LIMIT: Duration = Duration::from_secs(5);

/// What is served, and to whom.
#[derive(Debug)]
pub(crate) struct Site {
    /// As the policy has it that is in force.
    pub bucket: watch::Receiver<Arc<Bucket>>,
    pub access: Access,
    pub hosts: Hosts,
}

type Shared = State<Arc<Site>>;
/// What a path names. One that is no text names nothing.
type Named<T> = Result<Path<T>, PathRejection>;

/// All pages.
pub(crate) fn router(site: Site) -> Router {
    let site = Arc::new(site);
    Router::new()
        .route("/", get(sources))
        .route("/sources/{source}", get(source))
        .route("/sources/{source}/audit", get(audit))
        .route("/sources/{source}/reports/{backup}/{file}", get(report))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .fallback(async || not_found())
        .layer(from_fn_with_state(site.clone(), guard))
        .with_state(site)
}

/// Stands before every page: nothing is answered to a strange host, a strange method or a stranger.
async fn guard(State(site): Shared, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let answer = match refusal(&site, &head).await {
        Some(refused) => refused,
        None => next.run(Request::from_parts(head, body)).await,
    };
    shield::cover(answer)
}

async fn refusal(site: &Site, head: &Parts) -> Option<Response> {
    if !site.hosts.admit(&head.headers) {
        let text = "This server does not go by the name that was asked for. --host names further ones.";
        return Some(message(StatusCode::MISDIRECTED_REQUEST, "Another host", text));
    }
    let (method, path) = (&head.method, head.uri.path());
    let is_form = *method == Method::POST && ["/login", "/logout"].contains(&path);
    if !is_form && !matches!(*method, Method::GET | Method::HEAD) {
        let text = "Nothing can be changed here: pages are read, and that is all.";
        let refused = message(StatusCode::METHOD_NOT_ALLOWED, "Only for reading", text);
        return Some(([(header::ALLOW, "GET, HEAD")], refused).into_response());
    }
    if is_form && !access::is_from_here(&head.headers) {
        return Some(message(StatusCode::FORBIDDEN, "From elsewhere", "This form was sent by another site."));
    }
    if is_form || path == "/favicon.ico" {
        return None;
    }
    match site.access.entrance(&head.headers).await {
        Entrance::Open => None,
        Entrance::Crowded => Some(crowded()),
        Entrance::Closed { wrong } => {
            let asked = head.uri.path_and_query().map_or("/", |path| path.as_str());
            Some(closed(asked, wrong))
        }
    }
}

async fn sources(State(site): Shared, headers: HeaderMap) -> Response {
    let survey = site.bucket().survey().await;
    let now = Timestamp::now();
    let standings = survey.judge(now);
    // What watches a page by its status must not take an outage for a page.
    let status = match standings.iter().any(|standing| standing.facts.is_some()) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let frame = site.frame("Sources", &headers, survey.read_at, now);
    html(status, views::sources::html(frame, &survey.location, &standings, now))
}

async fn source(State(site): Shared, name: Named<String>, headers: HeaderMap) -> Response {
    let Ok(Path(name)) = name else { return not_found() };
    let bucket = site.bucket();
    let Some(name) = bucket.source(&name) else { return not_found() };
    let (survey, history) = tokio::join!(bucket.survey(), bucket.history(&name));
    let now = Timestamp::now();
    let standings = survey.judge(now);
    let Some(standing) = standings.into_iter().find(|standing| standing.source.name == name) else {
        return not_found();
    };
    let status = if history.what.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let frame = site.frame(name.as_str(), &headers, history.at.min(survey.read_at), now);
    html(status, views::source::html(frame, &standing, &history, now))
}

async fn audit(State(site): Shared, name: Named<String>, headers: HeaderMap) -> Response {
    let Ok(Path(name)) = name else { return not_found() };
    let bucket = site.bucket();
    let Some(name) = bucket.source(&name) else { return not_found() };
    let trail = bucket.trail(&name).await;
    let status = if trail.what.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let frame = site.frame(&format!("Audit trail of {name}"), &headers, trail.at, Timestamp::now());
    html(status, views::audit::html(frame, &name, &trail))
}

async fn report(State(site): Shared, named: Named<(String, String, String)>, headers: HeaderMap) -> Response {
    let Ok(Path((name, backup, file))) = named else { return not_found() };
    let bucket = site.bucket();
    let Some(name) = bucket.source(&name) else { return not_found() };
    let Some(asked) = Asked::of(&name, &backup, &file) else { return not_found() };
    let handed = bucket.report(&asked).await;
    let (found, at) = match &handed.what {
        Ok(Some(found)) => (found.clone(), handed.at),
        Ok(None) => return not_found(),
        Err(why) => {
            return message(StatusCode::SERVICE_UNAVAILABLE, "The report cannot be read", why);
        }
    };
    match asked.handed {
        Handed::Page => {
            let frame = site.frame(&found.title(&asked), &headers, at, Timestamp::now());
            // A report of thousands of tables takes its time to be written out.
            let page = tokio::task::spawn_blocking(move || views::report::html(frame, &asked, &found)).await;
            page.map_or_else(
                |_| StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                |page| html(StatusCode::OK, page),
            )
        }
        Handed::Json => download("application/json", found.file_name(&asked, "json"), Some(found.report)),
        Handed::Signature => {
            download("application/octet-stream", found.file_name(&asked, "json.sig"), found.signature)
        }
        Handed::Csv => download("text/csv; charset=utf-8", found.file_name(&asked, "csv"), found.csv()),
    }
}

async fn login(State(site): Shared, request: Request) -> Response {
    let is_encrypted = access::is_behind_tls(request.headers());
    let Some(form) = form(request.into_body()).await else {
        return message(StatusCode::BAD_REQUEST, "No token", "The form was not sent whole.");
    };
    let asked = form.iter().find(|(name, _)| name == "to").map_or("/", |(_, to)| access::local(to));
    let token = form.iter().find(|(name, _)| name == "token").map_or("", |(_, token)| token.trim());
    match site.access.log_in(token).await {
        Entrance::Open => {
            let mut answer = seeing(asked);
            if let Some(cookie) = site.access.new_session(is_encrypted) {
                answer.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            answer
        }
        Entrance::Closed { .. } => closed(asked, true),
        Entrance::Crowded => crowded(),
    }
}

async fn logout(State(site): Shared, headers: HeaderMap) -> Response {
    site.access.end_session(&headers);
    let mut answer = seeing("/");
    answer.headers_mut().insert(header::SET_COOKIE, access::ended_cookie());
    answer
}

/// The fields of a form; `None` where it is too long, too late or cut short.
async fn form(body: Body) -> Option<Vec<(String, String)>> {
    let bytes = tokio::time::timeout(FORM_TIME_LIMIT, to_bytes(body, FORM_BYTES_MAX)).await.ok()?.ok()?;
    Some(form_urlencoded::parse(&bytes).into_owned().collect())
}

impl Site {
    fn bucket(&self) -> Arc<Bucket> {
        self.bucket.borrow().clone()
    }

    fn frame(&self, title: &str, headers: &HeaderMap, read_at: Timestamp, now: Timestamp) -> Frame {
        let as_of = views::as_of(read_at, now);
        Frame { title: title.to_owned(), as_of: Some(as_of), can_leave: self.access.has_session(headers) }
    }
}

fn html(status: StatusCode, page: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

fn message(status: StatusCode, title: &str, text: &str) -> Response {
    html(status, views::message::html(title, text))
}

fn not_found() -> Response {
    message(StatusCode::NOT_FOUND, "Not here", "There is no such page, source or report.")
}

fn crowded() -> Response {
    let text = "Too many wrong tokens are being tried. Try again in a while.";
    let answer = message(StatusCode::TOO_MANY_REQUESTS, "Wait a while", text);
    ([(header::RETRY_AFTER, "10")], answer).into_response()
}

fn closed(asked: &str, wrong: bool) -> Response {
    let page = html(StatusCode::UNAUTHORIZED, views::login::html(access::local(asked), wrong));
    ([(header::WWW_AUTHENTICATE, "Bearer")], page).into_response()
}

fn seeing(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, path.to_owned())]).into_response()
}

/// A file to be kept. Its name is made of names that were checked.
fn download(kind: &'static str, name: String, bytes: Option<Bytes>) -> Response {
    let Some(bytes) = bytes else { return not_found() };
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    (headers, bytes).into_response()
}
