//! Where a drill restores to: a private server of its own, or a database on the scratch server that the policy names.

mod blame;
pub(crate) mod extensions;
mod private;
mod roles;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pgproof_policies::policy::{Kind, PostgresSource, Source, Verification};
use pgproof_postgres::client::{Client, ClientTools};
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::scratch::{self, Identity};
use pgproof_repository::doctor::{Line, Verdict};
use pgproof_repository::manifest::v1::Server;
use pgproof_repository::report::v1;

use crate::failure::chain;

pub(crate) use blame::{Fault, of_opening, of_reading, of_restore};
pub(crate) use private::sweep;
pub(crate) use roles::{Roles, make_roles, missing_roles};

use private::PrivateServer;
use server::ScratchServer;

/// A server with room for one database of the drill's.
#[derive(Debug)]
pub(crate) enum Scratch {
    Private(Box<PrivateServer>),
    Shared(Box<ScratchServer>),
}

/// A scratch that was started, and what it is.
#[derive(Debug)]
pub(crate) struct Started {
    pub scratch: Scratch,
    pub identity: Identity,
}

/// Where the drill's database is made is in the policy; what it must be able to hold is in the manifest.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub source: &'a PostgresSource,
    pub verification: Option<&'a Verification>,
    pub dumped: &'a Server,
    pub major: u32,
    /// Whether writes are made durable: only then restoring takes the time that a real server needs.
    pub durable: bool,
    /// How long a server may answer nothing.
    pub patience: Duration,
    /// What no drill takes.
    pub time_limit: SignedDuration,
}

/// Starts the scratch that the policy names.
pub(crate) async fn start(wanted: &Wanted<'_>) -> Result<Started, Fault> {
    let scratch = match wanted.verification.and_then(|verification| verification.scratch.as_ref()) {
        Some(given) => Scratch::Shared(Box::new(server::open(given, wanted, Timestamp::now()).await?)),
        None => Scratch::Private(Box::new(Box::pin(private::start(wanted)).await?)),
    };
    let identity = scratch::identity(scratch.server()).await.map_err(|error| blame::of_scratch(&error))?;
    Ok(Started { scratch, identity })
}

/// Whether a drill of a source would have a server, without starting or changing one.
pub(crate) async fn examine(about: &str, source: &Source, dumped: &Server) -> Vec<Line> {
    let Kind::Postgres(postgres) = &source.kind else {
        return vec![Line::new(Verdict::NotTried, about, "drill", "only databases are drilled")];
    };
    match source.verification.as_ref().and_then(|verification| verification.scratch.as_ref()) {
        Some(given) => vec![server::examine(about, given, postgres, dumped).await],
        None => private::examine(about, postgres, dumped).await,
    }
}

impl Scratch {
    /// The server; its own database is for maintenance only.
    pub(crate) fn server(&self) -> &ConnectionSpec {
        match self {
            Self::Private(private) => &private.spec,
            Self::Shared(shared) => &shared.spec,
        }
    }

    /// The name of the drill's database, which the restore makes.
    pub(crate) fn database(&self) -> &str {
        match self {
            Self::Private(_) => private::DATABASE,
            Self::Shared(shared) => &shared.database,
        }
    }

    /// The `pg_restore` that fits the server.
    pub(crate) fn restore_client(&self) -> &Client {
        match self {
            Self::Private(private) => &private.client,
            Self::Shared(shared) => &shared.client,
        }
    }

    /// The tools that a restore into this server uses: those beside its `pg_restore` first.
    pub(crate) fn tools(&self) -> ClientTools {
        let beside: Vec<PathBuf> =
            self.restore_client().path.parent().map(Path::to_owned).into_iter().collect();
        ClientTools::new(&beside, std::env::var_os("PATH").as_deref())
    }

    /// The comment by which a database on a server of others is known as ours.
    pub(crate) fn marker(&self) -> Option<String> {
        match self {
            Self::Private(_) => None,
            Self::Shared(shared) => Some(shared.marker.comment()),
        }
    }

    /// Whether roles may be made there. They belong to a whole server, and others use a scratch server, too.
    pub(crate) fn takes_roles(&self) -> bool {
        matches!(self, Self::Private(_))
    }

    /// As the report tells it.
    pub(crate) fn described(&self, identity: &Identity) -> v1::Scratch {
        let (kind, isolation) = match self {
            Self::Private(private) => ("private cluster", private::described(private.cluster.isolation())),
            Self::Shared(shared) => ("scratch server", shared.isolation()),
        };
        v1::Scratch {
            kind: Some(kind.to_owned()),
            server_version: Some(identity.version.clone()),
            isolation: Some(isolation),
        }
    }

    /// Why the server, and whoever made the database in it, can read whatever this process can; absent where it cannot.
    pub(crate) fn exposure(&self) -> Option<&str> {
        match self {
            Self::Private(private) => private.cluster.isolation().exposure(),
            Self::Shared(_) => None,
        }
    }

    /// Why the server does not answer any more; absent where it does.
    pub(crate) async fn gone(&self) -> Option<String> {
        let error = Box::pin(self.server().connect()).await.err()?;
        Some(self.with_last_words(format!("the scratch server is gone: {}", chain(&error))))
    }

    /// The fault, unless the server is gone: then nothing that was said before tells of the backup.
    pub(crate) async fn unless_gone(&self, fault: Fault) -> Fault {
        match fault {
            Fault::Backup { reason } => match self.gone().await {
                Some(gone) => Fault::Passing { reason: format!("{gone}; before, {reason}") },
                None => Fault::Backup { reason },
            },
            Fault::Passing { reason } => Fault::Passing { reason: self.with_last_words(reason) },
            Fault::Lasting { reason } => Fault::Lasting { reason },
        }
    }

    /// A private server's log goes with it, and with it why it broke down: a full disk, for instance.
    fn with_last_words(&self, reason: String) -> String {
        let Self::Private(private) = self else { return reason };
        match private::last_words(&private.cluster.log_tail()) {
            Some(words) => format!("{reason}; the server's last words: {words}"),
            None => reason,
        }
    }

    /// Removes all that the drill made.
    pub(crate) async fn finish(self) -> Result<(), Fault> {
        match self {
            Self::Private(private) => private.cluster.stop().await.map_err(|error| blame::of_cluster(&error)),
            Self::Shared(shared) => shared.drop_database().await,
        }
    }
}
