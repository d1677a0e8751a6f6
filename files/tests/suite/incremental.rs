//! Chains: whatever becomes of a tree between two backups, each of them restores what was there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::bad_days::{When, tree_of};
use crate::round_trip::{make_tree, similar, stored};
use crate::support::{Chain, Sealed, below, forge, in_an_hour, into, look, now, source};
use pgproof_files::Unwatched;
use pgproof_files::archive::ArchiveError;
use pgproof_files::backup::BackupError;
use pgproof_files::entry::{Body, Content, Entry, Meta, Note};
use pgproof_files::host_index::HostIndex;
use pgproof_files::inventory::Totals;
use pgproof_files::path::StoredPath;
use pgproof_files::restore::{Restore, RestoreError};
use proptest::prelude::*;
use rustix::fs::XattrFlags;
use sha2::{Digest, Sha256};

type Looks = BTreeMap<Vec<u8>, String>;
/// What happens, and the files that are read for it.
type Step<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);

/// A backup restores what the tree looked like, and nothing else.
fn assert_restores(sealed: &Sealed, root: &Path, expected: &Looks) {
    let target = tempfile::tempdir().unwrap();
    let report = sealed.restore_to(target.path());
    assert_eq!((report.problem_count, report.kept), (0, 0), "{report:?}");
    similar(&look(&below(target.path(), root)), expected);
    assert_eq!(sealed.archive.check(&Unwatched).unwrap(), Vec::<String>::new());
}

