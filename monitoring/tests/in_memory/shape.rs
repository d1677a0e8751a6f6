//! The JSON that other programs read: fields are only ever added.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use pgproof_monitoring::document::Document;
use pgproof_monitoring::survey::Subject;
use pgproof_policies::Policy;
use pgproof_policies::standing::Verdict;
use serde_json::Value;

use crate::support::{self, Bucket, noon};

/// Of version 1, by the path to each; lists are looked at by their first item.
const FIELDS: &str = "\
at read_at repository sources state version \
sources.at_work sources.failures_in_a_row sources.findings sources.growth sources.hosts sources.last_attempt \
sources.newest_backup sources.newest_proof sources.next_run sources.source sources.state \
sources.findings.aspect sources.findings.critical_seconds sources.findings.since sources.findings.state \
sources.findings.told sources.findings.value_seconds sources.findings.warning_seconds \
sources.growth.bytes_30d sources.growth.bytes_7d sources.hosts.heard_at sources.hosts.host \
sources.last_attempt.ended_at sources.last_attempt.error sources.last_attempt.host \
sources.last_attempt.started_at \
sources.newest_backup.age_seconds sources.newest_backup.host sources.newest_backup.id \
sources.newest_backup.losses sources.newest_backup.snapshot_at sources.newest_backup.stored_bytes sources.newest_backup.took_seconds \
sources.newest_proof.age_seconds sources.newest_proof.backup sources.newest_proof.finished_at \
sources.newest_proof.recovery_seconds";

#[tokio::test]
async fn version_1_of_the_document_has_these_fields() {
    let bucket = Bucket::new();
    let id = bucket.backup(noon() - SignedDuration::from_hours(1)).await;
    bucket.run(noon() - SignedDuration::from_hours(1), None, &bucket.key).await;
    bucket.report(&id, noon() - SignedDuration::from_mins(5), Verdict::Proved, &bucket.key).await;
    let policy = Policy::parse(support::POLICY, "pgproof.toml").unwrap();
    let subject = Subject::new(bucket.store.clone(), bucket.signers.clone(), &policy, noon());
    let survey = subject.survey(noon()).await;
    let document = serde_json::to_value(Document::of(&survey, noon())).unwrap();
    let mut fields = BTreeSet::new();
    collect(&document, "", &mut fields);
    let expected: BTreeSet<String> = FIELDS.split_whitespace().map(str::to_owned).collect();
    assert_eq!(fields, expected, "{document:#}");
}

fn collect(value: &Value, path: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(member, &path, fields);
                fields.insert(path);
            }
        }
        Value::Array(items) => items.iter().take(1).for_each(|item| collect(item, path, fields)),
        _ => {}
    }
}
