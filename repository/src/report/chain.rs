//! The chain of reports: each has a number and names the one before by its hash, so that a report that was removed,
//! changed, reordered or back-dated shows, to anybody who has the files and the signers' keys.
//!
//! What the chain cannot show is that its newest reports are missing: that is seen by their age.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::ready;

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use pgproof_policies::names::SourceName;

use super::v1::{self, Previous, Report};
use crate::ids::{BackupId, KeyPrefix, ObjectKey, ReportSha256};
use crate::layout;
use crate::signature::{SignatureError, Signer, TrustedSigners, namespace};
use crate::store::{ObjectMeta, SharedStore, StoreError};
use crate::versioned::{self, Refused};

/// Largest report that is read: a line for each of 100,000 tables stays below this.
pub const REPORT_BYTES_MAX: u64 = 64 << 20;
pub const SIGNATURE_BYTES_MAX: u64 = 64 << 10;
/// Reports fetched at the same time: listing waits on round trips, not on bytes.
const FETCHES_IN_FLIGHT: usize = 16;

/// A report whose signature was checked against the trusted signers.
#[derive(Debug, Clone)]
pub struct SignedReport {
    report: Report,
    sha256: ReportSha256,
    signer: Signer,
}

impl SignedReport {
    /// Checks the signature over `bytes`, then reads them.
    pub fn check(bytes: &[u8], signature: &str, signers: &TrustedSigners) -> Result<Self, ReportError> {
        let report = parse(bytes)?;
        let signer = signers
            .verify(namespace::REPORT, bytes, signature, report.finished_at)
            .map_err(|source| ReportError::BadlySigned { source })?;
        Ok(Self { report, sha256: ReportSha256::of(bytes), signer })
    }

    pub fn get(&self) -> &Report {
        &self.report
    }

    pub fn sha256(&self) -> ReportSha256 {
        self.sha256
    }

    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What the chain needs to know of it.
    pub fn link(&self) -> Link {
        let Report { number, previous, finished_at, .. } = &self.report;
        Link { number: *number, previous: previous.clone(), finished_at: *finished_at, sha256: self.sha256 }
    }

    /// What the next report says of this one.
    pub fn as_previous(&self) -> Previous {
        Previous::Known { number: self.report.number, sha256: self.sha256 }
    }
}

/// A report's place in the chain, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub number: u64,
    pub previous: Previous,
    pub finished_at: Timestamp,
    pub sha256: ReportSha256,
}

/// A report as it was found in the repository.
#[derive(Debug)]
pub struct Found {
    pub key: ObjectKey,
    pub report: Result<SignedReport, ReportError>,
}

impl Found {
    pub fn signed(&self) -> Option<&SignedReport> {
        self.report.as_ref().ok()
    }
}

/// Every report of a source with what it is worth, in the order of their keys' times.
pub async fn list(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
) -> Result<Vec<Found>, StoreError> {
    let mut keys = keys(store, source).await?;
    keys.sort_by_key(|(_, key)| file_name(key).to_owned());
    let found = stream::iter(keys).map(|(_, key)| async move { fetch(store, key, signers).await });
    found.buffered(FETCHES_IN_FLIGHT).try_collect().await
}

/// A report as it lies in the store, unread. Where this is what it was, so is the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub backup: BackupId,
    pub report: ObjectMeta,
    pub signature: Option<ObjectMeta>,
}

/// Every report of a source, unread.
pub async fn listed(store: &SharedStore, source: &SourceName) -> Result<Vec<Listed>, StoreError> {
    let prefix = layout::verifications(source);
    let objects: Vec<ObjectMeta> = store.list(&prefix, None).try_collect().await?;
    let by_key: HashMap<&ObjectKey, &ObjectMeta> = objects.iter().map(|meta| (&meta.key, meta)).collect();
    let listed = |meta: &ObjectMeta| {
        let (backup, key) = about(&prefix, meta.key.clone())?;
        let signature = by_key.get(&layout::signature_of(&key)).map(|meta| (*meta).clone());
        Some(Listed { backup, report: meta.clone(), signature })
    };
    Ok(objects.iter().filter_map(listed).collect())
}

