//! The head of an archive: its header and its table of contents.

use std::fmt;
use std::fmt::Write as _;
use std::io::Read;

use jiff::civil::DateTime;

use super::ArchiveError;
use super::reader::{Fields, INT_BYTES, Stop};

/// `PGDMP`, then the version and the widths: what must be read before anything else can be understood.
const PRELUDE_BYTES: usize = 11;
const MAGIC: &[u8] = b"PGDMP";
/// The format byte of `pg_dump --format=custom`.
const FORMAT_CUSTOM: u8 = 1;
/// PostgreSQL 9.0 to 10 …
const OLDEST: (u8, u8) = (1, 12);
/// … to PostgreSQL 17 and 18.
const NEWEST: (u8, u8) = (1, 16);
/// The longest head that is read: a table of contents is held in memory, and this is far beyond a million tables.
const MAX_HEAD: u64 = 2 << 30;
/// How an entry says that nobody noted where its data lies.
const OFFSET_UNKNOWN: u8 = 1;
/// More dependencies than this is a damaged count, not a database.
const MAX_DEPENDENCIES: usize = 1 << 20;

/// The version of the archive format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FormatVersion {
    pub major: u8,
    pub minor: u8,
    pub revision: u8,
}

impl FormatVersion {
    fn at_least(self, minor: u8) -> bool {
        (self.major, self.minor) >= (1, minor)
    }
}

impl Compression {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Lz4,
            3 => Self::Zstd,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the first fields of an archive say about all of it.
///
/// Text that is not UTF-8 (a database of another encoding dumped without `--encoding=UTF8`) is held with
/// replacement characters; entries are addressed by their dump ids, never by these names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub version: FormatVersion,
    pub int_size: u8,
    pub off_size: u8,
    pub compression: Compression,
    /// When the dump began, by the wall clock of the host that made it; it names no zone.
    pub created: Option<DateTime>,
    pub database: Option<String>,
    pub server_version: Option<String>,
    pub dump_version: Option<String>,
}

/// How data blocks are compressed inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Lz4,
    Zstd,
    Unknown(u8),
}

/// The part of a restore that an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// Comments, access rights and the like, which follow the object they are about.
    None,
    PreData,
    Data,
    PostData,
}

/// Whether an archive knows where an entry's data lies; one written to a pipe does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataState {
    OffsetUnknown,
    OffsetAt(u64),
    NoData,
}

/// One object of the dumped database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    pub dump_id: i32,
    pub had_dumper: bool,
    pub table_oid: u32,
    pub oid: u32,
    pub tag: String,
    pub desc: String,
    pub section: Section,
    pub defn: Option<String>,
    pub drop_stmt: Option<String>,
    pub copy_stmt: Option<String>,
    pub namespace: Option<String>,
    pub tablespace: Option<String>,
    pub table_access_method: Option<String>,
    pub relkind: Option<char>,
    pub owner: Option<String>,
    pub dependencies: Vec<i32>,
    pub data_state: DataState,
}

impl TocEntry {
    /// Whether this is the data of a table, as COPY text.
    pub fn is_table_data(&self) -> bool {
        self.desc == "TABLE DATA"
    }

    /// Whether this is the data of a partition whose rows go in through its root, to whatever partition they then belong.
    pub fn goes_through_partition_root(&self) -> bool {
        self.defn.as_deref().is_some_and(|defn| defn.starts_with("-- load via partition root"))
    }

    /// Whether this is the contents of large objects.
    pub fn is_blobs(&self) -> bool {
        self.desc == "BLOBS"
    }
}

/// Header and entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    pub header: Header,
    pub entries: Vec<TocEntry>,
}

impl Toc {
    /// Reads a head from memory, and says how many bytes it takes.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), ArchiveError> {
        let mut parser = HeadParser::default();
        let used = match parser.advance(bytes, 0)? {
            Progress::Done { used } => used,
            Progress::NeedsMore { used } => {
                return Err(ArchiveError::Truncated { offset: used as u64, place: "the table of contents" });
            }
            Progress::Foreign(reason) => return Err(ArchiveError::Unsupported { reason }),
        };
        let toc = parser.into_toc().ok_or(ArchiveError::Truncated { offset: 0, place: "the header" })?;
        Ok((toc, used))
    }

    /// Reads a head from a stream, which may go on after it.
    pub fn read(source: impl Read) -> Result<(Self, usize), ArchiveError> {
        let mut bytes = Vec::new();
        let mut source = source.take(MAX_HEAD);
        let mut step: u64 = 256 << 10;
        loop {
            let got = source.by_ref().take(step).read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
            match Self::parse(&bytes) {
                Err(ArchiveError::Truncated { .. }) if got > 0 => step = bytes.len() as u64,
                result => return result,
            }
        }
    }

    /// The entries of tables whose rows are in the archive; each has the oid of its table.
    pub fn tables_with_rows(&self) -> impl Iterator<Item = &TocEntry> {
        self.entries.iter().filter(|entry| entry.is_table_data() && entry.had_dumper)
    }

    pub fn entry(&self, dump_id: i32) -> Option<&TocEntry> {
        self.entries.iter().find(|entry| entry.dump_id == dump_id)
    }
}

