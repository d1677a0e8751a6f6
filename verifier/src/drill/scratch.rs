//! The private, throw-away server of a drill.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pgproof_policies::policy::PostgresSource;
use pgproof_postgres::client::{Client, ClientTools, Program};
use pgproof_postgres::cluster::{self, Cluster, ClusterOptions};
use pgproof_postgres::globals::{self, ApplyOptions, Globals, Outcome as Became};

use crate::failure::{Exit, Failure};
use pgproof_repository::report::Outcome;

/// Where distributions put the servers' programs, one folder a major version.
const USUAL_PARENT: &str = "/usr/lib/postgresql";
/// The client programs alone make no server.
const HINT_NO_SERVER: &str = "a drill starts a server of its own: install the package of the server";

/// Removes what drills that were killed left behind. Not being able to is no reason not to drill.
pub(crate) async fn sweep() {
    match tokio::task::spawn_blocking(|| cluster::sweep_abandoned(None)).await {
        Ok(Ok(removed)) if !removed.is_empty() => {
            tracing::info!(count = removed.len(), "private servers of killed processes were removed");
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = crate::failure::chain(&error), "cannot look for abandoned servers");
        }
        Err(error) => tracing::warn!(%error, "cannot look for abandoned servers"),
    }
}

/// Starts a server of this major version, or of the next newer one that is installed, and names its `pg_restore`.
pub(crate) async fn start(
    postgres: &PostgresSource,
    major: u32,
    durable: bool,
) -> anyhow::Result<(Cluster, Client)> {
    let (directories, preferred) = (candidates(postgres), postgres.client_dirs.clone());
    let found = tokio::task::spawn_blocking(move || newest_fitting(&directories, &preferred, major)).await?;
    let (bin, restore) = found.ok_or_else(|| {
        let message = format!("no server of major version {major} or newer is installed here");
        Failure::new(Exit::NotRun, message, HINT_NO_SERVER)
    })?;
    let options = ClusterOptions { fsync: durable, ..ClusterOptions::default() };
    Ok((Box::pin(Cluster::start(&bin, options)).await?, restore))
}

/// The tools that a restore into this server uses: those beside it first.
pub(crate) fn tools(restore: &Client) -> ClientTools {
    let beside: Vec<PathBuf> = restore.path.parent().map(Path::to_owned).into_iter().collect();
    ClientTools::new(&beside, std::env::var_os("PATH").as_deref())
}

/// Makes the roles that the backup's objects belong to.
pub(crate) async fn apply_globals(cluster: &Cluster, text: &str) -> anyhow::Result<Outcome> {
    let globals = Globals::parse(text)?;
    let session = Box::pin(cluster.spec().connect()).await?;
    let options = ApplyOptions { change_existing_roles: false, tablespaces: false };
    let applied = globals::apply(&session, &globals, options).await?;
    let refused: Vec<String> = applied
        .iter()
        .filter_map(|applied| match &applied.outcome {
            Became::Failed { why } => Some(format!("{}: {why}", applied.object)),
            Became::Done | Became::Skipped { .. } => None,
        })
        .collect();
    Ok(match refused.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Degraded { reason: refused.join("; ") },
    })
}

fn candidates(postgres: &PostgresSource) -> Vec<PathBuf> {
    let usual =
        fs::read_dir(USUAL_PARENT).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = postgres.client_dirs.iter().cloned().chain(usual).chain(std::env::split_paths(&path));
    let real: BTreeSet<PathBuf> = all.filter_map(|directory| directory.canonicalize().ok()).collect();
    real.into_iter().filter(|directory| directory.join("initdb").exists()).collect()
}

/// The smallest sufficient major version, the policy's directories before others.
fn newest_fitting(directories: &[PathBuf], preferred: &[PathBuf], major: u32) -> Option<(PathBuf, Client)> {
    let with_client = |directory: &PathBuf| {
        let path = directory.join(Program::PgRestore.file_name());
        Client::at(Program::PgRestore, &path).ok().map(|client| (directory.clone(), client))
    };
    let fitting =
        directories.iter().filter_map(with_client).filter(|(_, client)| client.version.major >= major);
    let is_preferred =
        |directory: &PathBuf| preferred.iter().any(|p| p.canonicalize().ok().as_ref() == Some(directory));
    fitting.min_by_key(|(directory, client)| {
        (client.version.major, !is_preferred(directory), std::cmp::Reverse(client.version.minor))
    })
}
