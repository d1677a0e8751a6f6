//! One line of the index: what an entry of the tree was, and where its content lies in the tar.
//!
//! [`Entry`] is what the program works with; a private type beside it is what is stored.

use std::collections::BTreeMap;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::path::{StoredPath, escape, unescape};

/// Longest line that is written: far more than the longest path and link, or the pieces of the most broken-up file, take.
/// Where extended attributes make it longer they are left out, so that a frame of the index always ends at a line's end.
pub const LINE_BYTES_MAX: usize = 2 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: StoredPath,
    pub meta: Meta,
    pub body: Body,
    /// Why it is not simply what was there.
    pub note: Option<Note>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// The twelve bits of permissions, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Moment,
    pub xattrs: Xattrs,
}

/// Names as they are in the file system, values as bytes.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Seconds since 1970, rounded down, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment(pub i64, pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Folder,
    File(Content),
    Symlink {
        target: Vec<u8>,
    },
    /// A further name of a file that stands before it.
    HardLink {
        to: StoredPath,
        /// The same as that of the file, for a restore that leaves that one out.
        content: Content,
    },
    /// It was there and is not in the archive; the note says why.
    LeftOut,
}

/// Where a file's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The backup that holds them: 0 is this one, others have the numbers that its manifest gives them.
    pub base: u32,
    /// In that backup's tar stream.
    pub offset: u64,
    /// As `ls` shows it.
    pub size: u64,
    /// Of the stored bytes, which are all but the holes.
    pub sha256: [u8; 32],
    /// What is not a hole, in order; `None` where all of it is stored.
    pub extents: Option<Vec<Extent>>,
}

/// `[offset, bytes]` in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent(pub u64, pub u64);

/// What an entry's backup ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// It became longer while it was read; what it had at first is stored.
    Grew,
    /// It was written to while it was read: what is stored may be half old and half new.
    Changed,
    /// It became shorter while it was read; zeros stand for what was gone.
    Cut,
    /// A part could not be read; zeros stand for it.
    ReadError,
    /// It could not be opened.
    Unreadable,
    /// Its extended attributes could not be read, or are too many.
    AttributesMissing,
    /// It was listed and then gone, or became something else.
    Vanished,
    /// Another file system begins there, and the policy stays on one; or it is one like `/proc`, with nothing to store.
    OtherFileSystem,
    /// A pipe, socket or device: nothing to store.
    Special,
    /// More folders inside each other than are followed.
    TooDeep,
}

impl Note {
    /// Whether the backup lacks something that was there to be stored.
    pub fn is_loss(self) -> bool {
        matches!(
            self,
            Self::Cut | Self::ReadError | Self::Unreadable | Self::AttributesMissing | Self::TooDeep
        )
    }

    /// Behind a name: `/srv/a: grew`.
    pub fn of_one(self) -> &'static str {
        match self {
            Self::Grew => "grew while it was read, and has what it had at first",
            Self::Changed => "changed while it was read, and may be half old and half new",
            Self::Cut => "became shorter while it was read, and ends in zeros",
            Self::ReadError => "could not be read wholly, and has zeros in it",
            Self::Unreadable => "could not be opened, and is missing",
            Self::AttributesMissing => "is stored without its extended attributes",
            Self::Vanished => "vanished before it could be read",
            Self::OtherFileSystem => "is another file system, and was not entered",
            Self::Special => "is a pipe, socket or device, and was left out",
            Self::TooDeep => "lies too deep, and what is in it is missing",
        }
    }

    /// Behind a number: `3 could not be opened`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grew => "grew while read, and have what they had at first",
            Self::Changed => "changed while read, and may be half old and half new",
            Self::Cut => "became shorter while read, and end in zeros",
            Self::ReadError => "could not be read wholly, and have zeros in them",
            Self::Unreadable => "could not be opened, and are missing",
            Self::AttributesMissing => {
                "are stored without their extended attributes, which could not be read"
            }
            Self::Vanished => "vanished before they could be read",
            Self::OtherFileSystem => "are other file systems, and were not entered",
            Self::Special => "are pipes, sockets or devices, and were left out",
            Self::TooDeep => "lie too deep, and what is in them is missing",
        }
    }
}

