//! What pages show, read from the bucket: by few requests a page, before a deadline, and kept for a short while. Reports are
//! written once: what lists say of them is kept for as long as they lie there unchanged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use pgproof_monitoring::survey::{Subject, Survey};
use pgproof_policies::names::SourceName;
use pgproof_repository::audit::{self, Audit};
use pgproof_repository::catalog;
use pgproof_repository::ids::{BackupId, ObjectKey, RepositoryId};
use pgproof_repository::layout;
use pgproof_repository::report::chain::{
    self, Break, Found, Link, Listed, REPORT_BYTES_MAX, ReportError, SIGNATURE_BYTES_MAX, SignedReport,
};
use pgproof_repository::report::{Verdict, v1};
use pgproof_repository::signature::{Signer, TrustedSigners};
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::StoreError;
use pgproof_repository::store::frugal::FrugalStore;
use tokio::sync::Semaphore;

use super::cache::{Cache, Keep};
use crate::drill::history_backup;
use crate::failure;
use crate::report::{files, table};

/// What was read may be shown for so long; pages say how old it is.
const KEPT: Duration = Duration::from_secs(60);
/// A failure may be over sooner.
const KEPT_FAILURE: Duration = Duration::from_secs(10);
/// An audit trail is read whole.
const KEPT_TRAIL: Duration = Duration::from_secs(300);
/// Backups and reports of a source's page, the newest.
pub(super) const SHOWN_MAX: usize = 50;
/// Requests of a source's page: for each of its backups and reports a few.
const HISTORY_REQUESTS_MAX: usize = 1000;
/// Requests of an audit trail: two for each record, so a year or two of a source that is backed up every night.
const TRAIL_REQUESTS_MAX: usize = 5000;
/// How long a page may take to be read.
const TIME_LIMIT: Duration = Duration::from_secs(25);
const TRAIL_TIME_LIMIT: Duration = Duration::from_secs(60);
/// Reports fetched at the same time: each may have a line for every table.
const FETCHES_IN_FLIGHT: usize = 4;
/// Pages that are being read at the same time; others wait.
const READS_IN_FLIGHT: usize = 4;
/// Reports kept with all that is in them, which may be much.
const REPORTS_KEPT_MAX: usize = 8;
/// Sources kept: more than a policy has.
const SOURCES_KEPT_MAX: usize = 1000;

/// The repository as pages see it.
#[derive(Debug)]
pub(crate) struct Bucket {
    subject: Subject,
    shelf: Shelf,
    names: Vec<SourceName>,
    surveys: Cache<(), Survey>,
    histories: Cache<SourceName, Read<History>>,
    trails: Cache<SourceName, Read<Audit>>,
    reports: Cache<ObjectKey, Read<Option<Report>>>,
}

/// What reading takes; tasks share it.
#[derive(Debug, Clone)]
struct Shelf {
    store: SharedStore,
    signers: TrustedSigners,
    reads: Arc<Semaphore>,
    briefs: Arc<Mutex<Briefs>>,
}

/// Of each source, those of its page.
type Briefs = HashMap<SourceName, HashMap<ObjectKey, KeptBrief>>;

/// What was made of a report that may have a line for every table, and of what.
#[derive(Debug, Clone)]
struct KeptBrief {
    of: Listed,
    brief: Brief,
}

/// What came of reading, and when it began.
#[derive(Debug)]
pub(super) struct Read<T> {
    pub at: Timestamp,
    pub what: Result<T, String>,
}

/// The newest of a source.
#[derive(Debug)]
pub(super) struct History {
    /// As reports have it, oldest first.
    pub backups: Vec<v1::HistoryBackup>,
    pub has_older_backups: bool,
    /// Newest first.
    pub reports: Vec<Brief>,
    /// Every report that lies there, whatever it is worth.
    keys: Vec<(BackupId, ObjectKey)>,
    pub breaks: Vec<Break>,
    /// `None` where nothing has begun.
    repository: Option<RepositoryId>,
}

/// What a list says of a report.
#[derive(Debug, Clone)]
pub(super) struct Brief {
    pub backup: BackupId,
    /// The time in its key.
    pub time: String,
    pub told: Result<Told, String>,
}

