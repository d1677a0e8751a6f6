//! The memory that backups take, by the arithmetic of `backup --explain`, beside what this host has.

use std::fs;

use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::doctor::{Line, Verdict};
use pgproof_repository::sealed::BLOCK_BYTES_MAX;
use pgproof_repository::store::part_plan::{PartLimits, PartPlan};

use crate::backup::{UPLOADS_IN_FLIGHT, workers};
use crate::plain;

/// Parts that are in memory beside those being uploaded: one that is filled, and one that waits.
const PARTS_BESIDE: usize = 2;

/// One line for all: so many of them as the policy lets run at once.
pub(super) fn line(loaded: &LoadedPolicy, sizes: &[Option<u64>]) -> Line {
    let limits = loaded.s3_settings().map_or(PartLimits::S3, |settings| settings.limits);
    let mut needs: Vec<u64> = sizes.iter().map(|bytes| needed(limits, *bytes, workers())).collect();
    needs.sort_unstable_by(|a, b| b.cmp(a));
    let at_once = needs.len().min(loaded.policy.agent.concurrency as usize);
    judge(needs.iter().take(at_once).sum(), at_once, available())
}

/// Blocks on their way, and parts of the size that the last of them has, should as much be stored as the database measures.
fn needed(limits: PartLimits, database_bytes: Option<u64>, workers: usize) -> u64 {
    let plan = PartPlan::new(limits, database_bytes);
    let stored = database_bytes.unwrap_or(0);
    let mut reached = 0_u64;
    let last = plan.sizes().find(|part| {
        reached = reached.saturating_add(*part);
        reached >= stored
    });
    let part = last.unwrap_or_else(|| plan.part_bytes(limits.parts_max));
    let blocks = (workers + 2) as u64 * BLOCK_BYTES_MAX as u64 / 2;
    blocks + part * (UPLOADS_IN_FLIGHT + PARTS_BESIDE) as u64
}

fn judge(needed: u64, at_once: usize, available: Option<u64>) -> Line {
    let line = |verdict, told: String| Line::new(verdict, "host", "memory", told);
    let wanted = format!("at most {} for {at_once} backup(s) at once", plain::bytes(needed));
    match available {
        None => line(Verdict::NotTried, format!("{wanted}; it is not known what this host has")),
        Some(available) if available >= needed => {
            line(Verdict::Ok, format!("{wanted}; {} available", plain::bytes(available)))
        }
        Some(available) => {
            line(Verdict::Warn, format!("{wanted}, and {} available", plain::bytes(available)))
                .hint("lower `agent.concurrency`, or give the agent more memory; `pgproof backup --explain` has the arithmetic")
        }
    }
}

/// What the host has left, or less where a control group allows less.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let host = meminfo_available(&text)?;
    Some(group_limit().map_or(host, |limit| limit.min(host)))
}

fn meminfo_available(text: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// Of control groups, version 2, as a service or a container sees its own.
fn group_limit() -> Option<u64> {
    let group = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok()?;
    limit.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_grows_with_the_parts() {
        let small = needed(PartLimits::S3, None, 2);
        assert!(small < 128 << 20, "{small}");
        assert!(needed(PartLimits::S3, Some(4 << 40), 2) > 10 * small);
        let few = PartLimits { parts_max: 1_000, ..PartLimits::S3 };
        assert!(needed(few, Some(1 << 40), 2) > needed(PartLimits::S3, Some(1 << 40), 2));
    }

    #[test]
    fn memory_is_judged_by_what_there_is() {
        assert_eq!(judge(100, 1, Some(200)).verdict, Verdict::Ok);
        assert_eq!(judge(100, 1, Some(50)).verdict, Verdict::Warn);
        assert_eq!(judge(100, 1, None).verdict, Verdict::NotTried);
        assert_eq!(meminfo_available("MemTotal: 9 kB\nMemAvailable:    2 kB\n"), Some(2048));
    }
}
