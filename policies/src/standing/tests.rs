//! Each aspect by tables, with `now` wherever a clock may be.

use jiff::tz::TimeZone;

use super::*;
use crate::policy::Policy;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
const NIGHTLY: &str = "schedule = \"0 2 * * *\"";
const FILES: &str = "[repository]\nlocation = \"file:///backups\"\n[keys]\nrecipients = \
     [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\nsingle_recipient_waiver = \"a test\"\n\
     [sources.up]\nkind = \"files\"\npaths = [\"/srv\"]\nretention = { daily = 1 }\n";
const WEEKLY_DRILLS: &str = "schedule = \"0 2 * * *\"\n[sources.app.verification]\nschedule = \"0 4 * * 0\"";

fn source(lines: &str) -> Source {
    let text = format!(
        "[repository]\nlocation = \"file:///backups\"\n[keys]\n\
         recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
         single_recipient_waiver = \"a test\"\n[sources.app]\nkind = \"postgres\"\n\
         connection = \"postgresql:///app\"\nretention = {{ daily = 1 }}\n{lines}"
    );
    Policy::parse(&text, "pgproof.toml").unwrap_or_else(|problems| panic!("{problems}")).sources
        [&"app".parse().unwrap()]
        .clone()
}

fn noon() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn backup(id: &str, snapshot_at: Timestamp) -> Backup {
    Backup {
        id: id.to_owned(),
        snapshot_at,
        started_at: snapshot_at,
        finished_at: snapshot_at,
        stored_bytes: 1_000,
        whole_bytes: 1_000,
        losses: 0,
        host: "db1".to_owned(),
    }
}

fn run(started_at: Timestamp, host: &str, error: Option<&str>) -> Run {
    let (id, error) = ("b".to_owned(), error.map(str::to_owned));
    Run { id, started_at, ended_at: started_at, host: host.to_owned(), error, unchanged_since: None }
}

fn drill(finished_at: Timestamp, verdict: Verdict) -> Drill {
    Drill {
        backup: "b".to_owned(),
        finished_at,
        verdict,
        recovery: None,
        longest_gap: None,
        recovery_missed_from: None,
    }
}

/// A source that was backed up and proved just before noon.
fn fresh() -> Facts {
    Facts {
        backups: vec![backup("b", noon() - HOUR)],
        first_seen: Some(noon() - HOUR),
        runs: vec![run(noon() - HOUR, "db1", None)],
        drills: vec![drill(noon() - HOUR, Verdict::Proved)],
        ..Facts::default()
    }
}

fn judged(source: &Source, facts: &Facts, now: Timestamp) -> Vec<Finding> {
    judge(source, &Limits::of(source, &TimeZone::UTC, now), facts, now)
}

fn found(source: &Source, facts: &Facts, now: Timestamp, aspect: Aspect) -> Finding {
    let findings = judged(source, facts, now);
    findings.into_iter().find(|finding| finding.aspect == aspect).unwrap_or_else(|| panic!("no {aspect}"))
}

fn state(source: &Source, facts: &Facts, now: Timestamp, aspect: Aspect) -> State {
    found(source, facts, now, aspect).state
}

#[test]
fn a_fresh_source_is_well_in_every_aspect() {
    let findings = judged(&source(WEEKLY_DRILLS), &fresh(), noon());
    assert_eq!(worst(&findings), State::Ok, "{findings:#?}");
    assert_eq!(worst(&[]), State::Unknown);
}

#[test]
fn never_backed_up_is_critical_from_the_first_moment() {
    let finding = found(&source(NIGHTLY), &Facts::default(), noon(), Aspect::BackupAge);
    assert_eq!((finding.state, &*finding.told), (State::Critical, "there is no backup"));
    // Nor does something that is no good backup make it better.
    let unsigned = PassedOver { id: "x".to_owned(), why: "it is not signed".to_owned() };
    let facts = Facts { passed_over: vec![unsigned], ..Facts::default() };
    let finding = found(&source(NIGHTLY), &facts, noon(), Aspect::BackupAge);
    assert_eq!((finding.state, &*finding.told), (State::Critical, "there is no good backup"));
    assert_eq!(state(&source(NIGHTLY), &facts, noon(), Aspect::Unreadable), State::Warning);
}

