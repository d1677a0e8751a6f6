//! A PostgreSQL server for one test: a fresh cluster in a temporary folder, reachable by its socket only.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::postgres_versions::PostgresVersion;

/// PostgreSQL refuses to run as root, so root's servers run as the user of Debian's package.
const SERVER_USER: &str = "postgres";

/// The server; stopped and removed when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    version: PostgresVersion,
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl PostgresServer {
    /// # Panics
    /// When the version is missing or the server does not start.
    #[must_use]
    pub fn start(version: PostgresVersion) -> Self {
        // Directly below /tmp: a socket's path may have 107 bytes at most.
        let folder =
            tempfile::Builder::new().prefix("pgproof-pg.").tempdir_in("/tmp").expect("a temporary folder");
        let server = Self { version, programs: version.programs(), folder };
        if is_root() {
            succeed(Command::new("chown").arg(SERVER_USER).arg(server.folder.path()));
        }
        server.as_server("initdb", |command| {
            command.args([
                "--username=postgres",
                "--auth=trust",
                "--no-sync",
                "--locale=C.UTF-8",
                "--encoding=UTF8",
            ])
        });
        server.start_again();
        server
    }

    #[must_use]
    pub fn version(&self) -> PostgresVersion {
        self.version
    }

    /// The folder of this version's programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The folder of the socket, as `PGHOST` takes it.
    #[must_use]
    pub fn host(&self) -> &Path {
        self.folder.path()
    }

    /// The connection to a database as its superuser.
    #[must_use]
    pub fn uri(&self, database: &str) -> String {
        self.uri_as("postgres", database)
    }

    #[must_use]
    pub fn uri_as(&self, user: &str, database: &str) -> String {
        format!("postgresql:///{database}?host={}&user={user}", self.host().display())
    }

    /// Ends the server at once, as a crash does.
    pub fn stop(&self) {
        self.as_server("pg_ctl", |command| command.args(["-m", "immediate", "-w", "stop"]));
    }

    pub fn start_again(&self) {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c full_page_writes=off -c wal_level=logical \
             -c max_connections=60",
            self.host().display()
        );
        let log = self.folder.path().join("log");
        self.as_server("pg_ctl", |command| command.args(["-w", "-o", &options, "-l"]).arg(log).arg("start"));
    }

    /// A client program of this version, pointed at this server.
    #[must_use]
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env("PGHOST", self.host())
            .env("PGUSER", "postgres")
            .env_remove("PGPORT")
            .stdin(Stdio::null());
        command
    }

    /// psql, which would otherwise speak the database's encoding.
    fn psql_client(&self) -> Command {
        let mut command = self.client("psql");
        command.env("PGCLIENTENCODING", "UTF8");
        command
    }

    pub fn create_database(&self, name: &str) {
        self.psql("postgres", &format!("create database \"{name}\" template template0"));
    }

    /// Runs SQL as the superuser and returns what it prints, one row a line, columns split by `|`.
    ///
    /// # Panics
    /// When the SQL fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut command = self.psql_client();
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        text(&succeed(&mut command))
    }

    /// Runs a file of SQL and psql's own commands.
    ///
    /// # Panics
    /// When it fails.
    pub fn psql_file(&self, database: &str, file: &Path) -> String {
        let mut command = self.psql_client();
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f"]).arg(file);
        text(&succeed(&mut command))
    }

    #[must_use]
    pub fn has_database(&self, name: &str) -> bool {
        !self.psql("postgres", &format!("select 1 from pg_database where datname = '{name}'")).is_empty()
    }

    fn as_server(&self, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
        let program = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            let user = [format!("--reuid={SERVER_USER}"), format!("--regid={SERVER_USER}")];
            command.args(user).args(["--init-groups", "--reset-env", "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        command.current_dir("/").arg("-D").arg(self.folder.path().join("data")).stdin(Stdio::null());
        arguments(&mut command);
        // The started server keeps what it was given open, so that a pipe for its output would never end.
        let output = self.folder.path().with_extension("output");
        let file = std::fs::File::create(&output).expect("a file for output");
        let status = command
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .status()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let told = std::fs::read_to_string(&output).unwrap_or_default();
        let _ = std::fs::remove_file(&output);
        assert!(status.success() || std::thread::panicking(), "{command:?}: {status}\n{told}");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if self.folder.path().join("data/postmaster.pid").exists() {
            self.stop();
        }
    }
}

/// Runs a command that must succeed.
///
/// # Panics
/// With everything it said, when it does not.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn is_root() -> bool {
    // The owner of our own /proc entry is who we are, without a system call of our own.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(OsStr::new("/proc/self")).is_ok_and(|this| this.uid() == 0)
}
