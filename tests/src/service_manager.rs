//! What stands in for systemd: the socket on which a daemon tells how it is.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Instant;

use crate::daemon::PATIENCE;

/// More than any message has.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// Listens to one daemon.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl ServiceManager {
    /// # Panics
    /// When there can be no socket.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pgproof-notify.")
            .tempdir_in("/tmp")
            .expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
        Self { socket, folder }
    }

    /// The command as a service that must give a sign of life so often.
    #[must_use]
    pub fn runs(&self, mut command: Command, watchdog_millis: u64) -> Command {
        command
            .env("NOTIFY_SOCKET", self.folder.path().join("socket"))
            .env("WATCHDOG_USEC", (watchdog_millis * 1000).to_string());
        command
    }

    /// Waits for a message that contains this, and gives it.
    ///
    /// # Panics
    /// With all that was told, when it does not come.
    pub fn wait_for(&self, fragment: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{fragment:?} was never told: {heard:#?}");
            self.socket.set_read_timeout(Some(left)).expect("a socket");
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.contains(fragment) {
                return message;
            }
            heard.push(message);
        }
    }
}
