//! A hostile database, drilled by an ordinary user: the private server is that very user's, and must not read its keys.

use std::process::Command;

use pgproof_tests::postgres_server::{SERVER_USER, is_root, succeed};
use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};
use serde_json::Value;

/// What a key of age starts with.
const KEY: &str = "AGE-SECRET-KEY";

#[test]
fn a_hostile_table_reads_no_key_of_a_drill_by_an_ordinary_user() {
    let sandbox = Sandbox::small();
    let identity = sandbox.path("identity.txt").display().to_string();
    // Rows are checked when they are loaded, by a superuser of the private server: to it nobody forbids a file or a program.
    sandbox.server.psql(
        SOURCE,
        &format!(
            "create function loot() returns boolean language plpgsql as $$
             declare stolen text;
             begin
                 if current_database() = '{SOURCE}' then return true; end if;
                 begin
                     stolen := pg_read_file('{identity}');
                 exception when insufficient_privilege then null;
                 end;
                 if stolen is not null then raise exception 'read %', stolen; end if;
                 copy (select 1) to program 'cat > /dev/null; ! cat {identity} > /dev/null 2>&1';
                 return true;
             end $$;
             create table hostile (n int check (loot()));
             insert into hostile values (1), (2)"
        ),
    );
    sandbox.run_well(&["backup", SOURCE]);
    let report = drilled_by_an_ordinary_user(&sandbox);
    let isolation = report["scratch"]["isolation"].as_str().expect("words");
    let server = report["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "server");
    let server = server.expect("a check of the server");
    if isolation.contains("files confined to its folder") {
        assert_eq!(report["verdict"], "passed", "{report:#}");
        assert_eq!(server["outcome"], "passed");
    } else {
        // A machine that does not allow it is told apart; it is never claimed.
        assert!(isolation.contains("files not confined: "), "{isolation}");
        let reason = server["reason"].to_string();
        assert!(reason.contains("could read the verifier's own files"), "{report:#}");
    }
    assert_eq!(sandbox.places_of(KEY), Vec::<String>::new());
}

fn drilled_by_an_ordinary_user(sandbox: &Sandbox) -> Value {
    if !is_root() {
        return sandbox.drill(&[]);
    }
    let command = sandbox.verifier_command(&["drill", SOURCE, "--json"]);
    succeed(
        Command::new("chown").args(["-R", SERVER_USER]).arg(sandbox.policy().parent().expect("a folder")),
    );
    let user = [format!("--reuid={SERVER_USER}"), format!("--regid={SERVER_USER}")];
    let mut as_user = Command::new("setpriv");
    as_user.args(user).args(["--clear-groups", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => as_user.env(name, value),
            None => as_user.env_remove(name),
        };
    }
    as_user.current_dir(command.get_current_dir().expect("a folder"));
    Outcome::of(&mut as_user).json()
}
