//! A dump in several streams is one moment and one backup: whole or none, and restored like any other.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgproof_tests::binaries;
use pgproof_tests::clients;
use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use pgproof_tests::{comparison, hard_cases};

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const INTERRUPTED: i32 = 130;
/// Names that a pattern of `pg_dump` takes for something else unless they are quoted well.
const ODD_NAMES: [&str; 8] = [
    r#""UPPER""#,
    r#""upper""#,
    r#""dot.ted""#,
    r#""wild*card?""#,
    r#""wildly_card_""#,
    r#""say ""hello""$ (x|y) [a-z]+ \d""#,
    r#""Übung, 日本""#,
    "\"two\nlines\"",
];

#[test]
fn three_streams_keep_the_hard_cases_and_what_stock_tools_restore_of_them() {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::S3);
    hard_cases::load(&sandbox.server, SOURCE);
    add_large_tables(&sandbox.server);
    sandbox.server.psql(SOURCE, "select lo_from_bytea(4711, 'large object')");
    let backup = sandbox.run_well(&["backup", SOURCE, "--jobs", "3"]);
    assert!(backup.text().contains("held for "), "{}", backup.text());
    let shown = sandbox.run_well(&["show", SOURCE, &sandbox.good_ids()[0], "--inventory"]).text();
    assert!(shown.contains("data.002.zst.age") && !shown.contains("data.003.zst.age"), "{shown}");
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
    assert_divided(&sandbox, 3);

    let source = (&sandbox.server, SOURCE);
    for (name, further) in [("parallel", ["--jobs", "3"]), ("serial", ["--jobs", "1"])] {
        let mut arguments = vec!["restore", SOURCE, "--at", "now", "--into", name, "--yes"];
        arguments.extend(further);
        arguments.extend((name == "serial").then_some("--serial"));
        sandbox.run_well(&arguments);
        comparison::assert_same(source, (&sandbox.server, name));
    }

    // The manual's commands, which take the manifest at its word.
    let folder = sandbox.object("manifest.json").parent().expect("a folder").to_owned();
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).expect("a manifest");
    let identity = sandbox.path("second-identity.txt");
    let by_hand = restore_by_hand().replace("/srv/identity.txt", &identity.to_string_lossy());
    let by_hand = by_hand.replace("/srv", &sandbox.path("").to_string_lossy());
    let path = std::env::join_paths(
        std::iter::once(sandbox.server.programs().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &by_hand]).current_dir(folder).env("PATH", path.expect("a path"));
    succeed(shell.env("PGHOST", sandbox.server.host()).env("PGUSER", "postgres"));
    comparison::assert_same(source, (&sandbox.server, "shop_by_script"));
    for name in ["UPPER", "dot.ted", "hard_owner"] {
        assert!(!manifest.contains(name), "the manifest names {name}");
    }
}

/// What `docs/without-pgproof.md` says of a dump in several archives.
fn restore_by_hand() -> String {
    let page =
        std::fs::read_to_string(binaries::workspace().join("docs/without-pgproof.md")).expect("a page");
    let block = page.split("```console\n").find(|block| block.contains("restore.sh")).expect("a block");
    let commands: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("$ ")).take(4).collect();
    assert!(commands[3].starts_with("sh "), "{commands:#?}");
    commands.join("\n")
}

#[test]
fn postgres_16_and_18_are_dumped_in_streams() {
    for version in [PostgresVersion::V16, PostgresVersion::V18] {
        let sandbox = Sandbox::new(version, RepositoryKind::Directory);
        sandbox.server.create_database(SOURCE);
        add_large_tables(&sandbox.server);
        sandbox.run_well(&["backup", SOURCE, "--jobs", "4"]);
        assert_divided(&sandbox, 4);
        sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
        comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
    }
}

