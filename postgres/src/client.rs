//! PostgreSQL's own client programs: which are installed, and which of them fits a server.
//!
//! `pg_dump` reads servers of its own major version and older ones, never newer ones. So the rule is: the smallest
//! major version that is not below the server's, and of that one the newest minor version.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where distributions and installers put the programs, `*` standing for any one path element.
const USUAL_DIRECTORIES: [&str; 7] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];
/// First minor version of each major one whose `pg_restore` does not run code found in a hostile archive (CVE-2026-116314).
const FIXED_RESTORE: [(u32, u32); 5] = [(14, 25), (15, 20), (16, 16), (17, 12), (18, 7)];

/// The same of `pg_dump` whose stack no hostile server overwrites by an answer that is too long (CVE-2026-6477).
const FIXED_DUMP: [(u32, u32); 5] = [(14, 23), (15, 18), (16, 14), (17, 10), (18, 4)];

/// A client program of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    PgDump,
    PgDumpall,
    PgRestore,
    Psql,
}

impl Program {
    pub fn file_name(self) -> &'static str {
        match self {
            Self::PgDump => "pg_dump",
            Self::PgDumpall => "pg_dumpall",
            Self::PgRestore => "pg_restore",
            Self::Psql => "psql",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_name())
    }
}

/// A version of PostgreSQL, server or client: `15.14`. Of 9.6.24 it is 9.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// From `server_version_num`: 150014 is 15.14.
    pub fn from_number(number: u32) -> Self {
        let minor = if number < 100_000 { number / 100 % 100 } else { number % 10_000 };
        Self { major: number / 10_000, minor }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = ClientError;

    /// Reads `15.14`, `18beta1`, `pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let stated = text.split_once("(PostgreSQL)").map_or(text, |(_, rest)| rest).trim();
        let mut numbers = stated.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next().and_then(|n| n.parse().ok());
        let after_major = stated.trim_start_matches(|c: char| c.is_ascii_digit());
        let minor =
            if after_major.starts_with('.') { numbers.next().and_then(|n| n.parse().ok()) } else { Some(0) };
        match (major, minor) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(ClientError::Version { given: text.chars().take(80).collect() }),
        }
    }
}

/// Whether this version's `pg_restore` runs code that a hostile archive brings along (CVE-2026-116314).
pub fn is_vulnerable_restore(version: Version) -> bool {
    is_before(&FIXED_RESTORE, version)
}

/// Whether a server that `pg_dump` of this version reads can run code on this machine (CVE-2026-6477).
pub fn is_vulnerable_dump(version: Version) -> bool {
    is_before(&FIXED_DUMP, version)
}

/// Versions before 14 got no fix.
fn is_before(fixed: &[(u32, u32); 5], version: Version) -> bool {
    match fixed.iter().find(|(major, _)| *major == version.major) {
        Some((_, minor)) => version.minor < *minor,
        None => version.major < fixed[0].0,
    }
}

/// An installed client program that answered to `--version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub program: Program,
    pub path: PathBuf,
    pub version: Version,
}

impl Client {
    /// Asks the program at `path` for its version.
    pub fn at(program: Program, path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Run { path: path.to_owned(), source };
        let answer = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(failed)?;
        let version = String::from_utf8_lossy(&answer.stdout).parse()?;
        Ok(Self { program, path: path.to_owned(), version })
    }
}

/// The directories in which client programs are looked for.
#[derive(Debug, Clone)]
pub struct ClientTools {
    /// Named by the policy: a fitting program here wins over any elsewhere.
    preferred: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

impl ClientTools {
    /// `preferred` come from the policy, `path` is the value of `PATH`. Runs nothing yet.
    pub fn new(preferred: &[PathBuf], path: Option<&OsStr>) -> Self {
        let on_path = path.map(std::env::split_paths).into_iter().flatten().filter(|p| p.is_absolute());
        let others = on_path.chain(USUAL_DIRECTORIES.iter().flat_map(|pattern| expand(pattern))).collect();
        Self { preferred: preferred.to_vec(), others }
    }

