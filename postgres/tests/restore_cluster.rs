//! Backups of a real server, restored by the code that an operator runs, and compared table by table.

#[path = "support/sealed_backup.rs"]
mod sealed_backup;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pgproof_postgres::client::ClientTools;
use pgproof_postgres::cluster::{Cluster, ClusterOptions};
use pgproof_postgres::comparison::compare;
use pgproof_postgres::connection::{ConnectionSpec, Session};
use pgproof_postgres::damage::take_row;
use pgproof_postgres::restore::{Phase, Progress, Restore, RestoreError, Unwatched, swap, write_archive};
use pgproof_repository::ids::PlaintextSha256;
use pgproof_repository::inventory::Inventory;
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::counting::CountingStore;
use sealed_backup::{SealedBackup, back_up};
use tokio_util::sync::CancellationToken;

const DATABASE: &str = "app";

/// Tables of many frames, partitions, inheritance, rows longer than a frame, large objects, sequences, odd names,
/// a table without columns, generated columns, a foreign key, a view that was filled.
const SCHEMA: &str = r#"
    CREATE ROLE keeper;
    CREATE SCHEMA "odd schema";
    CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text, at timestamptz, amount float8,
                         twice float8 GENERATED ALWAYS AS (amount * 2) STORED);
    INSERT INTO orders (note, at, amount)
        SELECT repeat(md5(i::text), 1 + i % 9) || E'\t\\ \n', '2026-01-01 00:00+00'::timestamptz + i * interval '1 s', i / 7.0
          FROM generate_series(1, 60000) i;
    ALTER TABLE orders OWNER TO keeper;
    CREATE TABLE "odd schema"."t "" (x)" ("a (b" int, "c""d" text);
    INSERT INTO "odd schema"."t "" (x)" VALUES (1, E'\\.'), (2, NULL), (3, ''), (4, E'\\N');
    CREATE TABLE lines (order_id bigint REFERENCES orders, n int);
    INSERT INTO lines SELECT i, 1 FROM generate_series(1, 60000, 3) i;
    CREATE TABLE nothing ();
    INSERT INTO nothing DEFAULT VALUES;
    INSERT INTO nothing DEFAULT VALUES;
    CREATE TABLE empty (a int);
    CREATE TABLE giant (id int, body text);
    INSERT INTO giant SELECT i, repeat(chr(96 + i), 9 * 1024 * 1024) FROM generate_series(1, 3) i;
    CREATE TABLE parent (a int);
    CREATE TABLE child () INHERITS (parent);
    INSERT INTO parent VALUES (1);
    INSERT INTO child VALUES (2);
    CREATE TABLE events (id int, at date) PARTITION BY RANGE (at);
    DO $$ BEGIN
        FOR m IN 1..15 LOOP
            EXECUTE format('CREATE TABLE events_%s PARTITION OF events FOR VALUES FROM (%L) TO (%L)', m,
                '2025-01-01'::date + (m - 1) * 31, '2025-01-01'::date + m * 31);
        END LOOP;
    END $$;
    INSERT INTO events SELECT i, '2025-01-01'::date + i % 465 FROM generate_series(1, 30000) i;
    CREATE SEQUENCE counter START 41;
    SELECT nextval('counter'), nextval('counter');
    SELECT lo_from_bytea(4711, decode(repeat('ab', 700000), 'hex'));
    SELECT lo_from_bytea(4712, 'small');
    CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM orders;
    CREATE INDEX ON orders (at);
    CREATE TYPE mood AS ENUM ('sad', 'it''s "fine"');
    CREATE TABLE plain (a bool, b int2, c int4, d int8, e float4, f float8, g numeric, h numeric(12,3), i text, j varchar(40),
                        k char(6), l json, m jsonb, n date, o timestamp, p timestamptz(3), q uuid, r bytea, s mood);
    INSERT INTO plain
        SELECT i % 3 = 0, i % 32767 - 16000, i * 7919 - 2000000000, i * 1234567890123, i / 7.0, exp(i % 600 - 300.0),
               (i * 7919)::numeric / 10 ^ (i % 20), i / 3.0, E'tab\t line\n back\\slash \r\b\f\v ünïcødé ' || i, 'v' || i,
               'c' || i % 9999, json_build_object('k "', E'\n' || i), jsonb_build_object('k', i, 'ü', '\'),
               '0001-01-01'::date + i * 100, '2000-01-01'::timestamp - i * interval '1 day 1.000001 s',
               '2000-01-01 00:00+00'::timestamptz + i * interval '17.123 s', md5(i::text)::uuid, decode(md5(i::text), 'hex'),
               (ARRAY['sad', 'it''s "fine"'])[1 + i % 2]::mood
          FROM generate_series(1, 12000) i;
    INSERT INTO plain VALUES
        (NULL, -32768, -2147483648, -9223372036854775808, 'NaN', '-Infinity', 'NaN', NULL, '', '', '', '[]', 'null', 'infinity',
         '-infinity', 'infinity', NULL, '', NULL),
        (true, 32767, 2147483647, 9223372036854775807, '-0', '5e-324', '-0.00000000000000000001', 999999999.999, E'\\N', NULL, 'x',
         NULL, NULL, '9999-12-31', '9999-12-31 23:59:59.999999', '0001-01-01 00:00+00', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
         '\x00', 'sad'),
        (false, 0, 0, 0, 'Infinity', 'NaN', 1e100, 0, 'last', 'l', 'l', '1', '1', '2000-02-29', '2000-02-29', '2000-02-29 12:00+00',
         NULL, NULL, NULL);
    -- Alike but for its end, where a moment and a number have no plain form.
    CREATE TABLE nearly_plain AS SELECT c, i, p, g FROM plain;
    INSERT INTO nearly_plain VALUES (1, 'before our era', '0044-03-15 00:00+00 BC', 1), (2, 'long', NULL, ('1' || repeat('0', 1500))::numeric);
    CREATE TABLE hidden (who text);
    INSERT INTO hidden VALUES ('a'), ('b');
    ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
    ALTER TABLE hidden FORCE ROW LEVEL SECURITY;
    -- Other partitions after each restore.
    CREATE TYPE feeling AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i');
    CREATE TABLE feelings (f feeling, n int) PARTITION BY HASH (f);
    CREATE TABLE feelings_0 PARTITION OF feelings FOR VALUES WITH (MODULUS 3, REMAINDER 0);
    CREATE TABLE feelings_1 PARTITION OF feelings FOR VALUES WITH (MODULUS 3, REMAINDER 1);
    CREATE TABLE feelings_2 PARTITION OF feelings FOR VALUES WITH (MODULUS 3, REMAINDER 2);
    INSERT INTO feelings SELECT chr(97 + n % 9)::feeling, n FROM generate_series(1, 900) n;
    ALTER DATABASE app SET work_mem = '17MB';
    COMMENT ON DATABASE app IS 'it''s ours';
"#;

/// Little inside, and much that the archive does not hold.
const PROPERTIES: &str = "
    CREATE ROLE keeper; CREATE ROLE \"the clerk\"; CREATE ROLE reader;
    CREATE TABLE orders (id int);
    INSERT INTO orders SELECT generate_series(1, 10);
    ALTER DATABASE app OWNER TO keeper;
    ALTER DATABASE app CONNECTION LIMIT 50;
    REVOKE CONNECT ON DATABASE app FROM PUBLIC;
    GRANT CREATE ON DATABASE app TO \"the clerk\";
    GRANT CONNECT ON DATABASE app TO \"the clerk\" WITH GRANT OPTION;
    SET ROLE \"the clerk\";
    GRANT CONNECT ON DATABASE app TO reader;
    RESET ROLE;
    ALTER DATABASE app SET default_transaction_read_only = on;
    ALTER ROLE postgres SET default_transaction_read_only = on";

fn bin() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed")
        .map(|entry| entry.expect("a folder").path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("PostgreSQL's server programs are installed")
}

async fn session(spec: &ConnectionSpec) -> Session {
    Box::pin(spec.connect()).await.unwrap()
}

struct World {
    cluster: Cluster,
    backup: SealedBackup,
    bin: PathBuf,
}

impl World {
    async fn new(indexed: bool) -> Self {
        Self::of(SCHEMA, indexed).await
    }

    async fn of(schema: &str, indexed: bool) -> Self {
        let bin = bin();
        let cluster = Cluster::start(&bin, ClusterOptions::default()).await.unwrap();
        let maintenance = session(cluster.spec()).await;
        maintenance.batch_execute("CREATE DATABASE app").await.unwrap();
        let app = cluster.spec().with_database(DATABASE);
        let client = session(&app).await;
        client.batch_execute(&format!("SET search_path = public; {schema}")).await.unwrap();
        let backup = Box::pin(back_up(&bin, &app, indexed)).await;
        Self { cluster, backup, bin }
    }

    fn restore(&self, database: &str) -> Restore {
        Restore {
            store: self.backup.store.clone(),
            manifest: self.backup.manifest.clone(),
            inventory: self.backup.inventory.clone(),
            identities: self.backup.identities.clone(),
            tools: ClientTools::new(std::slice::from_ref(&self.bin), None),
            target: self.cluster.spec().clone(),
            database: database.to_owned(),
            marker: None,
            jobs: 3,
            selection: None,
            no_owner: false,
            no_acl: false,
            without_extensions: Vec::new(),
            serial: false,
            temp_root: std::env::temp_dir(),
            progress: Arc::new(Unwatched),
            cancel: CancellationToken::new(),
        }
    }

    async fn text(&self, database: &str, query: &str) -> String {
        let client = session(&self.cluster.spec().with_database(database)).await;
        client.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn exists(&self, database: &str) -> bool {
        let query = format!("SELECT count(*)::text FROM pg_database WHERE datname = '{database}'");
        self.text("postgres", &query).await == "1"
    }

    async fn assert_same(&self, database: &str) {
        let spec = self.cluster.spec().with_database(database);
        let compared = Box::pin(compare(&spec, &self.backup.inventory, 2)).await.unwrap();
        assert!(compared.len() >= 20, "{}", compared.len());
        let different: Vec<_> = compared.iter().filter(|table| !table.equal).collect();
        assert!(different.is_empty(), "{different:?}");
    }

    async fn assert_objects(&self, database: &str) {
        for (query, expected) in [
            ("SELECT last_value::text FROM public.counter", "42"),
            ("SELECT nextval('public.orders_id_seq')::text", "60001"),
            ("SELECT length(lo_get(4711))::text || md5(lo_get(4711))", ""),
            ("SELECT convert_from(lo_get(4712), 'UTF8')", "small"),
            ("SELECT n::text FROM public.totals", "60000"),
            ("SELECT count(*)::text FROM pg_index WHERE NOT indisvalid", "0"),
            ("SELECT count(*)::text FROM pg_constraint WHERE contype = 'f' AND convalidated", "1"),
            (
                "SELECT rolname::text FROM pg_class c JOIN pg_roles r ON r.oid = relowner WHERE relname = 'orders'",
                "keeper",
            ),
            ("SELECT current_setting('work_mem')", "17MB"),
        ] {
            let expected = match expected {
                "" => self.text(DATABASE, query).await,
                expected => expected.to_owned(),
            };
            assert_eq!(self.text(database, query).await, expected, "{query}");
        }
    }
}

#[derive(Debug, Default)]
struct Watched {
    phases: Mutex<Vec<Phase>>,
    bytes: Mutex<(u64, u64)>,
    notes: Mutex<Vec<String>>,
    cancel_at: Option<(Phase, CancellationToken)>,
}

impl Progress for Watched {
    fn phase(&self, phase: Phase) {
        self.phases.lock().unwrap().push(phase);
        if let Some((at, token)) = &self.cancel_at
            && *at == phase
        {
            token.cancel();
        }
    }

    fn bytes(&self, done: u64, total: u64) {
        let mut bytes = self.bytes.lock().unwrap();
        *bytes = (done.max(bytes.0), total);
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_comes_back_row_for_row_in_parallel_and_serially() {
    let world = World::new(true).await;
    let watched = Arc::new(Watched::default());
    let restore = Restore { progress: watched.clone(), ..world.restore("again") };
    let plan = restore.plan().unwrap();
    assert!(
        plan.pieces > 5 && plan.large_objects && plan.to_string().contains("over 3 connections"),
        "{plan}"
    );
    let report = Box::pin(restore.run()).await.unwrap();
    assert_eq!(report.tables as usize, world.backup.inventory.archives[0].tables.len());
    assert!(report.rows_compared && report.rows > 110_000 && report.bytes_fetched > 0, "{report:?}");
    let bytes = *watched.bytes.lock().unwrap();
    assert!(bytes.0 == bytes.1 && bytes.0 > 0, "{bytes:?}");
    let phases = watched.phases.lock().unwrap().clone();
    let expected =
        [Phase::Prepare, Phase::PreData, Phase::Load, Phase::OtherData, Phase::PostData, Phase::Analyze];
    assert_eq!(phases, expected);
    assert_eq!(report.phases.iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), expected);
    world.assert_same("again").await;
    world.assert_objects("again").await;
    let frames = world.backup.inventory.archives[0].frames.len() as u64;
    let opened = report.archives.open_rest().await.unwrap();
    assert_eq!((opened.while_restoring, opened.afterwards), (frames, 0), "a whole restore opens all");

    let serial = Restore { serial: true, ..world.restore("serial") };
    Box::pin(serial.run()).await.unwrap();
    world.assert_same("serial").await;

    refuses_a_database_with_objects(&world).await;
    tells_a_changed_row(&world).await;
    selects(&world).await;
    reads_little_beside_a_table(&world).await;
    writes_the_archive(&world).await;
    swaps(&world).await;
    world.cluster.stop().await.unwrap();
}

async fn refuses_a_database_with_objects(world: &World) {
    let refused = Box::pin(world.restore(DATABASE).run()).await.unwrap_err();
    assert!(matches!(refused, RestoreError::TargetNotEmpty { .. }), "{refused:?}");
    assert!(world.exists(DATABASE).await, "what was there before is never dropped");
}

async fn tells_a_changed_row(world: &World) {
    let spec = world.cluster.spec().with_database("serial");
    session(&spec)
        .await
        .batch_execute(
            "UPDATE public.lines SET n = 2 WHERE order_id = 1; DROP TABLE public.empty;
             DELETE FROM public.feelings WHERE n = 7",
        )
        .await
        .unwrap();
    let compared = Box::pin(compare(&spec, &world.backup.inventory, 2)).await.unwrap();
    let different: Vec<_> =
        compared.iter().filter(|t| !t.equal).map(|t| (t.name.as_str(), t.found.is_some())).collect();
    assert_eq!(different.len(), 3, "{different:?}");
    assert!(different.contains(&("lines", true)) && different.contains(&("empty", false)), "{different:?}");
    assert!(different.contains(&("feelings", true)), "{different:?}");
}

async fn selects(world: &World) {
    let filter = pgproof_postgres::archive::selection::Filter {
        tables: vec!["public.lines".parse().unwrap()],
        schemas: vec!["odd schema".to_owned()],
    };
    let restore = Restore { selection: Some(filter), ..world.restore("some") };
    let report = Box::pin(restore.run()).await.unwrap();
    assert_eq!(report.tables, 2, "{report:?}");
    assert_eq!(world.text("some", "SELECT count(*)::text FROM public.lines").await, "20000");
    assert_eq!(world.text("some", "SELECT count(*)::text FROM \"odd schema\".\"t \"\" (x)\"").await, "4");
    let others = "SELECT count(*)::text FROM pg_class WHERE relname = 'giant'";
    assert_eq!(world.text("some", others).await, "0");
    let opened = report.archives.clone().open_rest().await.unwrap();
    let frames = world.backup.inventory.archives[0].frames.len() as u64;
    assert!(opened.while_restoring > 0 && opened.afterwards > opened.while_restoring, "{opened:?}");
    assert_eq!(opened.while_restoring + opened.afterwards, frames);
    let again = report.archives.open_rest().await.unwrap();
    assert_eq!(again.afterwards, 0, "what was opened afterwards is not opened again");
}

/// Of a remote archive less than twice the table's share is fetched, whatever lies beside it.
async fn reads_little_beside_a_table(world: &World) {
    let filter = pgproof_postgres::archive::selection::Filter {
        tables: vec!["public.orders".parse().unwrap()],
        schemas: Vec::new(),
    };
    let counting = CountingStore::new(world.backup.store.clone());
    let counters = counting.counters();
    let store: SharedStore = Arc::new(counting);
    let restore = Restore { selection: Some(filter), store, ..world.restore("orders") };
    Box::pin(restore.run()).await.unwrap();
    let (read, share) = (counters.bytes_read(), sealed_share(&world.backup.inventory, "orders"));
    assert!(share > 0 && read < 2 * share, "{read} bytes were read for a share of {share}");
}

/// What a table's rows take of the sealed bytes, frame by frame.
fn sealed_share(inventory: &Inventory, name: &str) -> u64 {
    let archive = &inventory.archives[0];
    let table = archive.tables.iter().find(|table| table.name == name).unwrap();
    let (mut start, mut share) = (0, 0.0);
    for frame in &archive.frames {
        let end = start + u64::from(frame.0);
        let taken = table.end.min(end).saturating_sub(table.start.max(start));
        share += f64::from(frame.1) * taken as f64 / f64::from(frame.0);
        start = end;
    }
    share as u64
}

/// What a restore did not need is looked at all the same.
async fn finds_damage_that_no_restore_met(world: &World) {
    let filter = pgproof_postgres::archive::selection::Filter {
        tables: vec!["public.empty".parse().unwrap()],
        schemas: Vec::new(),
    };
    let restore = Restore { selection: Some(filter), no_owner: true, ..world.restore("few") };
    let report = Box::pin(restore.clone().run()).await.unwrap();
    let error = report.archives.open_rest().await.unwrap_err();
    assert!(matches!(error, RestoreError::Object { .. }), "{error:?}");

    let mut cut = Restore { database: "cut".to_owned(), ..restore };
    cut.inventory.archives[0].frames.truncate(2);
    cut.inventory.archives[0].tables.clear();
    cut.inventory.archives[0].blobs.clear();
    let error = Box::pin(cut.run()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Inventory { .. }), "{error:?}");
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn writes_the_archive(world: &World) {
    let SealedBackup { store, manifest, inventory, identities, .. } = &world.backup;
    let output = Output::default();
    let name = "data.000.zst.age";
    let cancel = CancellationToken::new();
    write_archive(store, manifest, inventory, identities, name, output.clone(), &cancel).await.unwrap();
    let written = output.0.lock().unwrap();
    assert_eq!(PlaintextSha256::of(&written), manifest.get().objects[0].plaintext.sha256);
}

async fn swaps(world: &World) {
    let bystander = session(&world.cluster.spec().with_database(DATABASE)).await;
    let now = "2026-11-24T01:30:00Z".parse().unwrap();
    let renames = Box::pin(swap(world.cluster.spec(), "again", DATABASE, now)).await.unwrap();
    assert_eq!(renames.kept.as_deref(), Some("app_before_20261124t013000z"));
    assert!(bystander.simple_query("SELECT 1").await.is_err(), "sessions in the old database are ended");
    world.assert_same(DATABASE).await;
    world.assert_same("app_before_20261124t013000z").await;
    assert!(!world.exists("again").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_leave_nothing_behind_in_a_cluster() {
    let world = World::new(true).await;

    // A row that is not the one that was dumped.
    let mut forged = world.restore("forged");
    let table = forged.inventory.archives[0].tables.iter_mut().find(|t| t.name == "orders").unwrap();
    table.digest = "1".repeat(32);
    let error = Box::pin(forged.run()).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Mismatch { table, .. } if table == "public.orders"), "{error:?}");
    assert!(!world.exists("forged").await);

    // Cancelled while loading.
    let cancel = CancellationToken::new();
    let watched = Arc::new(Watched { cancel_at: Some((Phase::Load, cancel.clone())), ..Watched::default() });
    let cancelled = Restore { progress: watched.clone(), cancel, ..world.restore("cancelled") };
    assert!(matches!(Box::pin(cancelled.run()).await, Err(RestoreError::Cancelled)));
    assert!(!world.exists("cancelled").await);
    assert!(watched.notes.lock().unwrap()[0].contains("was dropped"));

    // A missing role, named.
    let spec = world.cluster.spec();
    let admin = session(&spec.with_database(DATABASE)).await;
    admin.batch_execute("ALTER TABLE public.orders OWNER TO postgres; DROP ROLE keeper").await.unwrap();
    let error = Box::pin(world.restore("orphan").run()).await.unwrap_err();
    assert!(matches!(&error, RestoreError::MissingRoles { roles } if *roles == ["keeper"]), "{error:?}");
    assert!(error.hint().unwrap().contains("--no-owner") && !world.exists("orphan").await);
    let no_owner = Restore { no_owner: true, ..world.restore("adopted") };
    Box::pin(no_owner.run()).await.unwrap();
    world.assert_same("adopted").await;

    // One byte of the object turned over.
    let name = "app/backups/20261124T020000Z-k3x7qa/data.000.zst.age".parse().unwrap();
    let (bytes, _) = world.backup.store.get(&name, u64::MAX).await.unwrap();
    let mut damaged = bytes.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    world.backup.memory.overwrite(&name, Bytes::from(damaged));
    for serial in [false, true] {
        let restore = Restore { no_owner: true, serial, ..world.restore("damaged") };
        let error = Box::pin(restore.run()).await.unwrap_err();
        assert!(matches!(error, RestoreError::Object { .. }), "{error:?}");
        assert!(!world.exists("damaged").await);
    }
    finds_damage_that_no_restore_met(&world).await;
    world.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_without_index_is_checked_first_and_restored_serially_in_a_cluster() {
    let world = World::new(false).await;
    let restore = world.restore("plain");
    assert!(restore.plan().unwrap().to_string().contains("serially, because a test says so"));
    let report = Box::pin(restore.run()).await.unwrap();
    assert!(!report.rows_compared && !report.warnings.is_empty());
    world.assert_objects("plain").await;
    assert_eq!(world.text("plain", "SELECT count(*)::text FROM public.events").await, "30000");
    world.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_archive_does_not_hold_of_a_database_comes_back_in_a_cluster() {
    let world = World::of(PROPERTIES, true).await;
    let mut restore = world.restore("again");
    let settings = &mut restore.inventory.facts["database"]["settings"][0]["assignments"];
    let settings = settings.as_array_mut().expect("the database's settings");
    settings.push("work_mem=17MB".into());
    settings.push("session_preload_libraries=there_is_no_such_library".into());
    let report = Box::pin(restore.run()).await.unwrap();
    // An old pg_restore has a warning of its own.
    let of_database: Vec<_> =
        report.warnings.iter().filter(|told| told.contains("of the database")).collect();
    let [warning] = of_database[..] else { panic!("{:?}", report.warnings) };
    assert!(
        warning.starts_with("setting session_preload_libraries of the database was not restored"),
        "{warning}"
    );
    assert_eq!(world.text("again", "SELECT current_setting('work_mem')").await, "17MB");
    let kept = |database: &str| {
        format!(
            "SELECT concat_ws(' ', datdba::regrole, datacl, datconnlimit) FROM pg_database WHERE datname = '{database}'"
        )
    };
    let properties = world.text(DATABASE, &kept(DATABASE)).await;
    assert!(properties.starts_with("keeper {=T/keeper,") && properties.ends_with(" 50"), "{properties}");
    assert_eq!(world.text("again", &kept("again")).await, properties);

    // The database says that nobody writes by default; nor does our role.
    let spec = world.cluster.spec().with_database("again");
    assert!(take_row(&spec, &world.backup.inventory.archives[0].tables[0]).await.unwrap());
    let now = "2026-11-24T01:30:00Z".parse().unwrap();
    Box::pin(swap(world.cluster.spec(), "again", DATABASE, now)).await.unwrap();

    let others = Restore { no_owner: true, no_acl: true, ..world.restore("others") };
    Box::pin(others.run()).await.unwrap();
    assert_eq!(world.text("others", &kept("others")).await, "postgres 50");

    // The mark cannot be written in the encoding of the database that we are connected to.
    let maintenance = session(&world.cluster.spec().for_writing()).await;
    let latin = "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'";
    maintenance.batch_execute(latin).await.unwrap();
    let unmarked = Restore {
        target: world.cluster.spec().with_database("latin"),
        marker: Some("€".to_owned()),
        ..world.restore("unmarked")
    };
    let error = Box::pin(unmarked.run()).await.unwrap_err();
    assert!(matches!(&error, RestoreError::Server { doing, .. } if doing.starts_with("mark")), "{error:?}");
    assert!(!world.exists("unmarked").await, "a database that nobody knows as ours is left behind");
    world.cluster.stop().await.unwrap();
}
