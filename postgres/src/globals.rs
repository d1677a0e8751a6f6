//! What belongs to a whole cluster: roles, memberships, tablespaces, as `pg_dumpall --globals-only` wrote it.
//!
//! The text is never given to `psql`, which carries out commands hidden in it. It is cut into statements here, each is
//! held against a list of what may stand in such a file, and the rest is refused by name.

mod apply;
mod scan;

use std::fmt;

pub use apply::{Applied, ApplyError, ApplyOptions, Outcome, apply};

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    CreateRole,
    /// Attributes, password or settings of a role.
    AlterRole,
    GrantMembership,
    CreateTablespace,
    AlterTablespace,
    /// Rights on a tablespace, given or taken.
    TablespaceRights,
    /// Rights on a server setting, given or taken.
    ParameterRights,
    Comment,
    SecurityLabel,
}

/// A statement that may be carried out.
#[derive(Clone, PartialEq, Eq)]
pub struct Statement {
    pub kind: Kind,
    /// The role or tablespace that it is about.
    pub object: String,
    pub(crate) sql: String,
}

impl Statement {
    /// The statement without a password in it.
    pub fn shown(&self) -> String {
        scan::without_password(&self.sql)
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Statement").field("kind", &self.kind).field("sql", &self.shown()).finish()
    }
}

/// The statements of a globals file, all on the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Globals {
    pub statements: Vec<Statement>,
}

impl Globals {
    /// Reads the whole text, or names everything in it that has no place there.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let mut globals = Self::default();
        let mut refused = Vec::new();
        for statement in scan::statements(text) {
            match statement.map(|s| (judge(&s.tokens), s)) {
                Ok((Verdict::Take(kind, object), s)) => {
                    globals.statements.push(Statement { kind, object, sql: s.text.to_owned() });
                }
                Ok((Verdict::Skip, _)) => {}
                Ok((Verdict::Refuse, s)) => refused.push(shorten(&scan::without_password(s.text))),
                Err(unreadable) => refused.push(shorten(&scan::without_password(unreadable))),
            }
        }
        if refused.is_empty() { Ok(globals) } else { Err(Refused { statements: refused }) }
    }

    /// The roles that it creates.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.statements.iter().filter(|s| s.kind == Kind::CreateRole).map(|s| s.object.as_str())
    }
}

/// Statements that have no place among globals. Nothing of the file is carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} statements have no place among roles and tablespaces: {}", statements.len(), statements.join(" | "))]
pub struct Refused {
    pub statements: Vec<String>,
}

/// How much of a refused statement is shown.
const SHOWN_CHARS: usize = 200;

fn shorten(text: &str) -> String {
    text.trim().chars().take(SHOWN_CHARS).collect()
}

enum Verdict {
    Take(Kind, String),
    /// Sets up psql's own session, which ours does for itself.
    Skip,
    Refuse,
}

use scan::Token;

fn judge(tokens: &[Token]) -> Verdict {
    let word = |at: usize| tokens.get(at).and_then(Token::keyword).unwrap_or_default();
    let take = |kind: Kind, at: usize| match tokens.get(at).and_then(Token::name) {
        Some(object) => Verdict::Take(kind, object),
        None => Verdict::Refuse,
    };
    match (word(0).as_str(), word(1).as_str()) {
        ("CREATE", "ROLE") => take(Kind::CreateRole, 2),
        ("ALTER", "ROLE") => take(Kind::AlterRole, 2),
        ("CREATE", "TABLESPACE") => take(Kind::CreateTablespace, 2),
        ("ALTER", "TABLESPACE") => take(Kind::AlterTablespace, 2),
        ("COMMENT", "ON") if matches!(word(2).as_str(), "ROLE" | "TABLESPACE") => take(Kind::Comment, 3),
        ("SECURITY", "LABEL") => security_label(tokens),
        ("GRANT" | "REVOKE", _) => rights(tokens),
        ("SET", "DEFAULT_TRANSACTION_READ_ONLY" | "CLIENT_ENCODING") => Verdict::Skip,
        // Off would mean that every string in the file reads otherwise than it was read here.
        ("SET", "STANDARD_CONFORMING_STRINGS") if word(3) == "ON" => Verdict::Skip,
        ("SELECT", _) if is_search_path(tokens) => Verdict::Skip,
        _ => Verdict::Refuse,
    }
}

fn rights(tokens: &[Token]) -> Verdict {
    let at = |keyword: &str| tokens.iter().position(|t| t.keyword().as_deref() == Some(keyword));
    let Some(on) = at("ON") else {
        // GRANT role TO role; a REVOKE of memberships is never written.
        let granted = tokens.get(1).and_then(Token::name);
        let is_grant = tokens[0].keyword().as_deref() == Some("GRANT");
        return match (granted, tokens.get(2).and_then(Token::keyword).as_deref()) {
            (Some(role), Some("TO")) if is_grant => Verdict::Take(Kind::GrantMembership, role),
            _ => Verdict::Refuse,
        };
    };
    let object = tokens.get(on + 2).and_then(Token::name);
    match (tokens.get(on + 1).and_then(Token::keyword).as_deref(), object) {
        (Some("TABLESPACE"), Some(object)) => Verdict::Take(Kind::TablespaceRights, object),
        (Some("PARAMETER"), Some(object)) => Verdict::Take(Kind::ParameterRights, object),
        _ => Verdict::Refuse,
    }
}

/// `SECURITY LABEL FOR provider ON ROLE name IS …`.
fn security_label(tokens: &[Token]) -> Verdict {
    let word = |at: usize| tokens.get(at).and_then(Token::keyword).unwrap_or_default();
    let shape = (word(2), word(4), word(5));
    match (shape.0.as_str(), shape.1.as_str(), shape.2.as_str(), tokens.get(6).and_then(Token::name)) {
        ("FOR", "ON", "ROLE" | "TABLESPACE", Some(object)) => Verdict::Take(Kind::SecurityLabel, object),
        _ => Verdict::Refuse,
    }
}

/// `SELECT pg_catalog.set_config('search_path', '', false)`, and no other call.
fn is_search_path(tokens: &[Token]) -> bool {
    let text: Vec<&str> = tokens.iter().map(|t| t.text.as_str()).collect();
    text == ["SELECT", "pg_catalog", ".", "set_config", "(", "'search_path'", ",", "''", ",", "false", ")"]
}

#[cfg(test)]
mod tests;