#[test]
fn the_age_of_a_backup_goes_by_alarms_then_the_objective_then_the_schedule() {
    let objective = format!("{NIGHTLY}\nobjectives = {{ recovery_point = \"2h\" }}");
    let alarms =
        format!("{objective}\nalarms = {{ backup_age = {{ warning = \"10m\", critical = \"20m\" }} }}");
    let cases = [
        (&*alarms, SignedDuration::from_mins(10), SignedDuration::from_mins(20)),
        (&*objective, HOUR * 2, HOUR * 4),
        (NIGHTLY, HOUR * 36, HOUR * 60),
    ];
    for (lines, warning, critical) in cases {
        let (source, snapshot_at) = (source(lines), noon() - HOUR);
        let at = |age: SignedDuration| {
            let finding = found(&source, &fresh(), snapshot_at + age, Aspect::BackupAge);
            (finding.state, finding.since)
        };
        let second = SignedDuration::from_secs(1);
        assert_eq!(at(warning), (State::Ok, None), "{lines}");
        assert_eq!(at(warning + second), (State::Warning, Some(snapshot_at + warning)), "{lines}");
        assert_eq!(at(critical), (State::Warning, Some(snapshot_at + warning)), "{lines}");
        assert_eq!(at(critical + second), (State::Critical, Some(snapshot_at + critical)), "{lines}");
    }
    // Nothing follows from nothing: it is said, and never alarms.
    let finding = found(&source(""), &fresh(), noon() + DAY * 400, Aspect::BackupAge);
    assert_eq!((finding.state, finding.thresholds), (State::Ok, None));
    assert!(finding.told.contains("sets no limit"), "{}", finding.told);
}

#[test]
fn files_that_the_newest_backup_lacks_are_a_warning_until_one_has_them() {
    let lacking = Backup { losses: 2, ..backup("older", noon() - HOUR * 2) };
    let facts = Facts { backups: vec![lacking.clone()], ..fresh() };
    let finding = found(&source(NIGHTLY), &facts, noon(), Aspect::Incomplete);
    assert_eq!((finding.state, finding.since), (State::Warning, Some(lacking.snapshot_at)));
    assert!(finding.told.contains("older lacks 2 file(s)"), "{}", finding.told);

    let facts = Facts { backups: vec![backup("b", noon() - HOUR), lacking], ..fresh() };
    let findings = judged(&source(NIGHTLY), &facts, noon());
    assert!(findings.iter().all(|finding| finding.aspect != Aspect::Incomplete), "{findings:#?}");
    // Of files it is told that all is well, too.
    let mut files = source(NIGHTLY);
    files.kind = Policy::parse(FILES, "pgproof.toml").unwrap().sources[&"up".parse().unwrap()].kind.clone();
    assert_eq!(state(&files, &facts, noon(), Aspect::Incomplete), State::Ok);
}

#[test]
fn a_scheduler_that_is_dead_for_three_days_is_critical_without_any_failure() {
    let (source, now) = (source(NIGHTLY), noon() + DAY * 3);
    assert_eq!(state(&source, &fresh(), now, Aspect::BackupAge), State::Critical);
    assert_eq!(state(&source, &fresh(), now, Aspect::HostSilent), State::Critical);
    assert_eq!(state(&source, &fresh(), now, Aspect::Failing), State::Ok);
}

#[test]
fn a_verifier_that_is_silent_for_a_month_is_critical() {
    let month = noon() + DAY * 31;
    for schedule in ["0 4 * * 0", "0 4 * * *", "30 * * * *"] {
        let source = source(&format!("{NIGHTLY}\n[sources.app.verification]\nschedule = \"{schedule}\""));
        let mut facts = fresh();
        facts.backups = vec![backup("new", month - HOUR)];
        assert_eq!(state(&source, &facts, month, Aspect::ProofAge), State::Critical, "{schedule}");
        assert_eq!(state(&source, &facts, month, Aspect::BackupAge), State::Ok, "{schedule}");
    }
    // Monthly drills have the month, and the window is the end of patience at the latest.
    let monthly =
        format!("{NIGHTLY}\n[sources.app.verification]\nschedule = \"0 4 1 * *\"\nwindow = \"60d\"");
    assert_eq!(state(&source(&monthly), &fresh(), month, Aspect::ProofAge), State::Ok);
    assert_eq!(state(&source(&monthly), &fresh(), noon() + DAY * 61, Aspect::ProofAge), State::Critical);
}

