//! What goes wrong while files are read, and what a hostile backup tries while they are written.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgproof_files::backup::BackupError;
use pgproof_files::entry::{Body, Content, Entry, Meta, Note};
use pgproof_files::inventory::Totals;
use pgproof_files::path::StoredPath;
use pgproof_files::restore::{Overwrite, Restore, RestoreError};
use pgproof_files::{Unwatched, Watch};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::support::{back_up, below, forge, into, look, source};

/// Does something once, when a file of this name comes next.
pub(crate) struct When<'a> {
    name: &'a str,
    what: &'a dyn Fn(),
    is_done: Cell<bool>,
}

impl<'a> When<'a> {
    pub(crate) fn at(name: &'a str, what: &'a dyn Fn()) -> Self {
        Self { name, what, is_done: Cell::new(false) }
    }
}

impl Watch for When<'_> {
    fn advance(&self, _bytes: u64) {}

    fn at(&self, path: &StoredPath) {
        if path.as_bytes().ends_with(self.name.as_bytes()) && !self.is_done.replace(true) {
            (self.what)();
        }
    }

    fn noted(&self, _path: &StoredPath, _note: Note) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

pub(crate) fn tree_of(names: &[&str]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for name in names {
        let path = tree.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("content of {name}").repeat(1000)).unwrap();
    }
    tree
}

#[test]
fn files_that_change_while_they_are_read_are_named_and_the_backup_stands() {
    for (note, is_loss) in [(Note::Grew, false), (Note::Cut, true), (Note::Changed, false)] {
        let (tree, target) = (tree_of(&["a", "b", "c"]), tempfile::tempdir().unwrap());
        let path = tree.path().join("b");
        let size = path.metadata().unwrap().len();
        let change = || {
            let file = File::options().write(true).open(&path).unwrap();
            match note {
                Note::Grew => file.write_all_at(b"more", size).unwrap(),
                Note::Cut => file.set_len(10).unwrap(),
                _ => file.write_all_at(b"other", 0).unwrap(),
            }
        };
        let sealed = back_up(&source(&[tree.path()]), &When::at("/b", &change)).unwrap();
        assert_eq!(sealed.notes(), [("b".to_owned(), note)].into());
        assert_eq!(sealed.inventory.totals.losses(), u64::from(is_loss));
        assert_eq!(sealed.inventory.totals.warnings().len(), 1);
        sealed.restore_to(target.path());
        let restored = below(target.path(), tree.path());
        assert_eq!(restored.join("b").metadata().unwrap().len(), size, "as long as announced");
        assert_eq!(fs::read(restored.join("c")).unwrap(), fs::read(tree.path().join("c")).unwrap());
    }
}

#[test]
fn a_folder_that_becomes_a_link_is_not_followed() {
    let tree = tree_of(&["a", "folder/inside", "z"]);
    let elsewhere = tree_of(&["secret"]);
    let folder = tree.path().join("folder");
    let swap = || {
        fs::rename(&folder, tree.path().join("moved away")).unwrap();
        symlink(elsewhere.path(), &folder).unwrap();
    };
    let sealed = back_up(&source(&[tree.path()]), &When::at("/a", &swap)).unwrap();
    let entries = sealed.entries().unwrap();
    assert!(entries.iter().all(|entry| !entry.path.to_string().contains("secret")));
    let of_folder = entries.iter().find(|entry| entry.path.to_string().ends_with("/folder")).unwrap();
    assert!(matches!(of_folder.body, Body::Symlink { .. }), "{of_folder:?}");
    assert!(entries.iter().any(|entry| entry.path.to_string().ends_with("/z")));
}

#[test]
fn a_file_that_changes_between_the_visits_of_its_names_is_stored_as_each_found_it() {
    let (tree, target) = (tree_of(&["first", "middle"]), tempfile::tempdir().unwrap());
    for name in ["second", "third"] {
        fs::hard_link(tree.path().join("first"), tree.path().join(name)).unwrap();
    }
    let before = fs::read(tree.path().join("first")).unwrap();
    let change = || fs::write(tree.path().join("first"), "new").unwrap();
    let sealed = back_up(&source(&[tree.path()]), &When::at("/middle", &change)).unwrap();
    assert_eq!((sealed.inventory.totals.hard_links, sealed.notes()), (1, [].into()));
    sealed.restore_to(target.path());
    let restored = below(target.path(), tree.path());
    assert_eq!(fs::read(restored.join("first")).unwrap(), before);
    for name in ["second", "third"] {
        assert_eq!(fs::read(restored.join(name)).unwrap(), b"new", "{name}");
    }
}

