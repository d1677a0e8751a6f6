//! What `doctor` finds of a server, seen by the session that a dump would have, and what it means for a dump.

use jiff::Timestamp;
use pgproof_repository::doctor::{Line, Verdict, chain};

use crate::client::{Client, ClientTools, Program, Version, is_vulnerable_dump, is_vulnerable_restore};
use crate::connection::{ConnectionSpec, Session};
use crate::preflight::Preflight;
use crate::snapshot::{ExportedSnapshot, SnapshotError, SnapshotFacts};

/// What a backup runs, and a restore.
const PROGRAMS: [Program; 3] = [Program::PgDump, Program::PgDumpall, Program::PgRestore];
/// Settings that would end a dump, or the transaction that holds its snapshot, in the middle. Our sessions set them to 0,
/// which a pooler in between may drop.
const TIME_LIMITS: [&str; 3] = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];

/// Everything that was found of a server.
#[derive(Debug, Clone)]
pub struct Found {
    pub target: String,
    pub server: Result<Server, Refusal>,
    /// Looked for only where the server's version is known.
    pub clients: Vec<(Program, Result<Client, Refusal>)>,
}

/// Why something was not had, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub why: String,
    pub hint: Option<String>,
}

/// A server that let us in.
#[derive(Debug, Clone)]
pub struct Server {
    pub facts: SnapshotFacts,
    pub is_here: bool,
    /// `TLSv1.3`, where the session is encrypted.
    pub tls: Option<String>,
    /// Member of `pg_read_all_data`.
    pub reads_all_data: bool,
    pub preflight: Preflight,
    /// Time limits that are in force all the same.
    pub time_limits: Vec<(String, String)>,
}

/// Connects as a dump does, and looks for programs that fit.
pub async fn examine(spec: &ConnectionSpec, tools: &ClientTools) -> Found {
    let server = Box::pin(look(spec)).await.map_err(|error| Refusal::of(&error, error.hint()));
    let clients = match &server {
        Ok(server) => find_clients(tools.clone(), server.facts.server_version.major).await,
        Err(_) => Vec::new(),
    };
    Found { target: spec.describe(), server, clients }
}

impl Refusal {
    pub fn of(error: &(dyn std::error::Error + 'static), hint: Option<String>) -> Self {
        Self { why: chain(error), hint }
    }
}

async fn look(spec: &ConnectionSpec) -> Result<Server, SnapshotError> {
    let snapshot = ExportedSnapshot::open(spec).await?;
    let session = snapshot.session();
    let preflight = Preflight::run(session, snapshot.facts(), Timestamp::now()).await?;
    let (tls, reads_all_data) = (tls(session).await?, reads_all_data(session).await?);
    let time_limits = time_limits(session).await?;
    let facts = snapshot.facts().clone();
    snapshot.close().await?;
    Ok(Server { facts, is_here: spec.host().is_here(), tls, reads_all_data, preflight, time_limits })
}

async fn tls(session: &Session) -> Result<Option<String>, SnapshotError> {
    let query = "SELECT version FROM pg_catalog.pg_stat_ssl WHERE ssl AND pid = pg_catalog.pg_backend_pid()";
    let row = session.query_opt(query, &[]).await.map_err(failed("ask whether the session is encrypted"))?;
    Ok(row.and_then(|row| row.get(0)))
}

/// The role came with version 14.
async fn reads_all_data(session: &Session) -> Result<bool, SnapshotError> {
    let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pg_read_all_data'
                                AND pg_catalog.pg_has_role(oid, 'USAGE'))";
    let row = session.query_one(query, &[]).await.map_err(failed("ask what the role belongs to"))?;
    Ok(row.get(0))
}

