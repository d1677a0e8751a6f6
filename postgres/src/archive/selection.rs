//! Which entries of an archive a restore of some tables or schemas needs.
//!
//! Entries are *chosen* when the operator named them (with the partitions of a named table), and *kept* when the
//! chosen ones cannot stand without them: what they depend on, and what belongs to a kept relation. Only chosen
//! tables are filled with rows; a foreign key is kept only where both its sides are.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::Toc;
use super::toc::{Section, TocEntry};

/// `schema.table`; a part with a dot or a quote in it is written in double quotes, as in SQL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    pub schema: String,
    pub name: String,
}

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    pub tables: Vec<QualifiedName>,
    pub schemas: Vec<String>,
}

/// The dump ids to restore, each list in the archive's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    pub pre_data: Vec<i32>,
    /// Tables to fill with rows.
    pub table_data: Vec<i32>,
    /// The values of sequences, and whatever else of the data section is no table.
    pub other_data: Vec<i32>,
    pub post_data: Vec<i32>,
    /// Oids of the tables that are to have their rows, which may lie in another archive.
    pub filled: HashSet<u32>,
    /// Foreign keys left out because their other side was not chosen.
    pub foreign_keys_left_out: Vec<i32>,
}

#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SelectionError {
    #[error("the backup holds no table {0}")]
    NoSuchTable(QualifiedName),
    #[error("the backup holds no schema {0:?}")]
    NoSuchSchema(String),
}

#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("must be a table with its schema, like public.orders, got {given:?}")]
pub struct QualifiedNameFormat {
    given: String,
}

impl Selection {
    /// Decides what to restore.
    pub fn of(toc: &Toc, filter: &Filter) -> Result<Self, SelectionError> {
        let mut chooser = Chooser::new(&toc.entries);
        chooser.choose(filter)?;
        chooser.choose_partitions();
        chooser.keep_what_is_needed();
        Ok(chooser.into_selection())
    }

    /// A whole archive's ids.
    pub fn everything(toc: &Toc) -> Self {
        let ids: HashSet<i32> = toc.entries.iter().map(|entry| entry.dump_id).collect();
        Self { filled: tables(&toc.entries, &ids), ..by_section(&toc.entries, &ids) }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

impl FromStr for QualifiedName {
    type Err = QualifiedNameFormat;

    fn from_str(given: &str) -> Result<Self, QualifiedNameFormat> {
        let refused = || QualifiedNameFormat { given: given.to_owned() };
        let (schema, rest) = name_part(given).ok_or_else(refused)?;
        let rest = rest.strip_prefix('.').ok_or_else(refused)?;
        match name_part(rest) {
            Some((name, "")) => Ok(Self { schema, name }),
            _ => Err(refused()),
        }
    }
}

fn quoted(part: &str) -> String {
    if part.contains(['.', '"']) { format!("\"{}\"", part.replace('"', "\"\"")) } else { part.to_owned() }
}

/// One part of a name, and what follows it.
fn name_part(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        let (part, rest) = text.split_at(end);
        return (!part.is_empty() && !part.contains('"')).then(|| (part.to_owned(), rest));
    };
    let mut part = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        part.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                part.push('"');
                rest = more;
            }
            None => return (!part.is_empty()).then_some((part, after)),
        }
    }
}

const RELATIONS: &[&str] = &["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"];
/// What belongs to the relation that its own tag begins with; whatever else it refers to comes along.
const NAMED_AFTER_OWNER: &[&str] =
    &["DEFAULT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY", "CONSTRAINT", "CHECK CONSTRAINT"];
/// What belongs to all the relations that it refers to together.
const BETWEEN_RELATIONS: &[&str] =
    &["INDEX", "INDEX ATTACH", "TABLE ATTACH", "STATISTICS", "SEQUENCE", "SEQUENCE OWNED BY", "SEQUENCE SET"];
/// What is said about any object.
const REMARKS: &[&str] = &["COMMENT", "SECURITY LABEL", "ACL"];
/// What belongs to a relation only if its rows come too.
const WITH_ROWS: &[&str] = &["TABLE DATA", "MATERIALIZED VIEW DATA", "STATISTICS DATA"];
const FOREIGN_KEY: &str = "FK CONSTRAINT";

