//! `pgproof-verifier report`: reads stored reports, hands them on, and finds out whether they are what was signed.

mod check;
mod export;
mod list;
mod period;
mod show;

use std::path::Path;
use std::process::ExitCode;

use pgproof_monitoring::answer;
use pgproof_policies::names::SourceName;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::ids::RepositoryId;
use pgproof_repository::report::chain::{self, Found, SignedReport};
use pgproof_repository::signature::TrustedSigners;
use pgproof_repository::store::SharedStore;

use crate::cli::{Report, Which};
use crate::failure::{Exit, Failure};
use crate::report::schema;
use crate::verifier::open_repository;

pub(crate) async fn run(policy: &Path, command: Report, json: bool) -> anyhow::Result<ExitCode> {
    match command {
        Report::Schema => {
            answer::print(schema::PUBLISHED)?;
            Ok(ExitCode::SUCCESS)
        }
        Report::List { source } => list::run(policy, source, json).await,
        Report::Show { source, which } => show::run(policy, &source, which, json).await,
        Report::Export(args) => export::run(policy, args, json).await,
        Report::Check(args) => check::run(policy, args, json).await,
        Report::Period(args) => period::run(policy, args, json).await,
    }
}

/// The stored reports of the policy's repository. Reading them takes no private key.
struct Archive {
    loaded: LoadedPolicy,
    store: SharedStore,
    repository: RepositoryId,
    signers: TrustedSigners,
}

impl Archive {
    async fn open(policy: &Path) -> anyhow::Result<Self> {
        let loaded = LoadedPolicy::read(policy)?.for_verifier();
        let signers = loaded.trusted_signers()?;
        let (store, marker) = open_repository(&loaded).await?;
        Ok(Self { loaded, store, repository: marker.id, signers })
    }

    async fn reports(&self, source: &SourceName) -> anyhow::Result<Vec<Found>> {
        self.loaded.source(source)?;
        Ok(chain::list(&self.store, source, &self.signers).await?)
    }
}

/// The well signed one with this number, or the newest.
fn pick(found: &[Found], which: Which) -> Option<&SignedReport> {
    let mut signed = found.iter().filter_map(Found::signed);
    match which {
        Which::Latest => signed.max_by_key(|signed| signed.get().number),
        Which::Number(number) => signed.find(|signed| signed.get().number == number),
    }
}

fn no_such_report(source: &SourceName) -> Failure {
    let message = format!("there is no such well signed report of {source}");
    Failure::new(
        Exit::NothingFound,
        message,
        format!("`pgproof-verifier report list {source}` shows what there is"),
    )
}