fn names_stored_here(sealed: &Sealed) -> Vec<String> {
    let entries = sealed.entries().unwrap().into_iter();
    let here = entries.filter(|entry| matches!(&entry.body, Body::File(content) if content.base == 0));
    here.map(|entry| entry.path.to_string().rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn an_unchanged_tree_is_not_read_again() {
    let tree = tempfile::tempdir().unwrap();
    make_tree(tree.path());
    let before = look(tree.path());
    let mut chain = Chain::of(tree.path());
    assert!(chain.go_on().own.files > 200);
    for depth in 1..4 {
        let member = chain.go_on();
        assert_eq!((member.own.files, member.own.bytes), (0, 0), "{:?}", names_stored_here(&member.sealed));
        assert_eq!(member.bases, [0], "the full one holds all of it, at depth {depth}");
        assert!(member.sealed.tar.len() < 40 << 10, "{} bytes", member.sealed.tar.len());
        assert_restores(&member.sealed, tree.path(), &before);
    }
}

#[test]
fn whatever_becomes_of_a_tree_each_backup_of_it_is_right() {
    let tree = tempfile::tempdir().unwrap();
    make_tree(tree.path());
    let at = |name: &str| tree.path().join(name);
    let steps: [Step<'_>; 10] = [
        ("nothing", &|| {}, &[]),
        ("contents", &|| fs::write(at("uploads/2026/007.txt"), "another").unwrap(), &["007.txt"]),
        (
            "rename",
            &|| fs::rename(at("uploads/2026/large"), at("uploads/2026/renamed")).unwrap(),
            &["renamed"],
        ),
        (
            "delete",
            &|| {
                fs::remove_file(at("uploads/2026/003.txt")).unwrap();
                fs::remove_dir_all(at("uploads/2026/empty")).unwrap();
            },
            &[],
        ),
        ("add", &|| fs::write(at("uploads/2026/003.txt"), "back again").unwrap(), &["003.txt"]),
        (
            "mode and attribute",
            &|| {
                fs::set_permissions(at("uploads/2026/011.txt"), fs::Permissions::from_mode(0o601)).unwrap();
                let flags = XattrFlags::empty();
                rustix::fs::setxattr(at("uploads/2026/012.txt"), "user.x", b"y", flags).unwrap();
            },
            &["011.txt", "012.txt"],
        ),
        // Of whose names the first one stands for all.
        ("hard link", &|| fs::hard_link(at("uploads/2026/013.txt"), at("a link")).unwrap(), &["a link"]),
        (
            "kinds",
            &|| {
                fs::remove_file(at("uploads/2026/020.txt")).unwrap();
                fs::create_dir(at("uploads/2026/020.txt")).unwrap();
                fs::write(at("uploads/2026/020.txt/inside"), "new").unwrap();
                fs::remove_file(at("uploads/2026/021.txt")).unwrap();
                symlink("020.txt", at("uploads/2026/021.txt")).unwrap();
                fs::remove_file(at("to a folder")).unwrap();
                fs::write(at("to a folder"), "a file").unwrap();
            },
            &["to a folder", "inside"],
        ),
        (
            "sparse",
            &|| {
                let sparse = File::options().write(true).open(at("sparse")).unwrap();
                sparse.write_all_at(b"elsewhere", 20 << 20).unwrap();
            },
            &["sparse"],
        ),
        ("one name less", &|| fs::remove_file(at("uploads/a.txt")).unwrap(), &["a again"]),
    ];
    let mut chain = Chain::of(tree.path());
    chain.go_on();
    let mut looks = vec![look(tree.path())];
    for (what, change, expected) in steps {
        change();
        looks.push(look(tree.path()));
        let member = chain.go_on();
        assert_eq!(names_stored_here(&member.sealed), expected, "{what}");
        assert_eq!(member.sealed.notes(), [].into(), "{what}");
    }
    assert_eq!(chain.members.len(), looks.len());
    for (member, looked) in chain.members.iter().zip(&looks) {
        assert_restores(&member.sealed, tree.path(), looked);
    }
    let last = chain.members.last().unwrap();
    assert!(last.bases.len() > 4 && !last.bases.contains(&1), "only those that hold bytes: {:?}", last.bases);
}

#[test]
fn one_file_of_a_chain_is_fetched_from_where_it_lies() {
    let tree = tree_of(&["a", "b/c", "b/d"]);
    let mut chain = Chain::of(tree.path());
    chain.go_on();
    fs::write(tree.path().join("b/d"), "new").unwrap();
    chain.go_on();
    for name in ["b/c", "b/d"] {
        let wanted = tree.path().join(name);
        let target = tempfile::tempdir().unwrap();
        let restore = Restore { paths: vec![stored(&wanted)], ..into(target.path()) };
        let report = chain.members[1].sealed.restore(&restore).unwrap();
        assert_eq!((report.restored.files, report.problem_count), (1, 0));
        assert_eq!(fs::read(below(target.path(), &wanted)).unwrap(), fs::read(&wanted).unwrap());
    }
}

#[test]
fn a_hard_link_and_a_sparse_file_whose_bytes_lie_in_an_earlier_backup_come_back() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("b")).unwrap();
    fs::write(tree.path().join("a"), "shared").unwrap();
    fs::hard_link(tree.path().join("a"), tree.path().join("b/a")).unwrap();
    let sparse = File::create(tree.path().join("b/sparse")).unwrap();
    sparse.write_all_at(b"middle", 5 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    let before = look(tree.path());
    let mut chain = Chain::of(tree.path());
    chain.go_on();
    let member = chain.go_on();
    assert_eq!(member.own.files, 0);
    assert_restores(&member.sealed, tree.path(), &before);
    let target = tempfile::tempdir().unwrap();
    member.sealed.restore_to(target.path());
    let restored = below(target.path(), tree.path());
    assert!(restored.join("b/sparse").metadata().unwrap().blocks() * 512 < 1 << 20);
    // Without the file's first name its bytes are fetched for the second.
    let part = tempfile::tempdir().unwrap();
    let restore = Restore { paths: vec![stored(&tree.path().join("b"))], ..into(part.path()) };
    member.sealed.restore(&restore).unwrap();
    assert_eq!(fs::read(below(part.path(), tree.path()).join("b/a")).unwrap(), b"shared");
}

#[test]
fn a_time_that_was_set_back_hides_no_change() {
    let tree = tree_of(&["a", "b"]);
    let path = tree.path().join("a");
    let mut chain = Chain::of(tree.path());
    chain.go_on();
    let modified = path.metadata().unwrap().modified().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"CONTENT", 0).unwrap();
    file.set_modified(modified).unwrap();
    let looked = look(tree.path());
    let member = chain.go_on();
    assert_eq!(names_stored_here(&member.sealed), ["a"]);
    assert_restores(&member.sealed, tree.path(), &looked);
}

#[test]
fn another_file_of_the_same_name_size_and_times_is_read() {
    let tree = tree_of(&["a", "b"]);
    let (a, b) = (tree.path().join("a"), tree.path().join("b"));
    fs::write(&b, fs::read(&a).unwrap().to_ascii_uppercase()).unwrap();
    let mut chain = Chain::of(tree.path());
    chain.go_on();
    for (from, to) in [(&a, "c"), (&b, "a"), (&tree.path().join("c"), "b")] {
        fs::rename(from, tree.path().join(to)).unwrap();
    }
    let looked = look(tree.path());
    let member = chain.go_on();
    assert_eq!(names_stored_here(&member.sealed), ["a", "b"]);
    assert_restores(&member.sealed, tree.path(), &looked);
}