#[test]
fn a_file_on_lease_is_waited_for() {
    const HOLDER: &str = "$SIG{IO} = sub { select undef, undef, undef, 0.2; close F; exit }; open F, '<', $ARGV[0] or die; \
        fcntl(F, 1024, 1) or die; $| = 1; print qq(held\\n); sleep 30";
    let (tree, target) = (tree_of(&["a", "leased", "z"]), tempfile::tempdir().unwrap());
    let leased = tree.path().join("leased");
    let mut holder = std::process::Command::new("perl");
    let holder = holder.args(["-e", HOLDER]).arg(&leased).stdout(std::process::Stdio::piped()).spawn();
    let Ok(mut holder) = holder else {
        eprintln!("skipped: there is no perl, to hold a lease");
        return;
    };
    let mut said = [0; 4];
    let is_held = std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).is_ok();
    let sealed = is_held.then(|| back_up(&source(&[tree.path()]), &Unwatched).unwrap());
    let _ = holder.kill();
    holder.wait().unwrap();
    let Some(sealed) = sealed else {
        eprintln!("skipped: this file system knows no leases");
        return;
    };
    assert_eq!(sealed.notes(), [].into());
    sealed.restore_to(target.path());
    assert_eq!(fs::read(below(target.path(), &leased)).unwrap(), fs::read(&leased).unwrap());
}

#[test]
fn folders_above_a_source_are_open_to_all_and_those_in_it_as_they_were() {
    let (tree, target) = (tree_of(&["in/folder/file"]), tempfile::tempdir().unwrap());
    let root = tree.path().join("in/folder");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o710)).unwrap();
    back_up(&source(&[&root]), &Unwatched).unwrap().restore_to(target.path());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let restored = below(target.path(), &root);
    assert_eq!((mode(&restored), mode(restored.parent().unwrap())), (0o710, 0o755));
    // A file that is a source itself lies in a folder above it.
    let target = tempfile::tempdir().unwrap();
    back_up(&source(&[&root.join("file")]), &Unwatched).unwrap().restore_to(target.path());
    assert_eq!(mode(&below(target.path(), &root)), 0o755);
}

