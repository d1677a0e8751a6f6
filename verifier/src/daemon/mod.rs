//! The schedule as a daemon. Whatever was done lies in the repository: this keeps no state, so several verifiers share the
//! work, and one that was killed goes on where it was.
//!
//! One look at a source takes its lease, plans, and drills the first backup that is due, or finds that there is none. The
//! rest is waiting: [`Turns`] says for whom.

mod activity;
mod opening;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgproof_policies::drills::RETRIES;
use pgproof_policies::names::SourceName;
use pgproof_policies::turns::{Looked, Turns};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::lease::LeaseError;
use pgproof_repository::report::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::drill::{self, Drilled, NothingDue, Pick, Request};
use crate::failure::{self, Exit, Failure};
use crate::verifier::Verifier;
use activity::Activity;
use pgproof_monitoring::answer;
use pgproof_monitoring::guard::guarded;
use pgproof_monitoring::lookout::Lookout;
use pgproof_monitoring::service_manager::ServiceManager;

/// How long drills that were cancelled may take to store what they found.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Options {
    pub policy: PathBuf,
    /// Ends when nothing is due any more.
    pub once: bool,
    /// Drills at the same time.
    pub concurrency: usize,
    /// Connections of each drill.
    pub jobs: usize,
    /// One line a report on standard output.
    pub json: bool,
}

#[derive(Debug)]
struct Daemon {
    verifier: Arc<Verifier>,
    options: Options,
    turns: Turns,
    worst: Option<Exit>,
    activity: watch::Sender<Activity>,
    lookout: Option<Lookout>,
    manager: ServiceManager,
}

/// What a worker comes back with.
type Ended = (SourceName, anyhow::Result<Drilled>);

/// Works until it is cancelled, or once until nothing is due. Gives the worst exit code of what it did once.
pub(crate) async fn run(options: Options, cancel: CancellationToken) -> anyhow::Result<Option<Exit>> {
    let mut hangup = signal(SignalKind::hangup())?;
    if options.once {
        let verifier = Verifier::open(&options.policy).await?;
        return Box::pin(Daemon::new(verifier, options)?.run(hangup, cancel)).await;
    }
    let mut manager = ServiceManager::of_this_process();
    let activity = watch::Sender::new(Activity::default());
    // From here on people hear of it that there is no repository.
    let loaded = Arc::new(LoadedPolicy::read(&options.policy)?.for_verifier());
    let lookout = activity::lookout(loaded, activity.subscribe()).await?;
    let opening = opening::open(&options.policy, options.json, &mut manager, &mut hangup, &cancel);
    let Some(verifier) = Box::pin(opening).await? else {
        lookout.stop().await;
        return Ok(None);
    };
    lookout.replace(Arc::new(verifier.loaded.clone())).await;
    let daemon = Daemon::new(verifier, options)?;
    Box::pin(Daemon { activity, lookout: Some(lookout), manager, ..daemon }.run(hangup, cancel)).await
}

impl Daemon {
    fn new(verifier: Verifier, options: Options) -> anyhow::Result<Self> {
        let mut turns = Turns::new(RETRIES);
        turns.restart(verified(&verifier)?, Timestamp::now());
        let activity = watch::Sender::new(Activity::default());
        Ok(Self {
            verifier: Arc::new(verifier),
            options,
            turns,
            worst: None,
            activity,
            lookout: None,
            manager: ServiceManager::default(),
        })
    }