#[test]
fn never_proved_is_critical_once_the_first_drill_is_overdue() {
    let source = source(WEEKLY_DRILLS);
    let facts = Facts { drills: vec![drill(noon(), Verdict::Open)], ..fresh() };
    assert_eq!(state(&source, &facts, noon(), Aspect::ProofAge), State::Ok);
    assert_eq!(state(&source, &facts, noon() + DAY * 10, Aspect::ProofAge), State::Ok);
    let overdue = found(&source, &facts, noon() + DAY * 11, Aspect::ProofAge);
    let limits = Limits::of(&source, &TimeZone::UTC, noon()).proof_age;
    assert_eq!((overdue.state, overdue.thresholds), (State::Critical, limits));
    assert_eq!(overdue.since, Some(noon() - HOUR + limits.unwrap().warning));
    assert_eq!(state(&source, &Facts::default(), noon(), Aspect::ProofAge), State::Unknown);
}

#[test]
fn what_was_not_asked_for_is_not_judged() {
    let aspects: Vec<_> =
        judged(&source(NIGHTLY), &fresh(), noon()).iter().map(|finding| finding.aspect).collect();
    for absent in [Aspect::ProofAge, Aspect::Drill, Aspect::RecoveryPoint, Aspect::RecoveryTime] {
        assert!(!aspects.contains(&absent), "{absent}");
    }
}

#[test]
fn failing_runs_are_named_and_the_age_decides() {
    let source = source(NIGHTLY);
    let mut facts = fresh();
    for minutes in [10, 20, 30] {
        facts
            .runs
            .insert(0, run(noon() - HOUR + SignedDuration::from_mins(minutes), "db1", Some("no server")));
    }
    let finding = found(&source, &facts, noon(), Aspect::Failing);
    assert_eq!(finding.state, State::Warning);
    assert!(finding.told.starts_with("3 run(s) in a row") && finding.told.ends_with("no server"));
    assert_eq!(finding.since, Some(noon() - SignedDuration::from_mins(50)));
    assert_eq!(state(&source, &facts, noon(), Aspect::BackupAge), State::Ok);
    // Another host's backup ends the row, whatever was recorded last.
    facts.backups.insert(0, backup("c", noon()));
    assert_eq!(state(&source, &facts, noon(), Aspect::Failing), State::Ok);
}

#[test]
fn drills_speak_by_their_newest() {
    let source = source(WEEKLY_DRILLS);
    let cases = [
        (Verdict::Proved, State::Ok),
        (Verdict::Degraded, State::Ok),
        (Verdict::Open, State::Warning),
        (Verdict::Bad, State::Critical),
        (Verdict::VerifierFailed, State::Critical),
    ];
    for (verdict, expected) in cases {
        let mut facts = fresh();
        facts.drills.insert(0, drill(noon(), verdict));
        let finding = found(&source, &facts, noon(), Aspect::Drill);
        let since = (expected != State::Ok).then_some(noon());
        assert_eq!((finding.state, finding.since), (expected, since), "{verdict:?}");
        // A proof is younger than the one before; whatever else a drill came to leaves that.
        let age = if verdict.is_proof() { SignedDuration::ZERO } else { HOUR };
        assert_eq!(found(&source, &facts, noon(), Aspect::ProofAge).value, Some(age), "{verdict:?}");
    }
}

#[test]
fn a_drill_that_could_not_be_run_hides_nothing() {
    let source = source(WEEKLY_DRILLS);
    let mut facts = fresh();
    facts.drills.insert(0, Drill { backup: "bad".to_owned(), ..drill(noon() - HOUR / 2, Verdict::Bad) });
    facts.drills.insert(0, Drill { backup: "open".to_owned(), ..drill(noon(), Verdict::Open) });
    let finding = found(&source, &facts, noon(), Aspect::Drill);
    assert_eq!((finding.state, finding.since), (State::Critical, Some(noon() - HOUR / 2)));
    let told =
        "the newest drill with a verdict refuted backup bad; a newer one could not be run on backup open";
    assert_eq!(finding.told, told);
    facts.drills.insert(0, drill(noon(), Verdict::Proved));
    facts.drills.remove(1);
    assert_eq!(state(&source, &facts, noon(), Aspect::Drill), State::Ok);
}

