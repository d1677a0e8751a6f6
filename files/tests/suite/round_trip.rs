//! What is backed up and restored is what was there: kinds, contents, modes, times, owners, attributes, links, holes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::{back_up, below, in_an_hour, into, look, now, odd, source};
use pgproof_files::backup::{Size, measure};
use pgproof_files::entry::{Body, Moment, Note};
use pgproof_files::path::StoredPath;
use pgproof_files::restore::{Overwrite, Restore};
use pgproof_files::{Unwatched, Watch};
use proptest::prelude::*;

/// Some of everything.
pub(crate) fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("uploads/2026/empty")).unwrap();
    fs::write(root.join("uploads/a.txt"), "first").unwrap();
    fs::write(root.join("uploads/none"), "").unwrap();
    fs::write(root.join("uploads/2026/large"), noise(9 << 20)).unwrap();
    for number in 0..200 {
        fs::write(root.join(format!("uploads/2026/{number:03}.txt")), format!("file {number}\n").repeat(40))
            .unwrap();
    }
    fs::hard_link(root.join("uploads/a.txt"), root.join("uploads/2026/a again")).unwrap();
    fs::hard_link(root.join("uploads/a.txt"), root.join("z last")).unwrap();
    symlink("/", root.join("uploads/to the root")).unwrap();
    symlink("../gone", root.join("uploads/dangling")).unwrap();
    symlink("uploads", root.join("to a folder")).unwrap();
    fs::write(odd(root, b"new\nline"), "n").unwrap();
    fs::write(odd(root, b"latin \xe9 % \\x"), "l").unwrap();
    fs::write(root.join("n".repeat(200)), "long name").unwrap();
    fs::write(odd(root, &[0xe9; 150]), "long and no text").unwrap();
    let long = root.join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), "deep").unwrap();
    symlink("t".repeat(300), root.join("long target")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 5 << 20).unwrap();
    sparse.set_len(40 << 20).unwrap();
    File::create(root.join("only a hole")).unwrap().set_len(3 << 20).unwrap();
    fs::set_permissions(root.join("uploads/a.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(root.join("uploads/2026/empty"), fs::Permissions::from_mode(0o1770)).unwrap();
    fs::set_permissions(root.join("uploads/none"), fs::Permissions::from_mode(0o000)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("uploads/a.txt"), "user.note", b"a=\0b", flags).unwrap();
    rustix::fs::setxattr(root.join("uploads"), "user.folder", b"yes", flags).unwrap();
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::new(3, 250_000_000);
    File::open(root.join("sparse")).unwrap().set_modified(before_1970).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(root.join("uploads/a.txt"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(root.join("to a folder"), Some(77), Some(3_000_000)).unwrap();
        std::os::unix::fs::chown(root.join("uploads/2026"), Some(5_000_000), None).unwrap();
    }
    File::open(root.join("uploads/2026")).unwrap().set_modified(before_1970).unwrap();
}

/// Bytes that do not compress, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

pub(crate) fn stored(path: &Path) -> StoredPath {
    StoredPath::below_root(path).unwrap().unwrap()
}

#[test]
fn a_restored_tree_is_the_one_that_was_backed_up() {
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_tree(tree.path());
    let before = look(tree.path());
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    assert_eq!(sealed.notes(), [].into());
    let report = sealed.restore_to(target.path());
    assert_eq!((report.problem_count, report.kept), (0, 0), "{report:?}");
    let restored = below(target.path(), tree.path());
    similar(&look(&restored), &before);
    assert_eq!(look(tree.path()), before, "the source was changed");
    let blocks = |name: &str| restored.join(name).metadata().unwrap().blocks() * 512;
    assert!(blocks("sparse") < 1 << 20 && blocks("only a hole") < 64 << 10);
    assert_eq!(sealed.archive.check(&Unwatched).unwrap(), Vec::<String>::new());
}

pub(crate) fn similar(
    found: &std::collections::BTreeMap<Vec<u8>, String>,
    expected: &std::collections::BTreeMap<Vec<u8>, String>,
) {
    for (name, was) in expected {
        assert_eq!(found.get(name), Some(was), "{}", String::from_utf8_lossy(name));
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn gnu_tar_restores_the_same_tree() {
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_tree(tree.path());
    let before = look(tree.path());
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"]).arg(target.path());
    let mut child = tar.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let bytes = sealed.tar.clone();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut pipe, &bytes));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let restored = below(target.path(), tree.path());
    similar(&look(&restored), &before);
    assert!(restored.join("sparse").metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn one_file_is_fetched_by_itself() {
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for number in 0..6 {
        let mut bytes = noise(8 << 20);
        bytes[0] = number;
        fs::write(tree.path().join(format!("{number}.bin")), bytes).unwrap();
    }
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let wanted = tree.path().join("3.bin");
    let restore = Restore { paths: vec![stored(&wanted)], ..into(target.path()) };
    sealed.counters.reset();
    let report = sealed.restore(&restore).unwrap();
    assert_eq!((report.restored.files, report.problem_count), (1, 0));
    assert_eq!(fs::read(below(target.path(), &wanted)).unwrap(), fs::read(&wanted).unwrap());
    let read = sealed.counters.bytes_read();
    assert!(read < 2 * (8 << 20), "{read} bytes were read");
    let missing = Restore { paths: vec![stored(&tree.path().join("no"))], ..into(target.path()) };
    assert!(missing.plan(&sealed.archive).is_err());
}

#[test]
fn one_of_many_files_is_found_without_reading_all_of_the_index() {
    let tree = tempfile::tempdir().unwrap();
    for folder in ["a", "b", "b-2", "c"] {
        fs::create_dir(tree.path().join(folder)).unwrap();
        for number in 0..4000 {
            fs::write(tree.path().join(format!("{folder}/{number:06}")), folder).unwrap();
        }
    }
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    assert!(sealed.inventory.index_starts.len() > 2, "{:?}", sealed.inventory.index_starts);
    for (wanted, files) in [("a/000000", 1), ("b", 4000), ("b-2/003999", 1), ("c/002000", 1), ("", 16000)] {
        let target = tempfile::tempdir().unwrap();
        let paths = vec![stored(&tree.path().join(wanted))];
        let restore = Restore { paths, ..into(target.path()) };
        sealed.counters.reset();
        let plan = restore.plan(&sealed.archive).unwrap();
        assert_eq!(plan.totals.files, files, "{wanted}");
        let read = sealed.counters.bytes_read() as usize;
        assert!(files > 1 || read < sealed.index_bytes, "{wanted}: {read} of {}", sealed.index_bytes);
    }
    let one = stored(&tree.path().join("c/003999"));
    let (target, paths) = (tempfile::tempdir().unwrap(), vec![one]);
    let report = sealed.restore(&Restore { paths, ..into(target.path()) }).unwrap();
    assert_eq!(report.restored.files, 1);
    assert_eq!(fs::read(below(target.path(), tree.path()).join("c/003999")).unwrap(), b"c");
}

#[test]
fn a_hard_link_whose_other_name_is_left_out_is_restored_as_a_file() {
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(tree.path().join("b")).unwrap();
    fs::write(tree.path().join("a"), "shared").unwrap();
    fs::hard_link(tree.path().join("a"), tree.path().join("b/a")).unwrap();
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let restore = Restore { paths: vec![stored(&tree.path().join("b"))], ..into(target.path()) };
    let report = sealed.restore(&restore).unwrap();
    assert_eq!(report.notes.len(), 1, "{report:?}");
    let restored = below(target.path(), tree.path());
    assert_eq!(fs::read(restored.join("b/a")).unwrap(), b"shared");
    assert!(!restored.join("a").exists());
}

#[test]
fn files_that_are_there_stay_unless_told_otherwise() {
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["older", "newer"] {
        fs::write(tree.path().join(name), "from the backup").unwrap();
    }
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let restored = below(target.path(), tree.path());
    fs::create_dir_all(&restored).unwrap();
    let put = || {
        for (name, age) in [("older", -1000_i64), ("newer", 1000)] {
            let file = File::create(restored.join(name)).unwrap();
            std::io::Write::write_all(&mut &file, b"mine").unwrap();
            let now = SystemTime::now();
            let at = if age < 0 { now - Duration::from_secs(1000) } else { now + Duration::from_secs(1000) };
            file.set_modified(at).unwrap();
        }
    };
    put();
    assert!(sealed.restore(&into(target.path())).is_err(), "the target is not empty");
    for (overwrite, older, newer) in [
        (Overwrite::Never, "mine", "mine"),
        (Overwrite::Older, "from the backup", "mine"),
        (Overwrite::Always, "from the backup", "from the backup"),
    ] {
        put();
        let restore = Restore { overwrite: Some(overwrite), ..into(target.path()) };
        let report = sealed.restore(&restore).unwrap();
        let read = |name: &str| fs::read_to_string(restored.join(name)).unwrap();
        assert_eq!((read("older").as_str(), read("newer").as_str()), (older, newer), "{overwrite:?}");
        let kept = [older, newer].iter().filter(|text| **text == "mine").count() as u64;
        assert_eq!((report.kept, report.problem_count), (kept, 0));
        assert_eq!(fs::read_dir(&restored).unwrap().count(), 2, "something was left behind");
    }
}

#[test]
fn patterns_and_roots_choose_what_is_taken() {
    let tree = tempfile::tempdir().unwrap();
    for name in ["a/x.log", "a/x.tmp", "b/cache/y.log", "b/keep.txt"] {
        let path = tree.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let names = |include: &[&str], exclude: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let mut source = source(&[tree.path(), &tree.path().join("a")]);
        (source.include, source.exclude) = (owned(include), owned(exclude));
        let sealed = back_up(&source, &Unwatched).unwrap();
        let entries = sealed.entries().unwrap();
        let files = entries.iter().filter(|entry| matches!(entry.body, Body::File(_)));
        let root = format!("{}/", tree.path().display());
        files.map(|entry| entry.path.to_string().replace(&root, "")).collect::<Vec<_>>()
    };
    assert_eq!(names(&[], &[]), ["a/x.log", "a/x.tmp", "b/cache/y.log", "b/keep.txt"]);
    assert_eq!(names(&[], &["*.tmp", "cache"]), ["a/x.log", "b/keep.txt"]);
    assert_eq!(names(&["*.log"], &[]), ["a/x.log", "b/cache/y.log"]);
    assert_eq!(names(&["b/cache"], &[]), ["b/cache/y.log"]);
}

#[test]
fn set_user_id_comes_back_only_when_asked_for() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: restoring set-user-id takes root");
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("program"), "#!").unwrap();
    fs::set_permissions(tree.path().join("program"), fs::Permissions::from_mode(0o4755)).unwrap();
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    for (special_bits, mode) in [(false, 0o755), (true, 0o4755)] {
        let target = tempfile::tempdir().unwrap();
        let report = sealed.restore(&Restore { special_bits, ..into(target.path()) }).unwrap();
        let program = below(target.path(), tree.path()).join("program");
        assert_eq!(program.metadata().unwrap().mode() & 0o7777, mode);
        assert_eq!(report.notes.is_empty(), special_bits);
    }
}

#[test]
fn pipes_and_sockets_are_noted_and_left_out() {
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(tree.path().join("file"), "x").unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, tree.path().join("pipe"), rustix::fs::FileType::Fifo, mode, 0)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let expected = ["pipe", "socket"].map(|name| (name.to_owned(), Note::Special));
    assert_eq!(sealed.notes(), expected.into());
    assert_eq!(sealed.inventory.totals.losses(), 0);
    sealed.restore_to(target.path());
    assert_eq!(fs::read_dir(below(target.path(), tree.path())).unwrap().count(), 1);
}

/// Some kind of entry.
#[derive(Debug, Clone)]
enum Made {
    File(Vec<u8>, u32),
    Folder,
    Symlink(String),
    Sparse(u32, Vec<u8>),
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        (proptest::collection::vec(any::<u8>(), 0..3000), 0_u32..0o1000)
            .prop_map(|(bytes, mode)| Made::File(bytes, mode | 0o400)),
        Just(Made::Folder),
        "[a-z./]{1,120}".prop_map(Made::Symlink),
        (0_u32..5_000_000, proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(hole, bytes)| Made::Sparse(hole, bytes)),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no part of a name", |byte| !matches!(byte, 0 | b'/' | b'.'));
    proptest::collection::vec(byte, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_comes_back(made in proptest::collection::vec((proptest::collection::vec(name(), 1..4), made()), 1..20)) {
        let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(tree.path().join("at least one."), "").unwrap();
        for (names, made) in made {
            let mut path = tree.path().to_owned();
            for name in &names[..names.len() - 1] {
                path = odd(&path, name);
            }
            // A file of an earlier round may be where a folder should be.
            if fs::create_dir_all(&path).is_err() {
                continue;
            }
            let path = odd(&path, &names[names.len() - 1]);
            if path.symlink_metadata().is_ok() {
                continue;
            }
            match made {
                Made::Folder => fs::create_dir(&path).unwrap(),
                Made::Symlink(target) => symlink(target, &path).unwrap(),
                Made::File(bytes, mode) => {
                    fs::write(&path, bytes).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                }
                Made::Sparse(hole, bytes) => {
                    let file = File::create(&path).unwrap();
                    file.write_all_at(&bytes, hole.into()).unwrap();
                    file.set_len(u64::from(hole) * 2 + bytes.len() as u64).unwrap();
                }
            }
        }
        let before = look(tree.path());
        let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
        let report = sealed.restore_to(target.path());
        prop_assert_eq!(report.problem_count, 0, "{:?}", report);
        let restored = look(&below(target.path(), tree.path()));
        prop_assert_eq!(restored, before);
    }
}

#[test]
fn a_look_finds_as_much_as_a_backup_reads() {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    fs::create_dir_all(root.join("a/cache")).unwrap();
    for (name, bytes) in [("a/one", 3 << 20), ("a/two", 5), ("a/cache/no", 1 << 20), ("z", 70_000)] {
        fs::write(root.join(name), vec![7; bytes]).unwrap();
    }
    fs::hard_link(root.join("a/one"), root.join("another name")).unwrap();
    fs::File::create(root.join("holes")).unwrap().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink("a/one", root.join("link")).unwrap();
    let mut source = source(&[root, &root.join("a"), &root.join("gone")]);
    source.exclude = vec!["cache".to_owned()];
    let size = measure(&source, None, &Unwatched).unwrap();
    let expected = Size { bytes: (3 << 20) + 5 + 70_000, changed_bytes: 0, is_whole: true };
    assert_eq!(size, expected);
    source.paths.pop();
    assert_eq!(back_up(&source, &Unwatched).unwrap().inventory.totals.bytes, size.bytes);

    let since = |moment| measure(&source, Some(moment), &Unwatched).unwrap().changed_bytes;
    assert_eq!((since(now_less_a_minute()), since(in_an_hour())), (size.bytes, 0));
    assert!(!measure(&source, None, &Stopped).unwrap().is_whole);
}

fn now_less_a_minute() -> Moment {
    Moment(now().0 - 60, 0)
}

/// Nobody waits for the end.
struct Stopped;

impl Watch for Stopped {
    fn advance(&self, _bytes: u64) {}

    fn at(&self, _path: &StoredPath) {}

    fn noted(&self, _path: &StoredPath, _note: Note) {}

    fn is_cancelled(&self) -> bool {
        true
    }
}
