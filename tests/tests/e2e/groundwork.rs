//! What the other tests stand on must itself be sound: a comparison that cannot fail would prove nothing.

use std::io::{Read, Write};
use std::net::TcpStream;

use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::s3_proxy::{Fault, Rule, S3Proxy};
use pgproof_tests::s3_server::S3Server;
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

/// Each fault of the proxy is what it says.
#[test]
fn proxy_misbehaves_by_its_script() {
    let server = S3Server::start();
    let proxy = S3Proxy::start(server.address());
    let whole = fetch(&proxy);
    assert!(whole.starts_with("HTTP/1.1 403") && whole.contains("</Error>"), "the S3 server itself: {whole}");

    proxy.add(Rule::new(Fault::Status(503)).method("GET").containing("/backups").after(1).times(1));
    assert_eq!(fetch(&proxy), whole, "the rule lets the first pass");
    assert!(fetch(&proxy).contains("SlowDown"));
    proxy.add(Rule::new(Fault::ErrorDocument).times(1));
    assert!(fetch(&proxy).starts_with("HTTP/1.1 200"));
    proxy.add(Rule::new(Fault::CutShort(10)).times(1));
    let cut = fetch(&proxy);
    let body = cut.split_once("\r\n\r\n").map(|(_, body)| body.len());
    assert_eq!(body, Some(10), "{cut}");
    proxy.add(Rule::new(Fault::LoseResponse).times(1));
    assert_eq!(fetch(&proxy), "");
    proxy.outage(true);
    assert_eq!(fetch(&proxy), "");
    proxy.outage(false);
    assert_eq!(fetch(&proxy), whole);
    assert_eq!(proxy.seen().iter().filter(|seen| seen.faulty).count(), 5);
}

/// What comes back for a request without a signature, up to the connection's end, without the headers that change.
fn fetch(proxy: &S3Proxy) -> String {
    let address = proxy.url().trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(address).expect("the proxy");
    let request = b"GET /backups/x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    connection.write_all(request).expect("a request");
    let mut answer = Vec::new();
    // Ended connections are a part of the script.
    let _ = connection.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    answer
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: ") && !line.starts_with("x-amz"))
        .collect()
}
