//! An archive whose data is compressed inside, read as the archive that it would be without that.
//!
//! `pg_dump -Fc` compresses each data block unless it is told not to, and rows that are compressed twice can be neither
//! counted nor cut. What comes out is an archive as `pg_dump -Fc -Z0` writes it into a pipe, which `pg_restore` reads like
//! the other; an archive that is not compressed, or in a way not known here, comes out as it is.

use std::io::{self, ErrorKind, Read};

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::toc::{Compression, tell_uncompressed};
use super::{ArchiveError, INT_BYTES, Toc, read_int};

/// What is asked of the file at a time.
const READ_BYTES: usize = 256 << 10;
/// The largest chunk that is written: bounds what one compressed byte can make us hold.
const CHUNK_BYTES: usize = 64 << 10;
const KIND_ROWS: u8 = 1;
const KIND_BLOBS: u8 = 3;
/// Kind byte and dump id.
const DATA_HEADER: usize = 1 + INT_BYTES;

/// A reader of the archive that `reader` holds.
pub struct Inflated<R> {
    reader: R,
    /// What was read and is not used yet, from `used` on.
    input: Vec<u8>,
    used: usize,
    /// What is ready to be given away, from `given` on.
    output: Vec<u8>,
    given: usize,
    /// Of the file, for messages.
    offset: u64,
    phase: Phase,
    codec: Codec,
}

impl<R> std::fmt::Debug for Inflated<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflated").field("offset", &self.offset).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    /// As it is, to the end.
    Verbatim,
    Between,
    /// Compressed chunks of a table or of one large object.
    Chunks {
        of_object: bool,
        left: usize,
        /// The decoder may have more to give without being given more.
        more: bool,
    },
    /// Between large objects.
    Objects,
    Ended,
}

