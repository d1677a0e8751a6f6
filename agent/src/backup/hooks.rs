//! Runs the operator's programs around a backup: no shell, hardly an environment, a time limit, and nothing left of them.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use jiff::SignedDuration;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{HookProgram, Hooks};
use pgproof_repository::ids::BackupId;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// How long a program that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long the one after a backup may take once a signal came: whoever sent it waits.
const TIME_LIMIT_WHEN_STOPPED: SignedDuration = SignedDuration::from_secs(10);
/// Bytes of an error that are handed on: an environment has no room for a server's whole answer.
const ERROR_BYTES_MAX: usize = 4096;
/// Where programs are looked for that a hook itself starts, if this process was given no such list.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which of a source's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Before,
    After,
    OnFailure,
}

/// What the programs of one backup are told.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub hooks: &'a Hooks,
    pub source: &'a SourceName,
    pub id: &'a BackupId,
    pub cancel: &'a CancellationToken,
}

/// How the backup stands while a program runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'a> {
    Starting,
    Committed,
    Failed { error: &'a str },
    Stopped { error: &'a str },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("hook {} cannot be started", path.display())]
    Start {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("hook {} cannot be waited for", path.display())]
    Wait {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("hook {} failed: {status}", path.display())]
    Failed { path: PathBuf, status: ExitStatus },
    #[error("hook {} took longer than {limit:#} and was killed", path.display())]
    TimedOut { path: PathBuf, limit: SignedDuration },
    #[error("hook {} was stopped by a signal", path.display())]
    Stopped { path: PathBuf },
}

impl HookError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Start { .. } => Some(
                "is the program there, and may this user run it? its whole path stands in `hooks`".to_owned(),
            ),
            Self::Failed { .. } => Some("what it said stands in this program's log".to_owned()),
            Self::TimedOut { .. } => Some("`time_limit` in `hooks` sets how long it may take".to_owned()),
            Self::Wait { .. } | Self::Stopped { .. } => None,
        }
    }
}

impl Surroundings<'_> {
    /// Runs the program, if the policy names one. What it says goes to standard error.
    ///
    /// One that takes too long is killed with all that it started: before a backup as soon as the token is cancelled, after it
    /// a little later.
    pub(super) async fn run(&self, hook: Hook, outcome: Outcome<'_>) -> Result<(), HookError> {
        let Some(program) = self.program(hook) else { return Ok(()) };
        let path = &program.path;
        let mut group = Group::start(self.command(program, outcome))
            .map_err(|source| HookError::Start { path: path.clone(), source })?;
        let limit = self.limit(outcome);
        let ended = tokio::select! {
            ended = group.child.wait() => ended,
            () = tokio::time::sleep(Duration::try_from(limit).unwrap_or(Duration::MAX)) => {
                group.end().await;
                return Err(HookError::TimedOut { path: path.clone(), limit });
            }
            () = self.stopped(outcome) => {
                group.end().await;
                return Err(HookError::Stopped { path: path.clone() });
            }
        };
        group.is_over = true;
        judge(path, ended)
    }

    fn program(&self, hook: Hook) -> Option<&HookProgram> {
        match hook {
            Hook::Before => self.hooks.before.as_ref(),
            Hook::After => self.hooks.after.as_ref(),
            Hook::OnFailure => self.hooks.on_failure.as_ref(),
        }
    }

    fn limit(&self, outcome: Outcome<'_>) -> SignedDuration {
        match outcome {
            Outcome::Stopped { .. } => self.hooks.time_limit.min(TIME_LIMIT_WHEN_STOPPED),
            Outcome::Starting | Outcome::Committed | Outcome::Failed { .. } => self.hooks.time_limit,
        }
    }

    /// The program that undoes what the first one did still has its time, whenever the signal comes.
    async fn stopped(&self, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Starting => self.cancel.cancelled().await,
            Outcome::Committed | Outcome::Failed { .. } => {
                self.cancel.cancelled().await;
                tokio::time::sleep(TIME_LIMIT_WHEN_STOPPED.unsigned_abs()).await;
            }
            Outcome::Stopped { .. } => std::future::pending().await,
        }
    }

    fn command(&self, program: &HookProgram, outcome: Outcome<'_>) -> Command {
        let mut command = Command::new(&program.path);
        let said = std::io::stderr();
        command
            .args(&program.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into()))
            .envs(std::env::var_os("HOME").map(|home| ("HOME", home)))
            .env("PGPROOF_SOURCE", self.source.to_string())
            .env("PGPROOF_BACKUP_ID", self.id.as_str())
            .env("PGPROOF_OUTCOME", outcome.name())
            .envs(outcome.error().map(|error| ("PGPROOF_ERROR", for_environment(error))))
            .stdin(Stdio::null())
            // Standard output is for this program's own result.
            .stdout(said)
            .stderr(Stdio::inherit())
            .process_group(0);
        command
    }
}

