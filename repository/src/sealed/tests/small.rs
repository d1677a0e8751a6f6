use std::io::Write;

use super::*;

fn expected(sealed: &SealedBytes) -> Expected {
    Expected { plaintext: sealed.plaintext, ciphertext: sealed.ciphertext }
}

#[test]
fn what_is_sealed_is_unsealed_and_has_the_hashes_it_says() {
    let keys = keys();
    for length in [0, 1, 65_536, 1_000_000] {
        let plain = blocks(&[length]).concat();
        let sealed = seal_bytes(&keys.recipients, 3, &plain).unwrap();
        let expected = expected(&sealed);
        assert_eq!(expected.plaintext.bytes, length as u64);
        let opened = unseal_bytes(&keys.identities, &sealed.bytes, length as u64, Some(&expected)).unwrap();
        assert!(opened == plain);
    }
}

#[test]
fn what_is_larger_than_allowed_is_not_unpacked() {
    let keys = keys();
    let sealed = seal_bytes(&keys.recipients, 19, &vec![0; 50 << 20]).unwrap();
    assert!(sealed.bytes.len() < 100_000);
    let error = unseal_bytes(&keys.identities, &sealed.bytes, 1 << 20, None).unwrap_err();
    assert!(matches!(error, UnsealError::TooLarge { plain_bytes_max: 1_048_576 }));
}

/// What a broken compressor wrote is found before it is stored.
#[test]
fn only_a_frame_of_the_very_bytes_passes_the_check_before_sealing() {
    let plain = blocks(&[200_000]).concat();
    let frame = zstd::bulk::compress(&plain, 3).unwrap();
    assert!(crate::sealed::small::decodes_to(&frame, &plain));
    let mut other = plain.clone();
    other[150_000] ^= 1;
    for wrong in [&other, &plain[..199_999], &[&plain[..], b"x"].concat(), b""] {
        assert!(!crate::sealed::small::decodes_to(&frame, wrong));
    }
    assert!(
        !crate::sealed::small::decodes_to(&frame[..frame.len() - 1], &plain)
            && !crate::sealed::small::decodes_to(b"no frame", b"")
    );
}

#[test]
fn what_is_not_the_expected_thing_is_refused() {
    let keys = keys();
    let sealed = seal_bytes(&keys.recipients, 3, b"roles").unwrap();
    let other = seal_bytes(&keys.recipients, 3, b"other").unwrap();
    let unseal =
        |bytes: &[u8], expected| unseal_bytes(&keys.identities, bytes, 100, Some(&expected)).unwrap_err();
    assert!(matches!(unseal(&other.bytes, expected(&sealed)), UnsealError::CiphertextDiffers));
    let mixed = Expected { plaintext: sealed.plaintext, ciphertext: other.ciphertext };
    assert!(matches!(unseal(&other.bytes, mixed), UnsealError::PlaintextDiffers));
    for length in 0..sealed.bytes.len() {
        assert!(unseal_bytes(&keys.identities, &sealed.bytes[..length], 100, None).is_err(), "{length}");
        let mut flipped = sealed.bytes.clone();
        flipped[length] ^= 1;
        assert!(unseal_bytes(&keys.identities, &flipped, 100, None).is_err(), "{length}");
    }
}

#[test]
fn a_frame_that_ends_early_inside_a_whole_age_file_is_refused() {
    let keys = keys();
    let frame = zstd::bulk::compress(&blocks(&[100_000]).concat(), 3).unwrap();
    for length in [0, 1, 4, frame.len() / 2, frame.len() - 1] {
        let mut writer = keys.recipients.encrypt_writer(Vec::new()).unwrap();
        writer.write_all(&frame[..length]).unwrap();
        let bytes = writer.finish().unwrap();
        assert!(unseal_bytes(&keys.identities, &bytes, 1 << 20, None).is_err(), "{length}");
    }
}
