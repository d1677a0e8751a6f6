//! One file a command: each opens what it needs, acts, and prints.

pub(crate) mod drill;
pub(crate) mod report;
