use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::ids::CiphertextSha256;

/// One sealed object for every case, sealed once.
struct Fixture {
    runtime: Runtime,
    keys: Keys,
    object: Object,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let keys = keys();
        let object = seal(&keys, &blocks(&[150_000, 20_000, 250_000, 90_000]), 2, 1 << 20);
        Fixture { runtime: runtime(), keys, object }
    })
}

/// What reads the damaged bytes, told the length and ciphertext hash that they have: so age, zstd and the plaintext's
/// hash must find what is wrong, not the length.
fn check_damaged(bytes: &[u8]) -> Result<Expected, ReadError> {
    let Fixture { runtime, keys, object } = fixture();
    let ciphertext = Ciphertext { bytes: bytes.len() as u64, sha256: CiphertextSha256::of(bytes) };
    let expected = Expected { ciphertext, ..object.expected() };
    open(runtime, store_with(runtime, bytes), expected, keys)?.stream()?.check()
}

fn frames_of_damaged(bytes: &[u8]) -> Vec<Result<Vec<u8>, ReadError>> {
    let Fixture { runtime, keys, object } = fixture();
    let ciphertext = Ciphertext { bytes: bytes.len() as u64, sha256: CiphertextSha256::of(bytes) };
    let expected = Expected { ciphertext, ..object.expected() };
    match open(runtime, store_with(runtime, bytes), expected, keys) {
        Ok(reader) => object.frames().iter().map(|frame| reader.read_frame(frame)).collect(),
        Err(error) => vec![Err(error)],
    }
}

fn payload_start() -> usize {
    let bytes = &fixture().object.bytes;
    let mac = bytes.windows(5).position(|window| window == b"\n--- ").unwrap() + 1;
    mac + bytes[mac..].iter().position(|byte| *byte == b'\n').unwrap() + 1 + 16
}

#[test]
fn the_undamaged_object_passes() {
    assert!(check_damaged(&fixture().object.bytes).is_ok());
    assert!(frames_of_damaged(&fixture().object.bytes).iter().all(Result::is_ok));
}

#[test]
fn no_truncation_passes() {
    let bytes = &fixture().object.bytes;
    let start = payload_start();
    let chunks = (start..bytes.len()).step_by((64 << 10) + 16);
    let edges = chunks.flat_map(|edge| [edge - 1, edge, edge + 1, edge + 16, edge + 17]);
    let others =
        [0, 1, 20, 21, 22, 100, start - 17, start - 16, bytes.len() - 17, bytes.len() - 16, bytes.len() - 1];
    for length in edges.chain(others).filter(|length| *length < bytes.len()) {
        assert!(check_damaged(&bytes[..length]).is_err(), "{length}");
        assert!(frames_of_damaged(&bytes[..length]).iter().any(Result::is_err), "{length}");
    }
}

