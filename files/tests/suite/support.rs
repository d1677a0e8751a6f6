//! A backup of a folder in a counted memory store, and trees compared by walking them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pgproof_files::Watch;
use pgproof_files::archive::{Archive, ArchiveError};
use pgproof_files::backup::{self, Backed, BackupError, Memory, Own, Remembered};
use pgproof_files::entry::Moment;
use pgproof_files::host_index::HostIndex;
use pgproof_files::inventory::{FORMAT, Frames, Inventory, VERSION};
use pgproof_files::path::StoredPath;
use pgproof_files::restore::{Report, Restore, RestoreError};
use pgproof_policies::policy::FilesSource;
use pgproof_repository::ids::{BackupId, ObjectKey};
use pgproof_repository::keys::{Identities, NoPrompts, Recipients, generate_identity};
use pgproof_repository::sealed::{Expected, SealedReader, SealedSummary, Sealer};
use pgproof_repository::store::counting::{Counters, CountingStore};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::{PutCondition, SharedStore};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::Receiver;

/// A backup that was made and can be read.
pub(crate) struct Sealed {
    pub(crate) archive: Archive,
    pub(crate) inventory: Inventory,
    pub(crate) counters: Counters,
    pub(crate) index_bytes: usize,
    /// The tar, as age and zstd would give it.
    pub(crate) tar: Vec<u8>,
    // Readers block on it.
    _runtime: Runtime,
}

pub(crate) fn source(paths: &[&Path]) -> FilesSource {
    FilesSource { paths: paths.iter().map(|path| path.to_path_buf()).collect(), ..FilesSource::default() }
}

pub(crate) fn back_up(source: &FilesSource, watch: &dyn Watch) -> Result<Sealed, BackupError> {
    make(source, None, watch).map(|(sealed, _)| sealed)
}

/// What a backup leaves for the next one.
struct Left {
    host_index: Vec<u8>,
    bases: Vec<u32>,
    own: Own,
}

/// With the moment when a walk began, and what is known of an earlier backup, it is one of a chain.
fn make(
    source: &FilesSource,
    memory: Option<(Moment, Option<HostIndex>)>,
    watch: &dyn Watch,
) -> Result<(Sealed, Option<Left>), BackupError> {
    let keys = Keys::new();
    let ((data, data_parts), (index, index_parts)) = (keys.sealer(), keys.sealer());
    let runtime = Runtime::new().unwrap();
    let (data_bytes, index_bytes) = (runtime.spawn(collect(data_parts)), runtime.spawn(collect(index_parts)));
    let (host, host_parts) = keys.sealer();
    let host_bytes = runtime.spawn(collect(host_parts));
    let memory = memory.map(|(began, earlier)| Memory::new(began, earlier, host)).transpose()?;
    let backed = backup::run(source, data, index, memory, watch)?;
    let Backed { data, index, index_starts, totals, own, remembered } = backed;
    let (data_bytes, index_bytes, host_bytes) = runtime.block_on(async {
        (data_bytes.await.unwrap(), index_bytes.await.unwrap(), host_bytes.await.unwrap())
    });
    let left = remembered.map(|Remembered { host_index, bases }| {
        let host_index = keys.plain(&runtime, &host_index, host_bytes);
        Left { host_index, bases, own }
    });
    let inventory = Inventory {
        format: FORMAT.to_owned(),
        version: VERSION,
        data: Frames::of("data".to_owned(), &data.frames),
        index: Frames::of("index".to_owned(), &index.frames),
        index_starts,
        totals,
    };
    Ok((keys.open(runtime, inventory, (data, data_bytes), (index, index_bytes)), left))
}

/// A full backup, and others that follow it.
pub(crate) struct Chain {
    pub(crate) source: FilesSource,
    pub(crate) members: Vec<Member>,
}

pub(crate) struct Member {
    pub(crate) sealed: Sealed,
    pub(crate) own: Own,
    /// What the next backup is told of it.
    pub(crate) host_index: Vec<u8>,
    /// The places in the chain of those that hold bytes of it, as they are numbered.
    pub(crate) bases: Vec<usize>,
}

impl Chain {
    pub(crate) fn of(root: &Path) -> Self {
        Self { source: source(&[root]), members: Vec::new() }
    }

    /// A backup for which whatever was written before now is long ago.
    pub(crate) fn go_on(&mut self) -> &Member {
        self.go_on_at(in_an_hour(), &pgproof_files::Unwatched).unwrap()
    }

