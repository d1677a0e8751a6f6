use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::cluster::{Cluster, ClusterOptions};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const PATIENCE: Duration = Duration::from_secs(30);
const KEPT: &str = "shop_before_20261124t013000z";

fn now() -> Timestamp {
    "2026-11-24T01:30:00Z".parse().unwrap()
}

/// A server with databases `shop` and `restored`, each with a table that says which it is, and a session beside them.
async fn world(settings: &[(&str, &str)], owner: &str) -> (Cluster, Session) {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = ClusterOptions { settings, ..ClusterOptions::default() };
    let cluster = Cluster::start(Path::new(BIN), options).await.unwrap();
    let session = cluster.spec().connect().await.unwrap();
    session.batch_execute("CREATE ROLE keeper LOGIN CREATEDB").await.unwrap();
    for database in ["shop", "restored"] {
        session.batch_execute(&format!("CREATE DATABASE {database} OWNER {owner}")).await.unwrap();
        let own = cluster.spec().with_database(database).connect().await.unwrap();
        own.batch_execute(&format!("CREATE TABLE public.which AS SELECT '{database}'::text AS name"))
            .await
            .unwrap();
    }
    (cluster, session)
}

/// Names of the databases, each of which lets sessions in.
async fn open_databases(cluster: &Cluster, session: &Session) -> Vec<String> {
    let query = "SELECT datname::text, datallowconn FROM pg_catalog.pg_database
                  WHERE datname NOT LIKE 'template_' AND datname <> 'postgres' ORDER BY 1";
    let mut names = Vec::new();
    for row in session.query(query, &[]).await.unwrap() {
        let (name, allowed): (String, bool) = (row.get(0), row.get(1));
        assert!(allowed, "{name} is closed");
        let own = cluster.spec().with_database(&name).connect().await.unwrap();
        own.batch_execute("SELECT 1").await.unwrap();
        names.push(name);
    }
    names
}

/// Waits until the server has such a row.
async fn until(session: &Session, row: &str) {
    let deadline = Instant::now() + PATIENCE;
    let query = format!("SELECT EXISTS (SELECT FROM pg_catalog.{row})");
    while !session.query_one(&query, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline, "never seen: {row}");
    }
}

#[test]
fn the_kept_name_fits_and_tells_when() {
    assert_eq!(kept_name("app", now()), "app_before_20261124t013000z");
    let long = kept_name(&"ä".repeat(31), now());
    assert!(long.len() <= 63 && long.ends_with("_before_20261124t013000z"), "{long}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_breaks_off_leaves_both_databases_open_and_as_they_were() {
    let (cluster, onlooker) = world(&[], "postgres").await;
    let stuck = cluster.spec().with_database("shop").connect().await.unwrap();
    let pid: i32 = stuck.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let stuck_pid = Pid::from_raw(pid).unwrap();
    kill_process(stuck_pid, Signal::STOP).unwrap();

    let maintenance = cluster.spec().clone();
    let swapping = tokio::spawn(async move { swap(&maintenance, "restored", "shop", now()).await });
    let renaming = "pg_stat_activity WHERE query LIKE 'BEGIN;%RENAME%' AND state = 'active'";
    until(&onlooker, renaming).await;
    let shop = cluster.spec().with_database("shop");
    let late = tokio::spawn(async move { shop.connect().await.map(drop) });
    until(&onlooker, "pg_locks WHERE NOT granted").await;
    let terminate = format!("SELECT pg_terminate_backend(pid) FROM pg_catalog.{renaming}");
    onlooker.batch_execute(&terminate).await.unwrap();

    let error = swapping.await.unwrap().unwrap_err();
    assert!(matches!(&error, RestoreError::NotSwapped { .. }), "{error:?}");
    let hint = error.hint().unwrap();
    assert!(hint.contains(&format!("ALTER DATABASE \"shop\" RENAME TO \"{KEPT}\"; ")), "{hint}");
    late.await.unwrap().expect("who came during the swap is let in after it");
    assert_eq!(open_databases(&cluster, &onlooker).await, ["restored", "shop"]);
    kill_process(stuck_pid, Signal::CONT).unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_great_rights_swaps_beside_autovacuum_and_clients_that_come_back_at_once() {
    // Autovacuum comes soon and stays long.
    let lazy = [
        ("autovacuum_naptime", "1s"),
        ("autovacuum_vacuum_cost_delay", "100ms"),
        ("autovacuum_vacuum_cost_limit", "1"),
        ("autovacuum_vacuum_threshold", "1"),
    ];
    let (cluster, onlooker) = world(&lazy, "keeper").await;
    let keeper = cluster.spec().with_account("keeper", None);
    let shop = keeper.with_database("shop");
    let busy = "CREATE TABLE public.busy AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 20000) i;
                DELETE FROM public.busy WHERE i % 2 = 0";
    let session = cluster.spec().with_database("shop").connect().await.unwrap();
    session.batch_execute(busy).await.unwrap();
    drop(session);
    let over = Arc::new(AtomicBool::new(false));
    let client = |spec: ConnectionSpec, over: Arc<AtomicBool>| async move {
        while !over.load(Ordering::Relaxed) {
            // A server that is gone refuses at once, and would leave no other task a turn.
            tokio::task::yield_now().await;
            if let Ok(session) = spec.connect().await {
                while !over.load(Ordering::Relaxed) && session.batch_execute("SELECT 1").await.is_ok() {}
            }
        }
    };
    let clients: Vec<_> = (0..3).map(|_| tokio::spawn(client(shop.clone(), over.clone()))).collect();
    until(&onlooker, "pg_stat_activity WHERE datname = 'shop' AND backend_type = 'client backend'").await;
    until(&onlooker, "pg_stat_activity WHERE datname = 'shop' AND backend_type = 'autovacuum worker'").await;

    let renames = swap(&keeper, "restored", "shop", now()).await.unwrap();
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(renames, Renames { current: "shop".to_owned(), kept: Some(KEPT.to_owned()) });
    assert_eq!(open_databases(&cluster, &onlooker).await, ["shop", KEPT]);
    for (name, was) in [("shop", "restored"), (KEPT, "shop")] {
        let session = cluster.spec().with_database(name).connect().await.unwrap();
        let row = session.query_one("SELECT name FROM public.which", &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), was);
    }

    let stranger = cluster.spec().with_database("shop").connect().await.unwrap();
    let error = swap(&keeper, KEPT, "shop", now() + Duration::from_secs(1)).await.unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains("those of superusers by a superuser"), "{error:?}: {hint}");
    stranger.batch_execute("SELECT 1").await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn what_became_of_a_commit_without_an_answer_is_looked_up() {
    let (cluster, session) = world(&[], "postgres").await;
    let lost = cluster.spec().connect().await.unwrap();
    let pid: i32 = lost.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let swap =
        Swap { maintenance: cluster.spec(), new: "restored", old: "shop", kept: Some(KEPT.to_owned()) };
    assert_eq!(swap.look(pid).await.unwrap(), None, "it may still commit");
    drop(lost);
    assert_eq!(swap.was_carried_out(pid).await, Some(false));
    for statement in swap.statements().split_inclusive(';') {
        session.batch_execute(statement).await.unwrap();
    }
    assert_eq!(swap.was_carried_out(pid).await, Some(true));
    cluster.stop().await.unwrap();
}
