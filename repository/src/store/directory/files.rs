//! The blocking side of the directory store: paths, synced files, links, walks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags};

use crate::ids::{KeyPrefix, ObjectKey};
use crate::store::operation::Operation;
use crate::store::{FolderPage, ObjectMeta, StoreError, Version};

/// What is not yet an object lies here.
const HIDDEN: &str = ".tmp";
/// Of the files that a put writes before it gives them their name.
const PUT_PREFIX: &str = "put-";
/// A put takes seconds: what is so old was left by a process that was killed.
const PUT_MAX: Duration = Duration::from_hours(24);
/// Backups are the owner's alone, whatever the umask says.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const LINK_ON_THE_WAY: &str =
    "a folder on the way is a symbolic link; a disk is to be mounted there, not linked";
/// A folder may vanish under a put because a delete found it empty; more often than this in a row is another matter.
const FOLDER_ATTEMPTS_MAX: u32 = 8;

/// The folder that holds everything.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
}

impl Root {
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let opened = make_folder(&path).and_then(|()| path.canonicalize()).and_then(|path| {
            let root = Self { path };
            root.begin_uploads()?;
            Ok(root)
        });
        opened.map_err(|source| place_error(source, &path))
    }

    /// The same, where nothing is made but for what is put.
    pub(super) fn open_existing(path: &Path) -> Result<Self, StoreError> {
        let opened = path.canonicalize().and_then(|path| fs::read_dir(&path).map(|_| path));
        opened.map(|path| Self { path }).map_err(|source| place_error(source, path))
    }

    /// The same, whether it is there or not: until it is, everything fails as in a place that is away.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path: path.canonicalize().unwrap_or(path) }
    }

    /// That nothing is found where the folder itself has gone, such as a disk that was taken away, says nothing of what was there.
    pub(super) fn unless_gone(&self, error: StoreError) -> StoreError {
        match (error, self.path.metadata()) {
            (StoreError::NotFound { .. }, Err(source)) => place_error(source, &self.path),
            (error, _) => error,
        }
    }

    pub(super) fn location(&self) -> String {
        format!("file://{}", self.path.display())
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.path.join(HIDDEN).join("uploads")
    }

    /// The folder of uploads, made where the root has none yet.
    pub(super) fn begin_uploads(&self) -> io::Result<PathBuf> {
        let hidden = self.path.join(HIDDEN);
        make_folder(&hidden)?;
        make_folder(&self.uploads())?;
        sweep_puts(&hidden)?;
        Ok(self.uploads())
    }

    pub(super) fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<Version, StoreError> {
        let temporary = self.temporary(key, body)?;
        self.link_new(temporary.path(), key, Operation::Put)?;
        self.stat(key, Operation::Put).map(|meta| meta.version)
    }

    pub(super) fn put_if_version(
        &self,
        key: &ObjectKey,
        body: &[u8],
        wanted: &Version,
    ) -> Result<Version, StoreError> {
        let fail = |e| io_error(e, Operation::Put, key);
        let temporary = self.temporary(key, body)?;
        let lock = writable().create(true).truncate(false).open(self.path.join(HIDDEN).join("lock"));
        let lock = lock.map_err(fail)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        if self.stat(key, Operation::Put)?.version != *wanted {
            return Err(StoreError::VersionChanged { key: key.to_string() });
        }
        let path = self.resolve(key, Operation::Put)?;
        fs::rename(temporary.path(), &path).map_err(fail)?;
        sync_folder_of(&path).map_err(fail)?;
        self.stat(key, Operation::Put).map(|meta| meta.version)
    }

    /// Gives the file at `from` its name, unless that is taken; makes the folders above it. `from` stays or goes.
    pub(super) fn link_new(
        &self,
        from: &Path,
        key: &ObjectKey,
        operation: Operation,
    ) -> Result<(), StoreError> {
        let to = self.resolve(key, operation)?;
        for attempt in 1.. {
            let linked = self.make_parents(key).and_then(|()| link_or_rename(from, &to));
            match linked {
                Err(e) if e.kind() == ErrorKind::NotFound && attempt < FOLDER_ATTEMPTS_MAX => continue,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    return Err(StoreError::AlreadyExists { key: key.to_string() });
                }
                Err(e) if e.kind() == ErrorKind::Unsupported => {
                    return Err(StoreError::Unsupported { operation: "put an object only if it is absent" });
                }
                other => {
                    other.and_then(|()| sync_folder_of(&to)).map_err(|e| io_error(e, operation, key))?;
                    return Ok(());
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    pub(super) fn open_object(
        &self,
        key: &ObjectKey,
        operation: Operation,
    ) -> Result<(File, ObjectMeta), StoreError> {
        let path = self.resolve(key, operation)?;
        let opened = OpenOptions::new().read(true).custom_flags(no_follow()).open(path);
        let file = opened.map_err(|e| self.unless_gone(io_error(e, operation, key)))?;
        let meta = file.metadata().map_err(|e| io_error(e, operation, key))?;
        match object_meta(key.clone(), &meta) {
            Some(object) => Ok((file, object)),
            None => Err(StoreError::NotFound { key: key.to_string() }),
        }
    }

    fn stat(&self, key: &ObjectKey, operation: Operation) -> Result<ObjectMeta, StoreError> {
        self.open_object(key, operation).map(|(_, meta)| meta)
    }

    /// Every object below `prefix` in key order; `found` says whether to go on.
    pub(super) fn walk(
        &self,
        prefix: &KeyPrefix,
        after: Option<&ObjectKey>,
        found: &mut dyn FnMut(ObjectMeta) -> bool,
    ) -> Result<(), StoreError> {
        self.refuse_link(prefix, Operation::List)?;
        let walked = self.walk_folder(prefix.as_str(), after.map_or("", ObjectKey::as_str), found);
        walked.map(|_| ()).map_err(|e| self.unless_gone(io_error(e, Operation::List, prefix)))
    }

    /// `folder` is empty or ends with `/`. Returns whether to go on.
    fn walk_folder(
        &self,
        folder: &str,
        after: &str,
        found: &mut dyn FnMut(ObjectMeta) -> bool,
    ) -> io::Result<bool> {
        for (name, is_folder) in self.entries(folder)? {
            let key = format!("{folder}{name}");
            if is_folder {
                // Nothing below a folder that sorts before `after` can sort behind it, unless `after` lies in it.
                let behind = key.as_str() > after || after.starts_with(&key);
                if behind && !self.walk_folder(&key, after, found)? {
                    return Ok(false);
                }
                continue;
            }
            let Ok(key) = key.parse::<ObjectKey>() else { continue };
            if key.as_str() <= after {
                continue;
            }
            match fs::symlink_metadata(self.path.join(key.as_str())) {
                Ok(meta) => {
                    if object_meta(key, &meta).is_some_and(|meta| !found(meta)) {
                        return Ok(false);
                    }
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Names in a folder, in the order of the keys below them: a folder's name counts with its `/`.
    fn entries(&self, folder: &str) -> io::Result<Vec<(String, bool)>> {
        let listing = match fs::read_dir(self.path.join(folder)) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                // Below a folder that is there itself.
                return self.path.metadata().map(|_| Vec::new());
            }
            other => other?,
        };
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry?;
            let (kind, name) = (entry.file_type()?, entry.file_name());
            // A name that is no UTF-8 is no key; a link is none of ours.
            let Some(name) = name.to_str().filter(|name| !(folder.is_empty() && *name == HIDDEN)) else {
                continue;
            };
            if kind.is_dir() {
                entries.push((format!("{name}/"), true));
            } else if kind.is_file() {
                entries.push((name.to_owned(), false));
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    /// The folders directly below `prefix` that hold an object somewhere.
    pub(super) fn folders(&self, prefix: &KeyPrefix) -> Result<Vec<String>, StoreError> {
        let mut names = self.folders_from(prefix, "", usize::MAX)?.names;
        names.sort_unstable();
        Ok(names)
    }

    /// The first of these whose name with its `/` sorts after `from`, in that order.
    pub(super) fn folders_from(
        &self,
        prefix: &KeyPrefix,
        from: &str,
        at_most: usize,
    ) -> Result<FolderPage, StoreError> {
        self.refuse_link(prefix, Operation::ListFolders)?;
        let named = || -> io::Result<FolderPage> {
            let mut page = FolderPage::default();
            let entries = self.entries(prefix.as_str())?;
            for (name, _) in
                entries.into_iter().filter(|(name, is_folder)| *is_folder && name.as_str() > from)
            {
                let path = format!("{}{name}", prefix.as_str());
                if self.walk_folder(&path, "", &mut |_| false)? {
                    continue;
                }
                if page.names.len() == at_most {
                    page.more = true;
                    break;
                }
                page.names.push(name.trim_end_matches('/').to_owned());
            }
            Ok(page)
        };
        named().map_err(|e| self.unless_gone(io_error(e, Operation::ListFolders, prefix)))
    }

    /// Removes the file, and the folders above it that it leaves empty.
    pub(super) fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let path = match self.resolve(key, Operation::Delete) {
            Err(StoreError::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        match fs::remove_file(&path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            other => {
                other.and_then(|()| sync_folder_of(&path)).map_err(|e| io_error(e, Operation::Delete, key))?
            }
        }
        // A folder that is not empty stops this; so does the root.
        let parents = path.ancestors().skip(1).take_while(|parent| *parent != self.path);
        for parent in parents {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The key's path, after seeing that no symbolic link leads it elsewhere and that it is not in the hidden folder.
    pub(super) fn resolve(&self, key: &ObjectKey, operation: Operation) -> Result<PathBuf, StoreError> {
        let refused = |why: &str| StoreError::Refused {
            operation: operation.name(),
            key: key.to_string(),
            source: why.into(),
        };
        let mut segments: Vec<&str> = key.as_str().split('/').collect();
        if segments[0] == HIDDEN {
            return Err(refused("the name is taken by the store itself"));
        }
        segments.pop();
        match self.way(&segments.join("/")) {
            Ok(Way::Clear) => Ok(self.path.join(key.as_str())),
            Ok(Way::Link) => Err(refused(LINK_ON_THE_WAY)),
            Ok(Way::Blocked) => Err(refused("a folder on the way is none")),
            Err(e) => Err(io_error(e, operation, key)),
        }
    }

    /// What lies behind a link is none of ours; that nothing lies there would be another answer.
    fn refuse_link(&self, prefix: &KeyPrefix, operation: Operation) -> Result<(), StoreError> {
        match self.way(prefix.as_str()) {
            Ok(Way::Clear | Way::Blocked) => Ok(()),
            Ok(Way::Link) => {
                let (operation, key) = (operation.name(), prefix.to_string());
                Err(StoreError::Refused { operation, key, source: LINK_ON_THE_WAY.into() })
            }
            Err(e) => Err(io_error(e, operation, prefix)),
        }
    }

    /// What stands on the way through the folders that exist.
    fn way(&self, folder: &str) -> io::Result<Way> {
        let mut path = self.path.clone();
        for segment in folder.split('/').filter(|segment| !segment.is_empty()) {
            path.push(segment);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_symlink() => return Ok(Way::Link),
                Ok(meta) if !meta.is_dir() => return Ok(Way::Blocked),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Way::Clear),
                Err(e) => return Err(e),
            }
        }
        Ok(Way::Clear)
    }

    fn make_parents(&self, key: &ObjectKey) -> io::Result<()> {
        let mut path = self.path.clone();
        let (parents, _) = key.as_str().rsplit_once('/').unwrap_or(("", ""));
        for segment in parents.split('/').filter(|segment| !segment.is_empty()) {
            path.push(segment);
            make_folder(&path)?;
        }
        Ok(())
    }

    /// A synced file that is removed on drop.
    fn temporary(&self, key: &ObjectKey, body: &[u8]) -> Result<tempfile::NamedTempFile, StoreError> {
        let made = || -> io::Result<tempfile::NamedTempFile> {
            let hidden = self.path.join(HIDDEN);
            make_folder(&hidden)?;
            // tempfile makes files with mode 0600.
            let mut file = tempfile::Builder::new().prefix(PUT_PREFIX).tempfile_in(hidden)?;
            file.write_all(body)?;
            file.as_file().sync_all()?;
            Ok(file)
        };
        made().map_err(|e| self.unless_gone(io_error(e, Operation::Put, key)))
    }
}

/// Removes what killed processes left of their puts.
fn sweep_puts(hidden: &Path) -> io::Result<()> {
    for entry in fs::read_dir(hidden)? {
        let entry = entry?;
        let is_put = entry.file_name().to_string_lossy().starts_with(PUT_PREFIX);
        let age = |meta: fs::Metadata| meta.modified().ok()?.elapsed().ok();
        if is_put && entry.metadata().ok().and_then(age).is_some_and(|age| age > PUT_MAX) {
            // Another process may be quicker.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// What stands on the way to a folder.
enum Way {
    /// Folders only, as far as there are any.
    Clear,
    Link,
    /// Something that is no folder.
    Blocked,
}

/// Opens for reading and writing with this store's mode, never through a link.
pub(super) fn writable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE).custom_flags(no_follow());
    options
}

/// Makes one folder, synced into its parent; one that is there already is fine.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.and_then(|()| sync_folder_of(path)),
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(parent)?.sync_all() {
        // Some network file systems cannot sync a folder; they keep names in order on their own.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

/// A hard link; where the file system has none, a rename that does not replace.
fn link_or_rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            rename_new(from, to)
                .map_err(|renamed| if renamed.kind() == ErrorKind::AlreadyExists { renamed } else { e })
        }
        other => other,
    }
}

#[cfg(target_os = "linux")]
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(target_os = "linux"))]
fn rename_new(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

fn no_follow() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

fn object_meta(key: ObjectKey, meta: &fs::Metadata) -> Option<ObjectMeta> {
    if !meta.is_file() {
        return None;
    }
    let version = format!("{:x}-{:x}-{:x}.{:x}", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    Some(ObjectMeta { key, bytes: meta.len(), version: Version(version), modified_at: modified(meta) })
}

pub(super) fn modified(meta: &fs::Metadata) -> Timestamp {
    let nanoseconds = i32::try_from(meta.mtime_nsec()).unwrap_or(0);
    Timestamp::new(meta.mtime(), nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn place_error(source: io::Error, path: &Path) -> StoreError {
    let location = format!("file://{}", path.display());
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            StoreError::NoSuchPlace { location, source: Box::new(source) }
        }
        _ => io_error(source, Operation::Head, &location),
    }
}

/// What an error of the file system means to a caller.
pub(super) fn io_error(source: io::Error, operation: Operation, key: &impl ToString) -> StoreError {
    let (operation, key) = (operation.name(), key.to_string());
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => StoreError::NotFound { key },
        ErrorKind::AlreadyExists => StoreError::AlreadyExists { key },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::NoSpace { key, source: Box::new(source) }
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            StoreError::Denied { operation, key, source: Box::new(source) }
        }
        ErrorKind::StaleNetworkFileHandle
        | ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => {
            StoreError::Unreachable { operation, key, source: Box::new(source) }
        }
        _ => StoreError::Refused { operation, key, source: Box::new(source) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Absent and unreachable lead to different acts, and so does a full disk.
    #[test]
    fn errors_of_the_file_system_are_the_outcomes_of_a_store() {
        use ErrorKind as K;
        let of = |kind: ErrorKind| io_error(kind.into(), Operation::Get, &"a");
        for kind in [K::NotFound, K::NotADirectory] {
            assert!(matches!(of(kind), StoreError::NotFound { .. }), "{kind}");
        }
        for kind in [K::StorageFull, K::QuotaExceeded] {
            assert!(matches!(of(kind), StoreError::NoSpace { .. }), "{kind}");
        }
        for kind in [K::PermissionDenied, K::ReadOnlyFilesystem] {
            assert!(matches!(of(kind), StoreError::Denied { .. }), "{kind}");
        }
        for kind in [K::StaleNetworkFileHandle, K::TimedOut, K::HostUnreachable, K::NetworkUnreachable] {
            assert!(of(kind).is_transient(), "{kind}");
        }
        assert!(matches!(of(K::AlreadyExists), StoreError::AlreadyExists { .. }));
        assert!(matches!(of(K::InvalidData), StoreError::Refused { .. }));
    }

    /// Where there are no hard links.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_rename_in_place_of_a_link_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, "new").unwrap();
        rename_new(&from, &to).unwrap();
        assert!(!from.exists());
        fs::write(&from, "newer").unwrap();
        assert_eq!(rename_new(&from, &to).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&to).unwrap(), "new");
    }
}
