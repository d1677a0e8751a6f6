//! Which process holds a lease, and whether it is still alive.

use serde::{Deserialize, Serialize};

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    /// Tells a rebooted host's process ids from today's (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    pub pid: u32,
}

impl Holder {
    /// This process.
    pub fn this_process() -> Self {
        Self { host: host_name(), boot: boot_id(), pid: std::process::id() }
    }

    /// A process of this host and this boot that is no longer there. Of other hosts nothing is known.
    pub fn is_dead(&self) -> bool {
        let here = Self::this_process();
        let comparable = !here.boot.is_empty() && (&here.host, &here.boot) == (&self.host, &self.boot);
        comparable && !std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

/// This host's name, for records that people read.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
