//! The health server over real sockets, from a bucket in memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use pgproof_monitoring::health::{self, Health};
use pgproof_monitoring::survey::Subject;
use pgproof_policies::Policy;
use pgproof_policies::policy::Monitoring;
use pgproof_repository::lease::host_name;
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::counting::CountingStore;
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use pgproof_repository::store::operation::Operation;
use tokio_util::sync::CancellationToken;

use crate::support::{self, Bucket};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_are_answered_from_memory() {
    let bucket = Bucket::new();
    bucket.backup(Timestamp::now() - SignedDuration::from_hours(1)).await;
    let counting = CountingStore::new(bucket.store.clone());
    let served = Served::start(&bucket, Arc::new(counting.clone()), SignedDuration::from_hours(1)).await;
    served.until("/health/ready", "200").await;
    let before = counting.counters().all();
    for _ in 0..50 {
        let (status, text) = served.get("/metrics").await;
        assert_eq!(status, "200");
        for metric in ["backup_last_success", "repository_read"] {
            assert!(text.contains(&format!("pgproof_{metric}_timestamp_seconds{}", labels())), "{text}");
        }
    }
    assert_eq!(counting.counters().all(), before, "a scrape touched the bucket");
    let (status, text) = served.get("/health/detailed").await;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&*status, &document["standing"]["state"]), ("200", &"ok".into()), "{document:#}");
    assert_eq!(document["activity"]["at"], "work");
    assert_eq!(served.get("/health/live").await.0, "200");
    assert_eq!(served.get("/else").await.0, "404");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_went_away_leaves_no_stale_value() {
    let bucket = Bucket::new();
    bucket.backup(Timestamp::now()).await;
    let rule = Rule::on(Operation::ListFolders, Fault::Deny).from_call(2).times(u64::MAX);
    let store = FaultyStore::scripted(bucket.store.clone(), vec![rule]);
    let served = Served::start(&bucket, Arc::new(store), SignedDuration::from_millis(300)).await;
    served.until("/health/ready", "200").await;
    served.until("/health/ready", "503").await;
    let (_, text) = served.get("/metrics").await;
    assert!(!text.contains("pgproof_backup_last_success_timestamp_seconds{"), "{text}");
    assert!(text.contains(&format!("pgproof_repository_read_timestamp_seconds{}", labels())), "{text}");
    assert!(text.contains("pgproof_threshold_seconds{"), "{text}");
    let (_, text) = served.get("/health/detailed").await;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["standing"]["state"], "unknown", "{document:#}");
    assert_eq!(served.get("/health/live").await.0, "200");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_long_are_refused_and_a_taken_port_is_an_error() {
    let bucket = Bucket::new();
    let served = Served::start(&bucket, bucket.store.clone(), SignedDuration::from_hours(1)).await;
    let long = format!("/health/live?{}", "x".repeat(100_000));
    let answer = served.ask(&format!("GET {long} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    let monitoring = Monitoring { listen: Some(served.health.address()), ..Monitoring::default() };
    let again = health::start(&monitoring, served.subject.clone(), nothing(), CancellationToken::new()).await;
    assert!(again.unwrap_err().to_string().contains("cannot be served on 127.0.0.1:"));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_of_another_repository_is_forgotten() {
    let bucket = Bucket::new();
    bucket.backup(Timestamp::now()).await;
    let served = Served::start(&bucket, bucket.store.clone(), SignedDuration::from_hours(1)).await;
    served.until("/health/ready", "200").await;
    let elsewhere =
        Policy::parse(&support::POLICY.replace("/backups", "/elsewhere"), "pgproof.toml").unwrap();
    let rule = Rule::on(Operation::ListFolders, Fault::Deny).times(u64::MAX);
    let store = Arc::new(FaultyStore::scripted(bucket.store.clone(), vec![rule]));
    served.health.replace(Subject::new(store, bucket.signers.clone(), &elsewhere, Timestamp::now()));
    served.until("/health/ready", "503").await;
    let (_, text) = served.get("/metrics").await;
    assert!(text.contains("/elsewhere\""), "{text}");
    assert!(!text.contains("pgproof_repository_read_timestamp_seconds{"), "{text}");
    assert!(!text.contains("/backups\""), "{text}");
    served.stop().await;
}

/// Of all that is exported of `app` and needs no more.
fn labels() -> String {
    format!("{{repository=\"file://{}/backups\",source=\"app\"}}", host_name())
}

struct Served {
    health: Health,
    subject: Subject,
    cancel: CancellationToken,
}

impl Served {
    async fn start(bucket: &Bucket, store: SharedStore, refresh: SignedDuration) -> Self {
        let policy = Policy::parse(support::POLICY, "pgproof.toml").unwrap();
        let subject = Subject::new(store, bucket.signers.clone(), &policy, Timestamp::now());
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let monitoring = Monitoring { listen, refresh, textfile: None };
        let cancel = CancellationToken::new();
        let started = health::start(&monitoring, subject.clone(), nothing(), cancel.clone()).await;
        Self { health: started.unwrap().unwrap(), subject, cancel }
    }

    async fn get(&self, path: &str) -> (String, String) {
        let answer = self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned())
    }

    async fn ask(&self, request: &str) -> String {
        let (address, request) = (self.health.address(), request.to_owned());
        tokio::task::spawn_blocking(move || exchange(address, &request)).await.unwrap()
    }

    async fn until(&self, path: &str, status: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.get(path).await.0 != status {
            assert!(Instant::now() < deadline, "{path} never answered {status}");
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        let address = self.health.address();
        self.health.stopped().await;
        assert!(TcpStream::connect(address).is_err(), "it still listens");
    }
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server that has refused the head may have hung up before all of it was sent.
    let _sent = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn nothing() -> health::Activity {
    Arc::new(|| serde_json::json!({ "at": "work" }))
}
