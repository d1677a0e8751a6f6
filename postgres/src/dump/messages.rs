//! What a client program says on its standard error: bounded, and by severity.

use std::collections::VecDeque;

use crate::infrastructure::HINT_OF_A_LOST_CONNECTION;

/// How much of the end is kept as it came: enough for a long statement in an error, far from exhausting anything.
const TAIL_BYTES: usize = 64 << 10;
/// How many errors and warnings are kept apart, each.
const KEPT_LINES: usize = 100;

/// The messages of a client program. Warnings make no failure: only its exit status does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
    tail: VecDeque<u8>,
    line: Vec<u8>,
}

impl Messages {
    /// The last 64 KiB.
    pub fn tail(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        for &byte in bytes {
            if byte == b'\n' {
                self.finish();
            } else if self.line.len() < TAIL_BYTES {
                self.line.push(byte);
            }
        }
    }

    /// Counts the last line, too, when it has no end.
    pub(super) fn finish(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        // `pg_dump: error: …`; before version 12 `pg_dump: [archiver] …` without a severity, which stays in the tail.
        let said = line.split_once(": ").map_or("", |(_, said)| said);
        for (severity, list) in [("error: ", &mut self.errors), ("warning: ", &mut self.warnings)] {
            if let Some(text) = said.strip_prefix(severity)
                && list.len() < KEPT_LINES
            {
                list.push(text.to_owned());
            }
        }
    }

    /// What went wrong, to stand behind a statement that something did; empty if nothing was said.
    pub(super) fn reason(&self) -> String {
        let tail = self.tail();
        let said = self.errors.first().map(String::as_str).or_else(|| tail.lines().last());
        said.map(|said| format!(": {}", said.trim_end_matches('.'))).unwrap_or_default()
    }

    pub(super) fn denies_permission(&self) -> bool {
        self.tail().contains("permission denied")
    }

    pub(super) fn hint(&self) -> Option<String> {
        const KNOWN: [(&str, &str); 11] = [
            ("server version mismatch", "this pg_dump is older than the server: install its client programs"),
            ("row-level security", "give the role BYPASSRLS, or it would see only some rows"),
            ("permission denied", "grant the role pg_read_all_data, and SELECT on large objects"),
            ("lock timeout", "another session holds a lock on a table for too long"),
            ("statement timeout", "another session holds a lock on a table for too long"),
            ("does not exist", "a table was dropped or renamed while the dump began: run it again"),
            ("no password supplied", "name a password_file for this source"),
            (
                "conflict with recovery",
                "on the standby, set hot_standby_feedback = on or a longer max_standby_streaming_delay",
            ),
            ("server closed the connection", HINT_OF_A_LOST_CONNECTION),
            ("terminating connection", HINT_OF_A_LOST_CONNECTION),
            ("connection to server", HINT_OF_A_LOST_CONNECTION),
        ];
        let tail = self.tail();
        KNOWN.iter().find(|(sign, _)| tail.contains(sign)).map(|(_, hint)| (*hint).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_told_apart_across_reads_and_memory_is_bounded() {
        let mut messages = Messages::default();
        messages.take(b"pg_dump: warn");
        messages.take(b"ing: odd\npg_dump: error: query failed: ERROR:  permission denied for table t\npg_dump: detail: x\npg_dump: error: last.");
        messages.finish();
        assert_eq!(messages.warnings, ["odd"]);
        assert_eq!(messages.errors, ["query failed: ERROR:  permission denied for table t", "last."]);
        assert!(messages.reason().starts_with(": query failed"));
        assert!(messages.hint().unwrap().contains("pg_read_all_data"));
        for _ in 0..100 {
            messages.take(&[b'x'; 4096]);
        }
        assert_eq!(messages.tail().len(), TAIL_BYTES);
        assert_eq!(messages.line.len(), TAIL_BYTES);
    }
}
