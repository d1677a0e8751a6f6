//! Whether the keys that backups are sealed to are still there, shown to the verifier's eyes.

use std::process::Command;

use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::{SOURCE, Sandbox};

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
