//! Signatures without their records: what a writer leaves that died between the two, or whoever took the record away.
//!
//! Where something names the record, it was there. Where nothing does, nobody can tell the two apart; but whoever can
//! take a record can take its signature, too, which would show no more (FORMAT.md). Such remains are told, and are no
//! finding.

use std::collections::BTreeMap;

use pgproof_policies::names::SourceName;

use super::Finding;
use super::gather::Gathered;
use super::judge::{buried, vanished_backups};
use crate::acts::{What, WriterId};
use crate::ids::ObjectKey;
use crate::layout;

/// Findings, and remains.
pub(super) fn told(source: &SourceName, all: &Gathered) -> (Vec<Finding>, Vec<Finding>) {
    let (named, holds) = (named(source, all), layout::holds(source));
    let (mut findings, mut remains) = (Vec::new(), Vec::new());
    for record in &all.amiss.halves {
        let (list, problem) = match named.get(record) {
            Some(how) => (&mut findings, format!("stands alone: its record was removed, for {how}")),
            None if record.as_str().starts_with(holds.as_str()) => (
                &mut findings,
                "stands alone: half of a hold, which keeps the backup all the same; `pgproof hold` makes it whole, \
                 `pgproof release` gives it back"
                    .to_owned(),
            ),
            None => (
                &mut remains,
                "stands alone, and nothing names its record: its writer died before it put that, so that the act never \
                 took effect, or the record was removed"
                    .to_owned(),
            ),
        };
        let record = Some(layout::signature_of(record).to_string());
        list.push(Finding { source: source.clone(), record, problem });
    }
    (findings, remains)
}

/// The records that others name, and how.
fn named(source: &SourceName, all: &Gathered) -> BTreeMap<ObjectKey, String> {
    let mut named = BTreeMap::new();
    for (_, it) in &all.acts {
        if let Some(link) = &it.record.previous {
            let key = layout::act(source, &WriterId::of(&it.signer.fingerprint), link.number);
            named.insert(key, format!("act {} followed it", it.record.number));
        }
        if let What::Prune { removed, .. } = &it.record.what {
            let keys = removed.iter().map(|id| layout::tombstone(source, id));
            named.extend(keys.map(|key| (key, "a prune says that it removed the backup".to_owned())));
        }
    }
    for id in vanished_backups(all) {
        named.insert(layout::tombstone(source, id), "the backup was committed and is gone".to_owned());
    }
    for report in &all.named_reports {
        named.insert(report.clone(), "its name by time is there".to_owned());
    }
    let buried = buried(all);
    for (id, next) in all.followed.iter().filter(|(id, _)| !buried.contains(id)) {
        named
            .insert(layout::run(source, id), format!("backup {next} was made after this one, which is gone"));
    }
    named
}
