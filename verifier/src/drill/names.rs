//! The names of the checks, as reports print them and exceptions of the policy name them.

pub(super) const SELECTION: &str = "selection";
pub(super) const SIGNATURE: &str = "signature";
pub(super) const CHAIN: &str = "chain";
pub(super) const OBJECTS: &str = "objects";
pub(super) const SERVER: &str = "server";
pub(super) const GLOBALS: &str = "globals";
pub(super) const RESTORE: &str = "restore";
pub(super) const TABLES: &str = "tables";
pub(super) const INDEXES: &str = "indexes";
pub(super) const SEQUENCES: &str = "sequences";
pub(super) const LARGE_OBJECTS: &str = "large objects";
pub(super) const STRUCTURE: &str = "structure";
pub(super) const CONSTRAINTS: &str = "constraints";
pub(super) const MATERIALIZED_VIEWS: &str = "materialized views";
pub(super) const EXTENSIONS: &str = "extensions";
pub(super) const COLLATIONS: &str = "collation versions";
pub(super) const AMCHECK: &str = "amcheck";
pub(super) const OWN_CHECKS: &str = "own checks";
pub(super) const RECOVERY_POINT: &str = "recovery point";
pub(super) const RECOVERY_TIME: &str = "recovery time";

/// The name of one of the policy's own checks.
pub(super) fn own_check(name: &str) -> String {
    format!("check {name:?}")
}
