//! What was found of a store, judged by what the policy counts on.

use std::fmt::Display;

use jiff::SignedDuration;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{Location, LockMode, Provider};

use super::super::{Line, Verdict};
use super::powers::Powers;
use super::{Bucket, Flaw, Found, Left, Probe, Replacing, Rights, Role};
use crate::access::LoadedPolicy;
use crate::lease::Settling;
use crate::store::conditions::Conditions;
use crate::store::providers::Profile;
use crate::store::s3::{Deleted, Versioning};

const STORE: &str = "store";
/// Clocks of well-kept machines differ by milliseconds, and the store tells whole seconds.
const SKEW_TOLERATED: SignedDuration = SignedDuration::from_secs(30);
/// Beyond this, prune removes nothing, and stores refuse requests soon after.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// What the policy counts on.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub profile: Option<&'static Profile>,
    /// The profile is that of a provider that the policy names.
    pub is_named: bool,
    pub conditions: Conditions,
    pub object_lock: Option<LockMode>,
    pub powers: &'static Powers,
    pub role: Role,
}

impl Expected {
    pub fn of(loaded: &LoadedPolicy, role: Role) -> Self {
        let settings = loaded.s3_settings();
        let location = &loaded.policy.repository.location;
        let powers = Powers::of(location);
        Self {
            profile: loaded.provider_profile(),
            is_named: matches!(location, Location::S3 { provider: Some(_), .. }),
            conditions: settings.as_ref().map_or(powers.conditions, |settings| settings.conditions),
            object_lock: settings.and_then(|settings| Some(settings.locks?.mode())),
            powers,
            role,
        }
    }

    /// Days after which the store drops uploads by itself.
    fn drops_uploads_after_days(&self) -> Option<u32> {
        self.powers.drops_uploads_after_days.or_else(|| self.profile?.drops_uploads_after_days)
    }
}

/// A line for each check.
pub fn judge(found: &Found, expected: &Expected) -> Vec<Line> {
    let mut lines = vec![reached(found, expected.powers)];
    if let Probe::Failed(_) = found.reached {
        return lines;
    }
    if found.bucket.is_some() {
        lines.push(provider(expected));
    }
    lines.push(clock(&found.clock));
    lines.push(put(found, expected));
    lines.extend(conditions(found, expected));
    lines.extend(uploads(found, expected));
    lines.push(flaw("list", &found.list, "every key, in order, and from any key on"));
    if let Some(bucket) = &found.bucket {
        lines.extend(of_bucket(bucket, expected));
    }
    if let Some(told) = expected.powers.not_asked {
        lines.push(Line::new(Verdict::NotTried, STORE, "versions and locks", told));
    }
    for (source, rights) in &found.rights {
        lines.extend(of_rights(source, rights, expected));
    }
    lines
}

/// What is still there when all was tried.
pub fn left(left: &Left, role: Role) -> Line {
    let line = |verdict, told: String| Line::new(verdict, STORE, "traces", told);
    let prunes =
        "whoever may delete removes them with the next `doctor`; `doctor/` may also go by a lifecycle rule";
    match left {
        Left::Nothing => line(Verdict::Ok, "every object of these trials was removed".to_owned()),
        Left::Versions { folder } => {
            let told = format!("every object was removed; the bucket keeps versions of them below {folder}");
            line(Verdict::Ok, told).hint(
                "s3:ListBucketVersions and s3:DeleteObjectVersion on doctor/* let `doctor` remove those, too",
            )
        }
        Left::Kept { objects, folder } => {
            let told =
                format!("{objects} small objects stay below {folder}: these credentials may not delete them");
            let whose = match role {
                Role::Agent => "as it should be with an agent's",
                Role::Verifier => "as it should be with a verifier's",
            };
            line(Verdict::Ok, format!("{told}, {whose}")).hint(prunes)
        }
        Left::NotKnown { folder, why } => {
            line(Verdict::Warn, format!("something may be left below {folder}: {why}")).hint(prunes)
        }
    }
}