#[test]
fn clocks_that_jump_are_findings_and_never_make_a_backup_younger() {
    let source = source(WEEKLY_DRILLS);
    // The host's clock was three days ahead for one night.
    let mut facts = fresh();
    facts.backups.insert(0, backup("ahead", noon() + DAY * 3));
    let clock = found(&source, &facts, noon(), Aspect::Clock);
    assert_eq!(clock.state, State::Warning);
    assert!(clock.told.contains("backup ahead is dated 3 d ahead"), "{}", clock.told);
    assert_eq!(facts.newest_backup(noon()).unwrap().id, "b");
    assert_eq!(state(&source, &facts, noon() + HOUR * 40, Aspect::BackupAge), State::Warning);
    // This clock went back: nothing that is known has an age.
    let before = noon() - DAY;
    assert_eq!(state(&source, &fresh(), before, Aspect::BackupAge), State::Unknown);
    assert_eq!(state(&source, &fresh(), before, Aspect::Clock), State::Warning);
    // A report from the future proves nothing yet.
    let mut facts = fresh();
    facts.drills = vec![drill(noon() + DAY, Verdict::Proved)];
    assert_eq!(facts.newest_proof(noon()), None);
    // A few seconds are every network's.
    let facts = Facts { backups: vec![backup("b", noon() + SignedDuration::from_secs(30))], ..fresh() };
    assert_eq!(state(&source, &facts, noon(), Aspect::Clock), State::Ok);
    assert_eq!(found(&source, &facts, noon(), Aspect::BackupAge).value, Some(SignedDuration::ZERO));
    // The store has another time, either way.
    let second = SignedDuration::from_secs(1);
    for skew in [CLOCK_SKEW_MAX + second, -CLOCK_SKEW_MAX - second] {
        let facts = Facts { store_clock_ahead: Some(skew), ..fresh() };
        assert_eq!(state(&source, &facts, noon(), Aspect::Clock), State::Warning);
    }
    let facts = Facts {
        backups: vec![backup("b", noon() + CLOCK_SKEW_MAX)],
        store_clock_ahead: Some(-CLOCK_SKEW_MAX),
        ..fresh()
    };
    assert_eq!(state(&source, &facts, noon(), Aspect::Clock), State::Ok);
}

#[test]
fn objectives_are_met_or_missed() {
    let source = source("objectives = { recovery_point = \"2h\", recovery_time = \"1h\" }");
    assert_eq!(state(&source, &fresh(), noon(), Aspect::RecoveryPoint), State::Ok);
    assert_eq!(state(&source, &fresh(), noon() + HOUR, Aspect::RecoveryPoint), State::Ok);
    assert_eq!(state(&source, &fresh(), noon() + HOUR * 2, Aspect::RecoveryPoint), State::Warning);
    assert_eq!(state(&source, &fresh(), noon(), Aspect::RecoveryTime), State::Warning);
    let mut verified = source.clone();
    verified.verification = self::source(WEEKLY_DRILLS).verification;
    assert_eq!(state(&verified, &fresh(), noon(), Aspect::RecoveryTime), State::Unknown);
    let with = |minutes, gap: i64, missed_from| {
        let mut facts = fresh();
        facts.drills[0].recovery = Some(SignedDuration::from_mins(minutes));
        facts.drills[0].longest_gap = Some(SignedDuration::from_hours(gap));
        facts.drills[0].recovery_missed_from = missed_from;
        facts
    };
    let time = |facts: &Facts| state(&source, facts, noon(), Aspect::RecoveryTime);
    assert_eq!(time(&with(60, 1, None)), State::Ok);
    assert_eq!(time(&with(61, 1, None)), State::Warning);
    assert_eq!(time(&with(10, 1, Some(noon() + DAY * 20))), State::Warning);
    assert_eq!(time(&with(10, 1, Some(noon() + DAY * 200))), State::Ok);
    assert_eq!(state(&source, &with(10, 2, None), noon(), Aspect::RecoveryPoint), State::Ok);
    assert_eq!(state(&source, &with(10, 3, None), noon(), Aspect::RecoveryPoint), State::Warning);
}

