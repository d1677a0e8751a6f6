//! Archives written by hand, with what they ought to be read as.

use pgproof_postgres::digest::{RowDigest, digest_rows};
use pgproof_postgres::large_objects::{LargeObjectDigest, LargeObjectHasher};

/// One entry's data.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// Rows without their line ends, and how long the chunks are that carry them; 0 is one chunk a row.
    Rows { rows: Vec<Vec<u8>>, chunk: usize },
    /// Large objects: their ids and contents.
    Blobs(Vec<(u32, Vec<u8>)>),
}

pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    pub(crate) head: usize,
    /// For each table its dump id, where its data lies and what its rows amount to.
    pub(crate) tables: Vec<(i32, std::ops::Range<usize>, RowDigest)>,
    pub(crate) large_objects: LargeObjectDigest,
}

pub(crate) fn int(out: &mut Vec<u8>, value: i64) {
    out.push(u8::from(value < 0));
    out.extend_from_slice(&(value.unsigned_abs() as u32).to_le_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    int(out, text.len() as i64);
    out.extend_from_slice(text.as_bytes());
}

fn null(out: &mut Vec<u8>) {
    int(out, -1);
}

/// An archive of version 1.`minor`, with the entries' dump ids counted from 1.
pub(crate) fn archive(minor: u8, data: &[Data]) -> Archive {
    let mut bytes = head(minor, data);
    let head = bytes.len();
    let (mut tables, mut large_objects) = (Vec::new(), LargeObjectHasher::default());
    for (id, data) in (1..).zip(data) {
        let start = bytes.len();
        write_data(&mut bytes, i64::from(id), data);
        if let Data::Rows { rows, .. } = data {
            tables.push((id, start..bytes.len(), digest_rows(rows.iter().map(Vec::as_slice))));
        }
    }
    for (oid, contents) in data.iter().flat_map(blobs) {
        large_objects.begin(*oid);
        large_objects.update(contents);
        large_objects.end();
    }
    Archive { bytes, head, tables, large_objects: large_objects.digest() }
}

fn blobs(data: &Data) -> &[(u32, Vec<u8>)] {
    match data {
        Data::Rows { .. } => &[],
        Data::Blobs(blobs) => blobs,
    }
}

fn head(minor: u8, data: &[Data]) -> Vec<u8> {
    let mut out = b"PGDMP".to_vec();
    out.extend_from_slice(&[1, minor, 0, 4, 8, 1]);
    if minor >= 15 {
        out.push(0)
    } else {
        int(&mut out, 0)
    }
    (0..7).for_each(|_| int(&mut out, 1));
    ["app", "17.0", "17.0"].iter().for_each(|text| string(&mut out, text));
    int(&mut out, data.len() as i64);
    for (id, data) in (1..).zip(data) {
        entry(&mut out, minor, id, data);
    }
    out
}

fn entry(out: &mut Vec<u8>, minor: u8, id: i64, data: &Data) {
    int(out, id);
    int(out, 1);
    string(out, "0");
    string(out, &(id + 16384).to_string());
    let rows = matches!(data, Data::Rows { .. });
    string(out, &if rows { format!("t{id}") } else { "BLOBS".to_owned() });
    string(out, if rows { "TABLE DATA" } else { "BLOBS" });
    int(out, 3);
    null(out);
    null(out);
    if rows {
        string(out, &format!("COPY public.t{id} (a) FROM stdin;\n"))
    } else {
        null(out)
    }
    string(out, if rows { "public" } else { "" });
    null(out);
    if minor >= 14 {
        null(out);
    }
    if minor >= 16 {
        int(out, i64::from(b'r'));
    }
    string(out, "postgres");
    string(out, "false");
    null(out);
    out.push(1);
    out.extend_from_slice(&[0; 8]);
}

fn write_data(out: &mut Vec<u8>, id: i64, data: &Data) {
    match data {
        Data::Rows { rows, chunk } => {
            out.push(1);
            int(out, id);
            let lines: Vec<Vec<u8>> = rows.iter().map(|row| [row, &b"\n"[..]].concat()).collect();
            let end = b"\\.\n\n\n".to_vec();
            if *chunk == 0 {
                lines.iter().chain([&end]).for_each(|line| write_chunk(out, line));
            } else {
                let text = [lines.concat(), end].concat();
                text.chunks(*chunk).for_each(|piece| write_chunk(out, piece));
            }
            int(out, 0);
        }
        Data::Blobs(blobs) => {
            out.push(3);
            int(out, id);
            for (oid, content) in blobs {
                // As an unsigned id comes out of a function for signed integers.
                int(out, i64::from(oid.cast_signed()));
                content.chunks(16 << 10).for_each(|piece| write_chunk(out, piece));
                int(out, 0);
            }
            int(out, 0);
        }
    }
}

fn write_chunk(out: &mut Vec<u8>, piece: &[u8]) {
    int(out, piece.len() as i64);
    out.extend_from_slice(piece);
}