/// What a well signed report says, without its tables.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub link: Link,
    pub signer: Signer,
    pub verdict: Verdict,
    pub recovery_seconds: Option<f64>,
    pub database_bytes: u64,
    /// It was signed for another repository, source, backup or time than those where it lies.
    pub is_misplaced: bool,
}

/// One report with its files.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub report: Bytes,
    /// `None` where none lies there.
    pub signature: Option<Bytes>,
    pub standing: Arc<Standing>,
}

/// What a report's signature is worth.
#[derive(Debug)]
pub(super) enum Standing {
    Trusted {
        signed: Box<SignedReport>,
        /// Why it proves nothing all the same.
        at_odds: Vec<String>,
        /// Whether its place in the chain was looked at: that takes the reports around it.
        is_placed: bool,
    },
    NotTrusted {
        why: String,
    },
}

/// What is asked for of which report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub source: SourceName,
    pub backup: BackupId,
    pub time: String,
    pub handed: Handed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    Page,
    Json,
    Signature,
    Csv,
}

impl Bucket {
    pub(crate) fn new(
        subject: Subject,
        store: SharedStore,
        signers: TrustedSigners,
        names: Vec<SourceName>,
    ) -> Self {
        Self {
            subject,
            shelf: Shelf::new(store, signers),
            names,
            surveys: Cache::new(1),
            histories: Cache::new(SOURCES_KEPT_MAX),
            trails: Cache::new(SOURCES_KEPT_MAX),
            reports: Cache::new(REPORTS_KEPT_MAX),
        }
    }

    /// A source of the policy by its name.
    pub(super) fn source(&self, name: &str) -> Option<SourceName> {
        self.names.iter().find(|known| known.as_str() == name).cloned()
    }

    /// How every source stands.
    pub(super) async fn survey(&self) -> Arc<Survey> {
        let subject = self.subject.clone();
        self.surveys.get(&(), async move { subject.survey(Timestamp::now()).await }).await
    }

    pub(super) async fn history(&self, source: &SourceName) -> Arc<Read<History>> {
        let (shelf, name) = (self.shelf.clone(), source.clone());
        let read = async move {
            shelf
                .read(HISTORY_REQUESTS_MAX, TIME_LIMIT, |shelf| async move { shelf.history(&name).await })
                .await
        };
        self.histories.get(source, read).await
    }

    pub(super) async fn trail(&self, source: &SourceName) -> Arc<Read<Audit>> {
        let (shelf, name) = (self.shelf.clone(), source.clone());
        let read = async move {
            let whole = |shelf: Shelf| async move {
                audit::of(&shelf.store, &name, &shelf.signers).await.map_err(|error| failure::chain(&error))
            };
            shelf.read(TRAIL_REQUESTS_MAX, TRAIL_TIME_LIMIT, whole).await
        };
        self.trails.get(source, read).await
    }

    /// `None` where no such report lies there: its source's list is asked, not the bucket.
    pub(super) async fn report(&self, asked: &Asked) -> Arc<Read<Option<Report>>> {
        let history = self.history(&asked.source).await;
        let key = match &history.what {
            Ok(known) => known.key(asked),
            Err(why) => return Arc::new(Read { at: history.at, what: Err(why.clone()) }),
        };
        let Some(key) = key else { return Arc::new(Read { at: history.at, what: Ok(None) }) };
        let (shelf, asked, place) = (self.shelf.clone(), asked.clone(), key.clone());
        // Its file and its signature.
        let read = async move {
            shelf
                .read(2, TIME_LIMIT, |shelf| async move { shelf.report(&asked, &place, &history).await })
                .await
        };
        self.reports.get(&key, read).await
    }
}

impl Shelf {
    fn new(store: SharedStore, signers: TrustedSigners) -> Self {
        let reads = Arc::new(Semaphore::new(READS_IN_FLIGHT));
        Self { store, signers, reads, briefs: Arc::default() }
    }

