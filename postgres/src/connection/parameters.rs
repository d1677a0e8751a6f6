//! libpq's connection parameters: from a URI, a service file, the environment; each fills what the one before left open.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ConnectionError;

/// Directories of the system-wide `pg_service.conf`, which libpq has compiled in and distributions place differently.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc/pgsql"];
/// The environment variables that libpq reads, and the parameters that they stand for.
const VARIABLES: [(&str, &str); 20] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGDATABASE", "dbname"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
];
/// Parameters that are carried out.
const UNDERSTOOD: [&str; 15] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "password",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "connect_timeout",
    "service",
    "options",
];
/// Parameters that change neither what is read nor how well the connection is protected. All others are refused:
/// to drop `sslcrl` or `require_auth` in silence would weaken what the operator asked for.
const HARMLESS: [&str; 13] = [
    "application_name",
    "fallback_application_name",
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "gsslib",
    "krbsrvname",
    "sslcompression",
    "sslsni",
    "load_balance_hosts",
];
/// Parameters that protect with some values, and are taken with those only that ask for nothing: of one server, or of TLS,
/// which no session of ours speaks in an older version than 1.2.
const ASKING_NOTHING: [(&str, &[&str]); 3] = [
    ("gssencmode", &["disable", "prefer"]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("target_session_attrs", &["any", "prefer-standby"]),
];

/// The environment of a process as a value, so that everything made from it can be tried with any.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// What the system calls the account that the process runs as, which `USER` need not name.
    account: Option<String>,
}

impl Environment {
    /// That of this process; variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        Self { variables, account: whoami::username().ok() }
    }

    /// The same for another account.
    #[cfg(test)]
    pub(super) fn with_account(self, name: &str) -> Self {
        Self { account: Some(name.to_owned()), ..self }
    }

    /// Who connects where nothing names a user, as in libpq.
    pub(super) fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// A variable's value; an empty one counts as absent, as in libpq.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from)
    }
}

impl std::fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let variables = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self { variables, account: None }
    }
}