/// A list for `pg_restore --use-list`, restoring these entries in this order.
pub fn list_file(ids: impl IntoIterator<Item = i32>) -> String {
    let mut list = String::new();
    for id in ids {
        let _ = writeln!(list, "{id};");
    }
    list
}

/// How far a head has been read.
#[derive(Debug)]
pub(super) enum Progress {
    Done {
        used: usize,
    },
    NeedsMore {
        used: usize,
    },
    /// An archive, but one that this reader does not know, and why.
    Foreign(String),
}

/// Reads a head piece by piece: give it bytes, drop those that it used, give it those and more.
#[derive(Debug, Default)]
pub(super) struct HeadParser {
    header: Option<Header>,
    entries: Vec<TocEntry>,
    expected: usize,
}

impl HeadParser {
    /// Reads as many whole fields as there are in `bytes`, which lie at `offset` in the archive.
    pub(super) fn advance(&mut self, bytes: &[u8], offset: u64) -> Result<Progress, ArchiveError> {
        let mut used = 0;
        if self.header.is_none() {
            if let Some(reason) = check_prelude(bytes)? {
                return Ok(Progress::Foreign(reason));
            }
            match read_header(bytes) {
                Ok((header, expected, length)) => {
                    (self.header, self.expected, used) = (Some(header), expected, length);
                }
                Err(stop) => return explain(stop, offset, 0),
            }
        }
        let Some(header) = &self.header else { return Ok(Progress::NeedsMore { used }) };
        while self.entries.len() < self.expected {
            match read_entry(&bytes[used..], header) {
                Ok((entry, length)) => {
                    self.entries.push(entry);
                    used += length;
                }
                Err(stop) => return explain(stop, offset, used),
            }
        }
        Ok(Progress::Done { used })
    }

    pub(super) fn into_toc(self) -> Option<Toc> {
        Some(Toc { header: self.header?, entries: self.entries })
    }
}

fn explain(stop: Stop, base: u64, used: usize) -> Result<Progress, ArchiveError> {
    let offset = base + used as u64;
    match stop {
        Stop::Short if offset > MAX_HEAD => {
            Err(ArchiveError::TooLong { offset, what: "the table of contents", limit: MAX_HEAD })
        }
        Stop::Short => Ok(Progress::NeedsMore { used }),
        Stop::Bad(what) => Err(ArchiveError::Damaged { offset, what }),
        Stop::Long { what, limit } => Err(ArchiveError::TooLong { offset, what, limit }),
    }
}

/// Refuses what is no custom archive at all; answers why one that it is cannot be cut.
fn check_prelude(bytes: &[u8]) -> Result<Option<String>, ArchiveError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(ArchiveError::NotCustom { why: "it does not begin with PGDMP" });
    }
    let Some(&[_, _, _, _, _, major, minor, _, int_size, off_size, format]) =
        bytes.first_chunk::<PRELUDE_BYTES>()
    else {
        return Ok(None);
    };
    if (major, minor) < OLDEST || (major, minor) > NEWEST {
        return Ok(Some(format!("archive version {major}.{minor} is not known here")));
    }
    if int_size != 4 || !(1..=8).contains(&off_size) {
        return Ok(Some(format!(
            "integers of {int_size} bytes and offsets of {off_size} are not known here"
        )));
    }
    if format != FORMAT_CUSTOM {
        return Err(ArchiveError::NotCustom { why: "its format byte is another one's" });
    }
    Ok(None)
}

pub(super) fn read_header(bytes: &[u8]) -> Result<(Header, usize, usize), Stop> {
    let mut fields = Fields::new(bytes);
    fields.take(MAGIC.len())?;
    let version = FormatVersion { major: fields.byte()?, minor: fields.byte()?, revision: fields.byte()? };
    let (int_size, off_size) = (fields.byte()?, fields.byte()?);
    fields.byte()?;
    let compression = match version.at_least(15) {
        true => Compression::of(fields.byte()?),
        // A level, which was always gzip's.
        false if fields.int()? == 0 => Compression::None,
        false => Compression::Gzip,
    };
    let created = wall_clock(&mut fields)?;
    let (database, server_version, dump_version) = (fields.string()?, fields.string()?, fields.string()?);
    let count = fields.int()?;
    let expected = usize::try_from(count).map_err(|_| Stop::Bad("a negative number of entries"))?;
    let header =
        Header { version, int_size, off_size, compression, created, database, server_version, dump_version };
    Ok((header, expected, fields.position()))
}

