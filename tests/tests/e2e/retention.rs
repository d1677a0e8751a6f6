//! What prune does not do: remove much unasked, forget what failed, or take a backup from below a restore.

use std::process::Stdio;
use std::time::Duration;

use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};
use pgproof_tests::{clock, comparison};

const UNCONFIRMED: i32 = 6;
/// One more than prune ever removes unasked.
const MANY: usize = 10;

#[test]
fn removal_of_a_large_share_takes_its_exact_number() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_retention("{ last = 1 }");
    for _ in 0..=MANY {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let plan = sandbox.run_well(&["prune", SOURCE]);
    assert!(plan.text().contains("10 of 11 whole backups would go, more than 50 %"), "{}", plan.text());
    for arguments in [&["prune", SOURCE, "--yes"][..], &["prune", SOURCE, "--yes", "--confirm-removal", "9"]]
    {
        let refused = sandbox.run(arguments);
        assert_eq!(refused.code, Some(UNCONFIRMED), "{}", refused.stderr);
        assert!(refused.stderr.contains("error: nothing was removed: "), "{}", refused.stderr);
        assert!(refused.stderr.contains("--confirm-removal 10"), "{}", refused.stderr);
    }
    assert_eq!(sandbox.good_ids().len(), MANY + 1);
    sandbox.run_well(&["prune", SOURCE, "--yes", "--confirm-removal", "10"]);
    assert_eq!(sandbox.good_ids().len(), 1);
}

#[test]
fn refused_deletes_are_told_and_finished_by_the_next_prune() {
    let sandbox = Sandbox::small().with_retention("{ last = 1 }");
    for _ in 0..3 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let ids = sandbox.good_ids();
    // Of one the archive stays, of the other everything.
    let archive = format!("{}/data.000", ids[0]);
    let manifest = format!("{}/manifest.json", ids[1]);
    for stuck in [archive, manifest] {
        sandbox.proxy.add(Rule::new(Fault::Status(403)).method("DELETE").containing(stuck));
    }
    let refused = sandbox.run(&["prune", SOURCE, "--yes"]);
    assert_eq!(refused.code, Some(1), "{}\n{}", refused.text(), refused.stderr);
    assert!(refused.text().contains(&format!("not removed: {}", ids[0])), "{}", refused.text());
    assert!(refused.text().contains("not permitted"), "{}", refused.text());
    let again = sandbox.run(&["prune", SOURCE, "--yes"]);
    assert_eq!(again.code, Some(1), "it is not forgotten: {}", again.text());

    sandbox.proxy.clear();
    // An error of the server is carried through.
    sandbox.proxy.add(Rule::new(Fault::Status(500)).method("DELETE").times(2));
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    let left: Vec<_> = sandbox.objects().into_iter().filter(|name| name.contains("/backups/")).collect();
    assert!(left.iter().all(|name| name.contains(&ids[2])), "{left:#?}");
    sandbox.run_well(&["check", SOURCE]);
    sandbox.run_well(&["audit", SOURCE]);
}

#[test]
fn backup_that_is_being_restored_is_not_pruned() {
    const PATIENCE: Duration = Duration::from_secs(30);
    let sandbox = Sandbox::small().with_retention("{ last = 1 }");
    for _ in 0..2 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let ids = sandbox.good_ids();
    sandbox.proxy.add(Rule::new(Fault::Hold).method("GET").containing("data.000"));
    let restore = sandbox
        .command(&["restore", SOURCE, "--backup", &ids[0], "--into", "restored", "--yes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pgproof");
    let pinned = sandbox.proxy.wait_until(PATIENCE, |seen| {
        seen.iter()
            .any(|seen| seen.method == "PUT" && seen.target.contains("/pins/") && seen.status.is_some())
    });
    assert!(pinned, "no pin was set");
    let prune = sandbox.run_well(&["prune", SOURCE, "--yes"]);
    assert!(prune.text().contains("in use by "), "{}", prune.text());
    assert_eq!(sandbox.good_ids(), ids);

    sandbox.proxy.release();
    sandbox.proxy.clear();
    let restored: Outcome = restore.wait_with_output().expect("pgproof ends").into();
    assert!(restored.succeeded(), "{}", restored.stderr);
    comparison::assert_same((&sandbox.server, SOURCE), (&sandbox.server, "restored"));
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    assert_eq!(sandbox.good_ids(), ids[1..]);
}

#[test]
fn nothing_is_removed_by_a_clock_that_is_far_from_the_stores() {
    let sandbox = Sandbox::small().with_retention("{ last = 1 }");
    for _ in 0..2 {
        sandbox.run_well(&["backup", SOURCE]);
    }
    let objects = sandbox.objects();
    for off in ["+10m", "-10m"] {
        let refused = Outcome::of(&mut clock::offset(&sandbox.command(&["prune", SOURCE, "--yes"]), off));
        assert_eq!(refused.code, Some(1), "{}\n{}", refused.text(), refused.stderr);
        assert!(refused.stderr.contains("away from the store's"), "{}", refused.stderr);
        assert!(refused.stderr.contains("hint: set the clock right"), "{}", refused.stderr);
        assert_eq!(sandbox.objects(), objects, "{off}");
    }
    let near = Outcome::of(&mut clock::offset(&sandbox.command(&["prune", SOURCE, "--yes"]), "+4m"));
    assert!(near.succeeded(), "{}\n{}", near.text(), near.stderr);
    assert_eq!(sandbox.good_ids().len(), 1);
}
