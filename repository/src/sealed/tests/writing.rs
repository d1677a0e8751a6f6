use std::process::Command;
use std::sync::Arc;

use super::*;

#[test]
fn stock_age_and_zstd_give_the_plaintext_back() {
    let keys = keys();
    let folder = tempfile::tempdir().unwrap();
    let identity = identity_file(folder.path(), &keys);
    for lengths in [&[300_000, 1, 65_536, 500_000, 0, 7][..], &[]] {
        let blocks = blocks(lengths);
        let object = seal(&keys, &blocks, 2, 100_000);
        let sealed = folder.path().join("data.000.zst.age");
        std::fs::write(&sealed, &object.bytes).unwrap();
        let output = Command::new("sh")
            .args([
                "-c",
                "set -e; age -d -i \"$0\" -o \"$1.zst\" \"$1\"; zstd -q -d -c \"$1.zst\"; rm \"$1.zst\"",
            ])
            .args([&identity, &sealed])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == blocks.concat());
    }
}

#[test]
fn frames_inspections_and_hashes_come_in_the_order_of_the_blocks() {
    let keys = keys();
    let lengths: Vec<usize> = (0..40).map(|i| (i * 7919) % 50_000).collect();
    let blocks = blocks(&lengths);
    let object = seal(&keys, &blocks, 3, 1 << 20);
    let plain = blocks.concat();
    assert_eq!(object.summary.frames.iter().map(|(_, found)| *found).collect::<Vec<_>>(), lengths);
    assert_eq!(object.summary.plaintext.bytes, plain.len() as u64);
    assert_eq!(object.summary.plaintext.sha256, crate::ids::PlaintextSha256::of(&plain));
    assert_eq!(object.summary.ciphertext.bytes, object.bytes.len() as u64);
    assert_eq!(object.summary.ciphertext.sha256, crate::ids::CiphertextSha256::of(&object.bytes));
    let mut ends = (0, 0);
    for frame in object.frames() {
        assert_eq!((frame.sealed_offset, frame.plain_offset), ends);
        ends = (frame.sealed_end(), frame.plain_end());
    }
}

#[test]
fn parts_have_the_sizes_they_were_given() {
    let object = seal(&keys(), &blocks(&[0, 0, 200_000]), 1, 50_000);
    let (last, full) = object.parts.split_last().unwrap();
    assert!(full.len() >= 3);
    for (index, part) in full.iter().enumerate() {
        assert_eq!(*part, 50_000 + index + 1);
    }
    assert!(*last > 0 && *last <= 50_000 + object.parts.len());
}

#[test]
fn a_consumer_that_goes_away_ends_everything() {
    let keys = keys();
    for parts_taken in [0, 1, 3] {
        let (mut sealer, mut parts) = Sealer::start(&keys.recipients, 1, 2, |_| 10_000).unwrap();
        let consumer = std::thread::spawn(move || {
            for _ in 0..parts_taken {
                parts.blocking_recv().unwrap();
            }
        });
        let block = blocks(&[0, 0, 100_000]).remove(2);
        let error = (0..1000)
            .find_map(|_| sealer.submit(SealJob::new(block.clone(), |_| ())).err())
            .expect("without a consumer there is room for few blocks");
        assert!(matches!(error, SealError::ConsumerGone), "{error:?}");
        assert!(matches!(sealer.submit(SealJob::new(vec![], |_| ())), Err(SealError::Stopped)));
        assert!(matches!(sealer.finish(), Err(SealError::Stopped)));
        consumer.join().unwrap();
    }
    let (sealer, parts) = Sealer::<()>::start(&keys.recipients, 1, 2, |_| 10).unwrap();
    drop(parts);
    let ended = sealer.finish();
    assert!(matches!(ended, Err(SealError::ConsumerGone)), "{ended:?}");
}

#[test]
fn a_sealer_dropped_before_its_end_stops_its_threads_and_leaves_nothing_whole() {
    let keys = keys();
    let (mut sealer, mut parts) = Sealer::start(&keys.recipients, 1, 2, |_| 5_000).unwrap();
    let alive = Arc::new(());
    let consumer = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        while let Some(part) = parts.blocking_recv() {
            bytes.extend_from_slice(&part);
        }
        bytes
    });
    for block in blocks(&[30_000; 9]) {
        let alive = alive.clone();
        sealer.submit(SealJob::new(block, move |_| drop(alive))).unwrap();
    }
    drop(sealer);
    // The channel ends when the age thread has, which waits for what the workers owe it.
    let bytes = consumer.join().unwrap();
    assert!(unseal_bytes(&keys.identities, &bytes, u64::MAX, None).is_err());
}

#[test]
fn an_inspection_that_panics_is_an_error() {
    let keys = keys();
    for workers in [1, 3] {
        let (mut sealer, mut parts) = Sealer::<()>::start(&keys.recipients, 1, workers, |_| 1 << 20).unwrap();
        let consumer = std::thread::spawn(move || while parts.blocking_recv().is_some() {});
        let _ = sealer.submit(SealJob::new(vec![1], |_| panic!("as the test wants")));
        let error = (0..100).find_map(|_| sealer.submit(SealJob::new(vec![2], |_| ())).err());
        assert!(matches!(error, Some(SealError::Panicked)), "{error:?}");
        drop(sealer);
        consumer.join().unwrap();
    }
}

#[test]
fn a_block_larger_than_a_reader_takes_is_refused() {
    let (mut sealer, _parts) = Sealer::<()>::start(&keys().recipients, 1, 1, |_| 1 << 20).unwrap();
    let error = sealer.submit(SealJob::new(vec![0; BLOCK_BYTES_MAX + 1], |_| ())).unwrap_err();
    assert!(matches!(error, SealError::Frame { source: FrameError::TooLarge { .. }, .. }));
}