/// The keys of a source's reports, with the backups that they are about.
pub async fn keys(
    store: &SharedStore,
    source: &SourceName,
) -> Result<Vec<(BackupId, ObjectKey)>, StoreError> {
    let prefix = layout::verifications(source);
    let objects: Vec<_> = store.list(&prefix, None).try_collect().await?;
    Ok(objects.into_iter().filter_map(|meta| about(&prefix, meta.key)).collect())
}

/// The same of these backups and those between them, in as few requests as such reports take.
pub async fn keys_of(
    store: &SharedStore,
    source: &SourceName,
    oldest: &BackupId,
    newest: &BackupId,
) -> Result<Vec<(BackupId, ObjectKey)>, StoreError> {
    let prefix = layout::verifications(source);
    let end = layout::verifications_after(source, newest);
    let listed = store.list(&prefix, Some(&layout::verifications_from(source, oldest)));
    let listed = listed.try_take_while(|meta| ready(Ok(meta.key < end)));
    let objects: Vec<_> = listed.try_collect().await?;
    Ok(objects.into_iter().filter_map(|meta| about(&prefix, meta.key)).collect())
}

/// A report's key with the backup that it is about; `None` for a signature.
fn about(prefix: &KeyPrefix, key: ObjectKey) -> Option<(BackupId, ObjectKey)> {
    let path = key.as_str().strip_prefix(prefix.as_str()).filter(|path| path.ends_with(".json"))?;
    let id = path.split('/').next()?.parse().ok()?;
    Some((id, key))
}

/// One report. Only that the store does not answer is an error: everything else is a finding.
pub async fn fetch(
    store: &SharedStore,
    key: ObjectKey,
    signers: &TrustedSigners,
) -> Result<Found, StoreError> {
    let report = match (
        read(store, &key, REPORT_BYTES_MAX).await?,
        read(store, &layout::signature_of(&key), SIGNATURE_BYTES_MAX).await?,
    ) {
        (Err(source), _) => Err(ReportError::Damaged { source }),
        (_, Err(StoreError::NotFound { .. })) => Err(ReportError::Unsigned),
        (_, Err(source)) => Err(ReportError::Damaged { source }),
        (Ok(bytes), Ok(signature)) => {
            SignedReport::check(&bytes, &String::from_utf8_lossy(&signature), signers)
        }
    };
    Ok(Found { key, report })
}

/// A report and its signature as they lie in the store, byte for byte.
#[derive(Debug, Clone)]
pub struct Files {
    pub report: bytes::Bytes,
    pub signature: bytes::Bytes,
}

/// The files of one report, unchecked: what is handed on must be exactly what was signed.
pub async fn files(store: &SharedStore, key: &ObjectKey) -> Result<Files, StoreError> {
    let (report, _) = store.get(key, REPORT_BYTES_MAX).await?;
    let (signature, _) = store.get(&layout::signature_of(key), SIGNATURE_BYTES_MAX).await?;
    Ok(Files { report, signature })
}

/// The number and the link of the next report after `found`. Reports that are not well signed have no place in the
/// chain; where there are only such, the link says so.
pub fn next(found: &[Found]) -> (u64, Previous) {
    let newest = found.iter().filter_map(Found::signed).max_by_key(|signed| signed.get().number);
    match (newest, found.len()) {
        (Some(newest), _) => (newest.get().number + 1, newest.as_previous()),
        (None, 0) => (1, Previous::None),
        (None, count) => (1, Previous::Unknown { reason: format!("none of {count} reports is well signed") }),
    }
}

/// A place where the chain does not hold, by the number of the report where it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// Reports between two that are there are gone.
    Missing { number: u64, from: u64, to: u64 },
    /// Two reports claim one place.
    Twice { number: u64 },
    /// The report before is there and is not the one that was linked.
    Replaced { number: u64 },
    /// It was signed as finished before the report before it.
    BackDated { number: u64, finished_at: Timestamp, before: Timestamp },
    /// Its link does not name the number before its own.
    Misnumbered { number: u64 },
    /// When it was made, no report before it could be read.
    Unknown { number: u64, reason: String },
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { from, to, .. } if from == to => write!(f, "report {from} is missing"),
            Self::Missing { from, to, .. } => write!(f, "reports {from} to {to} are missing"),
            Self::Twice { number } => write!(f, "there are two reports with number {number}"),
            Self::Replaced { number } => {
                write!(f, "report {number} was made after another report {} than the one here", number - 1)
            }
            Self::BackDated { number, finished_at, before } => {
                write!(f, "report {number} is dated {finished_at}, before report {} of {before}", number - 1)
            }
            Self::Misnumbered { number } => write!(f, "report {number} does not follow the one it names"),
            Self::Unknown { number, reason } => {
                write!(f, "report {number} could not be linked to the one before: {reason}")
            }
        }
    }
}

