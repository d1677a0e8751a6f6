//! Private, throw-away PostgreSQL clusters: where restores are tried out.
//!
//! A cluster lives in one directory under `/tmp`, is reached over a Unix socket in that directory alone (mode 0700),
//! and is gone when it is stopped, dropped, or, after a `kill -9`, at the next [`sweep_abandoned`]. Where it is asked for
//! and the machine allows it, the server has a network namespace of its own, in which there is no network.

mod isolation;
mod postmaster;

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use secrecy::{ExposeSecret, SecretString};

use crate::connection::{ConnectionSpec, Environment};
use crate::private_dir::{self, PrivateDir};
use isolation::Isolation;
pub use isolation::Network;
use postmaster::Shutdown;

/// First part of the directories' names.
const DIRECTORY_KIND: &str = "pgproof-cluster";
/// A socket's path has at most 107 bytes on Linux (man 7 unix), so the directory must lie close to the root.
pub const ROOT: &str = "/tmp";
/// The account that a server runs under when we are root, as which it refuses to run.
const ACCOUNT_DEFAULT: &str = "postgres";
const SUPERUSER: &str = "postgres";
const PORT_ON_SOCKET: u16 = 5432;
/// How long a new, empty server may take to accept connections; generous, for machines under load.
const START_SECONDS: u32 = 60;
/// Attempts to find a free TCP port, which another process may take between our look and the server's.
const PORT_ATTEMPTS: u32 = 5;
/// How much of the server's log goes into an error.
const LOG_TAIL_BYTES: usize = 4096;

/// How a cluster is made. The default is the fastest that still checks everything: no fsync, checksums on.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The account to run the server as when we are root; `postgres` if none is given.
    pub run_as: Option<String>,
    pub encoding: String,
    /// Locale of the cluster, by `initdb`'s name for it.
    pub locale: String,
    /// Whether the server makes its writes durable: only where its recovery times are to be those of a real one.
    pub fsync: bool,
    /// Listen on 127.0.0.1, too, with this password for the superuser. A network port is open to every local user.
    pub loopback_password: Option<SecretString>,
    /// Start the server where there is no network, if the machine allows it; [`Cluster::network`] says what became of
    /// it. A server that listens on 127.0.0.1 would listen there to nobody.
    pub cut_network: bool,
    /// Further settings of the server.
    pub settings: Vec<(String, String)>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            run_as: None,
            encoding: "UTF8".to_owned(),
            locale: "C".to_owned(),
            fsync: false,
            loopback_password: None,
            cut_network: false,
            settings: Vec::new(),
        }
    }
}

/// A running private cluster. Its superuser is `postgres`; its databases those of a new cluster.
#[derive(Debug)]
pub struct Cluster {
    directory: Directory,
    spec: ConnectionSpec,
    loopback: Option<ConnectionSpec>,
    account_name: Option<String>,
    network: Network,
}

impl Cluster {
    /// Makes and starts a cluster with the programs in `bin_dir`.
    pub async fn start(bin_dir: &Path, options: ClusterOptions) -> Result<Self, ClusterError> {
        let bin_dir = bin_dir.to_owned();
        // If the caller is cancelled, this still runs to its end, and the cluster that it returns is dropped.
        tokio::task::spawn_blocking(move || start(&bin_dir, &options))
            .await
            .map_err(|_| ClusterError::Interrupted)?
    }

    /// How to connect as superuser to the database `postgres`.
    pub fn spec(&self) -> &ConnectionSpec {
        &self.spec
    }

    /// The same over TCP, if the cluster listens there.
    pub fn loopback_spec(&self) -> Option<&ConnectionSpec> {
        self.loopback.as_ref()
    }

    /// The account that the server runs under, where it is not our own.
    pub fn account_name(&self) -> Option<&str> {
        self.account_name.as_deref()
    }

