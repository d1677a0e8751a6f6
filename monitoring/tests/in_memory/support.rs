//! A bucket in memory whose one key is trusted.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use pgproof_monitoring::facts::gather;
use pgproof_policies::names::SourceName;
use pgproof_policies::standing::{Facts, Verdict};
use pgproof_repository::ids::{BackupId, ManifestSha256, ObjectKey, RepositoryId};
use pgproof_repository::layout;
use pgproof_repository::manifest::{self, v1::Manifest};
use pgproof_repository::records::{self, Run, Tombstone};
use pgproof_repository::report::{self, Report};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate, namespace};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::{PutCondition, SharedStore};
use serde_json::json;

const MANIFEST: &[u8] = include_bytes!("../../../repository/fixtures/manifest.v1.json");
const REPORT: &[u8] = include_bytes!("../../../repository/fixtures/report.v1.json");

/// Of one source that is backed up every night.
pub(crate) const POLICY: &str = "[repository]\nlocation = \"file:///backups\"\n[keys]\n\
    recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
    single_recipient_waiver = \"a test\"\n[sources.app]\nkind = \"postgres\"\n\
    connection = \"postgresql:///app\"\nretention = { daily = 1 }\nschedule = \"0 2 * * *\"\n";

pub(crate) struct Bucket {
    pub(crate) store: SharedStore,
    pub(crate) repository: RepositoryId,
    pub(crate) key: SigningKey,
    pub(crate) signers: TrustedSigners,
}

impl Bucket {
    pub(crate) fn new() -> Self {
        let key = signing_key();
        let signers = TrustedSigners::parse(&format!("host {}\n", key.public_line())).unwrap();
        let repository = manifest::parse(MANIFEST).unwrap().repository;
        let store = MemoryStore::new();
        let marker = json!({
            "format": "pgproof-repository", "version": 1, "id": repository, "created_at": "2026-01-01T00:00:00Z",
        });
        store.overwrite(&layout::repository_marker(), marker.to_string().into());
        Self { store: Arc::new(store), repository, key, signers }
    }

    pub(crate) async fn facts(&self, now: Timestamp) -> Facts {
        gather(&self.store, &source(), &self.signers, now).await.unwrap()
    }

    pub(crate) async fn backup(&self, snapshot_at: Timestamp) -> BackupId {
        self.backup_signed(snapshot_at, &self.key).await
    }

    pub(crate) async fn backup_signed(&self, snapshot_at: Timestamp, key: &SigningKey) -> BackupId {
        let id = id_at(snapshot_at);
        let bytes = self.manifest(&id).to_bytes();
        let signature = key.sign(manifest::NAMESPACE, &bytes).unwrap();
        self.put(&layout::manifest_signature(&source(), &id), signature.into_bytes()).await;
        self.put(&layout::manifest(&source(), &id), bytes).await;
        id
    }

    pub(crate) async fn report(&self, id: &BackupId, at: Timestamp, verdict: Verdict, key: &SigningKey) {
        let mut report: Report = serde_json::from_slice(REPORT).unwrap();
        (report.source, report.backup) = (source(), id.clone());
        (report.started_at, report.finished_at) = (at, at);
        report.repository = self.repository.clone();
        report.manifest_sha256 = ManifestSha256::of(&self.manifest(id).to_bytes());
        report.verdict = match verdict {
            Verdict::Bad => report::Verdict::Failed,
            _ => report::Verdict::Passed,
        };
        let bytes = serde_json::to_vec(&report).unwrap();
        let signature = key.sign(namespace::REPORT, &bytes).unwrap();
        let place = layout::verification(&source(), id, at);
        self.put(&layout::signature_of(&place), signature.into_bytes()).await;
        self.put(&place, bytes).await;
    }

    /// As the report of a drill is named when it is stored.
    pub(crate) async fn named(&self, id: &BackupId, at: Timestamp) {
        self.put(&layout::verification_name(&source(), id, at), Vec::new()).await;
    }

    pub(crate) async fn run(&self, started_at: Timestamp, error: Option<&str>, key: &SigningKey) {
        let id = id_at(started_at);
        let outcome = match error {
            None => json!({ "state": "committed", "warnings": [] }),
            Some(error) => json!({ "state": "failed", "error": error }),
        };
        // As it is stored, so that fields of later versions do not concern this.
        let run: Run = serde_json::from_value(json!({
            "version": 1, "source": source(), "id": id, "started_at": started_at, "ended_at": started_at,
            "host": "db1", "outcome": outcome,
        }))
        .unwrap();
        let key_of_run = layout::run(&source(), &id);
        // A record of this second may be there from an earlier round.
        if self.store.head(&key_of_run).await.is_err() {
            records::put(&*self.store, &key_of_run, &run, key).await.unwrap();
        }
    }

    pub(crate) async fn tombstone(&self, id: &BackupId) {
        let at = id.started_at();
        let host = "db1".to_owned();
        let tombstone = Tombstone { version: 1, source: source(), id: id.clone(), at, host, snapshot_at: at };
        records::put(&*self.store, &layout::tombstone(&source(), id), &tombstone, &self.key).await.unwrap();
    }

    fn manifest(&self, id: &BackupId) -> Manifest {
        let mut made = manifest::parse(MANIFEST).unwrap();
        made.repository = self.repository.clone();
        made.id = id.clone();
        made.source = source();
        (made.started_at, made.finished_at, made.snapshot.at) =
            (id.started_at(), id.started_at(), id.started_at());
        made
    }

    pub(crate) async fn put(&self, key: &ObjectKey, bytes: Vec<u8>) {
        self.store.put(key, Bytes::from(bytes), PutCondition::IfAbsent).await.unwrap();
    }
}

pub(crate) fn noon() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

pub(crate) fn source() -> SourceName {
    "app".parse().unwrap()
}

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap()
}

pub(crate) fn id_at(at: Timestamp) -> BackupId {
    format!("{}-aaaaaa", at.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap()
}
