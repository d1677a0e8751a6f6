//! A period report as a page and as CSV.

use askama::Template;
use pgproof_repository::report::Verdict;
use pgproof_repository::signature::namespace;

use super::controls::{self, Control};
use super::page::met;
use super::parts::{Cell, Column, Fact, Grid, Tone, written};
use super::period::{Met, Period};
use super::{GENERATOR, figures, files, table, verdict};

#[derive(Debug, Template)]
#[template(path = "period.html")]
struct Page<'a> {
    period: &'a Period,
    title: String,
    name: String,
    sha256: String,
    signed: bool,
    generator: &'static str,
    tone: Tone,
    heading: String,
    sentences: Vec<String>,
    figures: Vec<Fact>,
    objectives: Grid,
    gaps: Grid,
    failures: Grid,
    exceptions: Grid,
    keys: Grid,
    control: Grid,
    controls: Vec<Control>,
    drills: Grid,
    evidence: Grid,
    verify: String,
}

/// What stands before the endings of a period report's files.
pub(crate) fn name(period: &Period) -> String {
    format!("period-{}-{}-{}", period.source, period.days.first, period.days.last)
}

/// `sha256` is that of the period report's own JSON.
pub(crate) fn html(period: &Period, sha256: &str, signed: bool) -> String {
    let name = name(period);
    let page = Page {
        title: format!("Drills of {} from {} to {}", period.source, period.days.first, period.days.last),
        verify: files::verify_command(&name, namespace::REPORT_PERIOD, period.at()),
        name,
        sha256: sha256.to_owned(),
        signed,
        generator: GENERATOR,
        tone: tone(period),
        heading: heading(period),
        sentences: sentences(period),
        figures: key_figures(period),
        objectives: objectives(period),
        gaps: gaps(period),
        failures: failures(period),
        exceptions: exceptions(period),
        keys: keys(period),
        control: control(period),
        controls: controls::of_period(period.drills.len() as u64, period.proved()),
        drills: drills(period),
        evidence: evidence(period),
        period,
    };
    written(&page)
}

/// A line for each drill.
pub(crate) fn csv(period: &Period) -> String {
    const COLUMNS: [&str; 13] = [
        "source",
        "report",
        "sha256",
        "finished_at_utc",
        "backup",
        "snapshot_at_utc",
        "verdict",
        "tables",
        "rows",
        "recovery_seconds",
        "recovery_point_met",
        "recovery_time_met",
        "policy_sha256",
    ];
    let told = |met: Option<bool>| met.map_or("", |met| if met { "yes" } else { "no" }).to_owned();
    let rows = period.drills.iter().map(|drill| {
        [
            period.source.to_string(),
            drill.number.to_string(),
            drill.sha256.to_string(),
            drill.finished_at.to_string(),
            drill.backup.to_string(),
            drill.snapshot_at.to_string(),
            told_verdict(drill.verdict, drill.at_odds.is_some()),
            drill.tables.to_string(),
            drill.rows.to_string(),
            drill.recovery_seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
            told(drill.recovery_point_met),
            told(drill.recovery_time_met),
            drill.policy_sha256.clone(),
        ]
    });
    table::written(COLUMNS, rows)
}

fn tone(period: &Period) -> Tone {
    let verdicts = &period.verdicts;
    if verdicts.failed + verdicts.verifier_failed > 0 || !period.chain_breaks.is_empty() {
        Tone::Bad
    } else if period.drills.is_empty() || verdicts.not_run > 0 {
        Tone::Unknown
    } else if verdicts.degraded > 0 {
        Tone::Weak
    } else {
        Tone::Good
    }
}

fn heading(period: &Period) -> String {
    match (period.drills.len() as u64, period.proved()) {
        (0, _) => "No drill in this span: nothing was proved".to_owned(),
        (all, proved) if all == proved => {
            format!("{}, each of which proved a backup", figures::counted(all, "drill", "drills"))
        }
        (all, proved) => format!(
            "{} of {} proved a backup",
            figures::count(proved),
            figures::counted(all, "drill", "drills")
        ),
    }
}

fn sentences(period: &Period) -> Vec<String> {
    let verdicts = &period.verdicts;
    let counted = [
        (verdicts.passed, "passed"),
        (verdicts.degraded, "proved a backup with a weaker proof"),
        (verdicts.failed, "failed"),
        (verdicts.not_run, "could not be run"),
        (verdicts.verifier_failed, "failed the verifier's own test"),
        (verdicts.at_odds, "left reports that are at odds with their chain and prove nothing"),
    ];
    let parts = counted.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> =
        parts.map(|(count, what)| format!("{} {what}", figures::count(*count))).collect();
    let mut sentences = Vec::new();
    if !parts.is_empty() {
        sentences.push(format!("Of the drills of {}, {}.", period.source, parts.join(", ")));
    }
    if let Some(gap) = period.gaps.first() {
        sentences.push(format!(
            "The longest time without a good backup was {}, from {}.",
            figures::span(gap.seconds),
            figures::moment(gap.from)
        ));
    }
    if period.none_good {
        sentences.push("None of the backups that the reports name is good.".to_owned());
    }
    if let Some(seconds) = period.longest_between_drills_seconds {
        sentences.push(format!("At most {} passed between two drills.", figures::span(seconds)));
    }
    if !period.chain_breaks.is_empty() {
        sentences.push("The chain of reports does not hold; where, stands below.".to_owned());
    }
    sentences
}

