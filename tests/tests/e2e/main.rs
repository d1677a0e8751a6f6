//! End-to-end tests: the built programs against real servers.

mod damaged;
mod drill_extensions;
mod drill_scratch;
mod drills;
mod dump_failures;
mod groundwork;
mod key_custody;
mod killed;
mod round_trip;
mod stock_tools;
mod store_faults;
mod versions;
