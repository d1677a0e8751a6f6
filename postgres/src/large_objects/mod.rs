//! Counting and hashing large objects, so that those of a dump and those of a database can be compared.
//!
//! The digest is the sum, modulo 2^128, of XXH3-128 over each object's id and contents: like that of rows, it does not
//! depend on their order, and the digests of parts add up. Holes of a sparse object are zeros, as all readers see them.

mod database;

use std::fmt;
use std::ops::AddAssign;

use xxhash_rust::xxh3::Xxh3;

pub use database::{LargeObjectError, read};

/// How many large objects, how many bytes, and the sum of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LargeObjectDigest {
    pub count: u64,
    pub bytes: u64,
    pub sum: u128,
}

impl AddAssign for LargeObjectDigest {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// Digests large objects one after another, each in pieces cut anywhere.
#[derive(Default)]
pub struct LargeObjectHasher {
    digest: LargeObjectDigest,
    state: Box<Xxh3>,
    bytes: u64,
}

impl fmt::Debug for LargeObjectHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LargeObjectHasher").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl LargeObjectHasher {
    pub fn begin(&mut self, oid: u32) {
        self.state.reset();
        self.state.update(&oid.to_be_bytes());
        self.bytes = 0;
    }

    #[inline]
    pub fn update(&mut self, piece: &[u8]) {
        self.state.update(piece);
        self.bytes += piece.len() as u64;
    }

    /// The object that was begun is whole.
    pub fn end(&mut self) {
        let hash = self.state.digest128();
        self.digest += LargeObjectDigest { count: 1, bytes: self.bytes, sum: hash };
    }

    /// The digest of the objects that ended.
    pub fn digest(&self) -> LargeObjectDigest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(objects: &[(u32, &[&[u8]])]) -> LargeObjectDigest {
        let mut hasher = LargeObjectHasher::default();
        for (oid, pieces) in objects {
            hasher.begin(*oid);
            pieces.iter().for_each(|piece| hasher.update(piece));
            hasher.end();
        }
        hasher.digest()
    }

    #[test]
    fn order_and_pieces_do_not_matter_but_ids_and_contents_do() {
        let whole = digest(&[(1, &[b"one"]), (u32::MAX, &[]), (3, &[b"three"])]);
        assert_eq!((whole.count, whole.bytes), (3, 8));
        assert_eq!(digest(&[(3, &[b"th", b"", b"ree"]), (1, &[b"o", b"ne"]), (u32::MAX, &[b""])]), whole);
        assert_ne!(digest(&[(1, &[b"three"]), (u32::MAX, &[]), (3, &[b"one"])]).sum, whole.sum);
        assert_ne!(digest(&[(1, &[b"one"]), (2, &[]), (3, &[b"three"])]).sum, whole.sum);
        // Only the count tells an object that is missing from one that is empty.
        assert_ne!(digest(&[(1, &[b"one"]), (3, &[b"three"])]), whole);
    }
}
