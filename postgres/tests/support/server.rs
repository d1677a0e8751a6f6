//! A server for one test: private, on a Unix socket, gone afterwards.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// PostgreSQL's own account, which stands in for root, as whom no server runs.
const ACCOUNT: &str = "postgres";
/// What makes rows comparable between servers.
const PINS: &str = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3";

pub(crate) struct Server {
    bin: PathBuf,
    directory: TempDir,
}

/// The programs' directories to test with: those of the system, and those named in `PGPROOF_TEST_BIN_DIRS`.
pub(crate) fn bin_dirs() -> Vec<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut dirs: Vec<PathBuf> = installed.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    dirs.extend(std::env::var_os("PGPROOF_TEST_BIN_DIRS").iter().flat_map(std::env::split_paths));
    dirs.retain(|dir| dir.join("initdb").exists());
    assert!(!dirs.is_empty(), "no PostgreSQL server programs: install them or set PGPROOF_TEST_BIN_DIRS");
    dirs
}

impl Server {
    pub(crate) fn start(bin: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("pgp-t").tempdir_in("/tmp").expect("a directory");
        if is_root() {
            let status = Command::new("chown").arg(ACCOUNT).arg(directory.path()).status().expect("chown");
            assert!(status.success());
        }
        let server = Self { bin: bin.to_owned(), directory };
        let data = server.path("data");
        run(server.program("initdb").args(["-D", &data, "-U", ACCOUNT, "-A", "trust", "--no-sync"]).args([
            "--locale=C",
            "-E",
            "UTF8",
        ]));
        let options =
            format!("-c listen_addresses= -c unix_socket_directories={} -c fsync=off", server.path(""));
        run(server.program("pg_ctl").args([
            "-D",
            &data,
            "-w",
            "-l",
            &server.path("log"),
            "-o",
            &options,
            "start",
        ]));
        server
    }

    /// One of PostgreSQL's programs, connected to this server.
    pub(crate) fn program(&self, name: &str) -> Command {
        let program = self.bin.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let host = self.directory.path();
        command.env("PGHOST", host).env("PGUSER", ACCOUNT).env("PGOPTIONS", PINS).current_dir("/tmp");
        command.stdin(Stdio::null());
        command
    }

    /// What one or more statements print.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> Vec<u8> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statements]);
        run(&mut psql)
    }

    /// Runs a program with `input` on its standard input.
    pub(crate) fn feed(&self, mut command: Command, input: &[u8]) {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("a program");
        // A program that stops early says why by its status.
        let _ = child.stdin.take().expect("its input").write_all(input);
        assert!(child.wait().expect("its status").success(), "{command:?}");
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Writes a file that the server's account can read.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).expect("a file");
        self.path(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.path("data");
        let _ = self.program("pg_ctl").args(["-D", &data, "-m", "immediate", "-w", "stop"]).output();
    }
}

pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|myself| myself.uid() == 0)
}
