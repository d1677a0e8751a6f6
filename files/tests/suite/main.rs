//! Backups of real folders, restored.

mod bad_days;
mod round_trip;
mod support;
