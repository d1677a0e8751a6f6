//! Constraints that nobody checked and materialized views that hold nothing: as at the source, or worse.

use std::collections::BTreeSet;

use pgproof_repository::inventory::Structure;
use pgproof_repository::report::Outcome;

use super::{Told, degraded, failed, named, not_run};

pub(super) fn constraints(expected: Option<&Structure>, restored: Result<&Structure, &String>) -> Told {
    judge(expected, restored, "not validated", |structure| &structure.not_validated)
}

pub(super) fn materialized_views(
    expected: Option<&Structure>,
    restored: Result<&Structure, &String>,
) -> Told {
    judge(expected, restored, "not populated", |structure| &structure.not_populated)
}

fn judge(
    expected: Option<&Structure>,
    restored: Result<&Structure, &String>,
    state: &str,
    list: fn(&Structure) -> &Vec<String>,
) -> Told {
    let found = match restored {
        Ok(restored) => list(restored),
        Err(why) => return not_run(why.as_str()),
    };
    let Some(expected) = expected else {
        return match found.is_empty() {
            true => (Outcome::Passed, None),
            false => {
                let reason =
                    format!("{state}, which the inventory does not tell of the source: {}", named(found));
                (degraded(reason), None)
            }
        };
    };
    let before: BTreeSet<&String> = list(expected).iter().collect();
    let (same, new): (Vec<&String>, Vec<&String>) = found.iter().partition(|name| before.contains(name));
    let detail = (!same.is_empty()).then(|| format!("{state}, as at the source: {}", named(&same)));
    match new.is_empty() {
        true => (Outcome::Passed, detail),
        false => (failed(format!("{state}, other than at the source: {}", named(&new))), detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unvalidated(names: &[&str]) -> Structure {
        let not_validated = names.iter().map(|name| (*name).to_owned()).collect();
        Structure { not_validated, ..Structure::default() }
    }

    #[test]
    fn only_what_is_worse_than_at_the_source_fails() {
        let (none, one, two) = (unvalidated(&[]), unvalidated(&["a"]), unvalidated(&["a", "b"]));
        assert_eq!(constraints(Some(&none), Ok(&none)), (Outcome::Passed, None));
        let (outcome, detail) = constraints(Some(&one), Ok(&one));
        assert_eq!(
            (outcome, detail.as_deref()),
            (Outcome::Passed, Some("not validated, as at the source: a"))
        );
        let (outcome, _) = constraints(Some(&one), Ok(&two));
        assert_eq!(outcome, failed("not validated, other than at the source: b".to_owned()));
        assert!(matches!(constraints(None, Ok(&one)).0, Outcome::Degraded { .. }));
        assert!(matches!(constraints(Some(&one), Err(&"gone".to_owned())).0, Outcome::NotRun { .. }));
    }
}
