//! Drills of restores that lost or changed something although the backup is whole and well signed: each must fail,
//! and by the check that is there for it. And drills of PostgreSQL's hard cases: each check must pass.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgproof_tests::hard_cases;
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;

/// What is restored and then taken away again; its large objects are one of several pieces, one empty, one sparse.
const BELONGINGS: &str = "
    create index notes_by_order on notes (order_id);
    create sequence counter; select nextval('counter'), nextval('counter');
    create view long_notes as select id from notes where length(body) > 7;
    create function twice(int) returns int language sql as 'select $1 * 2';
    create table switches (id int primary key, state varchar(10) default 'off' check (state in ('on', 'off')));
    create function note() returns trigger language plpgsql as $$ begin return new; end $$;
    create trigger noted after insert on switches for each row execute function note();
    select lo_from_bytea(4711, decode(repeat('0a5c2e', 2000000), 'hex')), lo_from_bytea(4712, ''), lo_create(4713);
    select lo_put(4713, 1000000, 'after a hole');
    alter table notes add constraint later check (id > 5) not valid;
    create materialized view unpopulated as select 1 as one with no data;
    create type place as (street text, house int);
    create role clerk; grant select on orders to clerk;
    create type feeling as enum ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i');
    create table feelings (f feeling, n int) partition by hash (f);
    create table feelings_0 partition of feelings for values with (modulus 3, remainder 0);
    create table feelings_1 partition of feelings for values with (modulus 3, remainder 1);
    create table feelings_2 partition of feelings for values with (modulus 3, remainder 2);
    insert into feelings select chr(97 + n % 9)::feeling, n from generate_series(1, 900) n";

/// A check, and SQL for the restored database after which it must fail.
const LOSSES: [(&str, &str); 13] = [
    ("tables", "delete from public.notes where id = 7"),
    ("tables", "delete from public.feelings where n = 7"),
    ("tables", "update public.orders set body = 'x' where id = 12345"),
    ("tables", "drop table public.notes cascade"),
    ("structure", "drop index public.notes_by_order"),
    ("structure", "alter table public.notes drop constraint notes_order_id_fkey"),
    ("structure", "drop trigger noted on public.switches"),
    ("structure", "alter table public.switches alter state set default 'on'"),
    (
        "structure",
        "create or replace view public.long_notes as select id from public.notes where length(body) > 8",
    ),
    ("structure", "create or replace function public.twice(int) returns int language sql as 'select $1 * 3'"),
    ("sequences", "select setval('public.counter', 1)"),
    ("large objects", "select lo_unlink(4712)"),
    ("large objects", "select lo_put(4711, 5999999, 'x')"),
];

#[test]
fn drill_fails_whatever_a_restore_lost() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.server.psql(SOURCE, BELONGINGS);
    // As of a replica that nobody is to write to by mistake: no proof may be the weaker for it.
    sandbox.server.psql(SOURCE, "alter database app set default_transaction_read_only = on");
    sandbox.run_well(&["backup", SOURCE]);
    let programs = Damaging::new();
    let sandbox = sandbox.with_clients(programs.folder.path());

    let whole = sandbox.drill(&[]);
    assert_eq!(whole["verdict"], "passed", "{whole:#}");
    assert!(
        check(&whole, "constraints")["detail"].to_string().contains("later on public.notes"),
        "{whole:#}"
    );
    let unpopulated = &check(&whole, "materialized views")["detail"];
    assert!(unpopulated.to_string().contains("public.unpopulated"), "{whole:#}");
    assert_eq!(check(&whole, "amcheck")["outcome"], "passed", "{whole:#}");
    assert_eq!(whole["negative_control"]["outcome"], "passed", "{whole:#}");

    for (name, damage) in LOSSES {
        programs.damage_with(damage);
        let report = sandbox.drill(&[]);
        assert_eq!(report["verdict"], "failed", "{damage}: {report:#}");
        assert_eq!(check(&report, name)["outcome"], "failed", "{damage}: {report:#}");
    }
}

#[test]
fn tables_that_the_policy_leaves_out_weaken_the_proof() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.server.psql(SOURCE, BELONGINGS);
    let sandbox = sandbox.with_policy_lines("exclude_tables = [\"public.switches\"]");
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    let structure = check(&report, "structure");
    assert_eq!(structure["outcome"], "degraded", "{report:#}");
    let expected = "the policy left out of the dump: table public.switches";
    assert_eq!(structure["reason"], expected, "{structure:#}");
}