impl Content {
    /// What is not a hole, in order.
    pub fn extents(&self) -> Vec<Extent> {
        self.extents.clone().unwrap_or_else(|| vec![Extent(0, self.size)])
    }

    /// Bytes in the archive.
    pub fn stored_bytes(&self) -> u64 {
        match &self.extents {
            Some(extents) => extents.iter().map(|extent| extent.1).sum(),
            None => self.size,
        }
    }

    /// Whether the extents lie behind each other and inside the file, so that sums of them cannot overflow either.
    pub(crate) fn is_sound(&self) -> bool {
        let mut end = 0;
        self.offset.checked_add(self.size).is_some()
            && self.extents.iter().flatten().all(|Extent(offset, bytes)| {
                let after = offset.checked_add(*bytes);
                let sound = *offset >= end && after.is_some_and(|after| after <= self.size);
                end = after.unwrap_or(u64::MAX);
                sound
            })
    }
}

impl Entry {
    /// The content of a file, by whichever of its names.
    pub fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::File(content) | Body::HardLink { content, .. } => Some(content),
            _ => None,
        }
    }

    /// Appends the stored line.
    pub fn write_line(&self, to: &mut Vec<u8>) {
        serde_json::to_writer(&mut *to, &Line::from(self)).expect("a line has only string keys");
        to.push(b'\n');
    }

    pub fn read_line(line: &[u8]) -> Result<Self, LineError> {
        let line: Line = serde_json::from_slice(line).map_err(|source| LineError::Unreadable { source })?;
        line.into_entry()
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    #[error("line of the index cannot be read")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
    #[error("index has no usable {what} for {path}")]
    Unsound { path: String, what: &'static str },
}

/// The stored form. Short names, because there is one of these for every file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(rename = "p")]
    path: StoredPath,
    #[serde(rename = "k")]
    kind: Kind,
    #[serde(rename = "m")]
    mode: u32,
    #[serde(rename = "u")]
    uid: u32,
    #[serde(rename = "g")]
    gid: u32,
    #[serde(rename = "t")]
    mtime: Moment,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    base: Option<u32>,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    extents: Option<Vec<Extent>>,
    /// Target of a link, escaped.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Escaped names, values in base64.
    #[serde(rename = "x", default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    note: Option<Note>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "d")]
    Folder,
    #[serde(rename = "f")]
    File,
    #[serde(rename = "l")]
    Symlink,
    #[serde(rename = "h")]
    HardLink,
    #[serde(rename = "x")]
    LeftOut,
}

impl From<&Entry> for Line {
    fn from(entry: &Entry) -> Self {
        let (kind, link) = match &entry.body {
            Body::Folder => (Kind::Folder, None),
            Body::File(_) => (Kind::File, None),
            Body::Symlink { target } => (Kind::Symlink, Some(escape(target))),
            Body::HardLink { to, .. } => (Kind::HardLink, Some(escape(to.as_bytes()))),
            Body::LeftOut => (Kind::LeftOut, None),
        };
        let (content, meta) = (entry.content(), &entry.meta);
        let xattrs = meta.xattrs.iter().map(|(name, value)| (escape(name), BASE64.encode(value)));
        Self {
            path: entry.path.clone(),
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            size: content.map(|content| content.size),
            offset: content.map(|content| content.offset),
            base: content.map(|content| content.base).filter(|base| *base > 0),
            sha256: content.map(|content| HEXLOWER.encode(&content.sha256)),
            extents: content.and_then(|content| content.extents.clone()),
            link,
            xattrs: xattrs.collect(),
            note: entry.note,
        }
    }
}