    /// Reads by a store that lets so many requests pass.
    async fn read<T, R: Future<Output = Result<T, String>>>(
        self,
        requests_max: usize,
        time_limit: Duration,
        read: impl FnOnce(Self) -> R,
    ) -> Read<T> {
        let reads = Arc::clone(&self.reads);
        let Ok(_permit) = reads.acquire().await else {
            return Read { at: Timestamp::now(), what: Err("the server is stopping".to_owned()) };
        };
        let at = Timestamp::now();
        let frugal: SharedStore = Arc::new(FrugalStore::new(self.store.clone(), requests_max));
        let what = tokio::time::timeout(time_limit, read(Self { store: frugal, ..self })).await;
        let late = || Err(format!("no answer within {} s", time_limit.as_secs()));
        Read { at, what: what.unwrap_or_else(|_| late()) }
    }

    async fn history(self, source: &SourceName) -> Result<History, String> {
        let marker = catalog::find_marker(&*self.store).await.map_err(|error| failure::chain(&error))?;
        let page = catalog::page(&self.store, source, &self.signers, None, SHOWN_MAX).await;
        let page = page.map_err(|error| failure::chain(&error))?;
        let repository = marker.map(|marker| marker.id);
        if repository.is_none() && !page.entries.is_empty() {
            return Err("backups lie there, and repository.json, which says whose, does not".to_owned());
        }
        let backups = page.entries.iter().filter_map(history_backup);
        let mut listed = chain::listed(&self.store, source).await.map_err(|error| failure::chain(&error))?;
        // File names are the times at which the drills ended.
        listed.sort_by(|one, other| time(&other.report.key).cmp(time(&one.report.key)));
        let newest = &listed[..listed.len().min(SHOWN_MAX)];
        let reports =
            self.briefs(source, repository.as_ref(), newest).await.map_err(|error| failure::chain(&error))?;
        let keys: Vec<_> = listed.into_iter().map(|listed| (listed.backup, listed.report.key)).collect();
        let breaks = breaks(&reports, keys.len() > SHOWN_MAX);
        let (backups, has_older_backups) = (backups.collect(), page.has_older);
        Ok(History { backups, has_older_backups, reports, keys, breaks, repository })
    }

    /// What is known of these reports; those that are new are read, and kept at once: where there are many large ones, the next
    /// try goes on where this one ran out of time.
    async fn briefs(
        &self,
        source: &SourceName,
        repository: Option<&RepositoryId>,
        listed: &[Listed],
    ) -> Result<Vec<Brief>, StoreError> {
        self.keep_only(source, listed);
        let read = stream::iter(listed.iter().cloned()).map(|listed| self.brief(source, repository, listed));
        read.buffered(FETCHES_IN_FLIGHT).try_collect().await
    }

    async fn brief(
        &self,
        source: &SourceName,
        repository: Option<&RepositoryId>,
        listed: Listed,
    ) -> Result<Brief, StoreError> {
        if let Some(brief) = self.kept(source, &listed) {
            return Ok(brief);
        }
        let Found { key, report } =
            chain::fetch(&self.store, listed.report.key.clone(), &self.signers).await?;
        let told = match &report {
            Ok(signed) => Ok(told(signed, source, repository, &key)),
            Err(error) => Err(failure::chain(error)),
        };
        let brief = Brief { backup: listed.backup.clone(), time: time(&key).to_owned(), told };
        // What came damaged may have been so on its way alone.
        if !matches!(report, Err(ReportError::Damaged { .. })) {
            let kept = KeptBrief { of: listed, brief: brief.clone() };
            self.lock_briefs().entry(source.clone()).or_default().insert(key, kept);
        }
        Ok(brief)
    }

    fn kept(&self, source: &SourceName, listed: &Listed) -> Option<Brief> {
        let briefs = self.lock_briefs();
        let kept = briefs.get(source)?.get(&listed.report.key)?;
        (kept.of == *listed).then(|| kept.brief.clone())
    }

    /// Older ones have left the page, or the bucket.
    fn keep_only(&self, source: &SourceName, listed: &[Listed]) {
        let keys: HashSet<&ObjectKey> = listed.iter().map(|listed| &listed.report.key).collect();
        if let Some(briefs) = self.lock_briefs().get_mut(source) {
            briefs.retain(|key, _| keys.contains(key));
        }
    }