fn key_figures(period: &Period) -> Vec<Fact> {
    let counting = period.drills.iter().filter(|drill| drill.at_odds.is_none());
    let rows: u64 = counting.map(|drill| drill.rows).sum();
    let coverage = period.coverage.as_ref();
    let proved = coverage
        .map(|coverage| format!("{} of {}", figures::count(coverage.proved), figures::count(coverage.kept)));
    vec![
        Fact::new("Drills", figures::count(period.drills.len() as u64)),
        Fact::new("Proved a backup", figures::count(period.proved())),
        Fact::new("Rows compared", figures::count(rows)),
        Fact::new("Longest restore", Cell::known(period.recovery_time.worst_seconds.map(figures::span))),
        Fact::new("Kept backups proved", Cell::known(proved)),
    ]
}

fn objectives(period: &Period) -> Grid {
    let columns = [
        Column::text("Objective"),
        Column::number("Met"),
        Column::number("Missed"),
        Column::number("Not judged"),
        Column::number("Worst"),
    ];
    let mut grid = Grid::new("Drills by objective", columns);
    let mut row = |name: &str, met: &Met| {
        let missed = match met.missed {
            0 => Cell::from("0"),
            missed => Cell::marked(Tone::Bad, figures::count(missed)),
        };
        grid.row([
            name.into(),
            figures::count(met.met).into(),
            missed,
            figures::count(met.not_judged).into(),
            Cell::known(met.worst_seconds.map(figures::span)),
        ]);
    };
    row("Recovery point", &period.recovery_point);
    row("Recovery time", &period.recovery_time);
    grid
}

fn gaps(period: &Period) -> Grid {
    let columns = [Column::text("From"), Column::text("To"), Column::number("Without a good backup")];
    let mut grid = Grid::new("The longest first", columns);
    for gap in &period.gaps {
        grid.row([
            figures::stamp(gap.from).into(),
            figures::stamp(gap.to).into(),
            figures::span(gap.seconds).into(),
        ]);
    }
    grid
}

fn failures(period: &Period) -> Grid {
    let columns = [
        Column::text("Report"),
        Column::text("Finished"),
        Column::text("Verdict"),
        Column::text("Why"),
        Column::text("What followed"),
    ];
    let mut grid = Grid::new("Drills that proved nothing", columns);
    let is_at_odds =
        |number| period.drills.iter().any(|drill| drill.number == number && drill.at_odds.is_some());
    for failure in &period.failures {
        let followed = match &failure.followed_by {
            None => Cell::marked(Tone::Bad, "no proof within this span"),
            Some(next) => Cell::marked(
                next.verdict.into(),
                format!(
                    "report {} of {} {} after {}",
                    next.number,
                    if next.same_backup { "the same backup" } else { "another backup" },
                    verdict::word(next.verdict),
                    figures::span(next.after_seconds)
                ),
            ),
        };
        grid.row([
            failure.number.to_string().into(),
            figures::stamp(failure.finished_at).into(),
            verdict_cell(failure.verdict, is_at_odds(failure.number)),
            failure.reasons.join("; ").into(),
            followed,
        ]);
    }
    grid
}

fn exceptions(period: &Period) -> Grid {
    let columns = [
        Column::text("Check"),
        Column::text("Reason"),
        Column::text("Holds until"),
        Column::text("Reports that rest on it"),
    ];
    let mut grid = Grid::new("Exceptions used", columns);
    for exception in &period.exceptions {
        let reports = exception.reports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        grid.row([
            exception.check.as_str().into(),
            exception.reason.as_str().into(),
            exception.until.to_string().into(),
            reports.into(),
        ]);
    }
    grid
}

fn keys(period: &Period) -> Grid {
    let columns = [Column::text("Public key"), Column::text("Last shown to open a backup")];
    let mut grid = Grid::new("Keys that backups of the span were encrypted to", columns);
    for key in &period.recipients {
        let shown = match key.shown_at {
            Some(at) => Cell::marked(Tone::Good, figures::stamp(at)),
            None => Cell::marked(Tone::Unknown, "never shown to this verifier"),
        };
        grid.row([Cell::code(&key.key), shown]);
    }
    grid
}

