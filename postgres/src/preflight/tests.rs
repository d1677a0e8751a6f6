use super::*;
use crate::cluster::{Cluster, ClusterOptions};
use crate::snapshot::ExportedSnapshot;
use std::path::Path;

const BIN: &str = "/usr/lib/postgresql/15/bin";

async fn look(cluster: &Cluster, role: &str) -> Preflight {
    let snapshot = ExportedSnapshot::open(&cluster.spec().with_account(role, None)).await.unwrap();
    let facts = snapshot.facts();
    Preflight::run(snapshot.session(), facts, facts.snapshot_at).await.unwrap()
}

#[tokio::test]
async fn everything_that_the_role_cannot_read_is_named() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let admin = cluster.spec().connect().await.unwrap();
    let sql = "
        CREATE ROLE poor LOGIN; CREATE ROLE rich LOGIN IN ROLE pg_read_all_data;
        CREATE ROLE all_seeing LOGIN BYPASSRLS IN ROLE pg_read_all_data;
        CREATE TABLE public.open (n int); GRANT SELECT ON public.open TO poor;
        CREATE TABLE public.shut (n int); CREATE SEQUENCE public.counter;
        CREATE SCHEMA hidden; CREATE TABLE hidden.t (n int); GRANT SELECT ON hidden.t TO poor;
        CREATE TABLE public.guarded (n int); ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY;
        GRANT SELECT ON public.guarded TO poor;
        SELECT lo_create(4711); SELECT lo_create(4712); GRANT SELECT ON LARGE OBJECT 4712 TO poor";
    admin.batch_execute(sql).await.unwrap();
    let row_security =
        "table public.guarded has row security, and the role lacks BYPASSRLS: it would see only some rows";
    let poor = look(&cluster, "poor").await;
    assert_eq!(
        poor.problems,
        [
            "table hidden.t cannot be read: the role lacks USAGE on its schema",
            "sequence public.counter cannot be read: the role lacks SELECT on it",
            "table public.shut cannot be read: the role lacks SELECT on it",
            "large object 4711 cannot be read by the role",
            row_security,
        ]
    );
    assert_eq!(poor.warnings, Vec::<String>::new());
    let rich = look(&cluster, "rich").await;
    let objects =
        ["large object 4711 cannot be read by the role", "large object 4712 cannot be read by the role"];
    assert_eq!(rich.problems, [objects[0], objects[1], row_security]);
    assert_eq!(look(&cluster, "all_seeing").await.problems, objects);
    assert!(look(&cluster, "postgres").await.is_clear());
    cluster.stop().await.unwrap();
}

#[test]
fn clocks_that_differ_are_told() {
    let mut found = Preflight::default();
    found.warn_of_skew(SignedDuration::from_secs(29));
    assert!(found.warnings.is_empty());
    found.warn_of_skew(SignedDuration::from_secs(-90));
    assert_eq!(found.warnings, ["the server's clock is 90 s behind this machine's"]);
}
