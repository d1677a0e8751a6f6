//! The sealed stream: independent zstd frames, one behind the other, inside one age file.
//!
//! `age -d -i key object | zstd -d` gives the plaintext back, without pgproof. With the inventory's
//! [`FrameRecord`]s, any frame is read by itself: age decrypts from any of its 64 KiB chunks, and each frame's hash is
//! checked before the frame is decoded.
//!
//! - [`writer`]: blocks in, parts for the store out, with a fixed number of blocks in memory.
//! - [`workers`]: what several streams share.
//! - [`reader`]: an object as a stream, or frame by frame from many threads.
//! - [`small`]: things that fit in memory.

mod frame;
mod object;
mod parts;
pub mod reader;
mod room;
pub mod small;
pub mod workers;
pub mod writer;

pub use crate::manifest::v1::{Ciphertext, Plaintext};
pub use frame::{BLOCK_BYTES_MAX, FrameError, FrameRecord};
pub use reader::{Expected, FrameReader, PlaintextStream, ReadError, SealedReader};
pub use small::{SealedBytes, UnsealError, seal_bytes, unseal_bytes};
pub use workers::Workers;
pub use writer::{SealError, SealJob, SealedSummary, Sealer};

/// Largest window a decoder allocates: frames up to level 19 use 8 MiB (2^23), so 16 MiB (2^24) is never a reason to
/// refuse our own and keeps a hostile frame from taking gigabytes.
const WINDOW_LOG_MAX: u32 = 24;

#[cfg(test)]
mod tests;
