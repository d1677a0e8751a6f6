//! One source: how it stands, its backups and drills by date, and what proved what.

use askama::Template;
use jiff::Timestamp;
use pgproof_monitoring::survey::Standing;
use pgproof_policies::standing;
use pgproof_repository::report::{Verdict, v1};

use super::{Frame, link, proof_told, protection, reasons, subject, tone};
use crate::report::figures;
use crate::report::parts::{Cell, Column, Fact, Grid, Link, Tone, written};
use crate::report::timeline::Timeline;
use crate::report::verdict;
use crate::report::worth::{self, Worth};
use crate::serve::bucket::{Asked, Brief, Handed, History, Read, SHOWN_MAX};

/// Units across, on a desk and on a telephone.
const TIMELINE_WIDE: f64 = 960.0;
const TIMELINE_NARROW: f64 = 340.0;

#[derive(Debug, Template)]
#[template(path = "serve/source.html")]
struct Page {
    frame: Frame,
    name: String,
    tone: Tone,
    word: String,
    reasons: Vec<String>,
    figures: Vec<Fact>,
    findings: Grid,
    shown: Option<Shown>,
    /// Why nothing is shown.
    problem: Option<String>,
}

#[derive(Debug)]
struct Shown {
    wide: Timeline,
    narrow: Timeline,
    breaks: Vec<String>,
    /// Whether there is a report that the chain is made of.
    has_chain: bool,
    untrusted: Option<String>,
    reports: Vec<ReportLine>,
    backups: Vec<BackupLine>,
    limited: Option<String>,
}

#[derive(Debug)]
struct ReportLine {
    page: Link,
    finished: String,
    backup: Cell,
    verdict: Cell,
    recovery: String,
    signature: Cell,
}

#[derive(Debug)]
struct BackupLine {
    id: Cell,
    at: String,
    stored: String,
    standing: Cell,
    proved: Cell,
    /// Those of its reports that came to a verdict on it.
    reports: Vec<Link>,
}

pub(in crate::serve) fn html(
    frame: Frame,
    standing: &Standing<'_>,
    history: &Read<History>,
    now: Timestamp,
) -> String {
    let state = standing.state();
    let shown = history.what.as_ref().ok().map(|shown| Shown::of(shown, standing, now));
    let page = Page {
        frame,
        name: standing.source.name.to_string(),
        tone: tone(state),
        word: protection(state),
        reasons: reasons(&standing.findings),
        figures: key_figures(standing, now),
        findings: findings(standing),
        shown,
        problem: history.what.as_ref().err().cloned(),
    };
    written(&page)
}

fn key_figures(standing: &Standing<'_>, now: Timestamp) -> Vec<Fact> {
    let facts = standing.facts;
    let backup = facts.and_then(|facts| facts.newest_backup(now));
    let proof = facts.and_then(|facts| facts.newest_proof(now));
    let span = |at: Timestamp| figures::span(figures::seconds_between(at, now).max(0.0));
    let or = |value: Option<Cell>, otherwise: &str| match (value, facts) {
        (Some(value), _) => value,
        (None, Some(_)) => otherwise.into(),
        (None, None) => Cell::absent(),
    };
    let proved =
        proof.map(|proof| proof_told(span(proof.finished_at), proof.verdict == standing::Verdict::Degraded));
    // Of the drill that the objective is held against, whether it proved anything or not.
    let measured = facts.and_then(|facts| facts.newest_measured(now)?.recovery);
    let recovery = measured.map(|took| figures::span(took.as_secs_f64()).into());
    let stored = backup.map(|backup| figures::bytes(backup.stored_bytes).into());
    vec![
        Fact::new("Age of the newest backup", or(backup.map(|it| span(it.snapshot_at).into()), "never")),
        Fact::new("Age of the newest proof", or(proved, "never")),
        Fact::new("Time to restore", or(recovery, "not measured")),
        Fact::new("Newest backup, stored", or(stored, "nothing")),
    ]
}

fn findings(standing: &Standing<'_>) -> Grid {
    let columns = [Column::text("Question"), Column::text("State"), Column::text("Found")];
    let mut grid = Grid::new("Each question by itself, as `pgproof status` has it", columns);
    for finding in &standing.findings {
        grid.row([
            subject(finding).into(),
            Cell::marked(tone(finding.state), finding.state.as_str()),
            finding.told.as_str().into(),
        ]);
    }
    grid
}

impl Shown {
    fn of(history: &History, standing: &Standing<'_>, now: Timestamp) -> Self {
        let source = &standing.source.name;
        let drawn = drawn(history, now);
        let objective = standing.source.objectives.recovery_point.map(|objective| objective.as_secs_f64());
        let timeline = |width| Timeline::of(&drawn, now, objective, width);
        let asked = |brief: &Brief| Asked {
            source: source.clone(),
            backup: brief.backup.clone(),
            time: brief.time.clone(),
            handed: Handed::Page,
        };
        Self {
            wide: timeline(TIMELINE_WIDE),
            narrow: timeline(TIMELINE_NARROW),
            breaks: history.breaks.iter().map(ToString::to_string).collect(),
            has_chain: history
                .reports
                .iter()
                .any(|brief| brief.told.as_ref().is_ok_and(|told| !told.is_misplaced)),
            untrusted: untrusted(history),
            reports: history.reports.iter().map(|brief| report_line(brief, &asked(brief), history)).collect(),
            backups: history
                .backups
                .iter()
                .rev()
                .map(|backup| backup_line(backup, history, &asked))
                .collect(),
            limited: limited(history),
        }
    }
}