fn reached(found: &Found, powers: &Powers) -> Line {
    let line = |verdict, told: String| Line::new(verdict, STORE, "reached", told);
    match &found.reached {
        Probe::Found((took, repository)) => {
            let whose = match repository {
                Some(id) => format!("repository {id}"),
                None => "no repository yet, the first backup makes one".to_owned(),
            };
            let took = took.as_millis();
            line(Verdict::Ok, format!("{} answered within {took} ms: {whose}", found.location))
        }
        Probe::Denied => line(
            Verdict::Fail,
            format!("{} does not let these credentials read repository.json", found.location),
        )
        .hint(format!(
            "allow {} and {} below the prefix; without the second, absence may look like a refusal",
            powers.read, powers.list
        )),
        Probe::Failed(why) => line(Verdict::Fail, why.clone())
            .hint("check `repository.location`, `region` and `endpoint` in the policy, the network and the credentials"),
        Probe::Unsupported => line(Verdict::Fail, format!("{} cannot be read", found.location)),
        Probe::NotTried(why) => line(Verdict::NotTried, (*why).to_owned()),
    }
}

fn provider(expected: &Expected) -> Line {
    let line = |told: String| Line::new(Verdict::Ok, STORE, "provider", told);
    match expected.profile {
        Some(profile) if expected.is_named => line(format!("{}, as the policy says", profile.name)),
        Some(profile) => line(format!("{}, by its endpoint", profile.name)),
        None => line("not known: taken for a store with Amazon's ways".to_owned())
            .hint("`repository.provider` in the policy names one whose ways are known"),
    }
}

fn clock(probe: &Probe<Option<SignedDuration>>) -> Line {
    let line = |verdict, told: String| Line::new(verdict, STORE, "clock", told);
    let hint = "set this host's clock right, and keep it so (chrony, systemd-timesyncd)";
    match probe {
        Probe::Found(Some(skew)) => {
            let seconds = skew.abs().as_secs();
            let told = match skew.is_positive() {
                true => format!("the store's is {seconds} s ahead of this host's"),
                false => format!("the store's is {seconds} s behind this host's"),
            };
            match skew.abs() {
                skew if skew > SKEW_MAX => line(Verdict::Fail, told).hint(hint),
                skew if skew > SKEW_TOLERATED => line(Verdict::Warn, told).hint(hint),
                _ => line(Verdict::Ok, "the store's and this host's agree".to_owned()),
            }
        }
        Probe::Found(None) => line(Verdict::NotTried, "the store tells no time".to_owned()),
        other => not_found(STORE, "clock", other, Verdict::NotTried),
    }
}

fn put(found: &Found, expected: &Expected) -> Line {
    let powers = expected.powers;
    let line = flaw("put and get", &found.put, "what is put comes back, whole and in ranges");
    match (&found.put, expected.role) {
        // A verifier need not put anything there.
        (Probe::Denied, Role::Verifier) => Line { verdict: Verdict::NotTried, hint: None, ..line.clone() }
            .hint("the agent's `pgproof doctor` tries what this would"),
        (Probe::Denied, Role::Agent) => line.hint(format!(
            "allow {} and {} on doctor/* below the prefix, so that all can be tried",
            powers.put, powers.read
        )),
        (Probe::Failed(why), _) if why.to_ascii_lowercase().contains("checksum") => {
            line.hint("the store may not know checksum headers: set `repository.checksums = \"md5\"`")
        }
        _ => line,
    }
}

fn conditions(found: &Found, expected: &Expected) -> [Line; 3] {
    let counted_on = expected.conditions;
    let replaced = match &found.replace {
        Probe::Found(Replacing::Honoured) => {
            condition("replace if unchanged", &Probe::Found(true), counted_on.replace_if_unchanged)
        }
        Probe::Found(Replacing::Ignored) => {
            condition("replace if unchanged", &Probe::Found(false), counted_on.replace_if_unchanged)
        }
        Probe::Found(Replacing::MatchesQuotedOtherwise) => {
            let told = "If-Match is compared with the ETag in other quotes than are sent, and never matches";
            let verdict = if counted_on.replace_if_unchanged { Verdict::Fail } else { Verdict::Ok };
            let line = Line::new(verdict, STORE, "replace if unchanged", told);
            match expected.profile.is_some_and(|profile| profile.bare_etags) {
                true => line.hint("`repository.provider` names a provider that leaves the quotes out: take it out, or set `conditional_writes = \"ignored\"`"),
                false => line.hint("set `repository.provider` to \"hetzner\" or \"ceph-rgw\", which leave the quotes out"),
            }
        }
        Probe::Found(Replacing::NeverMatches) => {
            let verdict = if counted_on.replace_if_unchanged { Verdict::Fail } else { Verdict::Ok };
            Line::new(
                verdict,
                STORE,
                "replace if unchanged",
                "If-Match never matches, also with the right ETag",
            )
            .hint(IGNORED)
        }
        other => {
            let as_flag = match other {
                Probe::Denied => Probe::Denied,
                Probe::Unsupported => Probe::Unsupported,
                Probe::Failed(why) => Probe::Failed(why.clone()),
                Probe::NotTried(why) => Probe::NotTried(why),
                Probe::Found(_) => Probe::Found(true),
            };
            condition("replace if unchanged", &as_flag, counted_on.replace_if_unchanged)
        }
    };
    let completed = condition("complete if absent", &found.complete_if_absent, counted_on.complete_if_absent);
    let completed = match (&found.complete_if_absent, counted_on.complete_if_absent) {
        // The ids of backups are unique, and so are the keys.
        (Probe::Found(false), true) => {
            let told = "ignored; the keys of uploads are unique, so that nothing is overwritten all the same";
            Line { verdict: Verdict::Warn, told: told.to_owned(), hint: None, ..completed }
        }
        // Only where the others are counted on: without any, it is one line of three that say the same.
        (_, false) if counted_on.keep_leases() => {
            let told =
                "the store knows no condition for it: it is looked first, and the keys of uploads are unique";
            Line { verdict: Verdict::Ok, told: told.to_owned(), hint: None, ..completed }
        }
        _ => completed,
    };
    [condition("put if absent", &found.put_if_absent, counted_on.put_if_absent), replaced, completed]
}

