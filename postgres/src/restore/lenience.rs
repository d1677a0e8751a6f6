//! Restoring where extensions are missing: which errors of `pg_restore` follow from that, and what is left out.
//!
//! An entry follows from a missing extension when it is the extension, or depends on it through the archive's lists of
//! dependencies, over any number of others. One more kind does: what is said about, or put into, an object that no
//! entry makes, as only extensions bring such objects along; that is believed only when the server says that the
//! object is not there. Whatever else fails fails the restore.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::complaints::{self, Complaint, Complaints};
use super::error::RestoreError;
use crate::archive::Toc;
use crate::archive::toc::TocEntry;
use crate::infrastructure;

/// Schemas of the system, in which no extension's objects need to lie for an entry to have nothing that makes them.
const SYSTEM_SCHEMAS: [&str; 2] = ["pg_catalog", "information_schema"];
/// How the server says that an object is not there.
const ABSENT: &str = "does not exist";

/// What a restore did without, as extensions are missing on its server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOut {
    pub extensions: Vec<String>,
    /// Kind and name of each entry that failed for that reason.
    pub entries: Vec<String>,
    /// Schema and name of tables that were not made, and so not loaded.
    pub tables: BTreeSet<(String, String)>,
}

/// Forgives what follows from missing extensions, and keeps account of it. Without any it forgives nothing.
#[derive(Debug)]
pub(crate) struct Lenience {
    extensions: Vec<String>,
    /// Entries that cannot be restored in full, or not at all.
    affected: HashSet<i32>,
    /// Entries about objects that no entry makes.
    about_others: HashSet<i32>,
    names: HashMap<i32, String>,
    /// Tables that entries make, and whether they are affected.
    made: HashMap<(String, String), bool>,
    /// Statements with lines in them that look like the program's own, and which it repeats in its complaints.
    misleading: Vec<String>,
    failed: BTreeMap<i32, String>,
}

impl Lenience {
    pub(crate) fn new(toc: &Toc, extensions: &[String]) -> Self {
        let affected = affected(toc, extensions);
        let ids: HashSet<i32> = toc.entries.iter().map(|entry| entry.dump_id).collect();
        let made = toc.entries.iter().filter(|entry| entry.desc == "TABLE").map(|entry| {
            let name = (entry.namespace.clone().unwrap_or_default(), entry.tag.clone());
            (name, affected.contains(&entry.dump_id))
        });
        Self {
            extensions: extensions.to_vec(),
            made: made.collect(),
            about_others: toc
                .entries
                .iter()
                .filter(|entry| is_about_another(entry, &ids))
                .map(|entry| entry.dump_id)
                .collect(),
            names: toc.entries.iter().map(|entry| (entry.dump_id, described(entry))).collect(),
            misleading: toc
                .entries
                .iter()
                .filter_map(|entry| entry.defn.clone())
                .filter(|statement| complaints::may_mislead(statement))
                .collect(),
            affected,
            failed: BTreeMap::new(),
        }
    }

    /// Whether anything may be forgiven at all.
    pub(crate) fn is_needed(&self) -> bool {
        !self.extensions.is_empty()
    }

    /// The end of a run, once all its errors are explained.
    pub(crate) fn forgive(&mut self, ended: Result<(), RestoreError>) -> Result<(), RestoreError> {
        let Err(RestoreError::PgRestore { section, status, stderr }) = ended else { return ended };
        if !self.is_needed() {
            return Err(RestoreError::PgRestore { section, status, stderr });
        }
        let without = |text: String, statement: &String| text.replace(statement, "");
        let complaints = Complaints::parse(&self.misleading.iter().fold(stderr, without));
        let unexplained = complaints.errors.iter().find(|error| !self.explains(error));
        let stderr = match unexplained {
            Some(error) => self.told(error),
            None if !complaints.are_complete() => {
                let (found, counted) = (complaints.errors.len(), complaints.counted);
                format!(
                    "pg_restore: error: {found} errors explained by missing extensions, {counted:?} counted"
                )
            }
            None => {
                let ids = complaints.errors.iter().filter_map(|error| error.entry);
                self.failed.extend(ids.filter_map(|id| Some((id, self.names.get(&id)?.clone()))));
                return Ok(());
            }
        };
        Err(RestoreError::PgRestore { section, status, stderr })
    }

    /// Whether a table that is not there need not be: it was not made for want of an extension, or is an extension's.
    pub(crate) fn excuses(&self, schema: &str, name: &str) -> bool {
        self.is_needed() && self.made.get(&(schema.to_owned(), name.to_owned())).copied().unwrap_or(true)
    }

    pub(crate) fn left_out(&self, tables: BTreeSet<(String, String)>) -> LeftOut {
        LeftOut {
            extensions: self.extensions.clone(),
            entries: self.failed.values().cloned().collect(),
            tables,
        }
    }

    fn explains(&self, error: &Complaint) -> bool {
        let Some(entry) = error.entry else { return false };
        let absent = || self.about_others.contains(&entry) && error.message.contains(ABSENT);
        !infrastructure::in_words(&error.message) && (self.affected.contains(&entry) || absent())
    }

    /// The error's own line stays as it was, for whoever reads it next. Whether it had a context is not known any more.
    fn told(&self, error: &Complaint) -> String {
        let name = error.entry.and_then(|entry| self.names.get(&entry)).map_or("it", String::as_str);
        format!(
            "pg_restore: from TOC entry {}; 0 0 {name}, which does not depend on a missing extension\n\
             pg_restore: error: {}\nCONTEXT:  not kept",
            error.entry.unwrap_or_default(),
            error.message
        )
    }
}

