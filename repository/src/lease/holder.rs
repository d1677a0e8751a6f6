//! Which process holds a lease, and whether it is still alive.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    /// Tells what a process id means here: it is another's after a reboot, and in a container that has ids of its own.
    pub boot: String,
    pub pid: u32,
}

impl Holder {
    /// This process.
    pub fn this_process() -> Self {
        Self { host: host_name(), boot: boot(), pid: std::process::id() }
    }

    /// A process of this host and this boot that is no longer there. Of other hosts nothing is known.
    pub fn is_dead(&self) -> bool {
        let here = Self::this_process();
        let comparable = !here.boot.is_empty() && (&here.host, &here.boot) == (&self.host, &self.boot);
        comparable && !is_there(self.pid)
    }
}

/// This host's name, for records that people read.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Asked of the kernel itself: /proc may hide the processes of other users.
fn is_there(pid: u32) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    test_kill_process(id) != Err(Errno::SRCH) && !has_ended(pid)
}

/// An ended process keeps its id until its parent asks how it ended, which some parents never do.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it is the program's choice, and may hold anything.
    let state = stat.rsplit_once(')').and_then(|(_, after)| after.trim_start().chars().next());
    matches!(state, Some('Z' | 'X'))
}

/// The boot, and the space of process ids that this process lives in; empty where one of them is not told.
fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let space = std::fs::read_link("/proc/self/ns/pid");
    match (boot, space) {
        (Ok(boot), Ok(space)) => format!("{} {}", boot.trim(), space.display()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn only_an_ended_process_of_this_boot_and_space_is_dead() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let holder = Holder { pid: child.id(), ..Holder::this_process() };
        assert!(!holder.is_dead());
        child.kill().unwrap();
        let child_id = WaitId::Pid(Pid::from_child(&child));
        waitid(child_id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(holder.is_dead(), "it has ended, and nobody asked how");
        child.wait().unwrap();
        assert!(holder.is_dead());
        let told = |path| std::fs::read_to_string(path).unwrap().trim().to_owned();
        assert_eq!(holder.host, told("/proc/sys/kernel/hostname"));
        let space = std::fs::read_link("/proc/self/ns/pid").unwrap();
        for part in [told("/proc/sys/kernel/random/boot_id").as_str(), space.to_str().unwrap()] {
            assert!(holder.boot.contains(part), "{holder:?}");
        }
        let elsewhere = Holder { boot: format!("{} or another", holder.boot), ..holder };
        assert!(!elsewhere.is_dead());
    }
}