async fn time_limits(session: &Session) -> Result<Vec<(String, String)>, SnapshotError> {
    let query = "SELECT name, setting || coalesce(' ' || unit, '') FROM pg_catalog.pg_settings
                 WHERE name = ANY ($1) AND setting <> '0' ORDER BY name";
    let names: Vec<&str> = TIME_LIMITS.to_vec();
    let rows = session.query(query, &[&names]).await.map_err(failed("ask for time limits"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn failed(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> SnapshotError {
    move |source| SnapshotError::Query { doing, source }
}

/// Runs each candidate's `--version`.
async fn find_clients(tools: ClientTools, major: u32) -> Vec<(Program, Result<Client, Refusal>)> {
    let find = move || {
        let found = |program| tools.find(program, major).map_err(|error| Refusal::of(&error, error.hint()));
        PROGRAMS.map(|program| (program, found(program))).to_vec()
    };
    tokio::task::spawn_blocking(find).await.expect("looking for programs does not panic")
}

/// A line for each check.
pub fn judge(about: &str, found: &Found, refuse_vulnerable: bool) -> Vec<Line> {
    let server = match &found.server {
        Ok(server) => server,
        Err(refusal) => {
            let told = Line::new(Verdict::Fail, about, "reached", refusal.why.clone());
            return vec![told.maybe_hint(refusal.hint.clone())];
        }
    };
    let mut lines = vec![reached(about, &found.target, server), tls_line(about, server)];
    lines.extend(
        found.clients.iter().map(|(program, found)| client_line(about, *program, found, refuse_vulnerable)),
    );
    lines.push(role(about, server));
    lines.push(rights(about, server));
    lines.push(limits(about, server));
    lines.extend(
        server.preflight.warnings.iter().map(|it| Line::new(Verdict::Warn, about, "server", it.clone())),
    );
    lines.push(extensions(about, server));
    lines
}

fn reached(about: &str, target: &str, server: &Server) -> Line {
    let kind = if server.facts.in_recovery { "standby" } else { "primary" };
    let size = match server.facts.database.bytes {
        Some(bytes) => format!("{} MiB", bytes >> 20),
        None => "of unknown size".to_owned(),
    };
    let told = format!("{target}: PostgreSQL {}, {kind}, {size}", server.facts.server_version);
    Line::new(Verdict::Ok, about, "reached", told)
}

fn tls_line(about: &str, server: &Server) -> Line {
    match &server.tls {
        Some(version) => Line::new(Verdict::Ok, about, "encrypted", version.clone()),
        None if server.is_here => {
            Line::new(Verdict::Ok, about, "encrypted", "no need: the server is on this host")
        }
        None => {
            Line::new(Verdict::Warn, about, "encrypted", "the connection to another host is in the clear")
                .hint("add sslmode=verify-full to the connection, and TLS to the server")
        }
    }
}

/// How a client program was found.
pub fn client_line(
    about: &str,
    program: Program,
    found: &Result<Client, Refusal>,
    refuse_vulnerable: bool,
) -> Line {
    let check = program.file_name();
    match found {
        Err(refusal) => {
            Line::new(Verdict::Fail, about, check, refusal.why.clone()).maybe_hint(refusal.hint.clone())
        }
        Ok(client) => {
            let told = format!("{} {}", client.path.display(), client.version);
            let Some(danger) = danger(program, client.version) else {
                return Line::new(Verdict::Ok, about, check, told);
            };
            let verdict = if refuse_vulnerable { Verdict::Fail } else { Verdict::Warn };
            Line::new(verdict, about, check, format!("{told} {danger}"))
                .hint("update PostgreSQL's client programs to the newest minor version")
        }
    }
}

/// What somebody hostile makes of a program that is too old.
fn danger(program: Program, version: Version) -> Option<&'static str> {
    match program {
        Program::PgDump if is_vulnerable_dump(version) => {
            Some("runs code that a hostile server sends it (CVE-2026-6477)")
        }
        Program::PgRestore if is_vulnerable_restore(version) => {
            Some("runs code that a hostile archive brings along (CVE-2026-116314)")
        }
        _ => None,
    }
}

fn role(about: &str, server: &Server) -> Line {
    let role = &server.facts.role;
    let line = |verdict, told: String| Line::new(verdict, about, "role", told);
    match (role.superuser, server.reads_all_data) {
        (true, _) => line(Verdict::Warn, format!("{} is a superuser, which a backup need not be", role.name))
            .hint("a role of its own with LOGIN and pg_read_all_data suffices; BYPASSRLS where row security is on"),
        (false, true) => line(Verdict::Ok, format!("{} is no superuser, and reads all data", role.name)),
        (false, false) => {
            line(Verdict::Warn, format!("{} is not a member of pg_read_all_data", role.name))
                .hint("without it, the next new table may be one that it cannot read: GRANT pg_read_all_data TO the role")
        }
    }
}

fn rights(about: &str, server: &Server) -> Line {
    let problems = &server.preflight.problems;
    match problems.as_slice() {
        [] => Line::new(
            Verdict::Ok,
            about,
            "reads everything",
            "every table, sequence and large object, and all rows",
        ),
        problems => Line::new(Verdict::Fail, about, "reads everything", problems.join("; "))
            .hint("grant pg_read_all_data to the role, and BYPASSRLS where row security is on"),
    }
}

fn limits(about: &str, server: &Server) -> Line {
    let in_force: Vec<String> =
        server.time_limits.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    match in_force.is_empty() {
        true => Line::new(Verdict::Ok, about, "time limits", "none would end a dump"),
        false => Line::new(
            Verdict::Fail,
            about,
            "time limits",
            format!("{} would end a dump, although the session asked for none", in_force.join(", ")),
        )
        .hint("a connection pooler may stand between; connect to the server itself"),
    }
}

fn extensions(about: &str, server: &Server) -> Line {
    let names: Vec<String> =
        server.facts.extensions.iter().map(|it| format!("{} {}", it.name, it.version)).collect();
    let told = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Line::new(Verdict::Ok, about, "extensions", told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(program: Program, minor: u32) -> Result<Client, Refusal> {
        let version = Version { major: 15, minor };
        Ok(Client { program, path: "/usr/bin/it".into(), version })
    }

    #[test]
    fn a_vulnerable_client_is_named_and_fails_where_the_policy_refuses_it() {
        for (program, fixed) in [(Program::PgRestore, 20), (Program::PgDump, 18)] {
            let judged = |minor, refuse| client_line("app", program, &client(program, minor), refuse).verdict;
            assert_eq!(judged(fixed, true), Verdict::Ok, "{program}");
            assert_eq!(judged(fixed - 1, false), Verdict::Warn, "{program}");
            assert_eq!(judged(fixed - 1, true), Verdict::Fail, "{program}");
        }
    }

    #[test]
    fn a_server_that_is_not_reached_is_one_line() {
        let refusal = Refusal { why: "no route".to_owned(), hint: Some("look at it".to_owned()) };
        let found = Found { target: "there".to_owned(), server: Err(refusal), clients: Vec::new() };
        let lines = judge("app", &found, false);
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].verdict, lines[0].hint.as_deref()), (Verdict::Fail, Some("look at it")));
    }
}
