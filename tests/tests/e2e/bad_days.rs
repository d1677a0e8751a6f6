//! Bad days of an operator: each is one line that says what, and one that says what to do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use pgproof_tests::postgres_server::is_root;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
/// What no output may ever hold.
const PASSWORD: &str = "pw-that-nobody-may-see";

#[test]
fn wrong_password() {
    let sandbox = Sandbox::small().with_password_for("app_owner", PASSWORD);
    let file = sandbox.path("password");
    write_private(&file, &format!("{PASSWORD}-but-wrong\n"));
    let sandbox = connecting_with(sandbox, "app_owner", &file);
    let outcome = sandbox.run(&["backup", SOURCE]);
    is_told(&outcome, FAILED, &["cannot connect to", "password authentication failed"], "password file");
    assert!(sandbox.good_ids().is_empty());

    write_private(&file, &format!("{PASSWORD}\n"));
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert!(!outcome.stderr.contains("password authentication failed"), "{}", outcome.stderr);
}

#[test]
fn password_that_is_asked_for_and_not_given() {
    let sandbox = Sandbox::small().with_password_for("app_owner", PASSWORD);
    let uri = sandbox.server.uri_as("app_owner", SOURCE);
    let sandbox = sandbox.with_connection(&uri);
    is_told(&sandbox.run(&["backup", SOURCE]), FAILED, &["cannot connect to"], "password_file");
}

#[test]
fn password_file_that_others_may_read() {
    let sandbox = Sandbox::small().with_password_for("app_owner", PASSWORD);
    let file = sandbox.path("password");
    write_private(&file, PASSWORD);
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("own file");
    let sandbox = connecting_with(sandbox, "app_owner", &file);
    is_told(&sandbox.run(&["backup", SOURCE]), FAILED, &["password"], "chmod 600");
}

#[test]
fn role_that_the_server_does_not_know() {
    let sandbox = Sandbox::small();
    let uri = sandbox.server.uri_as("nobody", SOURCE);
    let sandbox = sandbox.with_connection(&uri);
    is_told(&sandbox.run(&["backup", SOURCE]), FAILED, &["\"nobody\" does not exist"], "create the role");
}

#[test]
fn server_that_is_gone() {
    let sandbox = Sandbox::small();
    sandbox.server.stop();
    is_told(&sandbox.run(&["backup", SOURCE]), FAILED, &["cannot connect to"], "is the server running");
}

#[test]
fn wrong_bucket() {
    let sandbox = Sandbox::small();
    // The test's server makes buckets as they are written to, so that S3's own answer is the proxy's.
    rewrite_policy(&sandbox, "s3://backups/", "s3://no-such-bucket/");
    sandbox.proxy.add(Rule::new(Fault::Status(404)).containing("/no-such-bucket"));
    let said = ["no bucket or folder at s3://no-such-bucket/"];
    is_told(&sandbox.run(&["backup", SOURCE]), FAILED, &said, "create the bucket");
    is_told(&sandbox.run(&["list"]), FAILED, &said, "create the bucket");
}

#[test]
fn wrong_secret_of_the_bucket() {
    let sandbox = Sandbox::small();
    let run = |arguments: &[&str]| {
        ended(sandbox.command(arguments).env("AWS_SECRET_ACCESS_KEY", "secret-that-nobody-may-see"))
    };
    for arguments in [&["backup", SOURCE][..], &["list"]] {
        let outcome = run(arguments);
        is_told(&outcome, FAILED, &["is not permitted", "SignatureDoesNotMatch"], "check the credentials");
        assert!(!outcome.stderr.contains("secret-that-nobody-may-see"), "{}", outcome.stderr);
    }
}

#[test]
fn no_credentials_for_the_bucket() {
    let sandbox = Sandbox::small();
    let mut command = outside_a_cloud(sandbox.command(&["list"]));
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let outcome = ended(&mut command);
    is_told(&outcome, FAILED, &["credentials"], "AWS_ACCESS_KEY_ID");
    assert!(!outcome.stderr.contains("WARN"), "{}", outcome.stderr);
}

