//! `pgproof prune`: prints the plan, with a reason for every backup; with `--yes` carries out exactly it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::anyhow;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgproof_monitoring::alerts::{NotTold, Recollection, Teller};
use pgproof_monitoring::journal;
use pgproof_policies::alerts::{Alert, Kind};
use pgproof_policies::locks::Locks;
use pgproof_policies::names::SourceName;
use pgproof_policies::retention::removal::{self, Objection};
use pgproof_policies::retention::{self, Decision, Plan};
use pgproof_repository::acts::What;
use pgproof_repository::catalog::{self, Brief, BriefStanding};
use pgproof_repository::lease::{Lease, host_name};
use pgproof_repository::prune::{Failure as NotDone, LockPlan, Outcome, Pruner, candidates};
use pgproof_repository::signature::{SigningKey, TrustedSigners};
use pgproof_repository::store::Lock;
use pgproof_repository::{layout, pins};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::list::chain;
use super::{Opened, open, print_json, record, say, stopped, unless_cancelled};
use crate::failure::{Exit, Failure};
use crate::{cli, plain};

/// A clock that is further off than this would expire the wrong backups.
const CLOCK_SKEW_MAX: SignedDuration = SignedDuration::from_mins(5);

/// Of a prune that had to stop: every step of it may be the last.
const IN_PART: &str = "removed in part, and the next prune goes on with it";

