//! What an incremental backup knows of the files it meets, and what the next one is to know of them.

use std::collections::BTreeMap;

use pgproof_repository::sealed::Sealer;
use rustix::fs::Stat;

use super::{BackupError, INDEX_FRAME_BYTES, Remembered};
use crate::blocks::Blocks;
use crate::entry::{Content, Moment};
use crate::host_index::{self, HostIndex, Stamp};
use crate::path::StoredPath;

/// The host's index, the old one and the new one.
pub struct Memory {
    walk_began: Moment,
    earlier: Option<HostIndex>,
    /// By the earlier backup's numbers of backups that hold bytes, this one's.
    numbers: BTreeMap<u32, u32>,
    index: Blocks,
    line: Vec<u8>,
}

impl Memory {
    /// `walk_began` is when the first file is read, by this host's clock; without `earlier` every file is read.
    pub fn new(
        walk_began: Moment,
        earlier: Option<HostIndex>,
        index: Sealer<()>,
    ) -> Result<Self, BackupError> {
        let mut index = Blocks::new(index);
        index.write(&host_index::head())?;
        Ok(Self { walk_began, earlier, numbers: BTreeMap::new(), index, line: Vec::new() })
    }

    /// Where the bytes of a file lie that has not changed since the earlier backup.
    pub(super) fn recall(&mut self, path: &StoredPath, stat: &Stat) -> Result<Option<Content>, BackupError> {
        let Some(earlier) = &mut self.earlier else { return Ok(None) };
        let found = earlier.find(path)?;
        let Some((_, content)) = found.filter(|(stamp, _)| *stamp == Stamp::of(stat)) else {
            return Ok(None);
        };
        // Only backups that hold bytes of this one get a number.
        let next = self.numbers.len() as u32 + 1;
        let base = *self.numbers.entry(content.base).or_insert(next);
        Ok(Some(Content { base, ..content }))
    }

    /// Notes a file whose content is sure, if its times will tell of the next change.
    pub(super) fn keep(
        &mut self,
        path: &StoredPath,
        stat: &Stat,
        content: &Content,
    ) -> Result<(), BackupError> {
        let stamp = Stamp::of(stat);
        if !stamp.is_settled(self.walk_began) {
            return Ok(());
        }
        self.line.clear();
        host_index::write_line(path, &stamp, content, &mut self.line);
        self.index.write(&self.line)?;
        Ok(self.index.cut_if_longer(INDEX_FRAME_BYTES)?)
    }

    pub(super) fn finish(self) -> Result<Remembered, BackupError> {
        if let Some(earlier) = self.earlier {
            earlier.finish()?;
        }
        let mut bases: Vec<(u32, u32)> =
            self.numbers.into_iter().map(|(theirs, ours)| (ours, theirs)).collect();
        bases.sort_unstable();
        let bases = bases.into_iter().map(|(_, theirs)| theirs).collect();
        Ok(Remembered { host_index: self.index.finish()?, bases })
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("earlier", &self.earlier).finish_non_exhaustive()
    }
}
