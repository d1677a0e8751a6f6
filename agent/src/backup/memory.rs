//! The memory that a backup takes, worked out before it begins, by the plan that it then goes by.

use pgproof_policies::policy::{Kind, Source};
use pgproof_repository::sealed::BLOCK_BYTES_MAX;
use pgproof_repository::sealed::workers::{blocks_in_memory, parts_in_memory};
use pgproof_repository::store::part_plan::{PartLimits, PartPlan};

/// Parts that are uploaded at the same time: enough to hide a round trip behind another, few enough for little memory.
pub(super) const UPLOADS_IN_FLIGHT: usize = 3;
/// An index has a hundredth of the archive's bytes: one part of it at a time is enough.
pub(super) const INDEX_UPLOADS_IN_FLIGHT: usize = 1;
/// Threads that compress an index.
pub(super) const INDEX_WORKERS: usize = 1;

/// The blocks of an index, which are cut there.
const INDEX_BLOCK_BYTES: u64 = 1 << 20;

/// What decides it.
#[derive(Debug, Clone)]
pub(crate) struct MemoryPlan {
    parts: PartPlan,
    streams: usize,
    workers: usize,
    /// Indexes that are uploaded beside an archive of files.
    indexes: usize,
}

impl MemoryPlan {
    /// Of a backup of this source that stores about `bytes`, by so many streams as the policy allows: at most, because all of it
    /// may lie in one of them.
    pub(crate) fn new(limits: PartLimits, source: &Source, bytes: Option<u64>, workers: usize) -> Self {
        let (streams, indexes) = match &source.kind {
            Kind::Postgres(_) => (source.jobs as usize, 0),
            Kind::Files(files) if files.incremental.is_some() => (1, 2),
            Kind::Files(_) => (1, 1),
            Kind::Config(_) => (1, 0),
        };
        Self { parts: PartPlan::new(limits, bytes), streams, workers, indexes }
    }

    /// Blocks between reader and age.
    pub(crate) fn blocks(&self) -> u64 {
        // They are cut at half of what they may have.
        let archive = blocks_in_memory(self.streams, self.workers) as u64 * BLOCK_BYTES_MAX as u64 / 2;
        archive + (self.indexes * blocks_in_memory(1, INDEX_WORKERS)) as u64 * INDEX_BLOCK_BYTES
    }

    /// The size of parts when so much is stored, and what those in memory come to; `None` beyond what the store takes.
    pub(crate) fn parts_at(&self, stored: u64) -> Option<(u64, u64)> {
        let part = self.parts.part_at(stored)?;
        Some((part, part * parts_in_memory(self.streams, UPLOADS_IN_FLIGHT, part) as u64 + self.of_indexes()))
    }

    fn of_indexes(&self) -> u64 {
        let part = PartPlan::of_small(self.parts.limits()).part_bytes(1);
        part * (self.indexes * parts_in_memory(1, INDEX_UPLOADS_IN_FLIGHT, part)) as u64
    }
}

/// Says so if one object of the store cannot hold so many bytes, unless they compress to what it can.
pub(crate) fn beyond(limits: PartLimits, bytes: u64) -> Option<u64> {
    (bytes > limits.reachable_bytes()).then(|| limits.reachable_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn files(incremental: &str) -> Source {
        let text = format!(
            "[repository]\nlocation = \"s3://bucket/prefix\"\n[keys]\nrecipients = [\"age1x\", \"age1y\"]\n\
             [sources.uploads]\nkind = \"files\"\npaths = [\"/srv\"]\nretention = {{ last = 1 }}\n{incremental}"
        );
        let policy = pgproof_policies::policy::Policy::parse(&text, "a test").expect("a policy");
        policy.sources.into_values().next().expect("a source")
    }

    #[test]
    fn parts_of_a_large_tree_stay_within_three_of_which_eight_thousand_hold_it() {
        let source = files("");
        for gib in [1, 200, 500, 1_024, 5_000] {
            let plan = MemoryPlan::new(PartLimits::S3, &source, Some(gib * GIB), 2);
            let bound = (64 << 20).max(3 * (gib * GIB / 8_000 + (64 << 10))) + plan.of_indexes();
            for stored in [1, gib * GIB / 3, gib * GIB] {
                let (part, together) = plan.parts_at(stored).expect("the store takes it");
                assert!(together <= bound, "{gib} GiB: {together} of parts of {part}");
            }
            // It is the plan that the run goes by.
            let run = PartPlan::new(PartLimits::S3, Some(gib * GIB));
            assert_eq!(plan.parts_at(gib * GIB).map(|(part, _)| part), run.part_at(gib * GIB));
        }
        assert_eq!(MemoryPlan::new(PartLimits::S3, &source, None, 2).parts_at(6_000 * GIB), None);
        assert_eq!(beyond(PartLimits::S3, 6_000 * GIB), Some(5_120 * GIB));
        assert_eq!(beyond(PartLimits::S3, 5_000 * GIB), None);
    }

    #[test]
    fn indexes_take_memory_of_their_own() {
        let together = |source: &Source| {
            let plan = MemoryPlan::new(PartLimits::S3, source, None, 2);
            plan.blocks() + plan.parts_at(GIB).expect("the store takes it").1
        };
        let (one, two) = (
            together(&files("")),
            together(&files("incremental = { full_every = \"7d\", chain_max = 14 }\n")),
        );
        assert!(two > one && two < 128 << 20, "{one} {two}");
    }
}
