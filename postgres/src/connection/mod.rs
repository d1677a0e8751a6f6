//! How to reach a server: read from a URI, a service or the environment as libpq reads them, and given to our own
//! sessions and to PostgreSQL's client programs alike, so that both end up at the same place equally protected.
//!
//! Nothing here ever asks for a password, and none ever stands on a command line.

mod child;
mod parameters;
mod passwords;
mod session;
mod tls;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgproof_repository::private_file;
use secrecy::SecretString;

pub use child::{ChildEnvironment, sweep_abandoned_secrets};
pub use parameters::Environment;
pub use session::{ConnectError, Session};
pub use tls::{RootCertificates, SslMode, TlsProblem};

use parameters::Parameters;
use passwords::Account;
use tls::TlsSettings;

use crate::quoting::database_conninfo;

/// What sessions and client programs set, so that the same rows read as the same bytes wherever they are read.
/// Given as `options` at start-up, which outranks the settings of roles and databases.
pub const SESSION_PINS: [(&str, &str); 10] = [
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("search_path", ""),
    ("standard_conforming_strings", "on"),
    // A role's time limits are made for its queries, not for a dump that holds one snapshot for hours.
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];
/// Name under which our sessions and children show up in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "pgproof";
/// How long a connection may take until it is ready for queries, when nothing says otherwise.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

const PORT_DEFAULT: u16 = 5432;
/// Directories of the server's socket: Debian's and Red Hat's, then PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];
/// Variables of this process that client programs get too. All others stay here.
const INHERITED: [&str; 5] = ["PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "KRB5CCNAME"];

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The directory of its Unix socket.
    Socket(PathBuf),
    /// A name or address; `address` saves the look-up of the name, which is then only what a certificate is checked for.
    Tcp { name: String, address: Option<IpAddr> },
}