    pub(crate) fn go_on_at(&mut self, began: Moment, watch: &dyn Watch) -> Result<&Member, BackupError> {
        let parent = self.members.len().checked_sub(1);
        let earlier = parent.map(|parent| {
            let Member { host_index, bases, .. } = &self.members[parent];
            HostIndex::open(Box::new(std::io::Cursor::new(host_index.clone())), bases.len() as u32)
        });
        let (sealed, left) = make(&self.source, Some((began, earlier.transpose()?)), watch)?;
        let Left { host_index, bases, own } = left.unwrap();
        let place = |number: &u32| match number.checked_sub(1) {
            None => parent.unwrap(),
            Some(number) => self.members[parent.unwrap()].bases[number as usize],
        };
        let bases: Vec<usize> = bases.iter().map(place).collect();
        let opened = bases.iter().map(|place| (id(*place), self.members[*place].sealed.archive.clone()));
        let sealed = sealed.with_bases(opened.collect());
        self.members.push(Member { sealed, own, host_index, bases });
        Ok(self.members.last().unwrap())
    }
}

/// A backup with what is known of an earlier one, which is never kept.
pub(crate) fn follow(source: &FilesSource, earlier: HostIndex) -> Result<(), BackupError> {
    make(source, Some((in_an_hour(), Some(earlier))), &pgproof_files::Unwatched).map(drop)
}

fn id(place: usize) -> BackupId {
    format!("20261124T02{:02}{:02}Z-aaaaaa", place / 60, place % 60).parse().unwrap()
}

pub(crate) fn now() -> Moment {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Moment(now.as_secs() as i64, now.subsec_nanos())
}

pub(crate) fn in_an_hour() -> Moment {
    Moment(now().0 + 3600, 0)
}

/// A backup whose index holds exactly these lines, whatever they say.
pub(crate) fn forge(tar: &[u8], lines: &str, totals: pgproof_files::inventory::Totals) -> Sealed {
    let keys = Keys::new();
    let runtime = Runtime::new().unwrap();
    let seal = |bytes: &[u8]| {
        let (mut sealer, parts) = keys.sealer();
        let collecting = runtime.spawn(collect(parts));
        sealer.submit(pgproof_repository::sealed::SealJob::new(bytes.to_vec(), |_| ())).unwrap();
        let summary = sealer.finish().unwrap();
        (summary, runtime.block_on(collecting).unwrap())
    };
    let (data, index) = (seal(tar), seal(lines.as_bytes()));
    let inventory = Inventory {
        format: FORMAT.to_owned(),
        version: VERSION,
        data: Frames::of("data".to_owned(), &data.0.frames),
        index: Frames::of("index".to_owned(), &index.0.frames),
        index_starts: Vec::new(),
        totals,
    };
    keys.open(runtime, inventory, data, index)
}

struct Keys {
    recipients: Recipients,
    identities: Identities,
}

impl Keys {
    fn new() -> Self {
        let (secret, recipient) = generate_identity();
        let identities = Identities::parse(&secret, Path::new("identity"), Arc::new(NoPrompts)).unwrap();
        Self { recipients: Recipients::parse([recipient]).unwrap(), identities }
    }

    fn sealer(&self) -> (Sealer<()>, Receiver<Bytes>) {
        const PART_BYTES: u64 = 5 << 20;
        Sealer::start(&self.recipients, 3, 2, |_| PART_BYTES).unwrap()
    }

    fn plain(&self, runtime: &Runtime, summary: &SealedSummary<()>, bytes: Bytes) -> Vec<u8> {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let key: ObjectKey = "host".parse().unwrap();
        runtime.block_on(store.put(&key, bytes, PutCondition::IfAbsent)).unwrap();
        let expected = Expected { plaintext: summary.plaintext, ciphertext: summary.ciphertext };
        let reader = SealedReader::open(store, runtime.handle().clone(), key, expected, &self.identities);
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut reader.unwrap().stream().unwrap(), &mut plain).unwrap();
        plain
    }

    fn open(
        &self,
        runtime: Runtime,
        inventory: Inventory,
        data: (SealedSummary<()>, Bytes),
        index: (SealedSummary<()>, Bytes),
    ) -> Sealed {
        let counting = CountingStore::new(Arc::new(MemoryStore::new()));
        let counters = counting.counters();
        let store: SharedStore = Arc::new(counting);
        let index_bytes = index.1.len();
        let open = |name: &str, (summary, bytes): (SealedSummary<()>, Bytes)| {
            let key: ObjectKey = name.parse().unwrap();
            runtime.block_on(store.put(&key, bytes, PutCondition::IfAbsent)).unwrap();
            let expected = Expected { plaintext: summary.plaintext, ciphertext: summary.ciphertext };
            SealedReader::open(store.clone(), runtime.handle().clone(), key, expected, &self.identities)
                .unwrap()
        };
        let (data, index) = (open("data", data), open("index", index));
        let mut tar = Vec::new();
        std::io::Read::read_to_end(&mut data.stream().unwrap(), &mut tar).unwrap();
        let archive = Archive::new(data, index, inventory.clone()).unwrap();
        counters.reset();
        Sealed { archive, inventory, counters, index_bytes, tar, _runtime: runtime }
    }
}

