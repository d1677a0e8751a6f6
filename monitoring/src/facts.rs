//! What the bucket says of one source, in few requests: listings find the names, and of the objects only the newest are read.
//!
//! Nothing unsigned is a fact here. That an object is absent, unreadable or badly signed is found; only that the store does not
//! answer is an error, since then nothing is known.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_policies::standing::{AtWork, Backup, CLOCK_SKEW_MAX, Drill, Facts, PassedOver, Run, Verdict};
use pgproof_repository::catalog::{Before, CatalogError, Finder, Folders};
use pgproof_repository::ids::{BackupId, KeyPrefix, ManifestSha256, ObjectKey};
use pgproof_repository::layout;
use pgproof_repository::lease::{self, LeaseError};
use pgproof_repository::manifest::v1::Contents;
use pgproof_repository::manifest::{ManifestError, SignedManifest};
use pgproof_repository::records::{self, RecordError, RunOutcome};
use pgproof_repository::report::{self, by_time, chain};
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::{SharedStore, StoreError};

/// Folders read in search of a good backup: three a day of failures for a month leave fewer.
const FOLDERS_READ_MAX: usize = 100;
/// Folders read to find the backup of some time ago.
const FOLDERS_READ_FOR_GROWTH: usize = 3;
/// Records of runs that are read: enough for a row of failures and the hosts of a source.
const RUNS_READ_MAX: usize = 24;
/// Reports that are read: the newest proof is among them, or there is much to tell.
const REPORTS_READ_MAX: usize = 24;
/// The newest backups whose own reports are looked for.
const BACKUPS_WITH_REPORTS: usize = 8;
/// Removals that are looked into.
const REMOVALS_READ_MAX: usize = 8;
/// Folders whose tombstone is asked for by its name: more than retention leaves of most sources.
const REMOVALS_ASKED_MAX: usize = 100;
/// Keys that a store tells in one answer.
const KEYS_PER_REQUEST: usize = 1000;
/// Where there are many runs, those of so long are listed; where these are too few, those of the next span, at last all.
const RUNS_LISTED_FOR: [SignedDuration; 4] = [
    SignedDuration::from_hours(2 * 24),
    SignedDuration::from_hours(16 * 24),
    SignedDuration::from_hours(128 * 24),
    SignedDuration::from_hours(1024 * 24),
];
/// Growth is told over these spans.
pub const GROWTH_SPANS: [SignedDuration; 2] =
    [SignedDuration::from_hours(7 * 24), SignedDuration::from_hours(30 * 24)];
/// Objects fetched at the same time.
const FETCHES_IN_FLIGHT: usize = 4;

/// Reads what there is of a source at `now`.
///
/// # Errors
/// When the store fails: then nothing is known.
pub async fn gather(
    store: &SharedStore,
    source: &SourceName,
    signers: &TrustedSigners,
    now: Timestamp,
) -> Result<Facts, FactsError> {
    let finder =
        Finder::open(store, source, signers).await.map_err(|source| FactsError::Catalog { source })?;
    let reader = Reader { store, source, signers, finder };
    // Records before folders: what a record tells of was there when it was written.
    let (runs, worthless_runs, first_run) = reader.runs(now).await?;
    let folders = Folders::open(store, source).await.map_err(|source| FactsError::Catalog { source })?;
    let newest = folders.newest(None, FOLDERS_READ_MAX).await;
    let newest = newest.map_err(|source| FactsError::Catalog { source })?;
    if reader.finder.repository().is_none() && !newest.is_empty() {
        return Err(FactsError::NoMarker);
    }
    let (reports, worthless_reports) = reader.reports(&newest, now).await?;
    let mut search = reader.newest_backups(&folders, newest, &reports, now).await?;
    search.passed_over.extend(reader.vanished(&runs, &search).await?);
    confirm(&mut search.backups, &runs);
    let at_work = reader.at_work(now).await?;
    let is_pruning = at_work.iter().any(|at_work| at_work.on == "prune");
    let unfinished_removals =
        if is_pruning { 0 } else { reader.unfinished_removals(folders.first()).await? };
    search.backups.append(&mut search.imported);
    let first_folder = folders.oldest().map(BackupId::started_at);
    Ok(Facts {
        backups: search.backups,
        first_seen: first_folder.into_iter().chain(first_run).min(),
        passed_over: search.passed_over,
        not_looked_at: search.not_looked_at,
        runs,
        drills: reports.iter().map(|report| drill(report.get())).collect(),
        worthless_records: worthless_reports + worthless_runs,
        unfinished_removals,
        at_work,
        store_clock_ahead: None,
    })
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactsError {
    #[error("the repository cannot be read")]
    Store {
        #[from]
        source: StoreError,
    },
    /// Whose backups these are nobody can tell: whoever next opens the repository would be told that there is none.
    #[error("backups lie there, and repository.json, which says whose, does not")]
    NoMarker,
    #[error("a backup cannot be fetched")]
    Catalog {
        #[source]
        source: CatalogError,
    },
    #[error("the record of a run cannot be fetched")]
    Record {
        #[source]
        source: RecordError,
    },
}

struct Reader<'a> {
    store: &'a SharedStore,
    source: &'a SourceName,
    signers: &'a TrustedSigners,
    finder: Finder,
}

