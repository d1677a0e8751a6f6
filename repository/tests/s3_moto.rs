//! The S3 store against moto, a server of another make, which does what the one in this process cannot: versioned
//! buckets, and lists of uploads that nobody completed.
//!
//! moto checks neither secrets nor checksums, so nothing here is evidence for those.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use pgproof_policies::locks::{Due, Locks};
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{LockMode, Policy};
use pgproof_policies::retention::{self, Class};
use pgproof_repository::doctor::has_failed;
use pgproof_repository::doctor::store::powers::Powers;
use pgproof_repository::doctor::store::{Left, Probe, Replacing, Role, Subject, TriedBucket, verdicts};
use pgproof_repository::ids::{BackupId, ObjectKey};
use pgproof_repository::lease::Lease;
use pgproof_repository::pins::Pin;
use pgproof_repository::prune::{Extension, LockPlan, Locked, Pruner};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::conditions::Conditions;
use pgproof_repository::store::s3::{Deleted, S3Settings, S3Store};
use pgproof_repository::store::{Lock, PutCondition, SharedStore, Store, conformance};
use pgproof_repository::{catalog, layout, manifest, prune};
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "backups";
/// Made with Object Lock, and so with versions.
const LOCKED: &str = "locked";
/// moto is a Python program: its start takes a second or two, and more on a machine under load.
const START: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_s3_store_conforms_on_moto() {
    let server = Moto::start();
    conformance::run_all(&server.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_s3_store_conforms_in_a_versioned_bucket() {
    let server = Moto::start();
    server.put(
        &format!("/{BUCKET}?versioning"),
        "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    );
    let store = server.connect().await;
    conformance::objects_are_put_once(&store).await.unwrap();
    conformance::one_of_many_writers_wins(&store).await.unwrap();
    conformance::versions_guard_replacement(&store).await.unwrap();
    conformance::bodies_come_back_whole_and_in_ranges(&store).await.unwrap();
    conformance::what_is_missing_is_not_found(&store).await.unwrap();
    conformance::lists_are_complete_and_in_order(&store).await.unwrap();
    conformance::folders_are_those_with_objects(&store).await.unwrap();
    conformance::uploads_appear_whole(&store).await.unwrap();
    conformance::uploads_do_not_overwrite(&store).await.unwrap();
    conformance::aborted_uploads_leave_nothing(&store).await.unwrap();
    conformance::pending_uploads_are_found(&store).await.unwrap();
    // moto still shows the folder of an object of which only a delete marker is left; S3 does not. Once moto learns that,
    // all checks can be run here, too.
    let broken = conformance::deleting_is_repeatable(&store).await.unwrap_err();
    assert_eq!(broken.why, "a folder without objects is shown");
}

/// What `pgproof backup` and `prune` do first: the next process finds the upload of one that died by asking the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn uploads_of_a_dead_process_are_found_and_aborted() {
    let server = Moto::start();
    let source: SourceName = "app".parse().unwrap();
    let dead = BackupId::new("2026-11-24T01:30:00Z".parse().unwrap(), &mut rand::rng());
    let alive = BackupId::new("2026-11-25T01:30:00Z".parse().unwrap(), &mut rand::rng());
    let before = server.connect().await;
    for id in [&dead, &alive] {
        let key = layout::backup_object(&source, id, &layout::archive_name(0)).unwrap();
        let upload = before.start_upload(&key).await.unwrap();
        upload.put_part(1, Bytes::from_static(b"half an archive")).await.unwrap();
    }
    let whole = layout::backup_object(&source, &dead, layout::GLOBALS).unwrap();
    before.put(&whole, Bytes::from_static(b"globals"), PutCondition::IfAbsent).await.unwrap();
    drop(before);

    let after = server.connect().await;
    let aborted = prune::abort_uploads(&after, &source, |id| *id == dead).await;
    assert_eq!((aborted.count, aborted.failures.len()), (1, 0));
    let left = after.list_uploads(&layout::backups(&source)).await.unwrap();
    let left: Vec<&str> = left.iter().map(|upload| upload.key.as_str()).collect();
    assert!(left.len() == 1 && left[0].contains(&alive.to_string()), "{left:?}");
    after.head(&whole).await.expect("objects stay");

    let none = prune::abort_uploads(&after, &"other".parse().unwrap(), |_| true).await;
    assert_eq!(none.count, 0);
    assert_eq!(prune::abort_uploads(&after, &source, |_| true).await.count, 1);
    assert!(after.list_uploads(&layout::backups(&source)).await.unwrap().is_empty());
}

/// Nothing goes before its time; then all of it goes, or stays behind markers as the policy says.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn locked_backups_are_put_off_and_go_when_their_time_is_over() {
    /// moto counts in whole seconds; the first prune is done long before.
    const RETAIN: SignedDuration = SignedDuration::from_secs(8);
    let server = Moto::start();
    let with_lock = "x-amz-bucket-object-lock-enabled: true\r\n";
    server.request("PUT", &format!("/{LOCKED}"), with_lock, "");
    let source: SourceName = "app".parse().unwrap();
    let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
    let signers = TrustedSigners::parse(&format!("host {}\n", key.public_line())).unwrap();
    let locks = Some(Locks::fixed(LockMode::Compliance, RETAIN));
    let settings =
        |delete_versions| S3Settings { locks: locks.clone(), delete_versions, ..server.settings(LOCKED) };
    let stores = [connected(settings(false)).await, connected(settings(true)).await];
    for (store, hour) in stores.iter().zip(["02", "03"]) {
        let id: BackupId = format!("20261124T{hour}0000Z-aaaaaa").parse().unwrap();
        put_backup(store, &source, &id, &key).await;
        // moto forgets the lock of an object that was uploaded in parts; that it is asked for is tried below.
        for fixed in [layout::manifest(&source, &id), layout::manifest_signature(&source, &id)] {
            let found = store.lock(&fixed).await.unwrap();
            assert!(matches!(found, Some(Lock::Until(at)) if at > Timestamp::now()), "{fixed}: {found:?}");
        }
    }
    // Leases and pins change, so nothing may keep them.
    let pinned = "20261124T020000Z-aaaaaa".parse().unwrap();
    let pin = Pin::set(stores[0].clone(), &source, &pinned, Timestamp::now()).await.unwrap();
    pin.release().await;
    let lease = Lease::take(stores[0].clone(), layout::prune_lease(&source), Timestamp::now()).await.unwrap();
    assert_eq!(stores[0].lock(&layout::prune_lease(&source)).await.unwrap(), None);
    lease.release().await.unwrap();

    let briefs = catalog::survey(&stores[0], &source, &signers).await.unwrap();
    let pruner = |store| Pruner {
        store,
        source: &source,
        signing_key: &key,
        signers: &signers,
        host: "here",
        cancel: CancellationToken::new(),
    };
    for (store, brief) in stores.iter().zip(&briefs) {
        let early = pruner(store).carry_out(&[brief], &[], Timestamp::now()).await;
        assert_eq!((early.removed.len(), early.failures.len()), (0, 0), "{early:?}");
        assert!(early.put_off[0].why.to_string().starts_with("locked until "), "{early:?}");
    }
    for (store, brief) in stores.iter().zip(&briefs) {
        let deadline = Instant::now() + START;
        let removed = loop {
            let outcome = pruner(store).carry_out(&[brief], &[], Timestamp::now()).await;
            assert!(outcome.failures.is_empty(), "{outcome:?}");
            if !outcome.removed.is_empty() || Instant::now() > deadline {
                break outcome.removed;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        assert_eq!(removed.iter().collect::<Vec<_>>(), [&brief.id]);
    }
    assert!(stores[0].left_versions() && !stores[1].left_versions());
    let left = server.request("GET", &format!("/{LOCKED}?versions&prefix=team/pgproof/app/backups/"), "", "");
    assert!(left.contains("20261124T020000Z") && left.contains("<DeleteMarker>"), "{left}");
    assert!(!left.contains("20261124T030000Z"), "{left}");
}

/// At its upload a backup gets the daily rule's lock; once its month is over, prune makes that the monthly one's, for every
/// object, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn locks_by_class_are_made_longer_when_the_month_is_known() {
    const POLICY: &str = "[repository]\nlocation = \"s3://locked/team/pgproof\"\n\
        object_lock = { mode = \"compliance\", retain = \"by class\", otherwise = \"2d\" }\n[keys]\n\
        recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
        single_recipient_waiver = \"a test\"\n[sources.app]\nkind = \"postgres\"\n\
        connection = \"postgresql:///app\"\nretention = { daily = 60, monthly = 12 }\n";
    let policy = Policy::parse(POLICY, "pgproof.toml").unwrap();
    let locks = Locks::of(&policy).unwrap();
    let server = Moto::start();
    server.request("PUT", &format!("/{LOCKED}"), "x-amz-bucket-object-lock-enabled: true\r\n", "");
    let settings = S3Settings { locks: Some(locks.clone()), ..server.settings(LOCKED) };
    let store = connected(settings).await;
    let source: SourceName = "app".parse().unwrap();
    let key = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
    let signers = TrustedSigners::parse(&format!("host {}\n", key.public_line())).unwrap();
    // The month of 40 days ago is over, whatever day it is.
    let now = Timestamp::now();
    let ago = |days: i64| BackupId::new(now - SignedDuration::from_hours(24 * days), &mut rand::rng());
    let ids = [ago(40), ago(0)];
    let midnight = |at: Timestamp| at.to_zoned(TimeZone::UTC).start_of_day().unwrap();
    for id in &ids {
        put_backup(&store, &source, id, &key).await;
        let until = midnight(id.started_at()).checked_add(60.days()).unwrap().timestamp();
        for fixed in [layout::manifest(&source, id), layout::manifest_signature(&source, id)] {
            assert_eq!(store.lock(&fixed).await.unwrap(), Some(Lock::Until(until)), "{fixed}");
        }
    }
    let briefs = catalog::survey(&store, &source, &signers).await.unwrap();
    let rules = &policy.sources[&source].retention;
    let candidates = prune::candidates(&briefs, &BTreeMap::new(), now);
    let plan = retention::plan(&candidates, rules, &TimeZone::UTC, now);
    let lock_plan = LockPlan::of(&store, &source, &plan, &candidates, &locks, now).await.unwrap();
    let month = midnight(ids[0].started_at()).first_of_month().unwrap().checked_add(12.months()).unwrap();
    let due = Due { until: month.timestamp(), class: Some(Class::Monthly) };
    assert_eq!(lock_plan.extensions, [Extension { id: ids[0].clone(), due }]);
    assert_eq!(lock_plan.found.len(), 2);

    let pruner = Pruner {
        store: &store,
        source: &source,
        signing_key: &key,
        signers: &signers,
        host: "here",
        cancel: CancellationToken::new(),
    };
    let (extended, failures) = pruner.extend_locks(&lock_plan.extensions).await;
    assert_eq!((extended.len(), failures.len()), (1, 0), "{failures:?}");
    let locked = Locked::of(&store, &source, &ids[0]).await.unwrap();
    assert_eq!(locked, Locked::By(Lock::Until(due.until)), "each of its objects, the archive too");
    let again = LockPlan::of(&store, &source, &plan, &candidates, &locks, now).await.unwrap();
    assert_eq!(again.extensions, []);
}

/// A server that answers every request with the start of an upload, and keeps what it was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_an_upload_in_parts_is_asked_for_at_its_start() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, heads) = mpsc::channel();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let lines = BufReader::new(socket.try_clone().expect("a socket")).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            // Whoever asked may have ended.
            let _ = asked.send(head.join("\n").to_ascii_lowercase());
            let body =
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = socket.write_all(answer.as_bytes());
        }
    });
    let retain = SignedDuration::from_hours(24);
    let settings = S3Settings {
        endpoint: Some(format!("http://{address}")),
        region: Some("us-east-1".to_owned()),
        path_style: true,
        locks: Some(Locks::fixed(LockMode::Governance, retain)),
        ..S3Settings::new(LOCKED, "team/pgproof")
    };
    let store = connected(settings).await;
    let id: BackupId = "20261124T020000Z-aaaaaa".parse().unwrap();
    store.start_upload(&archive_of(&"app".parse().unwrap(), &id)).await.unwrap();
    let head = heads.recv_timeout(START).expect("a request");
    assert!(head.contains("x-amz-object-lock-mode: governance"), "{head}");
    let until = head.lines().find_map(|line| line.strip_prefix("x-amz-object-lock-retain-until-date: "));
    let until: Timestamp = until.expect("a time").to_ascii_uppercase().parse().unwrap();
    let asked_for = until.duration_since(Timestamp::now());
    assert!(asked_for <= retain && asked_for > retain - SignedDuration::from_mins(5), "{asked_for}");
}

