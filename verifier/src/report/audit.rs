//! Whether reports are still what was signed, and all there: of files in a folder, or of the repository. Needs the
//! signers' public keys and nothing else.
//!
//! A page and a CSV file are not signed: they are made again from the signed report and compared byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use pgproof_policies::names::SourceName;
use pgproof_repository::ids::ReportSha256;
use pgproof_repository::report::chain::{self, Break, ReportError, SignedReport};
use pgproof_repository::signature::{TrustedSigners, namespace};

use super::export::INDEX;
use super::period::{self, Period};
use super::{GENERATOR, files, page, period_page, table};
use crate::failure;

/// The files of one report, as far as they are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bundle {
    pub json: Option<Vec<u8>>,
    pub signature: Option<Vec<u8>>,
    pub page: Option<String>,
    pub csv: Option<String>,
}

/// All that was found out.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub sources: BTreeMap<SourceName, Vec<SignedReport>>,
    pub problems: Vec<Problem>,
    /// What could not be compared, so that nothing is said of it.
    pub not_compared: Vec<Problem>,
    /// Period reports, which are compared once all reports are known.
    periods: Vec<(String, Bundle, Period)>,
}

/// What is the matter, and where.
#[derive(Debug)]
pub(crate) struct Problem {
    /// A file's name or a source's.
    pub place: String,
    pub finding: Finding,
}

#[derive(Debug)]
pub(crate) enum Finding {
    Report(ReportError),
    Chain(Break),
    /// It holds another report than its name says.
    Misnamed {
        name: String,
    },
    /// The page was made from another report.
    ForeignPage,
    /// The page is not what this program makes of the report.
    AlteredPage,
    /// The page was made by another version, whose pages this one cannot make.
    OtherVersion {
        generator: String,
    },
    AlteredTable,
    /// There is no report of this name.
    Alone,
    /// A period report does not follow from the reports that it names.
    AlteredPeriod,
    /// A period report names reports that are not here.
    WithoutEvidence,
    /// A period report that is badly signed or not at all.
    Period(ReportError),
    /// It is no file that belongs to a report.
    Stranger,
}

impl Audit {
    /// Takes one report's files into account.
    pub(crate) fn examine(&mut self, name: &str, bundle: &Bundle, signers: &TrustedSigners) {
        let Some(json) = &bundle.json else {
            self.problem(name, Finding::Alone);
            return;
        };
        if let Some(period) = as_period(json) {
            self.periods.push((name.to_owned(), bundle.clone(), period));
            return;
        }
        let signature = bundle.signature.as_deref().map(String::from_utf8_lossy);
        let checked = match signature {
            Some(signature) => SignedReport::check(json, &signature, signers),
            None => Err(ReportError::Unsigned),
        };
        let file = format!("{name}.json");
        match checked {
            Err(error) => self.problem(&file, Finding::Report(error)),
            Ok(signed) => {
                let expected = files::name(signed.get());
                if expected != name {
                    self.problem(&file, Finding::Misnamed { name: expected });
                }
                self.compare(name, bundle, &signed);
                self.count(signed);
            }
        }
    }

    /// Takes a report of the repository into account.
    pub(crate) fn take(&mut self, found: chain::Found) {
        match found.report {
            Ok(signed) => self.count(signed),
            Err(error) => self.problem(found.key.as_str(), Finding::Report(error)),
        }
    }

    pub(crate) fn problem(&mut self, place: &str, finding: Finding) {
        self.problems.push(Problem { place: place.to_owned(), finding });
    }

    /// Looks at the chains and at period reports, once every report was taken into account.
    pub(crate) fn conclude(&mut self, signers: &TrustedSigners) {
        let breaks = |(source, reports): (&SourceName, &Vec<SignedReport>)| {
            let place = source.to_string();
            let problem = move |found| Problem { place: place.clone(), finding: Finding::Chain(found) };
            chain::breaks(reports).into_iter().map(problem).collect::<Vec<_>>()
        };
        let found: Vec<Problem> = self.sources.iter().flat_map(breaks).collect();
        self.problems.extend(found);
        for (name, bundle, period) in std::mem::take(&mut self.periods) {
            self.judge_period(&name, &bundle, &period, signers);
        }
    }