impl Host {
    /// Whether the server is on this host, as far as the name tells.
    pub fn is_here(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Tcp { address: Some(address), .. } => address.is_loopback(),
            Self::Tcp { name, address: None } => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

/// Everything needed to connect: place, account, database, password, protection.
#[derive(Debug, Clone)]
pub struct ConnectionSpec {
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password: Option<SecretString>,
    pub(crate) tls: TlsSettings,
    pub(crate) connect_timeout: Duration,
    patience: Option<Duration>,
    /// The operator's own `options`, which stand before the pins.
    options: Option<String>,
    inherited: Vec<(String, String)>,
}

impl ConnectionSpec {
    /// From `postgresql://user@host:port/database?…`; what it leaves open comes from the environment, as with libpq.
    pub fn from_uri(
        uri: &str,
        environment: &Environment,
        password_file: Option<&Path>,
    ) -> Result<Self, ConnectionError> {
        Self::build(Parameters::from_uri(uri)?, environment, password_file)
    }

    /// From a section of `pg_service.conf`.
    pub fn from_service(
        name: &str,
        environment: &Environment,
        password_file: Option<&Path>,
    ) -> Result<Self, ConnectionError> {
        Self::build(Parameters::from_service(name, environment)?, environment, password_file)
    }

    /// From `PGHOST`, `PGDATABASE`, `PGSERVICE` and their like alone.
    pub fn from_environment(
        environment: &Environment,
        password_file: Option<&Path>,
    ) -> Result<Self, ConnectionError> {
        let given = match environment.get("PGSERVICE") {
            Some(service) => Parameters::from_service(service, environment)?,
            None => Parameters::default(),
        };
        Self::build(given, environment, password_file)
    }

    /// A server on a Unix socket whose account needs no password.
    pub fn on_socket(
        directory: &Path,
        port: u16,
        user: &str,
        database: &str,
        environment: &Environment,
    ) -> Self {
        Self {
            host: Host::Socket(directory.to_owned()),
            port,
            user: user.to_owned(),
            database: database.to_owned(),
            password: None,
            tls: TlsSettings::none(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            patience: None,
            options: None,
            inherited: inherited(environment),
        }
    }

    /// The same server and account, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        Self { database: name.to_owned(), ..self.clone() }
    }

    /// The same, with one more parameter set in each session and client program.
    pub(crate) fn with_setting(&self, name: &str, value: &str) -> Self {
        let options = self.options.iter().cloned().chain([format!("-c {name}={value}")]);
        Self { options: Some(options.collect::<Vec<_>>().join(" ")), ..self.clone() }
    }

    /// The same, whose sessions may write even where a role or a database says that by default none does.
    #[must_use]
    pub fn for_writing(&self) -> Self {
        self.with_setting("default_transaction_read_only", "off")
    }

    /// The same account and database over TCP on this machine.
    #[cfg(test)]
    pub(crate) fn over_loopback(&self, port: u16, password: Option<SecretString>) -> Self {
        let host = Host::Tcp { name: "127.0.0.1".to_owned(), address: None };
        let mode = SslMode::Prefer;
        Self { host, port, password, tls: TlsSettings { mode, ..TlsSettings::none() }, ..self.clone() }
    }

    /// The same server and database, another account.
    #[must_use]
    pub fn with_account(&self, user: &str, password: Option<SecretString>) -> Self {
        Self { user: user.to_owned(), password, ..self.clone() }
    }

    /// Gives a server up that answers nothing for so long; see [`Session`].
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    pub fn patience(&self) -> Option<Duration> {
        self.patience
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn ssl_mode(&self) -> SslMode {
        self.tls.mode
    }

    /// Who and where, for messages: never the password.
    pub fn describe(&self) -> String {
        let Self { user, port, database, .. } = self;
        match &self.host {
            Host::Socket(directory) => {
                format!(
                    "database \"{database}\" on socket {}/.s.PGSQL.{port} as \"{user}\"",
                    directory.display()
                )
            }
            Host::Tcp { name, .. } => format!("database \"{database}\" on {name}:{port} as \"{user}\""),
        }
    }

    /// Opens a session with the pins of [`SESSION_PINS`] set.
    pub async fn connect(&self) -> Result<Session, ConnectError> {
        session::open(self).await
    }

    /// The whole environment of a client program that is to connect as this says. Its files live as long as the value.
    pub fn child_env(&self) -> Result<ChildEnvironment, ConnectionError> {
        child::prepare(self)
    }

    /// What client programs are given to connect by: the database, even one whose name looks like a connection string
    /// itself, and the keepalives of our own sessions, for which libpq knows no variables.
    pub(crate) fn conninfo(&self) -> String {
        format!(
            "{} keepalives_idle={} keepalives_interval={} keepalives_count={}",
            database_conninfo(&self.database),
            session::KEEPALIVE_IDLE.as_secs(),
            session::KEEPALIVE_INTERVAL.as_secs(),
            session::KEEPALIVE_RETRIES,
        )
    }

    /// The value of libpq's `options`: the operator's own, then the pins.
    pub(crate) fn options(&self) -> String {
        let pins = SESSION_PINS.iter().map(|(name, value)| format!("-c {name}={value}"));
        self.options.iter().cloned().chain(pins).collect::<Vec<_>>().join(" ")
    }

    fn build(
        given: Parameters,
        environment: &Environment,
        password_file: Option<&Path>,
    ) -> Result<Self, ConnectionError> {
        let given = match given.get("service") {
            Some(service) => {
                let service = Parameters::from_service(service, environment)?;
                given.or(service)
            }
            None => given,
        };
        let all = given.or(Parameters::from_environment(environment)?);
        let host = host(&all)?;
        let port = number(&all, "port")?.unwrap_or(PORT_DEFAULT);
        let user =
            all.get("user").or_else(|| environment.account()).ok_or(ConnectionError::NoUser)?.to_owned();
        let database = all.get("dbname").unwrap_or(&user).to_owned();
        let account = Account { host: pgpass_host(&host), port, database: &database, user: &user };
        let password = password(&all, environment, password_file, &account)?;
        let tls = TlsSettings::from_parameters(&all, &host, environment)?;
        // libpq: zero or negative waits for ever. A backup never does.
        let connect_timeout = match number::<i64>(&all, "connect_timeout")? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
            _ => CONNECT_TIMEOUT_DEFAULT,
        };
        let options = all.get("options").map(str::to_owned);
        Ok(Self {
            host,
            port,
            user,
            database,
            password,
            tls,
            connect_timeout,
            patience: None,
            options,
            inherited: inherited(environment),
        })
    }
}

/// What is wrong with a connection's description, before anything was sent anywhere.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("the connection URI cannot be used: {why}")]
    Uri { why: String },
    #[error("the connection URI holds a password")]
    PasswordInUri,
    #[error("connection parameter {name} is not supported")]
    Unsupported { name: String },
    #[error("connection parameter {name} {why}")]
    Value { name: String, why: &'static str },
    #[error("no service \"{name}\" in any pg_service.conf")]
    NoService { name: String },
    #[error("{path}, line {line}: not a parameter = value that a service may have", path = path.display())]
    ServiceLine { path: PathBuf, line: usize },
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("password file {path} is readable by others", path = path.display())]
    OpenFile { path: PathBuf },
    #[error("no password for this host, port, database and user in {path}", path = path.display())]
    NoPassword { path: PathBuf },
    #[error("no user is named, and this account has no name")]
    NoUser,
    #[error("no private directory for a client program's password file")]
    PrivateDirectory(#[source] std::io::Error),
    #[error(transparent)]
    Tls(#[from] TlsProblem),
}

impl ConnectionError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::PasswordInUri => Some("take it out and name a password_file of mode 0600".to_owned()),
            Self::OpenFile { path } => Some(private_file::hint(path)),
            Self::NoService { .. } => {
                Some("see PGSERVICEFILE, ~/.pg_service.conf and PGSYSCONFDIR".to_owned())
            }
            Self::Read { .. } => Some("the policy or the environment names this file: correct the path or its owner".to_owned()),
            Self::NoPassword { .. } => Some(
                "write the password alone on one line, or a line host:port:database:user:password that matches"
                    .to_owned(),
            ),
            Self::NoUser => Some("name one in the connection, or set PGUSER".to_owned()),
            _ => None,
        }
    }
}

