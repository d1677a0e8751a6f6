//! What all drills of a span say together, for auditors: a pure function of the signed reports of the span, so that
//! whoever has them can make it again and compare.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_repository::ids::{BackupId, ReportSha256, RepositoryId};
use pgproof_repository::report::Verdict;
use pgproof_repository::report::chain::{self, Break, SignedReport};
use pgproof_repository::report::v1::{Coverage, HistoryBackup, OutcomeKind, Report};
use serde::{Deserialize, Serialize};

use super::span::Days;
use super::timeline::{self, Gap};

pub(crate) const FORMAT: &str = "pgproof-report-period";
pub(crate) const VERSION: u32 = 1;
/// Gaps that are named: the long ones are what has to be explained.
const GAPS_MAX: usize = 10;

/// The period report as it is stored and signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Period {
    pub format: String,
    pub version: u32,
    pub repository: RepositoryId,
    pub source: SourceName,
    /// In UTC; drills belong to the day on which they ended.
    pub days: Days,
    pub verdicts: Verdicts,
    /// Of the newest report of the span.
    pub coverage: Option<Coverage>,
    pub recovery_point: Met,
    pub recovery_time: Met,
    /// The longest times without a good backup that the reports of the span show, the longest first.
    pub gaps: Vec<WithoutBackup>,
    /// Backups are named, and none of them is good: then there is no gap between two, and it is not well.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub none_good: bool,
    /// Seconds between two drills of the span, at most; absent where there are less than two.
    pub longest_between_drills_seconds: Option<f64>,
    /// Drills in their order, with the hashes of the reports: the evidence.
    pub drills: Vec<Drill>,
    pub failures: Vec<Failure>,
    pub exceptions: Vec<UsedException>,
    pub recipients: Vec<Custody>,
    pub negative_controls: Vec<Control>,
    /// Where the chain of the span's reports does not hold.
    pub chain_breaks: Vec<String>,
}

/// How many drills ended how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdicts {
    /// Whose reports are at odds with the chain, whatever they say. They prove nothing, and count nowhere else.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub at_odds: u64,
    pub passed: u64,
    pub degraded: u64,
    pub failed: u64,
    pub not_run: u64,
    pub verifier_failed: u64,
}

