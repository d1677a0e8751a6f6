//! Cutting an archive, as it streams by, into blocks that begin and end at rows.
//!
//! The cutter is the one thread that every byte of a backup passes, so it looks at chunk headers and at the ends of
//! chunks, and at nothing between them; counting and hashing rows is left to whoever takes the blocks. Only large
//! objects, and rows longer than a whole block, are hashed here, because no one else sees them in one piece.

use std::collections::HashMap;
use std::io::Read;

use super::block::{ArchiveIndex, BlockLayout, CutBlock, DataKind, DataSpan, Limits, Outcome, Span};
use super::giants::GiantRows;
use super::rows::OpenTable;
use super::source::Source;
use super::toc::{Compression, HeadParser, Progress};
use super::{ArchiveError, INT_BYTES, Toc, read_int};
use crate::large_objects::LargeObjectHasher;

/// What a data block of a table begins with, and one of large objects.
const KIND_ROWS: u8 = 1;
const KIND_BLOBS: u8 = 3;
/// Kind byte and dump id.
const DATA_HEADER: usize = 1 + INT_BYTES;

/// An iterator of blocks, which put together are exactly what was read.
#[derive(Debug)]
pub struct Cutter<R> {
    source: Source<R>,
    limits: Limits,
    phase: Phase,
    /// How far the block at hand is understood.
    position: usize,
    layout: BlockLayout,
    clean: Option<CutPoint>,
    after_cut_table: bool,
    toc: Option<Toc>,
    head_bytes: u64,
    /// Entries whose data has not come yet, with what it must be.
    awaited: HashMap<i32, DataKind>,
    data: Vec<DataSpan>,
    giants: GiantRows,
    large_objects: LargeObjectHasher,
}

#[derive(Debug)]
enum Phase {
    Head(HeadParser),
    Between,
    Rows(OpenTable),
    Blobs(OpenBlobs),
    Uncut(String),
    Ended,
}

/// A place at which the block at hand may end.
#[derive(Debug, Clone, Copy)]
struct CutPoint {
    position: usize,
    chunk_left: u32,
    mid_row: bool,
}

#[derive(Debug)]
struct OpenBlobs {
    dump_id: i32,
    start: u64,
    span_start: usize,
    chunk_left: u32,
    inside_object: bool,
}

enum Step {
    Go,
    Cut(CutPoint),
    End,
}

impl<R: Read> Cutter<R> {
    pub fn new(source: R) -> Self {
        Self::with_limits(source, Limits::default())
    }

    /// Other lengths than the usual; `target` and `hard` are raised to what a cut needs at the least.
    pub fn with_limits(source: R, limits: Limits) -> Self {
        let target = limits.target.max(MIN_TARGET);
        let hard = limits.hard.max(target + MIN_TARGET);
        Self {
            source: Source::new(source, target),
            limits: Limits { target, hard, share: limits.share },
            phase: Phase::Head(HeadParser::default()),
            position: 0,
            layout: BlockLayout::default(),
            clean: None,
            after_cut_table: false,
            toc: None,
            head_bytes: 0,
            awaited: HashMap::new(),
            data: Vec::new(),
            giants: GiantRows::default(),
            large_objects: LargeObjectHasher::default(),
        }
    }

    /// The next block; `None` when the archive has ended where it should.
    pub fn next_block(&mut self) -> Result<Option<CutBlock>, ArchiveError> {
        loop {
            let step = match &self.phase {
                Phase::Head(_) => self.read_head()?,
                Phase::Between => self.open_data()?,
                Phase::Rows(_) => self.walk_rows()?,
                Phase::Blobs(_) => self.walk_blobs()?,
                Phase::Uncut(_) => self.pass_on()?,
                Phase::Ended => return Ok(None),
            };
            match step {
                Step::Go => {}
                Step::Cut(point) => return self.cut(point).map(Some),
                Step::End => {
                    if matches!(self.phase, Phase::Between) {
                        self.phase = Phase::Ended;
                    }
                    if self.position == 0 {
                        return Ok(None);
                    }
                    return self.cut(CutPoint::boundary(self.position)).map(Some);
                }
            }
        }
    }

    /// The table of contents, once its end was read.
    pub fn toc(&self) -> Option<&Toc> {
        self.toc.as_ref()
    }

