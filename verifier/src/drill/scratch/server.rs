//! A database of the drill's own on the scratch server that the policy names.

use std::time::Duration;

use jiff::Timestamp;
use pgproof_policies::policy::{PostgresSource, Scratch};
use pgproof_postgres::client::{Client, Program};
use pgproof_postgres::connection::{ConnectionSpec, Environment};
use pgproof_postgres::scratch::{self, Identity, Marker};
use pgproof_postgres::source;
use pgproof_repository::doctor::{Line, Verdict};
use pgproof_repository::manifest::v1::Server;

use super::{Fault, Wanted, blame};
use crate::failure::chain;

/// Dropping waits for a checkpoint, which a busy server may stretch; the next drill drops what is left.
const DROP_TIME_MAX: Duration = Duration::from_secs(60);

/// A server that others use, too, and the name of the database that this drill makes there.
#[derive(Debug)]
pub(crate) struct ScratchServer {
    pub(super) spec: ConnectionSpec,
    pub(super) client: Client,
    pub(super) database: String,
    pub(super) marker: Marker,
}

impl ScratchServer {
    pub(super) fn isolation(&self) -> String {
        "a database on the scratch server of the policy, whose network this drill has no say in".to_owned()
    }

    pub(super) async fn drop_database(self) -> Result<(), Fault> {
        let dropped = scratch::drop_database(&self.spec, &self.database);
        match tokio::time::timeout(DROP_TIME_MAX, Box::pin(dropped)).await {
            Ok(dropped) => dropped.map_err(|error| blame::of_scratch(&error)),
            Err(_) => {
                let (database, after) = (&self.database, DROP_TIME_MAX.as_secs());
                Err(Fault::Passing { reason: format!("{database:?} was not dropped within {after} s") })
            }
        }
    }
}

