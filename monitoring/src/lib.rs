//! How things stand, told to people, plugins and Prometheus.
//!
//! - [`facts`]: what the bucket says of a source, in few requests however many backups there are.
//! - [`survey`]: all sources of a policy, read once and judged at any later time.
//! - [`fleet`]: many repositories side by side, the unprotected first.
//! - [`document`]: the JSON of it.
//! - [`metrics`], [`textfile`]: the metrics of it.
//! - [`health`]: the server that answers from the last survey and never waits for the bucket.
//! - [`server`]: what serves HTTP, with its limits.
//! - [`alerts`]: who is told of what.
//! - [`lookout`]: all of that beside a daemon's work.
//! - [`guard`]: what keeps a fault in a daemon's work on one source from the others.
//! - [`service_manager`], [`journal`]: what systemd is told of a daemon, and the log's form.
//! - [`answer`]: what a command says on standard output.

pub mod alerts;
pub mod answer;
pub mod document;
pub mod facts;
pub mod fleet;
pub mod guard;
pub mod health;
pub mod journal;
pub mod lookout;
pub mod metrics;
mod place;
pub mod server;
pub mod service_manager;
pub mod survey;
pub mod textfile;
