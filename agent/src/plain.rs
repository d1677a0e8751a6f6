//! Values as people read them.

use jiff::{SignedDuration, Timestamp};
use pgproof_repository::manifest::v1::{Contents, Files, Manifest};

/// `1.4 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// `2026-11-24 02:00:00 UTC`.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The moment that a backup shows, and for how long a server had to keep it.
pub(crate) fn snapshot(manifest: &Manifest) -> String {
    let at = time(manifest.snapshot.at);
    let seconds = manifest.postgres().and_then(|dumped| dumped.archive.snapshot_seconds);
    match seconds.and_then(|seconds| i64::try_from(seconds).ok()) {
        Some(seconds) => format!("{at}, held for {}", duration(SignedDuration::from_secs(seconds))),
        None => at,
    }
}

/// The two largest units of a duration: `3 d 4 h`, `12 min 5 s`.
pub(crate) fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(units.len() - 1);
    let (unit, size) = units[first];
    let head = format!("{} {unit}", seconds / size);
    match units.get(first + 1) {
        Some((unit, next)) if seconds % size >= *next => format!("{head} {} {unit}", seconds % size / next),
        _ => head,
    }
}

/// How long ago, or ahead.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    let age = now.duration_since(at);
    match age.is_negative() {
        true => format!("{} ahead", duration(age.abs())),
        false => format!("{} ago", duration(age)),
    }
}

/// What a backup is of.
pub(crate) fn what(contents: &Contents) -> String {
    match contents {
        Contents::Postgres(dumped) => format!("database {}", dumped.server.database),
        Contents::Config(_) => "configuration".to_owned(),
        Contents::Files(_) => "files".to_owned(),
        Contents::Unknown => "of a kind that this version does not know".to_owned(),
    }
}

/// How much is in it.
pub(crate) fn contents(contents: &Contents) -> String {
    match contents {
        Contents::Postgres(dumped) => {
            format!("{} tables, {} rows", dumped.archive.table_count, dumped.archive.row_count)
        }
        Contents::Config(config) => format!("{} files, {} variables", config.files, config.variables),
        Contents::Files(Files { tree, .. }) => format!(
            "{} files in {} folders, {} links, {}",
            tree.files,
            tree.folders,
            tree.symlinks + tree.hard_links,
            bytes(tree.content_bytes)
        ),
        Contents::Unknown => "not known".to_owned(),
    }
}

/// Whether a backup is complete by itself, where there are others; `None` where there are not.
pub(crate) fn increment(contents: &Contents) -> Option<String> {
    let Contents::Files(Files { chain, full_because, .. }) = contents else { return None };
    match (chain, full_because) {
        (Some(chain), _) => Some(format!(
            "incremental, number {} since {}, compared with {}: {} files, {}, are new",
            chain.depth,
            chain.full,
            chain.parent,
            chain.own_files,
            bytes(chain.own_bytes)
        )),
        (None, Some(because)) => Some(format!("full, because {because}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_their_two_largest_units() {
        let told = |seconds| duration(SignedDuration::from_secs(seconds));
        assert_eq!(told(0), "0 s");
        assert_eq!(told(65), "1 min 5 s");
        assert_eq!(told(3_600), "1 h");
        assert_eq!(told(90_061), "1 d 1 h");
    }
}
