//! The names of the checks, as reports print them and exceptions of the policy name them.

pub(crate) const SELECTION: &str = "selection";
pub(crate) const SIGNATURE: &str = "signature";
pub(crate) const CHAIN: &str = "chain";
pub(crate) const OBJECTS: &str = "objects";
pub(crate) const SERVER: &str = "server";
pub(crate) const GLOBALS: &str = "globals";
pub(crate) const RESTORE: &str = "restore";
pub(crate) const TABLES: &str = "tables";
pub(crate) const INDEXES: &str = "indexes";
pub(crate) const SEQUENCES: &str = "sequences";
pub(crate) const LARGE_OBJECTS: &str = "large objects";
pub(crate) const STRUCTURE: &str = "structure";
pub(crate) const CONSTRAINTS: &str = "constraints";
pub(crate) const MATERIALIZED_VIEWS: &str = "materialized views";
pub(crate) const EXTENSIONS: &str = "extensions";
pub(crate) const COLLATIONS: &str = "collation versions";
pub(crate) const AMCHECK: &str = "amcheck";
pub(crate) const OWN_CHECKS: &str = "own checks";
pub(crate) const RECOVERY_POINT: &str = "recovery point";
pub(crate) const RECOVERY_TIME: &str = "recovery time";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_of_the_policy_go_by_the_same_names() {
        let all = [
            SELECTION,
            SIGNATURE,
            CHAIN,
            OBJECTS,
            SERVER,
            GLOBALS,
            RESTORE,
            TABLES,
            INDEXES,
            SEQUENCES,
            LARGE_OBJECTS,
            STRUCTURE,
            CONSTRAINTS,
            MATERIALIZED_VIEWS,
            EXTENSIONS,
            COLLATIONS,
            AMCHECK,
            RECOVERY_POINT,
            RECOVERY_TIME,
        ];
        let excepted = all.into_iter().filter(|name| ![SIGNATURE, OBJECTS, RESTORE, TABLES].contains(name));
        let known = pgproof_policies::policy::CHECKS_WITH_EXCEPTION;
        assert_eq!(excepted.collect::<Vec<_>>(), known);
    }

    #[test]
    fn what_no_exception_replaces_goes_by_the_same_names() {
        let heart = pgproof_repository::report::HEART_OF_PROOF;
        assert_eq!(heart, [OBJECTS, RESTORE, TABLES]);
    }
}
