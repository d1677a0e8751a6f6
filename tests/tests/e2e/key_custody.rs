//! Whether the keys that backups are sealed to are still there, shown to the verifier's eyes.

use std::path::Path;
use std::process::{Command, Stdio};

use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};

const NOT_SHOWN: i32 = 1;
const CHECK_FAILED: i32 = 4;

#[test]
fn keys_are_shown_here_or_by_their_custodian_with_stock_age() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);

    let first = sandbox.verify(&["restorability", SOURCE, "--json"]);
    assert_eq!(first.code, Some(NOT_SHOWN), "the second key is not on this host: {}", first.stderr);
    assert!(first.stderr.contains("not shown within a year"), "{}", first.stderr);
    let recipients = first.json()["recipients"].clone();
    assert!(recipients[0]["how"].as_str().expect("shown").contains("identity.txt"), "{recipients:#}");
    assert!(recipients[1]["shown_at"].is_null(), "{recipients:#}");

    let canaries = sandbox.path("canaries");
    let folder = canaries.to_str().expect("UTF-8");
    let challenge = sandbox.verify(&["restorability", SOURCE, "--challenge", folder]);
    assert!(challenge.succeeded(), "{}", challenge.stderr);
    let answer = canaries.join("answer.txt");
    let mut age = Command::new("age");
    age.arg("-d").arg("-i").arg(sandbox.path("second-identity.txt")).arg("-o").arg(&answer);
    succeed(age.arg(canaries.join("canary-2.age")));
    let answered =
        sandbox.verify(&["restorability", SOURCE, "--answer", answer.to_str().expect("UTF-8"), "--json"]);
    assert_eq!(answered.code, Some(0), "{}", answered.stderr);
    assert!(answered.json()["recipients"][1]["how"].as_str().expect("shown").starts_with("challenge of"));

    // Later without the second key: it was shown within the year.
    let later = sandbox.verify(&["restorability", SOURCE]);
    assert_eq!(later.code, Some(0), "{}", later.stderr);
    let report = sandbox.drill(&[]);
    let shown = report["recipients"].as_array().expect("recipients");
    assert!(shown.iter().all(|recipient| recipient["shown_at"].is_string()), "{shown:#?}");
}

#[test]
fn a_key_brought_along_is_tried_and_a_wrong_answer_is_refused() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let identity = sandbox.path("second-identity.txt");
    let brought = sandbox.verify(&["restorability", SOURCE, "--identity", identity.to_str().expect("UTF-8")]);
    assert_eq!(brought.code, Some(0), "{}\n{}", brought.text(), brought.stderr);
    assert!(brought.text().contains("opened the newest backup"), "{}", brought.text());

    let answer = sandbox.path("answer.txt");
    std::fs::write(&answer, "no secret\n").expect("own file");
    let refused = sandbox.verify(&["restorability", SOURCE, "--answer", answer.to_str().expect("UTF-8")]);
    assert_eq!(refused.code, Some(CHECK_FAILED), "{}", refused.stderr);
    assert!(refused.stderr.contains("answers no challenge"), "{}", refused.stderr);
}

#[test]
fn a_foreign_identity_says_nothing_about_a_backup_and_an_altered_header_does() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.run_well(&["backup", SOURCE]);
    let identity = sandbox.path("identity.txt");
    let own = std::fs::read(&identity).expect("an identity");
    let sandbox = sandbox.with_foreign_identity();

    let shown = sandbox.verify(&["restorability", SOURCE]);
    assert!(shown.text().contains("no key on this host opened the newest backup"), "{}", shown.text());
    let doctor = sandbox.verify(&["doctor"]);
    assert_eq!(doctor.code, Some(NOT_SHOWN), "{}", doctor.text());
    assert!(doctor.text().contains("none is of the policy's recipients"), "{}", doctor.text());
    let report = sandbox.drill(&[]);
    assert_eq!(report["verdict"], "not_run", "{report:#}");
    assert!(report.to_string().contains("no identity here is of this backup's recipients"), "{report:#}");
    assert!(report["history"]["backups"][0]["failed_at"].is_null(), "{report:#}");

    std::fs::write(&identity, own).expect("own file");
    spoil_stanzas(&sandbox.object("data.000.zst.age"));
    // Whoever read along has gone: the drill and its report take no harm.
    let drilled = unheard(&mut sandbox.verifier_command(&["drill", SOURCE]));
    assert_eq!(drilled.code, Some(CHECK_FAILED), "{}", drilled.stderr);
    let report = sandbox.verify(&["report", "show", SOURCE, "--json"]).json();
    assert_eq!((&report["number"], &report["verdict"]), (&2.into(), &"failed".into()), "{report:#}");
    assert!(report["history"]["backups"][0]["failed_at"].is_string(), "{report:#}");
    for arguments in [&["report", "show", SOURCE][..], &["report", "list", "--json"], &["report", "schema"]] {
        let outcome = unheard(&mut sandbox.verifier_command(arguments));
        assert_eq!(outcome.code, Some(0), "{arguments:?}: {}", outcome.stderr);
    }
}

/// What each recipient's key is wrapped in: it then opens with none.
fn spoil_stanzas(file: &Path) {
    let mut bytes = std::fs::read(file).expect("an object");
    let stanza = b"\n-> X25519 ";
    let starts: Vec<usize> =
        (0..bytes.len().min(4096)).filter(|at| bytes[*at..].starts_with(stanza)).collect();
    assert_eq!(starts.len(), 2, "a stanza for each recipient");
    for start in starts {
        let body = bytes[start + 1..].iter().position(|byte| *byte == b'\n').expect("a line") + start + 2;
        bytes[body] = if bytes[body] == b'A' { b'B' } else { b'A' };
    }
    std::fs::write(file, bytes).expect("own object");
}

/// Runs it with a standard output that nobody reads.
fn unheard(command: &mut Command) -> Outcome {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
    drop(child.stdout.take());
    child.wait_with_output().expect("it ends").into()
}