/// What a versioned bucket keeps of the trials goes as well, and nothing of the repository does.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn doctor_finds_a_versioned_bucket_well_and_leaves_no_version() {
    let server = Moto::start();
    let with_lock = "x-amz-bucket-object-lock-enabled: true\r\n";
    server.request("PUT", &format!("/{LOCKED}"), with_lock, "");
    let settings = server.settings(LOCKED);
    let with_keys = async |settings| S3Store::connect_with_keys(settings, "any", &"any".into()).await;
    let bucket = TriedBucket::connect_by(settings, with_keys).await.unwrap();
    let subject = Subject::of_bucket(bucket, Role::Agent, vec!["app".parse().unwrap()], Timestamp::now());
    let key = "app/backups/object".parse().unwrap();
    subject.store.put(&key, Bytes::from_static(b"stays"), PutCondition::IfAbsent).await.unwrap();

    let found = subject.examine().await;
    let bucket = found.bucket.as_ref().unwrap();
    // moto words its answer about versions otherwise than S3, and it cannot be read; that is no news.
    assert_eq!(bucket.is_lockable, Probe::Found(true));
    assert_eq!(bucket.stale_upload_rule, Probe::Found(None));
    assert_eq!((&found.put_if_absent, &found.complete_if_absent), (&Probe::Found(true), &Probe::Found(true)));
    assert_eq!(found.replace, Probe::Found(Replacing::Honoured));
    assert_eq!(found.rights[0].1.delete_backups, Probe::Found(Deleted::Nothing));
    let expected = verdicts::Expected {
        profile: None,
        is_named: false,
        conditions: Conditions::HONOURED,
        object_lock: None,
        powers: &Powers::S3,
        role: Role::Agent,
    };
    let lines = verdicts::judge(&found, &expected);
    assert!(!has_failed(&lines), "{lines:#?}");
    assert_eq!(subject.traces.remove(Timestamp::now()).await, Left::Nothing);
    let versions = server.request("GET", &format!("/{LOCKED}?versions"), "", "");
    assert!(versions.contains("app/backups/object"), "{versions}");
    assert!(!versions.contains("doctor"), "{versions}");
    assert!(!server.request("GET", &format!("/{LOCKED}?uploads"), "", "").contains("doctor"));
}

