//! Ending a server by its data directory alone: also one that a process now dead had started.

use std::fs;
use std::io;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How long a server may take to end before it is killed: it gives its own children 5 s on an immediate shutdown.
const GRACE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// How a server is asked to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shutdown {
    /// At once, without writing anything: the data are thrown away.
    Immediate,
}

/// Ends the server of this data directory, if one runs, and returns when it is gone.
pub(super) fn stop(data: &Path, shutdown: Shutdown) -> io::Result<()> {
    let Some(pid) = running(data) else { return Ok(()) };
    // The descriptor names this very process from here on, even if it ends and its number is given away.
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if running(data) != Some(pid) {
        return Ok(());
    }
    let signal = match shutdown {
        Shutdown::Immediate => Signal::QUIT,
    };
    for signal in [signal, Signal::KILL] {
        match kill_process(pid, signal) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&GRACE))? > 0 {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("server process {pid:?} does not end")))
}

/// The process that runs on this data directory. A server's working directory is its data directory: a stale or
/// planted process number in `postmaster.pid` therefore names nobody.
fn running(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let number: i32 = text.lines().next()?.trim().parse().ok()?;
    let pid = Pid::from_raw(number).filter(|_| number > 1)?;
    let at = fs::read_link(format!("/proc/{number}/cwd")).ok()?;
    (at == data.canonicalize().ok()?).then_some(pid)
}
