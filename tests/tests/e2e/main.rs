//! End-to-end tests: the built programs against real servers.

mod damaged;
mod drills;
mod dump_failures;
mod groundwork;
mod killed;
mod reports;
mod round_trip;
mod stock_tools;
mod store_faults;
mod versions;
