//! An entry's head in the tar: a ustar header, and before it a pax header with what does not fit there.
//!
//! Written so that GNU tar and libarchive read it: times below the second, long and odd names and extended attributes
//! by pax (<https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html>), sparse files in GNU's format 1.0
//! (<https://www.gnu.org/software/tar/manual/html_node/PAX-1.html>).

use tar::{EntryType, Header};

use crate::entry::{Extent, Meta, Moment, Xattrs};

/// A tar is made of these.
pub(crate) const RECORD_BYTES: usize = 512;
/// A ustar header's name and link name.
const NAME_BYTES_MAX: usize = 100;
/// Seven octal digits.
const ID_MAX: u32 = 0o7_777_777;
/// Eleven octal digits.
const NUMBER_MAX: u64 = 0o77_777_777_777;
/// Two records of zeros end a tar.
pub(crate) const END: [u8; 2 * RECORD_BYTES] = [0; 2 * RECORD_BYTES];

/// What a head is made of.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) meta: &'a Meta,
    pub(crate) kind: HeadKind<'a>,
}

#[derive(Debug)]
pub(crate) enum HeadKind<'a> {
    Folder,
    File { size: u64 },
    Sparse { size: u64, extents: &'a [Extent] },
    Symlink { target: &'a [u8] },
    HardLink { to: &'a [u8] },
}

impl Head<'_> {
    /// Appends all that stands before the content: of a sparse file its map, too.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let mut records = Records::default();
        let (kind, link, size, map) = self.parts(&mut records);
        let mut path = self.path.to_vec();
        if kind == EntryType::Directory {
            path.push(b'/');
        }
        match self.kind {
            HeadKind::Sparse { .. } => records.add(b"GNU.sparse.name", &path),
            _ if path.len() > NAME_BYTES_MAX => records.add(b"path", &path),
            _ => {}
        }
        if link.len() > NAME_BYTES_MAX {
            records.add(b"linkpath", link);
        }
        records.meta(self.meta, size);
        if !records.0.is_empty() {
            header(
                EntryType::XHeader,
                b"PaxHeaders/entry",
                b"",
                records.0.len() as u64,
                &Meta::default(),
                to,
            );
            to.extend_from_slice(&records.0);
            pad(to);
        }
        header(kind, &path, link, size, self.meta, to);
        to.extend_from_slice(&map);
    }

    fn parts(&self, records: &mut Records) -> (EntryType, &[u8], u64, Vec<u8>) {
        match self.kind {
            HeadKind::Folder => (EntryType::Directory, b"", 0, Vec::new()),
            HeadKind::File { size } => (EntryType::Regular, b"", size, Vec::new()),
            HeadKind::Symlink { target } => (EntryType::Symlink, target, 0, Vec::new()),
            HeadKind::HardLink { to } => (EntryType::Link, to, 0, Vec::new()),
            HeadKind::Sparse { size, extents } => {
                records.add(b"GNU.sparse.major", b"1");
                records.add(b"GNU.sparse.minor", b"0");
                records.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
                let map = sparse_map(size, extents);
                let stored: u64 = extents.iter().map(|extent| extent.1).sum();
                (EntryType::Regular, b"", map.len() as u64 + stored, map)
            }
        }
    }
}

/// Numbers on lines of their own, padded to a record: how many pieces, then offset and length of each. A hole at the end is
/// told by an empty piece there.
fn sparse_map(size: u64, extents: &[Extent]) -> Vec<u8> {
    let end = extents.last().map_or(0, |Extent(offset, bytes)| offset + bytes);
    let last = (end < size).then_some(Extent(size, 0));
    let pieces: Vec<_> = extents.iter().copied().chain(last).collect();
    let mut map = format!("{}\n", pieces.len());
    for Extent(offset, bytes) in pieces {
        map.push_str(&format!("{offset}\n{bytes}\n"));
    }
    let mut map = map.into_bytes();
    pad(&mut map);
    map
}

