//! moto, the S3 server that asks who is there: users, each with a policy of `packaging/cloud`, and nobody may do more.
//!
//! It checks signatures, actions and resources, and knows no conditions: those are left out here.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::binaries;
use crate::postgres_server::succeed;

/// moto is a Python program: its start takes a second or two, and more on a machine under load.
const START: Duration = Duration::from_secs(60);
/// Makes the bucket and the users, and from then on has everything checked.
const SET_UP: &str = include_str!("moto_users.py");

/// The server; it stops when dropped.
#[derive(Debug)]
pub struct Moto {
    address: SocketAddr,
    process: Child,
    users: serde_json::Value,
}

impl Moto {
    /// Starts it with one user for each policy in the folder, named as its file.
    ///
    /// # Panics
    /// When it is not installed, or does not start.
    #[must_use]
    pub fn with_users(policies: &Path, bucket: &str, prefix: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut server = Command::new(program("moto_server"));
        server.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("moto_server");
        let mut moto = Self { address, process, users: serde_json::Value::Null };
        moto.wait();
        let mut set_up = Command::new(program("python"));
        set_up.args(["-c", SET_UP, &moto.url()]).arg(policies).args([bucket, prefix]);
        let output = succeed(&mut set_up);
        moto.users = serde_json::from_slice(&output.stdout).expect("users as JSON");
        moto
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs `command` as a user.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn sign_in<'a>(&self, command: &'a mut Command, user: &str) -> &'a mut Command {
        let key = |name: &str| {
            self.users[user][name].as_str().unwrap_or_else(|| panic!("no user {user}")).to_owned()
        };
        command.env("AWS_ACCESS_KEY_ID", key("id")).env("AWS_SECRET_ACCESS_KEY", key("secret"))
    }

    fn wait(&mut self) {
        let since = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(since.elapsed() < START, "moto_server does not answer");
            if let Some(status) = self.process.try_wait().expect("its status") {
                panic!("moto_server ended: {status}");
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let program = binaries::workspace().join("target/testbed/moto/bin").join(name);
    assert!(program.exists(), "{} is missing; tests/run --setup-only installs it", program.display());
    program
}
