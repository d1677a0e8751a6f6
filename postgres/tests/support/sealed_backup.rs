//! A backup in a memory store, made with the real modules from a real `pg_dump`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use pgproof_postgres::archive::{ArchiveIndex, Cutter, Limits, Outcome};
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::digest::{RowDigest, digest_bytes};
use pgproof_postgres::snapshot::{ExportedSnapshot, SnapshotFacts};
use pgproof_repository::inventory::{self, Inventory};
use pgproof_repository::keys::{Identities, NoPrompts, Recipients, generate_identity};
use pgproof_repository::layout;
use pgproof_repository::manifest::{NAMESPACE, SignedManifest, v1};
use pgproof_repository::sealed::{SealJob, Sealer};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::{PutCondition, SharedStore};

/// Small blocks, so that tables of a few MiB have many frames and a row of 9 MiB is longer than any.
const LIMITS: Limits = Limits { target: 256 << 10, hard: 512 << 10, share: 64 << 10 };
const PART_BYTES: u64 = 5 << 20;

pub(crate) struct SealedBackup {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) store: SharedStore,
    pub(crate) manifest: SignedManifest,
    pub(crate) inventory: Inventory,
    pub(crate) identities: Identities,
}

/// Dumps the database of `spec` with the programs in `bin`. Without `indexed` the inventory knows no table.
pub(crate) async fn back_up(bin: &Path, spec: &ConnectionSpec, indexed: bool) -> SealedBackup {
    let (secret, recipient) = generate_identity();
    let identities = Identities::parse(&secret, Path::new("identity"), Arc::new(NoPrompts)).unwrap();
    let recipients = Recipients::parse([recipient]).unwrap();
    let memory = Arc::new(MemoryStore::new());
    let snapshot = ExportedSnapshot::open(spec).await.unwrap();
    let facts = snapshot.facts().clone();
    snapshot.close().await.unwrap();
    let (archive, object) = dump(bin, spec, &recipients, &memory, indexed).await;
    let inventory = Inventory {
        format: inventory::FORMAT.to_owned(),
        version: inventory::VERSION,
        archives: vec![archive],
        facts: serde_json::to_value(&facts).unwrap(),
        server_settings: BTreeMap::new(),
        sequences: None,
        large_objects: None,
        structure: None,
        wording: None,
    };
    let manifest = signed(&manifest(&facts, object, &inventory, indexed));
    let store: SharedStore = memory.clone();
    SealedBackup { memory, store, manifest, inventory, identities }
}

