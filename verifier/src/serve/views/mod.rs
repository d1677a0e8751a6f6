//! Pages: pure functions of what was read and of the time.

pub(super) mod audit;
pub(super) mod login;
pub(super) mod message;
pub(super) mod report;
pub(super) mod source;
pub(super) mod sources;

use askama::Template;
use jiff::Timestamp;
use pgproof_policies::standing::{Finding, State};

use super::bucket::Asked;
use crate::report::figures;
use crate::report::parts::{Cell, Link, Tone, written};

/// What every page has around its contents.
#[derive(Debug)]
pub(super) struct Frame {
    pub title: String,
    pub as_of: Option<String>,
    /// Whether somebody is signed in.
    pub can_leave: bool,
}

impl Frame {
    /// Of a page that tells nothing of the bucket.
    fn plain(title: &str) -> Self {
        Self { title: title.to_owned(), as_of: None, can_leave: false }
    }
}

/// `As of 2026-11-24 04:00:12 UTC, 12 seconds before this page was made`.
pub(super) fn as_of(read_at: Timestamp, now: Timestamp) -> String {
    let age = now.duration_since(read_at).as_secs().max(0).unsigned_abs();
    let age = figures::counted(age, "second", "seconds");
    format!("As of {}, {age} before this page was made", figures::stamp(read_at))
}

/// A page of a report, which has no style of the site.
#[derive(Template)]
#[template(source = "{% extends \"base.html\" %}", ext = "html")]
struct Bare {
    title: &'static str,
    generator: &'static str,
}

/// What stands between the style tags of the pages of a report, and of the site.
pub(super) fn styles() -> [String; 2] {
    let bare = written(&Bare { title: "", generator: "" });
    [bare, message::html("", "")].map(|page| {
        let (_, rest) = page.split_once("<style>").expect("every page has a style");
        rest.split("</style>").next().unwrap_or_default().to_owned()
    })
}

fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::Warning => Tone::Weak,
        State::Unknown => Tone::Unknown,
        State::Critical => Tone::Bad,
    }
}

fn protection(state: State) -> String {
    state.protection().replace('_', " ")
}

/// What is not well, gravest first, each with what it is about.
fn reasons(findings: &[Finding]) -> Vec<String> {
    let mut unwell: Vec<&Finding> = findings.iter().filter(|finding| finding.state != State::Ok).collect();
    unwell.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    let told = |finding: &Finding| format!("{}: {}", subject(finding), finding.told);
    unwell.into_iter().map(told).collect()
}

/// `backup age`
fn subject(finding: &Finding) -> String {
    finding.aspect.as_str().replace('_', " ")
}

/// A time and how long it is past.
fn aged(at: Timestamp, now: Timestamp) -> String {
    let age = figures::seconds_between(at, now).max(0.0);
    format!("{}, {} ago", figures::stamp(at), figures::span(age))
}

/// When or how long ago a drill proved something; a proof with a weakness is not told like a whole one.
fn proof_told(told: String, is_weak: bool) -> Cell {
    if is_weak { Cell::marked(Tone::Weak, format!("{told}, weaker")) } else { told.into() }
}

/// A report's page, or a file of it.
fn link(asked: &Asked, ending: &str, text: impl Into<String>) -> Link {
    let path = format!("/sources/{}/reports/{}/{}{ending}", asked.source, asked.backup, asked.time);
    Link { path, text: text.into() }
}
