//! Progress: a bar on a terminal, a line now and then elsewhere, nothing with `--json`.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal a line is printed this often: often enough to see life, seldom enough for a log.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// Shared by whatever threads make progress.
#[derive(Debug)]
pub(crate) struct Progress {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Silent,
    Bar(ProgressBar),
    Plain { state: Mutex<Plain> },
}

#[derive(Debug)]
struct Plain {
    what: String,
    done: u64,
    expected: u64,
    started: Instant,
    last: Instant,
}

impl Progress {
    /// `expected` bytes are an estimate; the bar grows when it was too small.
    pub(crate) fn new(what: &str, expected: u64, silent: bool) -> Self {
        let form = match (silent, std::io::stderr().is_terminal()) {
            (true, _) => Form::Silent,
            (false, true) => Form::Bar(bar(what, expected)),
            (false, false) => {
                let now = Instant::now();
                Form::Plain {
                    state: Mutex::new(Plain {
                        what: what.to_owned(),
                        done: 0,
                        expected,
                        started: now,
                        last: now,
                    }),
                }
            }
        };
        Self { form }
    }

    pub(crate) fn advance(&self, bytes: u64) {
        match &self.form {
            Form::Silent => {}
            Form::Bar(bar) => {
                bar.inc(bytes);
                if bar.length().is_some_and(|length| bar.position() > length) {
                    bar.set_length(bar.position());
                }
            }
            Form::Plain { state } => advance_plain(&mut state.lock().expect("no panic while held"), bytes),
        }
    }

    /// Sets both ends, where they are known.
    pub(crate) fn reach(&self, done: u64, total: u64) {
        if let Form::Bar(bar) = &self.form {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Names what is in work: a table, a phase.
    pub(crate) fn at(&self, what: &str) {
        if let Form::Bar(bar) = &self.form {
            bar.set_message(what.to_owned());
        }
    }

    pub(crate) fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, expected: u64) -> ProgressBar {
    let bar = ProgressBar::new(expected.max(1)).with_prefix(what.to_owned());
    let template = "{prefix} [{bar:30}] {bytes} of about {total_bytes} {bytes_per_sec} eta {eta} {msg}";
    bar.set_style(ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn advance_plain(state: &mut Plain, bytes: u64) {
    state.done += bytes;
    if state.last.elapsed() < PLAIN_INTERVAL {
        return;
    }
    state.last = Instant::now();
    let seconds = state.started.elapsed().as_secs().max(1);
    let (done, expected) = (mib(state.done), mib(state.expected));
    eprintln!("{}: {done} of about {expected}, {}/s", state.what, mib(state.done / seconds));
}

fn mib(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
