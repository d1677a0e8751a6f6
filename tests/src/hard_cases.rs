//! The database of PostgreSQL's hard cases.

use std::path::PathBuf;

use crate::binaries;
use crate::postgres_server::PostgresServer;

/// Creates a database full of hard cases.
pub fn load(server: &PostgresServer, database: &str) {
    server.create_database(database);
    server.psql_file(database, &file("hard_cases.sql"));
    if server.version().has_contrib() {
        server.psql_file(database, &file("hard_cases_contrib.sql"));
    } else {
        let extended =
            server.psql(database, "select count(*) from pg_extension where extname = 'pgproof_settings'");
        assert_eq!(
            extended, "1",
            "the tests' own extension is missing: remove target/testbed and run tests/run"
        );
    }
}

/// Adds one row of so many megabytes.
pub fn add_huge_row(server: &PostgresServer, database: &str, megabytes: u32) {
    server.psql(database, &format!("select hard.add_huge_row({megabytes})"));
}

/// A database that is not UTF-8, with all of Latin-1's letters.
pub fn load_latin1(server: &PostgresServer, database: &str) {
    server.psql(
        "postgres",
        &format!("create database \"{database}\" template template0 encoding 'LATIN1' locale 'C'"),
    );
    server.psql(
        database,
        "create table \"gr\u{f6}\u{df}e\" (code int primary key, letter text); \
         insert into \"gr\u{f6}\u{df}e\" select n, chr(n) from generate_series(1, 255) n where n not between 128 and 159",
    );
}

fn file(name: &str) -> PathBuf {
    binaries::workspace().join("tests/src").join(name)
}
