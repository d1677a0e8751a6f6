//! Whether every table, column, index, constraint, trigger, view and function is there and as it was.

use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::structure::{self, Differences};
use pgproof_repository::inventory::Structure;
use pgproof_repository::report::Outcome;

use super::{Told, degraded, failed, named, not_run};
use crate::failure::chain;

/// Reads the restored database's structure, or says why that cannot be.
pub(super) async fn read(database: &ConnectionSpec) -> Result<Structure, String> {
    let session = Box::pin(database.connect()).await.map_err(|error| chain(&error))?;
    let begun = session.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await;
    begun.map_err(|error| chain(&error))?;
    structure::read(&session).await.map_err(|error| chain(&error))
}

/// `absent` are extensions of the source that are not here: what they bring may be missing with them.
pub(super) fn check(
    expected: Option<&Structure>,
    restored: Result<&Structure, &String>,
    absent: &[String],
) -> Told {
    let Some(expected) = expected else { return not_run("the inventory does not record the structure") };
    let restored = match restored {
        Ok(restored) => restored,
        Err(why) => return not_run(why.as_str()),
    };
    let differences = structure::differences(expected, restored);
    let detail = Some(format!("{} objects", expected.objects.len()));
    (judge(expected, restored, &differences, absent), detail)
}

fn judge(
    expected: &Structure,
    restored: &Structure,
    differences: &Differences,
    absent: &[String],
) -> Outcome {
    let told = told(differences);
    let (before, after) = (expected.server_major, restored.server_major);
    if !differences.is_empty() && before != after {
        return degraded(format!("versions {before} and {after} word definitions differently: {told}"));
    }
    if !differences.is_empty() && !absent.is_empty() {
        return degraded(format!("without the extensions {}: {told}", named(absent)));
    }
    if !differences.is_empty() {
        return failed(told);
    }
    match expected.left_out.is_empty() {
        true => Outcome::Passed,
        false => degraded(format!("the policy left out of the dump: {}", named(&expected.left_out))),
    }
}

fn told(differences: &Differences) -> String {
    let parts = [
        ("missing", &differences.missing),
        ("unexpected", &differences.unexpected),
        ("other than dumped", &differences.differing),
    ];
    let parts = parts.iter().filter(|(_, names)| !names.is_empty());
    parts.map(|(what, names)| format!("{what}: {}", named(names))).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgproof_repository::inventory::Object;

    fn structure(server_major: u32, names: &[&str]) -> Structure {
        let object = |name: &&str| Object {
            kind: "index".to_owned(),
            name: (*name).to_owned(),
            relation: 1,
            digest: String::new(),
        };
        Structure { server_major, objects: names.iter().map(object).collect(), ..Structure::default() }
    }

    fn outcome(expected: &Structure, restored: &Structure, absent: &[String]) -> Outcome {
        check(Some(expected), Ok(restored), absent).0
    }

    #[test]
    fn a_loss_fails_unless_something_known_explains_it() {
        let (whole, lost) = (structure(15, &["a", "b"]), structure(15, &["a"]));
        assert_eq!(outcome(&whole, &whole, &[]), Outcome::Passed);
        assert_eq!(outcome(&whole, &lost, &[]), failed("missing: index b".to_owned()));
        assert_eq!(outcome(&lost, &whole, &[]), failed("unexpected: index b".to_owned()));
        assert!(matches!(outcome(&whole, &lost, &["postgis".to_owned()]), Outcome::Degraded { .. }));
        assert!(matches!(outcome(&whole, &structure(16, &["a"]), &[]), Outcome::Degraded { .. }));
        assert_eq!(outcome(&whole, &structure(16, &["a", "b"]), &[]), Outcome::Passed);
    }

    #[test]
    fn what_was_left_out_or_not_recorded_is_no_pass() {
        let partial = Structure { left_out: vec!["table public.t".to_owned()], ..structure(15, &["a"]) };
        assert!(matches!(outcome(&partial, &partial, &[]), Outcome::Degraded { .. }));
        assert!(matches!(check(None, Ok(&partial), &[]).0, Outcome::NotRun { .. }));
        assert!(matches!(check(Some(&partial), Err(&"gone".to_owned()), &[]).0, Outcome::NotRun { .. }));
    }
}