    /// What was found, once [`Self::next_block`] has answered `None`.
    pub fn finish(self) -> Result<Outcome, ArchiveError> {
        let archive_bytes = self.source.offset() + self.position as u64;
        match (self.phase, self.toc) {
            (Phase::Uncut(reason), _) => Ok(Outcome::Uncut { reason, archive_bytes }),
            (Phase::Ended, Some(toc)) => Ok(Outcome::Indexed(Box::new(ArchiveIndex {
                toc,
                head_bytes: self.head_bytes,
                data: self.data,
                giant_rows: self.giants.into_digests(),
                large_objects: self.large_objects.digest(),
                archive_bytes,
            }))),
            _ => {
                Err(ArchiveError::Truncated { offset: archive_bytes, place: "what was not read to its end" })
            }
        }
    }
}

impl<R: Read> Iterator for Cutter<R> {
    type Item = Result<CutBlock, ArchiveError>;

    /// After an error nothing more comes, as nothing more can be understood.
    fn next(&mut self) -> Option<Self::Item> {
        let block = self.next_block().transpose();
        if matches!(block, Some(Err(_))) {
            self.phase = Phase::Ended;
            self.toc = None;
        }
        block
    }
}

/// The least that `target` may be, and `hard` beyond it: room for the headers between two chunks.
const MIN_TARGET: usize = 64;
/// A row is cut this much before the hard limit, so that a chunk's header still fits.
const HARD_SLACK: usize = 16;

impl CutPoint {
    /// Between two entries' data.
    fn boundary(position: usize) -> Self {
        Self { position, chunk_left: 0, mid_row: false }
    }
}

impl<R: Read> Cutter<R> {
    fn here(&self) -> u64 {
        self.source.offset() + self.position as u64
    }

    fn truncated(&self, place: &'static str) -> ArchiveError {
        ArchiveError::Truncated { offset: self.source.offset() + self.source.filled().len() as u64, place }
    }

    fn damaged(&self, what: &'static str) -> ArchiveError {
        ArchiveError::Damaged { offset: self.here(), what }
    }