#[test]
fn what_is_not_restored_through_a_link_is_told_with_the_way_out() {
    let (tree, target) = (tree_of(&["real/folder/file"]), tempfile::tempdir().unwrap());
    symlink("real", tree.path().join("link")).unwrap();
    let through = tree.path().join("link/folder");
    let sealed = back_up(&source(&[&through]), &Unwatched).unwrap();
    let in_the_way = below(target.path(), &tree.path().join("link"));
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    symlink("elsewhere", in_the_way).unwrap();
    let over = Restore { overwrite: Some(Overwrite::Never), ..into(target.path()) };
    let report = sealed.restore(&over).unwrap();
    assert_eq!(report.problem_count, 2, "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("another folder (--to)")), "{report:?}");
}

#[test]
fn what_vanishes_is_noted() {
    let tree = tree_of(&["a", "b", "folder/inside", "z"]);
    let remove = || {
        fs::remove_file(tree.path().join("b")).unwrap();
        fs::remove_dir_all(tree.path().join("folder")).unwrap();
    };
    let sealed = back_up(&source(&[tree.path()]), &When::at("/a", &remove)).unwrap();
    let expected = ["b", "folder"].map(|name| (name.to_owned(), Note::Vanished));
    assert_eq!(sealed.notes(), expected.into());
    assert_eq!(sealed.inventory.totals.files, 2);
}

#[test]
fn a_missing_path_a_link_and_an_empty_tree_are_failures() {
    let tree = tree_of(&["folder/a"]);
    symlink("folder", tree.path().join("link")).unwrap();
    fs::create_dir_all(tree.path().join("empty/also empty")).unwrap();
    let failure = |name: &str| back_up(&source(&[&tree.path().join(name)]), &Unwatched).err().unwrap();
    assert!(matches!(failure("gone"), BackupError::RootMissing { .. }));
    assert!(matches!(failure("link"), BackupError::RootIsLink { .. }));
    assert!(matches!(failure("link/"), BackupError::RootIsLink { .. }));
    assert!(matches!(failure("empty"), BackupError::Empty));
    for name in ["gone", "link", "empty"] {
        assert!(failure(name).hint().is_some());
    }
    let mut accepted = source(&[&tree.path().join("empty")]);
    accepted.allow_empty = true;
    assert_eq!(back_up(&accepted, &Unwatched).unwrap().inventory.totals.folders, 2);
    let file = back_up(&source(&[&tree.path().join("folder/a")]), &Unwatched).unwrap();
    assert_eq!(file.inventory.totals.files, 1);
}

#[test]
fn a_hole_of_a_tebibyte_takes_no_time() {
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = tree.path().join("huge");
    let file = File::create(&path).unwrap();
    if file.set_len(1 << 40).is_err() {
        eprintln!("skipped: this file system takes no file of 1 TiB");
        return;
    }
    file.write_all_at(b"in the middle", 1 << 39).unwrap();
    let began = Instant::now();
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    sealed.restore_to(target.path());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(sealed.tar.len() < 1 << 20);
    let restored = File::open(below(target.path(), &path)).unwrap();
    assert_eq!(restored.metadata().unwrap().len(), 1 << 40);
    let mut middle = [0; 13];
    restored.read_exact_at(&mut middle, 1 << 39).unwrap();
    assert_eq!(&middle, b"in the middle");
}

#[test]
fn a_path_longer_than_the_system_takes_at_once_comes_back() {
    const DEPTH: usize = 40;
    let (tree, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = "d".repeat(200);
    let deepen = |root: &Path| {
        let mut handle: std::os::fd::OwnedFd = File::open(root).unwrap().into();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&handle, &*name, rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY;
            handle = rustix::fs::openat(&handle, &*name, flags, rustix::fs::Mode::empty()).unwrap();
        }
        handle
    };
    let deepest = deepen(tree.path());
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&deepest, "file", flags, rustix::fs::Mode::RWXU).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    assert_eq!(sealed.notes(), [].into());
    let longest = sealed.entries().unwrap().iter().map(|entry| entry.path.as_bytes().len()).max();
    assert!(longest > Some(4096), "{longest:?}");
    let report = sealed.restore_to(target.path());
    assert_eq!((report.problem_count, report.restored.files), (0, 1));
    let again = back_up(&source(&[&below(target.path(), tree.path())]), &Unwatched).unwrap();
    assert_eq!(again.inventory.totals.files, 1);
    assert_eq!(again.inventory.totals.bytes, 4);
}

