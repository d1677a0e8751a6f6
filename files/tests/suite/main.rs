//! Backups of real folders, restored.

mod bad_days;
mod incremental;
mod round_trip;
mod support;
