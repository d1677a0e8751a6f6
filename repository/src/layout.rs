//! Where everything lies in the bucket. No other module builds a key.

use jiff::Timestamp;
use pgproof_policies::names::SourceName;

use crate::ids::{BackupId, KeyPrefix, ObjectKey};

/// File names inside a backup's folder.
pub const MANIFEST: &str = "manifest.json";
pub const MANIFEST_SIGNATURE: &str = "manifest.json.sig";
pub const GLOBALS: &str = "globals.sql.zst.age";
pub const INVENTORY: &str = "inventory.json.zst.age";
pub const INDEX: &str = "index.jsonl.zst.age";

/// The name of the `stream`-th archive of a backup; 000 is the main one.
pub fn archive_name(stream: u32) -> String {
    format!("data.{stream:03}.zst.age")
}

/// `repository.json`: format version and repository id, put once.
pub fn repository_marker() -> ObjectKey {
    key("repository.json".to_owned())
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

/// How an attempt ended.
pub fn run(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/runs/{id}.json"))
}

pub fn holds(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/holds/"))
}

/// A hold: as long as it lies there, the backup is not pruned.
pub fn hold(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/holds/{id}/hold.json"))
}

pub fn tombstones(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/pruned/"))
}

/// A tombstone: the decision to remove a backup, written before anything of it is deleted.
pub fn tombstone(source: &SourceName, id: &BackupId) -> ObjectKey {
    key(format!("{source}/pruned/{id}.json"))
}

pub fn verifications(source: &SourceName) -> KeyPrefix {
    prefix(format!("{source}/verifications/"))
}

/// A drill's report.
pub fn verification(source: &SourceName, id: &BackupId, at: Timestamp) -> ObjectKey {
    key(format!("{source}/verifications/{id}/{}.json", file_time(at)))
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
