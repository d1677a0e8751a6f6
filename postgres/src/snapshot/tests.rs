use super::*;
use crate::cluster::{Cluster, ClusterOptions};
use crate::preflight::Preflight;
use std::path::Path;

const BIN: &str = "/usr/lib/postgresql/15/bin";

#[tokio::test]
async fn a_snapshot_knows_its_database_and_is_one_moment() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let admin = cluster.spec().connect().await.unwrap();
    admin.batch_execute("CREATE DATABASE app").await.unwrap();
    admin
        .batch_execute("COMMENT ON DATABASE app IS 'the app'; ALTER DATABASE app SET work_mem = '8MB'")
        .await
        .unwrap();
    let writer = cluster.spec().with_database("app").connect().await.unwrap();
    let sql = "CREATE TABLE public.t AS SELECT generate_series(1, 10000) AS n; CREATE SEQUENCE public.s";
    writer.batch_execute(sql).await.unwrap();
    let before = Timestamp::now();
    let snapshot = ExportedSnapshot::open(&cluster.spec().with_database("app")).await.unwrap();
    writer.batch_execute("INSERT INTO public.t VALUES (0)").await.unwrap();
    let count = snapshot.session().query_one("SELECT count(*) FROM public.t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 10_000);
    let facts = snapshot.facts();
    assert!(facts.snapshot_at >= before && facts.snapshot_at <= Timestamp::now());
    assert_eq!((facts.server_version.major, facts.timeline, facts.in_recovery), (15, Some(1), false));
    assert!(facts.lsn.as_deref().is_some_and(|lsn| lsn.contains('/')));
    assert!(facts.system_identifier.is_some() && facts.sizes_measured && facts.role.superuser);
    let database = &facts.database;
    assert_eq!((database.encoding.as_str(), database.collate.as_str()), ("UTF8", "C"));
    assert_eq!((database.comment.as_deref(), database.owner.as_str()), (Some("the app"), "postgres"));
    assert_eq!(database.settings[0].assignments, ["work_mem=8MB"]);
    assert!(database.bytes.is_some_and(|bytes| bytes > 1 << 20));
    let names: Vec<_> = facts.relations.iter().map(|r| (r.name.as_str(), r.kind)).collect();
    assert_eq!(names, [("t", 'r'), ("s", 'S')]);
    assert!(facts.relations[0].bytes > 300_000);
    assert_eq!(facts.extensions[0].name, "plpgsql");
    let text = serde_json::to_string(facts).unwrap();
    assert_eq!(&serde_json::from_str::<SnapshotFacts>(&text).unwrap(), facts);
    let settings = snapshot.server_settings().await.unwrap();
    assert!(settings.iter().any(|s| s.name == "fsync" && s.value == "off"));
    snapshot.keep_alive().await.unwrap();
    snapshot.close().await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_locked_table_is_estimated_and_a_role_without_rights_still_gets_a_snapshot() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let locker = cluster.spec().connect().await.unwrap();
    let sql = "CREATE TABLE public.t (n int); CREATE ROLE reader LOGIN;
               REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public";
    locker.batch_execute(sql).await.unwrap();
    locker.batch_execute("BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let snapshot = ExportedSnapshot::open(&cluster.spec().with_account("reader", None)).await.unwrap();
    assert!(!snapshot.facts().sizes_measured);
    assert_eq!(snapshot.facts().system_identifier, None);
    assert!(!snapshot.facts().role.superuser);
    snapshot.keep_alive().await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_standby_gives_a_snapshot_too() {
    let primary = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let session = primary.spec().connect().await.unwrap();
    session.batch_execute("CREATE UNLOGGED TABLE public.fleeting (n int)").await.unwrap();
    let source = primary.spec().clone();
    let standby = tokio::task::spawn_blocking(move || Cluster::standby_of(Path::new(BIN), &source))
        .await
        .unwrap()
        .unwrap();
    let snapshot = ExportedSnapshot::open(standby.spec()).await.unwrap();
    let facts = snapshot.facts();
    assert!(facts.in_recovery && facts.lsn.is_some() && facts.system_identifier.is_some());
    let found = Preflight::run(snapshot.session(), facts, facts.snapshot_at).await.unwrap();
    assert_eq!(found.warnings.len(), 2, "{found:?}");
    assert!(found.warnings[0].contains("public.fleeting has no rows on a standby"));
    standby.stop().await.unwrap();
    primary.stop().await.unwrap();
}

#[tokio::test]
async fn a_name_of_no_encoding_has_its_hint() {
    let options = ClusterOptions { encoding: "SQL_ASCII".to_owned(), ..ClusterOptions::default() };
    let cluster = Cluster::start(Path::new(BIN), options).await.unwrap();
    let session = cluster.spec().connect().await.unwrap();
    let comment = "DO $$ BEGIN
        EXECUTE 'COMMENT ON DATABASE postgres IS ' || quote_literal(convert_from('\\xe4', 'SQL_ASCII'));
    END $$";
    session.batch_execute(comment).await.unwrap();
    let error = ExportedSnapshot::open(cluster.spec()).await.unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("SQL_ASCII")), "{error:?}");
    cluster.stop().await.unwrap();
}
