//! Every supported version carries PostgreSQL's hard cases over: the schema is equal and every row is there.

use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use pgproof_tests::{comparison, hard_cases};

#[test]
fn postgres_15_keeps_the_hard_cases() {
    keeps_the_hard_cases(PostgresVersion::V15);
}

#[test]
fn postgres_16_keeps_the_hard_cases() {
    keeps_the_hard_cases(PostgresVersion::V16);
}

#[test]
fn postgres_18_keeps_the_hard_cases() {
    keeps_the_hard_cases(PostgresVersion::V18);
}

fn keeps_the_hard_cases(version: PostgresVersion) {
    let sandbox = Sandbox::new(version, RepositoryKind::S3);
    hard_cases::load(&sandbox.server, SOURCE);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
    let server = &sandbox.server;

    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "parallel", "--jobs", "2", "--yes"]);
    comparison::assert_same((server, SOURCE), (server, "parallel"));

    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "serial", "--serial", "--yes"]);
    comparison::assert_same((server, SOURCE), (server, "serial"));
}