#[test]
fn one_silent_host_of_two_is_a_warning() {
    let mut facts = fresh();
    facts.runs.push(run(noon() - DAY * 5, "db2", None));
    let finding = found(&source(NIGHTLY), &facts, noon(), Aspect::HostSilent);
    assert_eq!((finding.state, &*finding.told), (State::Warning, "nothing was heard from db2 for 5 d"));
    let limit = Limits::of(&source(NIGHTLY), &TimeZone::UTC, noon()).host_silent.unwrap().warning;
    facts.runs[1] = run(noon() - limit, "db2", None);
    assert_eq!(state(&source(NIGHTLY), &facts, noon(), Aspect::HostSilent), State::Ok);
}

#[test]
fn what_cannot_be_read_is_unknown_and_nothing_of_it_is_well() {
    let findings = not_checked(&source(WEEKLY_DRILLS), "no answer");
    assert_eq!(findings.len(), 3);
    assert!(findings.iter().all(|finding| finding.state == State::Unknown), "{findings:?}");
    assert_eq!(worst(&findings).exit_code(), 3);
    let grave = [State::Critical, State::Unknown, State::Warning, State::Ok];
    assert!(grave.is_sorted_by(|one, other| one > other));
}

#[test]
fn growth_is_against_the_backup_of_that_time() {
    let mut facts = fresh();
    facts.backups.push(Backup { whole_bytes: 400, ..backup("a", noon() - DAY * 8) });
    assert_eq!(facts.growth(DAY * 7, noon()), Some(600));
    assert_eq!(facts.growth(DAY * 30, noon()), None);
}

#[test]
fn litter_and_stopped_removals_are_told() {
    let passed_over =
        (1..=5).map(|n| PassedOver { id: format!("x{n}"), why: "it is not signed".to_owned() }).collect();
    let facts = Facts { passed_over, worthless_records: 2, unfinished_removals: 1, ..fresh() };
    let told = found(&source(NIGHTLY), &facts, noon(), Aspect::Unreadable).told;
    assert!(told.contains("x3: it is not signed; 2 more; 2 record(s)"), "{told}");
    assert_eq!(state(&source(NIGHTLY), &facts, noon(), Aspect::Removal), State::Warning);
}

#[test]
fn a_source_without_litter_says_so() {
    let told = found(&source(NIGHTLY), &fresh(), noon(), Aspect::Unreadable).told;
    assert_eq!(told, "nothing newer than the newest good backup was passed over");
}

#[test]
fn spans_are_told_in_their_two_largest_units() {
    let told = [0, 59, 60, 725, 3_600, 3_661, 90_000, 86_400 + 300, 3 * 86_400 + 4 * 3_600 + 59]
        .map(|seconds| told(SignedDuration::from_secs(seconds)));
    assert_eq!(told, ["0 s", "59 s", "1 min", "12 min 5 s", "1 h", "1 h 1 min", "1 d 1 h", "1 d", "3 d 4 h"]);
}

/// Documents, metrics and plugins are read by other programs: these names stay.
#[test]
fn names_of_aspects_and_states_stay() {
    let aspects = [
        (Aspect::Repository, "repository"),
        (Aspect::BackupAge, "backup_age"),
        (Aspect::Incomplete, "incomplete"),
        (Aspect::ProofAge, "proof_age"),
        (Aspect::Drill, "drill"),
        (Aspect::RecoveryPoint, "recovery_point"),
        (Aspect::RecoveryTime, "recovery_time"),
        (Aspect::Failing, "failing"),
        (Aspect::HostSilent, "host_silent"),
        (Aspect::Unreadable, "unreadable"),
        (Aspect::Removal, "removal"),
        (Aspect::Clock, "clock"),
    ];
    for (aspect, name) in aspects {
        assert_eq!((aspect.as_str(), format!("{aspect:12}|")), (name, format!("{name:12}|")));
    }
    let states = [
        (State::Ok, "ok", 0),
        (State::Warning, "warning", 1),
        (State::Critical, "critical", 2),
        (State::Unknown, "unknown", 3),
    ];
    for (state, name, code) in states {
        assert_eq!((state.as_str(), state.to_string().as_str(), state.exit_code()), (name, name, code));
    }
}
