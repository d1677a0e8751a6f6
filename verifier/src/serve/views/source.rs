//! One source: how it stands, its backups and drills by date, and what proved what.

use askama::Template;
use jiff::Timestamp;
use pgproof_monitoring::survey::Standing;
use pgproof_repository::report::{Verdict, v1};

use super::{Frame, link, protection, reasons, tone};
use crate::report::figures;
use crate::report::parts::{Cell, Column, Fact, Grid, Link, Tone};
use crate::report::timeline::Timeline;
use crate::report::verdict;
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
    page.render().expect("a page is written to memory, which takes all")
}

fn key_figures(standing: &Standing<'_>, now: Timestamp) -> Vec<Fact> {
    let facts = standing.facts;
    let backup = facts.and_then(|facts| facts.newest_backup(now));
    let proof = facts.and_then(|facts| facts.newest_proof(now));
    let span = |at: Timestamp| figures::span(figures::seconds_between(at, now).max(0.0));
    let or = |value: Option<String>, otherwise: &str| match (value, facts) {
        (Some(value), _) => Cell::from(value),
        (None, Some(_)) => otherwise.into(),
        (None, None) => Cell::absent(),
    };
    let recovery = proof.and_then(|proof| proof.recovery).map(|took| figures::span(took.as_secs_f64()));
    vec![
        Fact::new("Age of the newest backup", or(backup.map(|backup| span(backup.snapshot_at)), "never")),
        Fact::new("Age of the newest proof", or(proof.map(|proof| span(proof.finished_at)), "never")),
        Fact::new("Time to restore", or(recovery, "not measured")),
        Fact::new("Newest backup, stored", or(backup.map(|it| figures::bytes(it.stored_bytes)), "nothing")),
    ]
}

fn findings(standing: &Standing<'_>) -> Grid {
    let columns = [Column::text("Question"), Column::text("State"), Column::text("Found")];
    let mut grid = Grid::new("Each question by itself, as `pgproof status` has it", columns);
    for finding in &standing.findings {
        let name = finding.aspect.as_str().replace('_', " ");
        grid.row([
            name.into(),
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
        Ok(told) => ReportLine {
            page: link(asked, "", format!("Report {}", told.link.number)),
            finished: figures::stamp(told.link.finished_at),
            backup,
            verdict: Cell::marked(told.verdict.into(), verdict::word(told.verdict)),
            recovery: told.recovery_seconds.map_or("not restored".to_owned(), figures::span),
            signature: match history.at_odds(told) {
                Some(why) => Cell::marked(Tone::Bad, format!("at odds with its chain: {why}")),
                None => Cell::marked(Tone::Good, format!("by {}", told.signer.principal)),
            },
        },
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
    let is_good = backup.standing == "good";
    let held = if backup.held { ", held" } else { "" };
    let proved = match (backup.proved_at, backup.failed_at) {
        (proved, Some(failed)) if proved.is_none_or(|proved| failed >= proved) => {
            Cell::marked(Tone::Bad, format!("found bad {}", figures::stamp(failed)))
        }
        (Some(proved), _) => Cell::marked(Tone::Good, figures::stamp(proved)),
        (None, _) => Cell::marked(Tone::Unknown, "not proved"),
    };
    let own = history.reports.iter().filter(|brief| brief.backup == backup.id);
    let reports = own.filter_map(|brief| {
        let told = brief.told.as_ref().ok()?;
        let counts = told.verdict != Verdict::NotRun && history.at_odds(told).is_none();
        counts.then(|| link(&asked(brief), "", format!("report {}", told.link.number)))
    });
    BackupLine {
        id: Cell::code(backup.id.as_str()),
        at: figures::stamp(backup.snapshot_at),
        stored: backup.stored_bytes.map_or("not known".to_owned(), figures::bytes),
        standing: Cell::marked(
            if is_good { Tone::Good } else { Tone::Bad },
            format!("{}{held}", backup.standing),
        ),
        proved,
        reports: reports.collect(),
    }
}