fn host(all: &Parameters) -> Result<Host, ConnectionError> {
    let address = match all.get("hostaddr") {
        Some(text) => Some(text.parse().map_err(|_| value("hostaddr", "is not an address"))?),
        None => None,
    };
    match (all.get("host"), address) {
        (Some(name), _) if name.contains(',') => {
            Err(value("host", "names several hosts; a backup needs one"))
        }
        (Some(name), _) if name.starts_with('@') => {
            Err(value("host", "is an abstract socket, which is not supported"))
        }
        (Some(name), _) if name.starts_with('/') => Ok(Host::Socket(PathBuf::from(name))),
        (Some(name), address) => Ok(Host::Tcp { name: name.to_owned(), address }),
        (None, Some(address)) => Ok(Host::Tcp { name: address.to_string(), address: Some(address) }),
        (None, None) => {
            Ok(Host::Socket(default_socket_directory(number(all, "port")?.unwrap_or(PORT_DEFAULT))))
        }
    }
}

/// The directory in which the server's socket lies, or that in which most servers put theirs.
fn default_socket_directory(port: u16) -> PathBuf {
    let with_socket =
        SOCKET_DIRECTORIES.iter().find(|d| Path::new(d).join(format!(".s.PGSQL.{port}")).exists());
    PathBuf::from(with_socket.unwrap_or(&SOCKET_DIRECTORIES[0]))
}

/// The host as a password file names it: "localhost" stands for the usual socket directory.
fn pgpass_host(host: &Host) -> &str {
    match host {
        Host::Tcp { name, .. } => name,
        Host::Socket(directory) if SOCKET_DIRECTORIES.iter().any(|d| Path::new(d) == directory) => {
            "localhost"
        }
        Host::Socket(directory) => directory.to_str().unwrap_or("localhost"),
    }
}

fn password(
    all: &Parameters,
    environment: &Environment,
    named_file: Option<&Path>,
    account: &Account<'_>,
) -> Result<Option<SecretString>, ConnectionError> {
    if let Some(path) = named_file {
        return passwords::from_named_file(path, account).map(Some);
    }
    if let Some(password) = all.get("password") {
        return Ok(Some(SecretString::from(password)));
    }
    let usual = match all.get("passfile") {
        Some(path) => Some(PathBuf::from(path)),
        None => environment.home().map(|home| home.join(".pgpass")),
    };
    Ok(usual.and_then(|path| passwords::from_usual_file(&path, account)))
}

fn number<T: std::str::FromStr>(all: &Parameters, name: &str) -> Result<Option<T>, ConnectionError> {
    all.get(name).map(|text| text.parse().map_err(|_| value(name, "is not a number in range"))).transpose()
}

fn value(name: &str, why: &'static str) -> ConnectionError {
    ConnectionError::Value { name: name.to_owned(), why }
}

fn inherited(environment: &Environment) -> Vec<(String, String)> {
    INHERITED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), environment.get(name)?.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