impl<'a> Outcome<'a> {
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Committed => "committed",
            Self::Failed { .. } => "failed",
            Self::Stopped { .. } => "stopped",
        }
    }

    fn error(self) -> Option<&'a str> {
        match self {
            Self::Starting | Self::Committed => None,
            Self::Failed { error } | Self::Stopped { error } => Some(error),
        }
    }
}

/// A program and all that it started. Dropped before it is over, it is killed.
#[derive(Debug)]
struct Group {
    child: Child,
    leader: Option<Pid>,
    is_over: bool,
}

impl Group {
    fn start(mut command: Command) -> std::io::Result<Self> {
        let child = command.spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, leader, is_over: false })
    }

    /// Asks it to end, waits a little, and kills what is left.
    async fn end(&mut self) {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(GRACE, self.child.wait()).await;
        self.signal(Signal::KILL);
        if ended.is_err() {
            // Killed, it ends at once.
            let _ = self.child.wait().await;
        }
        self.is_over = true;
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // The only way to fail is that nobody is left.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_over {
            self.signal(Signal::KILL);
        }
    }
}

fn judge(path: &Path, ended: std::io::Result<ExitStatus>) -> Result<(), HookError> {
    let path = path.to_owned();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(HookError::Failed { path, status }),
        Err(source) => Err(HookError::Wait { path, source }),
    }
}

/// Cut to its beginning, and without what no environment can hold.
fn for_environment(error: &str) -> String {
    let mut end = error.len().min(ERROR_BYTES_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error[..end].replace('\0', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(script: &str, time_limit: SignedDuration) -> Hooks {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        let before = Some(HookProgram { path: "/bin/sh".into(), arguments });
        Hooks { before, time_limit, ..Hooks::default() }
    }

    async fn ran(script: &str, limit: SignedDuration, cancel: &CancellationToken) -> Result<(), HookError> {
        ran_at(Outcome::Failed { error: "it \u{20ac} broke" }, script, limit, cancel).await
    }

    async fn ran_at(
        outcome: Outcome<'_>,
        script: &str,
        limit: SignedDuration,
        cancel: &CancellationToken,
    ) -> Result<(), HookError> {
        let (hooks, source) = (hooks(script, limit), "app".parse().unwrap());
        let id = "20261124T020000Z-k3xaqa".parse().unwrap();
        let surroundings = Surroundings { hooks: &hooks, source: &source, id: &id, cancel };
        surroundings.run(Hook::Before, outcome).await
    }

    #[tokio::test]
    async fn program_is_told_of_the_backup_and_of_nothing_else() {
        let script = "test \"$PGPROOF_SOURCE/$PGPROOF_BACKUP_ID/$PGPROOF_OUTCOME/$PGPROOF_ERROR\" = \
                      'app/20261124T020000Z-k3xaqa/failed/it € broke' && test -z \"$CARGO_MANIFEST_DIR\"";
        let cancel = CancellationToken::new();
        ran(script, SignedDuration::from_secs(30), &cancel).await.unwrap();
        let failed = ran("exit 3", SignedDuration::from_secs(30), &cancel).await;
        assert!(matches!(failed, Err(HookError::Failed { status, .. }) if status.code() == Some(3)));
    }

    #[tokio::test]
    async fn program_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("trap '' TERM; sleep 600 & echo $! > {}; wait", pid_file.display());
        let cancel = CancellationToken::new();
        let limit = SignedDuration::from_secs(1);
        assert!(matches!(ran(&script, limit, &cancel).await, Err(HookError::TimedOut { .. })));
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let is_running = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            // A zombie that nobody waits for is no process that runs.
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        for _ in 0..100 {
            if !is_running() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("process {pid} is still there");
    }

    #[tokio::test]
    async fn signal_ends_a_program_before_the_backup_and_lets_one_after_it_end() {
        let (cancel, limit) = (CancellationToken::new(), SignedDuration::from_secs(600));
        cancel.cancel();
        let stopped = ran_at(Outcome::Starting, "exec sleep 600", limit, &cancel).await;
        assert!(matches!(stopped, Err(HookError::Stopped { .. })));
        for outcome in [Outcome::Committed, Outcome::Failed { error: "no" }] {
            ran_at(outcome, "sleep 1", limit, &cancel).await.unwrap();
        }
    }

    #[test]
    fn error_fits_an_environment() {
        let long = format!("a\0{}", "€".repeat(ERROR_BYTES_MAX));
        let cut = for_environment(&long);
        assert!(cut.len() <= ERROR_BYTES_MAX && cut.starts_with("a €"));
    }
}