#[test]
fn no_region_for_the_bucket() {
    let sandbox = Sandbox::small();
    rewrite_policy(&sandbox, "region = ", "# region = ");
    rewrite_policy(&sandbox, "endpoint = ", "# endpoint = ");
    let outcome = ended(&mut outside_a_cloud(sandbox.command(&["list"])));
    // Not a word of tries: no time mends it.
    is_told(&outcome, FAILED, &["opened: there is no region for s3://"], "set `region` in [repository]");
    assert!(!outcome.stderr.contains("WARN"), "{}", outcome.stderr);
}

/// The SDK looks for a metadata service, and there is none.
fn outside_a_cloud(mut command: Command) -> Command {
    command.env_remove("AWS_EC2_METADATA_DISABLED");
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9");
    command
}

#[test]
fn folder_that_may_not_be_written() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let folder = sandbox.repository_folder();
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::set_permissions(&folder, Permissions::from_mode(0o500)).expect("own file");
    let outcome = ended(&mut bound_by_permissions(&sandbox.command(&["backup", SOURCE])));
    std::fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("own file");
    is_told(&outcome, FAILED, &["is not permitted", "Permission denied"], "owner and mode");
    assert!(sandbox.objects().is_empty(), "{:#?}", sandbox.objects());
}

#[test]
fn folder_without_space() {
    const MIB: u32 = 4;
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.server.psql(
        SOURCE,
        "create table bulk as select n, (select string_agg(md5(n::text || m), '') from generate_series(1, 32) m) \
         from generate_series(1, 20000) n",
    );
    std::fs::create_dir(sandbox.repository_folder()).expect("a folder");
    let mount = format!("mount -t tmpfs -o size={MIB}m tmpfs {}", sandbox.repository_folder().display());
    let outcome = ended(&mut in_own_mounts(&mount, &sandbox.command(&["backup", SOURCE])));
    is_told(&outcome, FAILED, &["no space left for", "data.000"], "free space where the repository lies");
}

#[test]
fn target_without_space() {
    /// More than a segment of the log, less than the table; no whole number of pages, so that a write is cut short as
    /// on a full disk.
    const FILE_BYTES_MAX: u64 = (20 << 20) + 4096;
    let mut sandbox = Sandbox::bulky(40);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.limit_files(FILE_BYTES_MAX);
    let outcome = sandbox.run(&["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"]);
    is_told(&outcome, FAILED, &["cannot load table public.bulk", "could not extend file"], "free space");
    assert!(!sandbox.server.has_database("restored"), "a half-made database is left");
}

/// The program sees a small file system where the server's data lies; the server itself sees its own.
#[test]
fn target_known_to_have_too_little_space_is_refused_before_anything_is_made() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let restore = |further: &[&str]| {
        let mut arguments = vec!["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"];
        arguments.extend(further);
        let mount = format!("mount -t tmpfs -o size=1m tmpfs {}", sandbox.server.data_folder().display());
        ended(&mut in_own_mounts(&mount, &sandbox.command(&arguments)))
    };
    let plan = restore(&["--dry-run"]);
    assert_eq!(plan.code, Some(0), "{}", plan.stderr);
    assert!(plan.text().contains("TOO LITTLE: 1.00 MiB free"), "{}", plan.text());
    is_told(&restore(&[]), FAILED, &["the target has 1.00 MiB free", "needs"], "--ignore-space");
    assert!(!sandbox.server.has_database("restored"));

    let insisted = restore(&["--ignore-space"]);
    assert_eq!(insisted.code, Some(0), "{}", insisted.stderr);
    let plan = sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "other", "--dry-run"]);
    assert!(plan.text().contains("enough for"), "{}", plan.text());
}

/// A role that is not told where the data lies gets its restore, and is told that nobody looked.
#[test]
fn space_that_is_not_known_is_said_to_be_so() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.psql("postgres", "create role plain login createdb");
    let target = sandbox.server.uri_as("plain", "postgres");
    let arguments =
        ["restore", SOURCE, "--at", "now", "--into", "restored", "--target", &target, "--no-owner"];
    let outcome = sandbox.run_well(&arguments);
    assert!(outcome.stderr.contains("space         not known"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("may not read data_directory"), "{}", outcome.stderr);
}

#[test]
fn policy_that_is_missing() {
    let sandbox = Sandbox::small();
    std::fs::remove_file(sandbox.policy()).expect("a policy");
    is_told(&sandbox.run(&["list"]), USAGE, &["policy", "cannot be read", "No such file"], "--policy FILE");
}

