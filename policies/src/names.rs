//! Names that end up in object keys and in the manifest.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest source name in bytes: as long as a PostgreSQL identifier, and short enough for any object key.
pub const SOURCE_NAME_BYTES_MAX: usize = 63;
/// Longest key or value of a tag in bytes: S3 allows 128 for a tag's key and 256 for its value.
pub const TAG_BYTES_MAX: usize = 128;

/// Words that already mean something at the top of a repository.
const RESERVED: [&str; 4] = ["repository.json", "leases", "restore-points", "doctor"];

/// The name of one thing that is backed up.
///
/// It is the first part of every object key of that source, so:
/// - 1 to 63 characters, each `a-z`, `0-9`, `_` or `-`,
/// - the first one a letter or a digit,
/// - and none of the words the repository uses itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    #[error("a source name must be 1 to {SOURCE_NAME_BYTES_MAX} characters long, got {0}")]
    Length(usize),
    #[error("a source name must start with a letter or a digit and consist of a-z, 0-9, _ and -, got {0:?}")]
    Character(String),
    #[error("{0:?} is a word the repository uses itself")]
    Reserved(String),
}

impl SourceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > SOURCE_NAME_BYTES_MAX {
            return Err(NameError::Length(text.chars().count()));
        }
        if RESERVED.contains(&text) {
            return Err(NameError::Reserved(text.to_owned()));
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let starts_well = plain(bytes[0]);
        if !starts_well || !bytes.iter().all(|&byte| plain(byte) || byte == b'_' || byte == b'-') {
            return Err(NameError::Character(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SourceName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

/// A word of the operator's own on a backup, written `key=value`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    #[error("a tag is written key=value, got {0:?}")]
    Form(String),
    #[error("the key and the value of a tag may have {TAG_BYTES_MAX} bytes each, got {key} and {value}")]
    Length { key: usize, value: usize },
    #[error("a tag may not hold control characters, got {0:?}")]
    Control(String),
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(TagError::Form(text.to_owned()));
        };
        if key.len() > TAG_BYTES_MAX || value.len() > TAG_BYTES_MAX {
            return Err(TagError::Length { key: key.len(), value: value.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(TagError::Control(text.to_owned()));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fit_object_keys_are_taken() {
        for good in ["a", "9", "app", "app-2", "orders_eu", &"x".repeat(63)] {
            assert_eq!(String::from(good.parse::<SourceName>().unwrap()), good);
        }
    }

    #[test]
    fn other_names_are_refused_by_reason() {
        assert_eq!("".parse::<SourceName>(), Err(NameError::Length(0)));
        assert_eq!("x".repeat(64).parse::<SourceName>(), Err(NameError::Length(64)));
        for bad in ["-a", "_a", "A", "a b", "a/b", "..", "ä", "a.b", "a\n"] {
            assert_eq!(bad.parse::<SourceName>(), Err(NameError::Character(bad.to_owned())), "{bad:?}");
        }
        for reserved in RESERVED {
            assert_eq!(reserved.parse::<SourceName>(), Err(NameError::Reserved(reserved.to_owned())));
        }
    }

    #[test]
    fn tags_split_at_the_first_equals_sign() {
        let tag: Tag = "release=v1=rc2".parse().unwrap();
        assert_eq!((tag.key.as_str(), tag.value.as_str()), ("release", "v1=rc2"));
        assert_eq!(tag.to_string(), "release=v1=rc2");
        assert!(matches!("=x".parse::<Tag>(), Err(TagError::Form(_))));
        assert!(matches!("x".parse::<Tag>(), Err(TagError::Form(_))));
        assert!(matches!("a=b\u{7}".parse::<Tag>(), Err(TagError::Control(_))));
        let of =
            |key: usize, value: usize| format!("{}={}", "a".repeat(key), "b".repeat(value)).parse::<Tag>();
        assert!(of(TAG_BYTES_MAX, TAG_BYTES_MAX).is_ok());
        for (key, value) in [(TAG_BYTES_MAX + 1, 1), (1, TAG_BYTES_MAX + 1)] {
            assert_eq!(of(key, value), Err(TagError::Length { key, value }));
        }
    }
}
