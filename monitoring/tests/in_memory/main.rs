//! The crate over a bucket in memory: what it makes of it, and how it serves that.

mod bucket;
mod fleet;
mod serving;
mod shape;
mod support;
mod telling;
