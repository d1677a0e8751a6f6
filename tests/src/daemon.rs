//! A program that runs until it is told to end, and what it says meanwhile.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::postgres_server::succeed;

/// How long anything may take before a test gives up; a schedule knows nothing finer than minutes.
pub const PATIENCE: Duration = Duration::from_secs(200);

/// A daemon that listens to signals; killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    said: Receiver<String>,
}

impl Daemon {
    /// Starts it; its standard output goes nowhere.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a program");
        let stderr = child.stderr.take().expect("a pipe");
        let (lines, said) = mpsc::channel();
        std::thread::spawn(move || {
            // Ends with the daemon, or with the test that listens.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, said }
    }

    /// Waits for a line on standard error that contains this, and gives it.
    ///
    /// # Panics
    /// With all that was said, when it does not come.
    pub fn wait_for(&self, fragment: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(line) if line.contains(fragment) => return line,
                Ok(line) => heard.push(line),
                Err(_) => panic!("{fragment:?} was never said: {heard:#?}"),
            }
        }
    }

    /// Sends it a signal: `TERM`, `HUP`, `KILL`.
    pub fn signal(&self, name: &str) {
        succeed(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]));
    }

    /// Waits for its end and gives its exit code; None when a signal ended it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Whoever does not listen must not keep it from saying its last.
            let is_silent = self.said.recv_timeout(Duration::from_millis(50)).is_err();
            match self.child.try_wait().expect("a child") {
                Some(status) if is_silent => return status.code(),
                Some(_) | None => assert!(Instant::now() < deadline, "still running after {PATIENCE:?}"),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
