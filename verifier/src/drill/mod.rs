//! A drill: take the lease, choose a backup, prove it in a scratch database, sign and store what was found.

mod agenda;
mod alerts;
mod attempts;
mod blank;
mod checks;
mod choice;
mod control;
mod exceptions;
pub(crate) mod names;
mod objects;
mod queries;
pub(crate) mod scratch;
mod standing;
mod work;

use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_monitoring::alerts::NotTold;
use pgproof_policies::policy::{Kind, NEGATIVE_CONTROL_EVERY_DEFAULT, Source};
use pgproof_postgres::restore::LeftOut;
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::lease::Lease;
use pgproof_repository::pins::Pin;
use pgproof_repository::report::chain::Found;
use pgproof_repository::report::{self, Report, by_time, v1};
use pgproof_repository::{catalog, custody, layout, records};
use tokio_util::sync::CancellationToken;

pub(crate) use agenda::NothingDue;
pub(crate) use choice::Pick;
pub(crate) use scratch::sweep;
use standing::Standing;
pub(crate) use standing::history_backup;
use work::{ControlOrder, Drill};

use crate::failure::{self, Exit};
use crate::verifier::Verifier;

/// What is asked of one drill.
#[derive(Debug)]
pub(crate) struct Request {
    pub pick: Pick,
    pub trigger: v1::Trigger,
    /// Connections that load and read tables at the same time.
    pub jobs: usize,
    /// Make the negative control, also where the schedule does not ask for it.
    pub negative_control: bool,
}

/// A drill that ended, with its report in the store.
#[derive(Debug)]
pub(crate) struct Drilled {
    pub report: Report,
    pub key: ObjectKey,
    /// Whether a signal ended it early.
    pub stopped: bool,
    /// The page in the policy's report directory, if it names one. That it could not be written loses no report.
    pub page: anyhow::Result<Option<PathBuf>>,
    /// Routes by which nobody could be told of it.
    pub not_told: Vec<NotTold>,
}

impl Drilled {
    /// The exit code of a program that did just this; `None` where the backup was proved and the report is where the
    /// policy wants it.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.report.verdict {
            // What a reviewer waits for is not there.
            v1::Verdict::Passed | v1::Verdict::Degraded => {
                (self.page.is_err() || !self.not_told.is_empty()).then_some(Exit::NotRun)
            }
            v1::Verdict::Failed | v1::Verdict::VerifierFailed => Some(Exit::CheckFailed),
            v1::Verdict::NotRun if self.stopped => Some(Exit::Interrupted),
            v1::Verdict::NotRun => Some(Exit::NotRun),
        }
    }
}

impl Verifier {
    /// Drills a source once. Whatever is found is in the report; an error means that there is no report.
    pub(crate) async fn drill(
        &self,
        source: &Source,
        request: &Request,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Drilled> {
        // Of two drills of one source at once, both reports would follow the same one.
        let key = layout::drill_lease(&source.name);
        let lease = Lease::take(self.store.clone(), key, Timestamp::now()).await?.keep();
        let drilled = tokio::select! {
            drilled = Box::pin(self.drill_leased(source, request, cancel)) => drilled,
            lost = lease.lost() => Err(anyhow::anyhow!(lost).context("the lease on this source was lost")),
        };
        lease.release().await;
        drilled
    }

    async fn drill_leased(
        &self,
        source: &Source,
        request: &Request,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Drilled> {
        let Kind::Postgres(reach) = source.kind.clone() else {
            return Err(choice::no_database(source.kind.name()).into());
        };
        let now = Timestamp::now();
        let entries = catalog::list(&self.store, &source.name, &self.signers).await?;
        let past = report::chain::list(&self.store, &source.name, &self.signers).await?;
        let chosen = choice::choose(self, source, &request.pick, &entries, &past, now).await?;
        let mut report = blank::blank(self, source, &chosen, request.trigger, now);
        (report.number, report.previous) = report::chain::next(&past);
        let standing = Standing::of(self, source, &entries, &past, now).await;
        let shown = custody::last_shown(&self.store, &source.name, &self.signers).await?;
        for recipient in &mut report.recipients {
            recipient.shown_at = shown.get(&recipient.key).copied();
        }
        let control = match self.control_due(source, request, &past) {
            Ok(()) => Some(ControlOrder { signers: self.signers.clone(), entries }),
            Err(not_made) => {
                report.negative_control = not_made;
                None
            }
        };
        let mut drill = Drill {
            store: self.store.clone(),
            source: source.clone(),
            signed: chosen.signed,
            dumped: chosen.dumped,
            reach,
            identities: self.identities.clone(),
            jobs: request.jobs,
            refuse_vulnerable: self.loaded.policy.refuse_vulnerable_clients,
            control,
            report,
            trouble: None,
            left_out: LeftOut::default(),
        };
        let pin = Pin::try_set(&self.store, &source.name, &drill.report.backup).await;
        // The work itself heeds the token: it has a server or a database to remove.
        Box::pin(attempts::work_within_limit(&mut drill, cancel)).await;
        if let Some(pin) = pin {
            pin.release().await;
        }
        let stopped = cancel.is_cancelled();
        let mut report = drill.report;
        if stopped {
            report.warnings.push("stopped by a signal".to_owned());
        }
        let now = Timestamp::now();
        let today = now.to_zoned(self.loaded.policy.time_zone()).date();
        let verification = source.verification.as_ref();
        standing.judge_objectives(&mut report, now, |check| exceptions::covers(verification, check, today));
        exceptions::apply(&mut report, verification, today);
        report.conclude(now);
        standing.tell(&mut report);
        let key = self.store_report(&report).await?;
        let page = self.publish(&key).await;
        let not_told =
            if stopped { Vec::new() } else { Box::pin(alerts::tell(self, &source.name, &report)).await };
        Ok(Drilled { report, key, stopped, page, not_told })
    }

    fn control_due(
        &self,
        source: &Source,
        request: &Request,
        past: &[Found],
    ) -> Result<(), v1::NegativeControl> {
        let every = source
            .verification
            .as_ref()
            .map_or(NEGATIVE_CONTROL_EVERY_DEFAULT, |verification| verification.negative_control_every);
        let past: Vec<_> = past.iter().filter_map(Found::signed).collect();
        let due = control::due(&past, every);
        if request.negative_control { Ok(()) } else { due }
    }

    /// A drill of which no report remains is no proof.
    async fn store_report(&self, report: &Report) -> anyhow::Result<ObjectKey> {
        let key = layout::verification(&report.source, &report.backup, report.finished_at);
        let stored = records::put(&*self.store, &key, report, &self.signing_key).await;
        stored.context("the report could not be stored")?;
        if let Err(error) = by_time::name(&*self.store, report).await {
            tracing::warn!(%key, error = %failure::chain(&error), "the report has no name by its time: `status` may show an older proof");
        }
        Ok(key)
    }
}
