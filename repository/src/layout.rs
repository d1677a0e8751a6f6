//! Where everything lies in the bucket. No other module builds a key.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use pgproof_policies::names::SourceName;

use crate::acts::WriterId;
use crate::ids::{BackupId, KeyPrefix, ObjectKey};
use crate::restore_point::RestorePointId;

/// File names inside a backup's folder.
pub const MANIFEST: &str = "manifest.json";
pub const MANIFEST_SIGNATURE: &str = "manifest.json.sig";
pub const GLOBALS: &str = "globals.sql.zst.age";
pub const CONFIGURATION: &str = "configuration.json.zst.age";
pub const INVENTORY: &str = "inventory.json.zst.age";
pub const INDEX: &str = "index.jsonl.zst.age";
pub const HOST_INDEX: &str = "host-index.jsonl.zst.age";

/// The folder of restore points, which belong to no source.
const RESTORE_POINTS: &str = "restore-points";
/// Folders of records.
const RECORDS: [&str; 5] = ["runs", "verifications", "custody", "pruned", "audit"];

/// The name of the `stream`-th archive of a backup; 000 is the main one.
pub fn archive_name(stream: u32) -> String {
    format!("data.{stream:03}.zst.age")
}

/// `repository.json`: format version and repository id, put once.
pub fn repository_marker() -> ObjectKey {
    key("repository.json".to_owned())
}

/// What a store that can lock is to lock: what is written once and stays for years. Not leases, pins and holds, which change
/// or are given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lockable {
    /// An object of a backup.
    Backup { source: SourceName, id: BackupId },
    /// The record of an act.
    Record,
}

impl Lockable {
    pub fn of(key: &ObjectKey) -> Option<Self> {
        let mut segments = key.as_str().split('/');
        let (first, folder) = (segments.next()?, segments.next()?);
        match folder {
            _ if first == RESTORE_POINTS => Some(Self::Record),
            "backups" => {
                Some(Self::Backup { source: first.parse().ok()?, id: segments.next()?.parse().ok()? })
            }
            _ => RECORDS.contains(&folder).then_some(Self::Record),
        }
    }
}

/// All that belongs to a source.
pub fn source(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/"))
}

/// The folders of a source's backups, one a backup.
pub fn backups(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/backups/"))
}

pub fn backup(source: &SourceName, id: &BackupId) -> KeyPrefix {
    prefix(format!("{source}/backups/{id}/"))
}

/// An object of a backup by its file name, which must be one path segment; `None` for anything else.
pub fn backup_object(source: &SourceName, id: &BackupId, name: &str) -> Option<ObjectKey> {
    let one_segment = !name.contains('/');
    one_segment.then(|| format!("{source}/backups/{id}/{name}").parse().ok()).flatten()
}

pub fn manifest(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/backups/{id}/{MANIFEST}"))
}

pub fn manifest_signature(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/backups/{id}/{MANIFEST_SIGNATURE}"))
}

pub fn runs(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/runs/"))
}

/// What sorts before the runs that were started at `since` or later; `None` where all of them were.
pub fn runs_from(source: &SourceName, since: Timestamp) -> Option<ObjectKey> {
    let is_of_our_time = since >= Timestamp::UNIX_EPOCH;
    is_of_our_time.then(|| key(format!("{source}/runs/{}", since.strftime("%Y%m%dT%H%M%SZ"))))
}

/// How an attempt ended.
pub fn run(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/runs/{id}.json"))
}

/// Which backup's run a record is of.
pub fn id_of_run(source: &SourceName, record: &ObjectKey) -> Option<BackupId> {
    record.as_str().strip_prefix(runs(source).as_str())?.strip_suffix(".json")?.parse().ok()
}

pub fn holds(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/holds/"))
}

/// A hold: as long as it lies there, the backup is not pruned.
pub fn hold(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/holds/{id}/hold.json"))
}

/// Pins of a source's backups, a folder a backup.
pub fn pins(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/pins/"))
}

pub fn pins_of(source: &SourceName, id: &BackupId) -> KeyPrefix {
    prefix(format!("{source}/pins/{id}/"))
}

/// A pin: while it is renewed, somebody is restoring the backup. `name` is letters and digits.
pub fn pin(source: &SourceName, id: &BackupId, name: &str) -> ObjectKey {
    key(format!("{source}/pins/{id}/{name}.json"))
}

