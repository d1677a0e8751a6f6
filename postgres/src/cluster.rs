//! Private, throw-away PostgreSQL clusters: where restores are tried out.
//!
//! A cluster lives in one directory under `/tmp`, is reached over a Unix socket in that directory alone (mode 0700),
//! and is gone when it is stopped, dropped, or, after a `kill -9`, at the next [`sweep_abandoned`]. Where it is asked for
//! and the machine allows it, the server has no network, and reaches no file but its own: see [`Isolation`].

mod confinement;
mod isolation;
#[cfg(test)]
mod loopback;
mod postmaster;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{Mode, OFlags};

use crate::connection::{ConnectionSpec, Environment};
use crate::private_dir::{self, PrivateDir};
use confinement::ConfinementError;
pub use confinement::Files;
use isolation::Enclosure;
pub use isolation::{Isolation, Network};
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
/// How much of the server's log goes into an error.
const LOG_TAIL_BYTES: usize = 4096;
/// Names in a cluster's directory, and in its data directory.
const DATA: &str = "data";
const LOG: &str = "log";
const OWN_SETTINGS: &str = "postgresql.auto.conf";

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
    /// Start the server where there is no network and no file but its own and its programs', as far as the machine
    /// allows it; [`Cluster::isolation`] says what became of it.
    pub isolated: bool,
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
            isolated: false,
            settings: Vec::new(),
        }
    }
}

/// A running private cluster. Its superuser is `postgres`; its databases those of a new cluster.
#[derive(Debug)]
pub struct Cluster {
    directory: Directory,
    spec: ConnectionSpec,
    isolation: Isolation,
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

    /// What the server is kept from.
    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// The directory that holds everything of this cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.data()
    }

    /// The end of the server's log, which goes with the cluster.
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
        let path = directory.data().join(OWN_SETTINGS);
        let mut text = fs::read_to_string(&path).expect("written by pg_basebackup");
        text.push_str(&setting_line("unix_socket_directories", &directory.path().display().to_string())?);
        fs::write(&path, text).map_err(|source| ClusterError::File { path, source })?;
        let enclosure = Enclosure::none();
        launch(bin_dir, account, &directory, &enclosure)?;
        let spec = on_socket(&directory, PORT_ON_SOCKET);
        Ok(Self { directory, spec, isolation: enclosure.isolation(None) })
    }
}

/// What a private server with the programs in `bin_dir` would be kept from. Starts none; not for an async thread.
pub fn examine_isolation(bin_dir: &Path, run_as: Option<&str>) -> Result<Isolation, ClusterError> {
    let account = account(run_as)?;
    let directory = Directory::create(account)?;
    let enclosure = Enclosure::probe(bin_dir, account, directory.path());
    Ok(enclosure.isolation(account_name(account, run_as)))
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
        fs::remove_dir_all(path).map_err(|source| ClusterError::File { path: path.clone(), source })?;
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
    #[error("cannot confine a private server")]
    Confine {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
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
        self.path().join(DATA)
    }

    fn log(&self) -> PathBuf {
        self.path().join(LOG)
    }

    fn log_tail(&self) -> String {
        let mut bytes = Vec::new();
        // What cannot be read has no end to show.
        let _ = self.open(&[LOG], OFlags::RDONLY).and_then(|mut log| log.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }

    /// Opens a file by its folders' handles, and follows no link: all of this belongs to the server's account, which
    /// may put one anywhere while we are root.
    fn open(&self, path: &[&str], flags: OFlags) -> io::Result<File> {
        let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (name, folders) = path.split_last().expect("a file has a name");
        let mut at = rustix::fs::open(self.path(), folder, Mode::empty())?;
        for name in folders {
            at = rustix::fs::openat(&at, *name, folder, Mode::empty())?;
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&at, *name, flags, Mode::empty())?))
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
    let enclosure = match options.isolated {
        true => Enclosure::probe(bin_dir, account, directory.path()),
        false => Enclosure::none(),
    };
    configure(&directory, options)?;
    launch(bin_dir, account, &directory, &enclosure)?;
    let spec = on_socket(&directory, PORT_ON_SOCKET);
    let isolation = enclosure.isolation(account_name(account, options.run_as.as_deref()));
    Ok(Cluster { directory, spec, isolation })
}

fn on_socket(directory: &Directory, port: u16) -> ConnectionSpec {
    let environment = Environment::of_process();
    ConnectionSpec::on_socket(directory.path(), port, SUPERUSER, SUPERUSER, &environment)
}

fn initialise(
    bin_dir: &Path,
    options: &ClusterOptions,
    account: Option<Account>,
    directory: &Directory,
) -> Result<(), ClusterError> {
    let mut command = command(&bin_dir.join("initdb"), account, directory.path());
    // Nobody can come over the network.
    command.args(["--no-sync", "--data-checksums", "--auth-local=trust", "--auth-host=reject"]);
    command.args(["--username", SUPERUSER, "--encoding", &options.encoding, "--locale", &options.locale]);
    command.arg("--pgdata").arg(directory.data());
    run(command, None)
}

fn configure(directory: &Directory, options: &ClusterOptions) -> Result<(), ClusterError> {
    let on_off = |value: bool| if value { "on" } else { "off" }.to_owned();
    let mut settings = vec![
        ("listen_addresses".to_owned(), String::new()),
        ("port".to_owned(), PORT_ON_SOCKET.to_string()),
        ("unix_socket_directories".to_owned(), directory.path().display().to_string()),
        ("unix_socket_permissions".to_owned(), "0700".to_owned()),
        ("fsync".to_owned(), on_off(options.fsync)),
        ("synchronous_commit".to_owned(), on_off(options.fsync)),
        ("full_page_writes".to_owned(), on_off(options.fsync)),
        ("logging_collector".to_owned(), "off".to_owned()),
        // In its own folder: a container's /dev/shm has 64 MiB, which one parallel query may exceed.
        ("dynamic_shared_memory_type".to_owned(), "mmap".to_owned()),
    ];
    settings.extend(options.settings.iter().cloned());
    let mut text = String::new();
    for (name, value) in &settings {
        text.push_str(&setting_line(name, value)?);
    }
    let file = directory.open(&[DATA, OWN_SETTINGS], OFlags::WRONLY | OFlags::TRUNC);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| ClusterError::File { path: directory.data().join(OWN_SETTINGS), source })
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
    enclosure: &Enclosure,
) -> Result<(), ClusterError> {
    let command = command(&bin_dir.join("pg_ctl"), account, directory.path());
    let mut command = enclosure.around(command);
    command.args(["start", "--wait", "--silent", "--timeout", &START_SECONDS.to_string()]);
    command.arg("--pgdata").arg(directory.data()).arg("--log").arg(directory.log());
    let not_confined = |error: ConfinementError| ClusterError::Confine { source: Box::new(error) };
    enclosure.within(|| run(command, Some(directory))).map_err(not_confined)?
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
    command.env_clear().env("LC_ALL", "C").env("HOME", directory).env("TMPDIR", directory).env("TZ", "UTC");
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

fn account_name(account: Option<Account>, run_as: Option<&str>) -> Option<String> {
    account.map(|_| run_as.unwrap_or(ACCOUNT_DEFAULT).to_owned())
}

#[cfg(test)]
mod tests;