impl Break {
    /// The number of a report that is itself at odds with the chain, and so proves nothing. Where others are missing, those
    /// that are there are as good as before.
    pub fn discredits(&self) -> Option<u64> {
        match self {
            Self::Twice { number }
            | Self::Replaced { number }
            | Self::BackDated { number, .. }
            | Self::Misnumbered { number } => Some(*number),
            Self::Missing { .. } | Self::Unknown { .. } => None,
        }
    }
}

/// Every break among the well signed reports of one source, whatever their order.
pub fn breaks<'a>(reports: impl IntoIterator<Item = &'a SignedReport>) -> Vec<Break> {
    breaks_of(&reports.into_iter().map(SignedReport::link).collect::<Vec<_>>())
}

/// The same of links alone: a year's reports with a line for every table need not be in memory at once.
pub fn breaks_of(links: &[Link]) -> Vec<Break> {
    let (mut by_number, mut breaks) = (BTreeMap::new(), Vec::new());
    for link in links {
        let number = link.number;
        if by_number.insert(number, link).is_some_and(|known| known.sha256 != link.sha256) {
            breaks.push(Break::Twice { number });
        }
    }
    let mut expected = 1;
    for (number, link) in &by_number {
        if *number > expected {
            breaks.push(Break::Missing { number: *number, from: expected, to: number - 1 });
        }
        expected = number.saturating_add(1);
        let before = number.checked_sub(1).and_then(|before| by_number.get(&before));
        breaks.extend(broken_link(link, before.copied()));
    }
    breaks
}

fn broken_link(link: &Link, before: Option<&Link>) -> Option<Break> {
    let number = link.number;
    match &link.previous {
        Previous::None if number == 1 => None,
        Previous::None => Some(Break::Misnumbered { number }),
        Previous::Unknown { reason } => Some(Break::Unknown { number, reason: reason.clone() }),
        Previous::Known { number: named, .. } if named.checked_add(1) != Some(number) => {
            Some(Break::Misnumbered { number })
        }
        Previous::Known { sha256, .. } => {
            // One that is missing was told already.
            let before = before?;
            if before.sha256 != *sha256 {
                return Some(Break::Replaced { number });
            }
            let (finished_at, earlier) = (link.finished_at, before.finished_at);
            (finished_at < earlier).then_some(Break::BackDated { number, finished_at, before: earlier })
        }
    }
}

