use std::time::Duration;

use super::*;
use crate::store::part_plan::PartLimits;
use crate::store::providers;

/// A store that does all that S3 does, seen by an agent that may delete nothing.
fn well() -> Found {
    let denied = Rights {
        put_backups: Probe::Found(()),
        put_reports: Probe::NotTried("that is the verifier's"),
        delete_backups: Probe::Denied,
    };
    Found {
        location: "s3://bucket".to_owned(),
        limits: PartLimits::S3,
        reached: Probe::Found((Duration::from_millis(20), None)),
        clock: Probe::Found(Some(SignedDuration::from_secs(1))),
        put: Probe::Found(None),
        put_if_absent: Probe::Found(true),
        replace: Probe::Found(Replacing::Honoured),
        upload: Probe::Found(None),
        complete_if_absent: Probe::Found(true),
        abort: Probe::Found(None),
        highest_part: Probe::Found(true),
        stale_uploads: Probe::Found(0),
        list: Probe::Found(None),
        bucket: Some(Bucket {
            region: Probe::Found(Some("eu-central-1".to_owned())),
            pages: Probe::Found(None),
            checksum: Probe::Found(true),
            versioning: Probe::Found(Versioning::Off),
            is_lockable: Probe::Found(false),
            stale_upload_rule: Probe::Found(Some(7)),
        }),
        rights: vec![("app".parse().unwrap(), denied)],
    }
}

fn expected() -> Expected {
    Expected {
        profile: providers::at(None),
        is_named: false,
        conditions: Conditions::HONOURED,
        object_lock: None,
        powers: &Powers::S3,
        role: Role::Agent,
    }
}

fn line(lines: &[Line], check: &str) -> Line {
    lines.iter().find(|line| line.check == check).unwrap_or_else(|| panic!("{check} in {lines:#?}")).clone()
}

fn judged(change: impl Fn(&mut Found, &mut Expected), check: &str) -> Line {
    let (mut found, mut expected) = (well(), expected());
    change(&mut found, &mut expected);
    line(&judge(&found, &expected), check)
}

#[test]
fn a_store_that_does_all_has_nothing_but_good_lines() {
    let lines = judge(&well(), &expected());
    assert!(lines.iter().all(|line| line.verdict == Verdict::Ok), "{lines:#?}");
    assert_eq!(lines.len(), 20);
}

#[test]
fn ignored_conditions_fail_until_the_policy_says_so() {
    let ignored = |found: &mut Found, expected: &mut Expected| {
        found.put_if_absent = Probe::Found(false);
        found.replace = Probe::Found(Replacing::Ignored);
        expected.conditions = Conditions::HONOURED;
    };
    for check in ["put if absent", "replace if unchanged"] {
        let told = judged(ignored, check);
        assert_eq!(told.verdict, Verdict::Fail, "{told:?}");
        assert!(told.hint.unwrap().contains("conditional_writes = \"ignored\""));
        let said = judged(
            |found, expected| {
                ignored(found, expected);
                expected.conditions = Conditions::IGNORED;
            },
            check,
        );
        assert_eq!(said.verdict, Verdict::Ok, "{said:?}");
    }
    let needless = judged(|_, expected| expected.conditions = Conditions::IGNORED, "put if absent");
    assert_eq!(needless.verdict, Verdict::Warn);
    let refused = judged(|found, _| found.put_if_absent = Probe::Unsupported, "put if absent");
    assert_eq!(refused.verdict, Verdict::Fail);
}

#[test]
fn completions_overwrite_nothing_even_where_the_condition_is_ignored() {
    let ignored = judged(|found, _| found.complete_if_absent = Probe::Found(false), "complete if absent");
    assert_eq!(ignored.verdict, Verdict::Warn);
    let refused = judged(|found, _| found.complete_if_absent = Probe::Unsupported, "complete if absent");
    assert_eq!(refused.verdict, Verdict::Fail);
}

#[test]
fn quotes_that_never_match_name_the_providers_that_leave_them_out() {
    let quoted = judged(
        |found, _| found.replace = Probe::Found(Replacing::MatchesQuotedOtherwise),
        "replace if unchanged",
    );
    assert_eq!(quoted.verdict, Verdict::Fail);
    assert!(quoted.hint.unwrap().contains("hetzner"));
}

#[test]
fn a_store_that_is_not_reached_is_one_line() {
    let (mut found, expected) = (well(), expected());
    found.reached = Probe::Failed("no answer".to_owned());
    let lines = judge(&found, &expected);
    assert_eq!((lines.len(), lines[0].verdict), (1, Verdict::Fail));
}

