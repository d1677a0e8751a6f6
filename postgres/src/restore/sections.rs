//! Runs of `pg_restore`: each reads the archive's head from a file or a stream on its standard input, and does one
//! section. A run has a process group of its own, so that its parallel workers end with it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::RestoreError;
use crate::connection::ConnectionSpec;

/// How much of a program's complaints is kept, in bytes: enough for the first error with its statement.
const STDERR_BYTES_MAX: usize = 16 << 10;

/// The same where it goes on after errors, all of which must be explained: thousands of them.
const STDERR_BYTES_MAX_LENIENT: usize = 16 << 20;

/// The part of an archive that a run restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    PreData,
    Data,
    PostData,
    /// All of them, from a stream.
    Whole,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreData => "pre-data",
            Self::Data => "data",
            Self::PostData => "post-data",
            Self::Whole => "the whole archive",
        })
    }
}

/// What every run against one target has in common.
#[derive(Debug, Clone)]
pub(crate) struct PgRestore {
    pub(crate) program: PathBuf,
    pub(crate) target: ConnectionSpec,
    /// `--no-owner` and the like.
    pub(crate) flags: Vec<OsString>,
    /// Go on after errors, and say of which entry each is.
    pub(crate) lenient: bool,
    pub(crate) cancel: CancellationToken,
}

/// Where a run reads the archive from.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    File(&'a Path),
    /// Pieces of the archive, in order. The run may end without reading all of them.
    Stream(mpsc::Receiver<Bytes>),
}

/// One run.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) section: Section,
    pub(crate) list: Option<&'a Path>,
    pub(crate) jobs: usize,
}

impl PgRestore {
    /// Runs to the end; an exit status other than 0 is an error that carries what the program said.
    pub(crate) async fn run(&self, run: Run<'_>, input: Input<'_>) -> Result<(), RestoreError> {
        let environment = self.target.child_env().map_err(|source| RestoreError::Environment { source })?;
        let mut command = std::process::Command::new(&self.program);
        environment.apply(&mut command);
        self.write_arguments(&mut command, &run);
        match &input {
            Input::File(path) => command.arg(path).stdin(Stdio::null()),
            Input::Stream(_) => command.stdin(Stdio::piped()),
        };
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut command = Command::from(command);
        let child = command.process_group(0).spawn().map_err(|source| RestoreError::Spawn { source })?;
        self.attend(Group::new(child), input, run.section).await
    }

    fn write_arguments(&self, command: &mut std::process::Command, run: &Run<'_>) {
        command.args(["--format=custom", "--no-password"]);
        command.arg(if self.lenient { "--verbose" } else { "--exit-on-error" });
        command.arg(format!("--dbname={}", self.target.conninfo()));
        match run.section {
            Section::Whole => {}
            section => {
                command.arg(format!("--section={section}"));
            }
        }
        command.args(&self.flags);
        // The complaints of several at once could not be told apart.
        if run.jobs > 1 && !self.lenient {
            command.arg(format!("--jobs={}", run.jobs));
        }
        if let Some(list) = run.list {
            let mut argument = OsString::from("--use-list=");
            argument.push(list);
            command.arg(argument);
        }
    }

    async fn attend(&self, mut group: Group, input: Input<'_>, section: Section) -> Result<(), RestoreError> {
        let stdin = group.child.stdin.take();
        let stderr = group.child.stderr.take();
        let feed = async {
            if let (Some(stdin), Input::Stream(pieces)) = (stdin, input) {
                feed(stdin, pieces).await;
            }
        };
        let kept = if self.lenient { STDERR_BYTES_MAX_LENIENT } else { STDERR_BYTES_MAX };
        let attended = async { tokio::join!(feed, complaints(stderr, kept), group.child.wait()) };
        let ((), stderr, status) = tokio::select! {
            ended = attended => ended,
            () = self.cancel.cancelled() => return Err(RestoreError::Cancelled),
        };
        let status: ExitStatus = status.map_err(|source| RestoreError::Spawn { source })?;
        group.ended = true;
        match status.success() {
            true => Ok(()),
            false => Err(RestoreError::PgRestore { section, status: status.to_string(), stderr }),
        }
    }
}

/// A child and all that it started; killed together when dropped before their end.
#[derive(Debug)]
struct Group {
    child: Child,
    leader: Option<Pid>,
    ended: bool,
}

impl Group {
    fn new(child: Child) -> Self {
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Self { child, leader, ended: false }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let (false, Some(leader)) = (self.ended, self.leader) {
            // Fails only when the group is gone, which is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Writes the pieces. A program that has read enough closes its end; whether it was content its exit status says.
async fn feed(mut stdin: ChildStdin, mut pieces: mpsc::Receiver<Bytes>) {
    while let Some(piece) = pieces.recv().await {
        if stdin.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _ = stdin.shutdown().await;
}

/// Reads all of a program's complaints and keeps their beginning, where the cause stands.
async fn complaints(stderr: Option<impl AsyncRead + Unpin>, kept_max: usize) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let room = kept_max - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