pub(crate) async fn run(
    policy: &Path,
    args: cli::Prune,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let planned = Box::pin(Planned::of(policy, &args.source));
    let Planned { opened, signers, now, briefs, plan, locks } = unless_cancelled(&cancel, planned).await?;
    let source = opened.loaded.source(&args.source)?;
    let allowed = removal::allowed(&plan, source.retention.remove_share_max, args.confirm_removal);
    if !args.yes {
        print_plan(&plan, &locks, &briefs, json)?;
        if !json && (plan.expired().next().is_some() || !locks.extensions.is_empty()) {
            say(&told_next(&source.name, &plan, allowed))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    allowed.map_err(|objection| refused(&source.name, &plan, objection))?;

    let signing_key = opened.loaded.signing_key()?;
    // Thousands of objects take longer than a lease lives.
    let lease = Lease::take(opened.store.clone(), layout::prune_lease(&source.name), now).await?.keep();
    let by_id: BTreeMap<&str, &Brief> = briefs.iter().map(|brief| (brief.id.as_str(), brief)).collect();
    let expired: Vec<&Brief> = plan.expired().filter_map(|id| by_id.get(id).copied()).collect();
    let host = host_name();
    let pruner = Pruner {
        store: &opened.store,
        source: &source.name,
        signing_key: &signing_key,
        signers: &signers,
        host: &host,
        cancel,
    };
    let work = async {
        // What stays is made safe before anything goes.
        let (locked, not_locked) = pruner.extend_locks(&locks.extensions).await;
        Outcome { locked, not_locked, ..pruner.carry_out(&expired, &briefs, now).await }
    };
    let outcome = tokio::select! {
        outcome = Box::pin(work) => outcome,
        lost = lease.lost() => {
            let error = anyhow!(lost).context("the lease for pruning this source was lost");
            return Err(error.context(IN_PART));
        }
    };
    if outcome.did_something() {
        let what = act(&outcome, args.confirm_removal);
        record::enter(&opened.store, &opened.loaded, &source.name, what).await;
    }
    lease.release().await;
    print_outcome(&plan, &locks, &briefs, &outcome, json)?;
    if opened.store.left_versions() {
        journal::say(
            Level::WARN,
            "note: the bucket keeps versions, so what was removed lies there still, behind delete markers; \
             `repository.delete_versions = true` or a lifecycle rule of the bucket removes it",
        );
    }
    let not_told = tell(&opened, &source.name, &signing_key, &signers, &outcome).await;
    if outcome.was_stopped {
        return Err(stopped("what was removed is gone, and the next prune goes on with the rest").into());
    }
    match (outcome.failures.len(), outcome.not_locked.len()) {
        (0, 0) if !not_told.is_empty() => super::all_told(not_told).map(|()| ExitCode::SUCCESS),
        (0, 0) => Ok(ExitCode::SUCCESS),
        (0, count) => {
            let message = format!("{count} backup(s) could not be locked for as long as they are kept");
            let hint = "the pruner needs s3:PutObjectRetention; then run prune again";
            Err(Failure::new(Exit::Failed, message, hint).into())
        }
        (count, _) => {
            let message = format!("{count} backup(s) could not be removed wholly");
            Err(Failure::new(Exit::Failed, message, "run prune again; it goes on where this one stopped")
                .into())
        }
    }
}

/// What is going to be done, and all that it follows from.
struct Planned {
    opened: Opened,
    signers: TrustedSigners,
    now: Timestamp,
    briefs: Vec<Brief>,
    plan: Plan,
    locks: LockPlan,
}

impl Planned {
    async fn of(policy: &Path, source: &SourceName) -> anyhow::Result<Self> {
        let opened = open(policy, Some(source)).await?;
        let source = opened.loaded.source(source)?;
        let signers = opened.loaded.trusted_signers()?;
        let now = Timestamp::now();
        refuse_skewed_clock(opened.store.clock().await?, now)?;
        let zone = match &opened.loaded.policy.zone {
            Some(name) => TimeZone::get(name)?,
            None => TimeZone::UTC,
        };
        let briefs = catalog::survey(&opened.store, &source.name, &signers).await?;
        let pinned = pins::all(&opened.store, &source.name, now).await?;
        let candidates = candidates(&briefs, &pinned, now);
        let plan = retention::plan(&candidates, &source.retention, &zone, now);
        let locks = match Locks::of(&opened.loaded.policy) {
            Some(locks) => LockPlan::of(&opened.store, &source.name, &plan, &candidates, &locks, now).await?,
            None => LockPlan::default(),
        };
        Ok(Self { opened, signers, now, briefs, plan, locks })
    }
}

async fn tell(
    opened: &Opened,
    source: &SourceName,
    signing_key: &SigningKey,
    signers: &TrustedSigners,
    outcome: &Outcome,
) -> Vec<NotTold> {
    let Some(policy) = &opened.loaded.policy.alerts else { return Vec::new() };
    let failures = failures(outcome);
    let subject = match outcome.failures.is_empty() {
        true => "backups could not be locked for as long as they are kept",
        false => "backups that should be gone could not be removed",
    };
    let raised = (!failures.is_empty()).then(|| Alert {
        kind: Kind::PruneFailed,
        about: String::new(),
        subject: subject.to_owned(),
        text: failures.join("\n"),
    });
    let (store, own) = (&opened.store, &Recollection::default());
    let teller = Teller { policy, source, store, signing_key: Some(signing_key), signers, own };
    let raised: Vec<Alert> = raised.into_iter().collect();
    // A bad backup that is gone alarms nobody any more.
    let gone: BTreeSet<String> =
        outcome.removed.iter().map(|id| Alert::of_bad_backup(id.as_str()).key()).collect();
    // Of a prune that did not come to its end nobody knows whether all goes well again.
    let is_over = |kind, key: &str| (kind == Kind::PruneFailed && !outcome.was_stopped) || gone.contains(key);
    Box::pin(teller.tell(&raised, &is_over)).await
}

/// What an operator does next, who has seen the plan.
fn told_next(source: &SourceName, plan: &Plan, allowed: Result<(), Objection>) -> String {
    let number = plan.expired().count();
    match allowed {
        Ok(()) => format!("nothing was removed; `pgproof prune {source} --yes` carries this out"),
        Err(objection) => format!(
            "nothing was removed: {objection}; `pgproof prune {source} --yes --confirm-removal {number}` carries this \
             out"
        ),
    }
}

fn refused(source: &SourceName, plan: &Plan, objection: Objection) -> Failure {
    let number = plan.expired().count();
    let hint = format!(
        "look at `pgproof prune {source}`; if all of it shall go: --yes --confirm-removal {number} \
         (`retention.remove_share_max` in the policy is the limit)"
    );
    Failure::new(Exit::Unconfirmed, format!("nothing was removed: {objection}"), hint)
}

fn act(outcome: &Outcome, confirmed: Option<usize>) -> What {
    What::Prune {
        removed: outcome.removed.clone(),
        swept: outcome.swept.clone(),
        aborted_uploads: outcome.aborted_uploads,
        failures: failures(outcome),
        locked: outcome.locked.iter().map(|it| it.id.clone()).collect(),
        confirmed,
    }
}

/// What was not removed, and then what was not locked.
fn failures(outcome: &Outcome) -> Vec<String> {
    let all = outcome.failures.iter().chain(&outcome.not_locked);
    all.map(|NotDone { id, error }| format!("{id}: {}", chain(error))).collect()
}

fn refuse_skewed_clock(store: Option<Timestamp>, now: Timestamp) -> anyhow::Result<()> {
    let Some(store) = store else { return Ok(()) };
    let skew = now.duration_since(store).abs();
    if skew <= CLOCK_SKEW_MAX {
        return Ok(());
    }
    let message = format!("this host's clock is {} away from the store's", plain::duration(skew));
    Err(Failure::new(Exit::Failed, message, "set the clock right before anything is removed").into())
}

fn print_plan(plan: &Plan, locks: &LockPlan, briefs: &[Brief], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&plan_document(plan, locks));
    }
    for line in &plan.lines {
        let (decision, lock) = (decision(&line.decision), locked(&line.id, locks));
        say(&format!("{}  {}  {decision}{lock}", line.id, plain::time(line.snapshot_at)))?;
    }
    let rests = briefs
        .iter()
        .filter(|brief| matches!(brief.standing, BriefStanding::Incomplete | BriefStanding::Pruned));
    for rest in rests {
        say(&format!("{}  no manifest: swept 24 hours after its start", rest.id))?;
    }
    Ok(())
}

