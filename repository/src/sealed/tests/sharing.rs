use std::sync::mpsc;
use std::time::Duration;

use super::*;

const STREAMS: usize = 3;
const UPLOADS: usize = 1;
/// After so long without a part nobody can go on: no assertion depends on it.
const STUCK: Duration = Duration::from_millis(100);

#[test]
fn streams_share_workers_and_have_few_parts_in_memory_together() {
    let keys = keys();
    let workers = Workers::shared_by(1, 2, STREAMS, UPLOADS).unwrap();
    let (took, taken) = mpsc::channel();
    let mut producers = Vec::new();
    for stream in 0..STREAMS {
        let blocks = blocks(&[0, stream, 150_000, 1, 70_000, 90_000, 3, 9, 120_000]);
        let (mut sealer, mut parts) = workers.sealer(&keys.recipients, |_| 20_000).unwrap();
        let took = took.clone();
        std::thread::spawn(move || {
            while let Some(part) = parts.blocking_recv() {
                took.send((stream, part)).unwrap();
            }
        });
        producers.push(std::thread::spawn(move || {
            for block in &blocks {
                sealer.submit(SealJob::new(block.clone(), |bytes: &[u8]| bytes.len())).unwrap();
            }
            let lengths: Vec<usize> = blocks.iter().map(Vec::len).collect();
            let found: Vec<usize> = sealer.finish().unwrap().frames.iter().map(|(_, found)| *found).collect();
            assert_eq!(found, lengths, "each stream has its own frames, in its own order");
            blocks.concat()
        }));
    }
    drop((took, workers));
    let (mut objects, mut kept) = (vec![Vec::new(); STREAMS], Vec::new());
    loop {
        match taken.recv_timeout(STUCK) {
            Ok((stream, part)) => {
                objects[stream].extend_from_slice(&part);
                kept.push(part);
                assert!(
                    kept.len() <= workers::parts_in_memory(STREAMS, UPLOADS, 20_000),
                    "{} parts",
                    kept.len()
                );
            }
            Err(mpsc::RecvTimeoutError::Timeout) => kept.clear(),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    for (producer, object) in producers.into_iter().zip(objects) {
        let plain = unseal_bytes(&keys.identities, &object, u64::MAX, None).unwrap();
        assert!(plain == producer.join().unwrap());
    }
}

#[test]
fn a_stream_that_is_given_up_frees_its_room_for_the_others() {
    let keys = keys();
    let workers = Workers::shared_by(1, 1, 2, UPLOADS).unwrap();
    let (mut given_up, parts) = workers.sealer(&keys.recipients, |_| 10_000).unwrap();
    drop(parts);
    let block = blocks(&[0, 0, 100_000]).remove(2);
    while given_up.submit(SealJob::new(block.clone(), |_| ())).is_ok() {}
    let (mut sealer, mut parts) = workers.sealer(&keys.recipients, |_| 10_000).unwrap();
    let consumer = std::thread::spawn(move || while parts.blocking_recv().is_some() {});
    for _ in 0..20 {
        sealer.submit(SealJob::new(block.clone(), |_| ())).unwrap();
    }
    assert_eq!(sealer.finish().unwrap().frames.len(), 20);
    consumer.join().unwrap();
}

#[test]
fn large_parts_are_in_memory_in_small_numbers() {
    const MIB: u64 = 1 << 20;
    let number = |streams, mib| workers::parts_in_memory(streams, 3, mib * MIB);
    assert_eq!([8, 12, 13, 16, 17, 500].map(|mib| number(1, mib)), [5, 5, 4, 4, 3, 3]);
    assert_eq!([8, 10, 12, 500].map(|mib| number(4, mib)), [7, 6, 6, 6]);
}