    /// Whether the server can reach anything over the network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The directory that holds everything of this cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.data()
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        self.directory.log_tail()
    }

    /// Stops the server and removes everything.
    pub async fn stop(self) -> Result<(), ClusterError> {
        tokio::task::spawn_blocking(move || self.directory.dismantle())
            .await
            .map_err(|_| ClusterError::Interrupted)?
    }
}

#[cfg(test)]
impl Cluster {
    /// A hot standby of a private cluster, as `pg_basebackup` makes it.
    pub(crate) fn standby_of(bin_dir: &Path, primary: &ConnectionSpec) -> Result<Self, ClusterError> {
        let account = account(None)?;
        let directory = Directory::create(account)?;
        let crate::connection::Host::Socket(socket) = primary.host() else {
            panic!("private clusters have a socket")
        };
        let mut command = command(&bin_dir.join("pg_basebackup"), account, directory.path());
        command.args([
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
            "--username",
            SUPERUSER,
            "--host",
        ]);
        command.arg(socket).arg("--pgdata").arg(directory.data());
        run(command, None)?;
        let path = directory.data().join("postgresql.auto.conf");
        let mut text = fs::read_to_string(&path).expect("written by pg_basebackup");
        text.push_str(&setting_line("unix_socket_directories", &directory.path().display().to_string())?);
        fs::write(&path, text).map_err(|source| ClusterError::File { path, source })?;
        let isolation = Isolation::none();
        launch(bin_dir, account, &directory, &isolation)?;
        let environment = Environment::of_process();
        let spec =
            ConnectionSpec::on_socket(directory.path(), PORT_ON_SOCKET, SUPERUSER, SUPERUSER, &environment);
        let network = isolation.network().clone();
        Ok(Self { directory, spec, loopback: None, account_name: None, network })
    }
}

/// Stops and removes the clusters of processes that were killed before they could. Returns the directories removed.
///
/// Only those of our own account and of `run_as` (default `postgres`) are touched.
pub fn sweep_abandoned(run_as: Option<&str>) -> Result<Vec<PathBuf>, ClusterError> {
    let mut owners = vec![rustix::process::geteuid().as_raw()];
    if let Some(account) = account(run_as)? {
        owners.push(account.uid);
    }
    let root = Path::new(ROOT);
    let found = private_dir::abandoned(root, DIRECTORY_KIND, &owners)
        .map_err(|source| ClusterError::File { path: root.to_owned(), source })?;
    for path in &found {
        postmaster::stop(&path.join("data"), Shutdown::Immediate).map_err(ClusterError::Stop)?;
        remove(path)?;
    }
    Ok(found)
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("there is no account \"{name}\" to run a server as")]
    NoAccount { name: String },
    #[error("cannot run {program}")]
    Run { program: String, source: io::Error },
    #[error("{program} failed with {status}: {output}")]
    Failed { program: String, status: std::process::ExitStatus, output: String },
    #[error("cannot use {path}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a setting's {part} cannot be written: {given}")]
    Setting { part: &'static str, given: String },
    #[error("cannot stop a private server")]
    Stop(#[source] io::Error),
    #[error("making or removing a private server was interrupted")]
    Interrupted,
}

impl ClusterError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoAccount { .. } => {
                Some("a server never runs as root; name another account, or run this as one".to_owned())
            }
            Self::Run { program, .. } if program.ends_with("initdb") => Some(
                "the server's programs are needed, not only the client's: install postgresql-<major>"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// The account that server programs run under, where it is not our own.
#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

/// A cluster's directory. Dropping it stops the server and removes everything.
#[derive(Debug)]
struct Directory {
    kept: Option<PrivateDir>,
}

impl Directory {
    fn create(account: Option<Account>) -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::File { path: PathBuf::from(ROOT), source };
        let directory = PrivateDir::create(Path::new(ROOT), DIRECTORY_KIND).map_err(failed)?;
        if let Some(account) = account {
            chown(directory.path(), Some(account.uid), Some(account.gid)).map_err(failed)?;
        }
        Ok(Self { kept: Some(directory) })
    }

    fn path(&self) -> &Path {
        self.kept.as_ref().expect("taken only when it is dismantled").path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.path().join("log")
    }

    fn log_tail(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }

    fn dismantle(mut self) -> Result<(), ClusterError> {
        self.take_apart()
    }

    fn take_apart(&mut self) -> Result<(), ClusterError> {
        let Some(directory) = self.kept.take() else { return Ok(()) };
        let path = directory.path().to_owned();
        postmaster::stop(&path.join("data"), Shutdown::Immediate).map_err(ClusterError::Stop)?;
        directory.close().map_err(|source| ClusterError::File { path, source })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = self.take_apart() {
            tracing::error!("a private server was left behind: {error}");
        }
    }
}

fn start(bin_dir: &Path, options: &ClusterOptions) -> Result<Cluster, ClusterError> {
    let account = account(options.run_as.as_deref())?;
    let directory = Directory::create(account)?;
    initialise(bin_dir, options, account, &directory)?;
    let isolation = match options.cut_network {
        true => Isolation::probe(account.is_some()),
        false => Isolation::none(),
    };
    let account_name = account.map(|_| options.run_as.as_deref().unwrap_or(ACCOUNT_DEFAULT).to_owned());
    let environment = Environment::of_process();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let port = options.loopback_password.is_some().then(free_port).transpose()?;
        configure(&directory, options, port)?;
        match launch(bin_dir, account, &directory, &isolation) {
            Err(_)
                if port.is_some() && attempt < PORT_ATTEMPTS && directory.log_tail().contains("in use") => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let on_port = port.unwrap_or(PORT_ON_SOCKET);
                let spec =
                    ConnectionSpec::on_socket(directory.path(), on_port, SUPERUSER, SUPERUSER, &environment);
                let loopback = port.map(|port| spec.over_loopback(port, options.loopback_password.clone()));
                let network = isolation.network().clone();
                return Ok(Cluster { directory, spec, loopback, account_name, network });
            }
        }
    }
}

