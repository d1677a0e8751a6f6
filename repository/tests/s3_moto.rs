//! The S3 store against moto, a server of another make, which does what the one in this process cannot: versioned
//! buckets, and lists of uploads that nobody completed.
//!
//! moto checks neither secrets nor checksums, so nothing here is evidence for those.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use pgproof_policies::names::SourceName;
use pgproof_repository::ids::BackupId;
use pgproof_repository::store::s3::{S3Settings, S3Store};
use pgproof_repository::store::{PutCondition, Store, conformance};
use pgproof_repository::{layout, prune};

const BUCKET: &str = "backups";
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

/// The server, on a port of its own choice; it ends when dropped, and with the test however that ends.
struct Moto {
    process: Child,
    address: SocketAddr,
}

impl Moto {
    fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/testbed/moto/bin/moto_server");
        assert!(program.exists(), "{} is missing: run tests/run --setup-only", program.display());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(["-H", "127.0.0.1", "-p", "0"]);
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
        let settings = S3Settings {
            endpoint: Some(format!("http://{}", self.address)),
            region: Some("us-east-1".to_owned()),
            path_style: true,
            ..S3Settings::new(BUCKET, "team/pgproof")
        };
        S3Store::connect_with_keys(settings, "any", &"any".into()).await.unwrap()
    }

    /// A request that the store never makes; moto takes it unsigned.
    fn put(&self, target: &str, body: &str) {
        let mut socket = TcpStream::connect(self.address).expect("moto");
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes())).expect("moto");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("moto");
        assert!(answer.split_whitespace().nth(1) == Some("200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself, which its clients have noticed then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
