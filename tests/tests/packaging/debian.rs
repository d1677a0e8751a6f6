//! The Debian packages in a clean Debian: set up as their README says, a backup, its proof, an upgrade, a purge.

use std::process::Command;

use pgproof_tests::binaries::{pgproof, pgproof_verifier, workspace};
use pgproof_tests::postgres_server::succeed;

#[test]
fn packages_do_what_they_say_in_a_clean_debian() {
    // They are packed as they were built.
    assert!(pgproof().exists() && pgproof_verifier().exists());
    let mut script = Command::new(workspace().join("packaging/debian/try"));
    let output = succeed(script.current_dir(workspace()));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.trim_end().ends_with("== all is well"), "{told}");
}
