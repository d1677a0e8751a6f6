//! Programs that run by another clock than the system's, so that a test of days takes seconds.

use std::process::{Command, Stdio};

/// The same program with its clock ahead, or back, by an offset such as `+3d`. Only the program's own time differs: that of the
/// files it looks at is the system's.
#[must_use]
pub fn offset(program: &Command, by: &str) -> Command {
    let mut command = Command::new("faketime");
    command.args(["--exclude-monotonic", "-f", by]);
    // faketime waits for the program as its child: whoever kills it means both.
    command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
    command.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = program.get_current_dir() {
        command.current_dir(folder);
    }
    command.env("NO_FAKE_STAT", "1").stdin(Stdio::null());
    command
}
