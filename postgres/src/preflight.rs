//! What will go wrong with a dump, found before it starts: everything that the role cannot read, named.
//!
//! `pg_dump` stops at the first such thing, after minutes or hours. An operator wants them all, at once.

use jiff::{SignedDuration, Timestamp};

use crate::connection::Session;
use crate::snapshot::{SnapshotError, SnapshotFacts};

/// Clocks of well-kept machines differ by milliseconds; half a minute means that one of them is not kept.
const SKEW_TOLERATED: SignedDuration = SignedDuration::from_secs(30);
/// Large objects go by number and by the million: after so many, only their count is told.
const LARGE_OBJECTS_NAMED: usize = 20;

/// What stands in the way of a complete dump, and what an operator should know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preflight {
    /// With any of these, the dump fails, or lacks something.
    pub problems: Vec<String>,
    pub warnings: Vec<String>,
}

impl Preflight {
    /// Looks, in the snapshot's own session. `now` is the local clock's time at the moment when the snapshot was taken.
    pub async fn run(
        session: &Session,
        facts: &SnapshotFacts,
        now: Timestamp,
    ) -> Result<Self, SnapshotError> {
        let mut found = Self::default();
        found.warn_of_skew(facts.snapshot_at.duration_since(now));
        found.warn_of_standby(session, facts).await?;
        found.warn_of_collations(facts);
        if !facts.role.superuser {
            found.unreadable_relations(session).await?;
            found.unreadable_large_objects(session).await?;
        }
        found.row_security(session, facts).await?;
        Ok(found)
    }

    pub fn is_clear(&self) -> bool {
        self.problems.is_empty()
    }

    fn warn_of_skew(&mut self, skew: SignedDuration) {
        if skew.abs() > SKEW_TOLERATED {
            let direction = if skew.is_positive() { "ahead of" } else { "behind" };
            self.warnings
                .push(format!("the server's clock is {} s {direction} this machine's", skew.abs().as_secs()));
        }
    }

    async fn warn_of_standby(
        &mut self,
        session: &Session,
        facts: &SnapshotFacts,
    ) -> Result<(), SnapshotError> {
        if !facts.in_recovery {
            return Ok(());
        }
        for relation in facts.relations.iter().filter(|r| r.persistence == 'u') {
            let what = kind_name(relation.kind);
            self.warnings.push(format!(
                "unlogged {what} {}.{} has no rows on a standby, and none in its backup",
                relation.schema, relation.name
            ));
        }
        let query = "SELECT current_setting('hot_standby_feedback') = 'off'";
        if session.query_one(query, &[]).await.map_err(failed("ask how the standby is set"))?.get(0) {
            self.warnings.push(
                "hot_standby_feedback is off: the primary's clean-up may cancel a long dump on this standby"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn warn_of_collations(&mut self, facts: &SnapshotFacts) {
        let database = &facts.database;
        if let (Some(made), Some(now)) = (&database.collation_version, &database.collation_version_now)
            && made != now
        {
            self.warnings.push(format!(
                "the database was made with collation version {made}, and the server has {now} now: its text indexes may be wrong"
            ));
        }
    }

    async fn unreadable_relations(&mut self, session: &Session) -> Result<(), SnapshotError> {
        let rows =
            session.query(&unreadable_query(), &[]).await.map_err(failed("ask what the role may read"))?;
        for row in rows {
            let (schema, name, kind): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
            let what = kind_name(kind.chars().next().unwrap_or('?'));
            let lacking = if row.get(3) { "SELECT on it" } else { "USAGE on its schema" };
            self.problems.push(format!("{what} {schema}.{name} cannot be read: the role lacks {lacking}"));
        }
        Ok(())
    }

    async fn unreadable_large_objects(&mut self, session: &Session) -> Result<(), SnapshotError> {
        let rows = session.query(UNREADABLE_LARGE_OBJECTS, &[]).await;
        let rows = rows.map_err(failed("ask which large objects the role may read"))?;
        for row in rows.iter().take(LARGE_OBJECTS_NAMED) {
            self.problems.push(format!("large object {} cannot be read by the role", row.get::<_, u32>(0)));
        }
        if let Some(more) = rows.len().checked_sub(LARGE_OBJECTS_NAMED).filter(|more| *more > 0) {
            self.problems.push(format!("{more} more large objects cannot be read by the role"));
        }
        Ok(())
    }

    async fn row_security(&mut self, session: &Session, facts: &SnapshotFacts) -> Result<(), SnapshotError> {
        if facts.role.bypasses_row_security {
            return Ok(());
        }
        let rows = session
            .query(&row_security_query(), &[])
            .await
            .map_err(failed("ask where row security holds"))?;
        for row in rows {
            let (schema, name): (&str, &str) = (row.get(0), row.get(1));
            self.problems.push(format!(
                "table {schema}.{name} has row security, and the role lacks BYPASSRLS: it would see only some rows"
            ));
        }
        Ok(())
    }
}

/// Relations that `pg_dump` locks or reads: users' own, and those of extensions that are marked as holding users' data.
const DUMPED: &str = "
    n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' AND c.relpersistence <> 't'
    AND (NOT EXISTS (SELECT FROM pg_catalog.pg_depend p WHERE p.classid = 'pg_catalog.pg_class'::regclass
                     AND p.objid = c.oid AND p.deptype = 'e')
         OR EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig)))";

/// The privilege functions know about superusers, memberships and `pg_read_all_data`.
fn unreadable_query() -> String {
    format!(
        "SELECT n.nspname::text, c.relname::text, c.relkind::text, has_schema_privilege(n.oid, 'USAGE')
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'S') AND {DUMPED}
           AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
         ORDER BY 1, 2"
    )
}

fn row_security_query() -> String {
    format!(
        "SELECT n.nspname::text, c.relname::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND {DUMPED} AND row_security_active(c.oid)
         ORDER BY 1, 2"
    )
}

/// Who is no owner reads a large object by its grants, which `pg_read_all_data` does not widen.
const UNREADABLE_LARGE_OBJECTS: &str = "
    SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m
    WHERE current_setting('lo_compat_privileges') = 'off' AND NOT pg_has_role(m.lomowner, 'USAGE')
      AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
                      AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
    ORDER BY m.oid";

fn kind_name(kind: char) -> &'static str {
    match kind {
        'p' => "partitioned table",
        'm' => "materialized view",
        'S' => "sequence",
        'f' => "foreign table",
        _ => "table",
    }
}

fn failed(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> SnapshotError {
    move |source| SnapshotError::Query { doing, source }
}

#[cfg(test)]
mod tests;
