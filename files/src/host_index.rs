//! What the next backup knows of the files of this one, although it cannot read it: of each file what tells whether it was
//! written to since, and where its bytes lie.
//!
//! It is sealed to the host that made it. Lines stand in the order of paths, as a walk meets them, so that comparing takes
//! no more memory for a million files than for one.

use std::io::{self, BufRead, BufReader, Read};

use data_encoding::HEXLOWER;
use pgproof_repository::versioned::{self, Refused};
use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use crate::entry::{Content, Extent, LINE_BYTES_MAX, Moment};
use crate::path::StoredPath;
use crate::tree;

pub const FORMAT: &str = "pgproof-files-host-index";
pub const VERSION: u32 = 1;

/// So long after its last change a file's times tell of the next one. Before that they may not: file systems count in steps
/// of up to 2 s (FAT), file servers have clocks of their own, and what a program writes through a memory map shows in
/// the times only again after the kernel wrote the page back, 35 s later by default.
const SETTLED_AFTER_SECONDS: i64 = 60;

/// What a file shows of itself when it is written to. Devices are not compared: their numbers change with a reboot, and with
/// each snapshot that is mounted for a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    mtime: Moment,
    ctime: Moment,
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        let (size, mtime) = (tree::size(stat), tree::mtime(stat));
        Self { inode: tree::identity(stat).1, size, mtime, ctime: tree::ctime(stat) }
    }

    /// Whether whatever is written from `walk_began` on shows.
    pub(crate) fn is_settled(&self, walk_began: Moment) -> bool {
        let until = settled_until(walk_began);
        self.mtime < until && self.ctime < until
    }
}

/// What changed before this is known by a backup whose walk began then; what changed from this on is read again.
pub fn settled_until(walk_began: Moment) -> Moment {
    Moment(walk_began.0.saturating_sub(SETTLED_AFTER_SECONDS), walk_began.1)
}

/// The first line, which says what the others are.
pub(crate) fn head() -> Vec<u8> {
    let mut line =
        serde_json::to_vec(&Head { format: FORMAT, version: VERSION }).expect("only texts and numbers");
    line.push(b'\n');
    line
}

/// Appends the line of a file.
pub(crate) fn write_line(path: &StoredPath, stamp: &Stamp, content: &Content, to: &mut Vec<u8>) {
    let line = Line {
        path: path.clone(),
        inode: stamp.inode,
        size: stamp.size,
        mtime: stamp.mtime,
        ctime: stamp.ctime,
        offset: content.offset,
        sha256: HEXLOWER.encode(&content.sha256),
        base: content.base,
        extents: content.extents.clone(),
    };
    serde_json::to_writer(&mut *to, &line).expect("a line has only string keys");
    to.push(b'\n');
}

/// The index of an earlier backup, read as the walk goes on.
pub struct HostIndex {
    lines: BufReader<Box<dyn Read + Send>>,
    /// How many other backups the earlier one had bytes in.
    bases: u32,
    next: Option<(StoredPath, Stamp, Content)>,
    line: Vec<u8>,
}

impl HostIndex {
    /// `lines` must fail at its end unless it gave what was stored, as a sealed object's stream does.
    pub fn open(lines: Box<dyn Read + Send>, bases: u32) -> Result<Self, HostIndexError> {
        let mut index = Self { lines: BufReader::new(lines), bases, next: None, line: Vec::new() };
        index.read_line()?;
        versioned::parse::<serde::de::IgnoredAny>(&index.line, FORMAT, VERSION).map_err(|refused| {
            match refused {
                Refused::Unreadable { source } => HostIndexError::Line { source },
                Refused::OtherFormat { format } => HostIndexError::OtherFormat { format },
                Refused::Newer { version } => HostIndexError::Newer { version },
            }
        })?;
        index.advance()?;
        Ok(index)
    }

    /// What is known of the file at `path`. Paths must be asked for in their order.
    pub(crate) fn find(&mut self, path: &StoredPath) -> Result<Option<(Stamp, Content)>, HostIndexError> {
        while self.next.as_ref().is_some_and(|(next, ..)| next < path) {
            self.advance()?;
        }
        Ok(match &self.next {
            Some((next, stamp, content)) if next == path => Some((*stamp, content.clone())),
            _ => None,
        })
    }

    /// Reads what is left: only at the end is it sure that all before was right.
    pub(crate) fn finish(mut self) -> Result<(), HostIndexError> {
        io::copy(&mut self.lines, &mut io::sink()).map_err(|source| HostIndexError::Read { source })?;
        Ok(())
    }

    fn advance(&mut self) -> Result<(), HostIndexError> {
        self.next = match self.read_line()? {
            true => Some(self.parse()?),
            false => None,
        };
        Ok(())
    }

    /// Whether there was one more.
    fn read_line(&mut self) -> Result<bool, HostIndexError> {
        self.line.clear();
        let mut limited = (&mut self.lines).take(LINE_BYTES_MAX as u64);
        let read = limited.read_until(b'\n', &mut self.line);
        read.map(|bytes| bytes > 0).map_err(|source| HostIndexError::Read { source })
    }