/// Zeros that fill the last record behind `bytes` of content.
pub(crate) fn padding(bytes: u64) -> &'static [u8] {
    &END[..(bytes.next_multiple_of(RECORD_BYTES as u64) - bytes) as usize]
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(RECORD_BYTES), 0);
}

/// A name that does not fit is cut: the pax header before has all of it.
fn header(kind: EntryType, path: &[u8], link: &[u8], size: u64, meta: &Meta, to: &mut Vec<u8>) {
    let mut header = Header::new_ustar();
    {
        let fields = header.as_ustar_mut().expect("it was made as ustar");
        copy(&mut fields.name, path);
        copy(&mut fields.linkname, link);
    }
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid.min(ID_MAX).into());
    header.set_gid(meta.gid.min(ID_MAX).into());
    header.set_size(size.min(NUMBER_MAX));
    header.set_mtime(u64::try_from(meta.mtime.0).unwrap_or(0).min(NUMBER_MAX));
    header.set_cksum();
    to.extend_from_slice(header.as_bytes());
}

fn copy(to: &mut [u8], from: &[u8]) {
    let length = to.len().min(from.len());
    to[..length].copy_from_slice(&from[..length]);
}

/// The records of a pax header: `LENGTH KEY=VALUE` and a newline, where the length counts itself.
#[derive(Debug, Default)]
struct Records(Vec<u8>);

impl Records {
    fn meta(&mut self, meta: &Meta, size: u64) {
        if size > NUMBER_MAX {
            self.add(b"size", size.to_string().as_bytes());
        }
        for (key, id) in [(b"uid", meta.uid), (b"gid", meta.gid)] {
            if id > ID_MAX {
                self.add(key, id.to_string().as_bytes());
            }
        }
        let Moment(seconds, nanoseconds) = meta.mtime;
        if nanoseconds != 0 || u64::try_from(seconds).is_ok_and(|s| s > NUMBER_MAX) || seconds < 0 {
            self.add(b"mtime", decimal(meta.mtime).as_bytes());
        }
        self.xattrs(&meta.xattrs);
    }

    fn xattrs(&mut self, xattrs: &Xattrs) {
        for (name, value) in xattrs {
            let mut key = b"SCHILY.xattr.".to_vec();
            for byte in name {
                // As GNU tar writes them: an equals sign would end the key.
                match byte {
                    b'=' => key.extend_from_slice(b"%3D"),
                    b'%' => key.extend_from_slice(b"%25"),
                    other => key.push(*other),
                }
            }
            self.add(&key, value);
        }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + b" =\n".len();
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        let parts = [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat();
        self.0.extend_from_slice(&parts);
    }
}

/// `-1.5` for half a second after -2: the stored seconds are rounded down, a decimal's are not.
fn decimal(Moment(seconds, nanoseconds): Moment) -> String {
    match (seconds < 0, nanoseconds) {
        (_, 0) => seconds.to_string(),
        (false, _) => format!("{seconds}.{nanoseconds:09}"),
        (true, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in 0..1200 {
            let mut records = Records::default();
            records.add(b"path", &vec![b'x'; length]);
            let text = String::from_utf8(records.0.clone()).unwrap();
            let (number, _) = text.split_once(' ').unwrap();
            assert_eq!(number.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn times_before_1970_are_decimals() {
        assert_eq!(decimal(Moment(-2, 500_000_000)), "-1.500000000");
        assert_eq!(decimal(Moment(-1, 999_999_999)), "-0.000000001");
        assert_eq!(decimal(Moment(-3, 0)), "-3");
        assert_eq!(decimal(Moment(7, 5)), "7.000000005");
    }

    #[test]
    fn a_map_ends_where_the_file_does() {
        let map = sparse_map(100, &[Extent(10, 20)]);
        assert_eq!(map.len(), RECORD_BYTES);
        assert!(map.starts_with(b"2\n10\n20\n100\n0\n\0"));
        assert!(sparse_map(30, &[Extent(10, 20)]).starts_with(b"1\n10\n20\n\0"));
        assert!(sparse_map(100, &[]).starts_with(b"1\n100\n0\n\0"));
    }
}
