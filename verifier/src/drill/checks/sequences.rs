//! Whether every sequence goes on where the dump says.

use pgproof_postgres::sequences::{self, SequenceDifference};
use pgproof_repository::report::Outcome;

use super::{Subject, Told, failed, named, not_recorded, not_run_for};

pub(super) async fn check(subject: &Subject<'_>) -> Told {
    let Some(expected) = &subject.inventory.sequences else {
        return not_recorded(subject, "sequences");
    };
    let detail = Some(format!("{} sequences", expected.len()));
    match sequences::differences(subject.database, expected).await {
        Err(error) => not_run_for(&error),
        Ok(differing) if differing.is_empty() => (Outcome::Passed, detail),
        Ok(differing) => {
            let told: Vec<String> = differing.iter().map(told).collect();
            (failed(format!("{} not as dumped: {}", told.len(), named(&told))), detail)
        }
    }
}

fn told(difference: &SequenceDifference) -> String {
    let expected = &difference.expected;
    let value = |(last_value, is_called): (i64, bool)| {
        format!("{last_value}{}", if is_called { "" } else { " (not yet called)" })
    };
    let dumped = value((expected.last_value, expected.is_called));
    let found = difference.found.map_or_else(|| "missing".to_owned(), value);
    format!("{}.{} is {found}, dumped {dumped}", expected.schema, expected.name)
}
