//! What people install: units, packages, images.

mod container;
mod debian;
mod documents;
mod third_parties;
mod units;