#[test]
fn what_was_written_just_before_a_walk_is_read_again_by_the_next() {
    let tree = tree_of(&["a", "b"]);
    let mut chain = Chain::of(tree.path());
    chain.go_on_at(now(), &Unwatched).unwrap();
    // Their times could be the same after another change.
    assert_eq!(chain.go_on_at(now(), &Unwatched).unwrap().own.files, 2);
    assert_eq!(chain.go_on().own.files, 2, "of what was known before, nothing was sure");
    assert_eq!(chain.go_on().own.files, 0);
    // A time in the future tells nothing of what is written before it.
    let file = File::options().write(true).open(tree.path().join("b")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(7200)).unwrap();
    for _ in 0..3 {
        assert_eq!(names_stored_here(&chain.go_on().sealed), ["b"]);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again_by_the_next() {
    let tree = tree_of(&["a", "b", "c"]);
    let mut chain = Chain::of(tree.path());
    chain.go_on();
    let write = || fs::write(tree.path().join("b"), "first").unwrap();
    write();
    let grow = || {
        let file = File::options().append(true).open(tree.path().join("b")).unwrap();
        io::Write::write_all(&mut &file, b" and more").unwrap();
    };
    let member = chain.go_on_at(in_an_hour(), &When::at("/b", &grow)).unwrap();
    assert_eq!(member.sealed.notes(), [("b".to_owned(), Note::Grew)].into());
    let looked = look(tree.path());
    let member = chain.go_on();
    assert_eq!((names_stored_here(&member.sealed), member.sealed.notes()), (vec!["b".to_owned()], [].into()));
    assert_restores(&member.sealed, tree.path(), &looked);
}

#[test]
fn what_the_policy_takes_and_leaves_out_may_change_between_backups() {
    let tree = tree_of(&["a/x", "b/y", "c/z"]);
    let mut chain = Chain::of(tree.path());
    chain.source.exclude = vec!["b".to_owned()];
    chain.go_on();
    chain.source = source(&[&tree.path().join("b"), &tree.path().join("c")]);
    let member = chain.go_on();
    assert_eq!(names_stored_here(&member.sealed), ["y"]);
    let restored = tempfile::tempdir().unwrap();
    member.sealed.restore_to(restored.path());
    let names: Vec<_> = fs::read_dir(below(restored.path(), tree.path())).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(member.sealed.archive.check(&Unwatched).unwrap(), Vec::<String>::new());
}

/// Breaks off as the stream of an object that is not what was signed does: at its end.
struct Broken(io::Cursor<Vec<u8>>);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the plaintext's hash differs")),
            read => Ok(read),
        }
    }
}

#[test]
fn a_host_index_that_is_not_what_was_stored_makes_no_backup() {
    let tree = tree_of(&["a", "b"]);
    let mut chain = Chain::of(tree.path());
    chain.go_on();
    let host_index = chain.members[0].host_index.clone();
    let opened = HostIndex::open(Box::new(Broken(io::Cursor::new(host_index.clone()))), 0);
    let failed = crate::support::follow(&chain.source, opened.unwrap());
    assert!(matches!(failed, Err(BackupError::Memory { .. })), "{failed:?}");
    assert!(!failed.unwrap_err().is_standing());
    let cut = host_index[..host_index.len() - 9].to_vec();
    let opened = HostIndex::open(Box::new(io::Cursor::new(cut)), 0).unwrap();
    let failed = crate::support::follow(&chain.source, opened);
    assert!(matches!(failed, Err(BackupError::Memory { .. })), "{failed:?}");
}

/// A backup that says of `x` that it lies in its first base, at `offset`, with the hash of `bytes`.
fn borrowing(offset: u64, base: u32, bytes: &[u8]) -> Sealed {
    let sha256 = Sha256::digest(bytes).into();
    let content = Content { base, offset, size: bytes.len() as u64, sha256, extents: None };
    let path = StoredPath::new(b"x".to_vec()).unwrap();
    let meta = Meta { mode: 0o644, ..Meta::default() };
    let entry = Entry { path, meta, body: Body::File(content), note: None };
    let (mut line, mut totals) = (Vec::new(), Totals::default());
    entry.write_line(&mut line);
    totals.add(&entry);
    forge(b"nothing of it", std::str::from_utf8(&line).unwrap(), totals)
}

