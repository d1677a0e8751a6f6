use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use super::*;
use crate::keys::KeyError;
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
    assert_eq!(reader.sealed_bytes(), object.frames().last().unwrap().sealed_end());
    counters.reset();
    for (frame, block) in object.frames().iter().zip(&blocks).rev() {
        assert!(reader.read_frame(frame).unwrap() == *block);
    }
    assert_eq!(counters.of(Operation::GetRange).requests, LENGTHS.len() as u64);
    let mut offset = 0;
    for (frame, length) in object.frames().iter().zip(LENGTHS) {
        assert_eq!((frame.plain_offset, frame.plain_bytes as usize), (offset, length));
        offset += length as u64;
    }
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

/// Both sides of a chunk's edge: one request, and no chunk besides.
#[test]
fn frames_that_meet_where_two_chunks_meet_cost_what_others_cost() {
    const CHUNK: u64 = 64 << 10;
    let (runtime, keys) = (runtime(), keys());
    let mut noise = vec![0; 4 * CHUNK as usize];
    StdRng::seed_from_u64(3).fill_bytes(&mut noise);
    let second = b"1\tname\n".repeat(1_000);
    let sealed = |length: u64| {
        seal(&keys, &[noise[..length as usize].to_vec(), second.clone(), noise.clone()], 1, 1 << 20)
    };
    // Noise does not compress: a frame is so much longer than what is in it.
    let wrapping = u64::from(sealed(CHUNK - 64).frames()[0].sealed_bytes) - (CHUNK - 64);
    let object = sealed(CHUNK - wrapping);
    let frames = object.frames();
    assert_eq!(frames[1].sealed_offset, CHUNK);
    let counting = CountingStore::new(store_with(&runtime, &object.bytes));
    let counters = counting.counters();
    let reader = open(&runtime, Arc::new(counting), object.expected(), &keys).unwrap();
    for frame in &frames[..2] {
        counters.reset();
        reader.read_frame(frame).unwrap();
        let count = counters.of(Operation::GetRange);
        assert_eq!((count.requests, count.bytes), (1, CHUNK + 16));
    }
}

#[test]
fn a_header_is_not_looked_for_without_end() {
    let (runtime, keys) = (runtime(), keys());
    let object = seal(&keys, &[b"row\n".to_vec()], 1, 1 << 20);
    let zeros = vec![0; 2 << 20];
    let counting = CountingStore::new(store_with(&runtime, &zeros));
    let counters = counting.counters();
    let ciphertext = Ciphertext { bytes: zeros.len() as u64, ..object.expected().ciphertext };
    let refused = open(&runtime, Arc::new(counting), Expected { ciphertext, ..object.expected() }, &keys);
    assert!(matches!(refused, Err(ReadError::Key { source: KeyError::Header { .. } })), "{refused:?}");
    assert_eq!(counters.of(Operation::GetRange).requests, 3);
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
    // Without progress it is asked for a few times, and never again where the store says no.
    for (fault, calls) in [(Fault::FailBefore, 5), (Fault::Deny, 1)] {
        let before = faulty.calls();
        faulty.script(vec![Rule::on(Operation::GetStream, fault).times(u64::MAX)]);
        assert!(reader.stream().and_then(PlaintextStream::check).is_err());
        assert_eq!(faulty.calls() - before, calls, "{fault:?}");
    }
}

/// Wherever somebody seeks, and with a request for many reads where somebody reads on.
#[test]
fn an_object_reads_as_a_file() {
    let runtime = runtime();
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let counting = CountingStore::new(store_with(&runtime, &body));
    let counters = counting.counters();
    let bytes = body.len() as u64;
    let object =
        object::Object { store: Arc::new(counting), runtime: runtime.handle().clone(), key: key(), bytes };
    let (head, window) = (body[..1_000].to_vec().into(), body[500_000..600_000].to_vec().into());
    let mut reader = object::ObjectReader::new(object, head, 500_000, window);
    let mut read_at = |at: SeekFrom, length: usize| {
        let mut read = vec![0; length];
        let from = usize::try_from(reader.seek(at).unwrap()).unwrap();
        reader.read_exact(&mut read).unwrap();
        assert!(read == body[from..from + length], "{at:?}");
        counters.of(Operation::GetRange).requests
    };
    // What is held is not fetched.
    assert_eq!(read_at(SeekFrom::Start(0), 1_000), 0);
    assert_eq!(read_at(SeekFrom::Start(599_000), 1_000), 0);
    // Reading on from there, what is fetched doubles.
    assert_eq!(read_at(SeekFrom::Current(0), 200_000), 1);
    assert_eq!(read_at(SeekFrom::Current(0), 500_000), 2);
    assert_eq!(read_at(SeekFrom::Current(0), 1_000_000), 3);
    // After a jump it begins small again.
    assert_eq!(read_at(SeekFrom::Start(1_000_000), (128 << 10) + 1), 5);
    assert_eq!(read_at(SeekFrom::Start(10_000), 1), 6);
    assert_eq!(read_at(SeekFrom::End(-10), 10), 7);
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    assert!(reader.seek(SeekFrom::End(-3_000_001)).is_err());
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