async fn connected(settings: S3Settings) -> SharedStore {
    Arc::new(S3Store::connect_with_keys(settings, "any", &"any".into()).await.unwrap())
}

fn archive_of(source: &SourceName, id: &BackupId) -> ObjectKey {
    layout::backup_object(source, id, &layout::archive_name(0)).unwrap()
}

/// An archive in parts and a signed manifest.
async fn put_backup(store: &SharedStore, source: &SourceName, id: &BackupId, key: &SigningKey) {
    let upload = store.start_upload(&archive_of(source, id)).await.unwrap();
    let part = upload.put_part(1, Bytes::from_static(b"an archive")).await.unwrap();
    upload.complete(vec![part]).await.unwrap();
    let mut made = manifest::parse(include_bytes!("../fixtures/manifest.v1.json")).unwrap();
    made.id = id.clone();
    (made.started_at, made.finished_at, made.snapshot.at) =
        (id.started_at(), id.started_at(), id.started_at());
    let bytes = made.to_bytes();
    let signature = key.sign(manifest::NAMESPACE, &bytes).unwrap();
    for (place, body) in [
        (layout::manifest_signature(source, id), signature.into_bytes()),
        (layout::manifest(source, id), bytes),
    ] {
        store.put(&place, Bytes::from(body), PutCondition::IfAbsent).await.unwrap();
    }
}