#[test]
fn rights_are_judged_by_whose_they_are() {
    let may_delete = |found: &mut Found, _: &mut Expected| {
        found.rights[0].1.delete_backups = Probe::Found(Deleted::Nothing);
    };
    assert_eq!(judged(may_delete, "delete no backups").verdict, Verdict::Warn);
    let may_not_put = |found: &mut Found, _: &mut Expected| found.rights[0].1.put_backups = Probe::Denied;
    assert_eq!(judged(may_not_put, "put backups").verdict, Verdict::Fail);
    let as_verifier = |put_backups: Probe<()>, put_reports: Probe<()>| {
        move |found: &mut Found, expected: &mut Expected| {
            expected.role = Role::Verifier;
            found.rights[0].1.put_backups = put_backups.clone();
            found.rights[0].1.put_reports = put_reports.clone();
        }
    };
    let good = || as_verifier(Probe::Denied, Probe::Found(()));
    assert_eq!(judged(good(), "put no backups").verdict, Verdict::Ok);
    assert_eq!(judged(good(), "put reports").verdict, Verdict::Ok);
    let bad = || as_verifier(Probe::Found(()), Probe::Denied);
    assert_eq!(judged(bad(), "put no backups").verdict, Verdict::Warn);
    assert_eq!(judged(bad(), "put reports").verdict, Verdict::Fail);
}

#[test]
fn locks_that_are_asked_for_must_be_there() {
    let asked = |is_lockable: Probe<bool>| {
        move |found: &mut Found, expected: &mut Expected| {
            expected.object_lock = Some(LockMode::Compliance);
            found.bucket.as_mut().unwrap().is_lockable = is_lockable.clone();
        }
    };
    assert_eq!(judged(asked(Probe::Found(true)), "object lock").verdict, Verdict::Ok);
    assert_eq!(judged(asked(Probe::Found(false)), "object lock").verdict, Verdict::Fail);
    assert_eq!(judged(asked(Probe::Unsupported), "object lock").verdict, Verdict::Fail);
    assert_eq!(judged(asked(Probe::Denied), "object lock").verdict, Verdict::NotTried);
}

#[test]
fn what_stays_behind_is_said() {
    let folder = "doctor/".to_owned();
    assert_eq!(left(&Left::Nothing, Role::Agent).verdict, Verdict::Ok);
    let kept = left(&Left::Kept { objects: 8, folder: folder.clone() }, Role::Agent);
    assert!(kept.verdict == Verdict::Ok && kept.told.contains("8 small objects"), "{kept:?}");
    let unknown = left(&Left::NotKnown { folder, why: "no answer".to_owned() }, Role::Agent);
    assert_eq!(unknown.verdict, Verdict::Warn);
}

#[test]
fn clocks_apart_are_told_before_they_do_harm() {
    let apart = |seconds| {
        move |found: &mut Found, _: &mut Expected| {
            found.clock = Probe::Found(Some(SignedDuration::from_secs(seconds)));
        }
    };
    assert_eq!(judged(apart(-2), "clock").verdict, Verdict::Ok);
    assert_eq!(judged(apart(90), "clock").verdict, Verdict::Warn);
    assert_eq!(judged(apart(-400), "clock").verdict, Verdict::Fail);
}

/// Google completes without a condition, and Azure lists no uploads.
#[test]
fn what_other_clouds_do_otherwise_is_said_and_fails_nothing() {
    let (mut found, mut expected) = (well(), expected());
    (found.bucket, found.stale_uploads) = (None, Probe::Unsupported);
    expected.profile = None;
    expected.powers = &Powers::AZURE;
    let lines = judge(&found, &expected);
    assert!(lines.iter().all(|line| matches!(line.verdict, Verdict::Ok | Verdict::NotTried)), "{lines:#?}");
    assert!(line(&lines, "stale uploads").told.contains("after 7 day(s)"));
    assert_eq!(line(&lines, "versions and locks").verdict, Verdict::NotTried);
    expected.powers = &Powers::GOOGLE;
    expected.conditions = Conditions { complete_if_absent: false, ..Conditions::HONOURED };
    found.stale_uploads = Probe::Denied;
    found.rights[0].1.put_backups = Probe::Denied;
    let lines = judge(&found, &expected);
    assert_eq!(line(&lines, "complete if absent").verdict, Verdict::Ok);
    assert!(line(&lines, "stale uploads").hint.unwrap().contains("storage.multipartUploads.list"));
    assert!(line(&lines, "put backups").hint.unwrap().contains("storage.objects.create"));
}