/// What the search for the newest good backup came to.
#[derive(Default)]
struct Search {
    backups: Vec<Backup>,
    /// Backups that were dumped without pgproof.
    imported: Vec<Backup>,
    passed_over: Vec<PassedOver>,
    not_looked_at: usize,
}

/// What a folder is worth.
enum Looked {
    Good(Box<SignedManifest>),
    /// It looks like a backup and is none.
    Flawed(String),
    /// A run that goes on or died, or a removal.
    Nothing,
}

impl Reader<'_> {
    /// The newest signed reports of this source and of its newest backups, newest first, and how many among them are worth
    /// nothing.
    async fn reports(
        &self,
        newest_backups: &[BackupId],
        now: Timestamp,
    ) -> Result<(Vec<chain::SignedReport>, usize), FactsError> {
        let mut keys = by_time::newest(self.store, self.source, REPORTS_READ_MAX, now).await?;
        let looked_at = newest_backups.chunks(BACKUPS_WITH_REPORTS).next().unwrap_or_default();
        if let (Some(newest), Some(oldest)) = (looked_at.first(), looked_at.last()) {
            // That one of them was found bad must be known, whether that report can be found by its time or not.
            let theirs = chain::keys_of(self.store, self.source, oldest, newest).await?;
            let mut theirs: Vec<ObjectKey> = theirs.into_iter().map(|(_, key)| key).collect();
            by_time::newest_first(&mut theirs);
            theirs.truncate(REPORTS_READ_MAX);
            keys.extend(theirs);
        }
        by_time::newest_first(&mut keys);
        keys.dedup();
        let fetched = stream::iter(keys).map(|key| chain::fetch(self.store, key, self.signers));
        let found: Vec<chain::Found> = fetched.buffered(FETCHES_IN_FLIGHT).try_collect().await?;
        let count = found.len();
        let signed = found.into_iter().filter_map(|found| found.report.ok());
        let is_own = |report: &report::v1::Report| {
            report.source == *self.source
                && self.finder.repository().is_none_or(|own| *own == report.repository)
        };
        let mut signed: Vec<_> = signed.filter(|report| is_own(report.get())).collect();
        signed.sort_by_key(|report| std::cmp::Reverse(report.get().finished_at));
        let worthless = count - signed.len();
        Ok((signed, worthless))
    }

    /// The newest runs, newest first, how many records among them are worth nothing, and when the first run began.
    async fn runs(&self, now: Timestamp) -> Result<(Vec<Run>, usize, Option<Timestamp>), FactsError> {
        let prefix = layout::runs(self.source);
        let (mut ids, mut is_all) = self.run_ids(&prefix, None, Some(KEYS_PER_REQUEST)).await?;
        let Some(first) = ids.first().map(BackupId::started_at) else {
            return Ok((Vec::new(), 0, None));
        };
        let mut spans = RUNS_LISTED_FOR.iter();
        while !is_all {
            let since = spans.next().and_then(|span| now.checked_sub(*span).ok());
            let since = since.and_then(|since| layout::runs_from(self.source, since));
            (ids, _) = self.run_ids(&prefix, since.as_ref(), None).await?;
            is_all = since.is_none() || ids.len() >= RUNS_READ_MAX;
        }
        let newest = ids.into_iter().rev().take(RUNS_READ_MAX);
        let fetched = stream::iter(newest).map(|id| self.run(id)).buffered(FETCHES_IN_FLIGHT);
        let found: Vec<Option<Run>> = fetched.try_collect().await?;
        let count = found.len();
        let mut runs: Vec<Run> = found.into_iter().flatten().collect();
        // Ids of one second sort by chance.
        runs.sort_by_key(|run| std::cmp::Reverse(run.started_at));
        let worthless = count - runs.len();
        Ok((runs, worthless, Some(first)))
    }

    /// Oldest first, and whether these are all that there are from `start_after` on.
    async fn run_ids(
        &self,
        prefix: &KeyPrefix,
        start_after: Option<&ObjectKey>,
        keys_max: Option<usize>,
    ) -> Result<(Vec<BackupId>, bool), FactsError> {
        let keys_max = keys_max.unwrap_or(usize::MAX);
        let listed = self.store.list(prefix, start_after).take(keys_max);
        let keys: Vec<ObjectKey> = listed.map_ok(|meta| meta.key).try_collect().await?;
        let is_all = keys.len() < keys_max;
        let records = keys.iter().filter(|key| key.as_str().ends_with(".json"));
        Ok((records.filter_map(|key| run_id(prefix, key)).collect(), is_all))
    }

    /// `None` where the record is worth nothing.
    async fn run(&self, id: BackupId) -> Result<Option<Run>, FactsError> {
        let key = layout::run(self.source, &id);
        match records::get::<records::Run>(&**self.store, &key, self.signers).await {
            Ok((run, _)) if run.id == id && run.source == *self.source => Ok(Some(Run {
                id: id.to_string(),
                started_at: run.started_at,
                ended_at: run.ended_at,
                host: run.host,
                unchanged_since: match &run.outcome {
                    RunOutcome::Unchanged { since } => Some(since.to_string()),
                    RunOutcome::Committed { .. } | RunOutcome::Failed { .. } => None,
                },
                error: match run.outcome {
                    RunOutcome::Committed { .. } | RunOutcome::Unchanged { .. } => None,
                    RunOutcome::Failed { error, .. } => Some(error),
                },
            })),
            Err(source) if source.is_of_the_store() => Err(FactsError::Record { source }),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Back from the newest folder to a good backup that is not dated ahead, and then those that tell of growth.
    async fn newest_backups(
        &self,
        folders: &Folders,
        newest_first: Vec<BackupId>,
        reports: &[chain::SignedReport],
        now: Timestamp,
    ) -> Result<Search, FactsError> {
        let refuted = refuted(reports);
        let mut search = Search::default();
        let in_catalog = |source| FactsError::Catalog { source };
        let oldest_read = newest_first.last().map(Before::id);
        let mut read = stream::iter(newest_first)
            .map(|id| async move { self.look(&id).await.map(|looked| (id, looked)) })
            .buffered(FETCHES_IN_FLIGHT);
        let mut newest = None;
        while let Some((id, looked)) = read.try_next().await? {
            let lost = match &looked {
                Looked::Good(signed) => self.lost(signed, folders).await?,
                Looked::Flawed(_) | Looked::Nothing => None,
            };
            match looked {
                Looked::Good(signed) if refuted.contains(&(id.clone(), signed.sha256())) => {
                    let why = "a drill found it bad".to_owned();
                    search.passed_over.push(PassedOver { id: id.to_string(), why });
                }
                Looked::Good(_) if let Some(lost) = lost => {
                    let why = format!("it needs {lost}, which is gone");
                    search.passed_over.push(PassedOver { id: id.to_string(), why });
                }
                // Of another time than its id says: newer ones may lie behind it.
                Looked::Good(signed) if signed.get().imported.is_some() => {
                    search.imported.push(backup(&signed))
                }
                Looked::Good(signed) => {
                    let is_ahead = signed.snapshot_at().duration_since(now) > CLOCK_SKEW_MAX;
                    search.backups.push(backup(&signed));
                    if !is_ahead {
                        newest = Some(id);
                        break;
                    }
                }
                Looked::Flawed(why) => search.passed_over.push(PassedOver { id: id.to_string(), why }),
                Looked::Nothing => {}
            }
        }
        match newest {
            Some(newest) => self.for_growth(folders, &newest, &mut search).await?,
            None if oldest_read.is_some() => {
                let older = folders.newest(oldest_read.as_ref(), usize::MAX).await.map_err(in_catalog)?;
                search.not_looked_at = older.len();
            }
            None => {}
        }
        Ok(search)
    }

    async fn for_growth(
        &self,
        folders: &Folders,
        newest: &BackupId,
        search: &mut Search,
    ) -> Result<(), FactsError> {
        for span in GROWTH_SPANS {
            let Ok(then) = newest.started_at().checked_sub(span) else { continue };
            let before = Before::time(then + SignedDuration::from_secs(1));
            let older = folders.newest(Some(&before), FOLDERS_READ_FOR_GROWTH).await;
            for id in older.map_err(|source| FactsError::Catalog { source })? {
                if let Looked::Good(signed) = self.look(&id).await? {
                    search.backups.push(backup(&signed));
                    break;
                }
            }
        }
        Ok(())
    }

    async fn look(&self, id: &BackupId) -> Result<Looked, FactsError> {
        Ok(match self.finder.find(id).await {
            Ok(signed) => Looked::Good(Box::new(signed)),
            Err(CatalogError::NoSuchBackup { .. }) => Looked::Nothing,
            Err(CatalogError::Unsigned { .. }) => Looked::Flawed("it is not signed".to_owned()),
            Err(CatalogError::Manifest { source, .. }) => Looked::Flawed(flaw(&source)),
            Err(source) => return Err(FactsError::Catalog { source }),
        })
    }

    /// A backup whose bytes an incremental one shares and that is not there. Only those are asked for that the first
    /// answer did not tell.
    async fn lost(&self, signed: &SignedManifest, folders: &Folders) -> Result<Option<BackupId>, FactsError> {
        let bases = signed.get().bases().iter().map(|base| base.id.clone());
        let unlisted: Vec<BackupId> = bases.filter(|id| folders.first().binary_search(id).is_err()).collect();
        let asked = stream::iter(unlisted).map(|id| async move {
            match self.store.head(&layout::manifest(self.source, &id)).await {
                Ok(_) => Ok(None),
                Err(StoreError::NotFound { .. }) => Ok(Some(id)),
                Err(source) => Err(FactsError::Store { source }),
            }
        });
        let asked: Vec<Option<BackupId>> = asked.buffered(FETCHES_IN_FLIGHT).try_collect().await?;
        Ok(asked.into_iter().flatten().next())
    }

    async fn at_work(&self, now: Timestamp) -> Result<Vec<AtWork>, FactsError> {
        let leases = [
            ("backup", layout::backup_lease(self.source)),
            ("prune", layout::prune_lease(self.source)),
            ("drill", layout::drill_lease(self.source)),
        ];
        let mut at_work = Vec::new();
        for (on, key) in leases {
            match lease::holder_at(self.store, &key, now).await {
                Ok(holder) => {
                    at_work.extend(holder.map(|holder| AtWork { on, host: holder.host, pid: holder.pid }));
                }
                Err(LeaseError::Store { source }) => return Err(source.into()),
                // Whoever wants the lease will say so; nobody is known to hold it.
                Err(_) => {}
            }
        }
        Ok(at_work)
    }

    /// Backups newer than the newest good one that a record tells of and that are neither there nor removed on purpose.
    async fn vanished(&self, runs: &[Run], search: &Search) -> Result<Vec<PassedOver>, FactsError> {
        let why = "its run made a backup, and the manifest is gone";
        let mut vanished = Vec::new();
        for run in unaccounted(runs, search) {
            let Ok(id) = run.id.parse() else { continue };
            if !self.has_tombstone(&id).await? {
                vanished.push(PassedOver { id: run.id.clone(), why: why.to_owned() });
            }
        }
        Ok(vanished)
    }

    async fn has_tombstone(&self, id: &BackupId) -> Result<bool, FactsError> {
        match self.store.head(&layout::tombstone(self.source, id)).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(source) => Err(source.into()),
        }
    }

    /// Folders that have a tombstone and objects, and no manifest any more, among the first of a source: what retention lets
    /// go is there.
    async fn unfinished_removals(&self, folders: &[BackupId]) -> Result<usize, FactsError> {
        let mut unfinished = 0;
        for id in self.with_tombstone(folders).await?.into_iter().take(REMOVALS_READ_MAX) {
            unfinished += usize::from(matches!(self.look(&id).await?, Looked::Nothing));
        }
        Ok(unfinished)
    }

    /// Tombstones stay for ever, so that soon there are many for each folder. One list finds those of the first folders, and
    /// often of all; for some of the others each is asked for by its name.
    async fn with_tombstone(&self, folders: &[BackupId]) -> Result<Vec<BackupId>, FactsError> {
        let Some(first) = folders.first() else { return Ok(Vec::new()) };
        let prefix = layout::tombstones(self.source);
        let listed = self.store.list(&prefix, Some(&layout::tombstones_from(self.source, first)));
        let listed: Vec<ObjectKey> =
            listed.take(KEYS_PER_REQUEST).map_ok(|meta| meta.key).try_collect().await?;
        let buried: BTreeSet<BackupId> = listed.iter().filter_map(|key| run_id(&prefix, key)).collect();
        let mut found: Vec<BackupId> = folders.iter().filter(|id| buried.contains(id)).cloned().collect();
        let Some(last) = buried.last().filter(|_| listed.len() == KEYS_PER_REQUEST) else {
            return Ok(found);
        };
        let unlisted = folders.iter().filter(|id| *id > last).take(REMOVALS_ASKED_MAX).cloned();
        let asked = stream::iter(unlisted.collect::<Vec<_>>())
            .map(|id| async move { Ok::<_, FactsError>(self.has_tombstone(&id).await?.then_some(id)) })
            .buffered(FETCHES_IN_FLIGHT);
        let asked: Vec<Option<BackupId>> = asked.try_collect().await?;
        found.extend(asked.into_iter().flatten());
        Ok(found)
    }
}

