//! Each key of the layout against the policies of `packaging/cloud`: who may put, who may delete, and that no key was forgotten.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pgproof_repository::acts::WriterId;
use pgproof_repository::ids::{BackupId, ObjectKey};
use pgproof_repository::layout;
use pgproof_repository::restore_point::RestorePointId;
use serde_json::Value;

const ROLES: [&str; 4] = ["agent", "verifier", "restorer", "pruner"];
const BUCKET: &str = "arn:aws:s3:::BUCKET";

/// A kind of object: its key, who puts it, and who deletes it.
struct Kind {
    made_by: &'static str,
    key: ObjectKey,
    put: &'static [&'static str],
    delete: &'static [&'static str],
}

fn kinds() -> Vec<Kind> {
    let source = "app".parse().unwrap();
    let id: BackupId = "20261124T020000Z-k3x7qa".parse().unwrap();
    let point: RestorePointId = "20261124T020000Z-k3x7qa".parse().unwrap();
    let (at, writer) = (id.started_at(), WriterId::of("SHA256:x"));
    let kind = |made_by, key: ObjectKey, put, delete| Kind { made_by, key, put, delete };
    vec![
        kind("repository_marker", layout::repository_marker(), &["agent"], &[]),
        kind(
            "backup_object",
            layout::backup_object(&source, &id, &layout::archive_name(0)).unwrap(),
            &["agent"],
            &["pruner"],
        ),
        kind("manifest", layout::manifest(&source, &id), &["agent"], &["pruner"]),
        kind("manifest_signature", layout::manifest_signature(&source, &id), &["agent"], &["pruner"]),
        kind("run", layout::run(&source, &id), &["agent"], &[]),
        kind("hold", layout::hold(&source, &id), &["agent"], &["pruner"]),
        kind("pin", layout::pin(&source, &id, "x1"), &["agent", "verifier", "restorer"], &["pruner"]),
        kind("act", layout::act(&source, &writer, 1), &["agent", "restorer", "pruner"], &[]),
        kind("tombstone", layout::tombstone(&source, &id), &["pruner"], &["pruner"]),
        kind("verification", layout::verification(&source, &id, at), &["verifier"], &[]),
        kind("verification_name", layout::verification_name(&source, &id, at), &["verifier"], &[]),
        kind("alerts", layout::alerts(&source), &["agent", "verifier", "pruner"], &[]),
        kind("restore_point", layout::restore_point(&point), &["agent"], &[]),
        kind("custody", layout::custody(&source, at), &["verifier"], &[]),
        kind("challenge", layout::challenge(&source, at), &["verifier"], &[]),
        kind("signature_of", layout::signature_of(&layout::run(&source, &id)), &["agent"], &[]),
        kind("backup_lease", layout::backup_lease(&source), &["agent"], &[]),
        kind("prune_lease", layout::prune_lease(&source), &["pruner"], &[]),
        kind("drill_lease", layout::drill_lease(&source), &["verifier"], &[]),
        kind("claim", layout::claim(&layout::backup_lease(&source), at, "x1"), &["agent"], &[]),
        kind("doctor_probe", layout::doctor_probe(&id, "put"), &["agent", "verifier", "pruner"], &["pruner"]),
    ]
}

#[test]
fn whoever_puts_or_deletes_a_key_may_and_nobody_else() {
    for Kind { key, put, delete, .. } in kinds() {
        for role in ROLES {
            let policy = Policy::read(role);
            let object = format!("{BUCKET}/PREFIX/{key}");
            let may = |action: &str| policy.allows(action, &object);
            // Without the latter two the answer to a HEAD does not tell of a lock, and every locked upload would be doubted.
            for action in ["s3:GetObject", "s3:GetObjectRetention", "s3:GetObjectLegalHold"] {
                assert!(may(action), "{role}: {action} of {key}");
            }
            assert_eq!(may("s3:PutObject"), put.contains(&role), "{role} puts {key}");
            assert_eq!(may("s3:DeleteObject"), delete.contains(&role), "{role} deletes {key}");
            let locks = layout::Lockable::of(&key).is_some() && put.contains(&role);
            assert!(!locks || may("s3:PutObjectRetention"), "{role} locks {key}");
            // Of a tombstone only what was half written gives way: its older versions stay.
            let versions = delete.contains(&role) && !key.as_str().contains("/pruned/");
            assert_eq!(may("s3:DeleteObjectVersion"), versions, "{role} deletes versions of {key}");
        }
    }
}