    /// Whether `count` bytes follow the position, reading more if need be.
    fn ensure(&mut self, count: usize) -> Result<bool, ArchiveError> {
        while self.source.filled().len() < self.position + count {
            if self.source.fill()? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_head(&mut self) -> Result<Step, ArchiveError> {
        let Phase::Head(parser) = &mut self.phase else { return Ok(Step::Go) };
        let at = self.source.offset() + self.position as u64;
        match parser.advance(&self.source.filled()[self.position..], at)? {
            Progress::Done { used } => {
                self.position += used;
                self.end_head()
            }
            Progress::Foreign(reason) => Ok(self.give_up(reason)),
            Progress::NeedsMore { used } => {
                self.position += used;
                if self.position >= self.limits.target {
                    return Ok(Step::Cut(CutPoint::boundary(self.limits.target)));
                }
                // Twice as much each time, so that a long definition is not parsed from its start over and over.
                let more = (self.source.filled().len() - self.position).max(1);
                for _ in 0..=more / Source::<R>::READ {
                    if self.source.fill()? == 0 {
                        return Err(self.truncated("the table of contents"));
                    }
                }
                Ok(Step::Go)
            }
        }
    }

    fn end_head(&mut self) -> Result<Step, ArchiveError> {
        let Phase::Head(parser) = std::mem::replace(&mut self.phase, Phase::Between) else {
            return Ok(Step::Go);
        };
        let toc = parser.into_toc().ok_or_else(|| self.damaged("it has no header"))?;
        if let Some(reason) = uncuttable(&toc) {
            return Ok(self.give_up(reason));
        }
        self.head_bytes = self.here();
        for entry in toc.entries.iter().filter(|entry| entry.had_dumper) {
            let kind = if entry.is_blobs() { DataKind::Blobs } else { DataKind::Table };
            if self.awaited.insert(entry.dump_id, kind).is_some() {
                return Err(self.damaged("two entries have the same dump id"));
            }
        }
        self.toc = Some(toc);
        // The head shares no block with data: it is fetched alone.
        self.after_cut_table = true;
        Ok(Step::Go)
    }

    fn give_up(&mut self, reason: String) -> Step {
        self.phase = Phase::Uncut(reason);
        self.position = 0;
        Step::Go
    }

    fn pass_on(&mut self) -> Result<Step, ArchiveError> {
        let whole = self.ensure(self.limits.target)?;
        self.position = self.source.filled().len().min(self.limits.target);
        Ok(if whole { Step::Cut(CutPoint::boundary(self.position)) } else { Step::End })
    }

    fn open_data(&mut self) -> Result<Step, ArchiveError> {
        if self.position > self.limits.hard {
            return Ok(Step::Cut(CutPoint::boundary(self.limits.target)));
        }
        if !self.ensure(1)? {
            return self.check_complete().map(|()| Step::End);
        }
        if self.position > 0 {
            let boundary = CutPoint::boundary(self.position);
            if self.position >= self.limits.share || self.after_cut_table {
                return Ok(Step::Cut(boundary));
            }
            self.clean = Some(boundary);
        }
        if !self.ensure(DATA_HEADER)? {
            return Err(self.truncated("the header of a data block"));
        }
        let header = &self.source.filled()[self.position..];
        let (kind, id) = (header[0], read_int(&header[1..]));
        let found = match kind {
            KIND_ROWS => DataKind::Table,
            KIND_BLOBS => DataKind::Blobs,
            _ => return Err(self.damaged("data of an unknown kind")),
        };
        let dump_id = id.and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        if self.awaited.remove(&dump_id) != Some(found) {
            return Err(self.damaged("data that the table of contents does not announce"));
        }
        let start = self.here();
        self.position += DATA_HEADER;
        let span_start = self.position;
        self.phase = match found {
            DataKind::Table => Phase::Rows(OpenTable::new(dump_id, start, span_start)),
            DataKind::Blobs => {
                Phase::Blobs(OpenBlobs { dump_id, start, span_start, chunk_left: 0, inside_object: false })
            }
        };
        Ok(Step::Go)
    }

    fn check_complete(&self) -> Result<(), ArchiveError> {
        let Some(first) = self.awaited.keys().min() else { return Ok(()) };
        let entry = self.toc.as_ref().and_then(|toc| toc.entry(*first));
        let first = entry.map_or_else(String::new, |entry| {
            format!("{} {} {}", entry.desc, entry.namespace.as_deref().unwrap_or("-"), entry.tag)
        });
        Err(ArchiveError::DataMissing { missing: self.awaited.len(), first })
    }

    /// Walks the chunks of one table to its end or to the next cut.
    fn walk_rows(&mut self) -> Result<Step, ArchiveError> {
        loop {
            if let Some(point) = self.cut_of_rows() {
                return Ok(Step::Cut(point));
            }
            let Phase::Rows(table) = &mut self.phase else { return Ok(Step::Go) };
            let filled = self.source.filled();
            if table.chunk_left == 0 {
                let Some(length) = read_int(&filled[self.position..]) else {
                    self.source.fill_or("a table's data")?;
                    continue;
                };
                let Ok(length) = u32::try_from(length) else {
                    return Err(self.damaged("a chunk of a negative length"));
                };
                self.position += INT_BYTES;
                if length == 0 {
                    return self.end_table();
                }
                table.chunk_left = length;
            }
            let ceiling =
                if self.position < self.limits.target { self.limits.target } else { self.limits.hard };
            let room = ceiling.saturating_sub(self.position);
            let count = (table.chunk_left as usize).min(room).min(filled.len() - self.position);
            if count == 0 {
                if room == 0 {
                    return Err(self.damaged("more rows after a table's end marker"));
                }
                self.source.fill_or("a table's data")?;
                continue;
            }
            let payload = &filled[self.position..self.position + count];
            self.position += count;
            table.chunk_left -= count as u32;
            if let Some(after) = table.last_row_end(payload) {
                let chunk_left = table.chunk_left + after as u32;
                self.clean = Some(CutPoint { position: self.position - after, chunk_left, mid_row: false });
            }
        }
    }

    /// Whether the block is to end now, inside a table, and where.
    fn cut_of_rows(&self) -> Option<CutPoint> {
        if self.position < self.limits.target {
            return None;
        }
        let exhausted = self.position + HARD_SLACK >= self.limits.hard;
        match self.clean {
            // A cut far back would make a small block; the row at hand may yet end in time.
            Some(point) if point.position >= self.limits.target / 2 || exhausted => Some(point),
            None if exhausted => match &self.phase {
                Phase::Rows(table) if !table.trailer => {
                    Some(CutPoint { position: self.position, chunk_left: table.chunk_left, mid_row: true })
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn end_table(&mut self) -> Result<Step, ArchiveError> {
        let end = self.here();
        let Phase::Rows(table) = std::mem::replace(&mut self.phase, Phase::Between) else {
            return Ok(Step::Go);
        };
        if !table.is_complete() {
            return Err(self.damaged("a table's data ends without its end marker"));
        }
        let OpenTable { dump_id, start, span_start, was_cut, .. } = table;
        self.close_span(dump_id, DataKind::Table, span_start);
        self.data.push(DataSpan { dump_id, kind: DataKind::Table, start, end });
        self.after_cut_table = was_cut;
        Ok(Step::Go)
    }

    fn walk_blobs(&mut self) -> Result<Step, ArchiveError> {
        loop {
            let Phase::Blobs(blobs) = &mut self.phase else { return Ok(Step::Go) };
            if self.position + HARD_SLACK >= self.limits.target {
                let chunk_left = blobs.chunk_left;
                return Ok(Step::Cut(CutPoint { position: self.position, chunk_left, mid_row: false }));
            }
            let filled = self.source.filled();
            if blobs.chunk_left > 0 {
                let room = self.limits.target - self.position;
                let count = (blobs.chunk_left as usize).min(room).min(filled.len() - self.position);
                self.large_objects.update(&filled[self.position..self.position + count]);
                self.position += count;
                blobs.chunk_left -= count as u32;
                if count == 0 {
                    self.source.fill_or("large objects")?;
                }
                continue;
            }
            let Some(value) = read_int(&filled[self.position..]) else {
                self.source.fill_or("large objects")?;
                continue;
            };
            self.position += INT_BYTES;
            match (blobs.inside_object, value) {
                (false, 0) => return Ok(self.end_blobs()),
                // An object's id is unsigned, and was written as if it had a sign.
                (false, id) => {
                    blobs.inside_object = true;
                    self.large_objects.begin(id as u32);
                }
                (true, 0) => {
                    blobs.inside_object = false;
                    self.large_objects.end();
                }
                (true, length) => match u32::try_from(length) {
                    Ok(length) => blobs.chunk_left = length,
                    Err(_) => return Err(self.damaged("a chunk of a negative length")),
                },
            }
        }
    }

    fn end_blobs(&mut self) -> Step {
        let end = self.here();
        if let Phase::Blobs(blobs) = std::mem::replace(&mut self.phase, Phase::Between) {
            let OpenBlobs { dump_id, start, span_start, .. } = blobs;
            self.close_span(dump_id, DataKind::Blobs, span_start);
            self.data.push(DataSpan { dump_id, kind: DataKind::Blobs, start, end });
            self.after_cut_table = true;
        }
        Step::Go
    }

    fn close_span(&mut self, dump_id: i32, kind: DataKind, span_start: usize) {
        self.layout.spans.push(Span { dump_id, kind, range: span_start..self.position });
    }

    /// Ends the block at hand at `point` and begins the next one there.
    fn cut(&mut self, point: CutPoint) -> Result<CutBlock, ArchiveError> {
        let CutPoint { position: length, chunk_left, mid_row } = point;
        let open = match &mut self.phase {
            Phase::Rows(table) => {
                table.was_cut |= length >= table.span_start;
                Some((table.dump_id, DataKind::Table, &mut table.span_start))
            }
            Phase::Blobs(blobs) => Some((blobs.dump_id, DataKind::Blobs, &mut blobs.span_start)),
            _ => None,
        };
        if let Some((dump_id, kind, span_start)) = open {
            if length > *span_start {
                self.layout.spans.push(Span { dump_id, kind, range: *span_start..length });
            }
            *span_start = span_start.saturating_sub(length);
        }
        let next = BlockLayout {
            plain_offset: self.source.offset() + length as u64,
            open_chunk: chunk_left,
            starts_mid_row: mid_row,
            spans: Vec::new(),
        };
        let layout = std::mem::replace(&mut self.layout, next);
        let block = CutBlock { bytes: self.source.split(length), layout };
        self.position -= length;
        self.clean = None;
        self.after_cut_table &= self.position > 0;
        self.giants.observe(&block, mid_row)?;
        Ok(block)
    }
}

/// Why an archive that could be read can still not be cut at rows.
fn uncuttable(toc: &Toc) -> Option<String> {
    if toc.header.compression != Compression::None {
        return Some("the archive is compressed inside; dump with --compress=0".to_owned());
    }
    let odd = toc.entries.iter().filter(|entry| entry.had_dumper).find(|entry| {
        let cuttable = entry.is_blobs() || (entry.is_table_data() && entry.copy_stmt.is_some());
        !cuttable
    })?;
    Some(format!("the data of {} {} is not COPY text", odd.desc, odd.tag))
}
