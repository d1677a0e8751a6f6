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

/// What a name in a statement is that of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Role,
    Tablespace,
    Parameter,
}

/// A statement that may be carried out.
#[derive(Clone, PartialEq, Eq)]
pub struct Statement {
    pub kind: Kind,
    /// The role, tablespace or server setting that it is about.
    pub object: String,
    pub(crate) class: Class,
    /// Who gets or loses a membership or right.
    pub(crate) grantee: Option<String>,
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
                Ok((Verdict::Take(taken), s)) => {
                    let Taken { kind, class, object, grantee } = taken;
                    let sql = s.text.to_owned();
                    globals.statements.push(Statement { kind, object, class, grantee, sql });
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
    Take(Taken),
    /// Sets up psql's own session, which ours does for itself.
    Skip,
    Refuse,
}

struct Taken {
    kind: Kind,
    class: Class,
    object: String,
    grantee: Option<String>,
}

use scan::Token;

fn judge(tokens: &[Token]) -> Verdict {
    let word = |at: usize| word(tokens, at);
    match (word(0).as_str(), word(1).as_str()) {
        ("CREATE", "ROLE") => take(tokens, 2, Kind::CreateRole),
        ("ALTER", "ROLE") => take(tokens, 2, Kind::AlterRole),
        ("CREATE", "TABLESPACE") => take(tokens, 2, Kind::CreateTablespace),
        ("ALTER", "TABLESPACE") => take(tokens, 2, Kind::AlterTablespace),
        ("COMMENT", "ON") => take(tokens, 3, Kind::Comment),
        // SECURITY LABEL FOR provider ON ROLE name IS …
        ("SECURITY", "LABEL") if (word(2).as_str(), word(4).as_str()) == ("FOR", "ON") => {
            take(tokens, 6, Kind::SecurityLabel)
        }
        ("GRANT" | "REVOKE", _) => rights(tokens),
        ("SET", "DEFAULT_TRANSACTION_READ_ONLY" | "CLIENT_ENCODING") => Verdict::Skip,
        // Off would mean that every string in the file reads otherwise than it was read here.
        ("SET", "STANDARD_CONFORMING_STRINGS") if word(3) == "ON" => Verdict::Skip,
        ("SELECT", _) if is_search_path(tokens) => Verdict::Skip,
        _ => Verdict::Refuse,
    }
}

fn word(tokens: &[Token], at: usize) -> String {
    tokens.get(at).and_then(Token::keyword).unwrap_or_default()
}

/// Takes a statement about what is named at this place, behind the word that says what it is.
fn take(tokens: &[Token], at: usize, kind: Kind) -> Verdict {
    let class = match word(tokens, at - 1).as_str() {
        "ROLE" => Class::Role,
        "TABLESPACE" => Class::Tablespace,
        _ => return Verdict::Refuse,
    };
    match tokens.get(at).and_then(Token::name) {
        Some(object) => Verdict::Take(Taken { kind, class, object, grantee: None }),
        None => Verdict::Refuse,
    }
}

fn rights(tokens: &[Token]) -> Verdict {
    let at = |keyword: &str| tokens.iter().position(|t| t.keyword().as_deref() == Some(keyword));
    let name = |at: usize| tokens.get(at).and_then(Token::name);
    let Some(on) = at("ON") else { return membership(tokens) };
    let (kind, class) = match word(tokens, on + 1).as_str() {
        "TABLESPACE" => (Kind::TablespaceRights, Class::Tablespace),
        "PARAMETER" => (Kind::ParameterRights, Class::Parameter),
        _ => return Verdict::Refuse,
    };
    let toward = matches!(word(tokens, on + 3).as_str(), "TO" | "FROM");
    match (name(on + 2), name(on + 4)) {
        (Some(object), grantee @ Some(_)) if toward => Verdict::Take(Taken { kind, class, object, grantee }),
        _ => Verdict::Refuse,
    }
}

/// `GRANT role TO role …`; a REVOKE of memberships is never written.
fn membership(tokens: &[Token]) -> Verdict {
    let name = |at: usize| tokens.get(at).and_then(Token::name);
    let one_member = matches!(word(tokens, 4).as_str(), "WITH" | "GRANTED") || tokens.len() == 4;
    match (word(tokens, 0).as_str(), name(1), word(tokens, 2).as_str(), name(3)) {
        ("GRANT", Some(object), "TO", grantee @ Some(_)) if one_member => {
            Verdict::Take(Taken { kind: Kind::GrantMembership, class: Class::Role, object, grantee })
        }
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
