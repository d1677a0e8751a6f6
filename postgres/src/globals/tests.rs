use super::*;
use crate::cluster::{Cluster, ClusterOptions};
use std::path::Path;

const BIN: &str = "/usr/lib/postgresql/15/bin";

fn refused(text: &str) -> Vec<String> {
    Globals::parse(text).err().map(|r| r.statements).unwrap_or_default()
}

#[test]
fn what_pg_dumpall_writes_is_taken() {
    let text = r#"--
-- PostgreSQL database cluster dump
--
\restrict AbC123
SET default_transaction_read_only = off;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE ROLE "odd ""; DROP name";
ALTER ROLE "odd ""; DROP name" WITH LOGIN PASSWORD 'SCRAM-SHA-256$4096:a;b''c';
ALTER ROLE app IN DATABASE "x;y" SET "app.greeting" TO E'it''s \'; DROP';
COMMENT ON ROLE app IS 'a; b -- c';
GRANT app TO web WITH ADMIN OPTION GRANTED BY postgres;
CREATE TABLESPACE fast OWNER app LOCATION '/fast';
ALTER TABLESPACE fast SET (seq_page_cost=1.5);
REVOKE ALL ON TABLESPACE fast FROM PUBLIC;
GRANT CREATE ON TABLESPACE fast TO app;
GRANT SET ON PARAMETER work_mem TO app;
/* nested /* comment; */ */
\unrestrict AbC123
"#;
    let globals = Globals::parse(text).unwrap();
    let kinds: Vec<_> = globals.statements.iter().map(|s| (s.kind, s.object.as_str())).collect();
    assert_eq!(
        kinds,
        [
            (Kind::CreateRole, "odd \"; DROP name"),
            (Kind::AlterRole, "odd \"; DROP name"),
            (Kind::AlterRole, "app"),
            (Kind::Comment, "app"),
            (Kind::GrantMembership, "app"),
            (Kind::CreateTablespace, "fast"),
            (Kind::AlterTablespace, "fast"),
            (Kind::TablespaceRights, "fast"),
            (Kind::TablespaceRights, "fast"),
            (Kind::ParameterRights, "work_mem"),
        ]
    );
    assert!(!format!("{globals:?}").contains("SCRAM"));
}

#[test]
fn everything_else_is_refused_by_name() {
    for hostile in [
        "DROP ROLE app;",
        "\\! touch /tmp/x\nCREATE ROLE a;",
        "\\restrict a b\n",
        "\\unrestrict x; \\! id\n",
        "CREATE ROLE a; \\! id\n",
        "CREATE ROLE a \\! id\n;",
        "COPY t FROM PROGRAM 'id';",
        "DO $$ BEGIN PERFORM 1; END $$;",
        "SELECT pg_catalog.set_config('search_path', 'evil', false);",
        "SELECT pg_read_file('/etc/passwd');",
        "SET session_preload_libraries = 'x';",
        "SET standard_conforming_strings = off;",
        "GRANT ALL ON DATABASE x TO y;",
        "GRANT pg_execute_server_program, a TO y;",
        "CREATE FUNCTION f() RETURNS int AS $x$ CREATE ROLE a; $x$ LANGUAGE sql;",
        "COMMENT ON DATABASE x IS 'y';",
        "CREATE ROLE a",
        "CREATE ROLE \"a;",
        "ALTER SYSTEM SET x = 1;",
    ] {
        assert!(!refused(hostile).is_empty(), "{hostile} was taken");
    }
    let both = refused("DROP ROLE a; CREATE ROLE b; VACUUM;");
    assert_eq!(both, ["DROP ROLE a", "VACUUM"]);
    let shown = refused("CREATE USER a PASSWORD 'geheim'; ALTER USER a PASSWORD 'geheim");
    assert!(shown.len() == 2 && !shown.join("").contains("geheim"), "{shown:?}");
}

#[tokio::test]
async fn a_clusters_globals_are_made_on_another() {
    let source = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let sql = "CREATE ROLE app LOGIN PASSWORD 'one'; CREATE ROLE \"odd '\"\" name\" IN ROLE app;
               COMMENT ON ROLE app IS 'it''s; odd'; ALTER ROLE app SET work_mem = '8MB'; CREATE ROLE there";
    source.spec().connect().await.unwrap().batch_execute(sql).await.unwrap();
    let spec = source.spec().clone();
    let dumped = tokio::task::spawn_blocking(move || {
        crate::dump::dump_globals(&Path::new(BIN).join("pg_dumpall"), &spec, drop).unwrap()
    });
    let globals = Globals::parse(&dumped.await.unwrap().text).unwrap();
    assert!(globals.roles().any(|role| role == "odd '\" name"));
    let target = Cluster::start(Path::new(BIN), ClusterOptions::default()).await.unwrap();
    let session = target.spec().connect().await.unwrap();
    session.batch_execute("CREATE ROLE there LOGIN").await.unwrap();
    let applied = apply(&session, &globals, ApplyOptions::default()).await.unwrap();
    let failed: Vec<_> = applied.iter().filter(|a| matches!(a.outcome, Outcome::Failed { .. })).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let skipped: Vec<_> = applied
        .iter()
        .filter(|a| matches!(a.outcome, Outcome::Skipped { .. }))
        .map(|a| (a.kind, a.object.as_str()))
        .collect();
    let expected = ["postgres", "there"].map(|role| [(Kind::CreateRole, role), (Kind::AlterRole, role)]);
    assert_eq!(skipped, expected.concat());
    let check = "SELECT rolcanlogin AND pg_has_role('odd ''\" name', 'app', 'MEMBER'),
                        shobj_description(a.oid, 'pg_authid'), setconfig
                 FROM pg_catalog.pg_authid a JOIN pg_catalog.pg_db_role_setting ON setrole = a.oid WHERE rolname = 'app' AND rolpassword LIKE 'SCRAM%'";
    let row = session.query_one(check, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    assert_eq!(
        (row.get::<_, &str>(1), row.get::<_, Vec<String>>(2)),
        ("it's; odd", vec!["work_mem=8MB".to_owned()])
    );
    let there = session.query_one("SELECT rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = 'there'", &[]);
    assert!(there.await.unwrap().get::<_, bool>(0), "an existing role was changed");
    source.stop().await.unwrap();
    target.stop().await.unwrap();
}
