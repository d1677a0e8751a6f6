//! Pages over real sockets, from a bucket in memory.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgproof_monitoring::server;
use pgproof_monitoring::survey::Subject;
use pgproof_policies::Policy;
use pgproof_policies::names::SourceName;
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::report::Verdict;
use pgproof_repository::report::chain::SignedReport;
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::counting::CountingStore;
use pgproof_repository::store::faulty::{Fault, FaultyStore, Rule};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::{PutCondition, SharedStore};
use pgproof_repository::{catalog, layout};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::report::sample::Chain;

const POLICY: &str = "[repository]\nlocation = \"file:///backups\"\n[keys]\n\
    recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
    single_recipient_waiver = \"a test\"\n[sources.app]\nkind = \"postgres\"\n\
    connection = \"postgresql:///app\"\nretention = { daily = 1 }\n\
    verification = { schedule = \"0 4 * * *\" }\nobjectives = { recovery_point = \"26h\" }\n";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const HOSTILE: &str = "</p><script>alert(1)</script><img src=x onerror=alert(1)>";
const PATIENCE: Duration = Duration::from_secs(30);

struct Served {
    address: SocketAddr,
    cancel: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Served {
    async fn start(store: SharedStore, signers: TrustedSigners, access: Access) -> Self {
        let policy = Policy::parse(POLICY, "pgproof.toml").unwrap();
        let subject = Subject::new(store.clone(), signers.clone(), &policy, Timestamp::now());
        let bucket = Bucket::new(subject, store, signers, policy.sources.keys().cloned().collect());
        // A receiver shows the last policy also when nobody can send another one.
        let (_, bucket) = watch::channel(Arc::new(bucket));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let site = Site { bucket, access, hosts: Hosts::of(address, &[]) };
        let serving = tokio::spawn(server::serve(listener, router(site), cancel.clone()));
        Self { address, cancel, serving }
    }

    async fn get(&self, path: &str) -> Answer {
        self.get_with(path, "").await
    }

    async fn get_with(&self, path: &str, headers: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"))
            .await
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}");
        self.ask(format!("{head}content-length: {length}\r\n\r\n{body}")).await
    }

    async fn ask(&self, request: String) -> Answer {
        let address = self.address;
        let answer = tokio::task::spawn_blocking(move || exchange(address, &request)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let answer = Answer { head: head.to_owned(), body: body.to_owned() };
        answer.assert_shielded();
        answer
    }

    async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("it ends").unwrap();
    }
}

impl Answer {
    /// Whatever was asked for, no answer goes out without these.
    fn assert_shielded(&self) {
        let policy = self.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{}", self.head);
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{}", self.head);
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
        assert!(!self.body.contains("<script") && !self.body.contains("<img"), "{}", self.body);
        if let Some((_, rest)) = self.body.split_once("<style>") {
            let style = rest.split("</style>").next().unwrap();
            let hash = data_encoding::BASE64.encode(&<sha2::Sha256 as sha2::Digest>::digest(style));
            assert!(policy.contains(&hash), "a style that the policy refuses");
        }
    }
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) fn source() -> SourceName {
    "app".parse().unwrap()
}

async fn put(store: &SharedStore, key: &ObjectKey, bytes: Vec<u8>) {
    store.put(key, bytes.into(), PutCondition::IfAbsent).await.unwrap();
}

pub(super) fn place(signed: &SignedReport) -> ObjectKey {
    let report = signed.get();
    layout::verification(&report.source, &report.backup, report.finished_at)
}

/// The path of a report's page.
fn page_of(signed: &SignedReport) -> String {
    let key = place(signed).to_string();
    let time = key.rsplit('/').next().unwrap().trim_end_matches(".json");
    format!("/sources/app/reports/{}/{time}", signed.get().backup)
}