    fn lock_briefs(&self) -> MutexGuard<'_, Briefs> {
        self.briefs.lock().expect("no holder of this lock panics")
    }

    async fn report(
        &self,
        asked: &Asked,
        key: &ObjectKey,
        history: &Read<History>,
    ) -> Result<Option<Report>, String> {
        let read = |key: ObjectKey, bytes_max| async move {
            match self.store.get(&key, bytes_max).await {
                Ok((bytes, _)) => Ok(Some(bytes)),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(failure::chain(&error)),
            }
        };
        // One that was removed since it was listed is not there.
        let Some(report) = read(key.clone(), REPORT_BYTES_MAX).await? else { return Ok(None) };
        let signature = read(layout::signature_of(key), SIGNATURE_BYTES_MAX).await?;
        let text = signature.as_deref().map(String::from_utf8_lossy);
        let checked = match text {
            Some(text) => SignedReport::check(&report, &text, &self.signers),
            None => Err(ReportError::Unsigned),
        };
        let standing = match checked {
            Ok(signed) => standing(signed, asked, key, history),
            Err(error) => Standing::NotTrusted { why: failure::chain(&error) },
        };
        Ok(Some(Report { report, signature, standing: Arc::new(standing) }))
    }
}

fn told(
    signed: &SignedReport,
    source: &SourceName,
    repository: Option<&RepositoryId>,
    key: &ObjectKey,
) -> Told {
    let report = signed.get();
    Told {
        link: signed.link(),
        signer: signed.signer().clone(),
        verdict: report.verdict,
        recovery_seconds: report.recovery_seconds,
        database_bytes: report.database.bytes,
        is_misplaced: is_misplaced(signed, source, repository, key),
    }
}

fn is_misplaced(
    signed: &SignedReport,
    source: &SourceName,
    repository: Option<&RepositoryId>,
    key: &ObjectKey,
) -> bool {
    let report = signed.get();
    report.source != *source
        || repository.is_some_and(|own| *own != report.repository)
        || layout::verification(&report.source, &report.backup, report.finished_at) != *key
}

fn standing(signed: SignedReport, asked: &Asked, key: &ObjectKey, history: &Read<History>) -> Standing {
    let number = signed.get().number;
    let mut at_odds = Vec::new();
    let shown = history.what.as_ref().ok();
    let repository = shown.and_then(|shown| shown.repository.as_ref());
    if is_misplaced(&signed, &asked.source, repository, key) {
        let why = "it is signed for another repository, source, backup or time than those where it lies";
        at_odds.push(why.to_owned());
    }
    let breaks = shown.map_or(&[][..], |shown| &shown.breaks);
    let own = breaks.iter().filter(|found| found.discredits() == Some(number));
    at_odds.extend(own.map(ToString::to_string));
    let is_placed = shown.is_some_and(|shown| shown.reports.iter().any(|brief| brief.time == asked.time));
    Standing::Trusted { signed: Box::new(signed), at_odds, is_placed }
}

/// What does not hold in the chain, among the reports that were looked at.
fn breaks(reports: &[Brief], has_older: bool) -> Vec<Break> {
    let told = reports.iter().filter_map(|brief| brief.told.as_ref().ok());
    let links: Vec<Link> = told.filter(|told| !told.is_misplaced).map(|told| told.link.clone()).collect();
    let mut breaks = chain::breaks_of(&links);
    let first = links.iter().map(|link| link.number).min();
    if has_older {
        // Those before the first are not missing: nobody looked.
        breaks.retain(|found| !matches!(found, Break::Missing { number, .. } if Some(*number) == first));
    }
    breaks
}

fn time(key: &ObjectKey) -> &str {
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".json").unwrap_or(name)
}

impl History {
    pub(super) fn report_count(&self) -> usize {
        self.keys.len()
    }

    fn key(&self, asked: &Asked) -> Option<ObjectKey> {
        let found = self.keys.iter().find(|(backup, key)| *backup == asked.backup && time(key) == asked.time);
        found.map(|(_, key)| key.clone())
    }