#[test]
fn an_index_that_names_what_no_earlier_backup_holds_restores_nothing() {
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("target");
    let holder = borrowing(0, 0, b"nothing of it");
    let base = || vec![("20261124T020000Z-aaaaaa".parse().unwrap(), holder.archive.clone())];
    let with = |sealed: Sealed| sealed.with_bases(base());
    // It is there, at the place and with the hash that the holder itself says.
    let right = with(borrowing(0, 1, b"nothing of it"));
    assert_eq!(right.restore_to(&outer.path().join("right")).restored.files, 1);
    assert_eq!(right.archive.check(&Unwatched).unwrap(), Vec::<String>::new());
    for (offset, number, bytes) in [(0, 2, &b"nothing"[..]), (90, 1, b"nothing"), (0, u32::MAX, b"n")] {
        let wrong = with(borrowing(offset, number, bytes));
        let failed = wrong.restore(&into(&target));
        assert!(
            matches!(
                failed,
                Err(RestoreError::Archive {
                    source: ArchiveError::NoSuchBase { .. } | ArchiveError::OutOfArchive { .. }
                })
            ),
            "{failed:?}"
        );
        assert!(!target.exists());
        assert!(wrong.archive.check(&Unwatched).is_err());
    }
    // Other bytes of that backup than those of this file.
    let other = with(borrowing(1, 1, b"nothing"));
    assert_eq!(other.archive.check(&Unwatched).unwrap(), ["/x"]);
    assert!(matches!(other.restore(&into(&target)), Err(RestoreError::Hash { .. })));
    // Bytes that are right, and that the holder never called a file.
    let part = with(borrowing(0, 1, b"nothing"));
    assert_eq!(part.archive.check(&Unwatched).unwrap(), ["/x"]);
}

/// Something that happens to a tree.
#[derive(Debug, Clone)]
enum Event {
    Write(u8, Vec<u8>),
    Append(u8),
    Overwrite(u8),
    Remove(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Mode(u8),
    Folder(u8),
    BackUp,
}

fn event() -> impl Strategy<Value = Event> {
    let place = 0..9_u8;
    prop_oneof![
        3 => (place.clone(), proptest::collection::vec(any::<u8>(), 0..400)).prop_map(|(at, bytes)| Event::Write(at, bytes)),
        2 => place.clone().prop_map(Event::Append),
        2 => place.clone().prop_map(Event::Overwrite),
        2 => place.clone().prop_map(Event::Remove),
        2 => (place.clone(), place.clone()).prop_map(|(from, to)| Event::Rename(from, to)),
        2 => (place.clone(), place.clone()).prop_map(|(from, to)| Event::Link(from, to)),
        1 => place.clone().prop_map(Event::Mode),
        1 => place.prop_map(Event::Folder),
        4 => Just(Event::BackUp),
    ]
}

impl Event {
    /// What is not possible as the tree is does not happen.
    fn happen(&self, root: &Path) {
        // Three folders' worth of names, in and below each other.
        let at = |place: &u8| {
            let folder = ["", "f0", "f0/f1"][usize::from(place % 3)];
            root.join(folder).join(format!("f{}", place / 3))
        };
        let open = |place| File::options().read(true).write(true).open(at(place));
        let _ = match self {
            Self::Write(place, bytes) => fs::write(at(place), bytes),
            Self::Append(place) => open(place).and_then(|file| {
                let end = file.metadata()?.len();
                file.write_all_at(b"more", end)
            }),
            // As long as it was, and dated as it was.
            Self::Overwrite(place) => open(place).and_then(|file| {
                let metadata = file.metadata()?;
                let mut first = [0];
                file.read_exact_at(&mut first, 0)?;
                file.write_all_at(&[first[0].wrapping_add(1)], 0)?;
                file.set_modified(metadata.modified()?)
            }),
            Self::Remove(place) => fs::remove_file(at(place)).or_else(|_| fs::remove_dir_all(at(place))),
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::Link(from, to) => fs::hard_link(at(from), at(to)),
            Self::Mode(place) => fs::set_permissions(at(place), fs::Permissions::from_mode(0o700)),
            Self::Folder(place) => fs::create_dir(at(place)),
            Self::BackUp => Ok(()),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_chain_restores_what_was_there(events in proptest::collection::vec(event(), 1..60)) {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("at least one"), "").unwrap();
        let mut chain = Chain::of(tree.path());
        let mut looks = Vec::new();
        for event in events.iter().chain([&Event::BackUp]) {
            event.happen(tree.path());
            if matches!(event, Event::BackUp) {
                looks.push(look(tree.path()));
                chain.go_on();
            }
        }
        for (member, expected) in chain.members.iter().zip(&looks) {
            let target = tempfile::tempdir().unwrap();
            let report = member.sealed.restore_to(target.path());
            prop_assert_eq!(report.problem_count, 0, "{:?}", report);
            prop_assert_eq!(&look(&below(target.path(), tree.path())), expected);
            prop_assert_eq!(member.sealed.archive.check(&Unwatched).unwrap(), Vec::<String>::new());
        }
    }
}
