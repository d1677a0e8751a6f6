use super::*;
use crate::cluster::{Cluster, ClusterOptions};
use std::path::Path;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const SHOP: &str = "
    CREATE TYPE public.state AS ENUM ('new', 'paid');
    CREATE DOMAIN public.positive AS int CHECK (value > 0);
    CREATE TABLE public.customers (id int PRIMARY KEY, status varchar(10) CHECK (status IN ('a', 'b')));
    CREATE TABLE public.orders (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES public.customers, state public.state,
        amount numeric DEFAULT 1.50 NOT NULL, quantity public.positive);
    CREATE INDEX orders_by_state ON public.orders (state) WHERE amount > 10;
    CREATE VIEW public.large AS SELECT id FROM public.orders WHERE amount > 1000;
    CREATE MATERIALIZED VIEW public.totals AS SELECT sum(amount) FROM public.orders WITH NO DATA;
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
    CREATE TRIGGER noted AFTER INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.note();
    ALTER TABLE public.orders ADD CONSTRAINT sane CHECK (amount < 1000000) NOT VALID;
    CREATE POLICY own ON public.orders USING (customer > 0);
    CREATE STATISTICS public.correlated ON customer, state FROM public.orders;
    CREATE PUBLICATION part FOR TABLE public.orders (id, customer) WHERE (id > 5);
    CREATE SEQUENCE public.numbers INCREMENT 5";

async fn read_of(session: &Session) -> Structure {
    session.batch_execute("BEGIN").await.unwrap();
    let structure = read(session).await.unwrap();
    // The transaction goes on, with its own settings.
    let row = session.query_one("SELECT current_setting('statement_timeout')", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "0");
    session.batch_execute("COMMIT").await.unwrap();
    structure
}

/// As servers of today do it themselves; those before them are made to.
#[tokio::test]
async fn a_servers_own_mark_of_a_column_in_a_cluster_is_no_difference() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let session = cluster.spec().connect().await.unwrap();
    session.batch_execute("CREATE TABLE public.orders (id int)").await.unwrap();
    let marked = async |options: &str| {
        let mark = format!(
            "SET allow_system_table_mods = on; UPDATE pg_attribute SET attoptions = '{{{options}}}' \
              WHERE attrelid = 'public.orders'::regclass AND attname = 'id'"
        );
        session.batch_execute(&mark).await.unwrap();
        read_of(&session).await
    };
    let before = marked("pg_attver=26489192,n_distinct=5").await;
    assert!(differences(&before, &marked("n_distinct=5,pg_attver=38215176").await).is_empty());
    assert!(differences(&before, &marked("n_distinct=5").await).is_empty());
    assert!(!differences(&before, &marked("n_distinct=6,pg_attver=26489192").await).is_empty());
}

#[tokio::test]
async fn a_structure_in_a_cluster_notices_every_loss() {
    let cluster = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let session = cluster.spec().connect().await.unwrap();
    session.batch_execute(SHOP).await.unwrap();
    let before = read_of(&session).await;
    assert_eq!(before.not_validated, ["sane on public.orders"]);
    assert_eq!(before.not_populated, ["public.totals"]);
    assert_eq!(before.server_major, 15);
    assert!(differences(&before, &read_of(&session).await).is_empty());

    let cases: [(&str, &str); 16] = [
        ("DROP INDEX public.orders_by_state", "missing: index public.orders_by_state"),
        (
            "ALTER TABLE public.orders DROP CONSTRAINT orders_customer_fkey",
            "missing: constraint orders_customer_fkey on public.orders",
        ),
        ("ALTER TABLE public.orders DISABLE TRIGGER noted", "differing: trigger noted on public.orders"),
        ("DROP TRIGGER noted ON public.orders", "missing: trigger noted on public.orders"),
        (
            "CREATE OR REPLACE VIEW public.large AS SELECT id FROM public.orders WHERE amount > 1001",
            "differing: view public.large",
        ),
        ("ALTER TABLE public.orders ALTER amount SET DEFAULT 1.51", "differing: column public.orders.amount"),
        ("ALTER TABLE public.orders ALTER amount DROP NOT NULL", "differing: column public.orders.amount"),
        (
            "CREATE OR REPLACE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN old; END $$",
            "differing: function public.note()",
        ),
        ("ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY", "differing: table public.orders"),
        ("ALTER POLICY own ON public.orders USING (customer > 1)", "differing: policy own on public.orders"),
        ("ALTER TYPE public.state ADD VALUE 'sent'", "differing: enum public.state"),
        (
            "ALTER DOMAIN public.positive DROP CONSTRAINT positive_check",
            "missing: constraint positive_check on public.positive",
        ),
        ("ALTER SEQUENCE public.numbers INCREMENT 1", "differing: sequence public.numbers"),
        (
            "ALTER PUBLICATION part SET TABLE public.orders (id, customer) WHERE (id > 6)",
            "differing: published table public.orders in part",
        ),
        ("DROP STATISTICS public.correlated", "missing: statistics public.correlated"),
        ("CREATE TABLE public.strange (id int)", "unexpected: table public.strange"),
    ];
    let mut last = before;
    for (change, told) in cases {
        session.batch_execute(change).await.unwrap();
        let now = read_of(&session).await;
        assert_eq!(lines(&differences(&last, &now)), [told], "{change}");
        last = now;
    }
    session.batch_execute("DROP TABLE public.customers CASCADE").await.unwrap();
    assert_eq!(lines(&differences(&last, &read_of(&session).await)), ["missing: table public.customers"]);
    cluster.stop().await.unwrap();
}

fn lines(differences: &Differences) -> Vec<String> {
    let named = |what: &'static str, names: &[String]| {
        names.iter().map(move |name| format!("{what}: {name}")).collect::<Vec<_>>()
    };
    [
        named("missing", &differences.missing),
        named("unexpected", &differences.unexpected),
        named("differing", &differences.differing),
    ]
    .concat()
}

fn object(kind: &str, name: &str, relation: u32) -> Object {
    Object { kind: kind.to_owned(), name: name.to_owned(), relation, digest: String::new() }
}

#[test]
fn what_a_dump_left_out_is_named_and_not_compared() {
    let objects = vec![
        object("table", "public.kept", 1),
        object("column", "public.kept.id", 1),
        object("table", "public.scratch", 2),
        object("column", "public.scratch.id", 2),
        object("function", "public.f()", 0),
    ];
    let mut structure = Structure { objects, ..Structure::default() };
    leave_out_all_but(&mut structure, &BTreeSet::from([1]));
    assert_eq!(structure.left_out, ["table public.scratch"]);
    assert_eq!(
        structure.objects.iter().map(told).collect::<Vec<_>>(),
        ["table public.kept", "column public.kept.id", "function public.f()"]
    );
}