fn print_outcome(
    plan: &Plan,
    locks: &LockPlan,
    briefs: &[Brief],
    outcome: &Outcome,
    json: bool,
) -> anyhow::Result<()> {
    let put_off: Vec<_> =
        outcome.put_off.iter().map(|it| json!({ "id": it.id, "why": it.why.to_string() })).collect();
    let not_done = |all: &[NotDone]| -> Vec<serde_json::Value> {
        all.iter().map(|f| json!({ "id": f.id, "error": chain(&f.error) })).collect()
    };
    let locked: Vec<_> =
        outcome.locked.iter().map(|it| json!({ "id": it.id, "until": it.due.until })).collect();
    if json {
        return print_json(&json!({
            "plan": plan_document(plan, locks),
            "removed": outcome.removed,
            "swept": outcome.swept,
            "put_off": put_off,
            "aborted_uploads": outcome.aborted_uploads,
            "locked": locked,
            "failures": not_done(&outcome.failures),
            "not_locked": not_done(&outcome.not_locked),
        }));
    }
    print_plan(plan, locks, briefs, false)?;
    let (removed, swept) = (outcome.removed.len(), outcome.swept.len());
    say(&format!("removed {removed}, swept {swept}, aborted {} upload(s)", outcome.aborted_uploads))?;
    if !outcome.locked.is_empty() {
        say(&format!("locked {} for longer", outcome.locked.len()))?;
    }
    for it in &outcome.put_off {
        say(&format!("not yet: {}: {}", it.id, it.why))?;
    }
    for failure in &outcome.not_locked {
        say(&format!("not locked: {}: {}", failure.id, chain(&failure.error)))?;
    }
    for failure in &outcome.failures {
        say(&format!("not removed: {}: {}", failure.id, chain(&failure.error)))?;
    }
    Ok(())
}

fn plan_document(plan: &Plan, locks: &LockPlan) -> serde_json::Value {
    let line = |line: &retention::PlanLine| {
        let (keep, reasons) = match &line.decision {
            Decision::Keep(reasons) => (true, reasons.iter().map(ToString::to_string).collect()),
            Decision::Expire => (false, Vec::new()),
        };
        json!({
            "id": line.id, "snapshot_at": line.snapshot_at, "keep": keep, "reasons": reasons,
            "locked_until": locks.lock(&line.id).and_then(Lock::until),
            "lock_until": locks.extension(&line.id).map(|it| it.due.until),
        })
    };
    plan.lines.iter().map(line).collect()
}

fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Expire => "remove".to_owned(),
        Decision::Keep(reasons) => {
            format!("keep: {}", reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
    }
}

/// What is known of a line's lock, and what becomes of it.
fn locked(id: &str, locks: &LockPlan) -> String {
    let known = locks.lock(id).map(|lock| format!("; {lock}")).unwrap_or_default();
    let longer = locks.extension(id).map(|it| {
        let class = it.due.class.map(|class| format!(", for {class}")).unwrap_or_default();
        format!("; to be locked until {}{class}", plain::time(it.due.until))
    });
    format!("{known}{}", longer.unwrap_or_default())
}
