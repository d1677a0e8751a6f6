//! Carrying globals out, one statement at a time, in a session of our own.

use std::collections::HashSet;

use super::{Class, Globals, Kind, Statement};
use crate::connection::Session;
use crate::disclosure;

/// What is done with what the server has already, or cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyOptions {
    /// Give what exists the attributes, passwords, settings, memberships, rights and comments of the file. Else it is left
    /// as it is, and what was taken from a role since then is not given back.
    pub change_existing: bool,
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
    #[error("cannot list the server's roles and tablespaces")]
    Existing(#[source] tokio_postgres::Error),
    #[error("the session was lost while roles were made")]
    Lost(#[source] tokio_postgres::Error),
}

/// Carries out every statement that the options allow. One that the server refuses is reported, and the next one tried.
pub async fn apply(
    session: &Session,
    globals: &Globals,
    options: ApplyOptions,
) -> Result<Vec<Applied>, ApplyError> {
    let existing = Existing::of(session).await.map_err(ApplyError::Existing)?;
    let mut applied = Vec::with_capacity(globals.statements.len());
    for statement in &globals.statements {
        let outcome = match existing.reason_to_skip(statement, options) {
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

/// What the server had before.
struct Existing {
    roles: HashSet<String>,
    tablespaces: HashSet<String>,
    ourselves: Option<String>,
}

impl Existing {
    async fn of(session: &Session) -> Result<Self, tokio_postgres::Error> {
        let query = "SELECT rolname::text, rolname = current_user FROM pg_catalog.pg_roles";
        let roles = session.query(query, &[]).await?;
        let spaces = session.query("SELECT spcname::text FROM pg_catalog.pg_tablespace", &[]).await?;
        Ok(Self {
            roles: roles.iter().map(|row| row.get(0)).collect(),
            tablespaces: spaces.iter().map(|row| row.get(0)).collect(),
            ourselves: roles.iter().find(|row| row.get(1)).map(|row| row.get(0)),
        })
    }

    fn reason_to_skip(&self, statement: &Statement, options: ApplyOptions) -> Option<&'static str> {
        let Statement { kind, class, object, grantee, .. } = statement;
        let existed = match class {
            Class::Role => self.roles.contains(object),
            Class::Tablespace => self.tablespaces.contains(object),
            // They come with the server.
            Class::Parameter => true,
        };
        // PUBLIC is no role, and always there.
        let grantee_existed =
            grantee.as_deref().is_none_or(|name| self.roles.contains(name) || name == "public");
        match kind {
            _ if *class == Class::Tablespace && !options.tablespaces => {
                Some("tablespaces were not asked for")
            }
            Kind::CreateRole if existed => Some("the role exists"),
            Kind::CreateTablespace if existed => Some("the tablespace exists"),
            Kind::AlterRole if Some(object) == self.ourselves.as_ref() => {
                Some("it is the role that does this")
            }
            _ if options.change_existing || !existed => None,
            Kind::AlterRole => Some("the role existed, and is left as it is"),
            Kind::GrantMembership | Kind::ParameterRights if grantee_existed => {
                Some("both existed, and are left as they are")
            }
            Kind::GrantMembership | Kind::ParameterRights => None,
            _ => Some("what it is about existed, and is left as it is"),
        }
    }
}

async fn execute(session: &Session, statement: &Statement) -> Result<Outcome, ApplyError> {
    match session.batch_execute(&statement.sql).await {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => match error.as_db_error() {
            // The message alone: what surrounds it may repeat the statement, and with it a password.
            Some(refusal) => Ok(Outcome::Failed { why: disclosure::answer(refusal) }),
            None => Err(ApplyError::Lost(error)),
        },
    }
}