    fn judge_period(&mut self, name: &str, bundle: &Bundle, period: &Period, signers: &TrustedSigners) {
        if let Err(error) = check_period(bundle, period, signers) {
            self.problem(&format!("{name}.json"), Finding::Period(error));
        }
        let reports = self.sources.get(&period.source).map_or(&[][..], Vec::as_slice);
        let here: BTreeSet<String> = reports.iter().map(|signed| signed.sha256().to_string()).collect();
        if !period.drills.iter().all(|drill| here.contains(&drill.sha256.to_string())) {
            let (place, finding) = (format!("{name}.json"), Finding::WithoutEvidence);
            self.not_compared.push(Problem { place, finding });
            return;
        }
        // It may have been made before the span was over.
        let newest = period.drills.iter().map(|drill| drill.number).max().unwrap_or_default();
        let known =
            reports.iter().filter(|signed| signed.get().number <= newest).cloned().collect::<Vec<_>>();
        let made = Period::of(&period.repository, &period.source, period.days, &known);
        if bundle.json.as_deref() != Some(&made.bytes()) {
            self.problem(&format!("{name}.json"), Finding::AlteredPeriod);
        }
        let sha256 = ReportSha256::of(bundle.json.as_deref().unwrap_or_default()).to_string();
        let page = period_page::html(period, &sha256, bundle.signature.is_some());
        if let Some(finding) = bundle.page.as_deref().and_then(|found| compare_made(found, &page)) {
            let place = format!("{name}.html");
            match finding {
                Finding::OtherVersion { .. } => self.not_compared.push(Problem { place, finding }),
                finding => self.problem(&place, finding),
            }
        }
        if bundle.csv.as_ref().is_some_and(|csv| *csv != period_page::csv(period)) {
            self.problem(&format!("{name}.csv"), Finding::AlteredTable);
        }
    }

    fn count(&mut self, signed: SignedReport) {
        self.sources.entry(signed.get().source.clone()).or_default().push(signed);
    }

    fn compare(&mut self, name: &str, bundle: &Bundle, signed: &SignedReport) {
        if let Some(page) = &bundle.page {
            let finding = compare_page(page, signed);
            let place = format!("{name}.html");
            match finding {
                None => {}
                Some(finding @ Finding::OtherVersion { .. }) => {
                    self.not_compared.push(Problem { place, finding });
                }
                Some(finding) => self.problem(&place, finding),
            }
        }
        if bundle.csv.as_ref().is_some_and(|csv| *csv != table::csv(signed.get())) {
            self.problem(&format!("{name}.csv"), Finding::AlteredTable);
        }
    }

    /// How many good reports there are of each source, and what is the matter; the age of the newest is always told.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let mut lines = Vec::new();
        for (source, reports) in &self.sources {
            lines.push(newest(source, reports, now));
        }
        if self.sources.is_empty() {
            lines.push("no report is well signed".to_owned());
        }
        lines.extend(self.problems.iter().map(|problem| format!("PROBLEM  {problem}")));
        lines.extend(self.not_compared.iter().map(|problem| format!("NOT COMPARED  {problem}")));
        lines.push(
            "the chain cannot show that the newest reports are missing: compare the newest one's age with the schedule"
                .to_owned(),
        );
        lines.push(match (self.problems.len(), self.not_compared.len()) {
            (0, 0) => "all is well".to_owned(),
            (problems, others) => format!("{problems} problems, {others} files not compared"),
        });
        lines.join("\n") + "\n"
    }

    pub(crate) fn json(&self, now: Timestamp) -> serde_json::Value {
        let told = |problems: &[Problem]| -> Vec<serde_json::Value> {
            let told = |problem: &Problem| serde_json::json!({ "place": problem.place, "problem": problem.finding.to_string() });
            problems.iter().map(told).collect()
        };
        let source = |(source, reports): (&SourceName, &Vec<SignedReport>)| {
            let newest = reports.iter().map(|signed| signed.get()).max_by_key(|report| report.number);
            serde_json::json!({
                "source": source,
                "reports": distinct(reports),
                "newest_number": newest.map(|report| report.number),
                "newest_finished_at": newest.map(|report| report.finished_at),
                "newest_age_seconds": newest.map(|report| now.duration_since(report.finished_at).as_secs()),
            })
        };
        serde_json::json!({
            "sources": self.sources.iter().map(source).collect::<Vec<_>>(),
            "problems": told(&self.problems),
            "not_compared": told(&self.not_compared),
            "limit": "the chain cannot show that the newest reports are missing",
        })
    }
}