#[test]
fn policy_that_may_not_be_read() {
    let sandbox = Sandbox::small();
    std::fs::set_permissions(sandbox.policy(), Permissions::from_mode(0o000)).expect("own file");
    let outcome = ended(&mut bound_by_permissions(&sandbox.command(&["list"])));
    is_told(&outcome, USAGE, &["policy", "cannot be read", "Permission denied"], "let this account read it");
}

#[test]
fn source_that_the_policy_does_not_have() {
    let sandbox = Sandbox::small();
    for arguments in [&["backup", "aap"][..], &["restore", "aap", "--at", "now"], &["list", "aap"]] {
        is_told(&sandbox.run(arguments), USAGE, &["no source aap", "it has: app"], "one of these");
    }
}

#[test]
fn key_files_that_are_missing() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let restore = ["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"];
    let missing = |name: &str, arguments: &[&str], hint: &str| {
        let (path, aside) = (sandbox.path(name), sandbox.path("aside"));
        std::fs::rename(&path, &aside).expect("a key file");
        let outcome = sandbox.run(arguments);
        std::fs::rename(&aside, &path).expect("a key file");
        is_told(&outcome, FAILED, &[name, "No such file"], hint);
    };
    missing("signing_key", &["backup", SOURCE], "ssh-keygen -t ed25519");
    missing("trusted_signers", &["backup", SOURCE], "keys.trusted_signers");
    missing("identity.txt", &restore, "keys.identity_files");
    assert!(!sandbox.server.has_database("restored"));
}

#[test]
fn keys_that_everybody_may_read() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let restore = ["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"];
    for (name, arguments) in [("identity.txt", &restore[..]), ("signing_key", &["backup", SOURCE])] {
        let path = sandbox.path(name);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("own file");
        let hint = format!("chmod 600 {}", path.display());
        is_told(&sandbox.run(arguments), FAILED, &[name, "644"], &hint);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("own file");
    }
}

/// One line says what, one says what to do; nothing else is there but warnings, and no password.
pub(crate) fn is_told(outcome: &Outcome, code: i32, said: &[&str], hint: &str) {
    let told = &outcome.stderr;
    assert_eq!(outcome.code, Some(code), "{told}");
    let lines = |head: &str| told.lines().filter(|line| line.starts_with(head)).collect::<Vec<_>>();
    let (errors, hints) = (lines("error: "), lines("hint: "));
    assert_eq!((errors.len(), hints.len()), (1, 1), "{told}");
    for words in said {
        assert!(errors[0].contains(words), "{words:?} is not in:\n{told}");
    }
    assert!(hints[0].contains(hint), "{hint:?} is not in:\n{told}");
    assert!(!told.contains("panicked"), "{told}");
    assert!(!told.contains(PASSWORD) && !outcome.text().contains(PASSWORD), "{told}");
}

fn ended(command: &mut Command) -> Outcome {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}

fn connecting_with(sandbox: Sandbox, role: &str, password_file: &std::path::Path) -> Sandbox {
    let uri = sandbox.server.uri_as(role, SOURCE);
    let line = format!("password_file = \"{}\"", password_file.display());
    sandbox.with_connection(&uri).with_policy_lines(&line)
}

pub(crate) fn rewrite_policy(sandbox: &Sandbox, from: &str, to: &str) {
    let text = std::fs::read_to_string(sandbox.policy()).expect("a policy");
    assert!(text.contains(from), "{from} is not in {text}");
    write_private(&sandbox.policy(), &text.replace(from, to));
}

fn write_private(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("own file");
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("own file");
}

/// The same without root's power to pass over owner and mode; whoever is not root never had it.
fn bound_by_permissions(command: &Command) -> Command {
    wrapped(&["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"], command)
}

/// The same after `mount` in a mount namespace of its own, which ends with it on every path.
fn in_own_mounts(mount: &str, command: &Command) -> Command {
    let script = format!("{mount} && exec \"$@\"");
    let mut wrapper = vec!["unshare", "--mount"];
    if !is_root() {
        wrapper.push("--map-root-user");
    }
    wrapper.extend(["--", "sh", "-c", &script, "sh"]);
    wrapped(&wrapper, command)
}

fn wrapped(wrapper: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(wrapper[0]);
    outer.args(&wrapper[1..]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}
