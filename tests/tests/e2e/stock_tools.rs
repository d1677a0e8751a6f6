//! Nobody is locked in: the stock tools restore a backup and check its signature without pgproof.

use std::fs::File;
use std::process::{Command, Stdio};

use pgproof_tests::comparison;
use pgproof_tests::hard_cases;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};

#[test]
fn age_zstd_and_pg_restore_restore_a_backup() {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::S3);
    hard_cases::load(&sandbox.server, SOURCE);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.create_database("restored");
    // The second recipient's key, which pgproof itself never used.
    let line = format!(
        "set -o pipefail; age -d -i '{}' '{}' | zstd -d | '{}' --exit-on-error -h '{}' -U postgres -d restored",
        sandbox.path("second-identity.txt").display(),
        sandbox.object("data.000.zst.age").display(),
        sandbox.server.programs().join("pg_restore").display(),
        sandbox.server.host().display(),
    );
    succeed(Command::new("bash").args(["-c", &line]));
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));

    let manifest = std::fs::read_to_string(sandbox.object("manifest.json")).expect("a manifest");
    assert!(manifest.contains("zstd -d | pg_restore"), "the manifest tells how: {manifest}");
    for name in ["measurements", "Täble", "hard_owner"] {
        assert!(!manifest.contains(name), "the manifest names {name}");
    }
}

#[test]
fn ssh_keygen_verifies_the_manifest() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let verify = || {
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "verify", "-n", "pgproof-manifest", "-I", "backup-host@example.org"]);
        command.arg("-f").arg(sandbox.path("trusted_signers"));
        command.arg("-s").arg(sandbox.object("manifest.json.sig"));
        command.stdin(File::open(sandbox.object("manifest.json")).expect("a manifest"));
        command
    };
    succeed(&mut verify());
    let path = sandbox.object("manifest.json");
    let text = std::fs::read_to_string(&path).expect("a manifest").replacen("app", "apq", 1);
    std::fs::write(&path, text).expect("a changed manifest");
    assert!(!verify().output().expect("ssh-keygen").status.success());
}

#[test]
fn stdout_is_the_plain_archive() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.create_database("restored");
    let mut restore = sandbox.command(&["restore", SOURCE, "--at", "now", "--stdout"]);
    let mut restore = restore.stdout(Stdio::piped()).spawn().expect("pgproof");
    let mut load = sandbox.server.client("pg_restore");
    load.args(["--exit-on-error", "-d", "restored"]).stdin(restore.stdout.take().expect("a pipe"));
    succeed(&mut load);
    assert!(restore.wait().expect("pgproof ends").success());
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
}
