//! A line between a client and a PostgreSQL server that is cut, stands still, or is slow, at moments that a script names by
//! what passes: so many bytes of an answer, or so many bytes of rows in a COPY.
//!
//! It listens on the loopback and goes on to the server's socket. Of the protocol it knows no more than where messages
//! begin, so that it needs connections without TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

/// The socket's name in the folder of a server of the tests.
const SOCKET: &str = ".s.PGSQL.5432";
/// Read at a time.
const PIECE_BYTES: usize = 16 << 10;
/// The length before the first message of a connection, and of any other behind its kind.
const LENGTH_BYTES: usize = 4;
const KIND_OF_ROWS: u8 = b'd';

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Both sides see it end.
    Cut,
    /// Nothing more gets through, and it stays open.
    Hang,
    /// Each piece that passes from the server comes so much later.
    Delay(Duration),
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the server hears of the connection.
    Start,
    /// When the server has sent so many bytes.
    Answered(u64),
    /// When so many bytes of rows have passed in a COPY, whichever way.
    Copied(u64),
}

/// Which connections a fault is for.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    moment: Moment,
    times: usize,
}

impl Rule {
    /// A fault for every connection.
    #[must_use]
    pub fn new(fault: Fault, moment: Moment) -> Self {
        Self { fault, moment, times: usize::MAX }
    }

    /// Only for the next so many connections.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

/// The line; it ends when dropped.
#[derive(Debug)]
pub struct PostgresProxy {
    address: SocketAddr,
    script: Arc<Script>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Script {
    rules: Mutex<Vec<Rule>>,
    struck: Mutex<usize>,
    changed: Condvar,
}

impl PostgresProxy {
    /// A line to the server whose socket is in this folder.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let script = Arc::new(Script::default());
        let (stop, stopped) = oneshot::channel();
        let (shared, socket) = (Arc::clone(&script), folder.join(SOCKET));
        let address = crate::background::serve(stopped, move |listener| accept(listener, socket, shared));
        Self { address, script, _stop: stop }
    }

    /// The connection to a database as its superuser.
    #[must_use]
    pub fn uri(&self, database: &str) -> String {
        format!("postgresql://postgres@{}/{database}?sslmode=disable&connect_timeout=2", self.address)
    }

    pub fn add(&self, rule: Rule) {
        locked(&self.script.rules).push(rule);
    }

    /// New connections pass; those that a fault has struck stay as they are.
    pub fn clear(&self) {
        locked(&self.script.rules).clear();
        *locked(&self.script.struck) = 0;
    }

    /// How many connections were struck since the last [`Self::clear`].
    #[must_use]
    pub fn struck(&self) -> usize {
        *locked(&self.script.struck)
    }

