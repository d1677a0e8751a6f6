//! Alerts of how sources stand: silence is told like anything else.

use jiff::Timestamp;
use pgproof_policies::alerts::{Alert, Kind};
use pgproof_policies::standing::{Aspect, Finding, State};
use pgproof_repository::access::{AccessError, LoadedPolicy};
use pgproof_repository::catalog;

use super::{NotTold, Recollection, Teller};
use crate::survey::{PATIENCE, Subject};

/// What a look at a source can say something about.
const KINDS: [Kind; 5] = [Kind::NoBackup, Kind::NoProof, Kind::Tampered, Kind::Unreadable, Kind::Warning];

/// Looks at every source, and tells whom the policy names of what is not well, or is well again.
pub async fn tell(loaded: &LoadedPolicy, own: &Recollection) -> Result<Vec<NotTold>, AccessError> {
    let Some(policy) = &loaded.policy.alerts else { return Ok(Vec::new()) };
    let (signers, store) = (loaded.trusted_signers()?, loaded.open_store_to_watch(PATIENCE).await?);
    // A host that only looks needs no signing key; then only this process remembers. Where there is no repository,
    // nothing is put either: the folder may be the place of a disk that is away.
    let has_repository = matches!(catalog::find_marker(&*store).await, Ok(Some(_)));
    let signing_key = loaded.signing_key().ok().filter(|_| has_repository);
    let now = Timestamp::now();
    let survey = Subject::open(loaded, now).await?.survey(now).await;
    let mut not_told = Vec::new();
    for standing in survey.judge(now) {
        let source = &standing.source.name;
        let teller = Teller {
            policy,
            source,
            store: &store,
            signing_key: signing_key.as_ref(),
            signers: &signers,
            own,
        };
        let was_read = standing.facts.is_some();
        let raised: Vec<Alert> = standing.findings.iter().filter_map(alert).collect();
        // Of a source that could not be read nothing is over.
        let looked_at = |kind: Kind, _: &str| KINDS.contains(&kind) && (was_read || kind == Kind::Unreadable);
        not_told.extend(teller.tell(&raised, &looked_at).await);
    }
    for NotTold { route, source } in &not_told {
        tracing::error!(route, "an alert did not get through: {}", super::chain(source));
    }
    Ok(not_told)
}

/// What has alerts of its own where it happens, a failed run or a bad drill, is not told twice.
fn alert(finding: &Finding) -> Option<Alert> {
    let is_critical = match finding.state {
        State::Ok => return None,
        State::Critical | State::Unknown => true,
        State::Warning => false,
    };
    let (kind, about) = match finding.aspect {
        Aspect::Failing | Aspect::Drill => return None,
        Aspect::Repository => (Kind::Unreadable, ""),
        Aspect::BackupAge if is_critical => (Kind::NoBackup, ""),
        Aspect::ProofAge if is_critical => (Kind::NoProof, ""),
        Aspect::Unreadable => (Kind::Tampered, ""),
        aspect => (Kind::Warning, aspect.as_str()),
    };
    let subject = format!("{}: {}", finding.aspect.as_str().replace('_', " "), finding.told);
    Some(Alert { kind, about: about.to_owned(), subject, text: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_critical_has_its_own_name_and_what_is_told_elsewhere_is_left_to_it() {
        let kind = |aspect, state| {
            let finding = Finding { state, ..Finding::ok(aspect, "told".to_owned()) };
            alert(&finding).map(|alert| alert.key())
        };
        let key = |text: &str| Some(text.to_owned());
        assert_eq!(kind(Aspect::BackupAge, State::Ok), None);
        assert_eq!(kind(Aspect::BackupAge, State::Warning), key("warning/backup_age"));
        assert_eq!(kind(Aspect::BackupAge, State::Critical), key("no_backup"));
        assert_eq!(kind(Aspect::ProofAge, State::Critical), key("no_proof"));
        assert_eq!(kind(Aspect::Repository, State::Unknown), key("unreadable"));
        assert_eq!(kind(Aspect::Unreadable, State::Warning), key("tampered"));
        assert_eq!(kind(Aspect::Incomplete, State::Warning), key("warning/incomplete"));
        assert_eq!(kind(Aspect::Failing, State::Warning), None);
    }
}
