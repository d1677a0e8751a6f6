//! Who did what to the backups of a source.

use askama::Template;
use pgproof_policies::names::SourceName;
use pgproof_repository::audit::{Audit, Entry, Finding};

use super::Frame;
use crate::report::figures;
use crate::report::parts::{Cell, Column, Grid, Tone, written};
use crate::serve::bucket::Read;

/// Acts that are shown, the newest.
const ACTS_MAX: usize = 500;

#[derive(Debug, Template)]
#[template(path = "serve/audit.html")]
struct Page {
    frame: Frame,
    source: String,
    tone: Tone,
    heading: String,
    told: String,
    findings: Grid,
    remains: Grid,
    acts: Grid,
    limited: Option<String>,
}

pub(in crate::serve) fn html(frame: Frame, source: &SourceName, trail: &Read<Audit>) -> String {
    let nothing = Audit::default();
    let audit = trail.what.as_ref().unwrap_or(&nothing);
    let (tone, heading, told) = match &trail.what {
        Err(why) => (
            Tone::Unknown,
            "The trail cannot be read".to_owned(),
            format!(
                "Nothing is known of it here: {why}. `pgproof audit {source}` reads it without these limits."
            ),
        ),
        Ok(audit) => judged(audit, source),
    };
    let hidden = audit.acts.len().saturating_sub(ACTS_MAX) as u64;
    let page = Page {
        frame,
        source: source.to_string(),
        tone,
        heading,
        told,
        findings: findings(
            "Records, and what is the matter with each",
            "What is the matter",
            &audit.findings,
            Tone::Bad,
        ),
        remains: findings("Halves of records", "What it is", &audit.remains, Tone::Unknown),
        acts: acts(&audit.acts),
        limited: (hidden > 0)
            .then(|| format!("{} not shown.", figures::counted(hidden, "older one is", "older ones are"))),
    };
    written(&page)
}

fn judged(audit: &Audit, source: &SourceName) -> (Tone, String, String) {
    let acts = figures::counted(audit.acts.len() as u64, "act", "acts");
    match audit.findings.len() as u64 {
        0 => (
            Tone::Good,
            "Everything checks".to_owned(),
            format!(
                "{acts}, each with a signature that is trusted, and none that contradicts another. `pgproof audit {source}` says the same."
            ),
        ),
        count => (
            Tone::Bad,
            format!("{} not check", figures::counted(count, "thing does", "things do")),
            format!("{acts} are well signed; what does not check stands first."),
        ),
    }
}

fn findings(caption: &'static str, what: &'static str, findings: &[Finding], tone: Tone) -> Grid {
    let mut grid = Grid::new(caption, [Column::text("Record"), Column::text(what)]);
    for finding in findings {
        let record =
            finding.record.as_deref().map_or_else(|| Cell::from("the source as a whole"), Cell::code);
        grid.row([record, Cell::marked(tone, finding.problem.as_str())]);
    }
    grid
}

fn acts(acts: &[Entry]) -> Grid {
    let columns = [
        Column::text("When"),
        Column::text("Act"),
        Column::text("Backup"),
        Column::text("Outcome"),
        Column::text("Signed by"),
        Column::text("Host"),
    ];
    let mut grid = Grid::new("Acts, newest first", columns);
    for act in acts.iter().rev().take(ACTS_MAX) {
        grid.row([
            figures::stamp(act.at).into(),
            act.act.to_string().into(),
            act.backup.as_ref().map_or_else(|| Cell::from("none"), |id| Cell::code(id.as_str())),
            act.outcome.as_str().into(),
            act.who.as_str().into(),
            Cell::code(&act.host),
        ]);
    }
    grid
}