/// The names of reports that files belong to, and the files that belong to none.
pub(crate) fn bundle_names<'a>(
    file_names: impl IntoIterator<Item = &'a str>,
) -> (BTreeSet<&'a str>, Vec<&'a str>) {
    let (mut names, mut strangers) = (BTreeSet::new(), Vec::new());
    for file in file_names.into_iter().filter(|file| *file != INDEX) {
        let ending =
            [".json.sig", ".json", ".html", ".csv"].into_iter().find_map(|end| file.strip_suffix(end));
        match ending {
            Some(name) => drop(names.insert(name)),
            None => strangers.push(file),
        }
    }
    (names, strangers)
}

/// A document that says it is a period report.
fn as_period(json: &[u8]) -> Option<Period> {
    let period: Period = serde_json::from_slice(json).ok()?;
    (period.format == period::FORMAT && period.version == period::VERSION).then_some(period)
}

fn check_period(bundle: &Bundle, period: &Period, signers: &TrustedSigners) -> Result<(), ReportError> {
    let (Some(json), Some(signature)) = (&bundle.json, &bundle.signature) else {
        return Err(ReportError::Unsigned);
    };
    let signature = String::from_utf8_lossy(signature);
    let verified = signers.verify(namespace::REPORT_PERIOD, json, &signature, period.at());
    verified.map(drop).map_err(|source| ReportError::BadlySigned { source })
}

fn compare_page(page: &str, signed: &SignedReport) -> Option<Finding> {
    let finding = compare_made(page, &page::html(signed.get(), signed.sha256()))?;
    match meta(page, "pgproof-report-sha256") {
        Some(sha256) if sha256 != signed.sha256().to_string() => Some(Finding::ForeignPage),
        _ => Some(finding),
    }
}

/// What is the matter with a page that should be `made`.
fn compare_made(page: &str, made: &str) -> Option<Finding> {
    match meta(page, "generator") {
        _ if page == made => None,
        Some(generator) if generator != GENERATOR => {
            Some(Finding::OtherVersion { generator: generator.chars().take(64).collect() })
        }
        _ => Some(Finding::AlteredPage),
    }
}

fn meta<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("<meta name=\"{name}\" content=\""))?;
    rest.split('"').next()
}

fn newest(source: &SourceName, reports: &[SignedReport], now: Timestamp) -> String {
    let newest = reports.iter().map(|signed| signed.get()).max_by_key(|report| report.number);
    let told = newest.map_or_else(String::new, |report| {
        let age = super::figures::seconds_between(report.finished_at, now);
        format!(
            "; the newest is number {} of {}, {} old",
            report.number,
            super::figures::stamp(report.finished_at),
            super::figures::span(age)
        )
    });
    let count = super::figures::counted(distinct(reports), "report", "reports");
    format!("{source}: {count} well signed{told}")
}

