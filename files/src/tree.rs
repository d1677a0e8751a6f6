//! The file system by handles: nothing here follows a symbolic link, and nothing goes by a path that could be exchanged
//! between looking and opening.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;
use rustix::{fs, io};

use crate::entry::{Meta, Moment, Xattrs};

/// Most bytes of one list of attributes' names and of one value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of Linux).
const XATTR_BYTES_MAX: usize = 64 << 10;

/// File systems whose files are made up when they are read, and never end in some cases: proc, sysfs, the two cgroups, debugfs,
/// tracefs, securityfs, configfs, bpf and pstore (`linux/magic.h`).
const MADE_UP: [i64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0xcafe_4a11,
    0x6165_676c,
];

/// Opens an entry of `folder` for reading, without touching its access time where that is allowed.
pub(crate) fn open(folder: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    // Without O_NONBLOCK a pipe that was put in a file's place would hold the backup up.
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match open_untouched(folder, name, flags) {
        Err(Errno::AGAIN) => open_leased(folder, name),
        opened => opened,
    }
}

fn open_untouched(folder: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    match fs::openat(folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner and root may leave access times alone.
        Err(Errno::PERM) => fs::openat(folder, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// Opens a file on which somebody, mostly a file server, has a lease. Its holder is asked to give it up, and the kernel waits for
/// that, `fs.lease-break-time` (45 s) at most. Only once it is sure that it is a file: it is held by its handle, which `/proc`
/// opens again.
fn open_leased(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let held = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = fs::openat(folder, name, held, Mode::empty())?;
    if kind(&fs::fstat(&held)?) != FileType::RegularFile {
        return Err(Errno::AGAIN);
    }
    let again =
        CString::new(format!("/proc/self/fd/{}", held.as_raw_fd())).expect("a number has no zero byte");
    open_untouched(CWD, &again, OFlags::RDONLY | OFlags::CLOEXEC)
}

pub(crate) fn open_folder(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    open(folder, name, OFlags::DIRECTORY)
}

/// Looks at an entry without opening it.
pub(crate) fn look(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<Stat> {
    fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The names in a folder, sorted, so that an archive of the same tree is the same.
pub(crate) fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether nothing in a folder was ever stored anywhere.
pub(crate) fn is_made_up(folder: BorrowedFd<'_>) -> bool {
    // Its type is another one on other processors.
    let kind = fs::fstatfs(folder).map(|stat| -> i64 { stat.f_type as _ });
    kind.is_ok_and(|kind| MADE_UP.contains(&kind))
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

pub(crate) fn mtime(stat: &Stat) -> Moment {
    Moment(stat.st_mtime as _, stat.st_mtime_nsec as _)
}

pub(crate) fn ctime(stat: &Stat) -> Moment {
    Moment(stat.st_ctime as _, stat.st_ctime_nsec as _)
}

/// When a file came to be, where the file system knows.
pub(crate) fn born(file: BorrowedFd<'_>) -> Option<Moment> {
    let found = fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let is_known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    is_known.then_some(Moment(found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

/// Device and inode.
pub(crate) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as _, stat.st_ino as _)
}

pub(crate) fn meta(stat: &Stat, xattrs: Xattrs) -> Meta {
    Meta { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime: mtime(stat), xattrs }
}

/// All extended attributes, access control lists among them. Where a file system has none, there are none.
pub(crate) fn xattrs(file: impl AsFd) -> io::Result<Xattrs> {
    let file = file.as_fd();
    let mut list = vec![0; XATTR_BYTES_MAX];
    let length = match fs::flistxattr(file, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => 0,
        Err(error) => return Err(error),
    };
    let mut xattrs = Xattrs::new();
    let mut value = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        value.resize(XATTR_BYTES_MAX, 0);
        match fs::fgetxattr(file, name, &mut value[..]) {
            Ok(length) => xattrs.insert(name.to_vec(), value[..length].to_vec()),
            // Gone again, or one that only other programs may read.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => None,
            Err(error) => return Err(error),
        };
    }
    Ok(xattrs)
}
