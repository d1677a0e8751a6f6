//! Whom alerts are sent to: a small HTTP server and a small mail server, which keep what they get.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::postgres_server::succeed;

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

/// A mail server that takes everything from everybody.
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

/// When a mail server begins to encrypt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// After the client asked for it (RFC 3207).
    Starttls,
    /// At once (RFC 8314).
    Implicit,
}

impl MailServer {
    /// One that does not encrypt.
    ///
    /// # Panics
    /// Where no port is free.
    #[must_use]
    pub fn start() -> Self {
        Self::serving(|stream, mails| converse(&mut { stream }, true, false, mails).map(drop))
    }

    /// One that takes nothing in the clear, with the certificate and key of [`make_certificates`].
    ///
    /// # Panics
    /// Where no port is free, or the files are none of these.
    #[must_use]
    pub fn start_encrypted(folder: &Path, encryption: Encryption) -> Self {
        let chain = CertificateDer::pem_file_iter(folder.join("server.crt")).expect("a certificate");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key);
        let config = Arc::new(config.expect("a certificate with its key"));
        Self::serving(move |mut stream, mails| {
            let is_starttls = encryption == Encryption::Starttls;
            if is_starttls && !converse(&mut stream, true, true, mails)? {
                return Ok(());
            }
            let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
            let mut encrypted = StreamOwned::new(connection, stream);
            converse(&mut encrypted, !is_starttls, false, mails).map(drop)
        })
    }

    fn serving(
        converse: impl Fn(TcpStream, &Mutex<Vec<String>>) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let mails = Arc::new(Mutex::new(Vec::new()));
        let kept = mails.clone();
        let address = serve(move |stream| converse(stream, &kept));
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

/// An authority (`authority.crt`) and what it issued to `localhost` (`server.crt`, `server.key`).
///
/// # Panics
/// Where `openssl` is not there.
pub fn make_certificates(folder: &Path) {
    fs::write(folder.join("extensions"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .expect("a file");
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for arguments in [
        format!("req -x509 {new_key} -days 2 -subj /CN=authority -keyout authority.key -out authority.crt"),
        format!("req {new_key} -subj /CN=localhost -keyout server.key -out server.csr"),
        "x509 -req -in server.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2 -extfile extensions \
         -out server.crt"
            .to_owned(),
    ] {
        let mut openssl = Command::new("openssl");
        succeed(openssl.args(arguments.split_whitespace()).current_dir(folder));
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

/// The server's side of RFC 5321, as far as one message needs it. Answers whether the client wants to encrypt from here on.
fn converse(
    stream: &mut (impl Read + Write),
    greets: bool,
    must_encrypt: bool,
    kept: &Mutex<Vec<String>>,
) -> std::io::Result<bool> {
    let mut mail = String::new();
    if greets {
        say(stream, "220 mail.example.org")?;
    }
    while let Some(line) = read_line(stream)? {
        match line.split([' ', ':', '\r']).next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "EHLO" if must_encrypt => say(stream, "250-well\r\n250 STARTTLS")?,
            "STARTTLS" if must_encrypt => return say(stream, "220 go on").map(|()| true),
            "QUIT" => return say(stream, "221 bye").map(|()| false),
            _ if must_encrypt => say(stream, "530 must issue STARTTLS first")?,
            "DATA" => {
                say(stream, "354 go on")?;
                while let Some(text) = read_line(stream)?.filter(|text| text != ".\r\n") {
                    mail.push_str(&text);
                }
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut mail));
                say(stream, "250 taken")?;
            }
            "MAIL" | "RCPT" => {
                mail.push_str(&line);
                say(stream, "250 well")?;
            }
            _ => say(stream, "250 well")?,
        }
    }
    Ok(false)
}

fn say(stream: &mut impl Write, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{text}\r\n").as_bytes())?;
    stream.flush()
}

/// Byte by byte: what comes behind a line may have to be decrypted first.
fn read_line(stream: &mut impl Read) -> std::io::Result<Option<String>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        line.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}