/// A backup since which a later run found nothing changed shows what there was then.
fn confirm(backups: &mut [Backup], runs: &[Run]) {
    for backup in backups {
        let confirming = runs.iter().filter(|run| run.unchanged_since.as_ref() == Some(&backup.id));
        let latest = confirming.map(|run| run.started_at).max();
        backup.snapshot_at = latest.map_or(backup.snapshot_at, |latest| latest.max(backup.snapshot_at));
    }
}

/// Runs that made a backup newer than the newest good one, of which nothing is known.
fn unaccounted<'a>(runs: &'a [Run], search: &Search) -> Vec<&'a Run> {
    let newest = search.backups.iter().map(|backup| &*backup.id).max();
    let is_known = |id: &str| {
        search.backups.iter().chain(&search.imported).any(|backup| backup.id == id)
            || search.passed_over.iter().any(|passed_over| passed_over.id == id)
    };
    let is_made = |run: &&Run| run.error.is_none() && run.unchanged_since.is_none();
    let made = runs.iter().filter(is_made).filter(|run| newest.is_none_or(|newest| *run.id > *newest));
    made.filter(|run| !is_known(&run.id)).collect()
}

/// Backups whose newest report that came to a verdict found them bad. Reports come newest first.
fn refuted(reports: &[chain::SignedReport]) -> HashSet<(BackupId, ManifestSha256)> {
    let mut verdicts = HashMap::new();
    for report in reports.iter().map(chain::SignedReport::get) {
        let verdict = verdict(report.verdict);
        if verdict.is_proof() || verdict == Verdict::Bad {
            verdicts.entry((report.backup.clone(), report.manifest_sha256)).or_insert(verdict);
        }
    }
    let bad = verdicts.into_iter().filter(|(_, verdict)| *verdict == Verdict::Bad);
    bad.map(|(backup, _)| backup).collect()
}

