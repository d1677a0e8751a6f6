use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;

use secrecy::SecretString;
use tokio_postgres::error::SqlState;

use super::*;

const BIN: &str = "/usr/lib/postgresql/15/bin";

#[tokio::test]
async fn a_cluster_answers_and_leaves_nothing_behind() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let session = cluster.spec().connect().await.unwrap();
    let row = session.query_one(
        "select current_user::text, current_setting('listen_addresses'), pg_is_in_recovery()",
        &[],
    );
    let row = row.await.unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, bool>(2)),
        ("postgres", "", false)
    );
    for (name, value) in [("TimeZone", "UTC"), ("search_path", ""), ("extra_float_digits", "3")] {
        let row = session.query_one("select pg_catalog.current_setting($1)", &[&name]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{name}");
    }
    let directory = cluster.directory().to_owned();
    let data = cluster.data_directory();
    assert!(directory.exists());
    cluster.stop().await.unwrap();
    assert!(!directory.exists());
    assert!(!anything_runs_in(&data));
}

#[tokio::test]
async fn dropping_is_enough_and_other_encodings_and_settings_are_had() {
    let options = ClusterOptions {
        encoding: "LATIN1".to_owned(),
        settings: vec![("application_name".to_owned(), "it's \\ here".to_owned())],
        ..ClusterOptions::default()
    };
    let (cluster, loopback) =
        Cluster::on_loopback(Path::new(BIN), options, &SecretString::from("a:b\\c")).await;
    let session = loopback.connect().await.unwrap();
    let row =
        session.query_one("select current_setting('server_encoding'), inet_server_port() is not null", &[]);
    let row = row.await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("LATIN1", true));
    let wrong = loopback.with_account("postgres", Some(SecretString::from("no")));
    let refused = wrong.connect().await.unwrap_err();
    assert!(refused.hint().is_some(), "{refused:?}");
    let (directory, data) = (cluster.directory().to_owned(), cluster.data_directory());
    drop(cluster);
    assert!(!directory.exists());
    assert!(!anything_runs_in(&data));
}

#[tokio::test]
async fn what_a_killed_process_left_is_swept_and_what_lives_is_not() {
    let alive = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let mut orphan = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    // As if its maker had been killed: the server runs on, under a directory that names a process long gone.
    let kept = orphan.directory.kept.take().unwrap().abandon();
    let renamed = kept.with_file_name(format!("{DIRECTORY_KIND}-4194999-17-orphan{}", std::process::id()));
    fs::rename(&kept, &renamed).unwrap();
    assert!(anything_runs_in(&renamed.join("data")));
    let swept = tokio::task::spawn_blocking(|| sweep_abandoned(None)).await.unwrap().unwrap();
    assert!(swept.contains(&renamed), "{swept:?}");
    assert!(!renamed.exists() && !anything_runs_in(&renamed.join("data")));
    alive.spec().connect().await.unwrap();
    alive.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let settings = vec![("shared_buffers".to_owned(), "nonsense".to_owned())];
    let options = ClusterOptions { settings, ..ClusterOptions::default() };
    let error = Cluster::start(Path::new(BIN), options).await.unwrap_err();
    assert!(error.to_string().contains("shared_buffers"), "{error}");
    let missing = Cluster::start(Path::new("/nowhere/bin"), ClusterOptions::default()).await.unwrap_err();
    assert!(missing.to_string().contains("/nowhere/bin/initdb"), "{missing}");
}

