//! The private, throw-away server of a drill.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use pgproof_policies::policy::PostgresSource;
use pgproof_postgres::client::{Client, Program};
use pgproof_postgres::cluster::{self, Cluster, ClusterOptions, Files, Isolation, Network};
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::doctor;
use pgproof_repository::doctor::{Line, Verdict};
use pgproof_repository::manifest::v1::Server;

use super::{Fault, Wanted, blame};
use crate::failure::chain;

/// The name of the restored database: no name that a new cluster has already.
pub(super) const DATABASE: &str = "drill";
/// Where distributions put the servers' programs, one folder a major version.
const USUAL_PARENT: &str = "/usr/lib/postgresql";

/// The check of `doctor` on what a server is kept from.
const ISOLATION: &str = "isolation";
const HINT_OF_EXPOSURE: &str = "whoever owns a table in a source could read the verifier's keys: use a kernel with \
                                Landlock (Linux 5.13 or newer), or drill as root, which gives the server a user of its own";

/// A server of our own, which nobody else can reach.
#[derive(Debug)]
pub(crate) struct PrivateServer {
    pub(super) cluster: Cluster,
    pub(super) spec: ConnectionSpec,
    pub(super) client: Client,
}

/// What keeps the restored database from reaching anything, in words.
pub(super) fn described(isolation: &Isolation) -> String {
    let user = match &isolation.account_name {
        Some(name) => format!("own user {name}"),
        None => "the verifier's own user".to_owned(),
    };
    let network = match &isolation.network {
        Network::Cut => "no network".to_owned(),
        Network::Shared => "network not cut off".to_owned(),
        Network::NotCut { reason } => format!("network not cut off: {reason}"),
    };
    let files = match &isolation.files {
        Files::Confined => "files confined to its folder".to_owned(),
        Files::Shared => "files not confined".to_owned(),
        Files::NotConfined { reason } => format!("files not confined: {reason}"),
    };
    format!("{user}, unix socket only, {network}, {files}")
}

/// Removes what drills that were killed left behind. Not being able to is no reason not to drill.
pub(crate) async fn sweep() {
    match tokio::task::spawn_blocking(|| cluster::sweep_abandoned(None)).await {
        Ok(Ok(removed)) if !removed.is_empty() => {
            tracing::info!(count = removed.len(), "private servers of killed processes were removed");
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot look for abandoned servers"),
        Err(error) => tracing::warn!(%error, "cannot look for abandoned servers"),
    }
}

/// Why a server broke down, by its log: what ended it, or else a session. Both are the server's own words and tell of no row.
pub(super) fn last_words(log: &str) -> Option<&str> {
    let said = |severity: &'static str| {
        let words = move |line: &'_ str| line.find(severity).map(|at| at + severity.len());
        log.lines().rev().filter_map(move |line| words(line).map(|at| line[at..].trim()))
    };
    // Said to whoever connects or is connected while it goes down or comes up.
    let is_of_interest =
        |words: &&str| !words.starts_with("the database system is") && !words.starts_with("terminating");
    said("PANIC:").next().or_else(|| said("FATAL:").find(is_of_interest))
}

/// Starts a server of the dump's major version, or of the next newer one that is installed.
pub(super) async fn start(wanted: &Wanted<'_>) -> Result<PrivateServer, Fault> {
    let (directories, preferred) = (candidates(wanted.source), wanted.source.client_dirs.clone());
    let major = wanted.major;
    let found = tokio::task::spawn_blocking(move || newest_fitting(&directories, &preferred, major)).await;
    let found = found.map_err(|error| Fault::Passing { reason: chain(&error) })?;
    let (bin, client) = found.ok_or_else(|| Fault::Lasting {
        reason: format!(
            "no server of major version {major} or newer is installed here; a drill starts a server of its own: \
             install postgresql-{major}"
        ),
    })?;
    let options = ClusterOptions { fsync: wanted.durable, isolated: true, ..ClusterOptions::default() };
    let cluster = Box::pin(Cluster::start(&bin, options)).await.map_err(|error| blame::of_cluster(&error))?;
    let spec = cluster.spec().for_writing().with_patience(wanted.patience);
    Ok(PrivateServer { cluster, spec, client })
}

/// Which programs a drill would use, and what its server would be kept from.
pub(super) async fn examine(about: &str, postgres: &PostgresSource, dumped: &Server) -> Vec<Line> {
    let major = dumped.version_number / 10_000;
    let (directories, preferred) = (candidates(postgres), postgres.client_dirs.clone());
    let find = move || {
        let (bin, client) = newest_fitting(&directories, &preferred, major)?;
        Some((client, cluster::examine_isolation(&bin, None)))
    };
    let found = tokio::task::spawn_blocking(find).await.expect("looking for programs does not panic");
    let Some((client, isolation)) = found else {
        let told = format!("no server of major version {major} or newer is installed here");
        let hint = format!(
            "a drill starts a server of its own: install postgresql-{major}, or name a scratch server"
        );
        return vec![Line::new(Verdict::Fail, about, "drill", told).hint(hint)];
    };
    let program = doctor::client_line(about, Program::PgRestore, &Ok(client), false);
    let isolation = match isolation {
        Ok(isolation) => isolation_line(about, &isolation),
        Err(error) => Line::new(Verdict::Fail, about, ISOLATION, chain(&error)).maybe_hint(error.hint()),
    };
    vec![program, isolation]
}

fn isolation_line(about: &str, isolation: &Isolation) -> Line {
    let told = described(isolation);
    match isolation.exposure() {
        None => Line::new(Verdict::Ok, about, ISOLATION, told),
        Some(_) => Line::new(Verdict::Warn, about, ISOLATION, told).hint(HINT_OF_EXPOSURE),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_broke_a_server_down_outlives_its_log() {
        let full = "could not write to file \"pg_wal/xlogtemp.71\": No space left on device";
        let died = format!(
            "2026-11-26 18:00:00 UTC [70] ERROR:  a row: secret\n2026-11-26 18:00:01 UTC [71] PANIC:  {full}\n\
             2026-11-26 18:00:01 UTC [71] STATEMENT:  COPY t FROM stdin\n\
             2026-11-26 18:00:02 UTC [72] FATAL:  the database system is in recovery mode\n"
        );
        assert_eq!(last_words(&died), Some(full));
        let refused = "[1] FATAL:  could not map anonymous shared memory: Cannot allocate memory\n[1] LOG:  shut down\n";
        assert_eq!(
            last_words(refused),
            Some("could not map anonymous shared memory: Cannot allocate memory")
        );
        for of_no_interest in ["", "[1] ERROR:  secret\n", "[1] FATAL:  terminating connection due to x\n"] {
            assert_eq!(last_words(of_no_interest), None);
        }
    }

    #[test]
    fn a_server_of_our_own_account_that_is_not_confined_is_warned_of() {
        let line = |account: Option<&str>, files| {
            let account_name = account.map(str::to_owned);
            isolation_line("source app", &Isolation { account_name, network: Network::Cut, files })
        };
        let open = || Files::NotConfined { reason: "no Landlock".to_owned() };
        assert_eq!(line(None, open()).verdict, Verdict::Warn);
        assert_eq!(line(Some("postgres"), open()).verdict, Verdict::Ok);
        assert_eq!(line(None, Files::Confined).verdict, Verdict::Ok);
        assert!(
            described(&Isolation { account_name: None, network: Network::Cut, files: open() })
                .ends_with("no network, files not confined: no Landlock")
        );
    }
}