/// Which of the two it is tells an operator where to look; both have something to do.
#[test]
fn what_is_cut_short_is_told_from_what_was_changed() {
    let bytes = &fixture().object.bytes;
    let start = payload_start();
    // In the header, behind it, and between two chunks.
    for length in [20, start - 20, start, start + 2 * ((64 << 10) + 16)] {
        let error = check_damaged(&bytes[..length]).unwrap_err();
        assert!(matches!(error, ReadError::CutShort), "{length}: {error:?}");
        assert!(error.hint().unwrap().contains("another backup"));
    }
    let mut changed = bytes.clone();
    changed[start + 1000] ^= 1;
    let error = check_damaged(&changed).unwrap_err();
    assert!(matches!(error, ReadError::Damaged { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("another backup"));
}

#[test]
fn appended_bytes_do_not_pass() {
    let bytes = &fixture().object.bytes;
    for tail in [&b"x"[..], &[0; 16], &[0; 17], &bytes[..]] {
        assert!(check_damaged(&[bytes, tail].concat()).is_err());
    }
}

#[test]
fn an_object_of_another_length_or_hash_than_the_manifests_is_refused() {
    let Fixture { runtime, keys, object } = fixture();
    let store = || store_with(runtime, &object.bytes);
    let mut expected = object.expected();
    expected.ciphertext.bytes -= 1;
    assert!(matches!(open(runtime, store(), expected, keys), Err(ReadError::ObjectLength { .. })));
    let mut expected = object.expected();
    expected.ciphertext.sha256 = CiphertextSha256::of(b"");
    let error = open(runtime, store(), expected, keys).unwrap().stream().unwrap().check().unwrap_err();
    assert!(matches!(error, ReadError::CiphertextDiffers));
    let mut expected = object.expected();
    expected.plaintext.bytes += 1;
    let error = open(runtime, store(), expected, keys).unwrap().stream().unwrap().check().unwrap_err();
    assert!(matches!(error, ReadError::PlaintextDiffers));
}

#[test]
fn an_object_of_other_recipients_is_refused_by_name() {
    let Fixture { runtime, object, .. } = fixture();
    let error = open(runtime, store_with(runtime, &object.bytes), object.expected(), &keys()).unwrap_err();
    assert!(matches!(error, ReadError::Key { source: crate::keys::KeyError::NoMatchingIdentity }));
}

#[test]
fn records_that_point_elsewhere_are_refused() {
    let Fixture { runtime, keys, object } = fixture();
    let reader = open(runtime, store_with(runtime, &object.bytes), object.expected(), keys).unwrap();
    let [first, second, ..] = object.frames()[..] else { unreachable!() };
    let swapped = FrameRecord { sealed_offset: second.sealed_offset, ..first };
    let swapped = FrameRecord { sealed_bytes: second.sealed_bytes, ..swapped };
    assert!(matches!(reader.read_frame(&swapped), Err(ReadError::Frame { source: FrameError::Hash, .. })));
    for offset in [u64::MAX, u64::MAX - 5, object.bytes.len() as u64 * 2, 1 << 40] {
        let outside = FrameRecord { sealed_offset: offset, ..first };
        assert!(matches!(reader.read_frame(&outside), Err(ReadError::OutOfObject { .. })));
        assert!(reader.read_frames([outside]).is_err());
    }
    let empty = FrameRecord { sealed_bytes: 0, ..first };
    assert!(reader.read_frame(&empty).is_err());
    let vast = FrameRecord { sealed_bytes: u32::MAX, ..first };
    assert!(reader.read_frame(&vast).is_err());
    // Nor is fetched what no block could have become, however long the object is.
    let long = [&object.bytes[..], &[0; 20 << 20]].concat();
    let ciphertext = Ciphertext { bytes: long.len() as u64, ..object.expected().ciphertext };
    let expected = Expected { ciphertext, ..object.expected() };
    let of_long = open(runtime, store_with(runtime, &long), expected, keys).unwrap();
    let vast = FrameRecord { sealed_bytes: 18 << 20, ..first };
    let error = of_long.read_frame(&vast).unwrap_err();
    let ReadError::Frame { source: FrameError::TooLarge { bytes }, .. } = error else { panic!("{error:?}") };
    assert_eq!(bytes, 18 << 20);
    let unordered = object.frames().into_iter().rev();
    assert!(reader.read_frames(unordered).unwrap().all(|frame| frame.is_ok()));
}

#[test]
fn swapped_chunks_do_not_pass() {
    let start = payload_start();
    let chunk = (64 << 10) + 16;
    let mut bytes = fixture().object.bytes.clone();
    let (left, right) = bytes.split_at_mut(start + chunk);
    left[start..].swap_with_slice(&mut right[..chunk]);
    assert!(check_damaged(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_flipped_bit_passes(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = fixture().object.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        prop_assert!(check_damaged(&bytes).is_err());
        let clean = blocks(&[150_000, 20_000, 250_000, 90_000]);
        for (index, frame) in frames_of_damaged(&bytes).into_iter().enumerate() {
            prop_assert!(frame.map_or(true, |plain| plain == clean[index]));
        }
    }

    #[test]
    fn no_length_passes_but_the_whole(at in any::<prop::sample::Index>()) {
        let bytes = &fixture().object.bytes;
        prop_assert!(check_damaged(&bytes[..at.index(bytes.len())]).is_err());
    }
}
