//! Backups and restores as an operator runs them.

use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use pgproof_tests::{comparison, hard_cases};

const USAGE: i32 = 2;
const NOTHING_FOUND: i32 = 3;

#[test]
fn directory_repository_keeps_the_hard_cases() {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::Directory);
    hard_cases::load(&sandbox.server, SOURCE);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--jobs", "2", "--yes"]);
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
}

#[test]
fn row_of_100_megabytes_comes_back() {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::S3);
    hard_cases::load(&sandbox.server, SOURCE);
    hard_cases::add_huge_row(&sandbox.server, SOURCE, 100);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--jobs", "2", "--yes"]);
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
}

#[test]
fn database_in_latin1_comes_back() {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::S3);
    hard_cases::load_latin1(&sandbox.server, SOURCE);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
    let encoding = "select pg_encoding_to_char(encoding) from pg_database where datname = 'restored'";
    assert_eq!(sandbox.server.psql("postgres", encoding), "LATIN1");
}

#[test]
fn restore_takes_the_newest_backup_before_the_time() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE, "--tag", "release=1", "--reason", "before the change"]);
    sandbox.server.psql(SOURCE, "update notes set body = 'changed'");
    sandbox.run_well(&["backup", SOURCE]);
    let backups = sandbox.good_backups();
    assert_eq!(backups.len(), 2, "{backups:#?}");
    assert_eq!(backups[0]["tags"]["release"], "1");
    assert_eq!(backups[0]["reason"], "before the change");

    let moment = backups[0]["snapshot_at"].as_str().expect("a time");
    sandbox.run_well(&["restore", SOURCE, "--at", moment, "--into", "earlier", "--yes"]);
    let changed = "select count(*) from notes where body = 'changed'";
    assert_eq!(sandbox.server.psql("earlier", changed), "0");
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "later", "--yes"]);
    assert_eq!(sandbox.server.psql("later", changed), "500");
}

#[test]
fn times_that_cannot_be_meant_are_refused() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let without_zone = sandbox.run(&["restore", SOURCE, "--at", "2026-11-24 01:30", "--into", "x", "--yes"]);
    assert_eq!(without_zone.code, Some(USAGE), "{}", without_zone.stderr);
    let too_early = sandbox.run(&["restore", SOURCE, "--at", "2001-01-01 00:00 UTC", "--into", "x", "--yes"]);
    assert_eq!(too_early.code, Some(NOTHING_FOUND), "{}", too_early.stderr);
    assert!(!sandbox.server.has_database("x"));
}

#[test]
fn restore_refuses_a_database_with_something_in_it() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.create_database("taken");
    sandbox.server.psql("taken", "create table precious (id int); insert into precious values (1)");
    let outcome = sandbox.run(&["restore", SOURCE, "--at", "now", "--into", "taken", "--yes"]);
    assert!(!outcome.succeeded(), "{}", outcome.text());
    assert_eq!(sandbox.server.psql("taken", "select count(*) from precious"), "1");
    assert_eq!(sandbox.server.psql("taken", "select count(*) from pg_class where relname = 'orders'"), "0");
}

#[test]
fn dry_run_changes_nothing() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let outcome = sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "planned", "--dry-run"]);
    assert!(outcome.text().contains("planned"), "{}", outcome.text());
    let document = ["restore", SOURCE, "--at", "now", "--into", "planned", "--dry-run", "--json"];
    let document = sandbox.run_well(&document).json();
    assert_eq!((&document["dry_run"], &document["rows"]), (&true.into(), &20_500.into()), "{document}");
    const USAGE: i32 = 2;
    for wrong in [
        &["--archive", "99", "--stdout"][..],
        &["--target", "postgresql://me:secret@localhost/postgres"],
        &["--stdout", "--dry-run"],
    ] {
        let refused = sandbox.run(&[&["restore", SOURCE, "--at", "now"], wrong].concat());
        assert_eq!((refused.code, refused.stdout.len()), (Some(USAGE), 0), "{wrong:?}: {}", refused.stderr);
    }
    assert_eq!(sandbox.run(&["--log", "bad[", "list"]).code, Some(USAGE));
    assert_eq!(sandbox.run(&["backup", SOURCE, "--tag", "a=1", "--tag", "a=2"]).code, Some(USAGE));
    assert!(!sandbox.server.has_database("planned"));
}