#[test]
fn no_key_of_the_layout_was_forgotten() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/layout.rs")).unwrap();
    let makers = text.split("\npub fn ").skip(1).filter_map(|rest| {
        let (head, _) = rest.split_once(" {")?;
        let (name, _) = head.split_once('(')?;
        let (_, made) = head.rsplit_once("-> ")?;
        matches!(made, "ObjectKey" | "Option<ObjectKey>").then(|| name.to_owned())
    });
    // What sorts before or after others is asked for in a list, and never put.
    let is_bound = |name: &String| name.ends_with("_from") || name.ends_with("_after");
    let makers: BTreeSet<String> = makers.filter(|name| !is_bound(name)).collect();
    assert_eq!(makers, kinds().iter().map(|kind| kind.made_by.to_owned()).collect());
}

#[test]
fn nobody_reaches_beyond_the_prefix() {
    for role in ROLES {
        let policy = Policy::read(role);
        for action in ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"] {
            for other in ["PREFIX2/app/backups/x", "other/app/backups/x", "app/backups/x"] {
                assert!(!policy.allows(action, &format!("{BUCKET}/{other}")), "{role} {action} {other}");
            }
        }
        assert!(policy.allows("s3:ListBucket", BUCKET));
        assert!(!policy.allows("s3:DeleteBucket", BUCKET) && !policy.allows("s3:PutBucketPolicy", BUCKET));
        for statement in policy.statements() {
            let prefixes = &statement["Condition"]["StringLike"]["s3:prefix"];
            for action in texts(&statement["Action"]) {
                match prefix_condition(&action) {
                    Prefix::Asked => assert_eq!(
                        texts(prefixes),
                        ["PREFIX", "PREFIX/*"],
                        "{role}: {action} of its own prefix alone"
                    ),
                    Prefix::NotKnown => {
                        assert!(statement["Condition"].is_null(), "{role}: {action} would be denied")
                    }
                }
            }
        }
    }
    let uploads = [("agent", true), ("pruner", true), ("verifier", false), ("restorer", false)];
    for (role, may) in uploads {
        assert_eq!(Policy::read(role).allows("s3:ListBucketMultipartUploads", BUCKET), may, "{role}");
    }
}

/// Whether AWS tells a condition on `s3:prefix` what is asked for. Where it does not, the condition is never met.
enum Prefix {
    Asked,
    NotKnown,
}

/// By the table of S3's actions in AWS's Service Authorization Reference.
fn prefix_condition(action: &str) -> Prefix {
    match action {
        "s3:ListBucket" | "s3:ListBucketVersions" => Prefix::Asked,
        "s3:ListBucketMultipartUploads"
        | "s3:GetBucketVersioning"
        | "s3:GetBucketObjectLockConfiguration"
        | "s3:GetLifecycleConfiguration"
        | "s3:GetObject"
        | "s3:GetObjectRetention"
        | "s3:GetObjectLegalHold"
        | "s3:PutObject"
        | "s3:PutObjectRetention"
        | "s3:AbortMultipartUpload"
        | "s3:DeleteObject"
        | "s3:DeleteObjectVersion" => Prefix::NotKnown,
        other => panic!("{other} is not in the table"),
    }
}

struct Policy(Value);

impl Policy {
    fn read(role: &str) -> Self {
        let path = folder().join(format!("{role}.json"));
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(serde_json::from_str(&text).unwrap())
    }

    fn statements(&self) -> Vec<Value> {
        self.0["Statement"].as_array().unwrap().clone()
    }

    /// As IAM judges where nothing is denied: some statement must name both.
    fn allows(&self, action: &str, resource: &str) -> bool {
        self.statements().iter().any(|statement| {
            assert_eq!(statement["Effect"], "Allow");
            let of = |name: &str, value: &str| texts(&statement[name]).iter().any(|it| is_like(it, value));
            of("Action", action) && of("Resource", resource)
        })
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// `*` stands for any characters, slashes too.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| is_like(tail, &rest[at..]))
        }),
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/cloud")
}
