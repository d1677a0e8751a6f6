//! Whatever was changed in the bucket is refused with its own message, before anything reaches PostgreSQL.

use std::path::Path;
use std::process::Command;

use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};

#[test]
fn one_flipped_byte_in_any_object_is_found() {
    let sandbox = backed_up();
    let id = sandbox.good_ids().remove(0);
    let folder = format!("{SOURCE}/backups/{id}/");
    let objects: Vec<String> =
        sandbox.objects().into_iter().filter(|name| name.starts_with(&folder)).collect();
    assert_eq!(objects.len(), 5, "archive, globals, inventory, manifest, signature: {objects:#?}");
    for name in objects {
        let path = sandbox.repository_folder().join(&name);
        let whole = std::fs::read(&path).expect("an object");
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&path, &damaged).expect("a damaged object");
        let check = sandbox.run(&["check", SOURCE, "--read-data"]);
        assert!(!check.succeeded(), "{name} passed the check: {}", check.text());
        if !name.ends_with("globals.sql.zst.age") {
            refuses_to_restore(&sandbox, &name);
        }
        std::fs::write(&path, whole).expect("the object as it was");
    }
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
}

#[test]
fn object_that_was_cut_is_found_by_its_size() {
    let sandbox = backed_up();
    let path = sandbox.object("data.000.zst.age");
    let bytes = std::fs::read(&path).expect("the archive");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("a cut archive");
    assert!(!sandbox.run(&["check", SOURCE]).succeeded(), "sizes are compared without reading data");
    refuses_to_restore(&sandbox, "cut archive");
}

#[test]
fn object_that_is_gone_is_found() {
    let sandbox = backed_up();
    std::fs::remove_file(sandbox.object("data.000.zst.age")).expect("the archive");
    assert!(!sandbox.run(&["check", SOURCE]).succeeded());
    refuses_to_restore(&sandbox, "missing archive");
}

#[test]
fn archive_of_another_backup_is_refused() {
    let sandbox = backed_up();
    sandbox.server.psql(SOURCE, "update notes set body = 'other'");
    sandbox.run_well(&["backup", SOURCE]);
    let archives = sandbox.objects_named("data.000.zst.age");
    std::fs::copy(&archives[0], &archives[1]).expect("an exchanged archive");
    assert!(!sandbox.run(&["check", SOURCE, "--read-data"]).succeeded());
    refuses_to_restore(&sandbox, "exchanged archive");
}

#[test]
fn manifest_of_another_backup_is_refused() {
    let sandbox = backed_up();
    sandbox.run_well(&["backup", SOURCE]);
    for name in ["manifest.json", "manifest.json.sig"] {
        let found = sandbox.objects_named(name);
        std::fs::copy(&found[0], &found[1]).expect("a replayed manifest");
    }
    assert_eq!(sandbox.good_ids().len(), 1, "the signature is good, but it is for another backup");
    assert!(!sandbox.run(&["check", SOURCE]).succeeded());
}

#[test]
fn wrong_identity_opens_nothing() {
    let sandbox = backed_up().with_foreign_identity();
    let outcome = refuses_to_restore(&sandbox, "foreign identity");
    assert!(outcome.stderr.contains("identit"), "{}", outcome.stderr);
}

#[test]
fn unknown_signer_is_refused_by_fingerprint() {
    let sandbox = backed_up().trusting_only_a_stranger();
    assert!(sandbox.good_ids().is_empty());
    let outcome = refuses_to_restore(&sandbox, "unknown signer");
    assert!(outcome.stderr.contains("SHA256:"), "{}", outcome.stderr);
}

#[test]
fn unsigned_backup_is_refused() {
    let sandbox = backed_up();
    std::fs::remove_file(sandbox.object("manifest.json.sig")).expect("the signature");
    assert!(sandbox.good_ids().is_empty());
    let outcome = refuses_to_restore(&sandbox, "unsigned");
    assert!(outcome.stderr.contains("sign"), "{}", outcome.stderr);
}

#[test]
fn newer_format_is_refused_by_name_and_never_removed() {
    let sandbox = backed_up().with_retention("{ last = 1 }");
    let path = sandbox.object("manifest.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("a manifest")).expect("JSON");
    manifest["version"] = 99.into();
    std::fs::write(&path, manifest.to_string()).expect("a newer manifest");
    sign(&sandbox, &path);
    let outcome = refuses_to_restore(&sandbox, "newer format");
    assert!(outcome.stderr.contains("version 99"), "{}", outcome.stderr);

    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    assert!(path.exists(), "what a newer version wrote is not ours to remove");
}

/// In a directory: an S3 server keeps checksums of its own, and would tell of the damage before pgproof can.
fn backed_up() -> Sandbox {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox
}

/// The restore of the newest backup fails and leaves no database behind.
fn refuses_to_restore(sandbox: &Sandbox, what: &str) -> Outcome {
    let ids = backup_folders(sandbox);
    let newest = ids.last().expect("a backup");
    let outcome = sandbox.run(&["restore", SOURCE, "--backup", newest, "--into", "refused", "--yes"]);
    assert!(!outcome.succeeded(), "{what} was restored: {}", outcome.text());
    assert!(
        outcome.stderr.starts_with("error: ") || outcome.stderr.contains("\nerror: "),
        "{}",
        outcome.stderr
    );
    if sandbox.server.has_database("refused") {
        let tables = "select count(*) from pg_class where relname in ('orders', 'notes')";
        assert_eq!(sandbox.server.psql("refused", tables), "0", "{what} reached PostgreSQL");
        sandbox.server.psql("postgres", "drop database refused");
    }
    outcome
}

fn backup_folders(sandbox: &Sandbox) -> Vec<String> {
    let folder = sandbox.repository_folder().join(SOURCE).join("backups");
    let entries = std::fs::read_dir(folder).expect("backups");
    let mut ids: Vec<String> =
        entries.map(|entry| entry.expect("a backup").file_name().to_string_lossy().into_owned()).collect();
    ids.sort();
    ids
}

/// Signs as the host does, with the stock tool.
fn sign(sandbox: &Sandbox, path: &Path) {
    let signature = path.with_extension("json.sig");
    std::fs::remove_file(&signature).expect("the old signature");
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-Y", "sign", "-n", "pgproof-manifest", "-f"])
        .arg(sandbox.path("signing_key"))
        .arg(path);
    succeed(&mut command);
}
