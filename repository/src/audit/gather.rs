//! Reading every record of a source, each checked by itself: its signature, and that it lies where it says.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use pgproof_policies::names::SourceName;

use super::{About, AuditError, Entry, Finding, Kind, entry};
use crate::acts::{Act, What, WriterId};
use crate::catalog::{CatalogError, Finder};
use crate::custody::{Challenge, Custody};
use crate::ids::{BackupId, KeyPrefix, ObjectKey};
use crate::layout;
use crate::manifest::SignedManifest;
use crate::manifest::v1::Previous;
use crate::records::{self, Hold, Record, Run, Signed, Tombstone};
use crate::report::{Verdict, chain};
use crate::signature::{Signer, TrustedSigners};
use crate::store::SharedStore;

/// Records fetched at the same time: reading waits on round trips, not on bytes.
const FETCHES_IN_FLIGHT: usize = 16;

type Records<R> = Vec<(ObjectKey, Signed<R>)>;

/// Everything well signed that a source has, and what is not.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub runs: Records<Run>,
    pub tombstones: Records<Tombstone>,
    pub holds: Records<Hold>,
    pub acts: Records<Act>,
    pub custodies: Records<Custody>,
    pub challenges: Records<Challenge>,
    pub reports: Vec<(ObjectKey, Report)>,
    /// Backups whose manifest lies there, whatever that is worth.
    pub manifests: BTreeSet<BackupId>,
    /// Acts that only the manifest of a backup tells of.
    pub without_run: Vec<Entry>,
    /// Reports that a name by time leads to.
    pub named_reports: BTreeSet<ObjectKey>,
    /// Of the backups whose run's signature stands alone, those that another was made after.
    pub followed: BTreeMap<BackupId, BackupId>,
    pub amiss: Amiss,
}

/// What is wrong with a record by itself.
#[derive(Debug, Default)]
pub(super) struct Amiss {
    pub findings: Vec<Finding>,
    /// Records of which only the signature is there.
    pub halves: BTreeSet<ObjectKey>,
}

/// What the trail needs of a report; the whole of it may have a line for each of a hundred thousand tables.
#[derive(Debug)]
pub(super) struct Report {
    pub source: SourceName,
    pub link: chain::Link,
    pub signer: Signer,
    pub host: String,
    pub backup: BackupId,
    pub verdict: Verdict,
    pub policy_sha256: String,
}

impl Gathered {
    /// The order matters while others work: a backup is committed before its run says so, and buried before it goes.
    pub(super) async fn read(
        store: &SharedStore,
        source: &SourceName,
        signers: &TrustedSigners,
    ) -> Result<Self, AuditError> {
        let mut all = Self::default();
        let reader = Reader { store, source, signers };
        let amiss = &mut all.amiss;
        all.acts = reader.records(&layout::acts(source), place_of_act, amiss).await?;
        let at_run = |it: &Signed<Run>| layout::run(&it.record.source, &it.record.id);
        all.runs = reader.records(&layout::runs(source), at_run, amiss).await?;
        all.manifests = reader.manifests().await?;
        let at_tombstone = |it: &Signed<Tombstone>| layout::tombstone(&it.record.source, &it.record.id);
        all.tombstones = reader.records(&layout::tombstones(source), at_tombstone, amiss).await?;
        let at_hold = |it: &Signed<Hold>| layout::hold(&it.record.source, &it.record.id);
        all.holds = reader.records(&layout::holds(source), at_hold, amiss).await?;
        let at_custody = |it: &Signed<Custody>| layout::custody(&it.record.source, it.record.at);
        all.custodies = reader.records(&layout::custodies(source), at_custody, amiss).await?;
        let at_challenge = |it: &Signed<Challenge>| layout::challenge(&it.record.source, it.record.at);
        all.challenges = reader.records(&layout::challenges(source), at_challenge, amiss).await?;
        (all.reports, all.named_reports) = reader.reports(amiss).await?;
        all.tell_of_backups_without_run(&reader).await?;
        all.look_who_followed(&reader).await?;
        Ok(all)
    }

