//! Running `pg_dump`: its stream, its messages and, above all, how it ended.
//!
//! A stream that ended says nothing: only [`RunningDump::wait`] tells whether what came through is a whole dump.
//! Everything here blocks and belongs on threads that may.

mod globals_text;
mod held;
mod messages;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::connection::{ConnectionError, ConnectionSpec};

pub use globals_text::{DumpedGlobals, dump_globals};
pub use held::{HeldDump, HeldDumpError};
pub use messages::Messages;

/// Size of the pipe from `pg_dump`: the most that Linux gives to unprivileged processes by default (man 7 pipe),
/// so that neither side waits for the other at every 64 KiB.
const PIPE_BYTES: usize = 1 << 20;
/// A read that brought less than this found the pipe nearly empty.
const READ_SMALL_BYTES: usize = 128 << 10;
/// How long the pipe is then left to fill. `pg_dump` writes 4 KiB at a time, and to be woken for each costs both sides
/// more than the copying does: a tenth of a whole backup's time on two cores. At 1 GB/s the pipe would be half full.
const FILL_PAUSE: Duration = Duration::from_micros(500);
/// How long `pg_dump` may wait for any one table's lock, unless somebody says otherwise.
const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(300);

/// A table by schema and name, exactly as in the catalog.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    /// The pattern of `pg_dump` that matches this table and no other.
    fn pattern(&self) -> String {
        let quoted = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole database; of these tables the definition only.
    Everything { without_data_of: Vec<TableName> },
    /// The rows of these tables, and of nothing else.
    RowsOf(Vec<TableName>),
}

/// One `pg_dump` to be run.
#[derive(Debug, Clone)]
pub struct DumpOrder {
    pub pg_dump: PathBuf,
    /// Id of the exported snapshot that the dump reads.
    pub snapshot: Option<String>,
    pub scope: Scope,
    /// In which encoding rows and names are written; see [`encoding_of_dump`]. `None` leaves it to the environment.
    pub encoding: Option<String>,
    /// Patterns, as `pg_dump --exclude-table` takes them, of tables that are left out with all that is theirs.
    pub exclude_tables: Vec<String>,
    /// Patterns of tables whose rows are left out.
    pub exclude_table_data: Vec<String>,
    pub lock_wait: Duration,
}

impl DumpOrder {
    pub fn everything(pg_dump: PathBuf, snapshot: Option<String>) -> Self {
        let scope = Scope::Everything { without_data_of: Vec::new() };
        let (exclude_tables, exclude_table_data) = (Vec::new(), Vec::new());
        let encoding = None;
        Self {
            pg_dump,
            snapshot,
            scope,
            encoding,
            exclude_tables,
            exclude_table_data,
            lock_wait: LOCK_WAIT_DEFAULT,
        }
    }

    /// The command line. Holds names of tables, and neither host nor account.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments =
            vec!["--format=custom".to_owned(), "--compress=0".to_owned(), "--no-password".to_owned()];
        arguments.push(format!("--lock-wait-timeout={}", self.lock_wait.as_millis()));
        arguments.extend(self.snapshot.as_deref().map(snapshot_argument));
        arguments.extend(self.encoding.iter().map(|encoding| format!("--encoding={encoding}")));
        arguments.extend(self.exclude_tables.iter().map(|pattern| format!("--exclude-table={pattern}")));
        arguments
            .extend(self.exclude_table_data.iter().map(|pattern| format!("--exclude-table-data={pattern}")));
        match &self.scope {
            Scope::Everything { without_data_of } => {
                arguments
                    .extend(without_data_of.iter().map(|t| format!("--exclude-table-data={}", t.pattern())));
            }
            Scope::RowsOf(tables) => {
                // A table that is not there must be an error, not an archive without it.
                arguments.extend(["--data-only".to_owned(), "--strict-names".to_owned()]);
                arguments.extend(tables.iter().map(|table| format!("--table={}", table.pattern())));
            }
        }
        arguments.into_iter().map(OsString::from).collect()
    }

    /// Starts the program, in a process group of its own.
    pub fn start(&self, spec: &ConnectionSpec) -> Result<RunningDump, DumpError> {
        let environment = spec.child_env()?;
        let mut command = Command::new(&self.pg_dump);
        command.args(self.arguments());
        environment.apply(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let failed = |source| DumpError::Start { program: self.pg_dump.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().expect("piped above");
        let stderr = child.stderr.take().expect("piped above");
        // A smaller pipe is slower, and no less right.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
        let group = Group::of(&child);
        let mut running =
            RunningDump { child, stdout: Some(stdout), messages: None, group, _environment: environment };
        running.messages = Some(listen(stderr).map_err(failed)?);
        Ok(running)
    }
}

/// The encoding in which a database of `database_encoding` is dumped and compared: UTF-8, so that names can be read
/// whatever the database's own. A database in `SQL_ASCII` holds bytes of no known encoding, which only it takes back.
pub fn encoding_of_dump(database_encoding: &str) -> &'static str {
    match database_encoding {
        "SQL_ASCII" => "SQL_ASCII",
        _ => "UTF8",
    }
}

/// `--snapshot=…`, as which a dump reads an exported snapshot.
pub fn snapshot_argument(id: &str) -> String {
    format!("--snapshot={id}")
}

/// A `pg_dump` that runs. Dropping it kills the program and all that it started.
#[derive(Debug)]
pub struct RunningDump {
    child: Child,
    stdout: Option<ChildStdout>,
    messages: Option<JoinHandle<Messages>>,
    group: Group,
    _environment: crate::connection::ChildEnvironment,
}