impl Line {
    fn into_entry(self) -> Result<Entry, LineError> {
        let shown = self.path.to_string();
        let unsound = |what| LineError::Unsound { path: shown.clone(), what };
        let link = self.link.as_deref().and_then(unescape);
        let content = || {
            let sha256 = HEXLOWER.decode(self.sha256.as_deref()?.as_bytes()).ok()?;
            let content = Content {
                base: self.base.unwrap_or(0),
                offset: self.offset?,
                size: self.size?,
                sha256: sha256.try_into().ok()?,
                extents: self.extents.clone(),
            };
            content.is_sound().then_some(content)
        };
        let content = || content().ok_or_else(|| unsound("content"));
        let body = match self.kind {
            Kind::Folder => Body::Folder,
            Kind::File => Body::File(content()?),
            Kind::Symlink => Body::Symlink { target: link.ok_or_else(|| unsound("target"))? },
            Kind::HardLink => {
                let to = link.and_then(|link| StoredPath::new(link).ok());
                Body::HardLink { to: to.ok_or_else(|| unsound("target"))?, content: content()? }
            }
            Kind::LeftOut => Body::LeftOut,
        };
        let mut xattrs = Xattrs::new();
        for (name, value) in &self.xattrs {
            let value = BASE64.decode(value.as_bytes()).map_err(|_| unsound("attribute"))?;
            xattrs.insert(unescape(name).ok_or_else(|| unsound("attribute"))?, value);
        }
        let meta = Meta { mode: self.mode, uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs };
        Ok(Entry { path: self.path, meta, body, note: self.note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: Body) -> Entry {
        let xattrs = [(b"user.\xff%".to_vec(), b"\0\x01".to_vec())].into();
        let meta = Meta { mode: 0o4755, uid: 7, gid: 8, mtime: Moment(-2, 999_999_999), xattrs };
        Entry { path: StoredPath::new(b"a\n\xff/b%".to_vec()).unwrap(), meta, body, note: Some(Note::Grew) }
    }

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        const GOLDEN_V1: &str = include_str!("../../repository/fixtures/index.v1.jsonl");
        let mut written = Vec::new();
        for line in GOLDEN_V1.lines() {
            Entry::read_line(line.as_bytes()).unwrap().write_line(&mut written);
        }
        assert_eq!(String::from_utf8_lossy(&written), GOLDEN_V1);
    }

    fn content() -> Content {
        let extents = Some(vec![Extent(0, 10), Extent(50, 50)]);
        Content { base: 3, offset: 512, size: 100, sha256: [9; 32], extents }
    }

    #[test]
    fn every_entry_comes_back_from_its_one_line() {
        let to = StoredPath::new(b"a/c".to_vec()).unwrap();
        for body in [
            Body::Folder,
            Body::File(content()),
            Body::Symlink { target: b"../\xfe\n".to_vec() },
            Body::HardLink { to, content: content() },
            Body::LeftOut,
        ] {
            let (entry, mut line) = (entry(body), Vec::new());
            entry.write_line(&mut line);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(Entry::read_line(&line).unwrap(), entry);
        }
    }

    #[test]
    fn lines_that_lead_elsewhere_are_refused() {
        let mut line = Vec::new();
        entry(Body::File(content())).write_line(&mut line);
        let line = String::from_utf8(line).unwrap();
        assert!(Entry::read_line(line.as_bytes()).is_ok());
        for (from, to) in [
            ("a\\n%FF/b%25", "../x"),
            ("a\\n%FF/b%25", "/etc/passwd"),
            ("[50,50]", "[50,51]"),
            ("[50,50]", "[5,50]"),
            ("\"o\":512", "\"o\":18446744073709551615"),
            ("\"s\":100", "\"s\":60"),
            ("0909", "09"),
        ] {
            let changed = line.replacen(from, to, 1);
            assert_ne!(changed, line, "{from}");
            assert!(Entry::read_line(changed.as_bytes()).is_err(), "{changed}");
        }
    }
}
