//! The host: who can read and change what lies on it, and what room there is.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Line, Verdict, chain};
use crate::access::{AccessError, LoadedPolicy};
use crate::private_file::{self, is_private};
use crate::signature::{SigningKey, TrustedSigners, namespace, trusted_line};
use jiff::Timestamp;

const HOST: &str = "host";
/// Permission bits, without the kind of file.
const MODE_BITS: u32 = 0o7777;
/// Bits that let the group, or everybody, change a file.
const OTHERS_WRITE: u32 = 0o022;
/// Less is too little for anything: client programs get passwords and the head of an archive in files.
const ROOM_BYTES_MIN: u64 = 256 << 20;
/// Looked through for identities that were left beside a signing key: what is larger is none.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;
const FILES_LOOKED_AT_MAX: usize = 200;

/// What a file may let others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// A secret: nobody else reads it, but a service to which root hands it.
    Secret,
    /// Whoever changes it changes what this program does or believes.
    Trusted,
}

/// How a file was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFound {
    Mode {
        mode: u32,
        /// The account's number.
        owner: u32,
    },
    Missing,
    Unreadable(String),
}

/// Which of two keys is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signs {
    Backups,
    Reports,
}

/// The policy and the keys that it names.
pub fn keys(loaded: &LoadedPolicy, signs: Signs, now: Timestamp) -> Vec<Line> {
    let policy = &loaded.policy;
    let mut lines = vec![file("policy", &loaded.path, Secrecy::Trusted)];
    lines.push(loads("recipients", "they can be encrypted to", loaded.recipients().map(drop)));
    let signing_key = match &policy.signing_key {
        Some(path) => {
            lines.push(file("signing key", path, Secrecy::Secret));
            loaded.signing_key().map_err(|error| lines.push(failed("signing key", &error))).ok()
        }
        None => {
            lines.push(Line::new(Verdict::NotTried, HOST, "signing key", "the policy names none"));
            None
        }
    };
    if let Some(path) = &policy.trusted_signers {
        lines.push(file("trusted signers", path, Secrecy::Trusted));
    }
    match (loaded.trusted_signers(), signing_key) {
        (Ok(signers), Some(key)) => lines.extend(believed(&signers, &key, signs, now)),
        (Ok(_), None) => {}
        (Err(error), _) => lines.push(failed("trusted signers", &error)),
    }
    lines.extend(policy.identity_files.iter().map(|path| file("identity", path, Secrecy::Secret)));
    lines
}

/// Whether what this host signs is believed, and nothing that is another's to sign.
fn believed(signers: &TrustedSigners, key: &SigningKey, signs: Signs, now: Timestamp) -> [Line; 2] {
    let accepts = |namespace| signers.would_accept(key, namespace, now);
    let (own, others) = match signs {
        Signs::Backups => (namespace::MANIFEST, namespace::REPORT),
        Signs::Reports => (namespace::REPORT, namespace::MANIFEST),
    };
    let (what, foreign) = match signs {
        Signs::Backups => ("backups", "reports"),
        Signs::Reports => ("reports", "backups"),
    };
    let line = || match signs {
        Signs::Backups => trusted_line("agent", &namespace::OF_AGENT, &key.public_line()),
        Signs::Reports => trusted_line("verifier", &namespace::OF_VERIFIER, &key.public_line()),
    };
    let trusted = match accepts(own) {
        Ok(()) => Line::new(Verdict::Ok, HOST, "signatures", format!("{what} of this host are believed")),
        Err(error) => Line::new(
            Verdict::Fail,
            HOST,
            "signatures",
            format!("{what} of this host would not be believed: {}", chain(&error)),
        )
        .hint(format!("add to `keys.trusted_signers`: {}", line())),
    };
    let limited = match accepts(others) {
        Err(_) => Line::new(
            Verdict::Ok,
            HOST,
            "limits of the key",
            format!("it signs no {foreign} that are believed"),
        ),
        Ok(()) => Line::new(
            Verdict::Warn,
            HOST,
            "limits of the key",
            format!("it could sign {foreign}, too, and they would be believed"),
        )
        .hint("limit its line in the trusted signers by namespaces=, as `pgproof init --verifier-key` does"),
    };
    [trusted, limited]
}

