//! Azurite, Microsoft's emulator of Azure Blob Storage.
//!
//! Tried with 3.35: it checks signatures and conditions, and makes a blob of its blocks as Azure does, with one exception: a put
//! if absent is refused where blocks lie that no list names yet. It does not heed where a list is to begin (`startFrom`,
//! Azure/Azurite#2619), so nothing here is evidence for that; and it knows fewer versions of the API than clients, hence
//! `--skipApiVersionCheck`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use crate::binaries;

/// The only account.
pub const ACCOUNT: &str = "house";
/// Its key, which is none of Microsoft's well-known ones: "a key for tests only", in base64.
pub const KEY: &str = "YSBrZXkgZm9yIHRlc3RzIG9ubHk=";
/// The container that is there from the start.
pub const CONTAINER: &str = "backups";
/// Node reads thousands of files first.
const START: Duration = Duration::from_secs(90);

/// The server; it ends when dropped, and with the test however that ends.
#[derive(Debug)]
pub struct Azurite {
    process: Child,
    address: SocketAddr,
}

impl Azurite {
    /// # Panics
    /// When it is not installed, or does not start.
    #[must_use]
    pub fn start() -> Self {
        let folder = binaries::workspace().join("target/testbed/azurite");
        let program = folder.join("node_modules/azurite/dist/src/blob/main.js");
        assert!(program.exists(), "{} is missing; tests/run --setup-only installs it", program.display());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(folder.join("node")).arg(program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]);
        command.args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"]);
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("setpriv");
        let (told, address) = mpsc::channel();
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        // Read to its end: a full pipe would stop the server.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("successfully listens on http://") {
                    // Whoever waited may have given up.
                    let _ = told.send(address.trim().to_owned());
                }
            }
        });
        let address = address.recv_timeout(START).expect("Azurite starts");
        let server = Self { process, address: address.parse().expect("an address") };
        server.make_container();
        server
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// <https://learn.microsoft.com/en-us/rest/api/storageservices/authorize-with-shared-key>
    fn make_container(&self) {
        let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let path = format!("/{ACCOUNT}/{CONTAINER}");
        // Method, eleven headers that are not sent, those of Microsoft, and what it is about.
        let signed = format!(
            "PUT{}x-ms-date:{date}\nx-ms-version:2021-10-04\n/{ACCOUNT}{path}\nrestype:container",
            "\n".repeat(12)
        );
        let key = data_encoding::BASE64.decode(KEY.as_bytes()).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
        mac.update(signed.as_bytes());
        let signature = data_encoding::BASE64.encode(&mac.finalize().into_bytes());
        let mut socket = TcpStream::connect(self.address).expect("Azurite");
        let request = format!(
            "PUT {path}?restype=container HTTP/1.1\r\nHost: {}\r\nx-ms-date: {date}\r\nx-ms-version: 2021-10-04\r\n\
             Authorization: SharedKey {ACCOUNT}:{signature}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        socket.write_all(request.as_bytes()).expect("Azurite");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("Azurite");
        assert_eq!(answer.split_whitespace().nth(1), Some("201"), "{answer}");
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may have ended by itself, which its clients have noticed then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
