//! Carrying globals out, one statement at a time, in a session of our own.

use std::collections::HashSet;

use super::{Globals, Kind, Statement};
use crate::connection::Session;

/// What is done with what the server has already, or cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyOptions {
    /// Give roles that exist the attributes, passwords and settings of the file. Else they are left as they are.
    pub change_existing_roles: bool,
    /// Create tablespaces. Their directories must exist: on another host they rarely do.
    pub tablespaces: bool,
}

/// What became of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Skipped { why: &'static str },
    Failed { why: String },
}

/// A statement, passwords hidden, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub kind: Kind,
    pub object: String,
    pub statement: String,
    pub outcome: Outcome,
}

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot list the server's roles")]
    Roles(#[source] tokio_postgres::Error),
    #[error("the session was lost while roles were made")]
    Lost(#[source] tokio_postgres::Error),
}

/// Carries out every statement that the options allow. One that the server refuses is reported, and the next one tried.
pub async fn apply(
    session: &Session,
    globals: &Globals,
    options: ApplyOptions,
) -> Result<Vec<Applied>, ApplyError> {
    let query = "SELECT rolname::text, rolname = current_user FROM pg_catalog.pg_roles";
    let rows = session.query(query, &[]).await.map_err(ApplyError::Roles)?;
    let existing: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let ourselves: Option<String> = rows.iter().find(|row| row.get(1)).map(|row| row.get(0));
    let mut applied = Vec::with_capacity(globals.statements.len());
    for statement in &globals.statements {
        let outcome = match reason_to_skip(statement, options, &existing, ourselves.as_deref()) {
            Some(why) => Outcome::Skipped { why },
            None => execute(session, statement).await?,
        };
        applied.push(Applied {
            kind: statement.kind,
            object: statement.object.clone(),
            statement: statement.shown(),
            outcome,
        });
    }
    Ok(applied)
}

fn reason_to_skip(
    statement: &Statement,
    options: ApplyOptions,
    existing: &HashSet<String>,
    ourselves: Option<&str>,
) -> Option<&'static str> {
    let exists = existing.contains(&statement.object);
    match statement.kind {
        Kind::CreateRole if exists => Some("the role exists"),
        Kind::AlterRole if Some(statement.object.as_str()) == ourselves => {
            Some("it is the role that does this")
        }
        Kind::AlterRole if exists && !options.change_existing_roles => {
            Some("the role existed, and is left as it is")
        }
        Kind::CreateTablespace | Kind::AlterTablespace | Kind::TablespaceRights if !options.tablespaces => {
            Some("tablespaces were not asked for")
        }
        _ => None,
    }
}

async fn execute(session: &Session, statement: &Statement) -> Result<Outcome, ApplyError> {
    match session.batch_execute(&statement.sql).await {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => match error.as_db_error() {
            // The message alone: what surrounds it may repeat the statement, and with it a password.
            Some(refusal) => Ok(Outcome::Failed { why: refusal.message().to_owned() }),
            None => Err(ApplyError::Lost(error)),
        },
    }
}
