//! No password and no secret key is ever shown: on no argument list, in no output, in no object.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::s3_server::SECRET_KEY;
use pgproof_tests::sandbox::{SOURCE, Sandbox};

const PATIENCE: Duration = Duration::from_secs(60);
const ROLE: &str = "app_owner";
const PASSWORD: &str = "pw-that-nobody-may-see";

#[test]
fn password_of_a_file_is_shown_nowhere() {
    let sandbox = sandbox();
    let file = sandbox.path("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).expect("own file");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("own file");
    let sandbox = sandbox.with_policy_lines(&format!("password_file = \"{}\"", file.display()));
    nothing_is_shown(&sandbox, None);
}

#[test]
fn password_of_the_environment_is_shown_nowhere() {
    nothing_is_shown(&sandbox(), Some(PASSWORD));
}

/// A database of which enough is left, when the upload stands still, that `pg_dump` does, too.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::bulky(150).with_password_for(ROLE, PASSWORD);
    sandbox.server.psql("postgres", &format!("alter role {ROLE} superuser"));
    let uri = sandbox.server.uri_as(ROLE, SOURCE);
    sandbox.with_connection(&uri)
}

fn nothing_is_shown(sandbox: &Sandbox, password: Option<&str>) {
    let watch = Watch::start();
    sandbox.proxy.add(Rule::new(Fault::Hold).method("PUT").containing("partNumber="));
    let mut backup = start(sandbox, "backup", &["backup", SOURCE], password);
    let stuck = sandbox
        .proxy
        .wait_until(PATIENCE, |seen| seen.iter().any(|seen| seen.target.contains("partNumber=")));
    assert!(stuck, "no part was uploaded");
    let now = command_lines();
    assert!(now.iter().any(|line| line.contains("pg_dump")), "pg_dump does not run: {now:#?}");
    sandbox.proxy.release();
    assert!(backup.wait().expect("an end").success(), "{}", output(sandbox, "backup"));

    let arguments = ["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"];
    let mut restore = start(sandbox, "restore", &arguments, password);
    assert!(restore.wait().expect("an end").success(), "{}", output(sandbox, "restore"));

    // A run that fails writes down what its programs said.
    sandbox.server.psql(SOURCE, "create table forbidden (n int)");
    sandbox.server.stop();
    let mut failed = start(sandbox, "failed", &["backup", SOURCE], password);
    assert_eq!(failed.wait().expect("an end").code(), Some(1), "{}", output(sandbox, "failed"));

    let seen = watch.end();
    for program in ["pg_dump", "pg_restore", "pg_dumpall"] {
        assert!(seen.iter().any(|line| line.contains(program)), "{program} was not seen: {seen:#?}");
    }
    for secret in [PASSWORD, SECRET_KEY] {
        for line in &seen {
            assert!(!line.contains(secret), "on an argument list: {line}");
        }
        for name in ["backup", "restore", "failed"] {
            let output = output(sandbox, name);
            assert!(output.contains("DEBUG"), "nothing was logged: {output}");
            assert!(!output.contains(secret), "in the output of {name}");
        }
        for object in sandbox.objects() {
            let bytes = std::fs::read(sandbox.repository_folder().join(&object)).expect("an object");
            let holds = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!holds, "in object {object}");
        }
    }
    let runs = sandbox.objects().iter().filter(|name| name.contains("/runs/")).count();
    assert!(runs >= 2, "{:#?}", sandbox.objects());
}

/// Each fails in the restored database alone, and the server quotes a row or a statement as it says so.
const FAILURES: [(&str, &str); 3] = [
    (
        "create function odd(body text) returns text immutable language plpgsql as
             $$ begin return case current_database() when 'app' then body else 'alice@example.org' end; end $$;
         create unique index odd on notes (odd(body))",
        "drop index odd",
    ),
    (
        "create function fits(body text) returns boolean language sql
             as $$ select current_database() = 'app' or body <> 'bob@example.org' $$;
         create table people (mail text constraint mail_fits check (fits(mail)));
         insert into people values ('bob@example.org')",
        "drop table people",
    ),
    (
        "create subscription feed connection 'dbname=x password=hunter2secret' publication p with (connect = false);
         update pg_subscription set subconninfo = 'dbname=x password=hunter2secret broken'",
        "update pg_subscription set subconninfo = 'dbname=x';
         alter subscription feed set (slot_name = none)",
    ),
];

#[test]
fn rows_and_statements_that_a_server_quotes_are_stored_nowhere() {
    let sandbox = Sandbox::small();
    let named = ["INDEX odd", "people", "SUBSCRIPTION feed"];
    for ((make, unmake), object) in FAILURES.into_iter().zip(named) {
        sandbox.server.psql(SOURCE, make);
        sandbox.run_well(&["backup", SOURCE]);
        let report = sandbox.drill(&[]);
        assert_eq!(report["verdict"], "failed", "{report:#}");
        assert!(report["checks"].to_string().contains(object), "{report:#}");
        let restored = sandbox.run(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
        assert_eq!(restored.code, Some(1), "{}", restored.stderr);
        for text in ["alice@example.org", "bob@example.org", "hunter2secret"] {
            assert!(!restored.stderr.contains(text), "{}", restored.stderr);
        }
        sandbox.server.psql(SOURCE, unmake);
    }
    for text in ["alice@example.org", "bob@example.org", "hunter2secret"] {
        assert_eq!(sandbox.places_of(text), Vec::<String>::new(), "{text}");
    }
    let acts =
        sandbox.objects().iter().filter(|name| name.contains("/audit/") && name.ends_with(".json")).count();
    assert!(acts >= FAILURES.len(), "{:#?}", sandbox.objects());
}

/// The program with everything logged, its output in a file.
fn start(sandbox: &Sandbox, name: &str, arguments: &[&str], password: Option<&str>) -> Child {
    let file = File::create(sandbox.path(&format!("{name}.log"))).expect("a file");
    let mut command = sandbox.command(arguments);
    command.args(["--log", "debug"]).stdout(file.try_clone().expect("a second handle")).stderr(file);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    command.spawn().expect("pgproof")
}

fn output(sandbox: &Sandbox, name: &str) -> String {
    let bytes = std::fs::read(sandbox.path(&format!("{name}.log"))).expect("a log");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Looks at all argument lists of the machine until it is asked to end.
struct Watch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl Watch {
    fn start() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !asked.load(Ordering::Relaxed) {
                seen.extend(command_lines());
            }
            seen
        });
        Self { ended, thread }
    }

    fn end(self) -> BTreeSet<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("a thread that only reads")
    }
}

fn command_lines() -> BTreeSet<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}
