//! End-to-end tests: the built programs against real servers.

mod bad_days;
mod damaged;
mod drills;
mod dump_failures;
mod first_steps;
mod groundwork;
mod killed;
mod looking;
mod round_trip;
mod secrets;
mod stock_tools;
mod store_faults;
mod versions;