const IGNORED: &str = "set `conditional_writes = \"ignored\"` under [repository]: leases are then taken by a slower way that \
                       is safe without";

fn condition(check: &str, probe: &Probe<bool>, is_counted_on: bool) -> Line {
    let line = |verdict, told: String| Line::new(verdict, STORE, check, told);
    let wait = Settling::USUAL.wait.as_secs();
    match (probe, is_counted_on) {
        (Probe::Found(true), true) => line(Verdict::Ok, "honoured".to_owned()),
        (Probe::Found(true), false) => line(
            Verdict::Warn,
            format!("honoured, and not counted on: every lease takes {wait} s of waiting"),
        )
        .hint("take `conditional_writes = \"ignored\"` out of the policy, or set it to \"honoured\""),
        (Probe::Found(false), false) => {
            line(Verdict::Ok, format!("ignored, and not counted on: every lease takes {wait} s of waiting"))
        }
        (Probe::Unsupported, false) => {
            line(Verdict::Ok, format!("refused, and not counted on: every lease takes {wait} s of waiting"))
        }
        (Probe::Found(false), true) => {
            line(Verdict::Fail, "ignored: two hosts could hold one lease".to_owned()).hint(IGNORED)
        }
        (Probe::Unsupported, true) => {
            line(Verdict::Fail, "the store refuses the header, and so every backup".to_owned()).hint(IGNORED)
        }
        (other, _) => not_found(STORE, check, other, Verdict::Fail),
    }
}

fn uploads(found: &Found, expected: &Expected) -> Vec<Line> {
    let limits = found.limits;
    let size =
        |bytes: u64| if bytes < 1 << 20 { format!("{bytes} B") } else { format!("{} MiB", bytes >> 20) };
    let equal = if limits.equal_parts { ", all but the last of one size" } else { "" };
    let mut uploaded = flaw("upload in parts", &found.upload, "parts that grow become one object");
    if limits.equal_parts && uploaded.verdict == Verdict::Ok {
        uploaded.told = "parts of one size become one object".to_owned();
    }
    if let (Probe::Failed(_), false) = (&found.upload, limits.equal_parts) {
        uploaded = uploaded.hint(format!(
            "a store that wants all parts of one size is named by `repository.provider = \"{}\"`",
            Provider::CloudflareR2.name()
        ));
    }
    let reach = format!(
        "{} parts of {} to {}{equal}: objects of {} GiB at most",
        limits.parts_max,
        size(limits.part_bytes_min),
        size(limits.part_bytes_max),
        limits.reachable_bytes() >> 30,
    );
    let parts = match &found.highest_part {
        Probe::Found(true) => {
            Line::new(Verdict::Ok, STORE, "part limits", format!("{reach}; the last number is taken"))
        }
        Probe::Found(false) => {
            Line::new(Verdict::Fail, STORE, "part limits", format!("part {} is refused", limits.parts_max))
                .hint("set `repository.max_parts` to what the store allows (Scaleway: 1000)")
        }
        other => not_found(STORE, "part limits", other, Verdict::Warn),
    };
    vec![
        uploaded,
        flaw("give an upload up", &found.abort, "nothing of it is left"),
        parts,
        stale(found, expected),
    ]
}

