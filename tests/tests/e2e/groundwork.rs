//! What the other tests stand on must itself be sound: a comparison that cannot fail would prove nothing.

use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::{comparison, hard_cases};

/// The stock tools themselves carry the hard cases over, in every version.
#[test]
fn stock_dump_and_restore_keep_the_hard_cases() {
    for version in PostgresVersion::ALL {
        let server = PostgresServer::start(version);
        hard_cases::load(&server, "app");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = folder.path().join("app.dump");
        succeed(server.client("pg_dump").args(["-Fc", "-d", "app", "-f"]).arg(&archive));
        server.create_database("restored");
        succeed(server.client("pg_restore").args(["--exit-on-error", "-d", "restored"]).arg(&archive));
        comparison::assert_same((&server, "app"), (&server, "restored"));
    }
}

/// One changed value in one row of one table is seen.
#[test]
fn comparison_sees_one_changed_value() {
    let server = PostgresServer::start(PostgresVersion::V15);
    hard_cases::load(&server, "app");
    server.psql("postgres", "create database copy template app");
    comparison::assert_same((&server, "app"), (&server, "copy"));
    server.psql("copy", "update hard.measurements set note = note || ' ' where id = 70000");
    let compared = std::panic::catch_unwind(|| comparison::assert_same((&server, "app"), (&server, "copy")));
    assert!(compared.is_err(), "the change went unseen");
}