/// The missing extensions' entries and all that depend on them.
fn affected(toc: &Toc, extensions: &[String]) -> HashSet<i32> {
    let mut dependents: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in &toc.entries {
        for dependency in &entry.dependencies {
            dependents.entry(*dependency).or_default().push(entry.dump_id);
        }
    }
    let missing = |entry: &&TocEntry| entry.desc == "EXTENSION" && extensions.contains(&entry.tag);
    let mut waiting: Vec<i32> = toc.entries.iter().filter(missing).map(|entry| entry.dump_id).collect();
    let mut found = HashSet::new();
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            waiting.extend(dependents.get(&id).into_iter().flatten());
        }
    }
    found
}

fn is_about_another(entry: &TocEntry, ids: &HashSet<i32>) -> bool {
    let of_system = entry.namespace.as_deref().is_some_and(|schema| SYSTEM_SCHEMAS.contains(&schema));
    let none_here = entry.dependencies.iter().all(|id| !ids.contains(id));
    !of_system && !entry.dependencies.is_empty() && none_here
}

fn described(entry: &TocEntry) -> String {
    match &entry.namespace {
        Some(schema) => format!("{} {schema}.{}", entry.desc, entry.tag),
        None => format!("{} {}", entry.desc, entry.tag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::toc::{Compression, DataState, FormatVersion, Header, Section};

    fn entry(dump_id: i32, desc: &str, namespace: Option<&str>, tag: &str, dependencies: &[i32]) -> TocEntry {
        TocEntry {
            dump_id,
            had_dumper: false,
            table_oid: 0,
            oid: 0,
            tag: tag.to_owned(),
            desc: desc.to_owned(),
            section: Section::PreData,
            defn: None,
            drop_stmt: None,
            copy_stmt: None,
            namespace: namespace.map(str::to_owned),
            tablespace: None,
            table_access_method: None,
            relkind: None,
            owner: None,
            dependencies: dependencies.to_vec(),
            data_state: DataState::NoData,
        }
    }

    fn lenience() -> Lenience {
        let public = Some("public");
        let entries = vec![
            entry(2, "EXTENSION", None, "hstore", &[]),
            entry(3, "EXTENSION", None, "citext", &[]),
            entry(215, "TABLE", public, "geo", &[2]),
            entry(216, "VIEW", public, "geo_view", &[215]),
            entry(217, "TABLE", public, "plain", &[]),
            entry(218, "INDEX", public, "named", &[217, 3]),
            entry(219, "ACL", public, "FUNCTION hstore_in(cstring)", &[9000]),
            entry(220, "ACL", Some("pg_catalog"), "FUNCTION lo_import(text)", &[9001]),
        ];
        let header = Header {
            version: FormatVersion { major: 1, minor: 15, revision: 0 },
            int_size: 4,
            off_size: 8,
            compression: Compression::None,
            created: None,
            database: None,
            server_version: None,
            dump_version: None,
        };
        Lenience::new(&Toc { header, entries }, &["hstore".to_owned()])
    }

    fn stderr(errors: &[(i32, &str)]) -> String {
        let mut text = String::from("pg_restore: while PROCESSING TOC:\n");
        for (id, message) in errors {
            text.push_str(&format!(
                "pg_restore: from TOC entry {id}; 0 0 X x\npg_restore: error: {message}\n"
            ));
        }
        text.push_str(&format!("pg_restore: warning: errors ignored on restore: {}\n", errors.len()));
        text
    }

    fn ended(stderr: String) -> Result<(), RestoreError> {
        let section = super::super::Section::PreData;
        Err(RestoreError::PgRestore { section, status: "exit status: 1".to_owned(), stderr })
    }

    const GONE: &str = "could not execute query: ERROR:  type \"public.hstore\" does not exist";

    #[test]
    fn what_follows_from_a_missing_extension_is_forgiven_and_named() {
        let mut lenience = lenience();
        let all = [(2, GONE), (215, GONE), (215, GONE), (216, GONE), (219, GONE)];
        lenience.forgive(ended(stderr(&all))).unwrap();
        let left = lenience.left_out(BTreeSet::new());
        let expected = ["EXTENSION hstore", "TABLE public.geo", "VIEW public.geo_view"];
        assert_eq!(left.entries[..3], expected);
        assert!(lenience.excuses("public", "geo") && lenience.excuses("public", "of_an_extension"));
        assert!(!lenience.excuses("public", "plain"));
    }

    #[test]
    fn one_other_error_fails_the_restore() {
        for (id, message) in [
            (217, GONE),
            // Of an extension that is there.
            (218, GONE),
            (220, GONE),
            (219, "could not execute query: ERROR:  permission denied"),
            (215, "could not execute query: ERROR:  could not extend file: No space left on device"),
        ] {
            let error = lenience().forgive(ended(stderr(&[(2, GONE), (id, message)]))).unwrap_err();
            assert!(error.to_string().contains(message), "{id}: {error}");
        }
    }

    #[test]
    fn errors_that_do_not_add_up_fail_the_restore() {
        let more = stderr(&[(2, GONE)]).replace("restore: 1", "restore: 2");
        assert!(lenience().forgive(ended(more)).is_err());
        assert!(lenience().forgive(ended(String::new())).is_err());
        assert!(lenience().forgive(Ok(())).is_ok());
    }

    #[test]
    fn without_missing_extensions_nothing_is_forgiven() {
        let header = lenience();
        let mut strict = Lenience { extensions: Vec::new(), ..header };
        assert!(strict.forgive(ended(stderr(&[(2, GONE)]))).is_err());
        assert!(!strict.excuses("public", "geo"));
    }
}
