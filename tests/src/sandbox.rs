//! One test's whole world: a PostgreSQL server, a repository, keys made by the stock tools, a policy file, and the
//! programs run in it as an operator runs them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::binaries;
use crate::postgres_server::{PostgresServer, succeed};
use crate::postgres_versions::PostgresVersion;
use crate::s3_proxy::S3Proxy;
use crate::s3_server::{self, S3Server};

/// The name of the policy's only source; it is also the name of its database.
pub const SOURCE: &str = "app";

/// The prefix in the bucket.
pub const PREFIX: &str = "team/prod";

/// Where backups go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryKind {
    /// The S3 server behind the proxy.
    S3,
    Directory,
}

/// The world; everything is gone when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    // Dropped in this order: whoever uses the server goes before it.
    pub proxy: S3Proxy,
    pub s3: S3Server,
    pub server: PostgresServer,
    kind: RepositoryKind,
    clients: PathBuf,
    connection: String,
    retention: String,
    store_lines: String,
    further: String,
    folder: tempfile::TempDir,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Sandbox {
    /// Starts everything. The source's database is not made yet.
    #[must_use]
    pub fn new(version: PostgresVersion, kind: RepositoryKind) -> Self {
        let server = PostgresServer::start(version);
        let s3 = S3Server::start();
        let proxy = S3Proxy::start(s3.address());
        let folder = tempfile::Builder::new().prefix("pgproof-test.").tempdir().expect("a temporary folder");
        let clients = server.programs().to_owned();
        let connection = server.uri(SOURCE);
        let retention = "{ daily = 30 }".to_owned();
        let (store_lines, further) = (String::new(), String::new());
        let sandbox =
            Self { proxy, s3, server, kind, clients, connection, retention, store_lines, further, folder };
        sandbox.make_keys();
        sandbox.write_policy();
        sandbox
    }

    /// The same with PostgreSQL 15, S3 and a small database of two tables, `orders` with 20,000 rows and `notes`.
    #[must_use]
    pub fn small() -> Self {
        Self::small_in(RepositoryKind::S3)
    }

    /// The same with another repository.
    #[must_use]
    pub fn small_in(kind: RepositoryKind) -> Self {
        let sandbox = Self::new(PostgresVersion::V15, kind);
        sandbox.server.create_database(SOURCE);
        sandbox.server.psql(
            SOURCE,
            "create table orders (id int primary key, body text not null); \
             insert into orders select n, repeat(md5(n::text), 20) from generate_series(1, 20000) n; \
             create table notes (id int primary key, order_id int references orders, body text); \
             insert into notes select n, n, 'note ' || n from generate_series(1, 500) n; analyze",
        );
        sandbox
    }

    /// The same with a further table, `bulk`, of so many megabytes that hardly compress, so that its upload takes parts.
    #[must_use]
    pub fn bulky(megabytes: u32) -> Self {
        let sandbox = Self::small();
        sandbox.server.psql(
            SOURCE,
            &format!(
                "create table bulk (id int primary key, body text); insert into bulk \
                 select n, (select string_agg(md5(n::text || '/' || m), '') from generate_series(1, 32) m) \
                 from generate_series(1, {megabytes} * 1000) n; analyze bulk"
            ),
        );
        sandbox
    }

    /// Another folder of client programs, for instance one with a `pg_dump` that fails.
    #[must_use]
    pub fn with_clients(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.clients);
        self.write_policy();
        self
    }

    /// Another connection to the source.
    #[must_use]
    pub fn with_connection(mut self, uri: &str) -> Self {
        uri.clone_into(&mut self.connection);
        self.write_policy();
        self
    }

    /// Another trusted signer than the one that signs.
    #[must_use]
    pub fn trusting_only_a_stranger(self) -> Self {
        let public = std::fs::read_to_string(self.path("foreign_signing_key.pub")).expect("a public key");
        std::fs::write(self.path("trusted_signers"), format!("stranger@example.org {public}"))
            .expect("own file");
        self
    }

    /// Another identity than any that the backups are for.
    #[must_use]
    pub fn with_foreign_identity(self) -> Self {
        std::fs::copy(self.path("foreign-identity.txt"), self.path("identity.txt")).expect("own file");
        self
    }

    /// Another rule of retention, as TOML.
    #[must_use]
    pub fn with_retention(mut self, rule: &str) -> Self {
        rule.clone_into(&mut self.retention);
        self.write_policy();
        self
    }

    /// Further lines of the policy's section of the repository.
    #[must_use]
    pub fn with_store_lines(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.store_lines);
        self.write_policy();
        self
    }

    /// Further lines of the policy, at its end: the first ones still belong to the source's section.
    #[must_use]
    pub fn with_policy_lines(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.further);
        self.write_policy();
        self
    }

    /// A role that owns the source's database and that the server lets in with this password only.
    #[must_use]
    pub fn with_password_for(self, role: &str, password: &str) -> Self {
        self.server.create_role_with_password(role, password);
        self.server.psql("postgres", &format!("alter database {SOURCE} owner to {role}"));
        self.server.psql(SOURCE, &format!("grant pg_read_all_data to {role}"));
        self
    }

    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The policy of a host that may do everything.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.path("pgproof.toml")
    }

    /// The policy of a host that only backs up: it holds no identity.
    #[must_use]
    pub fn host_policy(&self) -> PathBuf {
        self.path("host.toml")
    }

    /// Where the repository's objects lie as files.
    #[must_use]
    pub fn repository_folder(&self) -> PathBuf {
        match self.kind {
            RepositoryKind::S3 => self.s3.bucket_folder().join(PREFIX),
            RepositoryKind::Directory => self.path("repository"),
        }
    }

    /// Every object of the repository, by its path below the prefix.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        let root = self.repository_folder();
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(name) = path.strip_prefix(&root) {
                    found.push(name.to_string_lossy().into_owned());
                }
            }
        }
        found.sort();
        found
    }

    /// The paths of all objects whose name ends so.
    #[must_use]
    pub fn objects_named(&self, ending: &str) -> Vec<PathBuf> {
        let root = self.repository_folder();
        self.objects().iter().filter(|name| name.ends_with(ending)).map(|name| root.join(name)).collect()
    }

    /// The path of the only object whose name ends so.
    ///
    /// # Panics
    /// When there is none or more than one.
    #[must_use]
    pub fn object(&self, ending: &str) -> PathBuf {
        let mut named = self.objects_named(ending);
        assert_eq!(named.len(), 1, "{ending} among {:#?}", self.objects());
        named.remove(0)
    }

    /// Every object, and every page and file of the exported reports, that holds this text.
    ///
    /// # Panics
    /// When the reports cannot be exported.
    #[must_use]
    pub fn places_of(&self, text: &str) -> Vec<String> {
        let exported = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let to = exported.path().display().to_string();
        let outcome = self.verify(&["report", "export", SOURCE, "--to", &to]);
        assert!(outcome.succeeded(), "{}", outcome.stderr);
        let pages = std::fs::read_dir(exported.path()).expect("own folder").flatten();
        let pages: Vec<PathBuf> = pages.map(|entry| entry.path()).collect();
        assert!(!pages.is_empty(), "nothing was exported");
        let objects = self.objects().into_iter().map(|name| self.repository_folder().join(name));
        let holds = |path: &PathBuf| {
            let bytes = std::fs::read(path).expect("an object or a page");
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        pages.into_iter().chain(objects).filter(holds).map(|path| path.display().to_string()).collect()
    }

    /// `pgproof` with these arguments, ready to run.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.program(binaries::pgproof(), &self.policy(), arguments)
    }

    /// Runs `pgproof`.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(arguments))
    }

    /// Runs `pgproof`, which must succeed.
    ///
    /// # Panics
    /// With everything it said, when it fails.
    pub fn run_well(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "pgproof {arguments:?}\n{}\n{}", outcome.text(), outcome.stderr);
        outcome
    }

    /// Runs `pgproof` as a host that holds no identity.
    pub fn run_as_host(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.program(binaries::pgproof(), &self.host_policy(), arguments))
    }

    /// `pgproof-verifier` with these arguments, ready to run.
    #[must_use]
    pub fn verifier_command(&self, arguments: &[&str]) -> Command {
        self.program(binaries::pgproof_verifier(), &self.policy(), arguments)
    }

    /// Runs `pgproof-verifier`.
    pub fn verify(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(&mut self.verifier_command(arguments))
    }

    /// Drills the source and gives the report, whatever its verdict.
    ///
    /// # Panics
    /// When there is no report.
    pub fn drill(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["drill", SOURCE, "--json"];
        all.extend(arguments);
        self.verify(&all).json()
    }

    fn program(&self, program: &Path, policy: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--policy")
            .arg(policy)
            .args(arguments)
            .stdin(Stdio::null())
            .current_dir(self.folder.path());
        for (name, _) in std::env::vars_os() {
            if ["PG", "AWS_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.folder.path())
            .env("AWS_ACCESS_KEY_ID", s3_server::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", s3_server::SECRET_KEY)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_COLOR", "1");
        command
    }

    /// The backups that count, oldest first, as `pgproof list --json` tells them.
    ///
    /// # Panics
    /// When the list fails for any other reason than that there is no repository yet.
    #[must_use]
    pub fn good_backups(&self) -> Vec<serde_json::Value> {
        const NOTHING_FOUND: i32 = 3;
        let outcome = self.run(&["list", SOURCE, "--json"]);
        if outcome.code == Some(NOTHING_FOUND) {
            return Vec::new();
        }
        assert!(outcome.succeeded(), "{}", outcome.stderr);
        outcome.good_backups()
    }

    /// The ids of [`Self::good_backups`].
    #[must_use]
    pub fn good_ids(&self) -> Vec<String> {
        let id = |line: &serde_json::Value| line["id"].as_str().expect("an id").to_owned();
        self.good_backups().iter().map(id).collect()
    }

    /// Two age identities and one signing key, by `age-keygen` and `ssh-keygen`.
    fn make_keys(&self) {
        for name in ["identity.txt", "second-identity.txt", "foreign-identity.txt"] {
            succeed(Command::new("age-keygen").arg("-o").arg(self.path(name)));
        }
        for name in ["signing_key", "foreign_signing_key"] {
            let mut keygen = Command::new("ssh-keygen");
            succeed(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "host", "-f"]).arg(self.path(name)));
        }
        let public = std::fs::read_to_string(self.path("signing_key.pub")).expect("a public key");
        let trusted = format!("backup-host@example.org {public}");
        std::fs::write(self.path("trusted_signers"), trusted).expect("trusted signers");
    }

    /// The line that encrypts to an identity file.
    fn recipient(&self, identity: &str) -> String {
        let output = succeed(Command::new("age-keygen").arg("-y").arg(self.path(identity)));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn write_policy(&self) {
        let identity = self.path("identity.txt");
        let full = self.policy_text(&format!("identity_files = [{:?}]\n", identity.display().to_string()));
        write_private(&self.policy(), &full);
        write_private(&self.host_policy(), &self.policy_text(""));
    }

    fn policy_text(&self, identity: &str) -> String {
        let mut text = String::from("[repository]\n");
        let written = match self.kind {
            RepositoryKind::S3 => write!(
                text,
                "location = \"s3://{}/{PREFIX}\"\nregion = \"us-east-1\"\nendpoint = \"{}\"\npath_style = true\n",
                s3_server::BUCKET,
                self.proxy.url()
            ),
            RepositoryKind::Directory => {
                writeln!(text, "location = \"file://{}\"", self.path("repository").display())
            }
        };
        let keys = write!(
            text,
            "{}\n[keys]\nrecipients = [\"{}\", \"{}\"]\n{identity}signing_key = \"{}\"\ntrusted_signers = \"{}\"\n\
             \n[clients]\ndirectories = [\"{}\"]\n\
             \n[sources.{SOURCE}]\nkind = \"postgres\"\nconnection = \"{}\"\nretention = {}\n{}\n",
            self.store_lines,
            self.recipient("identity.txt"),
            self.recipient("second-identity.txt"),
            self.path("signing_key").display(),
            self.path("trusted_signers").display(),
            self.clients.display(),
            self.connection,
            self.retention,
            self.further,
        );
        written.and(keys).expect("a string takes all");
        text
    }
}

impl Outcome {
    /// Of a command that is run to its end.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        output.into()
    }

    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is something else.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON: {error}\n{}\n{}", self.text(), self.stderr))
    }

    /// The backups that count, oldest first, where this is what `pgproof list --json` told.
    ///
    /// # Panics
    /// When it is something else.
    #[must_use]
    pub fn good_backups(&self) -> Vec<serde_json::Value> {
        let lines = self.json();
        let lines = lines.as_array().expect("a list of backups");
        let mut good: Vec<_> = lines.iter().filter(|line| line["standing"] == "good").cloned().collect();
        // Ids of one second sort by chance.
        good.sort_by_key(|line| line["snapshot_at"].to_string());
        good
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("own file");
}
