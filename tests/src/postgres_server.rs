//! A PostgreSQL server for one test: a fresh cluster in a temporary folder, reachable by its socket only.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::postgres_versions::PostgresVersion;

/// PostgreSQL refuses to run as root, so root's servers run as the user of Debian's package.
pub const SERVER_USER: &str = "postgres";

/// The server; stopped and removed when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    version: PostgresVersion,
    programs: PathBuf,
    /// What the server's programs are held to.
    file_bytes_max: Option<u64>,
    folder: tempfile::TempDir,
}

impl PostgresServer {
    /// # Panics
    /// When the version is missing or the server does not start.
    #[must_use]
    pub fn start(version: PostgresVersion) -> Self {
        let server = Self::in_folder(version);
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

    /// A hot standby, which follows its primary.
    ///
    /// # Panics
    /// When it cannot be made or does not start.
    #[must_use]
    pub fn standby_of(primary: &Self) -> Self {
        let standby = Self::in_folder(primary.version);
        standby.as_server("pg_basebackup", |command| {
            command.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--username=postgres"]);
            command.arg("--host").arg(primary.host())
        });
        standby.start_again();
        standby
    }

    fn in_folder(version: PostgresVersion) -> Self {
        // Directly below /tmp: a socket's path may have 107 bytes at most.
        let folder =
            tempfile::Builder::new().prefix("pgproof-pg.").tempdir_in("/tmp").expect("a temporary folder");
        let server = Self { version, programs: version.programs(), file_bytes_max: None, folder };
        if is_root() {
            succeed(Command::new("chown").arg(SERVER_USER).arg(server.folder.path()));
        }
        server
    }

    /// The folder of the server's data.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
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

    /// A role that is let in with its password only, whatever the others are let in with.
    ///
    /// # Panics
    /// When the server does not take it.
    pub fn create_role_with_password(&self, role: &str, password: &str) {
        // No password is on an argument list here either: a test looks at them all.
        let script = self.folder.path().with_extension("sql");
        std::fs::write(&script, format!("create role {role} login password '{password}'")).expect("a script");
        self.psql_file("postgres", &script);
        std::fs::remove_file(&script).expect("own file");
        let path = self.folder.path().join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&path).expect("the server's rules");
        std::fs::write(&path, format!("local all {role} scram-sha-256\n{rules}"))
            .expect("the server's rules");
        // A reload tells nobody when it is done.
        self.stop();
        self.start_again();
    }

    /// From now on no file of the server grows beyond this: to the server that is a full disk.
    pub fn limit_files(&mut self, bytes: u64) {
        self.file_bytes_max = Some(bytes);
        // What is there may be larger, and is not to be written again.
        self.psql("postgres", "checkpoint");
        self.stop();
        self.start_again();
    }

    #[must_use]
    pub fn has_database(&self, name: &str) -> bool {
        !self.psql("postgres", &format!("select 1 from pg_database where datname = '{name}'")).is_empty()
    }

    fn as_server(&self, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
        let file_bytes_max =
            self.file_bytes_max.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let mut command = Command::new("prlimit");
        command.args([&format!("--fsize={file_bytes_max}:"), "--"]);
        if is_root() {
            let user = [format!("--reuid={SERVER_USER}"), format!("--regid={SERVER_USER}")];
            command.arg("setpriv").args(user).args(["--init-groups", "--reset-env", "--"]);
        }
        command.arg(self.programs.join(program));
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

/// Whether this process may do everything.
#[must_use]
pub fn is_root() -> bool {
    // The owner of our own /proc entry is who we are, without a system call of our own.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(OsStr::new("/proc/self")).is_ok_and(|this| this.uid() == 0)
}