fn initialise(
    bin_dir: &Path,
    options: &ClusterOptions,
    account: Option<Account>,
    directory: &Directory,
) -> Result<(), ClusterError> {
    let mut command = command(&bin_dir.join("initdb"), account, directory.path());
    // Without a port nobody can come over the network; with one, only who knows the password.
    let over_network = if options.loopback_password.is_some() { "scram-sha-256" } else { "reject" };
    command.args(["--no-sync", "--data-checksums", "--auth-local=trust", "--auth-host", over_network]);
    command.args(["--username", SUPERUSER, "--encoding", &options.encoding, "--locale", &options.locale]);
    command.arg("--pgdata").arg(directory.data());
    let password = directory.path().join("superuser");
    if let Some(secret) = &options.loopback_password {
        write_private(&password, secret.expose_secret(), account)?;
        command.arg("--pwfile").arg(&password);
    }
    run(command, None)?;
    if options.loopback_password.is_some() {
        remove(&password)?;
    }
    Ok(())
}

fn configure(directory: &Directory, options: &ClusterOptions, port: Option<u16>) -> Result<(), ClusterError> {
    let on_off = |value: bool| if value { "on" } else { "off" }.to_owned();
    let mut settings = vec![
        ("listen_addresses".to_owned(), if port.is_some() { "127.0.0.1" } else { "" }.to_owned()),
        ("port".to_owned(), port.unwrap_or(PORT_ON_SOCKET).to_string()),
        ("unix_socket_directories".to_owned(), directory.path().display().to_string()),
        ("unix_socket_permissions".to_owned(), "0700".to_owned()),
        ("fsync".to_owned(), on_off(options.fsync)),
        ("synchronous_commit".to_owned(), on_off(options.fsync)),
        ("full_page_writes".to_owned(), on_off(options.fsync)),
        ("logging_collector".to_owned(), "off".to_owned()),
    ];
    settings.extend(options.settings.iter().cloned());
    let mut text = String::new();
    for (name, value) in &settings {
        text.push_str(&setting_line(name, value)?);
    }
    let path = directory.data().join("postgresql.auto.conf");
    fs::write(&path, text).map_err(|source| ClusterError::File { path, source })
}