/// How many drills found an objective met.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Met {
    pub met: u64,
    pub missed: u64,
    /// Without an objective, or nothing was measured.
    pub not_judged: u64,
    /// The largest value that was measured, in seconds.
    pub worst_seconds: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WithoutBackup {
    pub from: Timestamp,
    pub to: Timestamp,
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drill {
    pub number: u64,
    /// Of the report's bytes.
    pub sha256: ReportSha256,
    pub signer: String,
    pub finished_at: Timestamp,
    pub backup: BackupId,
    pub snapshot_at: Timestamp,
    pub verdict: Verdict,
    /// Why its report proves nothing although it is well signed.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub at_odds: Option<String>,
    pub tables: u64,
    pub rows: u64,
    pub recovery_seconds: Option<f64>,
    pub recovery_point_met: Option<bool>,
    pub recovery_time_met: Option<bool>,
    pub policy_sha256: String,
}

/// A drill that proved nothing, and the next one that proved a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub number: u64,
    pub finished_at: Timestamp,
    pub verdict: Verdict,
    pub reasons: Vec<String>,
    /// Within the span.
    pub followed_by: Option<Followed>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Followed {
    pub number: u64,
    pub verdict: Verdict,
    /// Whether it was a drill of the same backup.
    pub same_backup: bool,
    pub after_seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct UsedException {
    pub check: String,
    pub reason: String,
    pub until: jiff::civil::Date,
    /// Numbers of the reports that rest on it.
    pub reports: Vec<u64>,
}

/// When a key was last shown to open a backup, by the reports of the span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Custody {
    pub key: String,
    pub shown_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Control {
    pub number: u64,
    pub finished_at: Timestamp,
    pub outcome: OutcomeKind,
    pub damages: u64,
    pub noticed: u64,
}

impl Period {
    /// Of all signed reports of a source, those of these days count.
    pub(crate) fn of(
        repository: &RepositoryId,
        source: &SourceName,
        days: Days,
        reports: &[SignedReport],
    ) -> Self {
        let mut signed: Vec<&SignedReport> =
            reports.iter().filter(|signed| days.contains(signed.get().finished_at)).collect();
        signed.sort_by_key(|signed| (signed.get().number, *signed.sha256().as_bytes()));
        signed.dedup_by_key(|signed| *signed.sha256().as_bytes());
        let breaks = chain::breaks(signed.iter().copied());
        let at_odds = |report: &Report| {
            let own = breaks.iter().find(|found| found.discredits() == Some(report.number));
            own.map(ToString::to_string)
        };
        let all: Vec<&Report> = signed.iter().map(|signed| signed.get()).collect();
        let reports: Vec<&Report> = all.iter().copied().filter(|report| at_odds(report).is_none()).collect();
        let backups = backups(&reports);
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            repository: repository.clone(),
            source: source.clone(),
            days,
            verdicts: Verdicts { at_odds: (all.len() - reports.len()) as u64, ..Verdicts::of(&reports) },
            coverage: reports.last().map(|report| report.coverage.clone()),
            recovery_point: met(&reports, |report| {
                let point = &report.objectives.recovery_point;
                (point.met, point.achieved_seconds)
            }),
            recovery_time: met(&reports, |report| {
                let time = &report.objectives.recovery_time;
                (time.met, time.measured_seconds)
            }),
            gaps: gaps(&reports, &backups, days),
            none_good: !backups.is_empty() && timeline::good_times(&backups).is_empty(),
            longest_between_drills_seconds: longest_between(&reports),
            drills: signed.iter().map(|signed| drill(signed, at_odds(signed.get()))).collect(),
            failures: failures(&all, at_odds),
            exceptions: exceptions(&all),
            recipients: recipients(&reports),
            negative_controls: reports.iter().filter_map(|report| control(report)).collect(),
            chain_breaks: inside(&breaks),
        }
    }

    /// As it is stored and signed.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a period report has only string keys");
        bytes.push(b'\n');
        bytes
    }

    /// When the signature must be valid: the newest report's time, because the document itself knows no other.
    pub(crate) fn at(&self) -> Timestamp {
        self.drills.last().map_or(self.days.start(), |drill| drill.finished_at)
    }

    pub(crate) fn proved(&self) -> u64 {
        self.verdicts.passed + self.verdicts.degraded
    }
}

impl Verdicts {
    fn of(reports: &[&Report]) -> Self {
        let count = |verdict| reports.iter().filter(|report| report.verdict == verdict).count() as u64;
        Self {
            passed: count(Verdict::Passed),
            degraded: count(Verdict::Degraded),
            failed: count(Verdict::Failed),
            not_run: count(Verdict::NotRun),
            verifier_failed: count(Verdict::VerifierFailed),
            at_odds: 0,
        }
    }
}

fn met(reports: &[&Report], of: impl Fn(&Report) -> (Option<bool>, Option<f64>)) -> Met {
    let mut all = Met::default();
    for (met, seconds) in reports.iter().map(|report| of(report)) {
        match met {
            Some(true) => all.met += 1,
            Some(false) => all.missed += 1,
            None => all.not_judged += 1,
        }
        all.worst_seconds = match (all.worst_seconds, seconds) {
            (Some(worst), Some(seconds)) => Some(worst.max(seconds)),
            (worst, seconds) => worst.or(seconds),
        };
    }
    all
}

/// Backups that a report names were there when it was made, so all reports together know those that are pruned since.
/// The last that names one knows best what it is worth.
fn backups(reports: &[&Report]) -> Vec<HistoryBackup> {
    let backups: BTreeMap<&BackupId, &HistoryBackup> = reports
        .iter()
        .flat_map(|report| &report.history.backups)
        .map(|backup| (&backup.id, backup))
        .collect();
    backups.into_values().cloned().collect()
}