struct Chooser<'a> {
    entries: &'a [TocEntry],
    by_id: HashMap<i32, &'a TocEntry>,
    chosen: HashSet<i32>,
    kept: HashSet<i32>,
}

impl<'a> Chooser<'a> {
    fn new(entries: &'a [TocEntry]) -> Self {
        let by_id = entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        Self { entries, by_id, chosen: HashSet::new(), kept: HashSet::new() }
    }

    fn choose(&mut self, filter: &Filter) -> Result<(), SelectionError> {
        for wanted in &filter.tables {
            let found: Vec<i32> = self
                .entries
                .iter()
                .filter(|entry| is_relation(entry) && entry.tag == wanted.name)
                .filter(|entry| entry.namespace.as_ref() == Some(&wanted.schema))
                .map(|entry| entry.dump_id)
                .collect();
            if found.is_empty() {
                return Err(SelectionError::NoSuchTable(wanted.clone()));
            }
            self.chosen.extend(found);
        }
        for wanted in &filter.schemas {
            let inside = |entry: &&TocEntry| entry.namespace.as_ref() == Some(wanted);
            let itself = |entry: &&TocEntry| entry.desc == "SCHEMA" && entry.tag == *wanted;
            let found: Vec<&TocEntry> = self.entries.iter().filter(|e| inside(e) || itself(e)).collect();
            if found.is_empty() {
                return Err(SelectionError::NoSuchSchema(wanted.clone()));
            }
            self.chosen.extend(found.iter().filter(|entry| stands_alone(entry)).map(|entry| entry.dump_id));
        }
        Ok(())
    }

    /// Partitions of chosen tables, theirs, and so on.
    fn choose_partitions(&mut self) {
        let attachments: Vec<&TocEntry> = self.entries.iter().filter(|e| e.desc == "TABLE ATTACH").collect();
        loop {
            let before = self.chosen.len();
            for attachment in &attachments {
                // The first is the partition, the second what it is attached to.
                if let [partition, parent, ..] = attachment.dependencies[..]
                    && self.chosen.contains(&parent)
                {
                    self.chosen.insert(partition);
                }
            }
            if self.chosen.len() == before {
                return;
            }
        }
    }

    /// Adds what kept entries depend on and what belongs to them, until nothing is missing.
    fn keep_what_is_needed(&mut self) {
        let mut waiting: Vec<i32> = self.chosen.iter().copied().collect();
        loop {
            while let Some(id) = waiting.pop() {
                if self.kept.insert(id)
                    && let Some(entry) = self.by_id.get(&id)
                {
                    waiting.extend(entry.dependencies.iter().filter(|id| self.by_id.contains_key(id)));
                }
            }
            let belonging =
                self.entries.iter().filter(|e| !self.kept.contains(&e.dump_id) && self.belongs(e));
            waiting.extend(belonging.map(|entry| entry.dump_id));
            if waiting.is_empty() {
                return;
            }
        }
    }

    fn belongs(&self, entry: &TocEntry) -> bool {
        let desc = entry.desc.as_str();
        if NAMED_AFTER_OWNER.contains(&desc) {
            match self.owner(entry) {
                Some(owner) => self.kept.contains(&owner),
                None => self.all_relations(entry, &self.kept),
            }
        } else if BETWEEN_RELATIONS.contains(&desc) {
            self.all_relations(entry, &self.kept)
        } else if REMARKS.contains(&desc) {
            !entry.dependencies.is_empty() && entry.dependencies.iter().all(|id| self.kept.contains(id))
        } else if desc == FOREIGN_KEY {
            self.all_relations(entry, &self.chosen)
        } else if WITH_ROWS.contains(&desc) {
            self.all_relations(entry, &self.chosen)
                && (desc != "MATERIALIZED VIEW DATA" || self.can_refresh(entry))
        } else {
            false
        }
    }