async fn collect(mut parts: Receiver<Bytes>) -> Bytes {
    let mut sealed = Vec::new();
    while let Some(part) = parts.recv().await {
        sealed.extend_from_slice(&part);
    }
    sealed.into()
}

impl Sealed {
    pub(crate) fn with_bases(self, bases: Vec<(BackupId, Archive)>) -> Self {
        Self { archive: self.archive.clone().with_bases(bases), ..self }
    }

    /// Everything, into a folder that is empty.
    pub(crate) fn restore_to(&self, target: &Path) -> Report {
        self.restore(&into(target)).unwrap()
    }

    pub(crate) fn restore(&self, restore: &Restore) -> Result<Report, RestoreError> {
        let plan = restore.plan(&self.archive)?;
        restore.run(&self.archive, &plan, &pgproof_files::Unwatched)
    }

    pub(crate) fn entries(&self) -> Result<Vec<pgproof_files::entry::Entry>, ArchiveError> {
        self.archive.entries()?.map(|item| item.map(|(_, entry)| entry)).collect()
    }

    /// The notes by the last name of what they are about.
    pub(crate) fn notes(&self) -> BTreeMap<String, pgproof_files::entry::Note> {
        let name = |path: &StoredPath| path.to_string().rsplit('/').next().unwrap().to_owned();
        let entries = self.entries().unwrap();
        entries.iter().filter_map(|entry| Some((name(&entry.path), entry.note?))).collect()
    }
}

pub(crate) fn into(target: &Path) -> Restore {
    Restore { target: target.to_owned(), paths: Vec::new(), overwrite: None, special_bits: false }
}

/// Where a folder comes to lie in a target.
pub(crate) fn below(target: &Path, original: &Path) -> PathBuf {
    target.join(original.strip_prefix("/").unwrap())
}

/// What a tree is, by paths below it: kind, mode, owner, time, size, blocks, content or target, attributes, and by which first
/// name a hard link is known.
pub(crate) fn look(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut links = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        found.insert(name_below(root, &folder), described(&folder, None));
        let mut entries: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let stat = path.symlink_metadata().unwrap();
            if stat.is_dir() {
                folders.push(path);
                continue;
            }
            let name = name_below(root, &path);
            let names: &mut Vec<Vec<u8>> = links.entry((stat.dev(), stat.ino())).or_default();
            names.push(name.clone());
            found.insert(name, described(&path, Some(stat.nlink())));
        }
    }
    // Which names are one file, whatever its number is.
    for names in links.values().filter(|names| names.len() > 1) {
        for name in names {
            let mut names = names.clone();
            names.sort();
            found.get_mut(name).unwrap().push_str(&format!(" is {names:?}"));
        }
    }
    found
}

fn name_below(root: &Path, path: &Path) -> Vec<u8> {
    path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec()
}

fn described(path: &Path, links: Option<u64>) -> String {
    let stat = path.symlink_metadata().unwrap();
    let content = match stat.file_type() {
        kind if kind.is_symlink() => format!("-> {:?}", std::fs::read_link(path).unwrap()),
        kind if kind.is_file() => {
            let bytes = std::fs::read(path).unwrap();
            format!("{} {:?}", stat.len(), <sha2::Sha256 as sha2::Digest>::digest(&bytes))
        }
        _ => String::new(),
    };
    format!(
        "{:o} {}:{} {}.{:09} {links:?} {content} {:?}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.mtime(),
        stat.mtime_nsec(),
        xattrs(path)
    )
}

pub(crate) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value[..length].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// A name of any bytes.
pub(crate) fn odd(folder: &Path, name: &[u8]) -> PathBuf {
    folder.join(OsStr::from_bytes(name))
}
