//! The list of reports in a folder, as a page.

use std::collections::BTreeMap;

use askama::Template;
use pgproof_repository::report::Report;

use super::parts::{Cell, written};
use super::{GENERATOR, figures, files, verdict};

#[derive(Debug, Template)]
#[template(path = "index.html")]
struct Index {
    title: &'static str,
    generator: &'static str,
    told: String,
    sources: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    name: String,
    lines: Vec<Line>,
}

/// What the list says of one report.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    source: String,
    number: u64,
    name: String,
    finished: String,
    backup: String,
    verdict: Cell,
    recovery: String,
}

impl From<&Report> for Line {
    fn from(report: &Report) -> Self {
        Self {
            source: report.source.to_string(),
            number: report.number,
            name: files::name(report),
            finished: figures::stamp(report.finished_at),
            backup: report.backup.to_string(),
            verdict: Cell::marked(report.verdict.into(), verdict::word(report.verdict)),
            recovery: report.recovery_seconds.map_or("not restored".to_owned(), figures::span),
        }
    }
}

/// The page with all these reports, by source, newest first.
pub(crate) fn html(lines: Vec<Line>) -> String {
    let told = figures::counted(lines.len() as u64, "report", "reports");
    let mut by_source: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for line in lines {
        by_source.entry(line.source.clone()).or_default().push(line);
    }
    let source = |(name, mut lines): (String, Vec<Line>)| {
        lines.sort_by(|a, b| (b.number, &b.finished).cmp(&(a.number, &a.finished)));
        Source { name, lines }
    };
    let sources = by_source.into_iter().map(source).collect();
    let index = Index { title: "Drill reports", generator: GENERATOR, told, sources };
    written(&index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn every_report_is_linked_the_newest_first() {
        let chain = sample::Chain::of(3);
        let page = html(chain.signed().iter().map(|signed| signed.get().into()).collect());
        let place = |number: u64| page.find(&format!(">Report {number}<")).unwrap();
        assert!(place(3) < place(2) && place(2) < place(1));
        assert!(page.contains("href=\"app-000002-20261102T040000000Z.html\""), "{page}");
    }
}
