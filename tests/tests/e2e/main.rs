//! End-to-end tests: the built programs against real servers.

mod groundwork;
