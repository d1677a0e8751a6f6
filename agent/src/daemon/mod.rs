//! The schedules of all sources. What was done lies in the repository: this keeps no state, so several hosts may share a
//! source, and a daemon that was killed goes on where it was.
//!
//! One look at a source plans; if a backup is due, it takes the source's lease, plans again, since somebody else may have been
//! faster, and backs up. The rest is waiting: [`Turns`] says for whom.

mod activity;
mod in_force;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgproof_monitoring::guard::guarded;
use pgproof_monitoring::health;
use pgproof_monitoring::lookout::Lookout;
use pgproof_monitoring::service_manager::ServiceManager;
use pgproof_policies::backups::{Cause, Plan, RETRIES, RETRIES_OF_STANDING, Step, Wait};
use pgproof_policies::names::SourceName;
use pgproof_policies::turns::{Looked, Turns};
use pgproof_postgres::connection::sweep_abandoned_secrets;
use pgproof_repository::ids::BackupId;
use pgproof_repository::lease::LeaseError;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use activity::{Activity, Last, LastOutcome, SourceActivity};
pub(crate) use in_force::InForce;

use crate::backup::{Attempt, BackedUp, Claim, Job};
use crate::failure::{self, Exit, Failure};
use crate::plain;

/// How long backups that were cancelled may take to kill their dumps, abort their uploads and store their records.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// What is done, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Whatever falls due, until it is stopped.
    Forever,
    /// What is due now, and then it ends.
    Due,
    /// A backup of each source now, whatever the schedule says.
    Now,
}

#[derive(Debug)]
pub(crate) struct Options {
    pub policy: PathBuf,
    pub mode: Mode,
    /// This source alone.
    pub only: Option<SourceName>,
}

#[derive(Debug)]
pub(crate) struct Daemon {
    in_force: Arc<InForce>,
    options: Options,
    turns: Turns,
    activity: watch::Sender<Activity>,
    worst: Option<Exit>,
    lookout: Option<Lookout>,
    manager: ServiceManager,
}

/// What a look came to.
#[derive(Debug)]
enum Look {
    NothingDue(Plan),
    /// With the beginning of the next run: this one is over once it has its backup.
    Attempted {
        attempt: Box<Attempt>,
        next_run_at: Timestamp,
    },
}

/// What a worker comes back with.
type Ended = (SourceName, anyhow::Result<Look>);

impl Daemon {
    pub(crate) fn new(in_force: InForce, options: Options) -> anyhow::Result<Self> {
        let mut turns = Turns::new(RETRIES);
        turns.restart(options.sources(&in_force)?, Timestamp::now());
        let activity = watch::Sender::new(Activity::default());
        let manager = ServiceManager::default();
        Ok(Self {
            in_force: Arc::new(in_force),
            options,
            turns,
            activity,
            worst: None,
            lookout: None,
            manager,
        })
    }

    /// What it is at, now and later.
    pub(crate) fn activity(&self) -> watch::Receiver<Activity> {
        self.activity.subscribe()
    }