    /// Holds that no act tells of: those of versions that left none, or of a host that could not.
    pub(super) fn holds_without_act(&self) -> impl Iterator<Item = &(ObjectKey, Signed<Hold>)> {
        let told: BTreeSet<&BackupId> = self
            .acts
            .iter()
            .filter_map(|(_, it)| match &it.record.what {
                What::Hold { backup, .. } => Some(backup),
                _ => None,
            })
            .collect();
        self.holds.iter().filter(move |(_, it)| !told.contains(&it.record.id))
    }

    /// A run that died between its manifest and its record has made a backup all the same; an import is no run.
    async fn tell_of_backups_without_run(&mut self, reader: &Reader<'_>) -> Result<(), AuditError> {
        let told: BTreeSet<&BackupId> = self.runs.iter().map(|(_, it)| &it.record.id).collect();
        let untold: Vec<_> = self.manifests.iter().filter(|id| !told.contains(id)).cloned().collect();
        let finder = reader.finder().await?;
        for id in untold {
            let key = layout::manifest(reader.source, &id);
            match finder.find(&id).await {
                Ok(signed) => {
                    let manifest = signed.get();
                    let (at, host) = (manifest.finished_at, &manifest.host);
                    let about = About { at, act: Kind::Backup, host, backup: Some(&id) };
                    let outcome = match &manifest.imported {
                        Some(imported) => {
                            let at = manifest.snapshot.at;
                            format!("imported, taken at {at} on the word of {}", imported.told_by)
                        }
                        None => "committed, and its run left no record".to_owned(),
                    };
                    self.without_run.push(entry(reader.source, &key, signed.signer(), about, outcome));
                }
                Err(CatalogError::NoSuchBackup { .. }) => {}
                Err(source @ CatalogError::Store { .. }) => return Err(AuditError::Catalog { source }),
                Err(error) => self.amiss.findings.push(reader.finding(&key, told_chain(&error))),
            }
        }
        Ok(())
    }