async fn dump(
    bin: &Path,
    spec: &ConnectionSpec,
    recipients: &Recipients,
    store: &MemoryStore,
    indexed: bool,
) -> (inventory::Archive, v1::Object) {
    let environment = spec.child_env().unwrap();
    let mut command = Command::new(bin.join("pg_dump"));
    environment.apply(&mut command);
    command.args(["--format=custom", "--compress=0"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = child.stdout.take().unwrap();
    let (mut sealer, mut parts) = Sealer::start(recipients, 3, 2, |_| PART_BYTES).unwrap();
    let collecting = tokio::spawn(async move {
        let mut sealed = Vec::new();
        while let Some(part) = parts.recv().await {
            sealed.extend_from_slice(&part);
        }
        Bytes::from(sealed)
    });
    let sealing = tokio::task::spawn_blocking(move || {
        let mut cutter = Cutter::with_limits(output, LIMITS);
        let mut layouts = Vec::new();
        while let Some(block) = cutter.next_block().unwrap() {
            let layout = block.layout.clone();
            layouts.push(layout.clone());
            let digest = move |bytes: &[u8]| digest_bytes(bytes, &layout).unwrap();
            sealer.submit(SealJob::new(block.bytes, digest)).unwrap();
        }
        let Outcome::Indexed(index) = cutter.finish().unwrap() else { panic!("an archive that is not cut") };
        (sealer.finish().unwrap(), layouts, index)
    });
    let (summary, layouts, index) = sealing.await.unwrap();
    assert!(child.wait().unwrap().success());
    let name = layout::archive_name(0);
    let key = format!("app/backups/20261124T020000Z-k3x7qa/{name}").parse().unwrap();
    use pgproof_repository::store::Store as _;
    store.put(&key, collecting.await.unwrap(), PutCondition::IfAbsent).await.unwrap();
    let mut digests: BTreeMap<i32, RowDigest> = index.giant_rows.clone();
    let mut frames = Vec::new();
    for ((record, found), layout) in summary.frames.into_iter().zip(layouts) {
        found.into_iter().for_each(|(id, digest)| *digests.entry(id).or_default() += digest);
        let hash: String = record.sha256_128.iter().map(|byte| format!("{byte:02x}")).collect();
        let mid_row = layout.starts_mid_row;
        frames.push(inventory::Frame(
            record.plain_bytes,
            record.sealed_bytes,
            layout.open_chunk,
            mid_row,
            hash,
        ));
    }
    let object = v1::Object {
        name: name.clone(),
        role: v1::Role::Archive,
        plaintext: summary.plaintext,
        ciphertext: summary.ciphertext,
    };
    let archive = match indexed {
        true => indexed_archive(name, &index, &digests, frames),
        false => {
            inventory::Archive { object: name, head_bytes: 0, tables: vec![], blobs: vec![], frames: vec![] }
        }
    };
    (archive, object)
}

fn indexed_archive(
    object: String,
    index: &ArchiveIndex,
    digests: &BTreeMap<i32, RowDigest>,
    frames: Vec<inventory::Frame>,
) -> inventory::Archive {
    let (mut tables, mut blobs) = (Vec::new(), Vec::new());
    for span in &index.data {
        let entry = index.toc.entry(span.dump_id).unwrap();
        let (dump_id, start, end) = (span.dump_id, span.start, span.end);
        if !entry.is_table_data() {
            blobs.push(inventory::Blobs { dump_id, start, end });
            continue;
        }
        let digest = digests.get(&dump_id).copied().unwrap_or_default();
        tables.push(inventory::Table {
            dump_id,
            schema: entry.namespace.clone().unwrap(),
            name: entry.tag.clone(),
            copy: entry.copy_stmt.clone().unwrap(),
            rows: digest.rows,
            digest: format!("{:032x}", digest.sum),
            start,
            end,
        });
    }
    inventory::Archive { object, head_bytes: index.head_bytes, tables, blobs, frames }
}

fn manifest(facts: &SnapshotFacts, object: v1::Object, inventory: &Inventory, indexed: bool) -> v1::Manifest {
    let tables = &inventory.archives[0].tables;
    let now = Timestamp::now();
    v1::Manifest {
        format: v1::FORMAT.to_owned(),
        version: v1::VERSION,
        repository: "abcdefghijklmnopqrstuvwxyz".parse().unwrap(),
        source: "app".parse().unwrap(),
        id: "20261124T020000Z-k3x7qa".parse().unwrap(),
        started_at: now,
        finished_at: now,
        snapshot: v1::Snapshot { at: facts.snapshot_at, lsn: facts.lsn.clone(), in_recovery: false },
        programs: v1::Programs {
            pgproof: "0.1.0".to_owned(),
            pg_dump: Some(facts.server_version.to_string()),
            zstd: "1.5".to_owned(),
        },
        contents: v1::Contents::Postgres(Box::new(v1::Postgres {
            server: v1::Server {
                version: facts.server_version_text.clone(),
                version_number: facts.server_version_number,
                system_identifier: None,
                database: facts.database.name.clone(),
                database_bytes: 0,
                encoding: facts.database.encoding.clone(),
                collate: facts.database.collate.clone(),
                ctype: facts.database.ctype.clone(),
                locale_provider: Some(facts.database.locale_provider.as_str().to_owned()),
                icu_locale: facts.database.icu_locale.clone(),
                collation_version: None,
            },
            archive: v1::Archive {
                format_version: None,
                indexed,
                not_indexed_because: (!indexed).then(|| "a test says so".to_owned()),
                table_count: tables.len() as u64,
                row_count: tables.iter().map(|table| table.rows).sum(),
                snapshot_seconds: None,
            },
        })),
        objects: vec![object],
        recipients: Vec::new(),
        policy_sha256: String::new(),
        host: "test".to_owned(),
        reason: None,
        tags: BTreeMap::new(),
        previous: v1::Previous::None,
        imported: None,
        warnings: Vec::new(),
        restore: String::new(),
    }
}

pub(crate) fn signed(manifest: &v1::Manifest) -> SignedManifest {
    let (private, public) = generate("agent");
    let key = SigningKey::parse(&private, Path::new("key")).unwrap();
    let signers = TrustedSigners::parse(&format!("agent {public}")).unwrap();
    let bytes = manifest.to_bytes();
    SignedManifest::check(&bytes, &key.sign(NAMESPACE, &bytes).unwrap(), &signers).unwrap()
}
