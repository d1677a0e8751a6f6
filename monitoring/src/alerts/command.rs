//! Messages to a program of the operator's, as JSON on its standard input.

use std::process::Stdio;

use pgproof_policies::policy::HookProgram;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::{DeliveryError, Payload};

pub(super) async fn run(program: &HookProgram, payload: &Payload) -> Result<(), DeliveryError> {
    let path = || program.path.clone();
    let failed = |source| DeliveryError::Program { path: path(), source };
    let mut command = Command::new(&program.path);
    // Nothing of this process's environment, which holds secrets, goes along.
    command.args(&program.arguments).env_clear().envs(std::env::var_os("PATH").map(|value| ("PATH", value)));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit()).process_group(0);
    let mut group = Group(command.spawn().map_err(failed)?);
    if let Some(mut input) = group.0.stdin.take() {
        // A program that reads nothing has its reasons; its status counts.
        let _ = input.write_all(&payload.to_json()).await;
    }
    let status = group.0.wait().await.map_err(failed)?;
    match status.success() {
        true => Ok(()),
        false => Err(DeliveryError::ProgramFailed { path: path(), status }),
    }
}

/// A program and all that it started: killed together when it takes too long.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // A child that was waited for has no number any more.
        let leader = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(leader) = leader {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