/// The bytes, or what is the matter with them; an error means that the store failed and nothing is known.
async fn read(
    store: &SharedStore,
    key: &ObjectKey,
    bytes_max: u64,
) -> Result<Result<bytes::Bytes, StoreError>, StoreError> {
    match store.get(key, bytes_max).await {
        Ok((bytes, _)) => Ok(Ok(bytes)),
        Err(
            error @ (StoreError::NotFound { .. } | StoreError::Damaged { .. } | StoreError::TooLarge { .. }),
        ) => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

fn file_name(key: &ObjectKey) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Result<Report, ReportError> {
    versioned::parse(bytes, v1::FORMAT, v1::VERSION).map_err(|refused| match refused {
        Refused::Unreadable { source } => ReportError::Unreadable { source },
        Refused::OtherFormat { format } => ReportError::NotAReport { format },
        Refused::Newer { version } => ReportError::Newer { version },
    })
}

/// Why a report is worth nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    #[error("report cannot be read")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
    #[error("report cannot be fetched whole")]
    Damaged {
        #[source]
        source: StoreError,
    },
    #[error("format is {format:?}, not a pgproof report")]
    NotAReport { format: String },
    #[error("report has version {version}; this program reads up to version {}", v1::VERSION)]
    Newer { version: u32 },
    #[error("report has no signature")]
    Unsigned,
    #[error("report is badly signed")]
    BadlySigned {
        #[source]
        source: SignatureError,
    },
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::report::tests::report;
    use crate::signature::{SigningKey, generate};

    /// A chain of so many reports, a minute apart, and who signed them.
    struct Chain {
        key: SigningKey,
        signers: TrustedSigners,
        reports: Vec<SignedReport>,
    }

    impl Chain {
        fn of(count: u64) -> Self {
            let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
            let signers = TrustedSigners::parse(&format!("v {}\n", key.public_line())).unwrap();
            let mut chain = Self { key, signers, reports: Vec::new() };
            for number in 1..=count {
                let previous = chain.reports.last().map_or(Previous::None, SignedReport::as_previous);
                let signed = chain.signed(number, previous, 60 * i64::try_from(number).unwrap());
                chain.reports.push(signed);
            }
            chain
        }

        fn signed(&self, number: u64, previous: Previous, second: i64) -> SignedReport {
            let mut report = report(&[]);
            (report.number, report.previous) = (number, previous);
            report.finished_at = Timestamp::from_second(second).unwrap();
            let bytes = serde_json::to_vec(&report).unwrap();
            let signature = self.key.sign(namespace::REPORT, &bytes).unwrap();
            SignedReport::check(&bytes, &signature, &self.signers).unwrap()
        }
    }

    #[test]
    fn a_whole_chain_holds_in_any_order() {
        let mut chain = Chain::of(4);
        chain.reports.reverse();
        assert_eq!(breaks(&chain.reports), []);
        // The same file twice, as in an export and the repository, is one report.
        chain.reports.push(chain.reports[0].clone());
        assert_eq!(breaks(&chain.reports), []);
    }

    #[test]
    fn a_report_follows_the_one_of_the_number_before() {
        let mut chain = Chain::of(2);
        let after_the_first = chain.reports[0].as_previous();
        chain.reports.push(chain.signed(3, after_the_first, 180));
        assert_eq!(breaks(&chain.reports), [Break::Misnumbered { number: 3 }]);
        // Two of one second are in no wrong order.
        chain.reports[2] = chain.signed(3, chain.reports[1].as_previous(), 120);
        assert_eq!(breaks(&chain.reports), []);
    }

    #[test]
    fn removed_reports_show_but_for_the_newest() {
        let chain = Chain::of(5);
        let without =
            |gone: &[u64]| breaks(chain.reports.iter().filter(|signed| !gone.contains(&signed.get().number)));
        assert_eq!(without(&[1]), [Break::Missing { number: 2, from: 1, to: 1 }]);
        assert_eq!(without(&[2, 3]), [Break::Missing { number: 4, from: 2, to: 3 }]);
        assert_eq!(without(&[5]), []);
    }

    #[test]
    fn exchanged_back_dated_and_doubled_reports_show() {
        let mut chain = Chain::of(3);
        let other = chain.signed(2, chain.reports[0].as_previous(), 121);
        let exchanged = [chain.reports[0].clone(), other.clone(), chain.reports[2].clone()];
        assert_eq!(breaks(&exchanged), [Break::Replaced { number: 3 }]);
        chain.reports.push(other);
        assert!(breaks(&chain.reports).contains(&Break::Twice { number: 2 }));
        let chain = Chain::of(3);
        let early = chain.signed(4, chain.reports[2].as_previous(), 100);
        let reports = chain.reports.iter().chain([&early]);
        assert!(matches!(breaks(reports)[..], [Break::BackDated { number: 4, .. }]));
        let first_again = chain.signed(4, Previous::None, 300);
        assert_eq!(breaks(chain.reports.iter().chain([&first_again])), [Break::Misnumbered { number: 4 }]);
    }

    #[test]
    fn one_changed_character_is_no_signed_report() {
        let chain = Chain::of(1);
        let bytes = serde_json::to_vec(chain.reports[0].get()).unwrap();
        let signature = chain.key.sign(namespace::REPORT, &bytes).unwrap();
        let at = bytes.windows(4).position(|four| four == b"host").unwrap() + 8;
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let checked = SignedReport::check(&changed, &signature, &chain.signers);
        assert!(matches!(checked, Err(ReportError::BadlySigned { .. })), "{checked:?}");
        assert!(SignedReport::check(&bytes, &signature, &chain.signers).is_ok());
    }

    #[test]
    fn what_is_missing_of_a_chain_is_told_by_its_numbers() {
        let missing = |from, to| Break::Missing { number: to + 1, from, to }.to_string();
        assert_eq!(missing(3, 3), "report 3 is missing");
        assert_eq!(missing(3, 5), "reports 3 to 5 are missing");
    }
}