/// Second, minute, hour, day, month from 0, year from 1900, and whether it was daylight saving time.
fn wall_clock(fields: &mut Fields<'_>) -> Result<Option<DateTime>, Stop> {
    let mut parts = [0; 7];
    for part in &mut parts {
        *part = fields.int()?;
    }
    let [second, minute, hour, day, month, year, _] = parts;
    let small = |part: i32| i8::try_from(part).ok();
    let clock = || {
        let year = i16::try_from(year.checked_add(1900)?).ok()?;
        let (month, day) = (small(month)?.checked_add(1)?, small(day)?);
        DateTime::new(year, month, day, small(hour)?, small(minute)?, small(second)?, 0).ok()
    };
    Ok(clock())
}

/// Rewrites a head so that it tells of data that is not compressed and lies where nobody has noted: as `pg_dump` writes it
/// into a pipe. Its length stays the same.
pub(super) fn tell_uncompressed(head: &mut [u8]) -> Result<(), ArchiveError> {
    let damaged = |_| ArchiveError::Damaged { offset: 0, what: "its head cannot be read again" };
    let (header, expected, mut position) = read_header(head).map_err(damaged)?;
    let width = if header.version.at_least(15) { 1 } else { INT_BYTES };
    head[PRELUDE_BYTES..PRELUDE_BYTES + width].fill(0);
    for _ in 0..expected {
        let (entry, length) = read_entry(&head[position..], &header).map_err(damaged)?;
        position += length;
        if let DataState::OffsetAt(_) = entry.data_state {
            let state = position - usize::from(header.off_size) - 1;
            head[state] = OFFSET_UNKNOWN;
            head[state + 1..position].fill(0);
        }
    }
    Ok(())
}

pub(super) fn read_entry(bytes: &[u8], header: &Header) -> Result<(TocEntry, usize), Stop> {
    let mut fields = Fields::new(bytes);
    let dump_id = fields.int()?;
    if dump_id <= 0 {
        return Err(Stop::Bad("a dump id that is not positive"));
    }
    let entry = TocEntry {
        dump_id,
        had_dumper: fields.int()? != 0,
        table_oid: fields.number("a table oid that is no number")?,
        oid: fields.number("an oid that is no number")?,
        tag: fields.string()?.unwrap_or_default(),
        desc: fields.string()?.unwrap_or_default(),
        section: section(fields.int()?)?,
        defn: fields.string()?,
        drop_stmt: fields.string()?,
        copy_stmt: fields.string()?,
        namespace: fields.string()?.filter(|name| !name.is_empty()),
        tablespace: fields.string()?.filter(|name| !name.is_empty()),
        table_access_method: if header.version.at_least(14) { fields.string()? } else { None },
        relkind: if header.version.at_least(16) { relkind(fields.int()?)? } else { None },
        owner: fields.string()?,
        dependencies: dependencies(&mut fields)?,
        data_state: data_state(&mut fields, header.off_size)?,
    };
    Ok((entry, fields.position()))
}

fn section(value: i32) -> Result<Section, Stop> {
    match value {
        1 => Ok(Section::None),
        2 => Ok(Section::PreData),
        3 => Ok(Section::Data),
        4 => Ok(Section::PostData),
        _ => Err(Stop::Bad("an unknown section")),
    }
}

fn relkind(value: i32) -> Result<Option<char>, Stop> {
    let byte = u8::try_from(value).map_err(|_| Stop::Bad("a relation kind that is no character"))?;
    Ok((byte != 0).then_some(char::from(byte)))
}

/// The OID flag of tables before PostgreSQL 12, which nothing needs, then the dump ids up to a NULL.
fn dependencies(fields: &mut Fields<'_>) -> Result<Vec<i32>, Stop> {
    fields.string()?;
    let mut ids = Vec::new();
    while let Some(text) = fields.string()? {
        ids.push(text.parse().map_err(|_| Stop::Bad("a dependency that is no number"))?);
        if ids.len() > MAX_DEPENDENCIES {
            return Err(Stop::Bad("too many dependencies"));
        }
    }
    Ok(ids)
}

fn data_state(fields: &mut Fields<'_>, off_size: u8) -> Result<DataState, Stop> {
    let state = fields.byte()?;
    let mut offset = [0; 8];
    let digits = fields.take(usize::from(off_size))?;
    offset[..digits.len()].copy_from_slice(digits);
    match state {
        OFFSET_UNKNOWN => Ok(DataState::OffsetUnknown),
        2 => Ok(DataState::OffsetAt(u64::from_le_bytes(offset))),
        3 => Ok(DataState::NoData),
        _ => Err(Stop::Bad("an unknown state of an entry's data")),
    }
}
