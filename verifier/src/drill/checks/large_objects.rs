//! Whether every large object came back, byte for byte.

use pgproof_postgres::large_objects;
use pgproof_repository::inventory::LargeObjects;
use pgproof_repository::report::Outcome;

use super::{Subject, Told, failed, not_recorded, not_run_for};

pub(super) async fn check(subject: &Subject<'_>) -> Told {
    let Some(expected) = &subject.inventory.large_objects else {
        return not_recorded(subject, "large objects");
    };
    let found = match large_objects::read(subject.database, subject.jobs).await {
        Ok(found) => found,
        Err(error) => return not_run_for(&error),
    };
    let digest = format!("{:032x}", found.sum);
    let found = LargeObjects { count: found.count, bytes: found.bytes, digest };
    (compare(expected, &found), Some(format!("{} objects, {} bytes", found.count, found.bytes)))
}

fn compare(expected: &LargeObjects, found: &LargeObjects) -> Outcome {
    if expected == found {
        return Outcome::Passed;
    }
    let amount = |of: &LargeObjects| format!("{} objects of {} bytes", of.count, of.bytes);
    if (expected.count, expected.bytes) == (found.count, found.bytes) {
        return failed(format!("other contents than were dumped, in {}", amount(found)));
    }
    failed(format!("found {}, dumped {}", amount(found), amount(expected)))
}