impl RunningDump {
    /// The archive's stream. Its end is not yet the dump's good end. `None` when taken before.
    pub fn take_stdout(&mut self) -> Option<DumpStream> {
        self.stdout.take().map(DumpStream)
    }

    /// A handle by which another thread can end the dump.
    pub fn stopper(&self) -> DumpStopper {
        DumpStopper { group: self.group.clone() }
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program has ended, and says how. Read the stream to its end first.
    pub fn wait(mut self) -> Result<DumpOutcome, DumpError> {
        // Whoever did not take the stream does not want it: the program must not wait for a reader.
        drop(self.stdout.take());
        let (status, stopped) = self.group.reap(&mut self.child).map_err(DumpError::Wait)?;
        let messages = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let messages = Box::new(messages);
        if let Some(why) = stopped {
            return Err(DumpError::Stopped { why, messages });
        }
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(DumpOutcome { messages: *messages }),
            (Some(code), _) => Err(DumpError::Failed { code, messages }),
            (None, signal) => Err(DumpError::Killed { signal: signal.unwrap_or_default(), messages }),
        }
    }
}

/// The archive as it comes out of `pg_dump`.
#[derive(Debug)]
pub struct DumpStream(ChildStdout);

impl Read for DumpStream {
    #[expect(clippy::disallowed_methods, reason = "no condition is awaited: the pause saves wake-ups")]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if 0 < count && count < READ_SMALL_BYTES.min(buffer.len()) {
            std::thread::sleep(FILL_PAUSE);
        }
        Ok(count)
    }
}

impl Drop for RunningDump {
    fn drop(&mut self) {
        self.group.kill("the dump was given up");
        if let Err(error) = self.group.reap(&mut self.child) {
            tracing::warn!("a dump that was given up cannot be waited for: {error}");
        }
    }
}

/// Ends a dump from another thread; after its end, does nothing.
#[derive(Debug, Clone)]
pub struct DumpStopper {
    group: Group,
}

impl DumpStopper {
    /// Kills the program and all that it started; [`RunningDump::wait`] then tells `why`.
    pub fn stop(&self, why: &str) {
        self.group.kill(why);
    }
}

/// A dump that ended well, with what it said on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DumpOutcome {
    pub messages: Messages,
}

/// A dump that is none, however much of its stream came through.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("cannot start {program}", program = program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("cannot prepare the dump's connection")]
    Connection(#[from] ConnectionError),
    #[error("pg_dump failed with exit code {code}{}", messages.reason())]
    Failed { code: i32, messages: Box<Messages> },
    #[error("pg_dump was killed by signal {signal}{}", messages.reason())]
    Killed { signal: i32, messages: Box<Messages> },
    #[error("pg_dump was stopped: {why}")]
    Stopped { why: String, messages: Box<Messages> },
    #[error("cannot wait for pg_dump")]
    Wait(#[source] io::Error),
    #[error("pg_dumpall wrote more than {limit} bytes of roles and tablespaces")]
    GlobalsTooLarge { limit: usize },
    #[error("pg_dumpall wrote text that is not UTF-8")]
    GlobalsEncoding,
    #[error("cannot read from pg_dumpall")]
    GlobalsRead(#[source] io::Error),
    #[error("pg_dumpall ended with {status}{}", messages.reason())]
    Globals { status: ExitStatus, messages: Box<Messages> },
}

impl DumpError {
    pub fn messages(&self) -> Option<&Messages> {
        match self {
            Self::Failed { messages, .. }
            | Self::Killed { messages, .. }
            | Self::Stopped { messages, .. }
            | Self::Globals { messages, .. } => Some(messages),
            _ => None,
        }
    }

    pub fn hint(&self) -> Option<String> {
        if let Self::Killed { signal: 9, .. } = self {
            return Some("the kernel may have run out of memory: see its log".to_owned());
        }
        if let Self::Connection(error) = self {
            return error.hint();
        }
        self.messages().and_then(|messages| messages.hint())
    }
}

/// The process group of a child, which is signalled only as long as the child is not reaped: its number is then ours.
#[derive(Debug, Clone)]
struct Group(Arc<Mutex<GroupState>>);

#[derive(Debug)]
struct GroupState {
    id: Option<Pid>,
    stopped: Option<String>,
    ended: Option<ExitStatus>,
}

impl Group {
    fn of(child: &Child) -> Self {
        Self(Arc::new(Mutex::new(GroupState {
            id: Some(Pid::from_child(child)),
            stopped: None,
            ended: None,
        })))
    }

    fn kill(&self, why: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = state.id {
            state.stopped.get_or_insert_with(|| why.to_owned());
            let _ = kill_process_group(id, Signal::KILL);
        }
    }

    /// Waits for the child's end, ends what it left behind in its group, and gives the number back.
    fn reap(&self, child: &mut Child) -> io::Result<(ExitStatus, Option<String>)> {
        let id = self.0.lock().unwrap_or_else(PoisonError::into_inner).id;
        if let Some(id) = id {
            loop {
                match waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                    Ok(_) => break,
                }
            }
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = state.id.take() {
            // A grandchild would hold the pipes open, and us with them.
            let _ = kill_process_group(id, Signal::KILL);
            state.ended = Some(child.wait()?);
        }
        let ended = state.ended.ok_or_else(|| io::Error::other("the child's end was lost"))?;
        Ok((ended, state.stopped.clone()))
    }
}

fn listen(mut stderr: ChildStderr) -> io::Result<JoinHandle<Messages>> {
    std::thread::Builder::new().name("pg_dump messages".to_owned()).spawn(move || {
        let mut messages = Messages::default();
        let mut buffer = [0; 8192];
        loop {
            match stderr.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => messages.take(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        messages.finish();
        messages
    })
}

#[cfg(test)]
mod tests;
