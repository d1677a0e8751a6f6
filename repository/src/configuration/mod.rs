//! Configuration as it is backed up: files and variables in one sealed object, and in the manifest what tells, without
//! any value, whether something changed.

mod index;

use std::fmt;

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::versioned::{self, Refused};

pub use index::{Change, Index, IndexError, changes};

pub const FORMAT: &str = "pgproof-configuration";
pub const VERSION: u32 = 1;
/// Largest configuration, stored form: it is held in memory. Trees of files are a source of their own kind.
pub const CONFIGURATION_BYTES_MAX: u64 = 64 << 20;

/// All that a source of configuration held at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    pub format: String,
    pub version: u32,
    pub files: Vec<File>,
    pub variables: Vec<Variable>,
}

/// A file, by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified_at: Timestamp,
    pub content: Content,
}

/// Bytes, in base64 where they are stored. `Debug` does not show them: they hold passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Content(pub Vec<u8>);

/// A variable, and where it was read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub origin: Origin,
    pub name: String,
    /// As it stands there, quotes included.
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The environment of the process that made the backup.
    Process,
    /// A file of `NAME=value` lines.
    File(String),
    /// A unit of systemd.
    Unit(String),
}

impl Configuration {
    pub fn new(files: Vec<File>, variables: Vec<Variable>) -> Self {
        Self { format: FORMAT.to_owned(), version: VERSION, files, variables }
    }

    /// Reads what [`Configuration::to_bytes`] wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigurationError> {
        versioned::parse(bytes, FORMAT, VERSION).map_err(|refused| match refused {
            Refused::Unreadable { source } => ConfigurationError::Unreadable { source },
            Refused::OtherFormat { format } => ConfigurationError::OtherFormat { format },
            Refused::Newer { version } => ConfigurationError::Newer { version },
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a configuration has only string keys")
    }
}

impl Variable {
    /// The name by which it is told from others of its name elsewhere.
    pub fn label(&self) -> String {
        format!("{} ({})", self.name, self.origin)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variable")
            .field("origin", &self.origin)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("process"),
            Self::File(path) => f.write_str(path),
            Self::Unit(unit) => write!(f, "unit {unit}"),
        }
    }
}

impl TryFrom<String> for Content {
    type Error = data_encoding::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64.decode(text.as_bytes()).map(Self)
    }
}

impl From<Content> for String {
    fn from(content: Content) -> Self {
        BASE64.encode(&content.0)
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    #[error("configuration cannot be read")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
    #[error("format is {format:?}, not a configuration of pgproof")]
    OtherFormat { format: String },
    #[error("configuration has version {version}; this program reads up to version {VERSION}")]
    Newer { version: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_it_was_written_and_shows_no_value() {
        let file = File {
            path: "/etc/app.toml".to_owned(),
            mode: 0o640,
            uid: 0,
            gid: 33,
            modified_at: "2026-11-24T02:00:00.25Z".parse().unwrap(),
            content: Content(b"password = \"s3cret\"\n\0\xff".to_vec()),
        };
        let variable = Variable {
            origin: Origin::File("/srv/.env".to_owned()),
            name: "TOKEN".to_owned(),
            value: "s3cret".to_owned(),
        };
        let written = Configuration::new(vec![file], vec![variable]);
        assert_eq!(Configuration::parse(&written.to_bytes()).unwrap(), written);
        assert!(!format!("{written:?}").contains("s3cret"));
        // Whatever else it says.
        let read = Configuration::parse(br#"{"format":"pgproof-configuration","version":2,"files":7}"#);
        assert!(matches!(read, Err(ConfigurationError::Newer { version: 2 })));
    }
}