/// Whether this host could read its own backups: it should not.
pub fn cannot_decrypt(loaded: &LoadedPolicy) -> Line {
    let line = |verdict, told: String| Line::new(verdict, HOST, "cannot decrypt", told);
    let hint =
        "whoever takes this host reads every backup: keep identities where backups are restored and verified";
    if loaded.has_identity() {
        return line(Verdict::Warn, "the policy names identities".to_owned()).hint(hint);
    }
    let folders = [Some(loaded.path.as_path()), loaded.policy.signing_key.as_deref()];
    let folders = folders.into_iter().flatten().filter_map(Path::parent);
    match folders.flat_map(identities_in).next() {
        Some(path) => line(Verdict::Warn, format!("an identity lies in {}", path.display())).hint(hint),
        None => line(Verdict::Ok, "no identity is named, and none lies beside policy and key".to_owned()),
    }
}

fn identities_in(folder: &Path) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(FILES_LOOKED_AT_MAX);
    entries.map(|entry| entry.path()).filter(|path| is_identity(path)).collect()
}

fn is_identity(path: &Path) -> bool {
    let is_small = fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() <= IDENTITY_BYTES_MAX);
    let mut text = Vec::new();
    let read = is_small
        && fs::File::open(path).and_then(|file| file.take(IDENTITY_BYTES_MAX).read_to_end(&mut text)).is_ok();
    let starts = |line: &[u8]| line.starts_with(b"AGE-SECRET-KEY-") || line.starts_with(b"AGE-PLUGIN-");
    read && text.split(|byte| *byte == b'\n').any(starts)
}

/// Looks at a file's mode.
pub fn file(check: &str, path: &Path, secrecy: Secrecy) -> Line {
    let found = match fs::metadata(path) {
        Ok(metadata) => FileFound::Mode { mode: metadata.mode() & MODE_BITS, owner: metadata.uid() },
        Err(error) if error.kind() == io::ErrorKind::NotFound => FileFound::Missing,
        Err(error) => FileFound::Unreadable(error.to_string()),
    };
    judge_file(check, path, &found, secrecy)
}

pub fn judge_file(check: &str, path: &Path, found: &FileFound, secrecy: Secrecy) -> Line {
    let shown = path.display();
    let line = |verdict, told: String| Line::new(verdict, HOST, check, told);
    match (found, secrecy) {
        (FileFound::Missing, _) => line(Verdict::Fail, format!("{shown} is not there"))
            .hint("the policy names it: put it there, or correct the path"),
        (FileFound::Unreadable(why), _) => line(Verdict::Fail, format!("{shown} cannot be looked at: {why}"))
            .hint("run this as the user that the agent runs as"),
        (FileFound::Mode { mode, owner }, Secrecy::Secret) if !is_private(*mode, *owner) => {
            line(Verdict::Fail, format!("{shown} can be read by others (mode {mode:o})"))
                .hint(private_file::hint(path))
        }
        (FileFound::Mode { mode, .. }, Secrecy::Trusted) if mode & OTHERS_WRITE != 0 => {
            line(Verdict::Fail, format!("{shown} can be changed by others (mode {mode:o})"))
                .hint(format!("chmod go-w {shown}"))
        }
        (FileFound::Mode { mode, .. }, _) => line(Verdict::Ok, format!("{shown}, mode {mode:o}")),
    }
}

/// Room in the folder of temporary files.
pub fn temporary_space() -> Line {
    room("temporary files", &std::env::temp_dir(), None)
}