fn setting_line(name: &str, value: &str) -> Result<String, ClusterError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(ClusterError::Setting { part: "name", given: name.to_owned() });
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(ClusterError::Setting { part: "value", given: value.to_owned() });
    }
    Ok(format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")))
}

fn launch(
    bin_dir: &Path,
    account: Option<Account>,
    directory: &Directory,
    isolation: &Isolation,
) -> Result<(), ClusterError> {
    let command = command(&bin_dir.join("pg_ctl"), account, directory.path());
    let mut command = isolation.around(command);
    command.args(["start", "--wait", "--silent", "--timeout", &START_SECONDS.to_string()]);
    command.arg("--pgdata").arg(directory.data()).arg("--log").arg(directory.log());
    run(command, Some(directory))
}

/// A program run as the server's account, in the cluster's directory, with a clean environment.
fn command(program: &Path, account: Option<Account>, directory: &Path) -> Command {
    let mut command = match account {
        None => Command::new(program),
        Some(Account { uid, gid }) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.args(["--clear-groups", "--no-new-privs", "--"]).arg(program);
            command
        }
    };
    command.env_clear().env("LC_ALL", "C").env("HOME", directory).env("TZ", "UTC");
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.current_dir(directory).stdin(Stdio::null());
    command
}

fn run(mut command: Command, server: Option<&Directory>) -> Result<(), ClusterError> {
    let program =
        command.get_args().chain([command.get_program()]).find(|a| a.to_string_lossy().contains("/bin/"));
    let program = program.unwrap_or(command.get_program()).to_string_lossy().into_owned();
    let failed = |source| ClusterError::Run { program: program.clone(), source };
    let Output { status, stdout, stderr } = match server {
        None => command.output().map_err(failed)?,
        // The server inherits what pg_ctl has open: a pipe would stay open as long as it runs.
        Some(_) => {
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().map_err(failed)?;
            Output { status, stdout: Vec::new(), stderr: Vec::new() }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut output = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if let Some(directory) = server {
        output.push_str(&directory.log_tail());
    }
    Err(ClusterError::Failed { program, status, output: output.trim().replace('\n', "; ") })
}

/// The account to change to: none unless we are root.
fn account(run_as: Option<&str>) -> Result<Option<Account>, ClusterError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let name = run_as.unwrap_or(ACCOUNT_DEFAULT);
    // `id` asks the same places as the login does, directories on the network included.
    let ask = |what: &str| {
        let answer = Command::new("id").arg(what).arg("--").arg(name).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(answer.stdout).ok()?.trim().parse::<u32>().ok()
    };
    match (ask("-u"), ask("-g")) {
        (Some(uid), Some(gid)) if uid != 0 => Ok(Some(Account { uid, gid })),
        _ => Err(ClusterError::NoAccount { name: name.to_owned() }),
    }
}

fn free_port() -> Result<u16, ClusterError> {
    let failed = |source| ClusterError::File { path: PathBuf::from("127.0.0.1"), source };
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}

fn write_private(path: &Path, text: &str, account: Option<Account>) -> Result<(), ClusterError> {
    let failed = |source| ClusterError::File { path: path.to_owned(), source };
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    match account {
        Some(account) => chown(path, Some(account.uid), Some(account.gid)).map_err(failed),
        None => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), ClusterError> {
    let failed = |source| ClusterError::File { path: path.to_owned(), source };
    if path.is_dir() {
        fs::remove_dir_all(path).map_err(failed)
    } else {
        fs::remove_file(path).map_err(failed)
    }
}

#[cfg(test)]
mod tests;