/// Connection parameters by libpq's names. Not `Debug`: a service file may hold a password.
#[derive(Clone, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn from_uri(uri: &str) -> Result<Self, ConnectionError> {
        let bad = |why: &str| ConnectionError::Uri { why: why.to_owned() };
        let rest = uri
            .strip_prefix("postgresql://")
            .or_else(|| uri.strip_prefix("postgres://"))
            .ok_or_else(|| bad("it must start with postgresql://"))?;
        let (main, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = main.split_once('/').unwrap_or((main, ""));
        let (user, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        if user.contains(':') {
            return Err(ConnectionError::PasswordInUri);
        }
        let (host, port) = split_address(address)?;
        let mut parameters = Self::default();
        for (name, value) in [("user", user), ("host", host), ("port", port), ("dbname", database)] {
            parameters.put(name, &decode(value)?)?;
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| bad("a parameter has no value"))?;
            if name == "password" {
                return Err(ConnectionError::PasswordInUri);
            }
            parameters.put(&decode(name)?, &decode(value)?)?;
        }
        Ok(parameters)
    }

    pub(super) fn from_service(name: &str, environment: &Environment) -> Result<Self, ConnectionError> {
        let missing = || ConnectionError::NoService { name: name.to_owned() };
        for path in service_files(environment) {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ConnectionError::Read { path, source }),
            };
            if let Some(parameters) = section(&text, name, &path)? {
                return Ok(parameters);
            }
        }
        Err(missing())
    }

    pub(super) fn from_environment(environment: &Environment) -> Result<Self, ConnectionError> {
        let mut parameters = Self::default();
        for (variable, name) in VARIABLES {
            if let Some(value) = environment.get(variable) {
                parameters.put(name, value)?;
            }
        }
        Ok(parameters)
    }

    /// Takes from `defaults` what is still open.
    pub(super) fn or(mut self, defaults: Self) -> Self {
        for (name, value) in defaults.0 {
            self.0.entry(name).or_insert(value);
        }
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn put(&mut self, name: &str, value: &str) -> Result<(), ConnectionError> {
        if value.is_empty() || HARMLESS.contains(&name) {
            return Ok(());
        }
        if let Some((_, taken)) = ASKING_NOTHING.iter().find(|(given, _)| *given == name) {
            return match taken.iter().any(|taken| taken.eq_ignore_ascii_case(value)) {
                true => Ok(()),
                false => Err(ConnectionError::Unsupported { name: format!("{name}={value}") }),
            };
        }
        if !UNDERSTOOD.contains(&name) {
            return Err(ConnectionError::Unsupported { name: name.to_owned() });
        }
        if value.contains('\0') {
            return Err(ConnectionError::Value { name: name.to_owned(), why: "holds a zero byte" });
        }
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

fn split_address(address: &str) -> Result<(&str, &str), ConnectionError> {
    let bad = |why: &str| ConnectionError::Uri { why: why.to_owned() };
    if address.contains(',') {
        return Err(bad("it names several hosts; a backup needs one"));
    }
    if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| bad("the address's bracket is not closed"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if after.is_empty() => Ok((host, "")),
            None => Err(bad("unexpected text after the address's bracket")),
        };
    }
    Ok(address.split_once(':').unwrap_or((address, "")))
}

fn decode(text: &str) -> Result<String, ConnectionError> {
    let bad =
        || ConnectionError::Uri { why: "a %-escape in it is not two hexadecimal digits of UTF-8".to_owned() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(bad)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

fn service_files(environment: &Environment) -> Vec<PathBuf> {
    let own = match environment.get("PGSERVICEFILE") {
        Some(path) => Some(PathBuf::from(path)),
        None => environment.home().map(|home| home.join(".pg_service.conf")),
    };
    let system: Vec<PathBuf> = match environment.get("PGSYSCONFDIR") {
        Some(directory) => vec![PathBuf::from(directory)],
        None => SYSTEM_DIRECTORIES.iter().map(PathBuf::from).collect(),
    };
    own.into_iter().chain(system.into_iter().map(|d| d.join("pg_service.conf"))).collect()
}

/// The section `[name]` of a service file. libpq knows no quoting in it.
fn section(text: &str, name: &str, path: &Path) -> Result<Option<Parameters>, ConnectionError> {
    let mut found: Option<Parameters> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(heading) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = (heading.strip_suffix(']') == Some(name)).then(Parameters::default);
            continue;
        }
        let Some(parameters) = found.as_mut() else { continue };
        let bad = || ConnectionError::ServiceLine { path: path.to_owned(), line: number + 1 };
        let (key, value) = line.split_once('=').ok_or_else(bad)?;
        if key.trim() == "service" {
            return Err(bad());
        }
        parameters.put(key.trim(), value.trim())?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Result<Parameters, String> {
        Parameters::from_uri(text).map_err(|e| e.to_string())
    }

    #[test]
    fn uris_are_taken_apart() {
        let p =
            uri("postgresql://back%40up@db.example.org:5433/my%20app?sslmode=verify-full&application_name=x")
                .unwrap();
        assert_eq!(p.get("user"), Some("back@up"));
        assert_eq!(p.get("host"), Some("db.example.org"));
        assert_eq!(p.get("port"), Some("5433"));
        assert_eq!(p.get("dbname"), Some("my app"));
        assert_eq!(p.get("sslmode"), Some("verify-full"));
        assert_eq!(uri("postgresql://[::1]:5/x").unwrap().get("host"), Some("::1"));
        assert_eq!(uri("postgresql://%2Frun%2Fpg/app").unwrap().get("host"), Some("/run/pg"));
        assert_eq!(uri("postgresql:///app?host=/run/pg").unwrap().get("host"), Some("/run/pg"));
    }

    #[test]
    fn what_a_uri_may_not_hold_is_refused() {
        for (text, part) in [
            ("mysql://x", "must start with"),
            ("postgresql://u:secret@h/d", "password"),
            ("postgresql://h/d?password=secret", "password"),
            ("postgresql://h1,h2/d", "several hosts"),
            ("postgresql://h/d?sslcrl=/x", "sslcrl"),
            ("postgresql://h/d?require_auth=scram-sha-256", "require_auth"),
            ("postgresql://h/%zz", "escape"),
            ("postgresql://h/d?user=a%00b", "zero byte"),
        ] {
            let error = uri(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_users_service_file_comes_before_the_systems() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join(".pg_service.conf"), "# mine\n[app]\nhost = one\nport=1\n[other]\nhost=x\n")
            .unwrap();
        fs::write(directory.path().join("pg_service.conf"), "[app]\nhost=two\n[sys]\nhost=three\n").unwrap();
        let environment: Environment =
            [("HOME", home.to_str().unwrap()), ("PGSYSCONFDIR", directory.path().to_str().unwrap())]
                .into_iter()
                .collect();
        let host = |name| {
            Parameters::from_service(name, &environment).ok().and_then(|p| p.get("host").map(str::to_owned))
        };
        assert_eq!(host("app").as_deref(), Some("one"));
        assert_eq!(host("sys").as_deref(), Some("three"));
        assert_eq!(host("none"), None);
    }
}