#[test]
fn own_checks_are_asked_as_their_role_and_within_their_time() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.server.psql(SOURCE, BELONGINGS);
    let sandbox = sandbox.with_policy_lines(
        r#"
        [sources.app.verification]
        schedule = "0 4 * * *"
        checks = [
            { name = "who", sql = "select current_user", expect = "clerk", role = "clerk" },
            { name = "may", sql = "select count(*) from orders", at_least = 20000, at_most = 20000, role = "clerk" },
            { name = "may not", sql = "select count(*) from notes", at_least = 1, role = "clerk" },
            { name = "nobody", sql = "select 1", expect = "1", role = "nobody at all" },
            { name = "too few", sql = "select count(*) from notes", at_least = 501 },
            { name = "too many", sql = "select count(*) from notes", at_most = 499 },
            { name = "too slow", sql = "select pg_sleep(600) is null", expect = "f", time_limit = "1s" },
            { name = "writes", sql = "delete from notes returning 1", expect = "1" },
        ]
        "#,
    );
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "failed", "{report:#}");
    let outcome = |name: &str| check(&report, &format!("check {name:?}"));
    for name in ["who", "may"] {
        assert_eq!(outcome(name)["outcome"], "passed", "{report:#}");
    }
    let refused = [
        ("may not", "permission denied"),
        ("nobody", "does not exist"),
        ("too few", "500"),
        ("too many", "500"),
        ("too slow", "statement timeout"),
        ("writes", "read-only"),
    ];
    for (name, told) in refused {
        let outcome = outcome(name);
        assert_eq!(outcome["outcome"], "failed", "{outcome:#}");
        assert!(outcome["reason"].to_string().contains(told), "{outcome:#}");
    }
    assert_eq!(check(&report, "tables")["outcome"], "passed", "{report:#}");
}

#[test]
fn drill_of_the_hard_cases_on_postgres_15() {
    proves_the_hard_cases(PostgresVersion::V15);
}

#[test]
fn drill_of_the_hard_cases_on_postgres_16() {
    proves_the_hard_cases(PostgresVersion::V16);
}

#[test]
fn drill_of_the_hard_cases_on_postgres_18() {
    proves_the_hard_cases(PostgresVersion::V18);
}

fn proves_the_hard_cases(version: PostgresVersion) {
    let sandbox = Sandbox::new(version, RepositoryKind::Directory);
    hard_cases::load(&sandbox.server, SOURCE);
    // By which rows would read otherwise in the source, in what is restored, or for the verifier's role.
    sandbox.server.psql(
        SOURCE,
        "alter database app set bytea_output = 'escape'; alter database app set IntervalStyle = 'iso_8601'; \
         alter database app set DateStyle = 'German'; alter role postgres set TimeZone = 'Asia/Kathmandu'; \
         alter role postgres in database app set extra_float_digits = -5",
    );
    sandbox.run_well(&["backup", SOURCE]);
    let report = sandbox.drill(&[]);
    let must_pass = [
        "tables",
        "sequences",
        "large objects",
        "structure",
        "constraints",
        "materialized views",
        "extensions",
        "collation versions",
    ];
    for name in must_pass {
        assert_eq!(check(&report, name)["outcome"], "passed", "{report:#}");
    }
    // Servers without the contrib packages have no amcheck, and that must be said.
    let expected = if version.has_contrib() { "passed" } else { "not_run" };
    assert_eq!(check(&report, "amcheck")["outcome"], expected, "{report:#}");
    let failed =
        report["checks"].as_array().expect("checks").iter().find(|check| check["outcome"] == "failed");
    assert_eq!(failed, None, "{report:#}");
}

/// The check of this name.
fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
}

/// All of PostgreSQL 15's programs, with a `pg_restore` that damages the database once it has finished it.
struct Damaging {
    folder: tempfile::TempDir,
}

impl Damaging {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pgproof-bin.").tempdir_in("/tmp").expect("a folder");
        // The server runs as another user than its starter.
        set_mode(folder.path(), 0o755);
        let true_ones = PostgresVersion::V15.programs();
        for entry in std::fs::read_dir(&true_ones).expect("programs").flatten() {
            if entry.file_name() != "pg_restore" {
                let link = folder.path().join(entry.file_name());
                std::os::unix::fs::symlink(entry.path(), link).expect("a link");
            }
        }
        let damaging = Self { folder };
        let script = format!(
            "#!/bin/bash\n{bin}/pg_restore \"$@\" || exit\n[[ \"$*\" == *--section=post-data* ]] || exit 0\n\
             for argument; do case $argument in --dbname=*) database=${{argument#--dbname=}};; esac; done\n\
             exec {bin}/psql -X -q -v ON_ERROR_STOP=1 -d \"$database\" -f {damage} > /dev/null\n",
            bin = true_ones.display(),
            damage = damaging.file().display(),
        );
        let program = damaging.folder.path().join("pg_restore");
        std::fs::write(&program, script).expect("a script");
        set_mode(&program, 0o755);
        damaging.damage_with("select 1");
        damaging
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("damage.sql")
    }

    fn damage_with(&self, sql: &str) {
        std::fs::write(self.file(), sql).expect("a file of SQL");
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("own file");
}
