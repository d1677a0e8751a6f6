//! Keeping a server's hands in its own folder, by Landlock: a thread takes rights away from itself, and whatever it then
//! starts has no more of them, as any account, and for ever.
//!
//! A private server runs what the restored database brings along, often as the very account that holds the keys. Landlock
//! asks for no privilege (Linux 5.13 or newer). Processes outside cannot be traced either, so that what `/proc` tells
//! of them beyond their names stays closed: environments, memory, open files. Signals and abstract sockets stay inside
//! from Linux 6.12 on; other people's sockets with a path only from 7.1 on.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest of Landlock's rights that are taken away; an older kernel takes those that it knows.
const RIGHTS: ABI = ABI::V9;
/// Programs and their libraries, by the distributions' customs and by those of Nix and Guix.
const SYSTEM: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];
/// Parts of an installation, below its root: never the root itself, which may be a home or `/`.
const INSTALLATION: [&str; 4] = ["bin", "lib", "lib64", "share"];
/// What the C library, the interpreters of languages and the dictionaries of Debian read. Nothing here is a secret; `/etc` as a
/// whole may hold some.
const READ: [&str; 26] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.alias",
    "/etc/crypto-policies",
    "/etc/pki/tls/openssl.cnf",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/etc/perl",
    "/etc/python3",
    "/etc/postgresql-common",
    "/var/cache/postgresql",
    "/proc",
    "/sys",
];
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// What [`super::isolation`] has written here when an ordinary user makes a namespace. Of other processes an ordinary user
/// can write nothing here that tells or changes what they know.
const PROCESSES: &str = "/proc";

/// Which files of the machine a server can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// All that its account can, as nothing else was asked for.
    Shared,
    /// Those of its own folder, and programs and libraries.
    Confined,
    /// All that its account can, though it was to reach its own alone.
    NotConfined { reason: String },
}

/// Why nothing was confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfinementError {
    #[error("this kernel has no Landlock, or a container's rules forbid it")]
    Absent,
    #[error("Landlock is switched off in this kernel")]
    Off,
    #[error("this kernel refuses the rules")]
    Refused(#[from] RulesetError),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What a server may reach. What does not exist is passed over.
#[derive(Debug)]
pub(super) struct Confinement {
    own: PathBuf,
    programs: Vec<PathBuf>,
    makes_user_namespace: bool,
}

impl Confinement {
    /// For a server that lives in the folder `own` and whose programs are in `bin_dir`.
    pub(super) fn new(own: &Path, bin_dir: &Path, makes_user_namespace: bool) -> Self {
        let mut programs: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        programs.push(bin_dir.to_owned());
        // The folder may be one of links.
        let real = bin_dir.join("postgres").canonicalize().ok();
        if let Some(root) = real.as_deref().and_then(Path::parent).and_then(Path::parent) {
            programs.extend(INSTALLATION.iter().map(|part| root.join(part)));
        }
        let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        programs.extend(std::env::split_paths(&libraries).filter(|path| path.is_absolute()));
        Self { own: own.to_owned(), programs, makes_user_namespace }
    }

    /// Does this on a thread that is confined, so that every process that it starts is.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, ConfinementError> {
        std::thread::scope(|scope| {
            let confined = move || self.restrict_this_thread().map(|()| work());
            let thread = std::thread::Builder::new().name("confined".to_owned());
            let thread = thread.spawn_scoped(scope, confined).map_err(ConfinementError::Thread)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn restrict_this_thread(&self) -> Result<(), ConfinementError> {
        let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
        // Whatever is written is not for running: nobody needs that, and who wants to has to bring an interpreter.
        let own = AccessFs::from_all(RIGHTS) & !AccessFs::Execute;
        let device = AccessFs::from_file(RIGHTS) & !AccessFs::Execute;
        let namespaces = self.makes_user_namespace.then_some(PROCESSES);
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(RIGHTS))?
            // No rule lets any in: it is said to have no network, and where there is one, TCP at least is closed.
            .handle_access(AccessNet::from_all(RIGHTS))?
            .scope(Scope::from_all(RIGHTS))?
            .create()?
            .add_rules(path_beneath_rules(&self.programs, AccessFs::from_read(RIGHTS)))?
            .add_rules(path_beneath_rules(READ, read))?
            .add_rules(path_beneath_rules(DEVICES, device))?
            .add_rules(path_beneath_rules(namespaces, AccessFs::WriteFile))?
            .add_rules(path_beneath_rules([&self.own], own))?
            .restrict_self()?;
        match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => Err(ConfinementError::Off),
            (RulesetStatus::NotEnforced, _) => Err(ConfinementError::Absent),
            (RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced, _) => Ok(()),
        }
    }
}
