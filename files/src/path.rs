//! Paths as they are stored: bytes, relative to the root of the file system, and never leading out of it.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `srv/uploads/a.txt`: not empty, not absolute, and without empty, `.` and `..` components or zero bytes.
///
/// They are ordered as a walk meets them: name by name, and a folder before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoredPath(Vec<u8>);

impl Ord for StoredPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for StoredPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no path below a folder")]
pub struct PathError(String);

impl StoredPath {
    pub fn new(bytes: Vec<u8>) -> Result<Self, PathError> {
        match bytes.split(|byte| *byte == b'/').all(is_name) {
            true => Ok(Self(bytes)),
            false => Err(PathError(escape(&bytes))),
        }
    }

    /// Of an absolute path, or of one that is below the root already; `None` is the root itself. Repeated slashes and `.`
    /// are left out.
    pub fn below_root(path: &Path) -> Result<Option<Self>, PathError> {
        let components = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
        let names: Vec<_> = components.filter(|name| !name.is_empty() && *name != b".").collect();
        match names.is_empty() {
            true => Ok(None),
            false => Self::new(names.join(&b'/')).map(Some),
        }
    }

    /// An entry of the folder `parent`; of the root for `None`.
    pub fn child(parent: Option<&Self>, name: &[u8]) -> Result<Self, PathError> {
        if !is_name(name) {
            return Err(PathError(escape(name)));
        }
        let mut path = parent.map_or_else(Vec::new, |parent| [parent.as_bytes(), b"/"].concat());
        path.extend_from_slice(name);
        Ok(Self(path))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names from the top down; never empty.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// The folder it lies in, and its name there.
    pub fn split(&self) -> (Option<Self>, &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Some(Self(self.0[..slash].to_vec())), &self.0[slash + 1..]),
            None => (None, &self.0),
        }
    }

    /// It, and then the folders it lies in, from the inside out.
    pub fn and_folders(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.clone()), |path| path.split().0)
    }

    /// Whether it is `folder` or lies below it.
    pub fn is_within(&self, folder: &Self) -> bool {
        self.0.strip_prefix(&folder.0[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

/// Absolute, with what is no text as `%FF`.
impl fmt::Display for StoredPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", escape(&self.0))
    }
}

impl Serialize for StoredPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for StoredPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unescape(&text).ok_or_else(|| de::Error::custom("a path is badly escaped"))?;
        Self::new(bytes).map_err(de::Error::custom)
    }
}

/// Bytes as text: `%` and whatever is not UTF-8 become `%` and two hexadecimal digits.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '%' => text.push_str("%25"),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "%{byte:02X}").expect("a string takes all");
        }
    }
    text
}

/// The bytes that [`escape`] was given; `None` for what it never makes.
pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        bytes.push(*data_encoding::HEXUPPER_PERMISSIVE.decode(digits).ok()?.first()?);
        rest = tail;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_of_a_folder_is_no_path() {
        for bad in ["", "/etc/passwd", "../x", "a/../x", "a//b", "a/", ".", "a/.", "a\0b"] {
            assert!(StoredPath::new(bad.as_bytes().to_vec()).is_err(), "{bad:?}");
        }
        assert!(StoredPath::new(b"a/..b/.c".to_vec()).is_ok());
        assert_eq!(StoredPath::below_root(Path::new("/")).unwrap(), None);
        assert_eq!(StoredPath::below_root(Path::new("//srv/./a/")).unwrap().unwrap().as_bytes(), b"srv/a");
        assert!(StoredPath::below_root(Path::new("/srv/../etc")).is_err());
    }

    #[test]
    fn a_path_is_within_its_folders_only() {
        let path = |text: &str| StoredPath::new(text.as_bytes().to_vec()).unwrap();
        assert!(path("srv/a").is_within(&path("srv")));
        assert!(path("srv").is_within(&path("srv")));
        assert!(!path("srv2").is_within(&path("srv")));
        assert!(path("srv") < path("srv/a") && path("srv/a") < path("srv-2"));
        let folders: Vec<_> = path("a/b/c").and_folders().collect();
        assert_eq!(folders, [path("a/b/c"), path("a/b"), path("a")]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_come_back(bytes: Vec<u8>) {
            proptest::prop_assert_eq!(unescape(&escape(&bytes)), Some(bytes));
        }
    }
}