#[test]
fn one_table_comes_back_alone_and_costs_only_its_bytes() {
    let sandbox = Sandbox::bulky(40);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.proxy.forget_seen();
    sandbox.run_well(&[
        "restore",
        SOURCE,
        "--at",
        "now",
        "--into",
        "one",
        "--table",
        "public.notes",
        "--yes",
    ]);
    let fetched: u64 = sandbox.proxy.seen().iter().map(|seen| seen.response_bytes).sum();
    let stored = std::fs::metadata(sandbox.object("data.000.zst.age")).expect("the archive").len();
    comparison::assert_same_table((&sandbox.server, SOURCE), (&sandbox.server, "one"), "public.notes");
    assert_eq!(sandbox.server.psql("one", "select count(*) from pg_class where relname = 'bulk'"), "0");
    assert!(fetched < stored / 4, "fetched {fetched} of {stored} bytes for a small table");
}

#[test]
fn swap_keeps_the_old_database() {
    let sandbox = Sandbox::small();
    sandbox.server.psql(
        SOURCE,
        "create role shop_owner; create role clerk; alter database app owner to shop_owner; \
         alter database app connection limit 40; revoke connect on database app from public; \
         grant connect on database app to clerk with grant option",
    );
    let properties = "select datdba::regrole, datacl, datconnlimit from pg_database where datname = 'app'";
    let before = sandbox.server.psql("postgres", properties);
    assert!(before.starts_with("shop_owner|{=T/shop_owner,") && before.ends_with("|40"), "{before}");
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.psql(SOURCE, "delete from notes");

    let within = sandbox.server.uri(SOURCE);
    let swap = ["restore", SOURCE, "--at", "now", "--swap", "--yes"];
    let refused = sandbox.run(&[&swap[..], &["--into", "restored", "--target", &within]].concat());
    assert_eq!(refused.code, Some(USAGE), "{}", refused.text());
    assert!(!sandbox.server.has_database("restored"), "found out after the restore");

    sandbox.run_well(&swap);
    assert_eq!(sandbox.server.psql("postgres", properties), before);
    assert_eq!(sandbox.server.psql(SOURCE, "select count(*) from notes"), "500");
    let kept = "select datname from pg_database where datname like 'app%' and datname <> 'app'";
    let kept = sandbox.server.psql("postgres", kept);
    assert_eq!(sandbox.server.psql(&kept, "select count(*) from notes"), "0", "kept as {kept:?}");
}

#[test]
fn backing_up_host_cannot_read_what_it_wrote() {
    let sandbox = Sandbox::small();
    let backup = sandbox.run_as_host(&["backup", SOURCE]);
    assert!(backup.succeeded(), "{}", backup.stderr);
    let restore = sandbox.run_as_host(&["restore", SOURCE, "--at", "now", "--into", "x", "--yes"]);
    assert!(!restore.succeeded());
    assert!(restore.stderr.contains("identity"), "{}", restore.stderr);
    assert!(!sandbox.server.has_database("x"));
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "y", "--yes"]);
}

#[test]
fn table_hidden_by_row_security_fails_the_backup() {
    let sandbox = Sandbox::small();
    sandbox.server.psql(
        SOURCE,
        "create role clerk login; grant select on all tables in schema public to clerk; \
         alter table notes enable row level security",
    );
    let uri = sandbox.server.uri_as("clerk", SOURCE);
    let sandbox = sandbox.with_connection(&uri);
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert!(!outcome.succeeded());
    assert!(outcome.stderr.contains("notes"), "{}", outcome.stderr);
    assert!(sandbox.good_ids().is_empty());
}

#[test]
fn prune_removes_by_rule_and_never_the_last() {
    let sandbox = Sandbox::small().with_retention("{ last = 1 }");
    for _ in 0..3 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let ids = sandbox.good_ids();
    assert_eq!(ids.len(), 3);
    let plan = sandbox.run_well(&["prune", SOURCE, "--dry-run"]);
    assert!(ids.iter().all(|id| plan.text().contains(id)), "{}", plan.text());
    assert_eq!(sandbox.good_ids(), ids, "a plan removes nothing");
    sandbox.run_well(&["hold", SOURCE, &ids[0], "--reason", "evidence"]);
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    assert_eq!(sandbox.good_ids(), [ids[0].clone(), ids[2].clone()]);
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
}
