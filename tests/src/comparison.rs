//! Whether two databases are the same, found out with stock tools and plain SQL, not with pgproof's own digests.

use crate::postgres_server::{PostgresServer, succeed};

/// Compares schema, rows, sequences and large objects of two databases.
///
/// # Panics
/// With the first lines that differ.
pub fn assert_same(left: (&PostgresServer, &str), right: (&PostgresServer, &str)) {
    assert_equal_lines("schema", &schema(left), &schema(right));
    assert_equal_lines("contents", &contents(left), &contents(right));
}

/// Compares rows of single tables only.
///
/// # Panics
/// With the first lines that differ.
pub fn assert_same_table(left: (&PostgresServer, &str), right: (&PostgresServer, &str), table: &str) {
    let rows = |(server, database): (&PostgresServer, &str)| server.psql(database, &rows_of(table));
    assert_equal_lines(table, &rows(left), &rows(right));
}

fn schema((server, database): (&PostgresServer, &str)) -> String {
    let mut dump = server.client("pg_dump");
    let output = succeed(dump.args(["--schema-only", "--dbname", database]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // A random word is in these two lines of newer dumps.
    let kept =
        text.lines().filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
    kept.collect::<Vec<_>>().join("\n")
}

/// One line for each table, sequence, populated materialized view and large object.
fn contents((server, database): (&PostgresServer, &str)) -> String {
    let relations = server.psql(database, RELATIONS);
    let mut queries: Vec<String> = Vec::new();
    for relation in relations.split('\u{1e}').map(str::trim_start).filter(|relation| !relation.is_empty()) {
        let (kind, name) = relation.split_once('|').expect("kind and name");
        queries.push(if kind == "S" { sequence(name) } else { rows_of(name) });
    }
    queries.push(LARGE_OBJECTS.to_owned());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("contents.sql");
    std::fs::write(&file, format!("{SETTINGS}{}", queries.join(";\n") + ";\n")).expect("a file of queries");
    server.psql_file(database, &file)
}

const SETTINGS: &str = "set extra_float_digits = 3; set timezone = 'UTC'; set client_encoding = 'UTF8';\n";

/// Names may hold line ends, so that a record separator ends each.
const RELATIONS: &str = "select c.relkind::text || '|' || format('%I.%I', n.nspname, c.relname) || E'\\x1e' \
     from pg_class c join pg_namespace n on n.oid = c.relnamespace \
     where c.relkind in ('r', 'S', 'm') and (c.relkind <> 'm' or c.relispopulated) \
     and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' order by c.relkind, n.nspname, c.relname";

const LARGE_OBJECTS: &str = "select 'large object', m.oid, m.lomowner::regrole, m.lomacl, md5(lo_get(m.oid)), \
     obj_description(m.oid, 'pg_largeobject') from pg_largeobject_metadata m order by m.oid";

fn rows_of(table: &str) -> String {
    let told = table.replace('\'', "''");
    format!(
        "select E'{}', count(*), md5(coalesce(string_agg(row_md5, '' order by row_md5), '')) \
         from (select md5(t::text) as row_md5 from only {table} t) rows",
        told.replace('\\', "\\\\")
    )
}

fn sequence(name: &str) -> String {
    format!("select E'{}', last_value, is_called from {name}", name.replace('\'', "''").replace('\\', "\\\\"))
}

fn assert_equal_lines(what: &str, left: &str, right: &str) {
    if left == right {
        return;
    }
    let missing = lines_only_in(left, right);
    let surplus = lines_only_in(right, left);
    panic!("{what} differs\nonly left:\n{missing}\nonly right:\n{surplus}");
}

/// The first lines of one text that the other has not.
fn lines_only_in(text: &str, other: &str) -> String {
    const SHOWN: usize = 20;
    let known: std::collections::BTreeSet<&str> = other.lines().collect();
    text.lines().filter(|line| !known.contains(line)).take(SHOWN).collect::<Vec<_>>().join("\n")
}
