//! How things stand, and who is told.

pub mod alerts;