    /// Why this report proves nothing although it is well signed.
    pub(super) fn at_odds(&self, told: &Told) -> Option<String> {
        if told.is_misplaced {
            return Some("signed for another place".to_owned());
        }
        let own = self.breaks.iter().find(|found| found.discredits() == Some(told.link.number));
        own.map(ToString::to_string)
    }
}

impl Report {
    /// A table is made of what is well signed alone.
    pub(super) fn csv(&self) -> Option<Bytes> {
        match &*self.standing {
            Standing::Trusted { signed, .. } => Some(table::csv(signed.get()).into()),
            Standing::NotTrusted { .. } => None,
        }
    }

    /// As exports are called; what is not well signed has no say in its name.
    pub(super) fn file_name(&self, asked: &Asked, ending: &str) -> String {
        match &*self.standing {
            Standing::Trusted { signed, .. } => format!("{}.{ending}", files::name(signed.get())),
            Standing::NotTrusted { .. } => {
                format!("{}-{}-{}.{ending}", asked.source, asked.backup, asked.time)
            }
        }
    }

    pub(super) fn title(&self, asked: &Asked) -> String {
        match &*self.standing {
            Standing::Trusted { signed, .. } => format!("Report {} of {}", signed.get().number, asked.source),
            Standing::NotTrusted { .. } => format!("A report of {} that is not trusted", asked.source),
        }
    }
}

impl Asked {
    /// `None` for what cannot be the name of a report's file.
    pub(super) fn of(source: &SourceName, backup: &str, file: &str) -> Option<Self> {
        let endings = [(".json.sig", Handed::Signature), (".json", Handed::Json), (".csv", Handed::Csv)];
        let ended =
            endings.into_iter().find_map(|(ending, handed)| Some((file.strip_suffix(ending)?, handed)));
        let (time, handed) = ended.unwrap_or((file, Handed::Page));
        let is_time = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let backup = backup.parse().ok().filter(|_| is_time)?;
        Some(Self { source: source.clone(), backup, time: time.to_owned(), handed })
    }
}

impl Keep for Survey {
    fn keep(&self) -> Duration {
        if self.is_complete() { KEPT } else { KEPT_FAILURE }
    }
}

impl Keep for Read<History> {
    fn keep(&self) -> Duration {
        if self.what.is_ok() { KEPT } else { KEPT_FAILURE }
    }
}

impl Keep for Read<Option<Report>> {
    fn keep(&self) -> Duration {
        if self.what.is_ok() { KEPT } else { KEPT_FAILURE }
    }
}

impl Keep for Read<Audit> {
    fn keep(&self) -> Duration {
        if self.what.is_ok() { KEPT_TRAIL } else { KEPT }
    }
}

#[cfg(test)]
mod tests {
    use pgproof_repository::store::counting::CountingStore;
    use pgproof_repository::store::operation::Operation;

    use super::*;
    use crate::report::sample::Chain;
    use crate::serve::tests::{place, source, store_of};

    #[tokio::test]
    async fn reports_are_read_once_as_long_as_they_lie_there_unchanged() {
        let chain = Chain::of(3);
        let store = store_of(&chain).await;
        let counting = CountingStore::new(store.clone());
        let shelf = Shelf::new(Arc::new(counting.clone()), chain.trusted());
        let read = async || {
            counting.counters().reset();
            let history = shelf.clone().history(&source()).await.unwrap();
            let trusted = history.reports.iter().filter(|brief| brief.told.is_ok()).count();
            (trusted, counting.counters().of(Operation::Get).requests)
        };
        let (trusted, first) = read().await;
        assert_eq!(trusted, 3);
        let (trusted, again) = read().await;
        assert_eq!((trusted, first - again), (3, 6), "three reports with their signatures");
        let signature = layout::signature_of(&place(&chain.reports[1].2));
        store.delete(&signature).await.unwrap();
        let (trusted, changed) = read().await;
        assert_eq!((trusted, changed - again), (2, 2), "one whose signature has gone");
    }
}