#[test]
fn folders_deeper_than_are_followed_are_a_loss_that_is_told() {
    let tree = tree_of(&["file"]);
    let mut handle: std::os::fd::OwnedFd = File::open(tree.path()).unwrap().into();
    for _ in 0..520 {
        rustix::fs::mkdirat(&handle, "d", rustix::fs::Mode::RWXU).unwrap();
        handle = rustix::fs::openat(&handle, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .unwrap();
    }
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    assert_eq!(sealed.notes(), [("d".to_owned(), Note::TooDeep)].into());
    assert_eq!((sealed.inventory.totals.losses(), sealed.inventory.totals.files), (1, 1));
}

#[test]
fn what_is_mounted_below_is_entered_unless_it_is_made_up_or_the_policy_stays_on_one_file_system() {
    let tree = tree_of(&["file"]);
    let (disk, made_up) = (tree.path().join("disk"), tree.path().join("proc"));
    fs::create_dir(&disk).unwrap();
    fs::create_dir(&made_up).unwrap();
    let (Some(_disk), Some(_proc)) = (Mounted::at(&disk, &["tmpfs"]), Mounted::at(&made_up, &["proc"]))
    else {
        eprintln!("skipped: nothing can be mounted here");
        return;
    };
    fs::write(disk.join("inside"), "x").unwrap();
    for (one_file_system, files, noted) in [(false, 2, vec!["proc"]), (true, 1, vec!["disk", "proc"])] {
        let mut source = source(&[tree.path()]);
        source.one_file_system = one_file_system;
        let sealed = back_up(&source, &Unwatched).unwrap();
        let notes = noted.into_iter().map(|name| (name.to_owned(), Note::OtherFileSystem)).collect();
        assert_eq!((sealed.inventory.totals.files, sealed.notes()), (files, notes));
    }
}

#[test]
fn an_index_that_leads_out_of_the_target_is_refused_before_anything_is_written() {
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("target");
    let line = |path: &str, rest: &str| {
        format!("{{\"p\":\"{path}\",\"m\":420,\"u\":0,\"g\":0,\"t\":[0,0],{rest}}}\n")
    };
    let file = format!(
        "\"k\":\"f\",\"s\":1,\"o\":0,\"h\":\"{}\"",
        data_encoding::HEXLOWER.encode(&Sha256::digest(b"x"))
    );
    let link = |to: &str| file.replace("\"k\":\"f\"", &format!("\"k\":\"h\",\"l\":\"{to}\""));
    for bad in [
        line("../x", &file),
        line("/etc/x", &file),
        line("a/../../x", &file),
        line("a/%2e%2e/%2E%2E/x", &file),
        line("a//x", &file),
        line("hard", &link("../outside")),
        line("hard", &link("/etc/passwd")),
        line("far", &file.replace("\"o\":0", "\"o\":99")),
    ] {
        let lines = line("good", &file) + &bad;
        let totals = Totals { files: 2, bytes: 2, ..Totals::default() };
        let sealed = forge(b"x", &lines, totals);
        assert!(sealed.restore(&into(&target)).is_err(), "{bad}");
        assert!(!target.exists(), "{bad}");
    }
}

/// What a hostile signer could write into an index, as far as the index's form allows it.
fn hostile(outside: &Path) -> Vec<Entry> {
    let path = |text: &str| StoredPath::new(text.as_bytes().to_vec()).unwrap();
    let content =
        || Content { base: 0, offset: 0, size: 1, sha256: Sha256::digest(b"x").into(), extents: None };
    let entry = |name: &str, body| Entry {
        path: path(name),
        meta: Meta { mode: 0o644, ..Meta::default() },
        body,
        note: None,
    };
    let target = |path: PathBuf| Body::Symlink { target: path.into_os_string().into_encoded_bytes() };
    vec![
        entry("link", target(outside.to_owned())),
        entry("link/through", Body::File(content())),
        entry("link", Body::Folder),
        entry("up", target("..".into())),
        entry("up/through", Body::File(content())),
        entry("to a file", target(outside.join("victim"))),
        entry("to a file", Body::File(content())),
        entry("hard", Body::HardLink { to: path("link/victim"), content: content() }),
        entry("hard to a link", Body::HardLink { to: path("to a file"), content: content() }),
        entry("good", Body::File(content())),
    ]
}

#[test]
fn nothing_goes_through_a_link_out_of_the_target() {
    for overwrite in [None, Some(Overwrite::Never), Some(Overwrite::Always)] {
        let outer = tempfile::tempdir().unwrap();
        let (outside, target) = (outer.path().join("outside"), outer.path().join("target"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "mine").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o751)).unwrap();
        let before = look(&outside);
        let (mut lines, mut totals) = (Vec::new(), Totals::default());
        for entry in hostile(&outside) {
            entry.write_line(&mut lines);
            totals.add(&entry);
        }
        let sealed = forge(b"x", std::str::from_utf8(&lines).unwrap(), totals);
        let report = sealed.restore(&Restore { overwrite, ..into(&target) }).unwrap();
        assert!(report.problem_count >= 3, "{report:?}");
        assert_eq!(look(&outside), before);
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
        assert_eq!(fs::read(target.join("good")).unwrap(), b"x");
        // Either it stayed a link, or the link itself was replaced; never what it leads to.
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "mine");
        assert!(
            fs::read_dir(&target).unwrap().all(|entry| {
                !entry.unwrap().file_name().to_string_lossy().starts_with(".pgproof-restore")
            })
        );
    }
}