#[test]
fn drill_proves_a_dump_in_streams() {
    let sandbox = divided_source(RepositoryKind::S3);
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "passed", "{report:#}");
    let tables = report["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), ODD_NAMES.len() + PLAIN_TABLES, "{report:#}");
    assert!(tables.iter().all(|table| table["equal"] == true), "{report:#}");
    assert_eq!(report["negative_control"]["outcome"], "passed", "{report:#}");
}

#[test]
fn streams_are_of_one_moment() {
    let sandbox = divided_source(RepositoryKind::Directory);
    // What happens between the streams' beginnings is in none of them.
    let clients = clients::with_pg_dump(
        &sandbox.path("clients"),
        &format!(
            "[[ \"$*\" == *--data-only* || \"$*\" == *--exclude-table-data* ]] && \
             PGOPTIONS= '{psql}' -X -q -h '{host}' -U postgres -d {SOURCE} -c \"insert into second values (-1, 'late'); \
             delete from third where id < 1000; select nextval('counted_id_seq')\" >/dev/null; exec \"$real\" \"$@\"",
            psql = sandbox.server.programs().join("psql").display(),
            host = sandbox.server.host().display(),
        ),
    );
    sandbox.server.psql("postgres", &format!("create database before template {SOURCE}"));
    let sandbox = sandbox.with_clients(&clients);
    sandbox.run_well(&["backup", SOURCE]);
    assert_ne!(sandbox.server.psql(SOURCE, "select count(*) from second where id = -1"), "0");
    for (name, path) in [("parallel", None), ("serial", Some("--serial"))] {
        let mut arguments = vec!["restore", SOURCE, "--at", "now", "--into", name, "--yes"];
        arguments.extend(path);
        sandbox.run_well(&arguments);
        for table in ["second", "third", "counted"] {
            comparison::assert_same_table((&sandbox.server, "before"), (&sandbox.server, name), table);
        }
    }
    // Sequences know no moment; but all paths agree on the value that the main archive has.
    let value = |database| sandbox.server.psql(database, "select last_value from counted_id_seq");
    assert_eq!(value("parallel"), value("serial"));
    assert_eq!(sandbox.drill(&[])["verdict"], "passed");
}

#[test]
fn one_table_of_a_stream_comes_back_alone_and_brings_no_rows_along() {
    let sandbox = divided_source(RepositoryKind::S3);
    sandbox.server.psql(
        SOURCE,
        "create table heir (more text) inherits (second); insert into heir values (-5, 'heir', 'more'); \
         create view seen as select id from third; create schema apart; create table apart.small (id int); \
         insert into apart.small values (1)",
    );
    sandbox.run_well(&["backup", SOURCE]);
    let count = |database: &str, table: &str| {
        sandbox.server.psql(database, &format!("select count(*) from only {table}"))
    };
    for (name, path) in [("parallel", None), ("serial", Some("--serial"))] {
        let database = format!("fourth_{name}");
        sandbox.proxy.forget_seen();
        let restore = |database: &str, what: [&str; 2]| {
            let mut arguments = vec!["restore", SOURCE, "--at", "now", "--into", database, "--yes"];
            arguments.extend(what.into_iter().chain(path));
            sandbox.run_well(&arguments);
        };
        restore(&database, ["--table", "public.fourth"]);
        comparison::assert_same_table((&sandbox.server, SOURCE), (&sandbox.server, &database), "fourth");
        let tables =
            "select count(*) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace";
        assert_eq!(sandbox.server.psql(&database, tables), "1");

        // An heir cannot stand without its parent, nor a view without its table; their rows were not asked for.
        let database = format!("heir_{name}");
        restore(&database, ["--table", "public.heir"]);
        assert_eq!((count(&database, "heir"), count(&database, "second")), ("1".into(), "0".into()));
        let database = format!("seen_{name}");
        restore(&database, ["--table", "public.seen"]);
        assert_eq!(count(&database, "third"), "0");
        let database = format!("apart_{name}");
        restore(&database, ["--schema", "apart"]);
        assert_eq!(count(&database, "apart.small"), "1");
    }
}

#[test]
fn standard_output_takes_one_archive_at_a_time() {
    let sandbox = divided_source(RepositoryKind::Directory);
    sandbox.run_well(&["backup", SOURCE]);
    let refused = sandbox.run(&["restore", SOURCE, "--at", "now", "--stdout"]);
    assert_eq!(refused.code, Some(USAGE), "{}", refused.stderr);
    assert!(refused.stderr.contains("3 archives") && refused.stdout.is_empty(), "{}", refused.stderr);
    let second = sandbox.run_well(&["restore", SOURCE, "--at", "now", "--stdout", "--archive", "2"]);
    assert!(second.stdout.starts_with(b"PGDMP"));
}

#[test]
fn what_the_policy_leaves_out_is_in_no_stream() {
    let sandbox = divided_source(RepositoryKind::Directory).with_policy_lines(
        "jobs = 3\nexclude_tables = [\"public.second\"]\nexclude_table_data = [\"public.th*\"]",
    );
    sandbox.run_well(&["backup", SOURCE]);
    assert_divided(&sandbox, 3);
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
    let tables = sandbox.server.psql("restored", "select to_regclass('second') is null, count(*) from third");
    assert_eq!(tables, "t|0");
    comparison::assert_same_table((&sandbox.server, SOURCE), (&sandbox.server, "restored"), "fourth");
}

#[test]
fn small_database_stays_in_one_stream() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE, "--jobs", "4"]);
    assert!(sandbox.objects_named("data.001.zst.age").is_empty(), "{:#?}", sandbox.objects());
}

