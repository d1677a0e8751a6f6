//! A stream cut into blocks for a [`Sealer`], at places that suit whoever reads only a part of it.

use pgproof_repository::sealed::{SealError, SealJob, SealedSummary, Sealer};

/// Blocks end here at the latest, as those of a database's archive do.
const BLOCK_BYTES: usize = 4 << 20;

/// Collects bytes until a block is full or cut.
#[derive(Debug)]
pub(crate) struct Blocks {
    sealer: Sealer<()>,
    block: Vec<u8>,
    written: u64,
}

impl Blocks {
    pub(crate) fn new(sealer: Sealer<()>) -> Self {
        let block = sealer.buffer();
        Self { sealer, block, written: 0 }
    }

    /// Where the next byte comes to lie in the stream.
    pub(crate) fn position(&self) -> u64 {
        self.written
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn is_at_start(&self) -> bool {
        self.block.is_empty()
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), SealError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            self.written += now.len() as u64;
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                self.cut()?;
            }
        }
        Ok(())
    }

    /// Ends the block if it has at least so many bytes, so that what follows has a frame of its own.
    pub(crate) fn cut_if_longer(&mut self, bytes: usize) -> Result<(), SealError> {
        match self.block.len() > bytes {
            true => self.cut(),
            false => Ok(()),
        }
    }

    pub(crate) fn finish(mut self) -> Result<SealedSummary<()>, SealError> {
        self.cut_if_longer(0)?;
        self.sealer.finish()
    }

    fn cut(&mut self) -> Result<(), SealError> {
        let block = std::mem::replace(&mut self.block, self.sealer.buffer());
        self.sealer.submit(SealJob::new(block, |_| ()))
    }
}