    async fn run(mut self, mut hangup: Signal, cancel: CancellationToken) -> anyhow::Result<Option<Exit>> {
        drill::sweep().await;
        if !self.options.once {
            self.manager.ready();
        }
        let mut workers = JoinSet::new();
        while !cancel.is_cancelled() {
            self.start_workers(&mut workers, &cancel);
            if self.options.once && workers.is_empty() && self.turns.wake_at().is_none() {
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
        Ok(self.options.once.then_some(Exit::Interrupted))
    }

    fn start_workers(&mut self, workers: &mut JoinSet<Ended>, cancel: &CancellationToken) {
        while workers.len() < self.options.concurrency {
            let Some(source) = self.turns.take(Timestamp::now()) else { return };
            self.activity.send_modify(|activity| activity.begin(&source, Timestamp::now()));
            let request = Request {
                pick: Pick::Due,
                trigger: v1::Trigger::Scheduled,
                jobs: self.options.jobs,
                negative_control: false,
            };
            let (verifier, cancel) = (self.verifier.clone(), cancel.clone());
            workers.spawn(async move {
                let drilled = guarded(Box::pin(look(&verifier, &source, &request, &cancel))).await;
                (source, drilled.unwrap_or_else(|panicked| Err(panicked.into())))
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
        let has_room = workers.len() < self.options.concurrency;
        tokio::select! {
            () = cancel.cancelled() => {}
            Some(ended) = workers.join_next() => self.ended(ended?),
            _ = hangup.recv() => Box::pin(self.reload()).await,
            () = tokio::time::sleep(self.turns.wait(Timestamp::now())), if has_room => {}
            () = self.manager.beat() => {}
        }
        Ok(())
    }

    fn ended(&mut self, (source, result): Ended) {
        let looked = self.judge(&source, result);
        let is_verified =
            self.verifier.loaded.source(&source).is_ok_and(|source| source.verification.is_some());
        let is_done = self.options.once && matches!(looked, Looked::NothingDue { .. } | Looked::Failed);
        self.turns.enter(&source, looked, is_verified && !is_done, Timestamp::now());
        let failures = self.turns.failures(&source);
        self.activity.send_modify(|activity| activity.end(&source, failures));
        if looked == Looked::Failed && !is_done {
            tracing::info!(%source, failures = self.turns.failures(&source), "trying again later");
        }
    }

    /// Tells how a look ended, and counts it.
    fn judge(&mut self, source: &SourceName, result: anyhow::Result<Drilled>) -> Looked {
        match result {
            Ok(drilled) => {
                self.tell(&drilled);
                self.worst = worse(self.worst, drilled.exit());
                Looked::Worked
            }
            Err(error) => {
                if let Some(NothingDue { wake_at, shortfall }) = error.downcast_ref::<NothingDue>() {
                    tracing::info!(%source, until = %wake_at, "nothing is due");
                    if let Some(shortfall) = shortfall {
                        tracing::warn!(%source, "{shortfall}");
                    }
                    return Looked::NothingDue { wake_at: *wake_at };
                }
                // Lost while it was taken: somebody else was a moment faster.
                let lease = error.chain().find_map(|cause| cause.downcast_ref::<LeaseError>());
                if let Some(LeaseError::Held { .. } | LeaseError::Lost) = lease {
                    tracing::info!(%source, "another verifier is at work on it");
                    return Looked::Held;
                }
                tracing::warn!(%source, "could not be drilled");
                self.worst = worse(self.worst, Some(failure::report(&error, self.options.json)));
                Looked::Failed
            }
        }
    }

    fn tell(&self, drilled: &Drilled) {
        let Drilled { report, key, page, .. } = drilled;
        let (source, backup, number) = (&report.source, &report.backup, report.number);
        tracing::info!(%source, %backup, verdict = %report.verdict, number, report = %key.as_str(), "drilled");
        if let Err(error) = page {
            tracing::warn!(%source, error = format!("{error:#}"), "the report is stored, and could not be written out");
        }
        if self.options.json
            && let Err(error) = answer::print_json_line(report)
        {
            tracing::error!(%error, "the report cannot be printed");
        }
    }

    /// Takes the policy as it is now, or goes on with the one in force when it is wrong.
    async fn reload(&mut self) {
        self.manager.reloading();
        let opened = self.manager.alive_during(Verifier::open(&self.options.policy)).await;
        match opened.and_then(|verifier| Ok((verified(&verifier)?, verifier))) {
            Ok((sources, verifier)) => {
                self.verifier = Arc::new(verifier);
                self.turns.restart(sources, Timestamp::now());
                if let Some(lookout) = &self.lookout {
                    lookout.replace(Arc::new(self.verifier.loaded.clone())).await;
                }
                tracing::info!("the policy was read again");
            }
            Err(error) => {
                failure::report(&error, self.options.json);
                tracing::warn!("the policy that was in force stays in force");
            }
        }
        self.manager.ready();
    }

    /// Cancelled drills stop their servers and store a report that says so.
    async fn stop(&mut self, mut workers: JoinSet<Ended>) {
        let drain = async {
            while let Some(ended) = workers.join_next().await {
                match ended {
                    Ok((_, Ok(drilled))) => self.tell(&drilled),
                    Ok((source, Err(error))) => tracing::info!(%source, "stopped: {error:#}"),
                    Err(error) => tracing::error!(%error, "a drill ended without an answer"),
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, drain).await.is_err() {
            tracing::warn!("a drill took too long to stop; what it left is removed by the next one");
        }
    }
}

async fn look(
    verifier: &Verifier,
    source: &SourceName,
    request: &Request,
    cancel: &CancellationToken,
) -> anyhow::Result<Drilled> {
    let source = verifier.loaded.source(source)?;
    verifier.ensure_reports_count(Timestamp::now())?;
    verifier.ensure_repository_is_there().await?;
    Box::pin(verifier.drill(source, request, cancel)).await
}

/// The sources that are drilled on a schedule.
fn verified(verifier: &Verifier) -> anyhow::Result<Vec<SourceName>> {
    verifier.ensure_reports_count(Timestamp::now())?;
    let sources = verifier.loaded.policy.sources.values();
    let verified: Vec<_> =
        sources.filter(|source| source.verification.is_some()).map(|source| source.name.clone()).collect();
    if verified.is_empty() {
        let hint = "add a section [sources.NAME.verification] with a schedule";
        return Err(
            Failure::new(Exit::Usage, "no source in the policy has a `verification` section", hint).into()
        );
    }
    Ok(verified)
}

/// A bad backup is worse than one of which nothing is known.
fn worse(one: Option<Exit>, other: Option<Exit>) -> Option<Exit> {
    let rank = |exit: &Option<Exit>| match exit {
        None => 0,
        Some(Exit::NotRun | Exit::NothingFound | Exit::Usage) => 1,
        Some(Exit::Interrupted) => 2,
        Some(Exit::CheckFailed) => 3,
    };
    [one, other].into_iter().max_by_key(rank).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_backup_is_the_worst_that_can_be_found() {
        assert_eq!(worse(None, None), None);
        assert_eq!(worse(None, Some(Exit::NotRun)), Some(Exit::NotRun));
        assert_eq!(worse(Some(Exit::CheckFailed), Some(Exit::NotRun)), Some(Exit::CheckFailed));
        assert_eq!(worse(Some(Exit::CheckFailed), None), Some(Exit::CheckFailed));
    }
}
