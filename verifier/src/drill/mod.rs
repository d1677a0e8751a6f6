//! A drill: take the lease, choose a backup, prove it in a scratch database, sign and store what was found.

mod blank;
mod choice;
pub(crate) mod names;
mod queries;
mod scratch;
mod work;

use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_policies::policy::Source;
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::lease::Lease;
use pgproof_repository::report::{self, Report, v1};
use pgproof_repository::{catalog, layout, records};
use tokio_util::sync::CancellationToken;

pub(crate) use choice::Pick;
pub(crate) use scratch::sweep;
use work::Drill;

use crate::verifier::Verifier;

/// What is asked of one drill.
#[derive(Debug)]
pub(crate) struct Request {
    pub pick: Pick,
    pub trigger: v1::Trigger,
    /// Connections that load and read tables at the same time.
    pub jobs: usize,
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
        let now = Timestamp::now();
        let entries = catalog::list(&self.store, &source.name, &self.signers).await?;
        let past = report::chain::list(&self.store, &source.name, &self.signers).await?;
        let chosen = choice::choose(self, &source.name, &request.pick, &entries, now).await?;
        let mut report = blank::blank(self, source, &chosen, request.trigger, now);
        (report.number, report.previous) = report::chain::next(&past);
        let mut drill = Drill {
            store: self.store.clone(),
            source: source.clone(),
            signed: chosen.signed,
            identities: self.identities.clone(),
            jobs: request.jobs,
            refuse_vulnerable: self.loaded.policy.refuse_vulnerable_clients,
            report,
        };
        // Cancelling drops the work, and with it the private server, which is stopped and removed.
        let stopped = tokio::select! {
            () = Box::pin(drill.work(cancel)) => false,
            () = cancel.cancelled() => true,
        };
        let mut report = drill.report;
        if stopped {
            report.warnings.push("stopped by a signal".to_owned());
        }
        report.conclude(Timestamp::now());
        let key = self.store_report(&report).await?;
        let page = self.publish(&key).await;
        Ok(Drilled { report, key, stopped, page })
    }

    /// A drill of which no report remains is no proof.
    async fn store_report(&self, report: &Report) -> anyhow::Result<ObjectKey> {
        let key = layout::verification(&report.source, &report.backup, report.finished_at);
        let stored = records::put(&*self.store, &key, report, &self.signing_key).await;
        stored.context("the report could not be stored")?;
        Ok(key)
    }
}
