//! Drills on servers that lack an extension of the source: allowed or not by the policy, and with other errors besides.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgproof_tests::postgres_server::{PostgresServer, succeed};
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;

/// The database that the policy's connection to a scratch server names.
const HOME: &str = "pgproof_drill_home";
/// Objects of every kind that follow from an extension, beside some that do not.
const WITH_HSTORE: &str = "
    create extension hstore;
    create role clerk;
    create table geo (id int primary key, h hstore not null default 'a=>1', note text default 'x
pg_restore: error: not one');
    comment on column geo.h is 'pairs';
    create index on geo using gin (h);
    create view geo_view as select id, h -> 'a' as a from geo;
    create materialized view geo_kept as select * from geo_view;
    create table visits (id int primary key, geo_id int references geo);
    create function first_of(hstore) returns text language sql as 'select 1::text';
    create table of_rows (whole geo);
    grant execute on function hstore_in(cstring) to clerk;
    insert into geo select n, hstore('a', n::text) from generate_series(1, 100) n;
    insert into visits select n, n from generate_series(1, 100) n";
/// A view that cannot be refreshed in a restore, whose search path is empty.
const BROKEN: &str = "
    create function count_orders() returns bigint language plpgsql as 'begin return (select count(*) from orders); end';
    create materialized view broken as select count_orders() as orders";

#[test]
fn what_depends_on_a_missing_extension_degrades_the_drill_where_the_policy_allows_it() {
    let (sandbox, _scratch) = drilled_elsewhere(WITH_HSTORE, "\"hstore\"");
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    for name in ["restore", "tables"] {
        let check = check(&report, name);
        assert_eq!(check["outcome"], "degraded", "{report:#}");
        assert!(check["reason"].as_str().expect("a reason").contains("hstore is missing"), "{check:#}");
    }
    let told = report["warnings"].to_string();
    for object in [
        "EXTENSION hstore",
        "TABLE public.geo",
        "VIEW public.geo_view",
        "MATERIALIZED VIEW public.geo_kept",
        "TABLE public.of_rows",
        "FUNCTION public.first_of",
        "INDEX public.geo_h_idx",
        "FK CONSTRAINT public.visits visits_geo_id_fkey",
    ] {
        assert!(told.contains(&format!("not restored: {object}")), "{object} in {told}");
    }
    assert!(!told.contains("TABLE public.visits") && !told.contains("TABLE public.orders"), "{told}");
    let compared: Vec<&str> = report["tables"]
        .as_array()
        .expect("tables")
        .iter()
        .filter_map(|table| table["name"].as_str())
        .collect();
    assert_eq!(compared, ["notes", "orders", "visits"], "{report:#}");
}

#[test]
fn a_missing_extension_that_the_policy_does_not_name_is_not_the_backups_fault() {
    let (sandbox, _scratch) = drilled_elsewhere(WITH_HSTORE, "");
    let report = sandbox.drill(&[]);
    assert_eq!((&report["verdict"], &report["attempts"]), (&"not_run".into(), &1.into()), "{report:#}");
    let reason = check(&report, "server")["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("lacks extension hstore") && reason.contains("missing_extensions"), "{reason}");
    let backup = &sandbox.good_backups()[0];
    assert!(backup["proved_at"].is_null() && backup["failed_at"].is_null(), "{backup:#}");
}

#[test]
fn an_error_beside_those_of_a_missing_extension_fails_the_drill() {
    let (sandbox, _scratch) = drilled_elsewhere(&format!("{WITH_HSTORE};{BROKEN}"), "\"hstore\"");
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "failed", "{report:#}");
    let reason = check(&report, "restore")["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("MATERIALIZED VIEW DATA public.broken"), "{reason}");
}

#[test]
fn rows_of_a_missing_extensions_own_tables_are_left_out() {
    let sandbox = Sandbox::new(PostgresVersion::V18, RepositoryKind::S3);
    sandbox.server.create_database(SOURCE);
    let sql = "create extension pgproof_settings; insert into settings values ('own', 'of the users'); \
               select setval('settings_seen', 17); create role clerk; grant select on settings to clerk; \
               create view own_settings as select * from settings; \
               create table plain (id int primary key); insert into plain select generate_series(1, 10)";
    sandbox.server.psql(SOURCE, sql);
    let elsewhere = Elsewhere::without(sandbox.server.programs(), "pgproof_settings");
    sandbox.run_well(&["backup", SOURCE]);
    let sandbox =
        sandbox.with_policy_lines(&verification("\"pgproof_settings\"")).with_clients(&elsewhere.programs);
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "degraded", "{report:#}");
    let tables = check(&report, "tables")["reason"].as_str().expect("a reason").to_owned();
    assert!(tables.contains("public.settings"), "{tables}");
    let told = report["warnings"].to_string();
    for object in
        ["VIEW public.own_settings", "SEQUENCE SET public.settings_seen", "ACL public.TABLE settings"]
    {
        assert!(told.contains(&format!("not restored: {object}")), "{object} in {told}");
    }
}

/// A backup of Debian's server with these objects, drilled on one without contrib extensions.
fn drilled_elsewhere(sql: &str, allowed: &str) -> (Sandbox, PostgresServer) {
    let scratch = PostgresServer::start(PostgresVersion::V16);
    scratch.create_database(HOME);
    let mut lines = verification(allowed);
    let section =
        format!("[sources.{SOURCE}.verification.scratch]\nconnection = \"{}\"\n", scratch.uri(HOME));
    write!(lines, "{section}").expect("a string takes all");
    let sandbox = Sandbox::small().with_policy_lines(&lines).with_clients(scratch.programs());
    sandbox.server.psql(SOURCE, sql);
    sandbox.run_well(&["backup", SOURCE]);
    (sandbox, scratch)
}

fn verification(allowed: &str) -> String {
    format!(
        "[sources.{SOURCE}.verification]\nschedule = \"0 3 * * *\"\nattempts = 2\nmissing_extensions = [{allowed}]\n"
    )
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
}

/// A copy of a fetched server that lacks an extension.
struct Elsewhere {
    programs: PathBuf,
    _folder: tempfile::TempDir,
}

impl Elsewhere {
    fn without(programs: &Path, extension: &str) -> Self {
        // The server's account must be able to enter, as a private server runs under it.
        let folder = tempfile::Builder::new().prefix("pgproof-server.").tempdir_in("/tmp").expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("own folder");
        // The programs find their libraries by their place in the package.
        let installed = programs.parent().expect("the server's folder");
        let package = installed.parent().expect("the package's folder");
        let copied = folder.path().join(package.file_name().expect("a name"));
        std::fs::create_dir(&copied).expect("a folder");
        let libraries = package.with_extension("libs");
        for (from, to) in [(installed, &*copied), (&*libraries, folder.path())] {
            succeed(Command::new("cp").arg("-a").arg(from).arg(to));
        }
        let copied = copied.join(installed.file_name().expect("a name"));
        let control = copied.join(format!("share/postgresql/extension/{extension}.control"));
        std::fs::remove_file(control).expect("the extension");
        Self { programs: copied.join("bin"), _folder: folder }
    }
}