fn stale(found: &Found, expected: &Expected) -> Line {
    let line = |verdict, told: String| Line::new(verdict, STORE, "stale uploads", told);
    let drops = expected.drops_uploads_after_days();
    match &found.stale_uploads {
        Probe::Found(0) => line(Verdict::Ok, "they are listed, and there are none".to_owned()),
        Probe::Found(count) => line(
            Verdict::Warn,
            format!("{count} were begun a day ago or earlier and not completed"),
        )
        .hint(
            "the next backup of their source gives them up; those of others stay until a lifecycle rule does",
        ),
        Probe::Unsupported | Probe::Denied if drops.is_some() => line(
            Verdict::Ok,
            format!("they cannot be listed; the store drops them after {} day(s)", drops.unwrap_or_default()),
        ),
        Probe::Unsupported => line(Verdict::Warn, "the store cannot list them".to_owned())
            .hint("what a killed agent leaves is paid for until a lifecycle rule drops it"),
        Probe::Denied => line(Verdict::Warn, "these credentials may not list them".to_owned()).hint(format!(
            "allow {}, so that what a killed agent leaves is given up",
            expected.powers.list_uploads
        )),
        other => not_found(STORE, "stale uploads", other, Verdict::Warn),
    }
}

fn of_bucket(bucket: &Bucket, expected: &Expected) -> Vec<Line> {
    let region = match &bucket.region {
        Probe::Found(Some(region)) => Line::new(Verdict::Ok, STORE, "region", region.clone()),
        Probe::Found(None) => Line::new(Verdict::NotTried, STORE, "region", "the store does not say"),
        other => not_found(STORE, "region", other, Verdict::NotTried),
    };
    let checksum = match &bucket.checksum {
        Probe::Found(true) => {
            Line::new(Verdict::Ok, STORE, "checksum", "a body that arrives otherwise than it was sent is refused")
        }
        Probe::Found(false) => {
            Line::new(Verdict::Warn, STORE, "checksum", "a body with the wrong checksum is taken")
                .hint("what is damaged on its way is then found by the next `check --read-data` or drill, and not at once")
        }
        other => not_found(STORE, "checksum", other, Verdict::Warn),
    };
    vec![
        region,
        flaw("pages of a list", &bucket.pages, "complete and in order"),
        checksum,
        versions(&bucket.versioning),
        object_lock(&bucket.is_lockable, expected),
        stale_rule(&bucket.stale_upload_rule, expected),
    ]
}

fn versions(probe: &Probe<Versioning>) -> Line {
    let line = |verdict, told: &str| Line::new(verdict, STORE, "versions", told);
    match probe {
        Probe::Found(Versioning::On) => {
            line(Verdict::Ok, "kept: what is deleted or overwritten can be brought back")
        }
        Probe::Found(Versioning::Suspended) => {
            line(Verdict::Warn, "no longer kept, and what was kept is still paid for")
        }
        Probe::Found(Versioning::Off) => line(Verdict::Ok, "not kept: what is deleted is gone"),
        Probe::Unsupported => line(Verdict::Ok, "the store keeps none: what is deleted is gone"),
        Probe::Denied => line(Verdict::NotTried, "these credentials may not look (s3:GetBucketVersioning)"),
        other => not_found(STORE, "versions", other, Verdict::NotTried),
    }
}

fn object_lock(probe: &Probe<bool>, expected: &Expected) -> Line {
    let line = |verdict, told: &str| Line::new(verdict, STORE, "object lock", told);
    let hint = "make a new bucket with Object Lock, or take `repository.object_lock` out of the policy";
    match (probe, expected.object_lock) {
        (Probe::Found(true), Some(_)) => {
            line(Verdict::Ok, "the bucket was made for it, and the policy asks for it")
        }
        (Probe::Found(true), None) => {
            line(Verdict::Ok, "the bucket was made for it, and the policy does not ask for it")
        }
        (_, None) => line(Verdict::Ok, "the policy does not ask for it"),
        (Probe::Found(false), Some(_)) => {
            line(Verdict::Fail, "the policy asks for it, and the bucket was not made for it").hint(hint)
        }
        (Probe::Unsupported, Some(_)) => {
            line(Verdict::Fail, "the policy asks for it, and the store knows no locks").hint(hint)
        }
        (Probe::Denied, Some(_)) => {
            line(Verdict::NotTried, "these credentials may not look (s3:GetBucketObjectLockConfiguration)")
        }
        (other, Some(_)) => not_found(STORE, "object lock", other, Verdict::Warn),
    }
}

