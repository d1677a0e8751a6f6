//! Names and values written into SQL.

use std::fmt::Write as _;

/// An identifier in double quotes, whatever characters it has.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A schema-qualified name.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A string constant that means the same under either setting of `standard_conforming_strings`.
pub(crate) fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// A libpq connection string that names a database, even one whose name looks like a connection string itself.
pub(crate) fn database_conninfo(database: &str) -> String {
    let mut escaped = String::from("dbname='");
    for c in database.chars() {
        if matches!(c, '\'' | '\\') {
            escaped.push('\\');
        }
        let _ = write!(escaped, "{c}");
    }
    escaped.push('\'');
    escaped
}

/// What a `COPY … FROM stdin;` statement of an archive names: the relation and its columns, as they are written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyTarget {
    /// `schema.table`, quoted where needed.
    pub(crate) relation: String,
    /// `(a, b)`, or nothing for a table without columns.
    pub(crate) columns: String,
}

impl CopyTarget {
    /// Reads the statement; `None` when it has another form, as no archive of pg_dump's has.
    pub(crate) fn parse(statement: &str) -> Option<Self> {
        let body = statement.trim().strip_suffix(';')?.trim_end();
        let body = body.strip_prefix("COPY ")?;
        let body = body.strip_suffix("stdin").or_else(|| body.strip_suffix("STDIN"))?.trim_end();
        let body = body.strip_suffix("FROM")?.trim_end();
        let end = relation_end(body)?;
        let (relation, columns) = body.split_at(end);
        let columns = columns.trim();
        let listed = columns.is_empty() || (columns.starts_with('(') && columns.ends_with(')'));
        listed.then(|| Self { relation: relation.to_owned(), columns: columns.to_owned() })
    }

    /// The columns without their parentheses.
    pub(crate) fn column_list(&self) -> &str {
        self.columns.trim_start_matches('(').trim_end_matches(')')
    }
}

/// Where a possibly quoted, possibly qualified name ends: at the first space outside quotes.
fn relation_end(text: &str) -> Option<usize> {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ' ' | '(' if !quoted => return Some(at),
            ';' if !quoted => return None,
            _ => {}
        }
    }
    (!quoted && !text.is_empty()).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_statements_are_taken_apart() {
        let parse = |text| CopyTarget::parse(text).map(|t| (t.relation, t.columns));
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(parse("COPY public.t (id, \"a (b\") FROM stdin;\n"), pair("public.t", "(id, \"a (b\")"));
        assert_eq!(
            parse("COPY \"we ird\".\"t\"\" (\" (a) FROM stdin;"),
            pair("\"we ird\".\"t\"\" (\"", "(a)")
        );
        assert_eq!(parse("COPY public.none  FROM stdin;\n"), pair("public.none", ""));
        assert_eq!(parse("COPY public.t; DROP TABLE x (a) FROM stdin;"), None);
        assert_eq!(parse("SELECT 1"), None);
    }

    #[test]
    fn names_and_values_are_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b"), "E'a\\\\b'");
        assert_eq!(database_conninfo("it's=\\"), "dbname='it\\'s=\\\\'");
    }
}
