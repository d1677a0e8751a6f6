//! The section `[alerts]`: who is told of what, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::SignedDuration;

use super::hooks::{self, HookProgram};
use super::raw::{Field, Report, Table};
use crate::alerts::{Kind, Severity};
use crate::names::SourceName;

/// An alert that goes on is repeated after this: once a day is often enough to be remembered and not to be muted.
pub const REPEAT_AFTER_DEFAULT: SignedDuration = SignedDuration::from_hours(24);
/// How long one message may take, tries included.
const TIME_LIMIT_DEFAULT: SignedDuration = SignedDuration::from_secs(15);
/// SMTP submission (RFC 6409), and the same inside TLS (RFC 8314).
const PORT_STARTTLS: u32 = 587;
const PORT_IMPLICIT: u32 = 465;
const PORT_NONE: u32 = 25;

/// Routes by name, and what differs from the usual severities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    pub repeat_after: SignedDuration,
    pub severities: BTreeMap<Kind, Severity>,
    pub routes: BTreeMap<String, Route>,
}

/// One way to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// All of them where the policy names none.
    pub severities: BTreeSet<Severity>,
    /// All of them where the policy names none.
    pub sources: BTreeSet<SourceName>,
    pub time_limit: SignedDuration,
    pub delivery: Delivery,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A JSON document, signed with HMAC-SHA-256 where there is a secret.
    Webhook {
        url: Url,
        secret_file: Option<PathBuf>,
    },
    /// A message as Slack and its likenesses take it.
    Slack {
        url: Url,
    },
    Email(Email),
    /// Asked for after each good backup, so that its absence alarms somebody elsewhere. Gets no alerts.
    Ping {
        url: Url,
    },
    Command(HookProgram),
}

/// An address that is a secret by itself. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Url {
    Written(String),
    InFile(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub from: String,
    pub to: Vec<String>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// Certificates that are trusted beside those of the system.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Starttls,
    Implicit,
    None,
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Written(_) => f.write_str("Written(…)"),
            Self::InFile(path) => f.debug_tuple("InFile").field(path).finish(),
        }
    }
}

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>) -> Alerts {
    let repeat_after = table.duration("repeat_after", report).unwrap_or(REPEAT_AFTER_DEFAULT);
    let severities =
        table.table("severities", report).map(|table| severities(table, report)).unwrap_or_default();
    let mut routes = BTreeMap::new();
    if let Some(named) = table.table("routes", report) {
        for (name, table) in named.named_tables(report) {
            if let Some(route) = route(table, report) {
                routes.insert(name.value, route);
            }
        }
    } else {
        table.missing("routes", "must name one at least, such as `[alerts.routes.oncall]`", report);
    }
    table.finish(report);
    Alerts { repeat_after, severities, routes }
}

fn severities(mut table: Table<'_>, report: &mut Report<'_>) -> BTreeMap<Kind, Severity> {
    let mut read = BTreeMap::new();
    for kind in Kind::ALL {
        let severity = table.converted(kind.as_str(), SEVERITY, report, |text| text.parse().ok());
        read.extend(severity.map(|field| (kind, field.value)));
    }
    table.finish(report);
    read
}

const SEVERITY: &str = "must be \"P1\", \"P2\", \"P3\" or \"P4\"";

fn route(mut table: Table<'_>, report: &mut Report<'_>) -> Option<Route> {
    let severities = parsed(table.texts("severities", report), SEVERITY, report);
    let sources = parsed(table.texts("sources", report), "must be the name of a source", report);
    let time_limit = table.duration("time_limit", report).unwrap_or(TIME_LIMIT_DEFAULT);
    let delivery = delivery(&mut table, report);
    table.finish(report);
    Some(Route { severities, sources, time_limit, delivery: delivery? })
}

fn parsed<T: std::str::FromStr + Ord>(
    fields: Vec<Field<String>>,
    constraint: &str,
    report: &mut Report<'_>,
) -> BTreeSet<T> {
    let mut read = BTreeSet::new();
    for field in fields {
        match field.value.parse() {
            Ok(value) => {
                read.insert(value);
            }
            Err(_) => report.refuse(&field, constraint, Some(format!("{:?}", field.value))),
        }
    }
    read
}