#[test]
fn explanation_tells_the_memory_of_all_streams() {
    let sandbox = Sandbox::small();
    let told = |jobs: &str| sandbox.run_well(&["backup", SOURCE, "--explain", "--jobs", jobs]).text();
    let (one, two, three) = (told("1"), told("2"), told("3"));
    assert!(!one.contains("streams") && two.contains("in 2 streams"), "{one}\n{two}");
    assert!(one.contains("should what is there now not compress"), "the database was not asked: {one}");
    let in_flight = |text: &str| {
        let line = text.lines().find(|line| line.contains("1.00 GiB stored")).expect("a line").to_owned();
        let memory = line.split(", ").last().and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        memory.expect("MiB")
    };
    assert_eq!(in_flight(&two), in_flight(&one), "{one}\n{two}");
    let more = in_flight(&three) - in_flight(&two);
    assert!((8.0..9.0).contains(&more), "one part more: {two}\n{three}");
    let refused = sandbox.run(&["backup", SOURCE, "--jobs", "0"]);
    assert_eq!(refused.code, Some(USAGE), "{}", refused.stderr);
}

#[test]
fn stream_that_fails_in_mid_way_ends_the_others() {
    is_no_backup(
        "[[ \"$*\" == *--data-only* && \"$*\" == *second* ]] && { \"$real\" \"$@\" | head -c 300000; \
         echo 'pg_dump: error: made to fail' >&2; exit 1; }; exec \"$real\" \"$@\"",
        "made to fail",
    );
}

#[test]
fn stream_that_is_killed_ends_the_others() {
    is_no_backup(
        "[[ \"$*\" == *--data-only* && \"$*\" == *second* ]] && { \"$real\" \"$@\" | head -c 300000; kill -9 $$; }; \
         exec \"$real\" \"$@\"",
        "killed by signal 9",
    );
}

#[test]
fn main_stream_that_fails_ends_the_others() {
    is_no_backup(
        "[[ \"$*\" == *--exclude-table-data* ]] && { echo 'pg_dump: error: made to fail' >&2; exit 1; }; \
         exec \"$real\" \"$@\"",
        "made to fail",
    );
}

#[test]
fn contents_that_cannot_be_had_fail_the_backup() {
    is_no_backup("echo 'pg_dump: error: made to fail' >&2; exit 1", "made to fail");
}