/// The server, on a port of its own choice; it ends when dropped, and with the test however that ends.
struct Moto {
    process: Child,
    address: SocketAddr,
}

impl Moto {
    fn start() -> Self {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/testbed/moto/bin");
        let program = programs.join("moto_server");
        assert!(program.exists(), "{} is missing: run tests/run --setup-only", program.display());
        let mut command = Command::new("setpriv");
        // Its first line names the folder that it was installed in, which may have been moved since.
        command.args(["--pdeathsig", "KILL", "--"]).arg(programs.join("python3")).arg(program).args([
            "-H",
            "127.0.0.1",
            "-p",
            "0",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("setpriv");
        let (told, address) = mpsc::channel();
        let lines = BufReader::new(process.stderr.take().expect("a pipe")).lines();
        // Read to its end: a full pipe would stop the server.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    // Whoever waited may have given up.
                    let _ = told.send(address.trim().to_owned());
                }
            }
        });
        let address = address.recv_timeout(START).expect("moto starts");
        let server = Self { process, address: address.parse().expect("an address") };
        server.put(&format!("/{BUCKET}"), "");
        server
    }

    async fn connect(&self) -> S3Store {
        S3Store::connect_with_keys(self.settings(BUCKET), "any", &"any".into()).await.unwrap()
    }

    fn settings(&self, bucket: &str) -> S3Settings {
        S3Settings {
            endpoint: Some(format!("http://{}", self.address)),
            region: Some("us-east-1".to_owned()),
            path_style: true,
            ..S3Settings::new(bucket, "team/pgproof")
        }
    }

    fn put(&self, target: &str, body: &str) {
        self.request("PUT", target, "", body);
    }

    /// A request that the store never makes; moto takes it unsigned. `headers` each end with a line break.
    fn request(&self, method: &str, target: &str, headers: &str, body: &str) -> String {
        let mut socket = TcpStream::connect(self.address).expect("moto");
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes())).expect("moto");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("moto");
        assert!(answer.split_whitespace().nth(1) == Some("200"), "{answer}");
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself, which its clients have noticed then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
