//! Progress: a bar on a terminal; elsewhere a line at every new step and now and then; with `--json` the same as JSON,
//! one object a line. All on standard error.

use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;
use pgproof_monitoring::journal::say;
use serde::Serialize;
use tracing::Level;

use crate::plain;

/// Without a terminal a line is printed this often: often enough to see life, seldom enough for a log.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);
/// A program that reads JSON draws something of its own.
const JSON_INTERVAL: Duration = Duration::from_secs(5);

/// Shared by whatever threads make progress. It ends when dropped.
#[derive(Debug)]
pub(crate) enum Progress {
    Bar { bar: ProgressBar, what: &'static str },
    Lines(Lines),
}

impl Progress {
    /// `expected` bytes are an estimate; more may come.
    pub(crate) fn new(what: &'static str, expected: u64, json: bool) -> Self {
        match (json, std::io::stderr().is_terminal()) {
            (true, _) => Self::Lines(Lines::start(State::new(what, expected), JSON_INTERVAL, print_json)),
            (false, true) => Self::Bar { bar: bar(what, expected), what },
            (false, false) => {
                Self::Lines(Lines::start(State::new(what, expected), PLAIN_INTERVAL, print_plain))
            }
        }
    }

    /// A new step begins.
    pub(crate) fn step(&self, step: &'static str) {
        match self {
            Self::Bar { bar, what } => {
                bar.set_prefix(format!("{what}: {step}"));
                bar.set_message("");
            }
            Self::Lines(lines) => {
                lines.shared.state().begin(step);
                lines.tell();
            }
        }
    }

    /// Names the table in work.
    pub(crate) fn at(&self, table: &str) {
        match self {
            Self::Bar { bar, .. } => bar.set_message(table.to_owned()),
            Self::Lines(lines) => lines.shared.state().at(table),
        }
    }

    pub(crate) fn advance(&self, bytes: u64) {
        match self {
            Self::Bar { bar, .. } => {
                bar.inc(bytes);
                if bar.length().is_some_and(|length| bar.position() > length) {
                    bar.set_length(bar.position());
                }
            }
            Self::Lines(lines) => lines.shared.state().done += bytes,
        }
    }

