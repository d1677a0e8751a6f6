//! Which entries a partial restore needs.
