mod damage;
mod reading;
mod sharing;
mod small;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Runtime;

use super::*;
use crate::ids::ObjectKey;
use crate::keys::{Identities, NoPrompts, Recipients, generate_identity};
use crate::store::memory::MemoryStore;
use crate::store::{PutCondition, SharedStore, Store};

struct Keys {
    secret: SecretString,
    recipients: Recipients,
    identities: Identities,
}

fn keys() -> Keys {
    let (secret, recipient) = generate_identity();
    let (_, second) = generate_identity();
    let recipients = Recipients::parse([recipient, second]).unwrap();
    let identities = Identities::parse(&secret, Path::new("test"), Arc::new(NoPrompts)).unwrap();
    Keys { secret, recipients, identities }
}

fn identity_file(folder: &Path, keys: &Keys) -> PathBuf {
    let path = folder.join("identity");
    std::fs::write(&path, keys.secret.expose_secret()).unwrap();
    path
}

/// Rows that compress, and every third block bytes that do not.
fn blocks(lengths: &[usize]) -> Vec<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(7);
    let block = |(index, length): (usize, &usize)| {
        let mut block = vec![0; *length];
        match index % 3 {
            2 => random.fill_bytes(&mut block),
            _ => block.iter_mut().enumerate().for_each(|(i, byte)| *byte = b"1\tname\n"[(i + index) % 7]),
        }
        block
    };
    lengths.iter().enumerate().map(block).collect()
}

struct Object {
    bytes: Vec<u8>,
    parts: Vec<usize>,
    summary: SealedSummary<usize>,
}

impl Object {
    fn expected(&self) -> Expected {
        Expected { plaintext: self.summary.plaintext, ciphertext: self.summary.ciphertext }
    }

    fn frames(&self) -> Vec<FrameRecord> {
        self.summary.frames.iter().map(|(record, _)| *record).collect()
    }
}

fn seal(keys: &Keys, blocks: &[Vec<u8>], workers: usize, part_bytes: u64) -> Object {
    let (mut sealer, mut parts) =
        Sealer::start(&keys.recipients, 3, workers, move |number| part_bytes + u64::from(number)).unwrap();
    let collect = std::thread::spawn(move || {
        let mut collected: Vec<Bytes> = Vec::new();
        while let Some(part) = parts.blocking_recv() {
            collected.push(part);
        }
        collected
    });
    for block in blocks {
        let mut bytes = sealer.buffer();
        bytes.extend_from_slice(block);
        sealer.submit(SealJob::new(bytes, |bytes: &[u8]| bytes.len())).unwrap();
    }
    let summary = sealer.finish().unwrap();
    let parts = collect.join().unwrap();
    Object { bytes: parts.concat(), parts: parts.iter().map(Bytes::len).collect(), summary }
}

fn key() -> ObjectKey {
    "app/backups/x/data.000.zst.age".parse().unwrap()
}

fn store_with(runtime: &Runtime, bytes: &[u8]) -> SharedStore {
    let store = MemoryStore::new();
    let body = Bytes::copy_from_slice(bytes);
    runtime.block_on(store.put(&key(), body, PutCondition::IfAbsent)).unwrap();
    Arc::new(store)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn open(
    runtime: &Runtime,
    store: SharedStore,
    expected: Expected,
    keys: &Keys,
) -> Result<SealedReader, ReadError> {
    SealedReader::open(store, runtime.handle().clone(), key(), expected, &keys.identities)
}
