//! Whom alerts are sent to: a small HTTP server and a small mail server, which keep what they get.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a message may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// An HTTP request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// In lower case, a line each.
    pub headers: String,
    pub body: String,
}

/// An HTTP server that answers every request alike.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    requests: Arc<(Mutex<Vec<Request>>, Condvar)>,
}

/// A mail server that takes everything.
#[derive(Debug)]
pub struct MailServer {
    address: SocketAddr,
    mails: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    /// # Panics
    /// Where no port is free.
    #[must_use]
    pub fn start() -> Self {
        let (status, requests) =
            (Arc::new(AtomicU16::new(200)), Arc::new((Mutex::new(Vec::new()), Condvar::new())));
        let (answered, kept) = (status.clone(), requests.clone());
        let address = serve(move |stream| {
            let request = read_request(&stream)?;
            kept.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            kept.1.notify_all();
            let status = answered.load(Ordering::Relaxed);
            write!(&stream, "HTTP/1.1 {status} Told\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        });
        Self { address, status, requests }
    }

    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// What came so far to this path, oldest first.
    #[must_use]
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let requests = self.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
        to(path, &requests)
    }

    /// Waits until what came to this path is enough.
    ///
    /// # Panics
    /// With what came, when it is not after half a minute.
    pub fn wait_until(&self, path: &str, is_enough: impl Fn(&[Request]) -> bool) {
        let requests = self.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.requests.1.wait_timeout_while(requests, PATIENCE, |all| !is_enough(&to(path, all)));
        let (requests, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "not what was waited for: {:#?}", to(path, &requests));
    }
}

fn to(path: &str, requests: &[Request]) -> Vec<Request> {
    requests.iter().filter(|request| request.line.split(' ').nth(1) == Some(path)).cloned().collect()
}

impl MailServer {
    /// # Panics
    /// Where no port is free.
    #[must_use]
    pub fn start() -> Self {
        let mails = Arc::new(Mutex::new(Vec::new()));
        let kept = mails.clone();
        let address = serve(move |stream| take_mail(&stream, &kept));
        Self { address, mails }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Envelopes and texts, oldest first.
    #[must_use]
    pub fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves each connection on a thread of its own, until the process ends.
fn serve(answer: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            // A peer that goes away has its reasons; tests look at what was kept.
            thread::spawn(move || drop(answer(stream)));
        }
    });
    address
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut headers) = (String::new(), String::new());
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        headers.push_str(&header.to_ascii_lowercase());
    }
    let length = headers.lines().find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Request { line: line.trim().to_owned(), headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// The server's side of RFC 5321, as far as one message needs it.
fn take_mail(stream: &TcpStream, kept: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let say = |text: &str| write!(&mut &*stream, "{text}\r\n");
    let mut mail = String::new();
    say("220 mail.example.org")?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.split([' ', ':', '\r']).next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "DATA" => {
                say("354 go on")?;
                loop {
                    let mut text = String::new();
                    if reader.read_line(&mut text)? == 0 || text == ".\r\n" {
                        break;
                    }
                    mail.push_str(&text);
                }
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut mail));
                say("250 taken")?;
            }
            "QUIT" => return say("221 bye"),
            "MAIL" | "RCPT" => {
                mail.push_str(&line);
                say("250 well")?;
            }
            _ => say("250 well")?,
        }
    }
}
