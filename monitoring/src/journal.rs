//! The log's form: for people who look on, or for systemd's journal, which keeps the time itself and takes a line's
//! priority from its beginning (`<4>`, man 3 sd-daemon).

use std::fmt;
use std::io::{Write, stderr};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How events are written on standard error.
#[derive(Debug)]
pub enum LogForm {
    Plain(Format<Full, SystemTime>),
    Journal(Format<Full, ()>),
}

impl LogForm {
    /// As standard error asks for it.
    #[must_use]
    pub fn of_this_process() -> Self {
        let format = Format::default().with_target(false);
        match is_journal() {
            true => Self::Journal(format.without_time()),
            false => Self::Plain(format),
        }
    }
}

impl<S, N> FormatEvent<S, N> for LogForm
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::Plain(format) => format.format_event(context, writer, event),
            Self::Journal(format) => {
                let mut text = String::new();
                format.format_event(context, Writer::new(&mut text), event)?;
                writer.write_str(&prioritized(*event.metadata().level(), &text))
            }
        }
    }
}

/// Says something on standard error beside the log, such as why the program ends. Where nobody reads it any more, nobody is
/// left to be told.
pub fn say(level: Level, text: &str) {
    let said = match is_journal() {
        true => prioritized(level, text),
        false => format!("{text}\n"),
    };
    let _unread = stderr().write_all(said.as_bytes());
}

/// Each line with its priority: one without would be taken for information.
fn prioritized(level: Level, text: &str) -> String {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    text.lines().map(|line| format!("<{priority}>{}\n", line.trim_start())).collect()
}

/// Whether standard error still is what systemd connected to its journal.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(prioritized(Level::ERROR, "error: no\nhint: yes"), "<3>error: no\n<3>hint: yes\n");
        assert_eq!(prioritized(Level::INFO, " INFO backed up\n"), "<6>INFO backed up\n");
    }
}