/// The same file may lie there twice.
fn distinct(reports: &[SignedReport]) -> u64 {
    reports.iter().map(|signed| *signed.sha256().as_bytes()).collect::<BTreeSet<_>>().len() as u64
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.finding)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report(error) => f.write_str(&failure::chain(error)),
            Self::Chain(found) => found.fmt(f),
            Self::Misnamed { name } => write!(f, "holds the report that belongs into {name}.json"),
            Self::ForeignPage => f.write_str("page was made from another report"),
            Self::AlteredPage => f.write_str("page is not what the report says"),
            Self::OtherVersion { generator } => {
                write!(f, "page was made by {generator}, so {GENERATOR} cannot tell whether it was changed")
            }
            Self::AlteredTable => f.write_str("table is not what the report says"),
            Self::Period(error) => write!(f, "period report: {}", failure::chain(error)),
            Self::AlteredPeriod => f.write_str("does not follow from the reports that it names"),
            Self::WithoutEvidence => f.write_str("names reports that are not here"),
            Self::Alone => f.write_str("its report is not here"),
            Self::Stranger => f.write_str("belongs to no report"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample::Chain;

    fn bundle((json, signature, signed): &(Vec<u8>, String, SignedReport)) -> Bundle {
        Bundle {
            json: Some(json.clone()),
            signature: Some(signature.clone().into_bytes()),
            page: Some(page::html(signed.get(), signed.sha256())),
            csv: Some(table::csv(signed.get())),
        }
    }

    /// A folder of these reports, by their names.
    fn folder(chain: &Chain) -> BTreeMap<String, Bundle> {
        chain.reports.iter().map(|report| (files::name(report.2.get()), bundle(report))).collect()
    }

    fn problems(chain: &Chain, folder: &BTreeMap<String, Bundle>) -> Vec<String> {
        let mut audit = Audit::default();
        folder.iter().for_each(|(name, bundle)| audit.examine(name, bundle, &chain.trusted()));
        audit.conclude(&chain.trusted());
        assert!(audit.not_compared.is_empty(), "{:?}", audit.not_compared);
        audit.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_whole_folder_is_well() {
        let chain = Chain::of(3);
        assert_eq!(problems(&chain, &folder(&chain)), [""; 0]);
    }

    #[test]
    fn each_way_to_spoil_a_folder_is_named() {
        let chain = Chain::of(3);
        let (whole, names): (_, Vec<String>) = (folder(&chain), folder(&chain).into_keys().collect());
        let spoilt = |change: &dyn Fn(&mut BTreeMap<String, Bundle>)| {
            let mut folder = whole.clone();
            change(&mut folder);
            problems(&chain, &folder).join("\n")
        };
        let changed = spoilt(&|folder| {
            let json = folder.get_mut(&names[1]).unwrap().json.as_mut().unwrap();
            let at = json.windows(4).position(|four| four == b"host").unwrap() + 8;
            json[at] ^= 1;
        });
        assert!(changed.contains("badly signed: signature does not match"), "{changed}");
        assert!(changed.contains("report 2 is missing"), "{changed}");
        let removed = spoilt(&|folder| drop(folder.remove(&names[1])));
        assert_eq!(removed, "app: report 2 is missing");
        let unsigned = spoilt(&|folder| folder.get_mut(&names[0]).unwrap().signature = None);
        assert!(unsigned.contains("report has no signature"), "{unsigned}");
        let exchanged = spoilt(&|folder| {
            let (first, second) = (folder[&names[0]].clone(), folder[&names[1]].clone());
            folder.insert(names[0].clone(), second);
            folder.insert(names[1].clone(), first);
        });
        assert_eq!(exchanged.matches("holds the report that belongs into").count(), 2, "{exchanged}");
        let alone = spoilt(&|folder| folder.get_mut(&names[2]).unwrap().json = None);
        assert!(alone.contains("its report is not here"), "{alone}");
    }

    #[test]
    fn pages_and_tables_must_be_what_the_report_says() {
        let chain = Chain::of(2);
        let (whole, names): (_, Vec<String>) = (folder(&chain), folder(&chain).into_keys().collect());
        let with_page = |page: String| {
            let mut folder = whole.clone();
            folder.get_mut(&names[0]).unwrap().page = Some(page);
            problems(&chain, &folder).join("\n")
        };
        let own = whole[&names[0]].page.clone().unwrap();
        assert!(with_page(own.replace("passed", "PASSED")).contains("page is not what the report says"));
        assert!(with_page(whole[&names[1]].page.clone().unwrap()).contains("made from another report"));
        assert!(with_page("<p>all is well</p>".to_owned()).contains("page is not what the report says"));
        let mut folder = whole.clone();
        folder.get_mut(&names[1]).unwrap().csv.as_mut().unwrap().push_str("more\n");
        assert!(problems(&chain, &folder).join("\n").contains("table is not what the report says"));
    }

    #[test]
    fn pages_of_another_version_are_not_called_good() {
        let chain = Chain::of(1);
        let (name, mut bundle) = folder(&chain).pop_first().unwrap();
        bundle.page = bundle.page.map(|page| page.replace(GENERATOR, "pgproof-verifier 0.0.9"));
        let mut audit = Audit::default();
        audit.examine(&name, &bundle, &chain.trusted());
        audit.conclude(&chain.trusted());
        assert_eq!((audit.problems.len(), audit.not_compared.len()), (0, 1));
        assert!(!audit.text(Timestamp::UNIX_EPOCH).contains("all is well"));
    }

    #[test]
    fn a_report_signed_by_a_stranger_does_not_count() {
        let (mut chain, stranger) = (Chain::of(2), Chain::of(3));
        chain.reports.push(stranger.reports[2].clone());
        let told = problems(&chain, &folder(&chain)).join("\n");
        assert!(told.contains("badly signed: signer SHA256:") && told.contains("is not trusted"), "{told}");
    }

    #[test]
    fn the_age_of_the_newest_and_the_chains_limit_are_always_told() {
        let chain = Chain::of(2);
        let mut audit = Audit::default();
        folder(&chain).iter().for_each(|(name, bundle)| audit.examine(name, bundle, &chain.trusted()));
        audit.conclude(&chain.trusted());
        let text = audit.text("2026-11-05T05:00:00Z".parse().unwrap());
        assert!(text.contains("app: 2 reports well signed; the newest is number 2"), "{text}");
        assert!(text.contains("3 days 1 h old") && text.contains("cannot show that the newest"), "{text}");
        assert!(text.ends_with("all is well\n"), "{text}");
    }

    #[test]
    fn a_period_report_must_follow_from_its_reports() {
        let chain = Chain::of(3);
        let days = crate::report::span::Days::month("2026-11").unwrap();
        let newest = chain.reports[2].2.get();
        let period = Period::of(&newest.repository, &newest.source, days, &chain.signed());
        let judged = |period: &Period, reports: usize| {
            let json = period.bytes();
            let signature = chain.key.sign(namespace::REPORT_PERIOD, &json).unwrap();
            let page = period_page::html(period, &ReportSha256::of(&json).to_string(), true);
            let bundle = Bundle {
                json: Some(json),
                signature: Some(signature.into_bytes()),
                page: Some(page),
                csv: Some(period_page::csv(period)),
            };
            let mut audit = Audit::default();
            audit.examine(&period_page::name(period), &bundle, &chain.trusted());
            for (name, bundle) in folder(&chain).iter().take(reports) {
                audit.examine(name, bundle, &chain.trusted());
            }
            audit.conclude(&chain.trusted());
            let told =
                |found: &[Problem]| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            (told(&audit.problems), told(&audit.not_compared))
        };
        assert_eq!(judged(&period, 3), (String::new(), String::new()));
        let (_, not_compared) = judged(&period, 2);
        assert!(not_compared.contains("names reports that are not here"), "{not_compared}");
        let mut without = period.clone();
        without.drills.remove(1);
        let (problems, _) = judged(&without, 3);
        assert!(problems.contains("does not follow from the reports"), "{problems}");
    }

    #[test]
    fn files_are_told_apart_by_their_endings() {
        let (names, strangers) =
            bundle_names(["a.json", "a.json.sig", "a.html", "b.csv", INDEX, "notes.txt"]);
        assert_eq!((names.into_iter().collect::<Vec<_>>(), strangers), (vec!["a", "b"], vec!["notes.txt"]));
    }
}
