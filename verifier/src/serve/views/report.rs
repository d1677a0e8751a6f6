//! One report: its page as exports have it, below what the server found of its signature.

use askama::Template;
use pgproof_repository::report::chain::SignedReport;

use super::{Frame, link};
use crate::report::page;
use crate::report::parts::{Cell, Fact, Link, Notice, Tone, written};
use crate::serve::bucket::{Asked, Report, Standing};

#[derive(Debug, Template)]
#[template(path = "serve/untrusted.html")]
struct Untrusted<'a> {
    frame: Frame,
    source: String,
    why: &'a str,
    files: Vec<Link>,
    facts: Vec<Fact>,
}

pub(in crate::serve) fn html(frame: Frame, asked: &Asked, report: &Report) -> String {
    match &*report.standing {
        Standing::Trusted { signed, at_odds, is_placed } => {
            let notice = notice(&frame, asked, signed, at_odds, *is_placed);
            page::html_below(Some(notice), signed.get(), signed.sha256())
        }
        Standing::NotTrusted { why } => untrusted(frame, asked, report, why),
    }
}

fn untrusted(frame: Frame, asked: &Asked, report: &Report, why: &str) -> String {
    let mut files = vec![link(asked, ".json", "the JSON file")];
    if report.signature.is_some() {
        files.push(link(asked, ".json.sig", "its signature"));
    }
    let facts = vec![
        Fact::new("Lies with the reports on", Cell::code(asked.backup.as_str())),
        Fact::new("Under the name", Cell::code(format!("{}.json", asked.time))),
    ];
    let page = Untrusted { frame, source: asked.source.to_string(), why, files, facts };
    written(&page)
}

fn notice(
    frame: &Frame,
    asked: &Asked,
    signed: &SignedReport,
    at_odds: &[String],
    is_placed: bool,
) -> Notice {
    let signer = signed.signer();
    let (tone, heading) = match (at_odds.is_empty(), is_placed) {
        (false, _) => (Tone::Bad, "Well signed, and at odds with its chain: it proves nothing"),
        (true, true) => (Tone::Good, "Well signed, and in its place in the chain"),
        (true, false) => (Tone::Weak, "Well signed; its place in the chain was not looked at"),
    };
    let mut sentences: Vec<String> = at_odds.to_vec();
    if !is_placed {
        sentences.push(format!(
            "Only the newest reports are held against each other here: `pgproof-verifier report check --source {}` looks at all.",
            asked.source
        ));
    }
    sentences.push(
        "The server says so, by the signers that it trusts. Take the files along and ask ssh-keygen, with your own list: \
         the command stands under “Signature and chain”."
            .to_owned(),
    );
    Notice {
        tone,
        heading: heading.to_owned(),
        sentences,
        facts: vec![
            Fact::new("Signed by", signer.principal.as_str()),
            Fact::new("With the key", Cell::code(&signer.fingerprint)),
        ],
        above: vec![
            Link { path: "/".to_owned(), text: "Sources".to_owned() },
            Link { path: format!("/sources/{}", asked.source), text: asked.source.to_string() },
        ],
        files: vec![
            link(asked, ".json", "The signed JSON file"),
            link(asked, ".json.sig", "its signature"),
            link(asked, ".csv", "its tables as CSV"),
        ],
        as_of: frame.as_of.clone().unwrap_or_default(),
    }
}