/// A gap belongs to the span if a part of it lies there; after the newest report nothing is known.
fn gaps(reports: &[&Report], backups: &[HistoryBackup], days: Days) -> Vec<WithoutBackup> {
    let Some(known_until) = reports.iter().map(|report| report.finished_at).max() else { return Vec::new() };
    let mut gaps: Vec<Gap> = timeline::gaps(timeline::good_times(backups), known_until);
    gaps.retain(|gap| gap.to > days.start() && gap.from < days.end());
    gaps.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()).then(a.from.cmp(&b.from)));
    gaps.truncate(GAPS_MAX);
    gaps.into_iter().map(|gap| WithoutBackup { from: gap.from, to: gap.to, seconds: gap.seconds() }).collect()
}

fn longest_between(reports: &[&Report]) -> Option<f64> {
    let mut ends: Vec<Timestamp> = reports.iter().map(|report| report.finished_at).collect();
    ends.sort();
    let between = ends.windows(2).map(|pair| Gap { from: pair[0], to: pair[1] }.seconds());
    between.max_by(f64::total_cmp)
}

fn drill(signed: &SignedReport, at_odds: Option<String>) -> Drill {
    let report = signed.get();
    Drill {
        number: report.number,
        sha256: signed.sha256(),
        signer: signed.signer().fingerprint.clone(),
        finished_at: report.finished_at,
        backup: report.backup.clone(),
        snapshot_at: report.snapshot_at,
        verdict: report.verdict,
        at_odds,
        tables: report.tables.len() as u64,
        rows: report.tables.iter().filter_map(|table| table.found.as_ref()).map(|found| found.rows).sum(),
        recovery_seconds: report.recovery_seconds,
        recovery_point_met: report.objectives.recovery_point.met,
        recovery_time_met: report.objectives.recovery_time.met,
        policy_sha256: report.policy_sha256.clone(),
    }
}

fn failures(reports: &[&Report], at_odds: impl Fn(&Report) -> Option<String>) -> Vec<Failure> {
    let is_good = |report: &Report| {
        matches!(report.verdict, Verdict::Passed | Verdict::Degraded) && at_odds(report).is_none()
    };
    let failure = |(index, report): (usize, &&Report)| {
        let after = || reports[index + 1..].iter().filter(|later| is_good(later));
        let same = after().find(|later| later.backup == report.backup);
        let next = same.or_else(|| after().next());
        Failure {
            number: report.number,
            finished_at: report.finished_at,
            verdict: report.verdict,
            reasons: at_odds(report).into_iter().chain(reasons(report)).collect(),
            followed_by: next.map(|next| Followed {
                number: next.number,
                verdict: next.verdict,
                same_backup: next.backup == report.backup,
                after_seconds: super::figures::seconds_between(report.finished_at, next.finished_at),
            }),
        }
    };
    reports.iter().enumerate().filter(|(_, report)| !is_good(report)).map(failure).collect()
}

/// Of a drill that proved nothing, what failed; where nothing did, what was required and not made.
fn reasons(report: &Report) -> Vec<String> {
    let told = |wanted: fn(&pgproof_repository::report::v1::Check) -> bool| -> Vec<String> {
        let checks = report.checks.iter().filter(|check| wanted(check));
        checks
            .map(|check| format!("{}: {}", check.name, check.reason.as_deref().unwrap_or("no reason")))
            .collect()
    };
    let failed = told(|check| check.outcome == OutcomeKind::Failed);
    let control = &report.negative_control;
    let control = (control.outcome == OutcomeKind::Failed)
        .then(|| format!("negative control: {}", control.reason.as_deref().unwrap_or("no reason")));
    match failed.is_empty() && control.is_none() {
        true => told(|check| check.required && check.outcome == OutcomeKind::NotRun),
        false => control.into_iter().chain(failed).collect(),
    }
}

fn exceptions(reports: &[&Report]) -> Vec<UsedException> {
    let mut used: Vec<UsedException> = Vec::new();
    for report in reports {
        for exception in report.exceptions.iter().filter(|exception| exception.used) {
            let same = |known: &&mut UsedException| {
                known.check == exception.check
                    && known.reason == exception.reason
                    && known.until == exception.until
            };
            match used.iter_mut().find(same) {
                Some(known) => known.reports.push(report.number),
                None => used.push(UsedException {
                    check: exception.check.clone(),
                    reason: exception.reason.clone(),
                    until: exception.until,
                    reports: vec![report.number],
                }),
            }
        }
    }
    used
}