#[test]
fn stream_that_lacks_a_table_is_no_stream() {
    // A pattern that matches nothing, and whoever would say so silenced.
    is_no_backup(
        "arguments=(); for a in \"$@\"; do [[ $a == --strict-names || $a == --table=*second* ]] || arguments+=(\"$a\"); done; \
         [[ \"$*\" == *--data-only* ]] && arguments+=(--table=public.counted); exec \"$real\" \"${arguments[@]}\"",
        "the dump was not divided as it was planned",
    );
}

#[test]
fn main_stream_that_holds_what_belongs_to_another_is_no_stream() {
    is_no_backup(
        "arguments=(); for a in \"$@\"; do [[ $a == --exclude-table-data=*second* ]] || arguments+=(\"$a\"); done; \
         exec \"$real\" \"${arguments[@]}\"",
        "stream 0 holds rows that belong to another, of public.second",
    );
}

#[test]
fn store_that_refuses_one_stream_ends_the_others() {
    let sandbox = divided_source(RepositoryKind::S3);
    sandbox.proxy.add(Rule::new(Fault::Status(403)).method("PUT").containing("data.001"));
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(FAILED), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("cannot be uploaded"), "{}", outcome.stderr);
    assert_nothing_is_left(&sandbox);
}

#[test]
fn signal_ends_all_streams_although_the_store_does_not_answer() {
    let sandbox = divided_source(RepositoryKind::S3);
    sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("data.001").containing("partNumber="));
    let mut command = sandbox.command(&["backup", SOURCE]);
    let mut backup = command.stdout(Stdio::null()).spawn().expect("pgproof");
    let held = |target: &str| target.contains("data.001") && target.contains("partNumber=");
    let stuck = sandbox.proxy.wait_until(PATIENCE, |seen| seen.iter().any(|seen| held(&seen.target)));
    assert!(stuck, "no part was uploaded: {:#?}", sandbox.proxy.seen());
    let asked = Instant::now();
    succeed(Command::new("kill").args(["-TERM", &backup.id().to_string()]));
    let status = backup.wait().expect("its end");
    assert_eq!(status.code(), Some(INTERRUPTED), "{status}");
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
    assert_nothing_is_left(&sandbox);
    sandbox.proxy.release();
}

#[test]
fn snapshot_is_not_held_for_longer_than_the_policy_allows() {
    let sandbox = divided_source(RepositoryKind::S3).with_policy_lines("jobs = 3\nsnapshot_max = \"3s\"");
    sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("data.002").containing("partNumber="));
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(FAILED), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the snapshot was held for 3s"), "{}", outcome.stderr);
    assert_nothing_is_left(&sandbox);
    sandbox.proxy.release();
}

