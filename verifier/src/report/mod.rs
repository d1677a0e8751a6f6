//! What a reviewer holds in hand: pages, tables and summaries, all made from stored, signed reports and nothing else.
//!
//! [`page`] and [`table`] are pure functions of one report, [`period`] of many; [`export`] writes them beside the signed
//! bytes, and [`audit`] finds out whether what lies in a folder is still what was signed.

pub(crate) mod audit;
mod controls;
pub(crate) mod export;
pub(crate) mod figures;
pub(crate) mod files;
mod index;
pub(crate) mod page;
pub(crate) mod parts;
pub(crate) mod period;
pub(crate) mod period_page;
mod proof;
mod publish;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod schema;
pub(crate) mod span;
pub(crate) mod table;
pub(crate) mod timeline;
pub(crate) mod verdict;
pub(crate) mod worth;

/// What pages say they were made by. Pages of the same version are equal byte for byte.
pub(crate) const GENERATOR: &str = concat!("pgproof-verifier ", env!("CARGO_PKG_VERSION"));
