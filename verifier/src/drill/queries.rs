//! What is asked of the restored database: the policy's own checks, and whether its indexes are valid.

use std::time::Duration;

use pgproof_policies::policy::{Expectation, SqlCheck};
use pgproof_postgres::connection::{ConnectionSpec, Session};
use pgproof_postgres::{disclosure, infrastructure};
use tokio_postgres::SimpleQueryMessage;

use crate::failure::chain;
use pgproof_repository::report::Outcome;

/// How long a question of the verifier's own may take.
const OWN_TIME_MAX: Duration = Duration::from_secs(300);
/// Values in a report are for reading; what is longer is cut.
const SHOWN_CHARS_MAX: usize = 200;
/// Gives a session the search path that its role has in the database; sessions of ours start with an empty one.
const USERS_SEARCH_PATH: &str = r#"
    SELECT pg_catalog.set_config('search_path', coalesce(
        (SELECT pg_catalog.substr(setting, 13)
           FROM pg_catalog.pg_db_role_setting AS own, pg_catalog.unnest(own.setconfig) AS setting
          WHERE setting LIKE 'search\_path=%'
            AND own.setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))
            AND own.setdatabase IN
                (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
          ORDER BY own.setrole = 0, own.setdatabase = 0 LIMIT 1),
        '"$user", public'), false)"#;

/// Asks one of the policy's questions, read only and for a limited time.
pub(crate) async fn ask(database: &ConnectionSpec, check: &SqlCheck) -> Outcome {
    let time_limit = Duration::try_from(check.time_limit).unwrap_or(OWN_TIME_MAX);
    let session = match reading(database, time_limit).await {
        Ok(session) => session,
        Err(reason) => return Outcome::NotRun { reason },
    };
    if let Some(role) = &check.role
        && let Err(outcome) = become_role(&session, role).await
    {
        return outcome;
    }
    if let Err(error) = session.batch_execute(USERS_SEARCH_PATH).await {
        return Outcome::NotRun { reason: told(&error) };
    }
    // Preparing refuses several statements in one, which could leave the read-only transaction.
    if let Err(error) = session.prepare(&check.sql).await {
        return of_error(&error);
    }
    // The server ends it on time; this is for a server that does not answer any more.
    let answer = tokio::time::timeout(time_limit * 2, session.unhurried().simple_query(&check.sql)).await;
    match answer {
        Err(_) => Outcome::NotRun { reason: "the server does not answer".to_owned() },
        Ok(Err(error)) => of_error(&error),
        Ok(Ok(messages)) => judge(&messages, &check.expect),
    }
}

/// Goes on as another role. One that the restored cluster lacks is a finding: the backup should have brought it.
async fn become_role(session: &Session, role: &str) -> Result<(), Outcome> {
    let query = "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1";
    let there = session.query_opt(query, &[&role]).await;
    if there.map_err(|error| Outcome::NotRun { reason: told(&error) })?.is_none() {
        return Err(Outcome::Failed { reason: format!("role {role:?} does not exist after the restore") });
    }
    let set = session.query("SELECT pg_catalog.set_config('role', $1, false)", &[&role]).await;
    set.map(drop).map_err(|error| Outcome::NotRun { reason: told(&error) })
}

/// Indexes that are not valid. Some are meant to be so, such as those of partitioned tables with a partition missing.
pub(crate) async fn invalid_indexes(database: &ConnectionSpec) -> Outcome {
    let query = "SELECT i.indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index i
                  WHERE NOT i.indisvalid ORDER BY 1";
    let session = match reading(database, OWN_TIME_MAX).await {
        Ok(session) => session,
        Err(reason) => return Outcome::NotRun { reason },
    };
    match session.query(query, &[]).await {
        Err(error) => Outcome::NotRun { reason: told(&error) },
        Ok(rows) if rows.is_empty() => Outcome::Passed,
        Ok(rows) => {
            let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            Outcome::Degraded { reason: shown(&format!("not valid: {}", names.join(", "))) }
        }
    }
}

async fn reading(database: &ConnectionSpec, time_limit: Duration) -> Result<Session, String> {
    let session = Box::pin(database.connect()).await.map_err(|error| chain(&error))?;
    let milliseconds = time_limit.as_millis();
    let begin = format!("SET statement_timeout = {milliseconds}; BEGIN READ ONLY");
    session.batch_execute(&begin).await.map_err(|error| told(&error))?;
    Ok(session)
}

fn judge(messages: &[SimpleQueryMessage], expect: &Expectation) -> Outcome {
    let rows: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect();
    let failed = |reason: String| Outcome::Failed { reason };
    match rows.as_slice() {
        [row] if row.len() == 1 => match row.get(0) {
            Some(value) if expect.is_met_by(value) => Outcome::Passed,
            Some(value) => {
                failed(format!("answered {:?}, expected {}", shown(value), shown(&expect.to_string())))
            }
            None => failed(format!("answered null, expected {}", shown(&expect.to_string()))),
        },
        rows => failed(format!("must answer one value, and answered {} row(s)", rows.len())),
    }
}

/// A question that the server refuses is answered: with no. A lost session, or what the server says of itself, is no
/// answer.
fn of_error(error: &tokio_postgres::Error) -> Outcome {
    match infrastructure::in_error(error) {
        false => Outcome::Failed { reason: told(error) },
        true => Outcome::NotRun { reason: told(error) },
    }
}

fn told(error: &tokio_postgres::Error) -> String {
    shown(&error.as_db_error().map_or_else(|| chain(error), disclosure::answer))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS_MAX).collect()
}