    /// A backup without manifest and whole run may have been one all the same: the next one's manifest names it.
    async fn look_who_followed(&mut self, reader: &Reader<'_>) -> Result<(), AuditError> {
        let ids = self.amiss.halves.iter().filter_map(|key| layout::id_of_run(reader.source, key));
        let gone: Vec<BackupId> = ids.filter(|id| !self.manifests.contains(id)).collect();
        let finder = reader.finder().await?;
        for id in gone {
            let Some(next) = self.manifests.range(&id..).next() else { continue };
            let names = |signed: &SignedManifest| match &signed.get().previous {
                Previous::Known { id: previous, .. } => *previous == id,
                Previous::None | Previous::Unknown { .. } => false,
            };
            match finder.find(next).await {
                Ok(signed) if names(&signed) => drop(self.followed.insert(id, next.clone())),
                Err(source @ CatalogError::Store { .. }) => return Err(AuditError::Catalog { source }),
                // One that cannot be read names nothing, and is told of elsewhere.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn place_of_act(it: &Signed<Act>) -> ObjectKey {
    layout::act(&it.record.source, &WriterId::of(&it.signer.fingerprint), it.record.number)
}

struct Reader<'a> {
    store: &'a SharedStore,
    source: &'a SourceName,
    signers: &'a TrustedSigners,
}

impl Reader<'_> {
    async fn finder(&self) -> Result<Finder, AuditError> {
        let opened = Finder::open(self.store, self.source, self.signers).await;
        opened.map_err(|source| AuditError::Catalog { source })
    }

    /// Every record below a prefix; `place` is where a record belongs.
    async fn records<R: Record>(
        &self,
        prefix: &KeyPrefix,
        place: impl Fn(&Signed<R>) -> ObjectKey,
        amiss: &mut Amiss,
    ) -> Result<Records<R>, AuditError> {
        let keys = signed_keys(self.keys(prefix).await?, amiss);
        let fetched = stream::iter(keys).map(|key| async move {
            let found = records::fetch::<R>(&**self.store, &key, self.signers).await;
            (key, found)
        });
        let fetched: Vec<_> = fetched.buffered(FETCHES_IN_FLIGHT).collect().await;
        let mut signed = Vec::new();
        for (key, found) in fetched {
            match found {
                Ok(it) if place(&it) == key => signed.push((key, it)),
                Ok(it) => amiss.findings.push(self.finding(&key, format!("is signed for {}", place(&it)))),
                Err(source) if source.is_of_the_store() => return Err(AuditError::Record { source }),
                Err(error) => amiss.findings.push(self.finding(&key, told_chain(&error))),
            }
        }
        Ok(signed)
    }

    async fn keys(&self, prefix: &KeyPrefix) -> Result<Vec<ObjectKey>, AuditError> {
        let listed = self.store.list(prefix, None).map_ok(|meta| meta.key).try_collect().await;
        listed.map_err(|source| AuditError::Store { source })
    }

    async fn manifests(&self) -> Result<BTreeSet<BackupId>, AuditError> {
        let prefix = layout::backups(self.source);
        let keys = self.keys(&prefix).await?;
        let id = |key: &ObjectKey| {
            let path = key.as_str().strip_prefix(prefix.as_str())?;
            let (id, name) = path.split_once('/')?;
            (name == layout::MANIFEST).then(|| id.parse().ok()).flatten()
        };
        Ok(keys.iter().filter_map(id).collect())
    }

    /// The reports, and the keys of those that have a name by time.
    async fn reports(
        &self,
        amiss: &mut Amiss,
    ) -> Result<(Vec<(ObjectKey, Report)>, BTreeSet<ObjectKey>), AuditError> {
        let keys = self.keys(&layout::verifications(self.source)).await?;
        let named = keys.iter().filter_map(|key| layout::verification_named(self.source, key));
        let named = named.map(|(id, at)| layout::verification(self.source, &id, at)).collect();
        let keys = signed_keys(keys, amiss);
        let mut reports = Vec::new();
        let mut fetched = stream::iter(keys)
            .map(|key| async move {
                let found = chain::fetch(self.store, key, self.signers).await?;
                // Only what the trail needs stays in memory.
                Ok(match &found.report {
                    Ok(signed) => (found.key, Ok(brief(signed))),
                    Err(error) => (found.key, Err(told_chain(error))),
                })
            })
            .buffered(FETCHES_IN_FLIGHT);
        while let Some(found) = fetched.next().await {
            let (key, report) = found.map_err(|source| AuditError::Store { source })?;
            match report {
                Ok(report) => {
                    let place = layout::verification(&report.source, &report.backup, report.link.finished_at);
                    match place == key {
                        true => reports.push((key, report)),
                        false => amiss.findings.push(self.finding(&key, format!("is signed for {place}"))),
                    }
                }
                Err(problem) => amiss.findings.push(self.finding(&key, problem)),
            }
        }
        Ok((reports, named))
    }

    fn finding(&self, key: &ObjectKey, problem: String) -> Finding {
        Finding { source: self.source.clone(), record: Some(key.to_string()), problem }
    }
}

/// The keys of records among all keys. Of what only the signature is there, the record is noted.
fn signed_keys(keys: Vec<ObjectKey>, amiss: &mut Amiss) -> Vec<ObjectKey> {
    let all: BTreeSet<ObjectKey> = keys.into_iter().collect();
    let signatures = all.iter().filter_map(|key| key.as_str().strip_suffix(".sig"));
    let signed = signatures.filter_map(|key| key.parse().ok());
    amiss.halves.extend(signed.filter(|record| !all.contains(record)));
    all.into_iter().filter(|key| key.as_str().ends_with(".json")).collect()
}

fn brief(signed: &chain::SignedReport) -> Report {
    let report = signed.get();
    Report {
        source: report.source.clone(),
        link: signed.link(),
        signer: signed.signer().clone(),
        host: report.host.clone(),
        backup: report.backup.clone(),
        verdict: report.verdict,
        policy_sha256: report.policy_sha256.clone(),
    }
}

/// The acts of each key, for their chains.
pub(super) fn by_writer(acts: &Records<Act>) -> BTreeMap<&str, Vec<(Act, String)>> {
    let mut writers: BTreeMap<&str, Vec<(Act, String)>> = BTreeMap::new();
    for (_, it) in acts {
        let of_writer = writers.entry(&it.signer.fingerprint).or_default();
        of_writer.push((it.record.clone(), it.sha256.clone()));
    }
    writers
}

/// An error with its causes.
fn told_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