fn stale_rule(probe: &Probe<Option<u32>>, expected: &Expected) -> Line {
    let line = |verdict, told: String| Line::new(verdict, STORE, "rule for stale uploads", told);
    let drops = expected.drops_uploads_after_days();
    match (probe, drops) {
        (Probe::Found(Some(days)), _) => {
            line(Verdict::Ok, format!("the bucket drops uploads {days} day(s) after they were begun"))
        }
        (_, Some(days)) => line(Verdict::Ok, format!("not needed: the store drops uploads after {days} day(s) by itself")),
        (Probe::Found(None), None) => line(Verdict::Warn, "the bucket has none".to_owned()).hint(
            "add a lifecycle rule with AbortIncompleteMultipartUpload after 7 days: what a killed agent leaves is paid for",
        ),
        (Probe::Unsupported, None) => line(Verdict::NotTried, "the store knows no lifecycle rules".to_owned()),
        (Probe::Denied, None) => {
            line(Verdict::NotTried, "these credentials may not look (s3:GetLifecycleConfiguration)".to_owned())
        }
        (other, None) => not_found(STORE, "rule for stale uploads", other, Verdict::NotTried),
    }
}

fn of_rights(source: &SourceName, rights: &Rights, expected: &Expected) -> Vec<Line> {
    let about = format!("rights to {source}");
    let powers = expected.powers;
    let mut lines = Vec::new();
    match expected.role {
        Role::Agent => {
            let right = format!("{} on */backups/*", powers.put);
            lines.push(allowed(&about, "put backups", &rights.put_backups, &right));
        }
        Role::Verifier => {
            let right = format!("{} on */verifications/*", powers.put);
            lines.push(allowed(&about, "put reports", &rights.put_reports, &right));
            lines.push(match &rights.put_backups {
                Probe::Denied => Line::new(Verdict::Ok, &about, "put no backups", "refused, as it should be"),
                Probe::Found(()) => {
                    Line::new(Verdict::Warn, &about, "put no backups", "these credentials may put backups")
                        .hint(format!(
                            "give the verifier credentials of its own without {} on */backups/*",
                            powers.put
                        ))
                }
                other => not_found(&about, "put no backups", other, Verdict::NotTried),
            });
        }
    }
    lines.push(delete(&about, &rights.delete_backups, powers));
    lines
}

fn allowed(about: &str, check: &str, probe: &Probe<()>, right: &str) -> Line {
    match probe {
        Probe::Found(()) => Line::new(Verdict::Ok, about, check, "allowed"),
        Probe::Denied => {
            Line::new(Verdict::Fail, about, check, "these credentials may not").hint(format!("allow {right}"))
        }
        other => not_found(about, check, other, Verdict::Fail),
    }
}

fn delete(about: &str, probe: &Probe<Deleted>, powers: &Powers) -> Line {
    let line = |verdict, told: &str| Line::new(verdict, about, "delete no backups", told);
    let hint = format!(
        "without {} a stolen host destroys nothing; prune then runs elsewhere, with credentials of its own",
        powers.delete
    );
    match probe {
        Probe::Denied => line(Verdict::Ok, "refused, as it should be"),
        Probe::Found(Deleted::Nothing) => line(Verdict::Warn, "these credentials may delete backups").hint(hint),
        Probe::Found(Deleted::Marker) => line(
            Verdict::Warn,
            "these credentials may delete backups; a delete marker of a backup that never was stays behind from this trial",
        )
        .hint(hint),
        other => not_found(about, "delete no backups", other, Verdict::NotTried),
    }
}

fn flaw(check: &str, probe: &Probe<Flaw>, well: &str) -> Line {
    match probe {
        Probe::Found(None) => Line::new(Verdict::Ok, STORE, check, well),
        Probe::Found(Some(flaw)) => Line::new(Verdict::Fail, STORE, check, flaw.clone())
            .hint("the store does not do what S3 does, and is no place for backups until it does"),
        other => not_found(STORE, check, other, Verdict::Fail),
    }
}

/// A probe that found nothing, where that has no meaning of its own.
fn not_found<T>(about: &str, check: &str, probe: &Probe<T>, verdict: Verdict) -> Line {
    let line = |verdict, told: &dyn Display| Line::new(verdict, about, check, told.to_string());
    match probe {
        Probe::Found(_) => line(Verdict::Ok, &"found"),
        Probe::NotTried(why) => line(Verdict::NotTried, why),
        Probe::Denied => line(verdict, &"these credentials may not"),
        Probe::Unsupported => line(verdict, &"the store does not know how"),
        Probe::Failed(why) => line(verdict, why),
    }
}

#[cfg(test)]
mod tests;
