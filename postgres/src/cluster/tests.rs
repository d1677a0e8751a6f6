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
        loopback_password: Some(SecretString::from("a:b\\c")),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(Path::new(BIN), options).await.unwrap();
    let session = cluster.loopback_spec().unwrap().connect().await.unwrap();
    let row =
        session.query_one("select current_setting('server_encoding'), inet_server_port() is not null", &[]);
    let row = row.await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("LATIN1", true));
    let wrong = cluster.loopback_spec().unwrap().with_account("postgres", Some(SecretString::from("no")));
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
    let reaches = async |cut_network| {
        let options = ClusterOptions { cut_network, ..ClusterOptions::default() };
        let cluster = Cluster::start(Path::new(BIN), options).await.unwrap();
        let session = cluster.spec().connect().await.unwrap();
        let program = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached");
        let statement =
            format!("CREATE TEMP TABLE answer (line text); COPY answer FROM PROGRAM $$bash -c '{program}'$$");
        let reached = session.batch_execute(&statement).await;
        let (network, data) = (cluster.network().clone(), cluster.data_directory());
        cluster.stop().await.unwrap();
        assert!(!anything_runs_in(&data));
        (reached.map_err(|error| error.as_db_error().unwrap().to_string()), network)
    };
    let (reached, network) = reaches(false).await;
    assert_eq!((reached, network), (Ok(()), Network::Shared));
    match reaches(true).await {
        (Err(refused), Network::Cut) => assert!(refused.contains("failed"), "{refused}"),
        // A machine that does not allow it is told apart; it is never claimed.
        (Ok(()), Network::NotCut { reason }) => assert!(!reason.is_empty()),
        other => panic!("{other:?}"),
    }
}

fn anything_runs_in(data: &Path) -> bool {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(data)))
}