pub(super) async fn store_of(chain: &Chain) -> SharedStore {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let own = chain.reports.first().map(|(_, _, signed)| signed.get().repository.clone());
    let id = own.unwrap_or_else(|| "a".repeat(26).parse().unwrap());
    catalog::ensure_marker(&*store, id, Timestamp::now()).await.unwrap();
    for (json, signature, signed) in &chain.reports {
        put(&store, &layout::signature_of(&place(signed)), signature.clone().into_bytes()).await;
        put(&store, &place(signed), json.clone()).await;
    }
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_read_from_the_bucket_once_and_change_nothing() {
    let mut chain = Chain::of(2);
    chain.add(|report| report.source = source());
    let counting = CountingStore::new(store_of(&chain).await);
    let served = Served::start(Arc::new(counting.clone()), chain.trusted(), Access::Everybody).await;
    let pages = ["/", "/sources/app", "/sources/app/audit", &page_of(&chain.reports[2].2)];
    for path in pages {
        let answer = served.get(path).await;
        assert_eq!(answer.status(), "200", "{path}: {}", answer.body);
        assert!(answer.body.contains("As of 20"), "{path} does not say how old it is");
    }
    let before = counting.counters().all();
    for _ in 0..20 {
        for path in pages {
            served.get(path).await;
        }
    }
    assert_eq!(counting.counters().all(), before, "a storm of requests reached the bucket");
    let source = served.get("/sources/app").await.body;
    assert!(source.contains("Report 3") && source.contains("by verifier@example.org"), "{source}");
    assert!(source.contains("The chain of these reports holds"), "{source}");
    let report = served.get(pages[3]).await.body;
    let place = |text: &str| report.find(text).unwrap_or_else(|| panic!("{text} is not in {report}"));
    assert!(place("id=\"verdict\"") < place("Well signed, and in its place in the chain"), "{report}");
    assert!(place("Pages above") < place("id=\"verdict\""), "{report}");
    assert!(report.contains("ssh-keygen -Y verify"), "{report}");

    let head = served.ask("HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_owned()).await;
    assert_eq!((head.status(), head.body.as_str()), ("200", ""));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert_eq!(served.ask(request).await.status(), "405", "{method}");
    }
    for path in ["/sources/%ff", "/sources/%ff/audit", "/sources/app/reports/%ff/%ff"] {
        let answer = served.get(path).await;
        assert!(answer.status() == "404" && answer.body.contains("Not here"), "{path}: {}", answer.body);
    }
    for path in
        ["/else", "/sources/none", "/sources/app/reports/x/y", "/sources/app/reports/../../etc/passwd"]
    {
        assert_eq!(served.get(path).await.status(), "404", "{path}");
    }
    let strange =
        served.ask("GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n".to_owned()).await;
    assert_eq!(strange.status(), "421");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_handed_out_as_they_lie_there() {
    let chain = Chain::of(1);
    let served = Served::start(store_of(&chain).await, chain.trusted(), Access::Everybody).await;
    let (json, signature, signed) = &chain.reports[0];
    let page = page_of(signed);
    let file = served.get(&format!("{page}.json")).await;
    assert_eq!(file.body.as_bytes(), json);
    let name = file.header("content-disposition").unwrap();
    assert!(
        name.starts_with("attachment; filename=\"app-000001-2026") && name.ends_with(".json\""),
        "{name}"
    );
    assert_eq!(&served.get(&format!("{page}.json.sig")).await.body, signature);
    assert!(served.get(&format!("{page}.csv")).await.body.starts_with("source,report,backup"));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_is_text_and_is_shown_for_what_it_is() {
    let mut chain = Chain::of(1);
    chain.add(|report| {
        report.database.name = HOSTILE.to_owned();
        report.checks[0].reason = Some(HOSTILE.to_owned());
        report.tables[0].name = HOSTILE.to_owned();
        report.warnings.push(HOSTILE.to_owned());
    });
    chain.add(|report| report.number = 2);
    // A report of somebody else's, and one without a signature.
    let mut stranger = Chain::new();
    stranger.add(|report| {
        report.finished_at = "2026-11-20T04:00:00Z".parse().unwrap();
        report.database.name = "what a stranger says".to_owned();
    });
    let mut unsigned = Chain::new();
    unsigned.add(|report| report.finished_at = "2026-11-21T04:00:00Z".parse().unwrap());
    let store = store_of(&chain).await;
    let (json, signature, foreign) = &stranger.reports[0];
    put(&store, &layout::signature_of(&place(foreign)), signature.clone().into_bytes()).await;
    put(&store, &place(foreign), json.clone()).await;
    let (json, _, bare) = &unsigned.reports[0];
    put(&store, &place(bare), json.clone()).await;

    let served = Served::start(store, chain.trusted(), Access::Everybody).await;
    let list = served.get("/sources/app").await.body;
    assert!(list.contains("is not trusted") && list.contains("report has no signature"), "{list}");
    assert!(list.contains("there are two reports with number 2"), "{list}");
    assert!(list.contains("2 reports here are not trusted, and count for nothing."), "{list}");
    let hostile = served.get(&page_of(&chain.reports[1].2)).await.body;
    assert!(hostile.contains("&#60;script&#62;alert(1)"), "{hostile}");
    let alarm = hostile.find("at odds with its chain: it proves nothing").expect("an alarm");
    assert!(alarm < hostile.find("id=\"verdict\"").unwrap(), "{hostile}");
    let foreign = served.get(&page_of(foreign)).await;
    assert_eq!(foreign.status(), "200");
    assert!(foreign.body.contains("A report that nobody vouches for"), "{}", foreign.body);
    assert!(!foreign.body.contains("what a stranger says"), "{}", foreign.body);
    let bare = page_of(bare);
    assert!(served.get(&bare).await.body.contains("report has no signature"));
    assert_eq!(served.get(&format!("{bare}.json.sig")).await.status(), "404");
    assert_eq!(served.get(&format!("{bare}.csv")).await.status(), "404");
    assert_eq!(served.get(&format!("{bare}.json")).await.status(), "200");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_green_stands_above_a_verdict_that_is_not() {
    for verdict in [Verdict::Failed, Verdict::NotRun, Verdict::Degraded] {
        let mut chain = Chain::new();
        chain.add(|report| (report.source, report.verdict) = (source(), verdict));
        let served = Served::start(store_of(&chain).await, chain.trusted(), Access::Everybody).await;
        let page = served.get(&page_of(&chain.reports[0].2)).await.body;
        let (_, body) = page.split_once("</style>").expect("a style");
        let (above, _) = body.split_once("id=\"verdict\"").expect("a verdict");
        assert!(!above.contains("good") && !above.contains('✓'), "{verdict:?}: {above}");
        served.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weak_proof_does_not_look_like_a_whole_one_and_no_report_holds_no_chain() {
    let mut chain = Chain::new();
    chain.add(|report| {
        (report.source, report.verdict) = (source(), Verdict::Degraded);
        report.finished_at = "2025-11-01T04:00:00Z".parse().unwrap();
    });
    let served = Served::start(store_of(&chain).await, chain.trusted(), Access::Everybody).await;
    for path in ["/", "/sources/app"] {
        let page = served.get(path).await.body;
        assert!(page.contains(", weaker</span>"), "{path}: {page}");
    }
    served.stop().await;
    let (empty, signers) = (Chain::new(), chain.trusted());
    let served = Served::start(store_of(&empty).await, signers, Access::Everybody).await;
    let page = served.get("/sources/app").await.body;
    assert!(!page.contains("chain of these reports holds") && page.contains("No drill has left"), "{page}");
    assert!(page.contains("backup age: there is no backup"), "{page}");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_was_copied_here_from_another_repository_is_at_odds() {
    let mut chain = Chain::new();
    chain.add(|report| report.source = source());
    chain.add(|report| {
        report.source = source();
        report.repository = "z".repeat(26).parse().unwrap();
    });
    let served = Served::start(store_of(&chain).await, chain.trusted(), Access::Everybody).await;
    let odd = "signed for another repository";
    for (report, is_odd) in chain.reports.iter().zip([false, true]) {
        let page = served.get(&page_of(&report.2)).await.body;
        assert_eq!(page.contains(odd), is_odd, "{page}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_without_the_marker_are_shown_as_unknown() {
    let chain = Chain::of(1);
    let store = store_of(&chain).await;
    store.delete(&layout::repository_marker()).await.unwrap();
    let object = layout::backup_object(&source(), &chain.reports[0].2.get().backup, "manifest.json").unwrap();
    put(&store, &object, b"{}".to_vec()).await;
    let served = Served::start(store, chain.trusted(), Access::Everybody).await;
    let answer = served.get("/sources/app").await;
    assert!(
        answer.body.contains("repository.json") && !answer.body.contains("There is no backup"),
        "{}",
        answer.body
    );
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nothing_is_shown() {
    let chain = Chain::of(1);
    let access = Access::with_token(Token::of(TOKEN).unwrap());
    let served = Served::start(store_of(&chain).await, chain.trusted(), access).await;
    for path in
        ["/", "/sources/app", "/sources/none", "/else", &format!("{}.json", page_of(&chain.reports[0].2))]
    {
        let answer = served.get(path).await;
        assert_eq!(answer.status(), "401", "{path}");
        assert!(
            answer.body.contains("name=\"token\"") && !answer.body.contains("Report 1"),
            "{}",
            answer.body
        );
    }
    let wrong = served.get_with("/", "authorization: Bearer wrong-wrong-wrong-wrong-wrong\r\n").await;
    assert!(wrong.status() == "401" && wrong.body.contains("That is not the token"), "{}", wrong.body);
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(served.get_with("/sources/app", &bearer).await.status(), "200");

    let elsewhere = served.post("/login", "sec-fetch-site: cross-site\r\n", &format!("token={TOKEN}")).await;
    assert_eq!(elsewhere.status(), "403");
    let form = format!("token={TOKEN}&to=%2Fsources%2Fapp");
    let entered = served.post("/login", "sec-fetch-site: same-origin\r\n", &form).await;
    assert_eq!((entered.status(), entered.header("location")), ("303", Some("/sources/app")));
    let cookie = entered.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let cookie = format!("cookie: {cookie}\r\n");
    let page = served.get_with("/sources/app", &cookie).await;
    assert!(page.status() == "200" && page.body.contains("Sign out"), "{}", page.body);
    assert_eq!(served.post("/logout", &cookie, "").await.status(), "303");
    assert_eq!(served.get_with("/sources/app", &cookie).await.status(), "401");
    let away = served.post("/login", "", &format!("token={TOKEN}&to=//evil.example")).await;
    assert_eq!(away.header("location"), Some("/"));
    assert_eq!(served.post("/login", "", &"x".repeat(20_000)).await.status(), "400");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_answer_is_shown_as_that() {
    let chain = Chain::of(1);
    let store = FaultyStore::scripted(store_of(&chain).await, vec![Rule::always(Fault::Deny)]);
    let served = Served::start(Arc::new(store), chain.trusted(), Access::Everybody).await;
    let sources = served.get("/").await;
    assert_eq!(sources.status(), "503");
    assert!(sources.body.contains("The repository cannot be read"), "{}", sources.body);
    assert!(sources.body.contains("unknown") && !sources.body.contains(">protected"), "{}", sources.body);
    for path in ["/sources/app", "/sources/app/audit", &page_of(&chain.reports[0].2)] {
        let answer = served.get(path).await;
        assert_eq!(answer.status(), "503", "{path}");
        assert!(answer.body.contains("cannot be read"), "{path}: {}", answer.body);
        assert!(!answer.body.contains("There is no backup"), "{path}: {}", answer.body);
    }
    served.stop().await;
}
