//! The JSON Schema of stored reports. It is derived from the types that are stored, and a test compares the two.

/// The published file, `report.schema.json`.
pub(crate) const PUBLISHED: &str = include_str!("../../report.schema.json");

#[cfg(test)]
mod tests {
    use pgproof_repository::report::Report;
    use schemars::Schema;
    use schemars::generate::SchemaSettings;
    use schemars::transform::RecursiveTransform;
    use serde_json::{Value, json};

    use super::*;
    use crate::report::sample;

    /// The schema as it follows from the types: every field is there, and no other.
    fn derived() -> Schema {
        let closed = RecursiveTransform(|schema: &mut Schema| {
            if schema.get("properties").is_some() {
                schema.insert("additionalProperties".to_owned(), false.into());
            }
        });
        let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(closed);
        settings.into_generator().into_root_schema_for::<Report>()
    }

    fn is_valid(report: &Value) -> bool {
        let schema: Value = serde_json::from_str(PUBLISHED).unwrap();
        jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&schema)
            .expect("the schema itself is well formed")
            .is_valid(report)
    }

    /// Every object of a document by its JSON pointer.
    fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.push(at.to_owned());
                fields.iter().for_each(|(name, value)| objects(value, &format!("{at}/{name}"), found));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(index, item)| objects(item, &format!("{at}/{index}"), found));
            }
            _ => {}
        }
    }

    /// Run with `PGPROOF_WRITE_SCHEMA=1`, it writes the file anew.
    #[test]
    fn the_published_schema_is_the_derived_one() {
        let derived = format!("{}\n", serde_json::to_string_pretty(&derived()).unwrap());
        if std::env::var_os("PGPROOF_WRITE_SCHEMA").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/report.schema.json");
            std::fs::write(path, &derived).unwrap();
        }
        assert_eq!(derived, PUBLISHED);
    }

    #[test]
    fn stored_reports_are_valid() {
        assert!(is_valid(&serde_json::from_slice(sample::GOLDEN_V1).unwrap()));
        assert!(is_valid(&serde_json::to_value(sample::rich()).unwrap()));
    }

    #[test]
    fn a_missing_or_further_field_is_refused_wherever_it_is() {
        let report = serde_json::to_value(sample::rich()).unwrap();
        let mut places = Vec::new();
        objects(&report, "", &mut places);
        // Programs are named freely.
        places.retain(|place| place != "/programs");
        assert!(places.len() > 100, "{}", places.len());
        for place in places {
            let mut further = report.clone();
            let fields = further.pointer_mut(&place).and_then(Value::as_object_mut).unwrap();
            fields.insert("further".to_owned(), json!(1));
            assert!(!is_valid(&further), "a further field at {place:?}");
            let names: Vec<String> =
                report.pointer(&place).unwrap().as_object().unwrap().keys().cloned().collect();
            // One object of each kind shows it; lists have many alike.
            let first = place.split('/').all(|part| part.parse::<u32>().is_err() || part == "0");
            for name in names.iter().filter(|_| first) {
                let mut missing = report.clone();
                missing.pointer_mut(&place).and_then(Value::as_object_mut).unwrap().remove(name);
                assert!(!is_valid(&missing), "without {name} at {place:?}");
            }
        }
    }

    #[test]
    fn values_of_another_form_are_refused() {
        let report = serde_json::to_value(sample::rich()).unwrap();
        for (place, value) in [
            ("/verdict", json!("fine")),
            ("/version", json!(2)),
            ("/format", json!("something")),
            ("/number", json!(0)),
            ("/finished_at", json!("yesterday")),
            ("/manifest_sha256", json!("AB")),
            ("/source", json!("Not A Name")),
            ("/checks/0/outcome", json!("maybe")),
            ("/exceptions/0/until", json!("soon")),
            ("/recovery_seconds", json!("93")),
        ] {
            let mut other = report.clone();
            *other.pointer_mut(place).unwrap() = value;
            assert!(!is_valid(&other), "{place}");
        }
    }

    #[test]
    fn every_field_says_what_it_is() {
        let schema: Value = serde_json::from_str(PUBLISHED).unwrap();
        let described = schema["properties"].as_object().unwrap();
        for (name, field) in described {
            let by_type = field.get("$ref").is_some();
            assert!(by_type || field.get("description").is_some(), "{name}");
        }
    }
}
