use std::io::Read;
use std::sync::Arc;

use super::*;
use crate::store::StoreError;
use crate::store::counting::CountingStore;
use crate::store::faulty::{Fault, FaultyStore, Rule};
use crate::store::operation::Operation;

const LENGTHS: [usize; 9] = [200_000, 65_536, 300_000, 1, 0, 131_072, 5, 64 << 10, 400_000];

#[test]
fn every_frame_reads_alone_and_costs_one_request() {
    let (runtime, keys, blocks) = (runtime(), keys(), blocks(&LENGTHS));
    let object = seal(&keys, &blocks, 2, 1 << 20);
    let counting = CountingStore::new(store_with(&runtime, &object.bytes));
    let counters = counting.counters();
    let reader = open(&runtime, Arc::new(counting), object.expected(), &keys).unwrap();
    counters.reset();
    for (frame, block) in object.frames().iter().zip(&blocks).rev() {
        assert!(reader.read_frame(frame).unwrap() == *block);
    }
    assert_eq!(counters.of(Operation::GetRange).requests, LENGTHS.len() as u64);
    assert_eq!(counters.all().len(), 1);
}

#[test]
fn frames_read_from_many_threads_with_one_unwrapped_key() {
    let (runtime, keys, blocks) = (runtime(), keys(), blocks(&LENGTHS));
    let object = seal(&keys, &blocks, 2, 1 << 20);
    let store = store_with(&runtime, &object.bytes);
    let reader = open(&runtime, store, object.expected(), &keys).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (reader, blocks, frames) = (reader.clone(), &blocks, object.frames());
            scope.spawn(move || {
                let read: Vec<_> = reader.read_frames(frames).unwrap().map(Result::unwrap).collect();
                assert!(read == *blocks);
            });
        }
    });
}

#[test]
fn neighbours_are_fetched_together_and_little_else() {
    let (runtime, keys) = (runtime(), keys());
    let mut random = StdRng::seed_from_u64(1);
    let blocks: Vec<Vec<u8>> = (0..48)
        .map(|_| {
            let mut block = vec![0; 500_000];
            random.fill_bytes(&mut block);
            block
        })
        .collect();
    let object = seal(&keys, &blocks, 2, 1 << 20);
    let counting = CountingStore::new(store_with(&runtime, &object.bytes));
    let counters = counting.counters();
    let reader = open(&runtime, Arc::new(counting), object.expected(), &keys).unwrap();
    counters.reset();
    let read: Vec<_> = reader.read_frames(object.frames()).unwrap().map(Result::unwrap).collect();
    assert!(read == blocks);
    let count = counters.of(Operation::GetRange);
    assert_eq!(count.requests, 12, "48 frames of 0.5 MB in batches of 2 MiB");
    assert!(count.bytes < object.bytes.len() as u64 + 12 * (64 << 10));
    counters.reset();
    let begun = reader.read_frames(object.frames()).unwrap().next();
    assert!(begun.unwrap().unwrap() == blocks[0]);
    let ahead = counters.of(Operation::GetRange).requests;
    assert!(ahead <= 6, "8 MiB are fetched ahead, no more: {ahead} requests");
    counters.reset();
    let chosen = [&object.frames()[2..4], &object.frames()[20..21]].concat();
    let read: Vec<_> = reader.read_frames(chosen).unwrap().map(Result::unwrap).collect();
    assert!(read == [&blocks[2..4], &blocks[20..21]].concat());
    assert_eq!(counters.of(Operation::GetRange).requests, 2);
    assert_eq!(reader.read_frames([]).unwrap().count(), 0);
}

#[test]
fn the_whole_stream_reads_from_one_request_and_tells_its_hashes() {
    let (runtime, keys, blocks) = (runtime(), keys(), blocks(&LENGTHS));
    let object = seal(&keys, &blocks, 2, 1 << 20);
    let counting = CountingStore::new(store_with(&runtime, &object.bytes));
    let counters = counting.counters();
    let reader = open(&runtime, Arc::new(counting), object.expected(), &keys).unwrap();
    counters.reset();
    let mut stream = reader.stream().unwrap();
    let mut plain = Vec::new();
    stream.read_to_end(&mut plain).unwrap();
    assert!(plain == blocks.concat());
    assert_eq!(stream.finish().unwrap(), object.expected());
    assert_eq!(counters.of(Operation::GetStream).requests, 1);
    assert_eq!(counters.all().len(), 1);
    assert_eq!(reader.stream().unwrap().check().unwrap(), object.expected());
    let mut begun = reader.stream().unwrap();
    begun.read_exact(&mut [0; 100]).unwrap();
    assert!(matches!(begun.finish(), Err(ReadError::NotAtEnd)));
}

#[test]
fn an_empty_stream_reads_as_such() {
    let (runtime, keys) = (runtime(), keys());
    let object = seal(&keys, &[], 1, 1 << 20);
    let reader = open(&runtime, store_with(&runtime, &object.bytes), object.expected(), &keys).unwrap();
    assert_eq!(reader.stream().unwrap().check().unwrap(), object.expected());
}

#[test]
fn a_body_that_breaks_off_is_read_on_from_there() {
    let (runtime, keys, blocks) = (runtime(), keys(), blocks(&LENGTHS));
    let object = seal(&keys, &blocks, 2, 1 << 20);
    let cut = Rule::on(Operation::GetStream, Fault::Cut { bytes: 70_000 }).times(3);
    let lost = Rule::on(Operation::GetStream, Fault::FailBefore).from_call(4);
    let faulty = FaultyStore::scripted(store_with(&runtime, &object.bytes), vec![cut, lost]);
    let reader = open(&runtime, Arc::new(faulty.clone()), object.expected(), &keys).unwrap();
    assert_eq!(reader.stream().unwrap().check().unwrap(), object.expected());
    assert_eq!(faulty.struck(), 4);
    let always = Rule::on(Operation::GetStream, Fault::FailBefore).times(u64::MAX);
    faulty.script(vec![always]);
    let error = reader.stream().and_then(PlaintextStream::check).unwrap_err();
    assert!(matches!(error, ReadError::Store { source: StoreError::Unreachable { .. } }), "{error:?}");
}

#[test]
fn store_errors_of_ranged_reads_keep_their_kind() {
    let (runtime, keys, blocks) = (runtime(), keys(), blocks(&LENGTHS));
    let object = seal(&keys, &blocks, 2, 1 << 20);
    let faulty = FaultyStore::scripted(store_with(&runtime, &object.bytes), vec![]);
    let reader = open(&runtime, Arc::new(faulty.clone()), object.expected(), &keys).unwrap();
    faulty.script(vec![Rule::on(Operation::GetRange, Fault::Deny).times(u64::MAX)]);
    let denied = |error: &ReadError| matches!(error, ReadError::Store { source: StoreError::Denied { .. } });
    assert!(denied(&reader.read_frame(&object.frames()[0]).unwrap_err()));
    let items: Vec<_> = reader.read_frames(object.frames()).unwrap().collect();
    assert!(items.len() == 1 && denied(items[0].as_ref().unwrap_err()));
}
