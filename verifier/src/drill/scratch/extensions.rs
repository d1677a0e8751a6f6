//! Extensions that the backup needs and the scratch lacks: the machine's lack, not the backup's fault.

use std::collections::BTreeSet;

use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::restore::LeftOut;
use pgproof_postgres::scratch;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::report::Outcome;

use super::{Fault, blame};

/// Names in a reason; all of them are in the report's warnings.
const NAMES_IN_REASON_MAX: usize = 10;

/// The extensions that the restore must do without: those that are missing, which the policy must allow.
pub(crate) async fn missing(
    server: &ConnectionSpec,
    inventory: &Inventory,
    allowed: &[String],
) -> Result<Vec<String>, Fault> {
    let wanted = names(&inventory.facts);
    let missing =
        scratch::missing_extensions(server, &wanted).await.map_err(|error| blame::of_scratch(&error))?;
    match refused(&missing, allowed) {
        Some(reason) => Err(Fault::Lasting { reason }),
        None => Ok(missing),
    }
}

/// How the archive names the entry that sets a sequence.
const SEQUENCE_ENTRY: &str = "SEQUENCE SET ";

/// What was restored: tables and sequences that were left out are no part of it.
pub(crate) fn without(mut inventory: Inventory, left_out: &LeftOut) -> Inventory {
    for archive in &mut inventory.archives {
        let is_there =
            |schema: &String, name: &String| !left_out.tables.contains(&(schema.clone(), name.clone()));
        archive.tables.retain(|table| is_there(&table.schema, &table.name));
    }
    if let Some(sequences) = &mut inventory.sequences {
        let is_left_out = |name: &str| left_out_sequences(left_out).any(|left_out| left_out == name);
        sequences.retain(|sequence| !is_left_out(&format!("{}.{}", sequence.schema, sequence.name)));
    }
    inventory
}

fn left_out_sequences(left_out: &LeftOut) -> impl Iterator<Item = &str> {
    left_out.entries.iter().filter_map(|entry| entry.strip_prefix(SEQUENCE_ENTRY))
}

/// A restore without extensions proves less than a whole one, even where nothing was left out.
pub(crate) fn of_restore(left_out: &LeftOut) -> Outcome {
    told(left_out, left_out.entries.len(), "object(s)", left_out.entries.iter().cloned())
}

/// The same of the tables.
pub(crate) fn of_tables(left_out: &LeftOut) -> Outcome {
    let names = left_out.tables.iter().map(|(schema, name)| format!("{schema}.{name}"));
    told(left_out, left_out.tables.len(), "table(s)", names)
}

/// The same of the sequences.
pub(crate) fn of_sequences(left_out: &LeftOut) -> Outcome {
    let names: Vec<String> = left_out_sequences(left_out).map(str::to_owned).collect();
    match names.len() {
        0 => Outcome::Passed,
        count => told(left_out, count, "sequence(s)", names.into_iter()),
    }
}

fn told(left_out: &LeftOut, count: usize, what: &str, names: impl Iterator<Item = String>) -> Outcome {
    if left_out.extensions.is_empty() {
        return Outcome::Passed;
    }
    let extensions = left_out.extensions.join(", ");
    let mut reason = format!("extension {extensions} is missing here, and {count} {what} with it");
    let shown: Vec<String> = names.take(NAMES_IN_REASON_MAX).collect();
    if count > 0 {
        reason.push_str(&format!(": {}", shown.join(", ")));
    }
    if count > shown.len() {
        reason.push_str(&format!(" and {} more", count - shown.len()));
    }
    Outcome::Degraded { reason }
}

fn refused(missing: &[String], allowed: &[String]) -> Option<String> {
    let allowed: BTreeSet<&String> = allowed.iter().collect();
    let refused: Vec<&str> =
        missing.iter().filter(|name| !allowed.contains(name)).map(String::as_str).collect();
    (!refused.is_empty()).then(|| {
        format!(
            "this machine lacks extension {}: install it where drills run, or name it in missing_extensions",
            refused.join(", ")
        )
    })
}

fn names(facts: &serde_json::Value) -> Vec<String> {
    let extensions = facts.get("extensions").or_else(|| facts.pointer("/snapshot/extensions"));
    let extensions = extensions.and_then(serde_json::Value::as_array).into_iter().flatten();
    extensions.filter_map(|extension| extension.get("name")?.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_read_from_either_form_of_the_facts() {
        let list = serde_json::json!([{"name": "hstore", "schema": "public", "version": "1.8"}]);
        assert_eq!(names(&serde_json::json!({ "extensions": list })), ["hstore"]);
        assert_eq!(names(&serde_json::json!({"snapshot": { "extensions": list }})), ["hstore"]);
        assert!(names(&serde_json::Value::Null).is_empty());
    }

    #[test]
    fn only_what_the_policy_names_may_be_missing() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(refused(&names(&[]), &names(&[])), None);
        assert_eq!(refused(&names(&["hstore"]), &names(&["hstore", "postgis"])), None);
        let reason = refused(&names(&["citext", "hstore"]), &names(&["hstore"])).unwrap();
        assert!(reason.contains("lacks extension citext:"), "{reason}");
    }

    #[test]
    fn what_is_missing_is_named_and_degrades() {
        assert_eq!(of_restore(&LeftOut::default()), Outcome::Passed);
        let entries = (0..12).map(|number| format!("VIEW public.v{number}")).collect();
        let left_out = LeftOut { extensions: vec!["hstore".to_owned()], entries, ..LeftOut::default() };
        let Outcome::Degraded { reason } = of_restore(&left_out) else { panic!("not degraded") };
        assert!(reason.contains("12 object(s) with it: VIEW public.v0,") && reason.ends_with("and 2 more"));
        assert!(matches!(of_tables(&left_out), Outcome::Degraded { .. }));
    }
}
