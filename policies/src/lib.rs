//! The policy file, and the decisions that follow from it.
//!
//! - [`Policy`]: what is backed up, where to, when, and for how long it is kept. A `Policy` that exists was
//!   checked as a whole; a file with mistakes yields all of them at once as [`PolicyProblems`].
//! - [`retention::plan`]: which backups stay and which go, each with its reasons.
//! - [`locks::Locks`]: until when nobody can remove a backup, where the store can lock.
//! - [`objective::shortfalls`]: what the policy promises and its schedules cannot keep.
//! - [`objective::recovery_point`], [`forecast::recovery_time`]: what was found of the objectives, and what is to come.
//! - [`backups::plan`]: whether a source is backed up now, why, and when to look again.
//! - [`Incremental::end_of`](increments::Incremental::end_of): whether a backup of files is a full one, and why.
//! - [`drills::plan`]: which backups are drilled next, each with its reason, and how much is proved.
//! - [`standing::judge`]: how a source stands, by the age of what counts.
//! - [`moment::parse`]: the instant an operator means by `--at`.
//!
//! Everything here is a function of values. There is no file, no clock and no network in this crate: text,
//! `now` and time zones come in as arguments.

pub mod alerts;
pub mod backups;
pub mod cadence;
pub mod drills;
pub mod forecast;
pub mod increments;
pub mod locks;
pub mod moment;
pub mod names;
pub mod objective;
pub mod pauses;
pub mod policy;
pub mod retention;
pub mod schedule;
pub mod standing;
pub mod turns;

pub use names::{SourceName, Tag};
pub use policy::{Policy, PolicyProblems};
pub use retention::{Candidate, Plan, Retention};