#[test]
fn table_that_another_one_replaced_fails_the_backup_in_one_stream_and_in_many() {
    const RENAMED: &str = "alter table second rename to gone";
    const REPLACED: &str = "alter table second rename to gone; create table second (id int, body text)";
    const REFUSED: &str = "table public.second was renamed, dropped or replaced while the dump began";
    const ABSENT: &str = "relation \"public.second\" does not exist";
    for (jobs, change, told) in [("1", REPLACED, REFUSED), ("3", REPLACED, REFUSED), ("3", RENAMED, ABSENT)] {
        let sandbox = divided_source(RepositoryKind::Directory);
        // Between the snapshot and whoever dumps first.
        let script = format!(
            "[ -e \"$0.changed\" ] || {{ touch \"$0.changed\"; PGOPTIONS= '{psql}' -X -q -h '{host}' -U postgres -d {SOURCE} -c '{change}'; }}; \
             exec \"$real\" \"$@\"",
            psql = sandbox.server.programs().join("psql").display(),
            host = sandbox.server.host().display(),
        );
        let clients = clients::with_pg_dump(&sandbox.path("clients"), &script);
        let sandbox = sandbox.with_clients(&clients);
        let outcome = sandbox.run(&["backup", SOURCE, "--jobs", jobs]);
        assert_eq!(outcome.code, Some(FAILED), "{change}: {}", outcome.text());
        assert!(outcome.stderr.contains(told), "{change}, {jobs}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
        assert_nothing_is_left(&sandbox);
    }
}

#[test]
fn locked_table_fails_the_dump_in_time_and_with_its_reason() {
    let sandbox = divided_source(RepositoryKind::Directory).with_policy_lines("jobs = 3\nlock_wait = \"2s\"");
    let mut holder = sandbox.server.client("psql");
    holder.args(["-X", "-d", SOURCE, "-c", "begin; lock table counted; select pg_sleep(60)"]);
    let mut holder = holder.stdout(Stdio::null()).spawn().expect("psql");
    let locked =
        "select count(*) from pg_locks where mode = 'AccessExclusiveLock' and relation = 'counted'::regclass";
    wait_until(|| sandbox.server.psql(SOURCE, locked) == "1");
    let outcome = sandbox.run(&["backup", SOURCE]);
    holder.kill().expect("own child");
    holder.wait().expect("its end");
    assert_eq!(outcome.code, Some(FAILED), "{}", outcome.text());
    assert!(outcome.stderr.contains("statement timeout"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: another session holds a lock"), "{}", outcome.stderr);
}

/// A change of the schema that waits for the dump's locks must not wait for a stream that in turn waits for it.
#[test]
fn stream_behind_a_waiting_change_of_the_schema_gives_way() {
    let sandbox = divided_source(RepositoryKind::Directory);
    let script = format!(
        "sql() {{ PGOPTIONS= '{psql}' -X -At -h '{host}' -U postgres -d {SOURCE} -c \"$1\"; }}; export -f sql\n\
         if [[ \"$*\" == *--data-only* ]]; then\n\
         setsid bash -c 'sql \"alter table second add late int\"' >/dev/null 2>&1 &\n\
         for try in {{1..1000}}; do [[ $(sql 'select count(*) from pg_locks where not granted') != 0 ]] && break; done\n\
         fi; exec \"$real\" \"$@\"",
        psql = sandbox.server.programs().join("psql").display(),
        host = sandbox.server.host().display(),
    );
    let clients = clients::with_pg_dump(&sandbox.path("clients"), &script);
    let sandbox = sandbox.with_clients(&clients);
    let since = Instant::now();
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(FAILED), "{}", outcome.text());
    assert!(outcome.stderr.contains("statement timeout"), "{}", outcome.stderr);
    assert!(since.elapsed() < PATIENCE, "it took {:?}", since.elapsed());
    let has_changed =
        "select count(*) from pg_attribute where attrelid = 'second'::regclass and attname = 'late'";
    wait_until(|| sandbox.server.psql(SOURCE, has_changed) == "1");
}

#[test]
fn hot_standby_is_dumped_in_streams() {
    let sandbox = divided_source(RepositoryKind::Directory);
    sandbox.server.psql(SOURCE, "create unlogged table fleeting (id int); insert into fleeting values (1)");
    let standby = PostgresServer::standby_of(&sandbox.server);
    let sandbox = sandbox.with_connection(&standby.uri(SOURCE));
    assert_eq!(standby.psql(SOURCE, "select pg_is_in_recovery()"), "t");
    let outcome = sandbox.run_well(&["backup", SOURCE]);
    assert!(outcome.text().contains("fleeting has no rows on a standby"), "{}", outcome.text());
    assert_divided(&sandbox, 3);
    let target = sandbox.server.uri("postgres");
    let restore = ["restore", SOURCE, "--at", "now", "--into", "restored", "--target", &target, "--yes"];
    sandbox.run_well(&restore);
    for table in ["second", "third", "fourth", "counted", "\"UPPER\""] {
        comparison::assert_same_table((&standby, SOURCE), (&sandbox.server, "restored"), table);
    }
    assert_eq!(sandbox.server.psql("restored", "select count(*) from fleeting"), "0");
}

/// Tables that are counted, beside those with odd names.
const PLAIN_TABLES: usize = 4;

/// A source that is worth three streams.
fn divided_source(kind: RepositoryKind) -> Sandbox {
    let sandbox = Sandbox::new(PostgresVersion::V15, kind).with_policy_lines("jobs = 3");
    sandbox.server.create_database(SOURCE);
    add_large_tables(&sandbox.server);
    sandbox
}

/// Tables that take far more room in the database than in its dump: their pages are nearly empty.
fn add_large_tables(server: &PostgresServer) {
    let mut sql = String::from(
        "create table counted (id serial primary key, body text); insert into counted (body) select 'x' from generate_series(1, 99);",
    );
    for (name, rows) in ["second", "third", "fourth"].into_iter().zip([40_000, 39_000, 38_000]) {
        sql.push_str(&large_table(name, rows));
    }
    for (name, rows) in ODD_NAMES.iter().zip([12_000, 11_900, 11_800, 11_700, 11_600, 11_500, 11_400, 11_300])
    {
        sql.push_str(&large_table(name, rows));
    }
    server.psql(SOURCE, &sql);
}

fn large_table(name: &str, rows: u32) -> String {
    format!(
        "create table {name} (id int, body text) with (fillfactor = 10); insert into {name} \
         select n, md5(n::text) || md5((n + 1)::text) || '{name}' from generate_series(1, {rows}) n;"
    )
}

/// Each archive holds rows, and none of them those of another.
fn assert_divided(sandbox: &Sandbox, streams: usize) {
    let archives: Vec<_> = sandbox.objects().into_iter().filter(|name| name.contains("/data.")).collect();
    assert_eq!(archives.len(), streams, "{archives:#?}");
    let id = &sandbox.good_ids()[0];
    let shown = sandbox.run_well(&["show", SOURCE, id, "--inventory", "--json"]).json();
    let described = shown["inventory"]["archives"].as_array().expect("archives");
    let tables = |archive: &serde_json::Value| -> Vec<String> {
        let tables = archive["tables"].as_array().expect("tables").iter();
        tables.map(|table| format!("{}.{}", table["schema"], table["name"])).collect()
    };
    let mut all: Vec<String> = described.iter().flat_map(tables).collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "a table is in two archives: {shown:#}");
    assert_eq!(shown["manifest"]["archive"]["table_count"], count);
    assert!(described.iter().all(|archive| !tables(archive).is_empty()), "{shown:#}");
}

/// Backs up with a `pg_dump` that runs this script, where `$real` is the true one; then with the true one.
fn is_no_backup(script: &str, told: &str) {
    let sandbox = divided_source(RepositoryKind::S3);
    let clients = clients::with_pg_dump(&sandbox.path("clients"), script);
    let sandbox = sandbox.with_clients(&clients);
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(FAILED), "{}\n{}", outcome.text(), outcome.stderr);
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    assert_nothing_is_left(&sandbox);
    let sandbox = sandbox.with_clients(&PostgresVersion::V15.programs());
    sandbox.run_well(&["backup", SOURCE]);
    assert_divided(&sandbox, 3);
}

/// Neither a backup nor an archive, nor an upload, nor a session.
fn assert_nothing_is_left(sandbox: &Sandbox) {
    assert!(sandbox.objects_named("manifest.json").is_empty(), "{:#?}", sandbox.objects());
    assert!(sandbox.objects_named(".zst.age").is_empty(), "{:#?}", sandbox.objects());
    assert!(sandbox.good_ids().is_empty());
    let (aborted, started) = (sandbox.proxy.seen(), sandbox.proxy.seen());
    let aborted = aborted.iter().filter(|seen| seen.method == "DELETE" && seen.target.contains("uploadId="));
    let started = started.iter().filter(|seen| seen.method == "POST" && seen.target.contains("uploads"));
    assert_eq!(aborted.count(), started.count(), "{:#?}", sandbox.proxy.seen());
    let sessions = "select count(*) from pg_stat_activity where application_name = 'pgproof'";
    wait_until(|| sandbox.server.psql("postgres", sessions) == "0");
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come in {PATIENCE:?}");
    }
}