    fn parse(&self) -> Result<(StoredPath, Stamp, Content), HostIndexError> {
        let line: Line =
            serde_json::from_slice(&self.line).map_err(|source| HostIndexError::Line { source })?;
        let unsound = || HostIndexError::Unsound { path: line.path.to_string() };
        let sha256 = HEXLOWER.decode(line.sha256.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
        let content = Content {
            base: line.base,
            offset: line.offset,
            size: line.size,
            sha256: sha256.ok_or_else(unsound)?,
            extents: line.extents.clone(),
        };
        if !content.is_sound() || line.base > self.bases {
            return Err(unsound());
        }
        let stamp = Stamp { inode: line.inode, size: line.size, mtime: line.mtime, ctime: line.ctime };
        Ok((line.path, stamp, content))
    }
}

impl std::fmt::Debug for HostIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostIndex").field("next", &self.next).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Head {
    format: &'static str,
    version: u32,
}

/// The stored form, with the names of the index's lines.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(rename = "p")]
    path: StoredPath,
    #[serde(rename = "i")]
    inode: u64,
    #[serde(rename = "s")]
    size: u64,
    #[serde(rename = "t")]
    mtime: Moment,
    #[serde(rename = "c")]
    ctime: Moment,
    #[serde(rename = "o")]
    offset: u64,
    #[serde(rename = "h")]
    sha256: String,
    #[serde(rename = "b", default, skip_serializing_if = "is_zero")]
    base: u32,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    extents: Option<Vec<Extent>>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Why what was known of an earlier backup cannot be used. A full backup needs none of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostIndexError {
    #[error("host index cannot be read")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error("line of the host index cannot be read")]
    Line {
        #[source]
        source: serde_json::Error,
    },
    #[error("host index has nothing usable for {path}")]
    Unsound { path: String },
    #[error("format is {format:?}, not a host index")]
    OtherFormat { format: String },
    #[error("host index has version {version}; this program reads up to version {VERSION}")]
    Newer { version: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: Moment = Moment(1_000_000, 500);

    fn path(text: &str) -> StoredPath {
        StoredPath::new(text.as_bytes().to_vec()).unwrap()
    }

    fn stamp(mtime: Moment, ctime: Moment) -> Stamp {
        Stamp { inode: 7, size: 100, mtime, ctime }
    }

    fn content(base: u32) -> Content {
        let extents = Some(vec![Extent(0, 10), Extent(50, 50)]);
        Content { base, offset: 512, size: 100, sha256: [9; 32], extents }
    }

    fn index(lines: &[u8]) -> Result<HostIndex, HostIndexError> {
        HostIndex::open(Box::new(io::Cursor::new([&head(), lines].concat())), 3)
    }

    #[test]
    fn version_1_reads_for_ever_and_writes_as_it_was() {
        const GOLDEN_V1: &[u8] = include_bytes!("../../repository/fixtures/host-index.v1.jsonl");
        let mut index = HostIndex::open(Box::new(io::Cursor::new(GOLDEN_V1)), 2).unwrap();
        let mut written = head();
        for name in ["srv/a%b", "srv/earlier"] {
            let (stamp, content) = index.find(&path(name)).unwrap().expect("a line");
            write_line(&path(name), &stamp, &content, &mut written);
        }
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(GOLDEN_V1));
        index.finish().unwrap();
    }

    #[test]
    fn files_are_found_in_the_order_of_the_walk() {
        let mut lines = Vec::new();
        let known = stamp(Moment(5, 6), Moment(7, 8));
        for (name, base) in [("a/b", 0), ("a-b", 3), ("z\u{e9}%", 1)] {
            write_line(&path(name), &known, &content(base), &mut lines);
        }
        let mut index = index(&lines).unwrap();
        for (name, expected) in [
            ("a", None),
            ("a/a", None),
            ("a/b", Some(0)),
            ("a-b", Some(3)),
            ("b", None),
            ("z\u{e9}%", Some(1)),
        ] {
            let found = index.find(&path(name)).unwrap();
            assert_eq!(found, expected.map(|base| (known, content(base))), "{name}");
        }
        assert_eq!(index.find(&path("zz")).unwrap(), None);
        index.finish().unwrap();
    }

    #[test]
    fn what_changed_just_before_a_walk_or_later_is_not_settled() {
        let (old, edge) = (Moment(1, 0), Moment(BEGAN.0 - SETTLED_AFTER_SECONDS, BEGAN.1));
        assert!(stamp(old, old).is_settled(BEGAN));
        for late in [edge, BEGAN, Moment(BEGAN.0 + 1, 0), Moment(i64::MAX, 0)] {
            assert!(!stamp(late, old).is_settled(BEGAN), "{late:?}");
            assert!(!stamp(old, late).is_settled(BEGAN), "{late:?}");
        }
        assert!(stamp(Moment(i64::MIN, 0), old).is_settled(BEGAN));
        assert!(!stamp(old, old).is_settled(Moment(i64::MIN, 0)));
    }

    #[test]
    fn what_is_no_host_index_of_ours_is_refused() {
        let mut line = Vec::new();
        write_line(&path("a"), &stamp(Moment(0, 0), Moment(0, 0)), &content(4), &mut line);
        assert!(matches!(index(&line), Err(HostIndexError::Unsound { .. })), "a fourth base of three");
        assert!(matches!(index(b"{}\n"), Err(HostIndexError::Line { .. })));
        let open = |bytes: &'static [u8]| HostIndex::open(Box::new(bytes), 0);
        let newer = open(b"{\"format\":\"pgproof-files-host-index\",\"version\":2}\n");
        assert!(matches!(newer, Err(HostIndexError::Newer { version: 2 })));
        assert!(matches!(
            open(b"{\"format\":\"x\",\"version\":1}\n"),
            Err(HostIndexError::OtherFormat { .. })
        ));
        assert!(matches!(open(b""), Err(HostIndexError::Line { .. })));
    }
}
