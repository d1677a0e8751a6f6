//! The environment of PostgreSQL's client programs: everything they need to connect, and nothing else of ours.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use secrecy::{ExposeSecret, SecretString};

use super::passwords::line_for_all;
use super::{APPLICATION_NAME, ConnectionError, ConnectionSpec, Host, value};
use crate::private_dir::{self, PrivateDir};

/// First part of the names of the directories in which passwords for client programs lie.
const DIRECTORY_KIND: &str = "pgproof-child";
/// Where they are made: in memory where the system has such a place, so that no password reaches a disk.
const IN_MEMORY: &str = "/dev/shm";

/// The whole environment of a client program; while it lives, so does the private file with the password.
#[derive(Debug)]
pub struct ChildEnvironment {
    variables: BTreeMap<&'static str, OsString>,
    _private: PrivateDir,
}

impl ChildEnvironment {
    /// Gives the program this environment and no other variable. It can read the password as long as `self` lives.
    pub fn apply(&self, command: &mut Command) {
        command.env_clear().envs(&self.variables);
    }

    /// What is set. Holds no secret itself.
    pub fn variables(&self) -> &BTreeMap<&'static str, OsString> {
        &self.variables
    }
}

/// Removes the password files of processes that were killed before they could. Returns how many there were.
pub fn sweep_abandoned_secrets() -> io::Result<usize> {
    let own = rustix::process::geteuid().as_raw();
    let found = private_dir::abandoned(&directory_root(), DIRECTORY_KIND, &[own])?;
    for path in &found {
        fs::remove_dir_all(path)?;
    }
    Ok(found.len())
}

pub(super) fn prepare(spec: &ConnectionSpec) -> Result<ChildEnvironment, ConnectionError> {
    let private =
        PrivateDir::create(&directory_root(), DIRECTORY_KIND).map_err(ConnectionError::PrivateDirectory)?;
    // Always ours, even without a password: else the program would look into ~/.pgpass for one.
    let password_file = private.path().join("pgpass");
    write_password(&password_file, spec.password.as_ref())?;
    let mut variables: BTreeMap<&'static str, OsString> = BTreeMap::new();
    for name in super::INHERITED {
        if let Some((_, value)) = spec.inherited.iter().find(|(given, _)| given == name) {
            variables.insert(name, value.into());
        }
    }
    // Messages are parsed: they must come in one language. UTF-8 is how names come back from every database.
    for (name, value) in
        [("LANG", "C"), ("LC_ALL", "C"), ("PGCLIENTENCODING", "UTF8"), ("PGAPPNAME", APPLICATION_NAME)]
    {
        variables.insert(name, value.into());
    }
    variables.insert("PGPORT", spec.port.to_string().into());
    variables.insert("PGUSER", spec.user.clone().into());
    variables.insert("PGDATABASE", spec.database.clone().into());
    variables.insert("PGPASSFILE", password_file.into());
    variables.insert("PGOPTIONS", spec.options().into());
    variables.insert("PGCONNECT_TIMEOUT", spec.connect_timeout.as_secs().max(1).to_string().into());
    put_host(&mut variables, &spec.host);
    put_tls(&mut variables, spec);
    Ok(ChildEnvironment { variables, _private: private })
}

fn put_host(variables: &mut BTreeMap<&'static str, OsString>, host: &Host) {
    match host {
        Host::Socket(directory) => {
            variables.insert("PGHOST", directory.clone().into());
        }
        Host::Tcp { name, address } => {
            variables.insert("PGHOST", name.into());
            if let Some(address) = address {
                variables.insert("PGHOSTADDR", address.to_string().into());
            }
        }
    }
}

fn put_tls(variables: &mut BTreeMap<&'static str, OsString>, spec: &ConnectionSpec) {
    variables.insert("PGSSLMODE", spec.tls.mode.as_str().into());
    if let Some(path) = spec.tls.root_certificate_for_child() {
        variables.insert("PGSSLROOTCERT", path.into());
    }
    if let Some((certificate, key)) = &spec.tls.own {
        variables.insert("PGSSLCERT", certificate.clone().into());
        variables.insert("PGSSLKEY", key.clone().into());
    }
    if spec.tls.require_channel_binding {
        variables.insert("PGCHANNELBINDING", "require".into());
    }
}

fn write_password(path: &Path, password: Option<&SecretString>) -> Result<(), ConnectionError> {
    let failed = |source| ConnectionError::Read { path: path.to_owned(), source };
    let line = match password {
        Some(password) if password.expose_secret().contains(['\n', '\r']) => {
            return Err(value("password", "holds a line break, which no password file can"));
        }
        Some(password) => line_for_all(password.expose_secret()),
        None => String::new(),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(line.as_bytes()).map_err(failed)
}

fn directory_root() -> PathBuf {
    let memory = Path::new(IN_MEMORY);
    let writable =
        rustix::fs::access(memory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    if writable { memory.to_owned() } else { std::env::temp_dir() }
}