fn recipients(reports: &[&Report]) -> Vec<Custody> {
    let mut shown: BTreeMap<&str, Option<Timestamp>> = BTreeMap::new();
    for recipient in reports.iter().flat_map(|report| &report.recipients) {
        let newest = shown.entry(&recipient.key).or_default();
        *newest = (*newest).max(recipient.shown_at);
    }
    shown.into_iter().map(|(key, shown_at)| Custody { key: key.to_owned(), shown_at }).collect()
}

/// Only controls that were made.
fn control(report: &Report) -> Option<Control> {
    let control = &report.negative_control;
    (control.outcome != OutcomeKind::NotRun).then(|| Control {
        number: report.number,
        finished_at: report.finished_at,
        outcome: control.outcome,
        damages: control.damages.len() as u64,
        noticed: control.damages.iter().filter(|damage| damage.noticed).count() as u64,
    })
}

/// Reports before the span are not missing: they belong to another.
fn inside(breaks: &[Break]) -> Vec<String> {
    let inside = breaks.iter().filter(|found| !matches!(found, Break::Missing { from: 1, .. }));
    inside.map(ToString::to_string).collect()
}

/// Such a field is left out: whoever has no use for it reads the document as it was before the field was known.
fn is_unset<T: Default + PartialEq>(field: &T) -> bool {
    *field == T::default()
}

#[cfg(test)]
mod tests {
    use pgproof_repository::report::Outcome;
    use pgproof_repository::report::v1::Damage;

    use super::*;
    use crate::report::sample::{self, Chain};

    fn period(chain: &Chain, days: &str) -> Period {
        let newest = chain.reports.last().unwrap().2.get();
        Period::of(&newest.repository, &newest.source, Days::month(days).unwrap(), &chain.signed())
    }

    /// Forty drills, a day apart, from 1 November on.
    fn chain() -> Chain {
        let mut chain = Chain::new();
        for day in 1..=40 {
            chain.add(|report| {
                let failed = |reason: &str| Outcome::Failed { reason: reason.to_owned() };
                match day {
                    5 => report.enter("tables", true, failed("one differs"), None),
                    7 => report.backup = "20261107T020000Z-other7".parse().unwrap(),
                    30 => report.enter("restore", true, failed("disk full"), None),
                    _ => {}
                }
                if day == 6 {
                    let reason = "no store".to_owned();
                    report.enter("objects", true, Outcome::NotRun { reason }, None);
                }
                if day % 10 == 0 {
                    report.negative_control.outcome = OutcomeKind::Passed;
                    let (name, told) = ("flipped".to_owned(), "bad hash".to_owned());
                    report.negative_control.damages = vec![Damage { name, noticed: true, told }];
                }
                report.objectives.recovery_time.met = Some(day != 3);
                report.objectives.recovery_time.measured_seconds = Some(f64::from(day));
                report.conclude(report.finished_at);
            });
        }
        chain
    }

    #[test]
    fn drills_belong_to_the_days_on_which_they_ended() {
        let (chain, november) = (chain(), period(&chain(), "2026-11"));
        assert_eq!(november.drills.len(), 30);
        assert_eq!(
            november.drills.iter().map(|drill| drill.number).collect::<Vec<_>>(),
            (1..=30).collect::<Vec<_>>()
        );
        let december = period(&chain, "2026-12");
        assert_eq!((december.drills.len(), december.drills[0].number), (10, 31));
        // That reports 1 to 30 are not among December's is no gap.
        assert_eq!(december.chain_breaks, [""; 0]);
        let verdicts = &november.verdicts;
        assert_eq!((verdicts.passed + verdicts.degraded, verdicts.failed, verdicts.not_run), (27, 2, 1));
        assert_eq!(november.longest_between_drills_seconds, Some(86_400.0));
    }

    #[test]
    fn failures_stand_beside_what_followed_them() {
        let november = period(&chain(), "2026-11");
        let [differs, not_run, last] = &november.failures[..] else { panic!("{:?}", november.failures) };
        assert_eq!((differs.number, &differs.reasons[..]), (5, &["tables: one differs".to_owned()][..]));
        // Report 7 passed, of another backup; report 8 is of the same.
        let followed = differs.followed_by.as_ref().unwrap();
        assert_eq!(
            (followed.number, followed.same_backup, followed.after_seconds),
            (8, true, 3.0 * 86_400.0)
        );
        assert_eq!(not_run.reasons, ["objects: no store"]);
        assert_eq!((last.number, &last.followed_by), (30, &None));
    }