fn backup(signed: &SignedManifest) -> Backup {
    let manifest = signed.get();
    Backup {
        id: manifest.id.to_string(),
        snapshot_at: signed.snapshot_at(),
        started_at: manifest.started_at,
        finished_at: manifest.finished_at,
        stored_bytes: manifest.stored_bytes(),
        whole_bytes: match &manifest.contents {
            Contents::Files(files) => files.tree.content_bytes,
            _ => manifest.stored_bytes(),
        },
        losses: manifest.losses(),
        host: manifest.host.clone(),
    }
}

fn drill(report: &report::Report) -> Drill {
    let seconds = |seconds: f64| SignedDuration::try_from_secs_f64(seconds).ok();
    Drill {
        backup: report.backup.to_string(),
        finished_at: report.finished_at,
        verdict: verdict(report.verdict),
        recovery: report.recovery_seconds.and_then(seconds),
        longest_gap: report.objectives.recovery_point.achieved_seconds.and_then(seconds),
        recovery_missed_from: report.objectives.recovery_time.missed_from,
    }
}

fn verdict(verdict: report::Verdict) -> Verdict {
    match verdict {
        report::Verdict::Passed => Verdict::Proved,
        report::Verdict::Degraded => Verdict::Degraded,
        report::Verdict::Failed => Verdict::Bad,
        report::Verdict::NotRun => Verdict::Open,
        report::Verdict::VerifierFailed => Verdict::VerifierFailed,
    }
}

fn flaw(error: &ManifestError) -> String {
    match error {
        ManifestError::Newer { version } => {
            format!("its format, version {version}, is newer than this program")
        }
        other => format!("it cannot be used: {other}"),
    }
}

/// The id in a record's key, that of its signature too.
fn run_id(prefix: &KeyPrefix, key: &ObjectKey) -> Option<BackupId> {
    let name = key.as_str().strip_prefix(prefix.as_str())?;
    name.split('.').next()?.parse().ok()
}