pub fn acts(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/audit/"))
}

/// The acts that one key signed, in the order of their numbers.
pub fn acts_of(source: &SourceName, writer: &WriterId) -> KeyPrefix {
    prefix(format!("{source}/audit/{writer}/"))
}

/// One act. Created only if absent, so that no two acts of a key have one number.
pub fn act(source: &SourceName, writer: &WriterId, number: u64) -> ObjectKey {
    key(format!("{source}/audit/{writer}/{number:08}.json"))
}

pub fn tombstones(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/pruned/"))
}

/// What sorts before the tombstone of this backup and of later ones.
pub fn tombstones_from(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/pruned/{id}"))
}

/// A tombstone: the decision to remove a backup, written before anything of it is deleted.
pub fn tombstone(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/pruned/{id}.json"))
}

pub fn verifications(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/verifications/"))
}

/// What sorts before the reports of this backup and of later ones.
pub fn verifications_from(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/verifications/{id}"))
}

/// What sorts after the reports of this backup, and before those of later ones.
pub fn verifications_after(source: &SourceName, id: &BackupId) -> ObjectKey {
    // The character that follows the slash.
    key(format!("{source}/verifications/{id}0"))
}

/// A drill's report.
pub fn verification(source: &SourceName, id: &BackupId, at: Timestamp) -> ObjectKey {
    key(format!("{source}/verifications/{id}/{}.json", file_time(at)))
}

/// Names of reports, by their times.
pub fn verification_names(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/verifications/by-time/"))
}

/// What sorts before the names of reports of `since` or later; `None` where all of them are.
pub fn verification_names_from(source: &SourceName, since: Timestamp) -> Option<ObjectKey> {
    let is_of_our_time = since >= Timestamp::UNIX_EPOCH;
    is_of_our_time.then(|| key(format!("{source}/verifications/by-time/{}", file_time(since))))
}

/// Which report a name leads to, and so its time.
pub fn verification_named(source: &SourceName, name: &ObjectKey) -> Option<(BackupId, Timestamp)> {
    let name = name.as_str().strip_prefix(verification_names(source).as_str())?;
    let (time, id) = name.split_once('-')?;
    let at = DateTime::strptime("%Y%m%dT%H%M%S%fZ", time).ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some((id.parse().ok()?, at.timestamp()))
}

/// Leads from a report's time to the report.
pub fn verification_name(source: &SourceName, id: &BackupId, at: Timestamp) -> ObjectKey {
    key(format!("{source}/verifications/by-time/{}-{id}", file_time(at)))
}

/// What was told of a source, and to whom: changed in place, like a lease.
pub fn alerts(source: &SourceName) -> ObjectKey {
    key(format!("{source}/alerts/sent.json"))
}

pub fn restore_points() -> KeyPrefix {
    prefix(format!("{RESTORE_POINTS}/"))
}

/// What was backed up together.
pub fn restore_point(id: &RestorePointId) -> ObjectKey {
    key(format!("{RESTORE_POINTS}/{id}.json"))
}

pub fn custodies(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/custody/"))
}

/// Which recipients' keys were shown to open what is sealed to them.
pub fn custody(source: &SourceName, at: Timestamp) -> ObjectKey {
    key(format!("{source}/custody/{}.json", file_time(at)))
}

pub fn challenges(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/challenges/"))
}

/// Canaries that were handed out to the keys' custodians.
pub fn challenge(source: &SourceName, at: Timestamp) -> ObjectKey {
    key(format!("{source}/challenges/{}.json", file_time(at)))
}

/// The signature that stands beside a signed JSON object.
pub fn signature_of(signed: &ObjectKey) -> ObjectKey {
    key(format!("{signed}.sig"))
}

/// The lease on a source's backups.
pub fn backup_lease(source: &SourceName) -> ObjectKey {
    key(format!("leases/backup.{source}.json"))
}

/// The lease on a source's pruning.
pub fn prune_lease(source: &SourceName) -> ObjectKey {
    key(format!("leases/prune.{source}.json"))
}

/// The lease on drills of a source: two at once would break the chain of their reports.
pub fn drill_lease(source: &SourceName) -> ObjectKey {
    key(format!("leases/drill.{source}.json"))
}

/// The claims to a lease, where the store heeds no conditions.
pub fn claims(lease: &ObjectKey) -> KeyPrefix {
    prefix(format!("{}.claims/", lease_name(lease)))
}

