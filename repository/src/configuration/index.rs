//! What of a configuration changed, told without its values: a keyed hash of each item, sealed to the host that made it.
//!
//! The host cannot read its own backups. What it may keep of them is what it knows anyway: a secret that is derived from
//! its signing key both keys the hashes, so that a value cannot be found by trying, and seals the index, so that the
//! bucket shows no names. Whoever steals the host learns from it which names the host once had, and no value.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{Configuration, File};
use crate::host_secret::HostSecret;
use crate::signature::{SignatureError, SigningKey};

/// The passphrase holds 256 bits, so nothing is gained by making each try expensive.
const WORK_FACTOR: u8 = 10;
/// Largest index that is opened: hundreds of thousands of items.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// Every item by its name, with the hash of its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    items: BTreeMap<String, String>,
}

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    pub item: String,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Added,
    Removed,
    Changed,
}

impl Index {
    /// Hashes every item with the secret of this host.
    pub fn of(configuration: &Configuration, key: &SigningKey) -> Result<Self, IndexError> {
        let secret = secret(key)?;
        let mut items = BTreeMap::new();
        for file in &configuration.files {
            items.insert(file.path.clone(), secret.hash(&file.path, &in_file(file)));
        }
        for variable in &configuration.variables {
            let name = variable.label();
            items.insert(name.clone(), secret.hash(&name, variable.value.as_bytes()));
        }
        Ok(Self { items })
    }

    /// The index as the manifest has it.
    pub fn seal(&self, key: &SigningKey) -> Result<String, IndexError> {
        let mut recipient = age::scrypt::Recipient::new(secret(key)?.passphrase());
        recipient.set_work_factor(WORK_FACTOR);
        let plain = serde_json::to_vec(self).expect("an index has only string keys");
        let mut sealed = Vec::new();
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as _));
        let mut writer = encryptor
            .map_err(|_| IndexError::Seal)?
            .wrap_output(&mut sealed)
            .map_err(|_| IndexError::Seal)?;
        let written = writer.write_all(&plain).and_then(|()| writer.finish());
        written.map_err(|_| IndexError::Seal)?;
        Ok(BASE64.encode(&sealed))
    }

    /// Opens an index that this host sealed. Another host's, or one from before the signing key was changed, it cannot.
    pub fn open(sealed: &str, key: &SigningKey) -> Result<Self, IndexError> {
        let bytes = BASE64.decode(sealed.as_bytes()).map_err(|_| IndexError::Damaged)?;
        let mut identity = age::scrypt::Identity::new(secret(key)?.passphrase());
        identity.set_max_work_factor(WORK_FACTOR);
        let decryptor = age::Decryptor::new_buffered(&bytes[..]).map_err(|_| IndexError::Damaged)?;
        let reader = decryptor.decrypt(std::iter::once(&identity as _)).map_err(|_| IndexError::NotOurs)?;
        let mut plain = Vec::new();
        reader.take(INDEX_BYTES_MAX).read_to_end(&mut plain).map_err(|_| IndexError::Damaged)?;
        serde_json::from_slice(&plain).map_err(|_| IndexError::Damaged)
    }
}

/// What differs, by name.
pub fn changes(before: &Index, after: &Index) -> Vec<Change> {
    let of = |item: &String, what| Change { item: item.clone(), what };
    let removed = before.items.keys().filter(|item| !after.items.contains_key(*item));
    let mut changes: Vec<Change> = removed.map(|item| of(item, What::Removed)).collect();
    for (item, hash) in &after.items {
        match before.items.get(item) {
            None => changes.push(of(item, What::Added)),
            Some(known) if known != hash => changes.push(of(item, What::Changed)),
            Some(_) => {}
        }
    }
    changes.sort();
    changes
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        })
    }
}

/// What makes a file another: its bytes, its owner, its rights. When it was written does not.
fn in_file(file: &File) -> Vec<u8> {
    let File { mode, uid, gid, content, .. } = file;
    let mut bytes = format!("{mode:o} {uid} {gid}\n").into_bytes();
    bytes.extend_from_slice(&content.0);
    bytes
}

fn secret(key: &SigningKey) -> Result<HostSecret, IndexError> {
    HostSecret::of(key).map_err(|source| IndexError::Secret { source })
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    #[error("no secret can be derived from the signing key")]
    Secret {
        #[source]
        source: SignatureError,
    },
    #[error("index cannot be sealed")]
    Seal,
    #[error("index was made by another host, or with another signing key")]
    NotOurs,
    #[error("index is damaged")]
    Damaged,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Content, Origin, Variable};
    use super::*;
    use crate::signature::generate;

    fn key() -> SigningKey {
        SigningKey::parse(&generate("a host").0, Path::new("key")).unwrap()
    }

    fn with(token: &str, mode: u32) -> Configuration {
        let file = File {
            path: "/etc/app.toml".to_owned(),
            mode,
            uid: 0,
            gid: 0,
            modified_at: jiff::Timestamp::UNIX_EPOCH,
            content: Content(b"a = 1".to_vec()),
        };
        let variable = |name: &str, value: &str| Variable {
            origin: Origin::Process,
            name: name.into(),
            value: value.into(),
        };
        Configuration::new(vec![file], vec![variable("TOKEN", token), variable("HOME", "/srv")])
    }

    fn told(before: &Configuration, after: &Configuration) -> Vec<(String, What)> {
        let key = key();
        let of = |configuration| Index::of(configuration, &key).unwrap();
        changes(&of(before), &of(after)).into_iter().map(|change| (change.item, change.what)).collect()
    }

    #[test]
    fn what_changed_is_told_by_name() {
        let before = with("one", 0o600);
        assert_eq!(told(&before, &before), []);
        let expected = [("TOKEN (process)".to_owned(), What::Changed)];
        assert_eq!(told(&before, &with("two", 0o600)), expected);
        assert_eq!(told(&before, &with("one", 0o644)), [("/etc/app.toml".to_owned(), What::Changed)]);
        let mut less = before.clone();
        less.variables.pop();
        assert_eq!(told(&before, &less), [("HOME (process)".to_owned(), What::Removed)]);
        assert_eq!(told(&less, &before), [("HOME (process)".to_owned(), What::Added)]);
        let mut touched = before.clone();
        touched.files[0].modified_at = jiff::Timestamp::MAX;
        assert_eq!(told(&before, &touched), []);
    }

    #[test]
    fn only_the_host_that_sealed_it_opens_an_index() {
        let (ours, theirs) = (key(), key());
        let index = Index::of(&with("one", 0o600), &ours).unwrap();
        let sealed = index.seal(&ours).unwrap();
        assert_eq!(Index::open(&sealed, &ours).unwrap(), index);
        assert!(matches!(Index::open(&sealed, &theirs), Err(IndexError::NotOurs)));
        assert!(matches!(Index::open("AAAA", &ours), Err(IndexError::Damaged)));
        let other = Index::of(&with("one", 0o600), &theirs).unwrap();
        assert_eq!(changes(&index, &other).len(), 3, "another host's hashes tell nothing");
    }
}
