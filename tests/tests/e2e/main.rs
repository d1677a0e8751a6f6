//! End-to-end tests: the built programs against real servers.

mod agent_schedule;
mod alerts;
mod audit;
mod bad_days;
mod configuration;
mod damaged;
mod drill_checks;
mod drill_extensions;
mod drill_schedule;
mod drill_scratch;
mod drills;
mod dump_failures;
mod files;
mod first_steps;
mod groundwork;
mod key_custody;
mod killed;
mod looking;
mod reports;
mod retention;
mod round_trip;
mod secrets;
mod status;
mod stock_tools;
mod store_faults;
mod versions;