impl<R: Read> Inflated<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            input: Vec::new(),
            used: 0,
            output: Vec::new(),
            given: 0,
            offset: 0,
            phase: Phase::Head,
            codec: Codec::Gzip(GzipDecoder::new()),
        }
    }

    fn rest(&self) -> &[u8] {
        &self.input[self.used..]
    }

    /// Reads on; false at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        // A few bytes, but while the head is read.
        self.input.drain(..std::mem::take(&mut self.used));
        let filled = self.input.len();
        self.input.resize(filled + READ_BYTES, 0);
        let got = loop {
            match self.reader.read(&mut self.input[filled..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                got => break got,
            }
        };
        self.input.truncate(filled + *got.as_ref().unwrap_or(&0));
        Ok(got? > 0)
    }

    /// Whether `count` bytes are at hand.
    fn ensure(&mut self, count: usize) -> io::Result<bool> {
        while self.rest().len() < count {
            if !self.fill()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn need(&mut self, count: usize) -> io::Result<()> {
        match self.ensure(count)? {
            true => Ok(()),
            false => Err(self.broken(ErrorKind::UnexpectedEof, "the file ends inside its data")),
        }
    }

    fn broken(&self, kind: ErrorKind, what: &str) -> io::Error {
        io::Error::new(kind, format!("byte {} of the file: {what}", self.offset))
    }

    fn advance(&mut self, count: usize) {
        self.used += count;
        self.offset += count as u64;
    }

    /// Gives `count` bytes away as they are.
    fn pass(&mut self, count: usize) {
        self.output.extend_from_slice(&self.input[self.used..self.used + count]);
        self.advance(count);
    }

    /// Makes some progress: usually, but not always, output.
    fn step(&mut self) -> io::Result<()> {
        match self.phase {
            Phase::Head => self.read_head(),
            Phase::Verbatim => {
                if self.rest().is_empty() && !self.fill()? {
                    self.phase = Phase::Ended;
                }
                self.pass(self.rest().len());
                Ok(())
            }
            Phase::Between => self.open_data(),
            Phase::Objects => self.open_object(),
            Phase::Chunks { of_object, left: 0, more: false } => self.open_chunk(of_object),
            Phase::Chunks { of_object, left, .. } => self.inflate(of_object, left),
            Phase::Ended => Ok(()),
        }
    }

    /// The head is read twice as far each time, so that a long one is not parsed over and over.
    fn read_head(&mut self) -> io::Result<()> {
        loop {
            match Toc::parse(self.rest()) {
                Ok((toc, length)) => return self.begin(&toc, length),
                Err(ArchiveError::Truncated { .. }) => {
                    let wanted = 2 * self.rest().len().max(READ_BYTES / 2);
                    if !self.ensure(wanted)?
                        && matches!(Toc::parse(self.rest()), Err(ArchiveError::Truncated { .. }))
                    {
                        // The cutter says what is missing.
                        self.phase = Phase::Verbatim;
                        return Ok(());
                    }
                }
                // No archive, or none of a known version: the cutter says which.
                Err(_) => {
                    self.phase = Phase::Verbatim;
                    return Ok(());
                }
            }
        }
    }

    fn begin(&mut self, toc: &Toc, length: usize) -> io::Result<()> {
        self.codec = match toc.header.compression {
            Compression::Gzip => Codec::Gzip(GzipDecoder::new()),
            Compression::Zstd => Codec::Zstd(ZstdDecoder::new()?, false),
            Compression::None | Compression::Lz4 | Compression::Unknown(_) => {
                self.phase = Phase::Verbatim;
                return Ok(());
            }
        };
        self.pass(length);
        tell_uncompressed(&mut self.output).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        self.phase = Phase::Between;
        Ok(())
    }

    fn open_data(&mut self) -> io::Result<()> {
        if !self.ensure(1)? {
            self.phase = Phase::Ended;
            return Ok(());
        }
        self.need(DATA_HEADER)?;
        self.phase = match self.rest()[0] {
            KIND_ROWS => Phase::Chunks { of_object: false, left: 0, more: false },
            KIND_BLOBS => Phase::Objects,
            _ => return Err(self.broken(ErrorKind::InvalidData, "data of an unknown kind")),
        };
        self.pass(DATA_HEADER);
        Ok(())
    }

    fn open_object(&mut self) -> io::Result<()> {
        self.need(INT_BYTES)?;
        let is_last = read_int(self.rest()) == Some(0);
        self.phase = match is_last {
            true => Phase::Between,
            false => Phase::Chunks { of_object: true, left: 0, more: false },
        };
        self.pass(INT_BYTES);
        Ok(())
    }

    fn open_chunk(&mut self, of_object: bool) -> io::Result<()> {
        self.need(INT_BYTES)?;
        let length = read_int(self.rest()).and_then(|length| u32::try_from(length).ok());
        let Some(length) = length else {
            return Err(self.broken(ErrorKind::InvalidData, "a chunk of a negative length"));
        };
        self.phase = match length {
            0 if !self.codec.is_at_end() => {
                return Err(self.broken(ErrorKind::InvalidData, "compressed data stops before its end"));
            }
            0 => {
                self.pass(INT_BYTES);
                self.codec.restart()?;
                if of_object { Phase::Objects } else { Phase::Between }
            }
            length => {
                self.advance(INT_BYTES);
                Phase::Chunks { of_object, left: length as usize, more: false }
            }
        };
        Ok(())
    }

    fn inflate(&mut self, of_object: bool, left: usize) -> io::Result<()> {
        if left > 0 {
            self.need(1)?;
        }
        let count = left.min(self.rest().len());
        let start = self.output.len();
        self.output.resize(start + INT_BYTES + CHUNK_BYTES, 0);
        let body = start + INT_BYTES;
        let run = self.codec.run(&self.input[self.used..self.used + count], &mut self.output[body..]);
        let (taken, made) = run.map_err(|error| self.broken(ErrorKind::InvalidData, &error.to_string()))?;
        if taken == 0 && made == 0 && left > 0 {
            return Err(self.broken(ErrorKind::InvalidData, "compressed data goes on after its end"));
        }
        match u32::try_from(made) {
            Ok(0) | Err(_) => self.output.truncate(start),
            Ok(length) => {
                self.output.truncate(body + made);
                self.output[start + 1..body].copy_from_slice(&length.to_le_bytes());
            }
        }
        self.advance(taken);
        self.phase = Phase::Chunks {
            of_object,
            left: left - taken,
            more: made == CHUNK_BYTES && !self.codec.is_at_end(),
        };
        Ok(())
    }
}

impl<R: Read> Read for Inflated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.output.len() && self.phase != Phase::Ended {
            self.output.clear();
            self.given = 0;
            self.step()?;
        }
        let count = buffer.len().min(self.output.len() - self.given);
        buffer[..count].copy_from_slice(&self.output[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// A decoder of one stream after another.
enum Codec {
    Gzip(GzipDecoder),
    /// And whether a frame is open.
    Zstd(ZstdDecoder<'static>, bool),
}

struct GzipDecoder {
    state: Decompress,
    is_open: bool,
}

impl GzipDecoder {
    fn new() -> Self {
        // pg_dump writes zlib's own header, not gzip's.
        Self { state: Decompress::new(true), is_open: false }
    }
}

impl Codec {
    /// Bytes taken and bytes made.
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<(usize, usize)> {
        match self {
            Self::Gzip(GzipDecoder { state, is_open }) => {
                let before = (state.total_in(), state.total_out());
                let status = match state.decompress(input, output, FlushDecompress::None) {
                    Ok(status) => status,
                    Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
                };
                *is_open = status != Status::StreamEnd;
                Ok(((state.total_in() - before.0) as usize, (state.total_out() - before.1) as usize))
            }
            Self::Zstd(decoder, is_open) => {
                let (mut input, mut output) = (InBuffer::around(input), OutBuffer::around(output));
                let wanted = decoder.run(&mut input, &mut output)?;
                *is_open = wanted != 0;
                Ok((input.pos(), output.pos()))
            }
        }
    }

    /// Nothing that was begun is left open. Of an empty table some versions write no stream at all.
    fn is_at_end(&self) -> bool {
        match self {
            Self::Gzip(decoder) => !decoder.is_open,
            Self::Zstd(_, is_open) => !is_open,
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.state.reset(true),
            Self::Zstd(decoder, _) => decoder.reinit()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Cutter;
    use crate::archive::Outcome;

    /// `pg_dump -Fc`'s head with one table and one group of large objects, of archive version 1.`minor`.
    fn head(minor: u8, compression: &[u8]) -> Vec<u8> {
        let mut head = b"PGDMP\x01".to_vec();
        head.extend([minor, 0, 4, 8, 1]);
        head.extend(compression);
        (0..7).for_each(|_| int(&mut head, 1));
        for text in ["app", "16.1", "16.1"] {
            string(&mut head, text);
        }
        int(&mut head, 2);
        entry(&mut head, minor, 1, "t", "TABLE DATA", Some("COPY public.t (a) FROM stdin;\n"));
        entry(&mut head, minor, 2, "BLOBS", "BLOBS", None);
        head
    }

    fn entry(head: &mut Vec<u8>, minor: u8, id: i32, tag: &str, desc: &str, copy: Option<&str>) {
        int(head, id);
        int(head, 1);
        string(head, "0");
        string(head, "0");
        string(head, tag);
        string(head, desc);
        int(head, 3);
        string(head, "");
        string(head, "");
        match copy {
            Some(copy) => string(head, copy),
            None => int(head, -1),
        }
        string(head, "public");
        string(head, "");
        if minor >= 14 {
            string(head, "");
        }
        if minor >= 16 {
            int(head, 0);
        }
        string(head, "owner");
        string(head, "false");
        int(head, -1);
        // Where the data lies in the file, which is another place without compression.
        head.push(2);
        head.extend(777_u64.to_le_bytes());
    }

    fn int(bytes: &mut Vec<u8>, value: i32) {
        bytes.push(u8::from(value < 0));
        bytes.extend(value.unsigned_abs().to_le_bytes());
    }

    fn string(bytes: &mut Vec<u8>, text: &str) {
        int(bytes, text.len() as i32);
        bytes.extend(text.as_bytes());
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        zstd::encode_all(plain, 1).unwrap()
    }

    fn chunks(bytes: &mut Vec<u8>, body: &[u8], chunk: usize) {
        for piece in body.chunks(chunk) {
            int(bytes, piece.len() as i32);
            bytes.extend(piece);
        }
        int(bytes, 0);
    }

    fn rows() -> Vec<u8> {
        let mut rows: Vec<u8> = (0..50_000).flat_map(|n| format!("row {n}\n").into_bytes()).collect();
        rows.extend(b"\\.\n\n\n");
        rows
    }

    /// A whole archive whose data went through `compress`, in chunks of `chunk` bytes.
    fn archive(head: Vec<u8>, compress: fn(&[u8]) -> Vec<u8>, chunk: usize) -> Vec<u8> {
        let mut bytes = head;
        bytes.push(KIND_ROWS);
        int(&mut bytes, 1);
        chunks(&mut bytes, &compress(&rows()), chunk);
        bytes.push(KIND_BLOBS);
        int(&mut bytes, 2);
        for oid in [5, 6] {
            int(&mut bytes, oid);
            // One of nothing but zeros, which come to 200 bytes.
            chunks(&mut bytes, &compress(&[0; 300_000]), chunk);
        }
        int(&mut bytes, 0);
        bytes
    }

    fn cut(bytes: &[u8]) -> (Vec<u8>, Outcome) {
        let mut cutter = Cutter::new(Inflated::new(bytes));
        let mut all = Vec::new();
        while let Some(block) = cutter.next_block().unwrap() {
            all.extend(block.bytes);
        }
        (all, cutter.finish().unwrap())
    }

    #[test]
    fn compressed_archives_become_one_that_can_be_cut() {
        let of = [
            archive(head(14, &[1, 1, 0, 0, 0]), gzip, 4096),
            archive(head(15, &[1]), gzip, 100),
            archive(head(16, &[3]), zstd, 1 << 20),
        ];
        for bytes in of {
            let (plain, outcome) = cut(&bytes);
            let Outcome::Indexed(index) = outcome else { panic!("not indexed") };
            assert_eq!(index.toc.header.compression, Compression::None);
            assert_eq!((index.large_objects.count, index.large_objects.bytes), (2, 600_000));
            let unknown = |entry: &super::super::TocEntry| {
                entry.data_state == super::super::toc::DataState::OffsetUnknown
            };
            assert!(index.toc.entries.iter().all(unknown));
            let body = rows();
            let found = index.data[0];
            assert!(found.end - found.start > body.len() as u64, "all rows are there");
            assert!(plain.len() > body.len() + 600_000);
        }
    }

    #[test]
    fn what_is_not_compressed_or_not_known_comes_out_as_it_is() {
        for kind in [0, 2, 9] {
            let bytes = archive(head(16, &[kind]), <[u8]>::to_vec, 500);
            let mut same = Vec::new();
            Inflated::new(&*bytes).read_to_end(&mut same).unwrap();
            assert!(same == bytes, "compression {kind}");
        }
    }

    #[test]
    fn contents_that_stand_behind_the_data_once_more_are_found() {
        use super::super::repeated_contents;
        use std::io::Cursor;
        let head = head(16, &[1]);
        let mut bytes = archive(head.clone(), gzip, 4096);
        assert_eq!(repeated_contents(&mut Cursor::new(&bytes)).unwrap(), 0);
        let before_contents = 11 + 1 + 7 * INT_BYTES + 3 * INT_BYTES + "app16.116.1".len();
        let contents = &head[before_contents..];
        bytes.extend(contents);
        assert_eq!(repeated_contents(&mut Cursor::new(&bytes)).unwrap(), contents.len() as u64);
        // Of another dump they are none of this one's.
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        assert_eq!(repeated_contents(&mut Cursor::new(&bytes)).unwrap(), 0);
    }

    #[test]
    fn a_file_that_is_cut_short_or_damaged_is_an_error_wherever_that_is() {
        let whole = archive(head(14, &[1, 1, 0, 0, 0]), gzip, 4096);
        let read = |bytes: &[u8]| {
            let mut cutter = Cutter::new(Inflated::new(bytes));
            loop {
                match cutter.next_block() {
                    Err(_) => return false,
                    Ok(None) => return cutter.finish().is_ok(),
                    Ok(Some(_)) => {}
                }
            }
        };
        assert!(read(&whole));
        for length in (0..whole.len()).step_by(997).chain([whole.len() - 1, whole.len() - INT_BYTES]) {
            assert!(!read(&whole[..length]), "cut at {length}");
        }
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x40;
        assert!(!read(&damaged));
    }
}
