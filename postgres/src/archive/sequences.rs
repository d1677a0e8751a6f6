//! The values that an archive gives to sequences, read from its table of contents.
//!
//! Sequences know no transactions, so that a look into the source's catalog would tell another moment than the dump's:
//! what the dump carries is the only truth about what a restore must set.

use thiserror::Error;

use super::{Toc, TocEntry};

/// The description of such an entry.
const DESC: &str = "SEQUENCE SET";

/// What a restore sets one sequence to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceValue {
    pub schema: String,
    pub name: String,
    pub last_value: i64,
    pub is_called: bool,
}

/// An entry that sets a sequence in another way than any known pg_dump.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("the value of sequence {schema}.{name} is not written as pg_dump writes it")]
pub struct UnknownStatement {
    pub schema: String,
    pub name: String,
}

impl Toc {
    /// Every sequence that the archive sets, in the archive's order.
    pub fn sequence_values(&self) -> Result<Vec<SequenceValue>, UnknownStatement> {
        self.entries.iter().filter(|entry| entry.desc == DESC).map(value).collect()
    }
}

fn value(entry: &TocEntry) -> Result<SequenceValue, UnknownStatement> {
    let (schema, name) = (entry.namespace.clone().unwrap_or_default(), entry.tag.clone());
    match entry.defn.as_deref().and_then(set_to) {
        Some((last_value, is_called)) => Ok(SequenceValue { schema, name, last_value, is_called }),
        None => Err(UnknownStatement { schema, name }),
    }
}

/// Reads `SELECT pg_catalog.setval('schema.name', 42, true);`. The name in it is the entry's own, quoted twice.
fn set_to(statement: &str) -> Option<(i64, bool)> {
    let inner = statement.trim().strip_prefix("SELECT pg_catalog.setval(")?.strip_suffix(");")?;
    let (rest, is_called) = inner.rsplit_once(", ")?;
    let (name, last_value) = rest.rsplit_once(", ")?;
    let quoted = name.strip_prefix('E').unwrap_or(name).strip_prefix('\'')?.strip_suffix('\'')?;
    if quoted.is_empty() {
        return None;
    }
    let is_called = match is_called {
        "true" => true,
        "false" => false,
        _ => return None,
    };
    Some((last_value.parse().ok()?, is_called))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_of_pg_dump_are_read() {
        let read = |name: &str, rest: &str| set_to(&format!("SELECT pg_catalog.setval({name}, {rest});\n"));
        assert_eq!(read("'public.s'", "42, true"), Some((42, true)));
        assert_eq!(read("'hard.\"Odd \"\"s, 1, true\"'", "-7, false"), Some((-7, false)));
        assert_eq!(read("E'hard.\"back\\\\slash\"'", "9223372036854775807, true"), Some((i64::MAX, true)));
    }

    #[test]
    fn anything_else_is_refused() {
        let refused = [
            "",
            "SELECT setval('public.s', 42, true);",
            "SELECT pg_catalog.setval('public.s', 42);",
            "SELECT pg_catalog.setval('public.s', 42, t);",
            "SELECT pg_catalog.setval('public.s', 4.2, true);",
            "SELECT pg_catalog.setval('public.s', 9223372036854775808, true);",
            "SELECT pg_catalog.setval(public.s, 42, true);",
            "SELECT pg_catalog.setval('public.s', 42, true); SELECT 1;",
        ];
        for statement in refused {
            assert_eq!(set_to(statement), None, "{statement}");
        }
    }
}