/// Room in a folder, of which so many bytes are wanted if that is known.
pub fn room(check: &str, folder: &Path, wanted: Option<u64>) -> Line {
    judge_space(check, folder, free_bytes(folder), wanted.unwrap_or(0).max(ROOM_BYTES_MIN))
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub fn judge_space(check: &str, folder: &Path, free: io::Result<u64>, wanted: u64) -> Line {
    let shown = folder.display();
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let line = |verdict, told: String| Line::new(verdict, HOST, check, told);
    match free {
        Ok(free) if free >= wanted => line(Verdict::Ok, format!("{} free in {shown}", mib(free))),
        Ok(free) => line(Verdict::Warn, format!("{} free in {shown}, {} wanted", mib(free), mib(wanted)))
            .hint("free space there, or set TMPDIR to a larger file system"),
        Err(error) => line(Verdict::Fail, format!("{shown} cannot be looked at: {error}"))
            .hint("set TMPDIR to a folder that this user may write"),
    }
}

/// The zone of schedules and of `--at`.
pub fn zone(loaded: &LoadedPolicy) -> Line {
    let line = |verdict, told: String| Line::new(verdict, HOST, "time zone", told);
    match &loaded.policy.zone {
        Some(name) => match jiff::tz::TimeZone::get(name) {
            Ok(_) => line(Verdict::Ok, format!("schedules and calendar days are those of {name}")),
            Err(error) => line(Verdict::Fail, format!("{name} is not known here: {error}")),
        },
        None => line(Verdict::Ok, "schedules and calendar days are those of UTC".to_owned())
            .hint("`zone` in the policy names another"),
    }
}

fn loads(check: &str, well: &str, loaded: Result<(), AccessError>) -> Line {
    match loaded {
        Ok(()) => Line::new(Verdict::Ok, HOST, check, well),
        Err(error) => failed(check, &error),
    }
}

fn failed(check: &str, error: &AccessError) -> Line {
    Line::new(Verdict::Fail, HOST, check, chain(error)).maybe_hint(error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_judged_by_what_the_file_is() {
        let (root, other) = (0, 1000);
        let judged = |mode, owner, secrecy| {
            judge_file("it", Path::new("/k"), &FileFound::Mode { mode, owner }, secrecy).verdict
        };
        assert_eq!(judged(0o600, other, Secrecy::Secret), Verdict::Ok);
        // As the loaders have it: root hands a key to its service.
        assert_eq!(judged(0o640, root, Secrecy::Secret), Verdict::Ok);
        assert_eq!(judged(0o640, other, Secrecy::Secret), Verdict::Fail);
        assert_eq!(judged(0o644, root, Secrecy::Secret), Verdict::Fail);
        assert_eq!(judged(0o644, other, Secrecy::Trusted), Verdict::Ok);
        assert_eq!(judged(0o664, root, Secrecy::Trusted), Verdict::Fail);
        let missing = judge_file("it", Path::new("/k"), &FileFound::Missing, Secrecy::Secret);
        assert_eq!((missing.verdict, missing.hint.is_some()), (Verdict::Fail, true));
    }

    #[test]
    fn a_key_that_nobody_believes_is_told_with_the_line_that_is_missing() {
        let now = Timestamp::now();
        let (secret, _) = crate::signature::generate("verifier");
        let key = SigningKey::parse(&secret, Path::new("/k")).unwrap();
        let [unknown, _] = believed(&TrustedSigners::default(), &key, Signs::Reports, now);
        assert_eq!(unknown.verdict, Verdict::Fail);
        let hint = unknown.hint.unwrap();
        let (_, line) = hint.split_once(": ").unwrap();
        let told = believed(&TrustedSigners::parse(line).unwrap(), &key, Signs::Reports, now);
        assert_eq!(told.map(|line| line.verdict), [Verdict::Ok, Verdict::Ok], "{line}");
    }

    #[test]
    fn space_is_judged_by_what_is_wanted() {
        let judged = |free| judge_space("it", Path::new("/t"), free, 1 << 30).verdict;
        assert_eq!(judged(Ok(2 << 30)), Verdict::Ok);
        assert_eq!(judged(Ok(1 << 20)), Verdict::Warn);
        assert_eq!(judged(Err(io::ErrorKind::NotFound.into())), Verdict::Fail);
    }

    #[test]
    fn an_identity_beside_the_key_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("signing_key"), "-----BEGIN OPENSSH PRIVATE KEY-----").unwrap();
        assert_eq!(identities_in(folder.path()), Vec::<PathBuf>::new());
        let left = folder.path().join("identity.txt");
        fs::write(&left, "# created: today\nAGE-SECRET-KEY-1QQQ\n").unwrap();
        assert_eq!(identities_in(folder.path()), [left]);
    }
}
