//! Names that cross seams: backups, objects, digests. Each is checked once, where it enters.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rand::Rng;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Characters of the random tail of a [`BackupId`]: RFC 4648 base32, lower case, so that ids are safe in keys and URLs.
const ID_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Length of that tail: 30 bits, against two agents that start in the same second.
const ID_TAIL_CHARS: usize = 6;
/// S3 allows 1,024 bytes of key (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>).
const KEY_BYTES_MAX: usize = 1024;

/// A backup: its UTC start second and a random tail, `20261124T020000Z-k3xyqa`. Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

impl BackupId {
    /// The id of a backup that starts at `now`, its tail drawn from `random`.
    pub fn new(now: Timestamp, random: &mut impl Rng) -> Self {
        let tail: String =
            (0..ID_TAIL_CHARS).map(|_| ID_ALPHABET[random.random_range(0..32)] as char).collect();
        Self(format!("{}-{tail}", now.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The second at which the backup started, by the agent's clock.
    pub fn started_at(&self) -> Timestamp {
        parse_start(&self.0).expect("checked when the id was made")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Backup(text.chars().take(64).collect());
        let (_, tail) = text.split_once('-').ok_or_else(bad)?;
        let tail_ok = tail.len() == ID_TAIL_CHARS
            && tail.bytes().all(|b| ID_ALPHABET.contains(&b) || b.is_ascii_digit());
        (tail_ok && parse_start(text).is_some()).then(|| Self(text.to_owned())).ok_or_else(bad)
    }
}

fn parse_start(id: &str) -> Option<Timestamp> {
    let (start, _) = id.split_once('-')?;
    let digits = start.strip_suffix('Z')?;
    let well_formed = digits.len() == 15
        && digits.bytes().enumerate().all(|(i, b)| if i == 8 { b == b'T' } else { b.is_ascii_digit() });
    let civil = well_formed.then(|| jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", digits).ok())??;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// Marks one repository for ever; manifests of another repository are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryId(String);

impl RepositoryId {
    pub fn generate(random: &mut impl Rng) -> Self {
        Self((0..26).map(|_| ID_ALPHABET[random.random_range(0..32)] as char).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let ok = text.len() == 26 && text.bytes().all(|b| ID_ALPHABET.contains(&b));
        ok.then(|| Self(text.to_owned())).ok_or_else(|| IdError::Repository(text.chars().take(64).collect()))
    }
}

/// The name of an object below the repository's prefix.
///
/// Relative, `/`-separated, no empty, `.` or `..` segment, printable ASCII only, at most 1,024 bytes: safe in S3,
/// in a directory and in a URL. Built by [`crate::layout`] and by listings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Keys sort as their text, so that a listing can begin between two of them.
impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let ok = !text.is_empty() && path_is_safe(text);
        ok.then(|| Self(text.to_owned())).ok_or_else(|| IdError::Key(text.chars().take(128).collect()))
    }
}

/// The start of object keys: empty (everything) or a path that ends with `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    pub fn everything() -> Self {
        Self(String::new())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyPrefix {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let ok = text.is_empty() || text.strip_suffix('/').is_some_and(path_is_safe);
        ok.then(|| Self(text.to_owned())).ok_or_else(|| IdError::Key(text.chars().take(128).collect()))
    }
}

fn path_is_safe(text: &str) -> bool {
    text.len() <= KEY_BYTES_MAX
        && text.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

/// A SHA-256 as it is written: 64 lower-case hexadecimal digits.
macro_rules! sha256_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            pub fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub fn of(bytes: &[u8]) -> Self {
                use sha2::Digest;
                Self(sha2::Sha256::digest(bytes).into())
            }

            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
                let bytes = bytes.and_then(|b| <[u8; 32]>::try_from(b).ok());
                bytes.map(Self).ok_or_else(|| IdError::Sha256(text.chars().take(80).collect()))
            }
        }

        string_conversions!($name);
        text_schema!($name, "^[0-9a-f]{64}$", "A SHA-256 in lower-case hexadecimal.");
    };
}

/// How the JSON Schema of reports describes a name: its form and what it is.
macro_rules! text_schema {
    ($name:ident, $pattern:literal, $description:literal) => {
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

macro_rules! string_conversions {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

macro_rules! display_inner {
    ($($name:ident),*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        })*
    };
}

display_inner!(BackupId, RepositoryId, ObjectKey, KeyPrefix);
string_conversions!(BackupId);
string_conversions!(RepositoryId);
text_schema!(
    BackupId,
    "^[0-9]{8}T[0-9]{6}Z-[a-z0-9]{6}$",
    "A backup: its start second in UTC and a random tail."
);
text_schema!(RepositoryId, "^[a-z2-7]{26}$", "Marks one repository for ever.");
sha256_newtype!(
    /// SHA-256 of bytes before compression and encryption: what `pg_dump` wrote.
    PlaintextSha256
);
sha256_newtype!(
    /// SHA-256 of an object as it lies in the store.
    CiphertextSha256
);
sha256_newtype!(
    /// SHA-256 of a manifest's bytes: the link of the chain.
    ManifestSha256
);
sha256_newtype!(
    /// SHA-256 of a report's bytes: the link of the chain of reports.
    ReportSha256
);

/// A name that does not have its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{0:?} is not a backup id such as 20261124T020000Z-k3xyqa")]
    Backup(String),
    #[error("{0:?} is not a repository id")]
    Repository(String),
    #[error("{0:?} is not a usable object key")]
    Key(String),
    #[error("{0:?} is not a SHA-256 in hexadecimal")]
    Sha256(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_id_tells_its_start_and_round_trips() {
        let now: Timestamp = "2026-11-24T02:00:00.9Z".parse().unwrap();
        let id = BackupId::new(now, &mut rand::rng());
        assert_eq!(id.started_at(), "2026-11-24T02:00:00Z".parse().unwrap());
        assert_eq!(id.as_str().parse::<BackupId>().unwrap(), id);
        assert_eq!(
            "20261124T020000Z-k3x9qa".parse::<BackupId>().unwrap().as_str(),
            "20261124T020000Z-k3x9qa"
        );
    }

    #[test]
    fn ids_and_keys_of_another_form_are_refused() {
        for bad in [
            "",
            "x",
            "20261324T020000Z-k3xyqa",
            "20261124T020000Z-K3XYQA",
            "20261124T020000Z-k3xyq",
            "-",
            "é-abcdef",
            "20261124T020000-k3xyqa",
            "20261124t020000Z-k3xyqa",
            "20261124T02000Z-k3xyqa",
            "20261124T0200000Z-k3xyqa",
            "2026112 T020000Z-k3xyqa",
            "+0261124T020000Z-k3xyqa",
            "20261124T020000Z-k3xyqa-",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
        let generated = RepositoryId::generate(&mut rand::rng());
        assert_eq!(generated.as_str().parse::<RepositoryId>().unwrap(), generated);
        for bad in
            [&generated.as_str()[1..], &generated.as_str().to_uppercase(), &format!("{generated}a"), ""]
        {
            assert!(bad.parse::<RepositoryId>().is_err(), "{bad}");
        }
        for bad in ["", "/a", "a/", "a//b", "a/../b", ".", "a b", "é", "a\\b", &"k".repeat(1025)] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad}");
        }
    }
}