/// Looks whether the server may be used, and removes what earlier drills left there. Makes nothing yet.
pub(super) async fn open(
    given: &Scratch,
    wanted: &Wanted<'_>,
    now: Timestamp,
) -> Result<ScratchServer, Fault> {
    let spec = connection(given, wanted.source)?.for_writing().with_patience(wanted.patience);
    if let Some(reason) = refused_by_name(spec.database(), &given.database_prefix) {
        return Err(Fault::Lasting { reason });
    }
    let identity = scratch::identity(&spec).await.map_err(|error| blame::of_scratch(&error))?;
    if let Some(reason) = refused(&identity, wanted.dumped, wanted.major) {
        return Err(Fault::Lasting { reason });
    }
    let client = client(wanted.source, identity.major.max(wanted.major)).await?;
    match scratch::sweep(&spec, &given.database_prefix, now, wanted.time_limit).await {
        Ok(dropped) if !dropped.is_empty() => {
            tracing::info!(databases = dropped.join(", "), "what earlier drills left was dropped");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(error = chain(&error), "cannot drop what earlier drills left"),
    }
    let (database, marker) = (scratch::new_name(&given.database_prefix, now), Marker::new(now));
    Ok(ScratchServer { spec, client, database, marker })
}

/// Whether the server would be used, without touching what is on it.
pub(super) async fn examine(about: &str, given: &Scratch, source: &PostgresSource, dumped: &Server) -> Line {
    let line = |verdict, told: String| Line::new(verdict, about, "scratch server", told);
    let spec = match connection(given, source) {
        Ok(spec) => spec,
        Err(fault) => return line(Verdict::Fail, fault.reason().to_owned()),
    };
    if let Some(reason) = refused_by_name(spec.database(), &given.database_prefix) {
        return line(Verdict::Fail, reason);
    }
    match scratch::identity(&spec).await {
        Ok(identity) => match refused(&identity, dumped, dumped.version_number / 10_000) {
            Some(reason) => line(Verdict::Fail, reason),
            None => line(Verdict::Ok, format!("PostgreSQL {}", identity.version)),
        },
        Err(error) => line(Verdict::Fail, chain(&error)),
    }
}

fn connection(given: &Scratch, source: &PostgresSource) -> Result<ConnectionSpec, Fault> {
    let of_scratch = PostgresSource {
        connection: given.connection.clone(),
        password_file: given.password_file.clone(),
        ..source.clone()
    };
    source::connection(&of_scratch, &Environment::of_process()).map_err(|error| Fault::Lasting {
        reason: format!("the scratch server's connection: {}", chain(&error)),
    })
}

/// The connection itself must name a database for drills: a slip in it then reaches no database with a use.
fn refused_by_name(database: &str, prefix: &str) -> Option<String> {
    (!database.starts_with(prefix)).then(|| {
        format!(
            "the scratch connection names the database {database:?}, which does not start with {prefix:?}; \
             make an empty one of such a name there, or change database_prefix"
        )
    })
}

/// Why this server cannot be drilled on. One that cannot be told from the source's may be the source's.
fn refused(scratch: &Identity, dumped: &Server, major: u32) -> Option<String> {
    const HINT: &str =
        "let both roles execute pg_control_system(), or leave out `scratch` for a private server";
    match (&scratch.system_identifier, &dumped.system_identifier) {
        (Some(here), Some(there)) if here == there => Some(
            "this is the server that the backup was taken from, or a copy of it; name another one in `scratch`"
                .to_owned(),
        ),
        (None, _) => Some(format!("the scratch server does not tell its system identifier; {HINT}")),
        (_, None) => {
            Some(format!("the backup does not tell the system identifier of its server; {HINT}"))
        }
        _ if scratch.major < major => Some(format!(
            "the scratch server is {}, older than the dump's PostgreSQL {major}; name a newer one in `scratch`",
            scratch.version
        )),
        _ => None,
    }
}

async fn client(source: &PostgresSource, major: u32) -> Result<Client, Fault> {
    let tools = source::tools(source);
    let found = tokio::task::spawn_blocking(move || tools.find(Program::PgRestore, major)).await;
    let found = found.map_err(|error| Fault::Passing { reason: chain(&error) })?;
    found.map_err(|error| Fault::Lasting { reason: chain(&error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(system_identifier: Option<&str>) -> Server {
        Server {
            version: "15.14".to_owned(),
            version_number: 150_014,
            system_identifier: system_identifier.map(str::to_owned),
            database: "app".to_owned(),
            database_bytes: 1,
            encoding: "UTF8".to_owned(),
            collate: "C".to_owned(),
            ctype: "C".to_owned(),
            locale_provider: None,
            icu_locale: None,
            collation_version: None,
        }
    }

    fn scratch(major: u32, system_identifier: Option<&str>) -> Identity {
        let system_identifier = system_identifier.map(str::to_owned);
        Identity { version: format!("{major}.1"), major, system_identifier }
    }

    #[test]
    fn only_a_server_known_to_be_another_one_is_used() {
        let why = |scratch: Identity, dumped: Server| refused(&scratch, &dumped, 15);
        assert_eq!(why(scratch(15, Some("1")), dumped(Some("2"))), None);
        assert_eq!(why(scratch(18, Some("1")), dumped(Some("2"))), None);
        assert!(why(scratch(15, Some("1")), dumped(Some("1"))).unwrap().contains("taken from"));
        assert!(why(scratch(15, None), dumped(Some("1"))).unwrap().contains("does not tell"));
        assert!(why(scratch(15, Some("1")), dumped(None)).unwrap().contains("does not tell"));
        assert!(why(scratch(14, Some("1")), dumped(Some("2"))).unwrap().contains("older"));
    }

    #[test]
    fn a_connection_to_a_database_with_a_use_is_refused() {
        assert_eq!(refused_by_name("pgproof_drill_home", "pgproof_drill_"), None);
        assert!(refused_by_name("app", "pgproof_drill_").unwrap().contains("app"));
    }
}
