//! The memory that backups take, by the arithmetic of `backup --explain`, beside what this host has.

use std::fs;

use pgproof_policies::policy::{Location, Source};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::doctor::{Line, Verdict};
use pgproof_repository::store::part_plan::PartLimits;

use crate::backup::{MemoryPlan, beyond, workers};
use crate::plain;

/// One line for all: so many of them as the policy lets run at once.
pub(super) fn line(loaded: &LoadedPolicy, sizes: &[(&Source, Option<u64>)]) -> Line {
    let limits = limits(loaded);
    let mut needs: Vec<u64> =
        sizes.iter().map(|(source, bytes)| needed(limits, source, *bytes, workers())).collect();
    needs.sort_unstable_by(|a, b| b.cmp(a));
    let at_once = needs.len().min(loaded.policy.agent.concurrency as usize);
    judge(needs.iter().take(at_once).sum(), at_once, available())
}

/// What of a source no object of the store would take.
pub(super) fn too_large(loaded: &LoadedPolicy, about: &str, bytes: u64) -> Option<Line> {
    let (bytes, most) = (plain::bytes(bytes), plain::bytes(beyond(limits(loaded), bytes)?));
    let told = format!("{bytes}, of which one object of this store takes {most}");
    let line = Line::new(Verdict::Warn, about, "size", told);
    Some(
        line.hint(
            "unless it compresses to that, its backup fails at its end: divide it among several sources",
        ),
    )
}

fn limits(loaded: &LoadedPolicy) -> PartLimits {
    match &loaded.policy.repository.location {
        Location::Azure { .. } => PartLimits::AZURE,
        Location::Google { .. } => PartLimits::GOOGLE,
        Location::S3 { .. } | Location::Directory { .. } => {
            loaded.s3_settings().map_or(PartLimits::S3, |settings| settings.limits)
        }
    }
}

/// Blocks on their way, and parts of the size that the last of them has, should as much be stored as the source measures.
fn needed(limits: PartLimits, source: &Source, bytes: Option<u64>, workers: usize) -> u64 {
    let memory = MemoryPlan::new(limits, source, bytes, workers);
    let stored = bytes.unwrap_or(0).min(limits.reachable_bytes());
    memory.blocks() + memory.parts_at(stored).map_or(0, |(_, together)| together)
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

    /// A source of each kind, of a policy as people write it.
    fn sources() -> (Source, Source) {
        let policy = pgproof_policies::policy::Policy::parse(
            "[repository]\nlocation = \"s3://bucket/prefix\"\n[keys]\nrecipients = [\"age1x\", \"age1y\"]\n\
             [sources.app]\nkind = \"postgres\"\nconnection = \"postgres:///app\"\nretention = { last = 1 }\n\
             [sources.uploads]\nkind = \"files\"\npaths = [\"/srv\"]\nretention = { last = 1 }\n",
            "a test",
        );
        let mut sources = policy.expect("a policy").sources;
        let mut source = |name: &str| sources.remove(&name.parse().expect("a name")).expect("a source");
        (source("app"), source("uploads"))
    }

    #[test]
    fn what_is_needed_grows_with_the_parts() {
        const GIB: u64 = 1 << 30;
        let (database, files) = sources();
        for (source, least) in [(&database, 56), (&files, 56)] {
            let need = |limits, bytes| needed(limits, source, bytes, 2);
            let small = need(PartLimits::S3, None);
            assert!((least << 20..96 << 20).contains(&small), "{small}");
            for gib in [1, 60, 120, 160] {
                let some = need(PartLimits::S3, Some(gib * GIB));
                assert!(some <= 128 << 20, "{gib} GiB: {some}");
            }
            // Three parts of which 8,000 hold it.
            let large = need(PartLimits::S3, Some(500 * GIB));
            assert!((192 << 20..256 << 20).contains(&large), "{large}");
            let equal = PartLimits { equal_parts: true, ..PartLimits::S3 };
            assert_eq!(need(equal, Some(500 * GIB)), large);
            assert!(need(PartLimits::S3, Some(4_096 * GIB)) > 10 * small);
            let few = PartLimits { parts_max: 1_000, ..PartLimits::S3 };
            assert!(need(few, Some(1_024 * GIB)) > need(PartLimits::S3, Some(1_024 * GIB)));
        }
    }

    #[test]
    fn memory_is_judged_by_what_there_is() {
        assert_eq!(judge(100, 1, Some(200)).verdict, Verdict::Ok);
        assert_eq!(judge(100, 1, Some(50)).verdict, Verdict::Warn);
        assert_eq!(judge(100, 1, None).verdict, Verdict::NotTried);
        assert_eq!(meminfo_available("MemTotal: 9 kB\nMemAvailable:    2 kB\n"), Some(2048));
    }
}
