//! The roles that the backup's objects belong to, and what becomes of a drill without them.

use std::collections::BTreeSet;

use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::globals::{self, Applied, ApplyOptions, Globals, Kind, Outcome as Became};
use pgproof_postgres::restore::RestoreError;
use pgproof_repository::report::Outcome;

use crate::failure::chain;

/// Whether owners and rights can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Roles {
    Made,
    LeftOut,
}

/// Makes them, as far as the server lets them be made.
pub(crate) async fn make_roles(server: &ConnectionSpec, text: &str) -> (Roles, Outcome) {
    let degraded = |reason: String| {
        let reason = format!("{reason}: restored without owners and rights");
        (Roles::LeftOut, Outcome::Degraded { reason })
    };
    let globals = match Globals::parse(text) {
        Ok(globals) => globals,
        Err(error) => return (Roles::LeftOut, Outcome::Failed { reason: chain(&error) }),
    };
    let session = match Box::pin(server.connect()).await {
        Ok(session) => session,
        Err(error) => return degraded(chain(&error)),
    };
    let options = ApplyOptions { change_existing: false, tablespaces: false };
    match globals::apply(&session, &globals, options).await {
        Ok(applied) => judge(&applied),
        Err(error) => degraded(chain(&error)),
    }
}

/// The names in a restore's complaint about roles that are not there; absent where it complains of anything else, too.
pub(crate) fn missing_roles(error: &RestoreError) -> Option<String> {
    match error {
        RestoreError::MissingRoles { roles } => Some(roles.join(", ")),
        RestoreError::PgRestore { stderr, .. } => role_named(stderr),
        _ => None,
    }
}

fn judge(applied: &[Applied]) -> (Roles, Outcome) {
    let refused = applied.iter().filter_map(|applied| match &applied.outcome {
        Became::Failed { why } => Some((applied, why)),
        Became::Done | Became::Skipped { .. } => None,
    });
    let refused: Vec<_> = refused.collect();
    let told: Vec<String> =
        refused.iter().map(|(applied, why)| format!("{}: {why}", applied.object)).collect();
    let missing: BTreeSet<&str> = refused
        .iter()
        .filter(|(applied, _)| applied.kind == Kind::CreateRole)
        .map(|(applied, _)| applied.object.as_str())
        .collect();
    if told.is_empty() {
        return (Roles::Made, Outcome::Passed);
    }
    let mut reason = told.join("; ");
    let roles = if missing.is_empty() { Roles::Made } else { Roles::LeftOut };
    if roles == Roles::LeftOut {
        let names: Vec<&str> = missing.into_iter().collect();
        reason.push_str(&format!("; no role {} here: restored without owners and rights", names.join(", ")));
    }
    (roles, Outcome::Degraded { reason })
}

/// `pg_restore` stops at its first error, so the first of its own lines is all of the complaint.
fn role_named(stderr: &str) -> Option<String> {
    let error = stderr.lines().find(|line| line.starts_with("pg_restore: error: "))?;
    let (_, rest) = error.split_once("ERROR:  role \"")?;
    rest.strip_suffix("\" does not exist").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(kind: Kind, object: &str, outcome: Became) -> Applied {
        Applied { kind, object: object.to_owned(), statement: String::new(), outcome }
    }

    #[test]
    fn a_role_that_cannot_be_made_takes_owners_and_rights_from_the_proof() {
        let refused = || Became::Failed { why: "reserved".to_owned() };
        let (roles, outcome) = judge(&[applied(Kind::CreateRole, "a", Became::Done)]);
        assert_eq!((roles, outcome), (Roles::Made, Outcome::Passed));
        let (roles, outcome) = judge(&[applied(Kind::AlterRole, "a", refused())]);
        assert_eq!((roles, outcome), (Roles::Made, Outcome::Degraded { reason: "a: reserved".to_owned() }));
        let (roles, outcome) = judge(&[applied(Kind::CreateRole, "a", refused())]);
        let reason = "a: reserved; no role a here: restored without owners and rights".to_owned();
        assert_eq!((roles, outcome), (Roles::LeftOut, Outcome::Degraded { reason }));
    }

    #[test]
    fn a_missing_role_is_read_from_the_error_and_nowhere_else() {
        let of = |stderr: &str| role_named(stderr);
        let error = "pg_restore: while PROCESSING TOC:\n\
                     pg_restore: from TOC entry 3341; 0 0 ACL TABLE t postgres\n\
                     pg_restore: error: could not execute query: ERROR:  role \"clerk\" does not exist\n\
                     Command was: GRANT SELECT ON TABLE public.t TO clerk;";
        assert_eq!(of(error).as_deref(), Some("clerk"));
        let other = "pg_restore: error: could not execute query: ERROR:  syntax error\n\
                     Command was: COMMENT ON TABLE t IS 'ERROR:  role \"clerk\" does not exist';";
        assert_eq!(of(other), None);
    }
}
