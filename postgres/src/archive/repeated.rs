//! A table of contents that stands in a file twice.
//!
//! `pg_dump` writes the table of contents before the data, and once more over it when it knows where each entry's data lies.
//! With its output redirected (`pg_dump -Fc app > app.dump`) some versions have opened that file for appending, so that the second one is
//! behind the data. Nothing reads it there; who reads to the end of the file must know of it.

use std::io::{Read, Seek, SeekFrom};

use super::reader::INT_BYTES;
use super::toc::{DataState, read_entry, read_header};
use super::{ArchiveError, Header, Toc, TocEntry};

/// How many bytes at the end of the file are its table of contents once more.
pub fn repeated_contents(file: &mut (impl Read + Seek)) -> Result<u64, ArchiveError> {
    file.rewind().map_err(ArchiveError::Read)?;
    let (_, length) = Toc::read(&mut *file)?;
    let mut head = vec![0; length];
    file.rewind().map_err(ArchiveError::Read)?;
    file.read_exact(&mut head).map_err(ArchiveError::Read)?;
    let unreadable = |_| ArchiveError::Damaged { offset: 0, what: "its head cannot be read again" };
    let (header, count, entries_start) = read_header(&head).map_err(unreadable)?;
    // The number of entries is the contents' first field, and the head's last before them.
    let contents = &head[entries_start - INT_BYTES..];
    let file_bytes = file.seek(SeekFrom::End(0)).map_err(ArchiveError::Read)?;
    let Some(start) = file_bytes.checked_sub(contents.len() as u64).filter(|start| *start >= length as u64)
    else {
        return Ok(0);
    };
    let mut end = vec![0; contents.len()];
    file.seek(SeekFrom::Start(start)).map_err(ArchiveError::Read)?;
    file.read_exact(&mut end).map_err(ArchiveError::Read)?;
    let is_same = end[..INT_BYTES] == contents[..INT_BYTES]
        && entries(&end[INT_BYTES..], &header, count) == entries(&contents[INT_BYTES..], &header, count);
    Ok(if is_same { contents.len() as u64 } else { 0 })
}

/// All entries but for where their data lies; nothing where the bytes are none, or more than these.
fn entries(bytes: &[u8], header: &Header, count: usize) -> Option<Vec<TocEntry>> {
    let mut position = 0;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (entry, length) = read_entry(&bytes[position..], header).ok()?;
        position += length;
        entries.push(TocEntry { data_state: DataState::NoData, ..entry });
    }
    (position == bytes.len()).then_some(entries)
}
