//! A session of our own with a server.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::AbortHandle;
use tokio_postgres::config::{ChannelBinding, SslMode as Wanted};
use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Client, Config, Error, NoTls, Row, Statement, ToStatement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{APPLICATION_NAME, ConnectionSpec, Host, SslMode, TlsProblem};

/// Silence on the line after which the kernel asks whether the server is still there: well under the idle time-outs of
/// firewalls and load balancers, the shortest common one being 350 s.
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const KEEPALIVE_RETRIES: u32 = 6;
/// How long the kernel tries to hand bytes over that nobody acknowledges, which keepalives do not watch. Linux' own
/// limit is about as long, and ends with the host's settings.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(900);

/// An open session. Dropping it closes the connection, and with it ends any open transaction.
///
/// Where the spec has a patience, a statement whose answer does not come within it ends the connection, and fails as one
/// whose connection was lost.
pub struct Session {
    client: Client,
    cancel: CancelToken,
    tls: Option<MakeRustlsConnect>,
    patience: Option<Duration>,
    line: AbortHandle,
}

impl Session {
    /// Asks the server to end what this session is doing. The statement then fails; the session stays.
    pub async fn cancel(&self) -> Result<(), Error> {
        match &self.tls {
            Some(tls) => self.cancel.cancel_query(tls.clone()).await,
            None => self.cancel.cancel_query(NoTls).await,
        }
    }

    /// The session without its patience, for statements that may rightly be silent for hours.
    pub fn unhurried(&self) -> &Client {
        &self.client
    }

    /// Waits for the server no longer than the patience.
    pub async fn answered<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut answer = pin!(answer);
        // Rows that have come already cost no timer.
        if let Poll::Ready(answer) = futures::poll!(answer.as_mut()) {
            return answer;
        }
        let Some(patience) = self.patience else { return answer.await };
        if let Ok(answer) = tokio::time::timeout(patience, answer.as_mut()).await {
            return answer;
        }
        tracing::warn!(
            "the server answered nothing for {} s: the connection is given up",
            patience.as_secs()
        );
        self.line.abort();
        answer.await
    }

    pub async fn query<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.answered(self.client.query(statement, parameters)).await
    }

    pub async fn query_one<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Error> {
        self.answered(self.client.query_one(statement, parameters)).await
    }

    pub async fn query_opt<T: ?Sized + ToStatement>(
        &self,
        statement: &T,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        self.answered(self.client.query_opt(statement, parameters)).await
    }

    pub async fn prepare(&self, statement: &str) -> Result<Statement, Error> {
        self.answered(self.client.prepare(statement)).await
    }

    pub async fn batch_execute(&self, statements: &str) -> Result<(), Error> {
        self.answered(self.client.batch_execute(statements)).await
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("closed", &self.client.is_closed()).finish_non_exhaustive()
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to {target}")]
    Refused {
        target: String,
        /// Of this machine, where a server may go by the account that connects.
        by_socket: bool,
        source: tokio_postgres::Error,
    },
    #[error("no connection to {target} within {} s", after.as_secs())]
    Timeout { target: String, after: Duration },
    #[error(transparent)]
    Tls(#[from] TlsProblem),
}

impl ConnectError {
    /// Whether it stays so until somebody mends an account, a password, a name or a certificate.
    pub fn is_standing(&self) -> bool {
        match self {
            Self::Refused { source, .. } => match source.code().map(tokio_postgres::error::SqlState::code) {
                Some(code) => ["28P01", "28000", "3D000", "42501"].contains(&code),
                None => asks_for_a_password(source),
            },
            Self::Timeout { .. } => false,
            Self::Tls(_) => true,
        }
    }

    pub fn hint(&self) -> Option<String> {
        let (source, by_socket) = match self {
            Self::Refused { source, by_socket, .. } => (source, *by_socket),
            Self::Timeout { .. } => {
                return Some("check host, port and what filters packets on the way to the server".to_owned());
            }
            Self::Tls(_) => return None,
        };
        match source.code().map(tokio_postgres::error::SqlState::code) {
            Some("28000") if by_socket => Some(
                "by peer authentication the account must be called like the role: run this as that account, or create the role; else \
                 check the server's pg_hba.conf"
                    .to_owned(),
            ),
            Some("28P01" | "28000") => {
                Some("check the account, its password file and the server's pg_hba.conf".to_owned())
            }
            Some("3D000") => {
                Some("the connection names a database that this server does not have".to_owned())
            }
            Some("53300") => Some("the server has no connection left for this role".to_owned()),
            Some("57P01" | "57P02" | "57P03") => {
                Some("the server is starting, recovering or shutting down: run it again later".to_owned())
            }
            Some("08P01") => {
                Some("a connection pooler may stand between; connect to the server itself".to_owned())
            }
            _ if asks_for_a_password(source) => {
                Some("the server asks for a password: name a password_file, or use ~/.pgpass".to_owned())
            }
            Some(_) => None,
            None => Some(
                "is the server running, and reachable from here? check the host (or the socket's folder) and the port"
                    .to_owned(),
            ),
        }
    }
}

/// The driver has no variant of its own for it.
fn asks_for_a_password(error: &tokio_postgres::Error) -> bool {
    format!("{error:?}").contains("password missing")
}

pub(super) async fn open(spec: &ConnectionSpec) -> Result<Session, ConnectError> {
    let after = spec.connect_timeout;
    // `connect_timeout` of the driver covers the TCP handshake alone; a server may as well hang in authentication.
    match tokio::time::timeout(after, Box::pin(connect(spec))).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout { target: spec.describe(), after }),
    }
}

async fn connect(spec: &ConnectionSpec) -> Result<Session, ConnectError> {
    let by_socket = matches!(spec.host, Host::Socket(_));
    let refused = |source| ConnectError::Refused { target: spec.describe(), by_socket, source };
    let config = config(spec);
    if spec.tls.mode == SslMode::Disable {
        let (client, connection) = config.connect(NoTls).await.map_err(refused)?;
        return Ok(session(spec, client, drive(connection), None));
    }
    let tls = MakeRustlsConnect::new(spec.tls.client_config()?);
    let (client, connection) = config.connect(tls.clone()).await.map_err(refused)?;
    Ok(session(spec, client, drive(connection), Some(tls)))
}

fn session(
    spec: &ConnectionSpec,
    client: Client,
    line: impl Future<Output = ()> + Send + 'static,
    tls: Option<MakeRustlsConnect>,
) -> Session {
    let line = tokio::spawn(line).abort_handle();
    Session { cancel: client.cancel_token(), client, tls, patience: spec.patience, line }
}

async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        // Whoever uses the session gets an error of its own; this one only says when.
        tracing::debug!("a server connection ended: {error:?}");
    }
}

fn config(spec: &ConnectionSpec) -> Config {
    let mut config = Config::new();
    match &spec.host {
        Host::Socket(directory) => config.host_path(directory),
        Host::Tcp { name, address } => {
            if let Some(address) = address {
                config.hostaddr(*address);
            }
            config.host(name)
        }
    };
    config
        .port(spec.port)
        .user(&spec.user)
        .dbname(&spec.database)
        .application_name(APPLICATION_NAME)
        .options(spec.options())
        .connect_timeout(spec.connect_timeout)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(TCP_USER_TIMEOUT)
        .ssl_mode(match spec.tls.mode {
            SslMode::Disable => Wanted::Disable,
            SslMode::Prefer => Wanted::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Wanted::Require,
        });
    if spec.tls.require_channel_binding {
        config.channel_binding(ChannelBinding::Require);
    }
    if let Some(password) = &spec.password {
        config.password(password.expose_secret());
    }
    config
}
