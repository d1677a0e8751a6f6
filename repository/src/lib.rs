//! The bucket: where backups lie, how they are sealed, signed, found and removed.
//!
//! This crate knows stores, keys and formats, and nothing of PostgreSQL. The way through it follows a backup's life:
//! bytes are [`sealed`] (zstd frames inside age) and uploaded under keys that only [`layout`] builds; the
//! [`lifecycle`] ends with a signed [`manifest`], put last; the [`catalog`] lists what is whole, and [`prune`]
//! removes what a plan says.

pub mod access;
pub mod acts;
pub mod audit;
pub mod catalog;
pub mod chain;
pub mod configuration;
pub mod contents;
pub mod custody;
pub mod doctor;
pub mod history;
pub mod holds;
pub mod host_secret;
pub mod ids;
pub mod inventory;
pub mod keys;
pub mod layout;
pub mod lease;
pub mod lifecycle;
pub mod lineage;
pub mod manifest;
pub mod pins;
pub mod private_file;
pub mod prune;
pub mod records;
pub mod report;
pub mod restore_point;
pub mod sealed;
pub mod signature;
pub mod store;
pub mod versioned;