    /// Works until it is cancelled, or once until nothing is left to do. Gives the worst exit code of what it did once.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<Option<Exit>> {
        let mut hangup = signal(SignalKind::hangup())?;
        sweep().await;
        let mut workers = JoinSet::new();
        let is_once = self.options.mode != Mode::Forever;
        if !is_once {
            self.lookout = Some(self.look_out().await?);
            self.manager = ServiceManager::of_this_process();
            self.manager.ready();
        }
        while !cancel.is_cancelled() {
            self.start_workers(&mut workers, &cancel);
            if is_once && workers.is_empty() && self.turns.wake_at().is_none() {
                return Ok(self.worst);
            }
            let line = self.activity.borrow().line();
            self.manager.status(line);
            self.wait(&mut workers, &mut hangup, &cancel).await?;
        }
        self.manager.stopping();
        self.stop(workers).await;
        if let Some(lookout) = self.lookout.take() {
            lookout.stop().await;
        }
        Ok(is_once.then_some(Exit::Interrupted))
    }

    /// Health, metrics and alerts beside the work.
    async fn look_out(&self) -> anyhow::Result<Lookout> {
        let activity = self.activity();
        let tell: health::Activity =
            Arc::new(move || serde_json::to_value(&*activity.borrow()).expect("names are the only keys"));
        let started = Box::pin(Lookout::start(self.in_force.loaded.clone(), tell)).await;
        started.map_err(|error| {
            let hint = error.hint().unwrap_or_default();
            Failure::new(Exit::Failed, failure::message_of(&error), hint).into()
        })
    }

    fn start_workers(&mut self, workers: &mut JoinSet<Ended>, cancel: &CancellationToken) {
        while self.has_room(workers) {
            let now = Timestamp::now();
            let Some(source) = self.turns.take(now) else { return };
            self.change(&source, |activity| activity.begin(now));
            let (in_force, mode, cancel) = (self.in_force.clone(), self.options.mode, cancel.clone());
            workers.spawn(async move {
                let looked = guarded(Box::pin(look(&in_force, &source, mode, cancel))).await;
                (source, looked.unwrap_or_else(|panicked| Err(panicked.into())))
            });
        }
    }

    /// Until something has to be done.
    async fn wait(
        &mut self,
        workers: &mut JoinSet<Ended>,
        hangup: &mut Signal,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let has_room = self.has_room(workers);
        tokio::select! {
            () = cancel.cancelled() => {}
            Some(ended) = workers.join_next() => self.ended(ended?),
            _ = hangup.recv() => Box::pin(self.reload()).await,
            () = tokio::time::sleep(self.turns.wait(Timestamp::now())), if has_room => {}
            () = self.manager.beat() => {}
        }
        Ok(())
    }

    fn has_room(&self, workers: &JoinSet<Ended>) -> bool {
        workers.len() < self.in_force.loaded.policy.agent.concurrency as usize
    }

    fn ended(&mut self, (source, result): Ended) {
        let now = Timestamp::now();
        let looked = self.judge(&source, result, now);
        let is_over = match self.options.mode {
            Mode::Forever => false,
            Mode::Due => looked != Looked::Held,
            Mode::Now => true,
        };
        let is_scheduled = self.options.sources(&self.in_force).is_ok_and(|all| all.contains(&source));
        self.turns.enter(&source, looked, is_scheduled && !is_over, now);
        let next_look = self.turns.look_at(&source);
        self.change(&source, |activity| activity.end(next_look));
    }

    /// Tells how a look ended, and counts it.
    fn judge(&mut self, source: &SourceName, result: anyhow::Result<Look>, now: Timestamp) -> Looked {
        match result {
            Ok(Look::NothingDue(plan)) => self.nothing_due(source, &plan, now),
            Ok(Look::Attempted { attempt, next_run_at }) => {
                let Attempt { id, outcome, is_recorded, not_told } = *attempt;
                if !not_told.is_empty() {
                    self.worst = worse(self.worst, Exit::Failed);
                }
                match (outcome, is_recorded) {
                    (Ok(backed_up), _) => {
                        self.backed_up(source, &backed_up, now);
                        Looked::NothingDue { wake_at: next_run_at }
                    }
                    (Err(error), is_recorded) => {
                        self.failed(source, Some(id), &error, now);
                        // With a record, the plan says then how long to wait.
                        let wake_at = now + RETRIES.first;
                        if is_recorded { Looked::NothingDue { wake_at } } else { Looked::Failed }
                    }
                }
            }
            Err(error) if is_held(&error) => {
                tracing::info!(%source, "another process is at work on it");
                if self.options.mode == Mode::Now {
                    self.failed(source, None, &error, now);
                }
                Looked::Held
            }
            Err(error) => {
                self.failed(source, None, &error, now);
                match failure::cause(&error) {
                    Cause::Standing => Looked::NothingDue { wake_at: now + RETRIES_OF_STANDING.first },
                    Cause::Passing | Cause::Stopped => Looked::Failed,
                }
            }
        }
    }

    fn nothing_due(&mut self, source: &SourceName, plan: &Plan, now: Timestamp) -> Looked {
        tell_warnings(source, plan);
        let Step::Wait { until, why } = &plan.step else { return Looked::Worked };
        match why {
            Wait::GivenUp { .. } => tracing::error!(%source, until = %until, "{why}"),
            _ => tracing::info!(%source, until = %until, "nothing is due: {why}"),
        }
        let nothing_due = LastOutcome::NothingDue { why: why.to_string() };
        self.change(source, |activity| activity.ended(now, nothing_due));
        Looked::NothingDue { wake_at: *until }
    }

    fn backed_up(&mut self, source: &SourceName, backed_up: &BackedUp, now: Timestamp) {
        let manifest = backed_up.made.manifest();
        let took = plain::duration(manifest.finished_at.duration_since(manifest.started_at));
        let stored = plain::bytes(manifest.stored_bytes());
        tracing::info!(%source, backup = %manifest.id, %took, %stored, "backed up");
        let warnings = backed_up.warnings();
        warnings.iter().for_each(|warning| tracing::warn!(%source, backup = %manifest.id, "{warning}"));
        if backed_up.after.is_err() {
            self.worst = worse(self.worst, Exit::Failed);
        }
        if manifest.losses() > 0 {
            self.worst = worse(self.worst, Exit::Incomplete);
        }
        let backup = manifest.id.clone();
        self.change(source, |activity| activity.ended(now, LastOutcome::BackedUp { backup, warnings }));
    }

    /// Tells on one line of an attempt, or a look, that came to nothing.
    fn failed(
        &mut self,
        source: &SourceName,
        backup: Option<BackupId>,
        error: &anyhow::Error,
        now: Timestamp,
    ) {
        let message = failure::on_one_line(&failure::message(error));
        let hint = failure::hint(error);
        match failure::cause(error) {
            Cause::Stopped => tracing::info!(%source, "no backup: {message}"),
            Cause::Passing | Cause::Standing => {
                tracing::error!(%source, hint = hint.as_deref(), "no backup: {message}");
            }
        }
        self.worst = worse(self.worst, failure::exit(error));
        self.change(source, |activity| activity.ended(now, LastOutcome::Failed { backup, error: message }));
    }

    fn change(&self, source: &SourceName, change: impl FnOnce(&mut SourceActivity)) {
        self.activity.send_modify(|activity| change(activity.sources.entry(source.clone()).or_default()));
    }

    /// Takes the policy as it is now, or goes on with the one in force when it is wrong.
    async fn reload(&mut self) {
        self.manager.reloading();
        let opened = self.manager.alive_during(InForce::open(&self.options.policy)).await;
        match opened.and_then(|in_force| Ok((self.options.sources(&in_force)?, in_force))) {
            Ok((sources, in_force)) => {
                self.in_force = Arc::new(in_force);
                if let Some(lookout) = &self.lookout {
                    lookout.replace(self.in_force.loaded.clone()).await;
                }
                self.activity.send_modify(|activity| {
                    activity.policy_refused = None;
                    activity.sources.retain(|name, at| at.at_work_since.is_some() || sources.contains(name));
                });
                self.turns.restart(sources, Timestamp::now());
                tracing::info!("the policy was read again");
            }
            Err(error) => {
                let error = failure::on_one_line(&failure::message(&error));
                tracing::error!(
                    "the new policy is wrong, and the one that was in force stays in force: {error}"
                );
                self.activity.send_modify(|activity| activity.policy_refused = Some(error));
            }
        }
        self.manager.ready();
    }

    /// Cancelled backups kill their dumps, abort their uploads, and leave a record that says so.
    async fn stop(&mut self, mut workers: JoinSet<Ended>) {
        let drain = async {
            while let Some(ended) = workers.join_next().await {
                match ended {
                    Ok(ended) => self.ended(ended),
                    Err(error) => tracing::error!(%error, "a backup ended without an answer"),
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, drain).await.is_err() {
            tracing::warn!("a backup took too long to stop; what it left is removed by the next one");
        }
    }
}

impl Options {
    /// The sources that have a turn.
    fn sources(&self, in_force: &InForce) -> anyhow::Result<Vec<SourceName>> {
        match (&self.only, self.mode) {
            (Some(only), _) => Ok(vec![in_force.loaded.source(only)?.name.clone()]),
            (None, Mode::Now) => Ok(in_force.loaded.policy.sources.keys().cloned().collect()),
            (None, Mode::Forever | Mode::Due) => in_force.scheduled(),
        }
    }
}

/// What a daemon left that was killed: its passwords.
async fn sweep() {
    match tokio::task::spawn_blocking(sweep_abandoned_secrets).await {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => tracing::warn!(count, "removed the password files of processes that were killed"),
        Ok(Err(error)) => tracing::warn!(%error, "password files of processes that were killed may be left"),
        Err(error) => tracing::error!(%error, "the search for left password files ended without an answer"),
    }
}

async fn look(
    in_force: &InForce,
    source: &SourceName,
    mode: Mode,
    cancel: CancellationToken,
) -> anyhow::Result<Look> {
    if mode == Mode::Now {
        let mut job = job(in_force, source, cancel).await?;
        job.begins_repository = true;
        let claim = job.claim().await?;
        return Ok(attempted(&job, claim, Timestamp::MAX).await);
    }
    let planned = in_force.plan(source, Timestamp::now()).await?;
    if planned.wake_at().is_some() {
        return Ok(Look::NothingDue(planned));
    }
    let job = job(in_force, source, cancel).await?;
    let claim = job.claim().await?;
    match in_force.plan(source, Timestamp::now()).await {
        Ok(planned @ Plan { step: Step::BackUp(reason), .. }) => {
            tell_warnings(source, &planned);
            tracing::info!(%source, "backing up: {reason}");
            Ok(attempted(&job, claim, planned.run.next_at).await)
        }
        // Somebody else was a moment faster.
        Ok(planned) => {
            claim.give_back().await;
            Ok(Look::NothingDue(planned))
        }
        Err(error) => {
            claim.give_back().await;
            Err(error)
        }
    }
}

fn tell_warnings(source: &SourceName, plan: &Plan) {
    plan.warnings.iter().for_each(|warning| tracing::warn!(%source, "{warning}"));
}

async fn attempted(job: &Job, claim: Claim, next_run_at: Timestamp) -> Look {
    let attempt = Box::new(Box::pin(job.run(claim)).await);
    Look::Attempted { attempt, next_run_at }
}

async fn job(in_force: &InForce, source: &SourceName, cancel: CancellationToken) -> anyhow::Result<Job> {
    let mut job = Job::new(in_force.loaded.clone(), source, cancel).await?;
    job.is_watched = false;
    job.begins_repository = false;
    Ok(job)
}

/// Held by somebody, or lost to somebody while it was taken.
fn is_held(error: &anyhow::Error) -> bool {
    let lease = error.chain().find_map(|cause| cause.downcast_ref::<LeaseError>());
    matches!(lease, Some(LeaseError::Held { .. } | LeaseError::Lost))
}

/// That a backup failed is worse than that somebody else is at it; that it was stopped says nothing of the rest.
fn worse(one: Option<Exit>, other: Exit) -> Option<Exit> {
    let rank = |exit: &Exit| match exit {
        Exit::Busy => 0,
        Exit::NothingFound | Exit::Usage => 1,
        Exit::Incomplete => 2,
        Exit::Failed | Exit::Unconfirmed => 3,
        Exit::Integrity => 4,
        Exit::Interrupted => 5,
    };
    one.into_iter().chain([other]).max_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_backup_is_worse_than_one_that_somebody_else_makes() {
        assert_eq!(worse(None, Exit::Busy), Some(Exit::Busy));
        assert_eq!(worse(Some(Exit::Failed), Exit::Busy), Some(Exit::Failed));
        assert_eq!(worse(Some(Exit::Usage), Exit::Failed), Some(Exit::Failed));
    }
}
