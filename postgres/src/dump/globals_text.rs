//! Roles, memberships and tablespaces as `pg_dumpall --globals-only` writes them.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{DumpError, DumpStopper, Group, listen};
use crate::connection::ConnectionSpec;

/// A role takes some 200 bytes: room for hundreds of thousands of them, and an end to everything else.
const GLOBALS_BYTES_MAX: usize = 64 << 20;

/// The text, and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedGlobals {
    pub text: String,
    /// Why it is less than the whole, if it is.
    pub degraded: Option<String>,
    pub warnings: Vec<String>,
}

/// Dumps what belongs to the cluster. A role that may not read passwords gets everything but them. `started` is given
/// what ends each program that is run.
pub fn dump_globals(
    pg_dumpall: &Path,
    spec: &ConnectionSpec,
    started: impl Fn(DumpStopper),
) -> Result<DumpedGlobals, DumpError> {
    match run(pg_dumpall, spec, &[], &started) {
        Err(DumpError::Globals { messages, .. }) if messages.denies_permission() => {
            let why = messages.reason();
            let mut globals = run(pg_dumpall, spec, &["--no-role-passwords"], &started)?;
            globals.degraded = Some(format!("roles are without their passwords{why}"));
            Ok(globals)
        }
        result => result,
    }
}

fn run(
    pg_dumpall: &Path,
    spec: &ConnectionSpec,
    more: &[&str],
    started: &impl Fn(DumpStopper),
) -> Result<DumpedGlobals, DumpError> {
    let environment = spec.child_env()?;
    let mut command = Command::new(pg_dumpall);
    command.args(["--globals-only", "--no-password"]).args(more);
    // Written as a connection string, for a name with a `=` in it would be taken for one.
    let name = spec.database().replace('\\', "\\\\").replace('\'', "\\'");
    command.arg(format!("--database=dbname='{name}'"));
    environment.apply(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let failed = |source| DumpError::Start { program: pg_dumpall.to_owned(), source };
    let mut child = command.spawn().map_err(failed)?;
    let group = Group::of(&child);
    started(DumpStopper { group: group.clone() });
    let messages = listen(child.stderr.take().expect("piped above"));
    let mut bytes = Vec::new();
    let stdout = child.stdout.take().expect("piped above");
    let read = stdout.take(GLOBALS_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    if read.is_err() || messages.is_err() || bytes.len() > GLOBALS_BYTES_MAX {
        group.kill("its output cannot be used");
    }
    let (status, _) = group.reap(&mut child).map_err(DumpError::Wait)?;
    read.map_err(DumpError::GlobalsRead)?;
    let messages = messages.map_err(failed)?.join().unwrap_or_default();
    if bytes.len() > GLOBALS_BYTES_MAX {
        return Err(DumpError::GlobalsTooLarge { limit: GLOBALS_BYTES_MAX });
    }
    if !status.success() {
        return Err(DumpError::Globals { status, messages: Box::new(messages) });
    }
    let text = String::from_utf8(bytes).map_err(|_| DumpError::GlobalsEncoding)?;
    Ok(DumpedGlobals { text, degraded: None, warnings: messages.warnings })
}
