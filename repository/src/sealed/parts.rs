//! Cuts the age file into the parts of an upload, and hashes it on the way.

use std::io::{self, Write};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::Ciphertext;
use super::room::{Member, Place};
use crate::ids::CiphertextSha256;

/// Finished parts that wait for an uploader; one, because each may have many MiB.
pub(super) const PARTS_WAITING: usize = 1;

/// The size of the part of that number; numbers count from 1.
pub(super) type PartBytes = Box<dyn FnMut(u32) -> u64 + Send>;

/// Fills parts and hands them on.
pub(super) struct PartWriter {
    part_bytes: PartBytes,
    number: u32,
    /// Allocated to the part's exact size, so that it becomes [`Bytes`] without a copy.
    part: Vec<u8>,
    part_size: usize,
    room: Option<Member>,
    place: Option<Place>,
    hash: Sha256,
    bytes: u64,
    output: mpsc::Sender<Bytes>,
}

impl PartWriter {
    /// With a `room` every part has a place in it until its last byte is dropped.
    pub(super) fn new(part_bytes: PartBytes, room: Option<Member>, output: mpsc::Sender<Bytes>) -> Self {
        let (part, hash) = (Vec::new(), Sha256::new());
        Self { part_bytes, number: 0, part, part_size: 0, room, place: None, hash, bytes: 0, output }
    }

    /// Tells whether anybody still takes parts; age does not keep the kind of an error while it writes its header.
    pub(super) fn consumer(&self) -> mpsc::Sender<Bytes> {
        self.output.clone()
    }

    /// Hands on the last part and tells what all parts are together.
    pub(super) fn finish(mut self) -> io::Result<Ciphertext> {
        if !self.part.is_empty() {
            self.send()?;
        }
        Ok(Ciphertext { bytes: self.bytes, sha256: CiphertextSha256::new(self.hash.finalize().into()) })
    }

    fn begin(&mut self) -> io::Result<()> {
        self.number += 1;
        let size = (self.part_bytes)(self.number);
        self.part_size = usize::try_from(size.max(1)).map_err(io::Error::other)?;
        self.place = self.room.as_ref().map(|room| room.take(size));
        self.part.try_reserve_exact(self.part_size)?;
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.part);
        let part = match self.place.take() {
            None => Bytes::from(bytes),
            Some(place) => Bytes::from_owner(PlacedPart { bytes, _place: place }),
        };
        self.part_size = 0;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.output.blocking_send(part).map_err(gone)
    }
}

impl Write for PartWriter {
    /// Takes all of it, over as many parts as it fills: age does not write its header on where less was taken.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.part_size == 0 {
                self.begin()?;
            }
            let (taken, left) = rest.split_at(rest.len().min(self.part_size - self.part.len()));
            self.part.extend_from_slice(taken);
            self.hash.update(taken);
            self.bytes += taken.len() as u64;
            if self.part.len() == self.part_size {
                self.send()?;
            }
            rest = left;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A part that takes its place with it, wherever its bytes go.
struct PlacedPart {
    bytes: Vec<u8>,
    _place: Place,
}

impl AsRef<[u8]> for PlacedPart {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
