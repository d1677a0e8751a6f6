//! One report as a page that a person reads or prints: a pure function of the signed bytes, so that anybody who has
//! them can make it again and compare.

use std::collections::BTreeMap;

use askama::Template;
use pgproof_repository::ids::ReportSha256;
use pgproof_repository::report::v1::{Check, OutcomeKind, Previous, Report, Table};
use pgproof_repository::signature::namespace;

use super::controls::{self, Control};
use super::files;
use super::parts::{Cell, Column, Fact, Grid, Notice, Tone, written};
use super::proof::{self, Group, LIMITS};
use super::timeline::Timeline;
use super::verdict::{self, Summary};
use super::worth::{self, Worth};
use super::{GENERATOR, figures};

/// Units across, on a desk and on paper.
const TIMELINE_WIDE: f64 = 960.0;
/// Units across on a telephone, where text of the wide drawing could not be read.
const TIMELINE_NARROW: f64 = 340.0;

#[derive(Debug, Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    title: String,
    sha256: String,
    generator: &'static str,
    /// What whoever hands the page out has to say of the report.
    notice: Option<Notice>,
    summary: Summary,
    figures: Vec<Fact>,
    groups: [Group<'a>; 4],
    limits: [&'static str; 4],
    objectives: Grid,
    wide: Timeline,
    narrow: Timeline,
    retention: Vec<Fact>,
    control: Cell,
    damages: Grid,
    exceptions: Grid,
    signers: Grid,
    recipients: Grid,
    drill: Vec<Fact>,
    phases: Grid,
    evidence: Grid,
    programs: Grid,
    chain: Vec<Fact>,
    verify: String,
    controls: Vec<Control>,
    schemas: Vec<Schema>,
    backups: Grid,
    drills: Grid,
}

/// The tables of one PostgreSQL schema.
#[derive(Debug)]
struct Schema {
    name: String,
    told: String,
    tone: Tone,
    tables: Grid,
}

/// The page of the report whose bytes have this hash.
pub(crate) fn html(report: &Report, sha256: ReportSha256) -> String {
    html_below(None, report, sha256)
}

/// The same below a notice.
pub(crate) fn html_below(notice: Option<Notice>, report: &Report, sha256: ReportSha256) -> String {
    let objective = report.objectives.recovery_point.objective_seconds;
    let timeline = |width| Timeline::of(&report.history, report.finished_at, objective, width);
    let page = Page {
        report,
        title: format!("Drill report {} of {}", report.number, report.source),
        sha256: sha256.to_string(),
        generator: GENERATOR,
        notice,
        summary: Summary::of(report),
        figures: key_figures(report),
        groups: proof::groups(report),
        limits: LIMITS,
        objectives: objectives(report),
        wide: timeline(TIMELINE_WIDE),
        narrow: timeline(TIMELINE_NARROW),
        retention: retention(report),
        control: negative_control(report),
        damages: damages(report),
        exceptions: exceptions(report),
        signers: signers(report),
        recipients: recipients(report),
        drill: drill(report),
        phases: phases(report),
        evidence: evidence(report),
        programs: programs(report),
        chain: chain(report, sha256),
        verify: files::verify_command(&files::name(report), namespace::REPORT, report.finished_at),
        controls: controls::of(report),
        schemas: schemas(report),
        backups: backups(report),
        drills: drills(report),
    };
    written(&page)
}

/// The figures that the verdict stands on.
fn key_figures(report: &Report) -> Vec<Fact> {
    let rows: u64 =
        report.tables.iter().filter_map(|table| table.found.as_ref()).map(|found| found.rows).sum();
    let equal = report.tables.iter().filter(|table| table.equal).count() as u64;
    let age = figures::seconds_between(report.snapshot_at, report.started_at);
    vec![
        Fact::new("Rows compared", figures::count(rows)),
        Fact::new("Tables equal", of(equal, report.tables.len() as u64)),
        Fact::new("Age of the data", figures::span(age)),
        Fact::new("Time to restore", known(report.recovery_seconds.map(figures::span), "not restored")),
        Fact::new("Kept backups proved", of(report.coverage.proved, report.coverage.kept)),
    ]
}

fn objectives(report: &Report) -> Grid {
    let (point, time) = (&report.objectives.recovery_point, &report.objectives.recovery_time);
    let mut grid = Grid::new(
        "Objectives of the policy against what was measured",
        [
            Column::text("Objective"),
            Column::number("At most"),
            Column::number("Measured"),
            Column::text("Met"),
            Column::text("Outlook"),
        ],
    );
    let worst = point.worst_gap_from.map(|from| format!("the longest gap begins {}", figures::stamp(from)));
    let newest =
        point.newest_age_seconds.map(|age| format!("the newest backup was {} old", figures::span(age)));
    let outlook = [worst, newest].into_iter().flatten().collect::<Vec<_>>().join("; ");
    grid.row([
        "Recovery point: time without a good backup".into(),
        objective(point.objective_seconds),
        Cell::known(point.achieved_seconds.map(figures::span)),
        met(point.met),
        outlook.into(),
    ]);
    let missed = time.missed_from.map(|from| format!("will be missed from {}; ", figures::stamp(from)));
    grid.row([
        "Recovery time: from decision to a usable database".into(),
        objective(time.objective_seconds),
        Cell::known(time.measured_seconds.map(figures::span)),
        met(time.met),
        format!("{}{}", missed.unwrap_or_default(), time.forecast).into(),
    ]);
    grid
}

fn objective(seconds: Option<f64>) -> Cell {
    known(seconds.map(figures::span), "none set")
}

pub(super) fn met(met: Option<bool>) -> Cell {
    match met {
        Some(true) => Cell::marked(Tone::Good, "met"),
        Some(false) => Cell::marked(Tone::Bad, "missed"),
        None => Cell::marked(Tone::Unknown, "not judged"),
    }
}

fn retention(report: &Report) -> Vec<Fact> {
    let (history, coverage) = (&report.history, &report.coverage);
    let worth_of = |wanted: fn(Worth) -> bool| {
        history.backups.iter().filter(move |backup| wanted(Worth::of(backup))).collect::<Vec<_>>()
    };
    let good = worth_of(Worth::is_good);
    let found_bad = worth_of(|worth| matches!(worth, Worth::FoundBad(_))).len() as u64;
    let unusable = worth_of(|worth| worth == Worth::Unusable).len() as u64;
    let held = worth_of(|worth| worth != Worth::Unusable).iter().filter(|backup| backup.held).count() as u64;
    let oldest = good.iter().map(|backup| backup.snapshot_at).min().map(figures::stamp);
    let newest = good.iter().map(|backup| backup.snapshot_at).max().map(figures::stamp);
    let policy = Some(history.retention.clone()).filter(|retention| !retention.is_empty());
    let proved = format!(
        "{} within {}",
        of(coverage.proved, coverage.kept),
        figures::counted(coverage.window_days, "day", "days")
    );
    vec![
        Fact::new("The policy keeps", Cell::known(policy)),
        Fact::new("Backups are due", known(history.schedule.clone(), "no schedule in the policy")),
        Fact::new("Good backups there", figures::count(good.len() as u64)),
        Fact::new("Oldest", Cell::known(oldest)),
        Fact::new("Newest", Cell::known(newest)),
        Fact::new("Held against removal", figures::count(held)),
        Fact::new("Found bad by a drill", figures::count(found_bad)),
        Fact::new("Unusable ones", figures::count(unusable)),
        Fact::new("Proved by a drill", proved),
    ]
}

fn negative_control(report: &Report) -> Cell {
    let control = &report.negative_control;
    let reason = control.reason.as_deref().unwrap_or("no reason was given");
    let text = match control.outcome {
        OutcomeKind::Passed => "The verifier called every copy bad that it had damaged itself.".to_owned(),
        OutcomeKind::Failed => {
            format!("The verifier called a damaged copy good, so none of its verdicts counts: {reason}.")
        }
        OutcomeKind::Degraded => format!("The control is weaker than it should be: {reason}."),
        OutcomeKind::NotRun => format!("Not made with this drill: {reason}."),
    };
    let last = control.last_made.map(|number| format!(" It was last made with report {number}."));
    Cell::marked(control.outcome.into(), text + &last.unwrap_or_default())
}

fn damages(report: &Report) -> Grid {
    let mut grid = Grid::new(
        "Copies that the verifier damaged itself",
        [Column::text("Damage"), Column::text("Noticed"), Column::text("What the verifier said")],
    );
    for damage in &report.negative_control.damages {
        let noticed = match damage.noticed {
            true => Cell::marked(Tone::Good, "noticed"),
            false => Cell::marked(Tone::Bad, "not noticed"),
        };
        grid.row([damage.name.as_str().into(), noticed, damage.told.as_str().into()]);
    }
    grid
}

fn exceptions(report: &Report) -> Grid {
    let columns = [
        Column::text("Check"),
        Column::text("Reason"),
        Column::text("Holds until"),
        Column::text("This report rests on it"),
    ];
    let mut grid = Grid::new("Exceptions of the policy", columns);
    for exception in &report.exceptions {
        let until = match exception.expired {
            true => Cell::marked(Tone::Bad, format!("{}, expired", exception.until)),
            false => exception.until.to_string().into(),
        };
        let used = match exception.used {
            true => Cell::marked(Tone::Weak, "yes"),
            false => "no".into(),
        };
        grid.row([exception.check.as_str().into(), exception.reason.as_str().into(), until, used]);
    }
    grid
}

fn signers(report: &Report) -> Grid {
    let columns = [Column::text("Signed"), Column::text("By"), Column::text("Fingerprint of the key")];
    let mut grid = Grid::new("Who signed", columns);
    let backup = &report.backup_signer;
    grid.row([
        "The backup's manifest".into(),
        backup.principal.as_str().into(),
        Cell::code(&backup.fingerprint),
    ]);
    grid.row([
        "This report".into(),
        "the verifier; its name stands in your trusted signers".into(),
        Cell::code(&report.report_signer),
    ]);
    grid
}

fn recipients(report: &Report) -> Grid {
    let columns = [Column::text("Public key"), Column::text("Last shown to open a backup")];
    let mut grid = Grid::new("Who can decrypt this backup", columns);
    for recipient in &report.recipients {
        let shown = match recipient.shown_at {
            Some(at) => Cell::marked(Tone::Good, figures::stamp(at)),
            None => Cell::marked(Tone::Unknown, "never shown to this verifier"),
        };
        grid.row([Cell::code(&recipient.key), shown]);
    }
    grid
}

fn drill(report: &Report) -> Vec<Fact> {
    let (database, scratch) = (&report.database, &report.scratch);
    let asked = report.choice.asked.as_ref().map(|asked| format!(", asked for {asked}"));
    let choice = format!(
        "{}{}, of {}",
        report.choice.rule,
        asked.unwrap_or_default(),
        figures::counted(report.choice.candidates, "good backup", "good backups")
    );
    let size = format!(
        "{} at the source, {} as an archive, {} stored",
        figures::bytes(database.bytes),
        figures::bytes(database.plaintext_bytes),
        figures::bytes(database.stored_bytes)
    );
    vec![
        Fact::new("Backup", Cell::code(report.backup.as_str())),
        Fact::new("Shows the data of", figures::stamp(report.snapshot_at)),
        Fact::new("Drilled from", figures::stamp(report.started_at)),
        Fact::new("Drilled until", figures::stamp(report.finished_at)),
        Fact::new("Chosen as", choice),
        Fact::new(
            "Started",
            if report.trigger == pgproof_repository::report::v1::Trigger::Manual {
                "by hand"
            } else {
                "by schedule"
            },
        ),
        Fact::new("Attempts", figures::count(report.attempts.into())),
        Fact::new("Verifier's machine", report.host.as_str()),
        Fact::new(
            "Database",
            format!("{}, PostgreSQL {}, {}", database.name, database.server_version, database.encoding),
        ),
        Fact::new("Size", size),
        Fact::new("Restored into", known(scratch.kind.clone(), "nothing")),
        Fact::new("Scratch version", Cell::known(scratch.server_version.clone())),
        Fact::new("Isolation", Cell::known(scratch.isolation.clone())),
        Fact::new("Policy, SHA-256", Cell::code(&report.policy_sha256)),
    ]
}

fn phases(report: &Report) -> Grid {
    let mut grid =
        Grid::new("Time taken by the drill's parts", [Column::text("Part"), Column::number("Time")]);
    for phase in &report.phases {
        grid.row([phase.name.as_str().into(), figures::span(phase.seconds).into()]);
    }
    grid
}

fn evidence(report: &Report) -> Grid {
    let columns = [
        Column::text("Object"),
        Column::number("Bytes stored"),
        Column::text("SHA-256 as stored"),
        Column::number("Bytes inside"),
        Column::text("SHA-256 inside"),
    ];
    let mut grid = Grid::new("Objects of the backup by their hashes", columns);
    for evidence in &report.evidence {
        grid.row([
            Cell::code(&evidence.object),
            figures::count(evidence.bytes).into(),
            Cell::code(evidence.sha256.to_string()),
            figures::count(evidence.plaintext_bytes).into(),
            Cell::code(evidence.plaintext_sha256.to_string()),
        ]);
    }
    grid
}

fn programs(report: &Report) -> Grid {
    let mut grid = Grid::new("Programs that took part", [Column::text("Program"), Column::text("Version")]);
    for (program, version) in &report.programs {
        grid.row([program.as_str().into(), version.as_str().into()]);
    }
    grid
}

fn chain(report: &Report, sha256: ReportSha256) -> Vec<Fact> {
    let previous = match &report.previous {
        Previous::None => Cell::from("none: it is the first of its source"),
        Previous::Known { number, sha256 } => Cell::code(format!("report {number}, SHA-256 {sha256}")),
        Previous::Unknown { reason } => Cell::marked(Tone::Weak, format!("not linked: {reason}")),
    };
    vec![
        Fact::new("Number", figures::count(report.number)),
        Fact::new("SHA-256 of this report", Cell::code(sha256.to_string())),
        Fact::new("Report before it", previous),
        Fact::new("Repository", Cell::code(report.repository.as_str())),
        Fact::new("Manifest, SHA-256", Cell::code(report.manifest_sha256.to_string())),
    ]
}

/// Tables that differ first, then the largest.
fn schemas(report: &Report) -> Vec<Schema> {
    let mut by_schema: BTreeMap<&str, Vec<&Table>> = BTreeMap::new();
    for table in &report.tables {
        by_schema.entry(&table.schema).or_default().push(table);
    }
    by_schema.into_iter().map(|(name, tables)| schema(name, tables)).collect()
}

fn schema(name: &str, mut tables: Vec<&Table>) -> Schema {
    tables.sort_by_key(|table| (table.equal, std::cmp::Reverse(table.expected.rows), &table.name));
    let columns = [
        Column::text("Table"),
        Column::number("Rows backed up"),
        Column::number("Rows restored"),
        Column::text("Digest of the rows"),
        Column::text("Result"),
    ];
    let mut grid = Grid::new(format!("Tables of the schema {name}"), columns);
    for table in &tables {
        grid.row([
            table.name.as_str().into(),
            figures::count(table.expected.rows).into(),
            known(table.found.as_ref().map(|found| figures::count(found.rows)), "not read"),
            digests(table),
            result(table),
        ]);
    }
    let rows: u64 = tables.iter().map(|table| table.expected.rows).sum();
    let different = tables.iter().filter(|table| !table.equal).count() as u64;
    let (tone, told) = match different {
        0 => (Tone::Good, "all equal".to_owned()),
        different => (Tone::Bad, format!("{} not equal", figures::count(different))),
    };
    let told = format!(
        "{}, {}, {told}",
        figures::counted(tables.len() as u64, "table", "tables"),
        figures::counted(rows, "row", "rows")
    );
    Schema { name: name.to_owned(), told, tone, tables: grid }
}

fn digests(table: &Table) -> Cell {
    match &table.found {
        Some(found) if found.digest != table.expected.digest => {
            Cell::code(format!("{} backed up, {} restored", table.expected.digest, found.digest))
        }
        _ => Cell::code(&table.expected.digest),
    }
}

fn result(table: &Table) -> Cell {
    match (table.equal, &table.problem) {
        (true, None) => Cell::marked(Tone::Good, "equal"),
        (true, Some(problem)) => Cell::marked(Tone::Good, format!("equal; {problem}")),
        (false, Some(problem)) => Cell::marked(Tone::Bad, format!("not equal: {problem}")),
        (false, None) => Cell::marked(Tone::Bad, "not equal"),
    }
}

fn backups(report: &Report) -> Grid {
    let columns = [
        Column::text("Backup"),
        Column::text("Shows the data of"),
        Column::number("Stored"),
        Column::text("Standing"),
        Column::text("Last proved"),
    ];
    let mut grid = Grid::new("Backups of the window, newest first", columns);
    for backup in report.history.backups.iter().rev() {
        grid.row([
            Cell::code(backup.id.as_str()),
            figures::stamp(backup.snapshot_at).into(),
            Cell::known(backup.stored_bytes.map(figures::bytes)),
            worth::standing_cell(backup),
            worth::proof_cell(backup),
        ]);
    }
    grid
}

fn drills(report: &Report) -> Grid {
    let columns = [
        Column::text("Report"),
        Column::text("Finished"),
        Column::text("Backup"),
        Column::text("Verdict"),
        Column::number("Time to restore"),
        Column::number("Database"),
    ];
    let mut grid = Grid::new("Drills of the window before this one, newest first", columns);
    for drill in report.history.drills.iter().rev() {
        grid.row([
            drill.number.to_string().into(),
            figures::stamp(drill.finished_at).into(),
            Cell::code(drill.backup.as_str()),
            Cell::marked(drill.verdict.into(), verdict::word(drill.verdict)),
            known(drill.recovery_seconds.map(figures::span), "not restored"),
            figures::bytes(drill.database_bytes).into(),
        ]);
    }
    grid
}

/// The check of this name, told as evidence tells it: `tables: passed`.
pub(super) fn told_outcome(check: &Check) -> Cell {
    let word = match check.outcome {
        OutcomeKind::Passed => "passed",
        OutcomeKind::Failed => "failed",
        OutcomeKind::Degraded => "weaker",
        OutcomeKind::NotRun => "not checked",
    };
    Cell::marked(check.outcome.into(), format!("{}: {word}", check.name))
}

fn known(value: Option<String>, otherwise: &str) -> Cell {
    value.map_or_else(|| otherwise.into(), Cell::from)
}

fn of(part: u64, whole: u64) -> String {
    format!("{} of {}", figures::count(part), figures::count(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn page(report: &Report) -> String {
        html(report, ReportSha256::of(b"a report"))
    }

    #[test]
    fn names_from_the_database_are_text_wherever_they_stand() {
        const HOSTILE: &str = "<script>alert(1)</script>";
        let mut report = sample::rich();
        let text = || HOSTILE.to_owned();
        report.tables[0].name = text();
        report.tables[1].schema = text();
        report.tables[2].problem = Some(text());
        (report.database.name, report.host) = (text(), text());
        report.checks[0].name = text();
        report.checks[0].detail = Some(text());
        report.warnings.push(text());
        report.exceptions[0].reason = text();
        report.history.retention = text();
        report.history.backups[0].standing = text();
        report.negative_control.reason = Some(text());
        report.objectives.recovery_time.forecast = text();
        report.recipients[0].key = text();
        report.programs.insert(text(), "\"><img src=x onerror=alert(1)>".to_owned());
        report.warnings.push("of the table \u{202e}lla ,lauqe".to_owned());
        let page = page(&report);
        assert!(page.contains("of the table [U+202E]lla ,lauqe"), "a name turns the words after it");
        assert!(!page.contains("<script") && !page.contains("<img"), "markup of a name reached the page");
        assert!(page.matches("&#60;script&#62;").count() >= 14, "{}", page.matches("script").count());
    }

    /// With `PGPROOF_SAMPLE_PAGE=FILE` it leaves the page there to be looked at.
    #[test]
    fn the_sample_is_a_whole_page() {
        let page = page(&sample::rich());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>"));
        if let Some(path) = std::env::var_os("PGPROOF_SAMPLE_PAGE") {
            std::fs::write(path, &page).unwrap();
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page(&sample::rich());
        for word in
            ["http://", "https://", "src=", "@import", "url(", "<script", "<link", "<iframe", "javascript:"]
        {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn the_page_says_evidence_and_never_compliance() {
        let page = page(&sample::rich()).to_lowercase();
        assert!(!page.contains("compliant") && !page.contains("continuous testing"));
        assert!(page.contains("is evidence for"));
    }

    #[test]
    fn the_verdict_comes_first_and_every_reason_is_there() {
        let report = sample::rich();
        let page = page(&report);
        let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is not on the page"));
        assert!(place(verdict::heading(report.verdict)) < place("What was proved"));
        for check in report.checks.iter().filter_map(|check| check.reason.as_deref()) {
            place(check);
        }
        for table in &report.tables {
            place(&table.expected.digest);
        }
        place(&report.policy_sha256);
        place(&report.evidence[0].sha256.to_string());
        place("ssh-keygen -Y verify");
        place("-n pgproof-report ");
        place("<meta name=\"pgproof-report-sha256\"");
    }

    #[test]
    fn tables_that_differ_come_first_and_none_is_left_out() {
        let mut report = sample::rich();
        report.tables[11].equal = false;
        let schemas = schemas(&report);
        let told: usize = schemas.iter().map(|schema| schema.tables.rows.len()).sum();
        assert_eq!(told, report.tables.len());
        let different = schemas.iter().find(|schema| schema.name == report.tables[11].schema).unwrap();
        assert_eq!((different.tone, &different.tables.rows[0][0].text), (Tone::Bad, &report.tables[11].name));
    }

    #[test]
    fn five_thousand_tables_are_all_there() {
        let mut report = sample::rich();
        let table = report.tables[0].clone();
        report.tables = (0..5_000).map(|n| Table { name: format!("zz{n:04}"), ..table.clone() }).collect();
        let page = page(&report);
        assert_eq!(page.matches("<th scope=\"row\" role=\"rowheader\">zz").count(), 5_000);
        assert!(page.len() < 6 << 20, "{} bytes", page.len());
    }
}