/// One claim. Claims sort by time, and of one time by `token`, which is letters and digits.
pub fn claim(lease: &ObjectKey, at: Timestamp, token: &str) -> ObjectKey {
    key(format!("{}.claims/{}-{token}.json", lease_name(lease), file_time(at)))
}

/// What sorts before every claim of that time or later.
pub fn claims_from(lease: &ObjectKey, at: Timestamp) -> ObjectKey {
    key(format!("{}.claims/{}", lease_name(lease), file_time(at)))
}

fn lease_name(lease: &ObjectKey) -> &str {
    lease.as_str().trim_end_matches(".json")
}

/// What `doctor` left behind, a folder a run.
pub fn doctor_runs() -> KeyPrefix {
    prefix("doctor/".to_owned())
}

/// All that one run of `doctor` puts.
pub fn doctor_run(run: &BackupId) -> KeyPrefix {
    prefix(format!("doctor/{run}/"))
}

/// An object of a run of `doctor`.
pub fn doctor_probe(run: &BackupId, name: &str) -> ObjectKey {
    key(format!("doctor/{run}/{name}"))
}

/// A moment as file names have it: to the millisecond, sorting by time.
fn file_time(at: Timestamp) -> impl std::fmt::Display {
    at.strftime("%Y%m%dT%H%M%S%3fZ")
}

fn key(text: String) -> ObjectKey {
    text.parse().expect("made of checked names")
}

fn prefix(text: String) -> KeyPrefix {
    text.parse().expect("made of checked names")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> BackupId {
        "20261124T020000Z-aaaaaa".parse().unwrap()
    }

    #[test]
    fn what_is_written_once_can_be_locked_and_nothing_that_changes() {
        let (source, at) = ("app".parse::<SourceName>().unwrap(), id().started_at());
        let writer = WriterId::of("SHA256:x");
        let of_backup = Some(Lockable::Backup { source: source.clone(), id: id() });
        assert_eq!(Lockable::of(&manifest(&source, &id())), of_backup);
        assert_eq!(Lockable::of(&backup_object(&source, &id(), "data.000.zst.age").unwrap()), of_backup);
        for record in [
            run(&source, &id()),
            verification(&source, &id(), at),
            custody(&source, at),
            tombstone(&source, &id()),
            act(&source, &writer, 1),
            restore_point(&"20261124T020000Z-aaaaaa".parse().unwrap()),
        ] {
            assert_eq!(Lockable::of(&record), Some(Lockable::Record), "{record}");
        }
        for changing in [
            hold(&source, &id()),
            pin(&source, &id(), "a"),
            backup_lease(&source),
            alerts(&source),
            repository_marker(),
        ] {
            assert_eq!(Lockable::of(&changing), None, "{changing}");
        }
    }

    #[test]
    fn claims_to_one_lease_are_none_to_another_and_sort_by_time() {
        let source: SourceName = "app".parse().unwrap();
        let (at, lease) = (id().started_at(), backup_lease(&source));
        let made = claim(&lease, at, "t");
        assert!(made.as_str().starts_with(claims(&lease).as_str()));
        for other in [prune_lease(&source), drill_lease(&source), backup_lease(&"app2".parse().unwrap())] {
            assert!(!made.as_str().starts_with(claims(&other).as_str()), "{other}");
        }
        let second = jiff::SignedDuration::from_secs(1);
        assert!(claims_from(&lease, at - second) < made && claims_from(&lease, at) < made);
        assert!(made < claims_from(&lease, at + second));
    }

    #[test]
    fn a_name_leads_to_its_report_and_none_is_before_its_time() {
        let source: SourceName = "app".parse().unwrap();
        let at: Timestamp = "2026-11-24T02:00:00.25Z".parse().unwrap();
        let name = verification_name(&source, &id(), at);
        assert_eq!(verification_named(&source, &name), Some((id(), at)));
        assert_eq!(verification_named(&"other".parse().unwrap(), &name), None);
        let second = jiff::SignedDuration::from_secs(1);
        assert!(verification_names_from(&source, at).unwrap() < name);
        assert!(verification_names_from(&source, at + second).unwrap() > name);
        assert!(verification_names_from(&source, Timestamp::UNIX_EPOCH).is_some());
        assert_eq!(verification_names_from(&source, Timestamp::UNIX_EPOCH - second), None);
    }
}
