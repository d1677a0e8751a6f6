//! Extensions and their versions, and the versions of collations: what this machine brings, not the backup.

use std::collections::BTreeMap;

use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::snapshot::SnapshotFacts;
use pgproof_repository::report::Outcome;

use super::{Subject, Told, degraded, failed, named, not_run, not_run_for};
use crate::failure::chain;

/// Name and version.
pub(super) type Installed = (String, String);

pub(super) async fn installed(database: &ConnectionSpec) -> Result<Vec<Installed>, String> {
    let session = Box::pin(database.connect()).await.map_err(|error| chain(&error))?;
    let query = "SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY 1";
    let rows = session.query(query, &[]).await.map_err(|error| chain(&error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Extensions of the source that are not among these.
pub(super) fn absent(facts: Option<&SnapshotFacts>, installed: &[Installed]) -> Vec<String> {
    let expected = facts.iter().flat_map(|facts| &facts.extensions);
    let is_absent = |name: &String| !installed.iter().any(|(known, _)| known == name);
    expected.map(|extension| extension.name.clone()).filter(is_absent).collect()
}

pub(super) fn check(
    facts: Result<&SnapshotFacts, &String>,
    installed: Result<Vec<Installed>, String>,
    may_be_missing: &[String],
) -> Told {
    let (facts, installed) = match (facts, installed) {
        (Ok(facts), Ok(installed)) => (facts, installed),
        (Err(why), _) => return not_run(why.as_str()),
        (_, Err(why)) => return not_run(why),
    };
    let expected: Vec<Installed> =
        facts.extensions.iter().map(|e| (e.name.clone(), e.version.clone())).collect();
    let detail = Some(format!("{} extensions", expected.len()));
    (judge(&expected, &installed, may_be_missing), detail)
}

fn judge(expected: &[Installed], installed: &[Installed], may_be_missing: &[String]) -> Outcome {
    let here: BTreeMap<&str, &str> = installed.iter().map(|(name, version)| (&**name, &**version)).collect();
    let missing = expected.iter().map(|(name, _)| name).filter(|name| !here.contains_key(name.as_str()));
    let (allowed, lost): (Vec<&String>, Vec<&String>) =
        missing.partition(|name| may_be_missing.contains(name));
    if !lost.is_empty() {
        return failed(format!("missing: {}", named(&lost)));
    }
    let other = expected.iter().filter_map(|(name, version)| {
        let found = here.get(name.as_str()).filter(|found| **found != version.as_str())?;
        Some(format!("{name} {found} in place of {version}"))
    });
    let missing = allowed.iter().map(|name| format!("{name} missing, as the policy allows"));
    let weaker: Vec<String> = missing.chain(other).collect();
    match weaker.is_empty() {
        true => Outcome::Passed,
        false => degraded(named(&weaker)),
    }
}

/// Text sorts by the host's libraries: where their versions differ, this is not the order that the source had.
pub(super) async fn collations(subject: &Subject<'_>, facts: Result<&SnapshotFacts, &String>) -> Told {
    let facts = match facts {
        Ok(facts) => facts,
        Err(why) => return not_run(why.as_str()),
    };
    let Some(structure) = &subject.inventory.structure else {
        return not_run("the inventory does not record collations");
    };
    let mut expected = structure.collation_versions.clone();
    if let Some(version) = &facts.database.collation_version {
        expected.insert(DATABASE_DEFAULT.to_owned(), version.clone());
    }
    match Box::pin(provided(subject.database)).await {
        Ok(provided) => judge_collations(&expected, &provided),
        Err(error) => not_run_for(&*error),
    }
}

/// How the report calls the database's own collation.
const DATABASE_DEFAULT: &str = "the database's default";

fn judge_collations(expected: &BTreeMap<String, String>, provided: &BTreeMap<String, String>) -> Told {
    let differing: Vec<String> = expected
        .iter()
        .filter(|(name, version)| provided.get(*name) != Some(version))
        .map(|(name, version)| {
            let found = provided.get(name).map_or("none", String::as_str);
            format!("{name} has version {found} here, {version} at the source")
        })
        .collect();
    let detail = Some(format!("{} collations with a version", expected.len()));
    match differing.is_empty() {
        true => (Outcome::Passed, detail),
        false => (degraded(named(&differing)), detail),
    }
}

/// The versions that this host's libraries have.
async fn provided(
    database: &ConnectionSpec,
) -> Result<BTreeMap<String, String>, Box<dyn std::error::Error + Send + Sync>> {
    let session = Box::pin(database.connect()).await?;
    let query = "SELECT pg_catalog.format('%I.%I', n.nspname, c.collname),
                        pg_catalog.pg_collation_actual_version(c.oid)
                   FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
                  WHERE c.collversion IS NOT NULL";
    let rows = session.query(query, &[]).await?;
    let versions = rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<String>>(1)?)));
    let mut provided: BTreeMap<String, String> = versions.collect();
    // Databases have versions since PostgreSQL 15.
    let query = "SELECT pg_catalog.to_regprocedure('pg_catalog.pg_database_collation_actual_version(oid)') IS NOT NULL";
    if session.query_one(query, &[]).await?.get(0) {
        let query = "SELECT pg_catalog.pg_database_collation_actual_version(oid) FROM pg_catalog.pg_database
                      WHERE datname = pg_catalog.current_database()";
        let version: Option<String> = session.query_one(query, &[]).await?.get(0);
        provided.extend(version.map(|version| (DATABASE_DEFAULT.to_owned(), version)));
    }
    Ok(provided)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Vec<Installed> {
        pairs.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    #[test]
    fn a_missing_extension_fails_unless_the_policy_names_it() {
        let expected = list(&[("hstore", "1.8"), ("postgis", "3.3")]);
        assert_eq!(judge(&expected, &expected, &[]), Outcome::Passed);
        let without = list(&[("hstore", "1.8")]);
        assert_eq!(judge(&expected, &without, &[]), failed("missing: postgis".to_owned()));
        let allowed = judge(&expected, &without, &["postgis".to_owned()]);
        assert_eq!(allowed, degraded("postgis missing, as the policy allows".to_owned()));
        let newer = judge(&without, &list(&[("hstore", "1.9")]), &[]);
        assert_eq!(newer, degraded("hstore 1.9 in place of 1.8".to_owned()));
    }

    #[test]
    fn other_collation_versions_are_degraded() {
        let versions = |version: &str| BTreeMap::from([("public.de".to_owned(), version.to_owned())]);
        assert_eq!(judge_collations(&versions("153"), &versions("153")).0, Outcome::Passed);
        assert!(matches!(judge_collations(&versions("153"), &versions("154")).0, Outcome::Degraded { .. }));
        assert!(matches!(judge_collations(&versions("153"), &BTreeMap::new()).0, Outcome::Degraded { .. }));
    }
}