/// What is not shown is said.
fn limited(history: &History) -> Option<String> {
    let reports = history.report_count().saturating_sub(history.reports.len()) as u64;
    let backups = history.has_older_backups.then(|| "older backups".to_owned());
    let reports = (reports > 0).then(|| figures::counted(reports, "older report", "older reports"));
    let all: Vec<String> = [backups, reports].into_iter().flatten().collect();
    (!all.is_empty()).then(|| {
        format!("Only the newest {SHOWN_MAX} of each are shown; there are {} too.", all.join(" and "))
    })
}

/// Reports that are in no chain must not lie in the shade of one that holds.
fn untrusted(history: &History) -> Option<String> {
    let count = history.reports.iter().filter(|brief| brief.told.is_err()).count() as u64;
    let told = figures::counted(
        count,
        "report here is not trusted, and counts",
        "reports here are not trusted, and count",
    );
    (count > 0).then(|| format!("{told} for nothing."))
}

/// What the timeline draws: reports that are well signed and not at odds with their chain.
fn drawn(history: &History, now: Timestamp) -> v1::History {
    let drills: Vec<v1::HistoryDrill> = history
        .reports
        .iter()
        .rev()
        .filter_map(|brief| Some((brief, brief.told.as_ref().ok()?)))
        .filter(|(_, told)| history.at_odds(told).is_none())
        .map(|(brief, told)| v1::HistoryDrill {
            number: told.link.number,
            finished_at: told.link.finished_at,
            backup: brief.backup.clone(),
            verdict: told.verdict,
            recovery_seconds: told.recovery_seconds,
            database_bytes: told.database_bytes,
        })
        .collect();
    let times = history.backups.iter().map(|backup| backup.snapshot_at);
    let since = times.chain(drills.iter().map(|drill| drill.finished_at)).min().unwrap_or(now);
    v1::History { since, retention: String::new(), schedule: None, backups: history.backups.clone(), drills }
}

fn report_line(brief: &Brief, asked: &Asked, history: &History) -> ReportLine {
    let backup = Cell::code(brief.backup.as_str());
    match &brief.told {
        Ok(told) => {
            let word = verdict::word(told.verdict);
            let (verdict, signature) = match history.at_odds(told) {
                // What proves nothing gets no tick.
                Some(why) => (
                    Cell::marked(Tone::Unknown, word),
                    Cell::marked(Tone::Bad, format!("at odds with its chain: {why}")),
                ),
                None => (
                    Cell::marked(told.verdict.into(), word),
                    Cell::marked(Tone::Good, format!("by {}", told.signer.principal)),
                ),
            };
            ReportLine {
                page: link(asked, "", format!("Report {}", told.link.number)),
                finished: figures::stamp(told.link.finished_at),
                backup,
                verdict,
                recovery: told.recovery_seconds.map_or("not restored".to_owned(), figures::span),
                signature,
            }
        }
        Err(why) => ReportLine {
            page: link(asked, "", "A report"),
            finished: "not known".to_owned(),
            backup,
            verdict: Cell::marked(Tone::Unknown, "does not count"),
            recovery: "not known".to_owned(),
            signature: Cell::marked(Tone::Bad, format!("not trusted: {why}")),
        },
    }
}

fn backup_line(
    backup: &v1::HistoryBackup,
    history: &History,
    asked: &impl Fn(&Brief) -> Asked,
) -> BackupLine {
    let own = || history.reports.iter().filter(|brief| brief.backup == backup.id);
    let is_weak = |at: Timestamp| {
        let mut told = own().filter_map(|brief| brief.told.as_ref().ok());
        told.any(|told| told.link.finished_at == at && told.verdict == Verdict::Degraded)
    };
    let proved = match Worth::of(backup) {
        Worth::Proved(at) if is_weak(at) => proof_told(figures::stamp(at), true),
        _ => worth::proof_cell(backup),
    };
    let reports = own().filter_map(|brief| {
        let told = brief.told.as_ref().ok()?;
        let counts = told.verdict != Verdict::NotRun && history.at_odds(told).is_none();
        counts.then(|| link(&asked(brief), "", format!("report {}", told.link.number)))
    });
    BackupLine {
        id: Cell::code(backup.id.as_str()),
        at: figures::stamp(backup.snapshot_at),
        stored: backup.stored_bytes.map_or("not known".to_owned(), figures::bytes),
        standing: worth::standing_cell(backup),
        proved,
        reports: reports.collect(),
    }
}