#[tokio::test]
async fn a_server_whose_network_is_cut_connects_to_nobody() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let reaches = async |isolated| {
        let options = ClusterOptions { isolated, ..ClusterOptions::default() };
        let cluster = Cluster::start(Path::new(BIN), options).await.unwrap();
        let session = cluster.spec().connect().await.unwrap();
        let program = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached");
        let statement =
            format!("CREATE TEMP TABLE answer (line text); COPY answer FROM PROGRAM $$bash -c '{program}'$$");
        let reached = session.batch_execute(&statement).await;
        let (network, data) = (cluster.isolation().network.clone(), cluster.data_directory());
        cluster.stop().await.unwrap();
        assert!(!anything_runs_in(&data));
        (reached.map_err(|error| error.as_db_error().unwrap().to_string()), network)
    };
    let (reached, network) = reaches(false).await;
    assert_eq!((reached, network), (Ok(()), Network::Shared));
    match reaches(true).await {
        (Err(refused), Network::Cut) => assert!(refused.contains("failed"), "{refused}"),
        // A machine that does not allow it is told apart; it is never claimed, though TCP may be closed all the same.
        (_, Network::NotCut { reason }) => assert!(!reason.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_confined_reaches_its_own_files_and_nobody_elses() {
    let beside = tempfile::Builder::new().prefix("pgproof-beside.").tempdir_in(ROOT).unwrap();
    let secret = beside.path().join("identity.txt");
    fs::write(&secret, "AGE-SECRET-KEY").unwrap();
    fs::set_permissions(beside.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let other = OtherProcess::start();
    let of_other = |what: &str| format!("/proc/{}/{what}", other.0.id());
    let programs = [
        format!("cat {}", secret.display()),
        format!("echo 1 > {}", beside.path().join("new").display()),
        // Its content has bytes that no text takes.
        format!("cat {} > /dev/null", of_other("environ")),
        format!("kill -0 {}", other.0.id()),
    ];
    let reaches = async |isolated| {
        let options = ClusterOptions { isolated, ..ClusterOptions::default() };
        let cluster = Cluster::start(Path::new(BIN), options).await.unwrap();
        let session = cluster.spec().connect().await.unwrap();
        session.batch_execute("CREATE TABLE public.said (line text)").await.unwrap();
        let mut reached = Vec::new();
        for program in &programs {
            let sent = session
                .batch_execute(&format!("COPY public.said FROM PROGRAM '{program}' (FORMAT csv)"))
                .await;
            reached.push(sent.is_ok());
        }
        let read = session.batch_execute(&format!("SELECT pg_read_file('{}')", secret.display())).await;
        let code = read.err().map(|error| error.code().cloned());
        // All of a server's own life goes on.
        let own = "CREATE TABLE public.t AS SELECT n FROM generate_series(1, 1000) n; CREATE DATABASE another; CHECKPOINT; \
                   COPY public.t TO PROGRAM 'cat > written'; COPY public.t FROM PROGRAM 'cat written'; DROP DATABASE another";
        for statement in own.split(';') {
            session.batch_execute(statement).await.unwrap();
        }
        let files = cluster.isolation().files.clone();
        cluster.stop().await.unwrap();
        (reached, code, files)
    };
    let (reached, code, files) = reaches(false).await;
    assert_eq!((reached, code, files), (vec![true; programs.len()], None, Files::Shared));
    match reaches(true).await {
        (reached, code, Files::Confined) => {
            assert_eq!(code, Some(Some(SqlState::INSUFFICIENT_PRIVILEGE)));
            // Signals are kept in by newer kernels alone.
            let signals = reached[3] && keeps_signals_in();
            assert_eq!((&reached[..3], signals), (&[false; 3][..], false), "{programs:?}");
        }
        // A machine that does not allow it is told apart; it is never claimed.
        (_, None, Files::NotConfined { reason }) => assert!(!reason.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn parallel_queries_share_memory_in_the_servers_own_folder() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let session = cluster.spec().connect().await.unwrap();
    let row = session.query_one("SHOW dynamic_shared_memory_type", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "mmap");
}

#[tokio::test]
async fn no_link_of_the_servers_account_is_followed() {
    let directory = Directory::create(None).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join(OWN_SETTINGS), "whole").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), directory.data()).unwrap();
    configure(&directory, &ClusterOptions::default()).unwrap_err();
    fs::remove_file(directory.data()).unwrap();
    fs::create_dir(directory.data()).unwrap();
    for link in [directory.data().join(OWN_SETTINGS), directory.log()] {
        std::os::unix::fs::symlink(elsewhere.path().join(OWN_SETTINGS), link).unwrap();
    }
    configure(&directory, &ClusterOptions::default()).unwrap_err();
    assert_eq!(directory.log_tail(), "");
    assert_eq!(fs::read_to_string(elsewhere.path().join(OWN_SETTINGS)).unwrap(), "whole");
}

/// A process of the account that servers run under, which ends with its standard input.
struct OtherProcess(Child);

impl OtherProcess {
    fn start() -> Self {
        let mut command = command(Path::new("cat"), account(None).unwrap(), Path::new(ROOT));
        Self(command.stdin(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// From Linux 6.12 on.
fn keeps_signals_in() -> bool {
    let version = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

fn anything_runs_in(data: &Path) -> bool {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(data)))
}