    /// The relation whose name the tag of something that belongs to it begins with.
    fn owner(&self, entry: &TocEntry) -> Option<i32> {
        let owns = |relation: &&&TocEntry| {
            is_relation(relation)
                && relation.namespace == entry.namespace
                && entry
                    .tag
                    .strip_prefix(&relation.tag)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let owner = entry.dependencies.iter().filter_map(|id| self.by_id.get(id)).find(owns);
        owner.map(|relation| relation.dump_id)
    }

    /// Whether an entry refers to relations at all, and to none outside `set`.
    fn all_relations(&self, entry: &TocEntry, set: &HashSet<i32>) -> bool {
        let mut relations = self.relations_of(entry).peekable();
        relations.peek().is_some() && relations.all(|id| set.contains(&id))
    }

    fn relations_of(&self, entry: &'a TocEntry) -> impl Iterator<Item = i32> {
        let entries = entry.dependencies.iter().filter_map(|id| self.by_id.get(id));
        entries.filter(|entry| is_relation(entry)).map(|entry| entry.dump_id)
    }

    /// Whether the tables that a materialized view reads will have their rows.
    fn can_refresh(&self, data: &TocEntry) -> bool {
        let views = data.dependencies.iter().filter_map(|id| self.by_id.get(id));
        views.flat_map(|view| self.relations_of(view)).all(|id| self.chosen.contains(&id))
    }

    fn into_selection(self) -> Selection {
        let mut selection = by_section(self.entries, &self.kept);
        selection.filled = tables(self.entries, &self.chosen);
        let lost = self.entries.iter().filter(|entry| entry.desc == FOREIGN_KEY);
        let lost = lost.filter(|entry| !self.kept.contains(&entry.dump_id));
        let lost = lost.filter(|entry| self.relations_of(entry).any(|id| self.chosen.contains(&id)));
        selection.foreign_keys_left_out = lost.map(|entry| entry.dump_id).collect();
        selection
    }
}

fn is_relation(entry: &TocEntry) -> bool {
    RELATIONS.contains(&entry.desc.as_str())
}

/// Whether an entry of a chosen schema is chosen for its own sake, not for that of what it belongs to.
fn stands_alone(entry: &TocEntry) -> bool {
    let desc = entry.desc.as_str();
    let belongs = NAMED_AFTER_OWNER.contains(&desc)
        || (BETWEEN_RELATIONS.contains(&desc) && desc != "SEQUENCE")
        || REMARKS.contains(&desc)
        || WITH_ROWS.contains(&desc)
        || desc == FOREIGN_KEY
        || desc.starts_with("PUBLICATION");
    !belongs
}

/// The oids of those entries that are tables.
fn tables(entries: &[TocEntry], ids: &HashSet<i32>) -> HashSet<u32> {
    let tables = entries.iter().filter(|entry| entry.desc == "TABLE" && ids.contains(&entry.dump_id));
    tables.map(|entry| entry.oid).collect()
}

/// Sorts ids by section; what has none belongs to that of the entry before it, as pg_restore has it.
fn by_section(entries: &[TocEntry], ids: &HashSet<i32>) -> Selection {
    let mut selection = Selection::default();
    let mut current = Section::PreData;
    for entry in entries {
        if entry.section != Section::None {
            current = entry.section;
        }
        if !ids.contains(&entry.dump_id) {
            continue;
        }
        let list = match current {
            Section::None | Section::PreData => &mut selection.pre_data,
            Section::Data if entry.is_table_data() => &mut selection.table_data,
            Section::Data => &mut selection.other_data,
            Section::PostData => &mut selection.post_data,
        };
        list.push(entry.dump_id);
    }
    selection
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_two_parts_and_quotes_where_it_must() {
        let name = |text: &str| text.parse::<QualifiedName>();
        assert_eq!(name("public.orders").unwrap().name, "orders");
        let odd = name(r#""a.b"."c ""d""""#).unwrap();
        assert_eq!((odd.schema.as_str(), odd.name.as_str()), ("a.b", "c \"d\""));
        assert_eq!(name(&odd.to_string()), Ok(odd));
        for bad in ["orders", "", ".", "a.", ".b", "a.b.c", "\"a.b", "\"a\"b.c", "a.\"b\"c"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
