//! What the end-to-end tests stand on: real PostgreSQL servers, a real S3 server that can be made to misbehave, the
//! built programs, and a database full of PostgreSQL's hard cases.
//!
//! A test builds a [`sandbox::Sandbox`], runs `pgproof` in it as an operator would, and looks at exit codes, output,
//! objects in the bucket and databases. Nothing here reaches into the programs.

pub mod azurite;
mod background;
pub mod binaries;
pub mod browser;
pub mod clients;
pub mod clock;
pub mod comparison;
pub mod daemon;
pub mod dice;
pub mod google_server;
pub mod hard_cases;
pub mod images;
pub mod moto;
pub mod postgres_proxy;
pub mod postgres_server;
pub mod postgres_versions;
pub mod receiver;
pub mod released;
pub mod s3_proxy;
pub mod s3_server;
pub mod sandbox;
pub mod service_manager;
pub mod trees;