fn control(period: &Period) -> Grid {
    let columns = [
        Column::text("Report"),
        Column::text("Finished"),
        Column::text("Outcome"),
        Column::number("Damaged copies"),
        Column::number("Noticed"),
    ];
    let mut grid = Grid::new("Negative controls that were made", columns);
    for control in &period.negative_controls {
        let outcome = match control.outcome {
            pgproof_repository::report::v1::OutcomeKind::Passed => "passed",
            pgproof_repository::report::v1::OutcomeKind::Failed => "failed",
            pgproof_repository::report::v1::OutcomeKind::Degraded => "weaker",
            pgproof_repository::report::v1::OutcomeKind::NotRun => "not made",
        };
        grid.row([
            control.number.to_string().into(),
            figures::stamp(control.finished_at).into(),
            Cell::marked(control.outcome.into(), outcome),
            figures::count(control.damages).into(),
            figures::count(control.noticed).into(),
        ]);
    }
    grid
}

fn drills(period: &Period) -> Grid {
    let columns = [
        Column::text("Report"),
        Column::text("Finished"),
        Column::text("Verdict"),
        Column::number("Rows compared"),
        Column::number("Time to restore"),
        Column::text("Recovery point"),
        Column::text("Recovery time"),
    ];
    let mut grid = Grid::new("Drills of the span", columns);
    for drill in &period.drills {
        grid.row([
            drill.number.to_string().into(),
            figures::stamp(drill.finished_at).into(),
            verdict_cell(drill.verdict, drill.at_odds.is_some()),
            figures::count(drill.rows).into(),
            drill.recovery_seconds.map_or("not restored".into(), |seconds| figures::span(seconds).into()),
            met(drill.recovery_point_met),
            met(drill.recovery_time_met),
        ]);
    }
    grid
}

fn verdict_cell(verdict: Verdict, is_at_odds: bool) -> Cell {
    let tone = if is_at_odds { Tone::Bad } else { verdict.into() };
    Cell::marked(tone, told_verdict(verdict, is_at_odds))
}

fn told_verdict(verdict: Verdict, is_at_odds: bool) -> String {
    format!("{}{}", verdict::word(verdict), if is_at_odds { ", at odds with the chain" } else { "" })
}

fn evidence(period: &Period) -> Grid {
    let columns = [Column::text("Report"), Column::text("Backup"), Column::text("SHA-256 of the report")];
    let mut grid = Grid::new("Evidence", columns);
    for drill in &period.drills {
        grid.row([
            drill.number.to_string().into(),
            Cell::code(drill.backup.as_str()),
            Cell::code(drill.sha256.to_string()),
        ]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::Chain;
    use crate::report::span::Days;

    fn period(chain: &Chain, month: &str) -> Period {
        let newest = chain.reports.last().unwrap().2.get();
        Period::of(&newest.repository, &newest.source, Days::month(month).unwrap(), &chain.signed())
    }

    #[test]
    fn the_page_names_every_report_by_its_hash() {
        let chain = Chain::of(30);
        let page = html(&period(&chain, "2026-11"), "00ff", true);
        for (_, _, signed) in &chain.reports {
            assert!(page.contains(&signed.sha256().to_string()));
        }
        assert!(page.contains("-n pgproof-report-period ") && page.contains("is evidence for"));
        assert!(!page.contains("<script") && !page.to_lowercase().contains("compliant"));
    }

    #[test]
    fn silence_is_no_good_news() {
        let empty = period(&Chain::of(1), "2025-01");
        assert_eq!(
            (tone(&empty), heading(&empty).as_str()),
            (Tone::Unknown, "No drill in this span: nothing was proved")
        );
        let page = html(&empty, "00ff", false);
        assert!(page.contains("There was no drill.") && page.contains("It is not signed"), "{page}");
    }

    #[test]
    fn what_proves_nothing_is_not_called_a_proof() {
        let mut chain = Chain::of(2);
        chain.add(|report| report.number = 2);
        let twice = period(&chain, "2026-11");
        assert_eq!(heading(&twice), "1 of 3 drills proved a backup");
        let page = html(&twice, "00ff", true);
        assert!(page.contains("2 left reports that are at odds with their chain"), "{page}");
        assert!(!page.contains("Every drill of the span proved a backup"), "{page}");
        assert_eq!(csv(&twice).matches(", at odds with the chain").count(), 2);
        let none_good = Period { gaps: Vec::new(), none_good: true, ..twice };
        let page = html(&none_good, "00ff", true);
        assert!(page.contains("None of the backups") && !page.contains("name no backups"), "{page}");
    }

    #[test]
    fn the_csv_has_a_line_for_each_drill() {
        let chain = Chain::of(3);
        let text = csv(&period(&chain, "2026-11"));
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("2026-11-02T04:00:00Z"), "{text}");
    }
}