    #[test]
    fn objectives_controls_keys_and_exceptions_are_gathered() {
        let november = period(&chain(), "2026-11");
        let time = &november.recovery_time;
        assert_eq!((time.met, time.missed, time.worst_seconds), (29, 1, Some(30.0)));
        assert_eq!(november.recovery_point.missed, 30);
        let controls: Vec<_> = november.negative_controls.iter().map(|control| control.number).collect();
        assert_eq!(controls, [10, 20, 30]);
        assert_eq!(november.recipients.len(), 1);
        assert!(november.recipients[0].shown_at.is_some());
        assert_eq!((november.exceptions.len(), november.exceptions[0].reports.len()), (1, 30));
        assert_eq!(november.coverage.as_ref().unwrap().proved, 27);
    }

    #[test]
    fn it_follows_from_the_reports_alone_whatever_their_order() {
        let chain = chain();
        let (newest, days) = (chain.reports.last().unwrap().2.get(), Days::month("2026-11").unwrap());
        let mut signed = chain.signed();
        let told = Period::of(&newest.repository, &newest.source, days, &signed);
        signed.reverse();
        signed.push(signed[0].clone());
        assert_eq!(Period::of(&newest.repository, &newest.source, days, &signed), told);
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Period>(&text).unwrap(), told);
    }

    #[test]
    fn a_report_that_is_missing_inside_the_span_is_named() {
        let chain = chain();
        let newest = chain.reports.last().unwrap().2.get();
        let without: Vec<_> = chain.signed().into_iter().filter(|signed| signed.get().number != 12).collect();
        let days = Days::month("2026-11").unwrap();
        let told = Period::of(&newest.repository, &newest.source, days, &without);
        assert_eq!(told.chain_breaks, ["report 12 is missing"]);
    }

    #[test]
    fn a_report_at_odds_with_the_chain_proves_nothing() {
        let mut chain = Chain::of(4);
        let third = chain.reports[2].2.as_previous();
        chain.add(|report| (report.number, report.previous) = (4, third));
        let november = period(&chain, "2026-11");
        assert_eq!((november.drills.len(), november.verdicts.at_odds, november.proved()), (5, 2, 3));
        assert_eq!(november.chain_breaks, ["there are two reports with number 4"]);
        let failures: Vec<_> =
            november.failures.iter().map(|failure| (failure.number, &*failure.reasons[0])).collect();
        assert_eq!(failures, [(4, "there are two reports with number 4"); 2]);
        let whole = String::from_utf8(period(&Chain::of(4), "2026-11").bytes()).unwrap();
        assert!(!whole.contains("at_odds") && !whole.contains("none_good"), "{whole}");
    }

    #[test]
    fn backups_that_a_drill_found_bad_leave_a_gap() {
        let with = |bad: &[i8]| {
            let mut chain = Chain::new();
            chain.add(|report| {
                report.finished_at = "2026-11-26T12:00:00Z".parse().unwrap();
                report.history.backups = sample::daily(20..=26, bad);
            });
            period(&chain, "2026-11")
        };
        let some = with(&[22, 23, 24]);
        let longest = (some.gaps[0].from.to_string(), some.gaps[0].to.to_string(), some.gaps[0].seconds);
        let (from, to) = ("2026-11-21T02:00:00Z".to_owned(), "2026-11-25T02:00:00Z".to_owned());
        assert_eq!((longest, some.none_good), ((from, to, 4.0 * 86_400.0), false));
        let none = with(&[20, 21, 22, 23, 24, 25, 26]);
        assert_eq!((none.gaps.len(), none.none_good), (0, true));
    }

    #[test]
    fn a_span_without_a_drill_says_so() {
        let empty = period(&chain(), "2025-01");
        assert_eq!((empty.drills.len(), empty.proved(), empty.coverage), (0, 0, None));
        assert_eq!((empty.gaps.len(), empty.longest_between_drills_seconds), (0, None));
    }
}