fn delivery(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Delivery> {
    const KINDS: &str = "must be \"webhook\", \"slack\", \"email\", \"ping\" or \"command\"";
    if !table.has("kind") {
        table.missing("kind", KINDS, report);
    }
    let known = ["webhook", "slack", "email", "ping", "command"];
    let kind =
        table.converted("kind", KINDS, report, |kind| known.iter().find(|known| **known == kind).copied())?;
    match kind.value {
        "webhook" => {
            let (url, secret_file) = (url(table, report), table.path("secret_file", report));
            Some(Delivery::Webhook { url: url?, secret_file })
        }
        "slack" => Some(Delivery::Slack { url: url(table, report)? }),
        "ping" => Some(Delivery::Ping { url: url(table, report)? }),
        "email" => email(table, report).map(Delivery::Email),
        _ => {
            if !table.has("command") {
                table.missing("command", "must be a program and its arguments", report);
            }
            hooks::program(table, "command", report).map(Delivery::Command)
        }
    }
}

/// In a file or here; it is never repeated in a message.
fn url(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Url> {
    const HERE: &str = "must be an address, unless `url_file` names the file that holds it";
    if table.has("url") && table.has("url_file") {
        table.refuse("url", "must be left out beside `url_file`", None, report);
    }
    if !table.has("url") && !table.has("url_file") {
        table.missing("url_file", "must name the file that holds the address", report);
    }
    let file = table.path("url_file", report).map(Url::InFile);
    let written = table.secret_text("url", HERE, report);
    if let Some(field) = written.as_ref().filter(|field| !is_http(&field.value)) {
        report.refuse(field, "must begin with https:// or http://", None);
    }
    if let Some(field) = written.as_ref().filter(|field| holds_user(&field.value)) {
        report.refuse(field, "must hold no user or password before the host, which would not be sent", None);
    }
    file.or_else(|| written.map(|field| Url::Written(field.value)))
}

fn is_http(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// Whether something stands before the host, `https://user:password@host`.
pub fn holds_user(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    authority.contains('@')
}

fn email(table: &mut Table<'_>, report: &mut Report<'_>) -> Option<Email> {
    let mut required = |key, constraint| {
        if !table.has(key) {
            table.missing(key, constraint, report);
        }
        table.text(key, report).map(|field| field.value)
    };
    let host = required("host", "must be the name of a mail server");
    let from = required("from", "must be an address");
    if !table.has("to") {
        table.missing("to", "must list one address at least", report);
    }
    let to: Vec<String> = table.texts("to", report).into_iter().map(|field| field.value).collect();
    let tls =
        table.converted("tls", "must be \"starttls\", \"implicit\" or \"none\"", report, |text| match text {
            "starttls" => Some(Tls::Starttls),
            "implicit" => Some(Tls::Implicit),
            "none" => Some(Tls::None),
            _ => None,
        });
    let tls = tls.map_or(Tls::Starttls, |field| field.value);
    if tls == Tls::None && table.text("plain_reason", report).is_none() {
        table.missing("plain_reason", "must say why mail goes unencrypted here", report);
    }
    let usual = match tls {
        Tls::Starttls => PORT_STARTTLS,
        Tls::Implicit => PORT_IMPLICIT,
        Tls::None => PORT_NONE,
    };
    let port = table.number("port", 1..=u32::from(u16::MAX), report).unwrap_or(usual);
    let username = table.text("username", report).map(|field| field.value);
    let password_file = table.path("password_file", report);
    if username.is_some() != password_file.is_some() {
        table.missing("password_file", "must be there with `username`, and only with it", report);
    }
    let ca_file = table.path("ca_file", report);
    let port = u16::try_from(port).unwrap_or(u16::MAX);
    Some(Email { host: host?, port, tls, from: from?, to, username, password_file, ca_file })
}