#[test]
fn a_content_that_differs_from_its_hash_is_never_given_its_name() {
    let outer = tempfile::tempdir().unwrap();
    let content = Content { base: 0, offset: 0, size: 1, sha256: Sha256::digest(b"y").into(), extents: None };
    let path = StoredPath::new(b"file".to_vec()).unwrap();
    let entry = Entry { path, meta: Meta::default(), body: Body::File(content), note: None };
    let (mut line, mut totals) = (Vec::new(), Totals::default());
    entry.write_line(&mut line);
    totals.add(&entry);
    let sealed = forge(b"x", std::str::from_utf8(&line).unwrap(), totals);
    let failed = sealed.restore(&into(outer.path()));
    assert!(matches!(failed, Err(RestoreError::Hash { .. })), "{failed:?}");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
    assert_eq!(sealed.archive.check(&Unwatched).unwrap(), ["/file"]);
}

#[test]
fn a_full_disk_leaves_whole_files_only() {
    let tree = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d"] {
        fs::write(tree.path().join(name), vec![7; 3 << 20]).unwrap();
    }
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let small = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::at(small.path(), &["tmpfs", "-o", "size=8m"]) else {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    };
    let failed = sealed.restore(&into(&small.path().join("to")));
    let Err(RestoreError::Write { source: Errno::NOSPC, .. }) = &failed else { panic!("{failed:?}") };
    assert!(failed.unwrap_err().hint().is_some());
    let restored = below(&small.path().join("to"), tree.path());
    let files: Vec<_> = fs::read_dir(restored).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(!files.is_empty() && files.len() < 4);
    for file in files {
        assert_eq!(file.metadata().unwrap().len(), 3 << 20, "{file:?}");
    }
}

/// A file system that is mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this user may mount nothing. `kind` is the type, and perhaps options.
    fn at(folder: &Path, kind: &[&str]) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        let output = mount.arg("-t").args(kind).arg("none").arg(folder).output();
        output.is_ok_and(|output| output.status.success()).then(|| Self(folder.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{:?} stays mounted", self.0);
    }
}

#[test]
fn a_stopped_restore_leaves_whole_files_only() {
    struct StopAt(&'static str, Cell<bool>);
    impl Watch for StopAt {
        fn advance(&self, _bytes: u64) {}
        fn at(&self, path: &StoredPath) {
            self.1.set(self.1.get() || path.as_bytes().ends_with(self.0.as_bytes()));
        }
        fn noted(&self, _path: &StoredPath, _note: Note) {}
        fn is_cancelled(&self) -> bool {
            self.1.get()
        }
    }
    let (tree, target) = (tree_of(&["a", "b", "c"]), tempfile::tempdir().unwrap());
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let restore = into(target.path());
    let plan = restore.plan(&sealed.archive).unwrap();
    let stopped = restore.run(&sealed.archive, &plan, &StopAt("/b", Cell::new(false)));
    assert!(matches!(stopped, Err(RestoreError::Cancelled)), "{stopped:?}");
    let restored = below(target.path(), tree.path());
    let names: Vec<_> = fs::read_dir(&restored).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(fs::read(restored.join("a")).unwrap(), fs::read(tree.path().join("a")).unwrap());
}

#[test]
fn an_entry_of_the_index_takes_few_bytes() {
    let tree = tempfile::tempdir().unwrap();
    const FILES: usize = 3000;
    for number in 0..FILES {
        fs::write(tree.path().join(format!("upload-{number:08}.jpg")), number.to_string()).unwrap();
    }
    let sealed = back_up(&source(&[tree.path()]), &Unwatched).unwrap();
    let each = sealed.index_bytes / FILES;
    // Most of it is the hash, which does not compress.
    assert!(each < 90, "{each} bytes an entry");
    let inventory = serde_json::to_vec(&sealed.inventory).unwrap().len();
    assert!(inventory < 4096, "the inventory has {inventory} bytes, however many entries there are");
}
