//! `pgproof init`: what it writes is the owner's alone, works as it is, and takes the place of nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};

use crate::bad_days::is_told;

const USAGE: i32 = 2;
/// What `init` writes below the folder of keys.
const KEYS: [&str; 3] = ["identity.txt", "signing_key", "trusted_signers"];

#[test]
fn what_init_writes_works_as_it_is() {
    let sandbox = sandbox();
    let outcome = init(&sandbox, &["--recipient", &second_recipient(&sandbox)]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let identity = sandbox.path("keys/identity.txt");
    assert!(outcome.text().contains(&format!("MOVE {}", identity.display())), "{}", outcome.text());
    assert!(!outcome.text().contains("AGE-SECRET-KEY"), "{}", outcome.text());

    assert_eq!(mode(&sandbox.path("keys")), 0o700);
    for name in KEYS {
        assert_eq!(mode(&sandbox.path("keys").join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&sandbox.policy()), 0o600);

    sandbox.run_well(&["policy", "check"]);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
    // The policy of a host that only backs up: restoring is for one that holds the identity.
    let restore = ["restore", SOURCE, "--at", "now", "--into", "restored", "--yes"];
    is_told(&sandbox.run(&restore), USAGE, &["keys.identity_files"], "restore host");
    let text = std::fs::read_to_string(sandbox.policy()).expect("a policy");
    assert!(text.contains("# identity_files = "), "{text}");
    std::fs::write(sandbox.policy(), text.replace("# identity_files = ", "identity_files = "))
        .expect("a policy");
    sandbox.run_well(&restore);
    assert_eq!(sandbox.server.psql("restored", "select count(*) from orders"), "20000");
}

/// A stolen host makes no proofs.
#[test]
fn with_a_verifiers_key_each_signs_its_own() {
    let sandbox = sandbox();
    let key = sandbox.path("verifier_key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.expect("ssh-keygen").success());
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("a public key");
    let recipient = second_recipient(&sandbox);
    let outcome = init(&sandbox, &["--recipient", &recipient, "--verifier-key", public.trim()]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let text = std::fs::read_to_string(sandbox.policy()).expect("a policy");
    let with_identity = text.replace("# identity_files = ", "identity_files = ");
    std::fs::write(sandbox.policy(), &with_identity).expect("a policy");
    sandbox.run_well(&["backup", SOURCE, "--hold", "--reason", "a test"]);
    sandbox.run_well(&["snapshot", "--reason", "a test"]);
    assert!(sandbox.run_well(&["audit", SOURCE]).text().contains("all of which check"));

    sandbox.drill(&["--pick", "oldest"]);
    assert!(sandbox.good_backups()[0]["proved_at"].is_null(), "a report that the agent signed counts");
    let with_verifier = format!("{with_identity}\n[verifier]\nsigning_key = \"{}\"\n", key.display());
    std::fs::write(sandbox.policy(), with_verifier).expect("a policy");
    sandbox.drill(&["--pick", "oldest"]);
    let proved = sandbox.good_backups().iter().filter(|backup| !backup["proved_at"].is_null()).count();
    assert_eq!(proved, 1, "a report that the verifier signed does not count");
}

#[test]
fn only_one_recipient_takes_a_waiver() {
    let sandbox = sandbox();
    let refused = init(&sandbox, &[]);
    is_told(&refused, USAGE, &["only one key could decrypt"], "--recipient");
    assert!(!sandbox.policy().exists() && !sandbox.path("keys").exists(), "something was written");

    let waived = init(&sandbox, &["--single-recipient-waiver", "a test's data may be lost"]);
    assert_eq!(waived.code, Some(0), "{}", waived.stderr);
    sandbox.run_well(&["policy", "check"]);
}

#[test]
fn nothing_is_overwritten() {
    let sandbox = sandbox();
    let recipient = second_recipient(&sandbox);
    let arguments = ["--recipient", recipient.as_str()];
    assert_eq!(init(&sandbox, &arguments).code, Some(0));
    let contents = || {
        let keys = KEYS.map(|name| std::fs::read(sandbox.path("keys").join(name)).ok());
        (std::fs::read(sandbox.policy()).ok(), keys)
    };
    let before = contents();
    is_told(&init(&sandbox, &arguments), USAGE, &["exists already"], "nothing is overwritten");
    assert!(contents() == before, "something was overwritten");

    for name in KEYS {
        let path = sandbox.path("keys").join(name);
        std::fs::remove_file(sandbox.policy()).expect("a policy");
        for other in KEYS.iter().filter(|other| **other != name) {
            std::fs::rename(sandbox.path("keys").join(other), sandbox.path(other)).expect("a key");
        }
        is_told(&init(&sandbox, &arguments), USAGE, &[name, "exists already"], "nothing is overwritten");
        assert!(!sandbox.policy().exists() && path.exists(), "{name}");
        for other in KEYS.iter().filter(|other| **other != name) {
            std::fs::rename(sandbox.path(other), sandbox.path("keys").join(other)).expect("a key");
        }
        std::fs::write(sandbox.policy(), "").expect("a policy");
    }
}

/// A database, and no policy.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::small();
    std::fs::remove_file(sandbox.policy()).expect("a policy");
    sandbox
}

fn init(sandbox: &Sandbox, further: &[&str]) -> Outcome {
    let location = format!("file://{}", sandbox.path("backups").display());
    let (connection, keys) = (sandbox.server.uri(SOURCE), sandbox.path("keys").display().to_string());
    let mut arguments = vec![
        "init",
        "--location",
        &location,
        "--connection",
        &connection,
        "--source",
        SOURCE,
        "--keys",
        &keys,
    ];
    arguments.extend(further);
    sandbox.run(&arguments)
}

fn second_recipient(sandbox: &Sandbox) -> String {
    let text = std::fs::read_to_string(sandbox.path("second-identity.txt")).expect("an identity");
    let line = text.lines().find_map(|line| line.strip_prefix("# public key: "));
    line.expect("age-keygen's comment").to_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("written").permissions().mode() & 0o7777
}
