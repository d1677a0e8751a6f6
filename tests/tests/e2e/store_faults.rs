//! S3 on bad days: carried through, or a clean failure.

use std::time::Duration;

use pgproof_tests::comparison;
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{SOURCE, Sandbox};

/// A request that uploads a part, and one that completes an upload.
const PART: &str = "partNumber=";
const COMPLETE: &str = "uploadId=";

#[test]
fn errors_of_the_server_are_carried_through() {
    let sandbox = Sandbox::bulky(40);
    for (code, after) in [(500, 0), (503, 1), (500, 3), (503, 4)] {
        sandbox
            .proxy
            .add(Rule::new(Fault::Status(code)).method("PUT").containing(PART).after(after).times(1));
    }
    sandbox.proxy.add(Rule::new(Fault::Status(503)).method("PUT").containing("manifest.json").times(1));
    sandbox.proxy.add(Rule::new(Fault::Status(500)).method("POST").containing(COMPLETE).times(1));
    backs_up_whole(&sandbox);
}

#[test]
fn connections_that_break_are_carried_through() {
    let sandbox = Sandbox::bulky(40);
    sandbox.proxy.add(Rule::new(Fault::Disconnect).method("PUT").containing(PART).after(1).times(2));
    backs_up_whole(&sandbox);
}

#[test]
fn success_with_an_error_document_is_no_success() {
    let sandbox = Sandbox::bulky(40);
    let rule = Rule::new(Fault::ErrorDocument).method("POST").containing("data.000").containing(COMPLETE);
    sandbox.proxy.add(rule.times(1));
    backs_up_whole(&sandbox);
}

#[test]
fn lost_response_of_a_completed_upload_is_looked_up() {
    let sandbox = Sandbox::bulky(40);
    let rule = Rule::new(Fault::LoseResponse).method("POST").containing("data.000").containing(COMPLETE);
    sandbox.proxy.add(rule.times(1));
    backs_up_whole(&sandbox);
}

#[test]
fn lost_response_of_the_manifest_is_looked_up() {
    let sandbox = Sandbox::small();
    let rule = Rule::new(Fault::LoseResponse).method("PUT").containing("/manifest.json?");
    sandbox.proxy.add(rule.times(1));
    sandbox.proxy.add(Rule::new(Fault::LoseResponse).method("PUT").containing("manifest.json").times(1));
    backs_up_whole(&sandbox);
}

#[test]
fn bodies_cut_short_are_fetched_again() {
    let sandbox = Sandbox::bulky(40);
    sandbox.run_well(&["backup", SOURCE]);
    let rule = Rule::new(Fault::CutShort(100_000)).method("GET").containing("data.000");
    sandbox.proxy.add(rule.times(2));
    sandbox.proxy.add(Rule::new(Fault::CutShort(10)).method("GET").containing("inventory").times(1));
    restores_whole(&sandbox);
}

#[test]
fn errors_while_restoring_are_carried_through() {
    let sandbox = Sandbox::bulky(40);
    sandbox.run_well(&["backup", SOURCE]);
    for (code, after) in [(503, 0), (500, 2)] {
        sandbox
            .proxy
            .add(Rule::new(Fault::Status(code)).method("GET").containing("data.000").after(after).times(1));
    }
    restores_whole(&sandbox);
}

#[test]
fn outage_in_mid_upload_is_waited_out() {
    const OUTAGE: Duration = Duration::from_secs(10);
    let sandbox = Sandbox::bulky(40);
    let mut backup = sandbox.command(&["backup", SOURCE]).spawn().expect("pgproof");
    assert!(
        sandbox.proxy.wait_until(Duration::from_secs(60), |seen| {
            seen.iter().any(|seen| seen.target.contains(PART))
        })
    );
    sandbox.proxy.outage(true);
    // Nothing is to happen in this time: `wait_until` is the clock.
    let _ = sandbox.proxy.wait_until(OUTAGE, |_| false);
    sandbox.proxy.outage(false);
    assert!(backup.wait().expect("pgproof ends").success());
    restores_whole(&sandbox);
}

#[test]
fn upload_that_is_refused_for_good_is_a_clean_failure() {
    let sandbox = Sandbox::bulky(40);
    sandbox.proxy.add(Rule::new(Fault::Status(403)).method("PUT").containing(PART));
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: check the credentials"), "{}", outcome.stderr);
    sandbox.proxy.clear();
    assert!(sandbox.objects_named("manifest.json").is_empty());
    assert!(sandbox.good_ids().is_empty());
    let aborted =
        sandbox.proxy.seen().iter().any(|seen| seen.method == "DELETE" && seen.target.contains(COMPLETE));
    assert!(aborted, "the upload was left behind");
    backs_up_whole(&sandbox);
}

fn backs_up_whole(sandbox: &Sandbox) {
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.good_ids().len(), 1);
    sandbox.proxy.clear();
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
    restores_whole(sandbox);
}

fn restores_whole(sandbox: &Sandbox) {
    sandbox.run_well(&["restore", SOURCE, "--at", "now", "--into", "restored", "--jobs", "2", "--yes"]);
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
}