    /// Sets both ends, where they are known.
    pub(crate) fn reach(&self, done: u64, total: u64) {
        match self {
            Self::Bar { bar, .. } => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Self::Lines(lines) => {
                let mut state = lines.shared.state();
                (state.done, state.expected) = (done, total);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match self {
            Self::Bar { bar, .. } => bar.finish_and_clear(),
            Self::Lines(lines) => lines.end(),
        }
    }
}

fn bar(what: &'static str, expected: u64) -> ProgressBar {
    let bar = ProgressBar::new(expected.max(1)).with_prefix(what);
    let template = "{prefix} [{bar:30}] {bytes} of about {total_bytes} {bytes_per_sec} eta {eta} {wide_msg}";
    bar.set_style(ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn print_plain(report: &Report<'_>) {
    say(Level::INFO, &line(report));
}

fn print_json(report: &Report<'_>) {
    say(Level::INFO, &serde_json::json!({ "progress": report }).to_string());
}

/// Lines from a thread of its own, so that a step that stands still is seen to.
#[derive(Debug)]
pub(crate) struct Lines {
    shared: Arc<Shared>,
    print: fn(&Report<'_>),
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn start(state: State, interval: Duration, print: fn(&Report<'_>)) -> Self {
        let shared = Arc::new(Shared { state: Mutex::new(state), ended: Condvar::new() });
        let told = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut state = told.state();
            while !state.ended {
                let waited = told.ended.wait_timeout(state, interval).unwrap_or_else(PoisonError::into_inner);
                state = waited.0;
                if waited.1.timed_out() && !state.ended {
                    print(&state.report(Instant::now()));
                }
            }
        });
        Self { shared, print }
    }

    fn tell(&self) {
        (self.print)(&self.shared.state().report(Instant::now()));
    }

    fn end(&self) {
        self.shared.state().ended = true;
        self.shared.ended.notify_all();
    }
}

/// How far it is.
#[derive(Debug)]
struct State {
    what: &'static str,
    step: Option<&'static str>,
    at: Option<String>,
    done: u64,
    expected: u64,
    step_began: Instant,
    done_before_step: u64,
    ended: bool,
}

impl State {
    fn new(what: &'static str, expected: u64) -> Self {
        Self {
            what,
            step: None,
            at: None,
            done: 0,
            expected,
            step_began: Instant::now(),
            done_before_step: 0,
            ended: false,
        }
    }

    fn begin(&mut self, step: &'static str) {
        (self.step, self.at) = (Some(step), None);
        (self.step_began, self.done_before_step) = (Instant::now(), self.done);
    }

    fn at(&mut self, table: &str) {
        if self.at.as_deref() != Some(table) {
            self.at = Some(table.to_owned());
        }
    }

    fn report(&self, now: Instant) -> Report<'_> {
        let elapsed = now.saturating_duration_since(self.step_began);
        let rate = rate(self.done - self.done_before_step, elapsed);
        Report {
            of: self.what,
            step: self.step,
            table: self.at.as_deref(),
            bytes_done: self.done,
            bytes_expected: self.expected,
            bytes_per_second: rate,
            seconds: elapsed.as_secs(),
            seconds_left: seconds_left(self.done, self.expected, rate),
        }
    }
}

/// The JSON form; fields are only added.
#[derive(Debug, Serialize)]
struct Report<'a> {
    of: &'static str,
    step: Option<&'static str>,
    table: Option<&'a str>,
    bytes_done: u64,
    /// An estimate, by the database's size.
    bytes_expected: u64,
    /// In this step.
    bytes_per_second: u64,
    /// Since the step began.
    seconds: u64,
    seconds_left: Option<u64>,
}

/// The mean rate of a step, in bytes a second.
fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let milliseconds = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / milliseconds).unwrap_or(u64::MAX)
}

/// Nothing is said of the end where nothing moves, or where more has come than was expected.
fn seconds_left(done: u64, expected: u64, rate: u64) -> Option<u64> {
    let left = expected.checked_sub(done).filter(|left| *left > 0)?;
    (rate > 0).then(|| left.div_ceil(rate))
}

/// `restore: load, public.orders, 1.0 GiB of about 4.0 GiB, 85.3 MiB/s, about 33 s left`.
fn line(report: &Report<'_>) -> String {
    let mut parts: Vec<String> = report.step.iter().map(ToString::to_string).collect();
    parts.extend(report.table.map(str::to_owned));
    let (done, expected) = (plain::bytes(report.bytes_done), plain::bytes(report.bytes_expected));
    match (report.bytes_per_second, report.bytes_done < report.bytes_expected) {
        (0, _) => parts.extend((report.seconds > 0).then(|| format!("for {}", told(report.seconds)))),
        (rate, true) => parts.push(format!("{done} of about {expected}, {}/s", plain::bytes(rate))),
        (rate, false) => parts.push(format!("{done}, {}/s", plain::bytes(rate))),
    }
    parts.extend(report.seconds_left.map(|left| format!("about {} left", told(left))));
    format!("{}: {}", report.of, parts.join(", "))
}

fn told(seconds: u64) -> String {
    plain::duration(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn after(state: &State, seconds: u64) -> String {
        line(&state.report(state.step_began + Duration::from_secs(seconds)))
    }

    #[test]
    fn a_dump_tells_table_rate_and_end() {
        let mut state = State::new("dump", 400 * MIB);
        assert_eq!(after(&state, 30), "dump: for 30 s");
        state.done = 100 * MIB;
        state.at("public.orders");
        assert_eq!(
            after(&state, 10),
            "dump: public.orders, 100.00 MiB of about 400.00 MiB, 10.00 MiB/s, about 30 s left"
        );
        state.done = 500 * MIB;
        assert_eq!(after(&state, 50), "dump: public.orders, 500.00 MiB, 10.00 MiB/s");
    }

    #[test]
    fn a_step_has_its_own_clock_and_rate() {
        let mut state = State::new("restore", 9);
        state.begin("load");
        assert_eq!(after(&state, 0), "restore: load");
        (state.done, state.expected) = (40 * MIB, 100 * MIB);
        assert_eq!(
            after(&state, 4),
            "restore: load, 40.00 MiB of about 100.00 MiB, 10.00 MiB/s, about 6 s left"
        );
        state.at("public.t");
        state.begin("post-data");
        assert_eq!(after(&state, 125), "restore: post-data, for 2 min 5 s");
    }

    #[test]
    fn nothing_is_said_of_an_unknown_end() {
        assert_eq!(seconds_left(0, 100, 0), None);
        assert_eq!(seconds_left(100, 100, 10), None);
        assert_eq!(seconds_left(101, 100, 10), None);
        assert_eq!(seconds_left(0, u64::MAX, 1), Some(u64::MAX));
        assert_eq!(seconds_left(50, 101, 10), Some(6));
        assert_eq!(rate(u64::MAX, Duration::ZERO), u64::MAX);
        assert_eq!(rate(3, Duration::from_secs(2)), 1);
    }

    #[test]
    fn machines_get_numbers() {
        let mut state = State::new("dump", 100);
        state.done = 50;
        state.at("public.t");
        let report = state.report(state.step_began + Duration::from_secs(5));
        let expected = serde_json::json!({
            "of": "dump", "step": null, "table": "public.t", "bytes_done": 50, "bytes_expected": 100,
            "bytes_per_second": 10, "seconds": 5, "seconds_left": 5,
        });
        assert_eq!(serde_json::to_value(report).unwrap(), expected);
    }
}
