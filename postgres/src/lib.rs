//! Everything that speaks PostgreSQL.
//!
//! A backup reads a database at one exported [`snapshot`] through [`dump`], while [`archive`] cuts the stream at row
//! ends and [`digest`] counts and hashes its rows. A [`restore`] loads the pieces back in parallel. [`cluster`]
//! makes the throw-away servers in which restores are proved.

pub mod archive;
pub mod client;
pub mod cluster;
pub mod comparison;
pub mod connection;
pub mod damage;
pub mod digest;
pub mod disclosure;
pub mod division;
pub mod doctor;
pub mod dump;
pub mod globals;
pub mod infrastructure;
pub mod large_objects;
pub mod payload;
pub mod preflight;
mod private_dir;
mod quoting;
pub mod restore;
pub mod scratch;
pub mod sequences;
pub mod snapshot;
pub mod source;
pub mod structure;
