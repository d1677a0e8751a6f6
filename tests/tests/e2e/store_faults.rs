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
fn uploads_that_cannot_be_looked_for_are_told_and_fail_no_backup() {
    let sandbox = Sandbox::small();
    sandbox.proxy.add(Rule::new(Fault::Status(403)).method("GET").containing("?uploads"));
    let outcome = sandbox.run_well(&["backup", SOURCE]);
    assert!(outcome.stderr.contains("uploads that died could not be looked for"), "{}", outcome.stderr);
    assert_eq!(sandbox.good_ids().len(), 1);
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

#[test]
fn requests_cut_short_and_wrong_versions_are_got_over() {
    let sandbox = Sandbox::bulky(40);
    let part = |fault| Rule::new(fault).method("PUT").containing(PART).times(1);
    sandbox.proxy.add(part(Fault::CutRequest(100_000)).after(1));
    sandbox.proxy.add(Rule::new(Fault::CutRequest(10)).method("PUT").containing("manifest.json").times(1));
    // Who holds the lease is in doubt until it is looked up.
    sandbox.proxy.add(Rule::new(Fault::WrongEtag).method("PUT").containing("leases/").times(1));
    backs_up_whole(&sandbox);
}

#[test]
fn slow_store_is_waited_for() {
    const A_MEGABYTE: u64 = 1_000_000;
    let sandbox = Sandbox::small();
    for method in ["PUT", "GET"] {
        sandbox.proxy.add(Rule::new(Fault::Throttle(A_MEGABYTE)).method(method));
    }
    sandbox.proxy.add(Rule::new(Fault::Delay(Duration::from_millis(300))));
    sandbox.run_well(&["backup", SOURCE]);
    restores_whole(&sandbox);
    assert_eq!(sandbox.drill(&[])["verdict"], "passed");
}

/// A store that shows yesterday's list takes nothing away, and makes nothing of what is gone.
#[test]
fn stale_list_hides_and_brings_back_nothing_for_good() {
    const NOTHING_FOUND: i32 = 3;
    let stale = || Rule::new(Fault::StaleList).method("GET");
    let sandbox = Sandbox::small().with_retention("{ last = 1 }");
    sandbox.run_well(&["backup", SOURCE]);
    let first = sandbox.good_ids();
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.proxy.add(stale());
    assert_eq!(sandbox.good_ids(), first, "the list is not stale");
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    restores_whole(&sandbox);
    sandbox.proxy.clear();
    let both = sandbox.good_ids();
    assert_eq!((both.len(), &both[..1]), (2, &first[..]));

    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    sandbox.proxy.add(stale());
    let gone = ["restore", SOURCE, "--backup", &first[0], "--into", "gone", "--yes"];
    let outcome = sandbox.run(&gone);
    assert_eq!(outcome.code, Some(NOTHING_FOUND), "{}", outcome.stderr);
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    sandbox.proxy.clear();
    assert_eq!(sandbox.good_ids(), both[1..]);
    sandbox.run_well(&["check", SOURCE, "--read-data"]);
    sandbox.run_well(&["audit", SOURCE]);
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