    /// The program to use with a server of `server_major`. Runs each candidate's `--version`: not for an async thread.
    pub fn find(&self, program: Program, server_major: u32) -> Result<Client, ClientError> {
        let preferred = installed(program, &self.preferred);
        if let Some(client) = choose(&preferred, server_major) {
            return Ok(client.clone());
        }
        let others = installed(program, &self.others);
        choose(&others, server_major).cloned().ok_or_else(|| ClientError::NoneFits {
            program,
            server_major,
            found: preferred.into_iter().chain(others).collect(),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no {program} of major version {server_major} or newer is installed{}", describe(found))]
    NoneFits { program: Program, server_major: u32, found: Vec<Client> },
    #[error("cannot run {path}", path = path.display())]
    Run { path: PathBuf, source: std::io::Error },
    #[error("\"{given}\" is not a PostgreSQL version")]
    Version { given: String },
}

impl ClientError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoneFits { server_major, .. } => Some(format!(
                "install postgresql-client-{server_major}, or name its directory in [clients] directories"
            )),
            _ => None,
        }
    }
}

fn describe(found: &[Client]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let list: Vec<String> = found.iter().map(|c| format!("{} is {}", c.path.display(), c.version)).collect();
    format!(" ({})", list.join(", "))
}

fn choose(clients: &[Client], server_major: u32) -> Option<&Client> {
    let fitting = clients.iter().filter(|c| c.version.major >= server_major);
    // `min_by_key` keeps the first of equals: the order of the directories decides between them.
    fitting.min_by_key(|c| (c.version.major, std::cmp::Reverse(c.version.minor)))
}

fn installed(program: Program, directories: &[PathBuf]) -> Vec<Client> {
    let mut seen = HashSet::new();
    let candidates = directories.iter().map(|d| d.join(program.file_name()));
    candidates
        .filter(|path| {
            let Ok(real) = path.canonicalize() else { return false };
            // Debian's wrapper picks a version by rules of its own, each time it is called.
            real.file_name() != Some(OsStr::new("pg_wrapper")) && seen.insert(real)
        })
        .filter_map(|path| Client::at(program, &path).ok())
        .collect()
}

/// The directories that match a pattern with at most one `*`, newest-looking last.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (parent, stem) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with(stem))
        .collect();
    names.sort();
    names.into_iter().map(|name| PathBuf::from(format!("{parent}/{name}{after}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(directory: &str, major: u32, minor: u32) -> Client {
        let path = Path::new(directory).join("pg_dump");
        Client { program: Program::PgDump, path, version: Version { major, minor } }
    }

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        let read = |text: &str| text.parse::<Version>().map(|v| v.to_string()).ok();
        assert_eq!(read("pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n").as_deref(), Some("15.14"));
        assert_eq!(read("pg_dump (PostgreSQL) 18beta2").as_deref(), Some("18.0"));
        assert_eq!(read("psql (PostgreSQL) 19devel").as_deref(), Some("19.0"));
        assert_eq!(read("pg_dump (PostgreSQL) 9.6.24").as_deref(), Some("9.6"));
        assert_eq!(read("bash 5.2").as_deref(), None);
        assert_eq!(Version::from_number(150_014).to_string(), "15.14");
        assert_eq!(Version::from_number(90_624).to_string(), "9.6");
    }

    #[test]
    fn the_smallest_sufficient_major_and_its_newest_minor_are_chosen() {
        let all = [
            client("/a", 17, 2),
            client("/b", 15, 3),
            client("/c", 16, 1),
            client("/d", 16, 4),
            client("/e", 16, 4),
        ];
        assert_eq!(choose(&all, 16).unwrap().path, Path::new("/d/pg_dump"));
        assert_eq!(choose(&all, 13).unwrap().version.major, 15);
        assert!(choose(&all, 18).is_none());
    }

    #[test]
    fn a_missing_client_says_what_there_is() {
        let found = vec![client("/b", 15, 3)];
        let error = ClientError::NoneFits { program: Program::PgDump, server_major: 17, found };
        assert_eq!(
            error.to_string(),
            "no pg_dump of major version 17 or newer is installed (/b/pg_dump is 15.3)"
        );
        assert!(error.hint().unwrap().contains("postgresql-client-17"));
    }

    #[test]
    fn vulnerable_restores_are_known() {
        for (major, minor, vulnerable) in [
            (13, 23, true),
            (14, 24, true),
            (14, 25, false),
            (15, 19, true),
            (15, 20, false),
            (16, 15, true),
            (16, 16, false),
            (17, 11, true),
            (17, 12, false),
            (18, 6, true),
            (18, 7, false),
            (19, 0, false),
        ] {
            assert_eq!(is_vulnerable_restore(Version { major, minor }), vulnerable, "{major}.{minor}");
        }
    }

    #[test]
    fn vulnerable_dumps_are_known() {
        for (major, minor, vulnerable) in [
            (13, 23, true),
            (14, 22, true),
            (14, 23, false),
            (15, 17, true),
            (15, 18, false),
            (16, 13, true),
            (16, 14, false),
            (17, 9, true),
            (17, 10, false),
            (18, 3, true),
            (18, 4, false),
            (19, 0, false),
        ] {
            assert_eq!(is_vulnerable_dump(Version { major, minor }), vulnerable, "{major}.{minor}");
        }
    }

    #[test]
    fn an_installed_client_is_found() {
        let tools = ClientTools::new(&[], None);
        let client = tools.find(Program::PgDump, 15).expect("PostgreSQL's client programs are installed");
        assert!(client.version.major >= 15);
    }
}