    /// Waits until a connection is struck; false when `patience` ran out first.
    #[must_use]
    pub fn wait_until_struck(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut struck = locked(&self.script.struck);
        while *struck == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            struck = self.script.changed.wait_timeout(struck, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Script {
    /// What is to happen to a new connection.
    fn next_rule(&self) -> Option<Rule> {
        let mut rules = locked(&self.rules);
        let rule = rules.iter_mut().find(|rule| rule.times > 0)?;
        rule.times -= 1;
        Some(rule.clone())
    }

    fn note(&self) {
        *locked(&self.struck) += 1;
        self.changed.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, socket: PathBuf, script: Arc<Script>) {
    while let Ok((client, _)) = listener.accept().await {
        let (socket, script) = (socket.clone(), Arc::clone(&script));
        tokio::spawn(async move {
            // An error here is a side that went away.
            let _ = connect(client, &socket, script).await;
        });
    }
}

async fn connect(mut client: TcpStream, socket: &Path, script: Arc<Script>) -> std::io::Result<()> {
    let greeting = read_greeting(&mut client).await?;
    let rule = script.next_rule();
    if let Some(Rule { fault, moment: Moment::Start, .. }) = rule {
        script.note();
        match fault {
            Fault::Cut => return Ok(()),
            Fault::Hang => return std::future::pending().await,
            Fault::Delay(by) => tokio::time::sleep(by).await,
        }
    }
    let mut server = UnixStream::connect(socket).await?;
    server.write_all(&greeting).await?;
    let (fate, mut told) = watch::channel(None);
    let line = Line { script, rule, fate, copied: Mutex::new(0) };
    let (client_in, client_out) = tokio::io::split(client);
    let (server_in, server_out) = tokio::io::split(server);
    let both = async {
        tokio::join!(
            pump(client_in, server_out, &line, Side::Client),
            pump(server_in, client_out, &line, Side::Server),
        )
    };
    tokio::select! {
        _ = both => {}
        _ = told.wait_for(|fault| *fault == Some(Fault::Cut)) => {}
    }
    Ok(())
}

/// A connection's first message, whole.
async fn read_greeting(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut greeting = vec![0; LENGTH_BYTES];
    client.read_exact(&mut greeting).await?;
    let length = u32::from_be_bytes([greeting[0], greeting[1], greeting[2], greeting[3]]) as usize;
    greeting.resize(length.max(LENGTH_BYTES), 0);
    client.read_exact(&mut greeting[LENGTH_BYTES..]).await?;
    Ok(greeting)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// One connection with what is to happen to it.
struct Line {
    script: Arc<Script>,
    rule: Option<Rule>,
    /// What has happened to it.
    fate: watch::Sender<Option<Fault>>,
    copied: Mutex<u64>,
}

impl Line {
    /// How many of these bytes may pass before the fault.
    fn allowed(&self, side: Side, passed: u64, piece: usize, rows: u64) -> Option<usize> {
        let rule = self.rule.as_ref()?;
        match rule.moment {
            Moment::Start => None,
            Moment::Answered(at) if side == Side::Server => {
                (passed + piece as u64 > at).then(|| at.saturating_sub(passed) as usize)
            }
            Moment::Answered(_) => None,
            Moment::Copied(at) => {
                let mut copied = locked(&self.copied);
                *copied += rows;
                // In the midst of the rows that this piece holds.
                (rows > 0 && *copied > at).then_some(piece / 2)
            }
        }
    }
}

/// Ends when the connection is to stand still.
async fn is_to_hang(fate: &mut watch::Receiver<Option<Fault>>) {
    if fate.wait_for(|fault| *fault == Some(Fault::Hang)).await.is_err() {
        std::future::pending().await
    }
}

async fn pump(
    mut from: ReadHalf<impl tokio::io::AsyncRead + Send>,
    mut to: WriteHalf<impl tokio::io::AsyncWrite + Send>,
    line: &Line,
    side: Side,
) -> std::io::Result<()> {
    let mut fate = line.fate.subscribe();
    let (mut piece, mut passed, mut messages) = (vec![0; PIECE_BYTES], 0, Messages::default());
    loop {
        let read = tokio::select! {
            read = from.read(&mut piece) => read?,
            () = is_to_hang(&mut fate) => std::future::pending().await,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        let rows = messages.rows_in(&piece[..read]);
        let slowed = line.rule.as_ref().map(|rule| rule.fault);
        match line.allowed(side, passed, read, rows) {
            Some(allowed) if !matches!(slowed, Some(Fault::Delay(_))) => {
                to.write_all(&piece[..allowed]).await?;
                line.script.note();
                line.fate.send_replace(slowed);
                return std::future::pending().await;
            }
            Some(_) => {
                if let Some(Fault::Delay(by)) = slowed {
                    line.script.note();
                    tokio::time::sleep(by).await;
                }
            }
            None => {}
        }
        to.write_all(&piece[..read]).await?;
        passed += read as u64;
    }
}

/// Where messages begin in a stream of them, and which are rows.
#[derive(Debug, Default)]
struct Messages {
    head: Vec<u8>,
    /// What is still to come of the message at hand.
    left: usize,
    is_rows: bool,
}

impl Messages {
    /// How many of these bytes are rows.
    fn rows_in(&mut self, mut bytes: &[u8]) -> u64 {
        let mut rows = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                rows += if self.is_rows { taken as u64 } else { 0 };
                (self.left, bytes) = (self.left - taken, &bytes[taken..]);
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if let [kind, a, b, c, d] = self.head[..] {
                self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(LENGTH_BYTES);
                self.is_rows = kind == KIND_OF_ROWS;
                self.head.clear();
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_known_in_whatever_pieces_they_come() {
        let mut stream = vec![b'H', 0, 0, 0, 7, 0, 0, 0];
        stream.extend([KIND_OF_ROWS, 0, 0, 0, 9, b'1', b'2', b'3', b'4', b'\n']);
        stream.extend([b'c', 0, 0, 0, 4]);
        for size in 1..stream.len() {
            let mut messages = Messages::default();
            let rows: u64 = stream.chunks(size).map(|piece| messages.rows_in(piece)).sum();
            assert_eq!(rows, 5, "in pieces of {size}");
        }
    }
}
