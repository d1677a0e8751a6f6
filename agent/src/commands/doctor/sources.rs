//! What is backed up: each source looked at as its backup would.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use pgproof_files::Watch;
use pgproof_files::backup::{self, Size};
use pgproof_files::entry::Note;
use pgproof_files::path::StoredPath;
use pgproof_policies::policy::{ConfigSource, FilesSource, HookProgram, Kind, PostgresSource, Source};
use pgproof_postgres::connection::Environment;
use pgproof_postgres::doctor::{self, Found, Refusal};
use pgproof_postgres::source;
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::doctor::host::{self, Secrecy};
use pgproof_repository::doctor::{Line, Verdict, chain};

use super::memory;
use crate::{configuration, plain};

/// A tree is looked at for so long: the memory that it takes is then that of what was found, or more.
const MEASURED_FOR: Duration = Duration::from_secs(10);

/// Lines for every source, and one for the memory that their backups take together.
pub(super) async fn lines(loaded: &LoadedPolicy, sources: &[Source]) -> Vec<Line> {
    let (mut lines, mut sizes) = (Vec::new(), Vec::new());
    for source in sources {
        let about = format!("source {}", source.name);
        let mut bytes = None;
        match &source.kind {
            Kind::Postgres(postgres) => {
                let found = Box::pin(database(postgres)).await;
                bytes = found.server.as_ref().ok().and_then(|server| server.facts.database.bytes);
                lines.extend(password_file(&about, postgres));
                lines.extend(doctor::judge(&about, &found, loaded.policy.refuse_vulnerable_clients));
            }
            Kind::Files(files) => {
                lines.extend(of_files(&about, files));
                let size = measured(files.clone()).await;
                lines.extend(size.and_then(|size| not_whole(&about, size)));
                bytes = size.map(|size| size.bytes);
            }
            Kind::Config(config) => lines.push(of_configuration(&about, config.clone()).await),
        }
        lines.extend(bytes.and_then(|bytes| memory::too_large(loaded, &about, bytes)));
        let hooks = &source.hooks;
        let named = [("before", &hooks.before), ("after", &hooks.after), ("on_failure", &hooks.on_failure)];
        lines
            .extend(named.into_iter().filter_map(|(name, hook)| Some(of_hook(&about, name, hook.as_ref()?))));
        sizes.push((source, bytes));
    }
    lines.push(memory::line(loaded, &sizes));
    lines
}

async fn database(postgres: &PostgresSource) -> Found {
    match source::connection(postgres, &Environment::of_process()) {
        Ok(spec) => Box::pin(doctor::examine(&spec, &source::tools(postgres))).await,
        Err(error) => Found {
            target: String::new(),
            server: Err(Refusal::of(&error, error.hint())),
            clients: Vec::new(),
        },
    }
}

fn password_file(about: &str, postgres: &PostgresSource) -> Option<Line> {
    let path = postgres.password_file.as_deref()?;
    let line = host::file("password file", path, Secrecy::Secret);
    Some(Line { about: about.to_owned(), ..line })
}

fn of_files(about: &str, files: &FilesSource) -> Vec<Line> {
    files.paths.iter().map(|path| of_path(about, path, readable(path))).collect()
}

/// Whether a path can be opened: a file to be read, or a folder to be listed. What lies below is the backup's to find.
fn readable(path: &Path) -> io::Result<&'static str> {
    match fs::metadata(path)?.is_dir() {
        true => fs::read_dir(path)?.next().transpose().map(|_| "a folder that can be read"),
        false => fs::File::open(path).map(|_| "a file that can be read"),
    }
}

/// What there is to be read, or how much of it was found when nobody waits any longer.
async fn measured(files: FilesSource) -> Option<Size> {
    let watch = Until(Instant::now() + MEASURED_FOR);
    let measuring = tokio::task::spawn_blocking(move || backup::measure(&files, None, &watch));
    measuring.await.expect("looking at files does not panic").ok()
}

fn not_whole(about: &str, size: Size) -> Option<Line> {
    let (found, seconds) = (plain::bytes(size.bytes), MEASURED_FOR.as_secs());
    let told = format!(
        "{found} and more, of which the memory below knows nothing: {seconds} s were too few to look at all"
    );
    (!size.is_whole).then(|| Line::new(Verdict::NotTried, about, "size", told))
}

/// Ends a look at a tree of millions of files.
struct Until(Instant);

impl Watch for Until {
    fn advance(&self, _bytes: u64) {}

    fn at(&self, _path: &StoredPath) {}

    fn noted(&self, _path: &StoredPath, _note: Note) {}

    fn is_cancelled(&self) -> bool {
        Instant::now() >= self.0
    }
}

fn of_path(about: &str, path: &Path, found: io::Result<&'static str>) -> Line {
    let check = path.display().to_string();
    match found {
        Ok(what) => Line::new(Verdict::Ok, about, check, what),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Line::new(Verdict::Fail, about, check, "is not there")
                .hint("correct `paths`, or mount what should be there")
        }
        Err(error) => Line::new(Verdict::Fail, about, check, format!("cannot be read: {error}"))
            .hint("run the agent as a user that may read it, or give it CAP_DAC_READ_SEARCH"),
    }
}

async fn of_configuration(about: &str, config: ConfigSource) -> Line {
    let gathered = tokio::task::spawn_blocking(move || configuration::gather(&config));
    match gathered.await.expect("reading a configuration does not panic") {
        Ok(found) => {
            let (files, variables) = (found.files.len(), found.variables.len());
            Line::new(
                Verdict::Ok,
                about,
                "configuration",
                format!("{files} files and {variables} variables can be read"),
            )
        }
        Err(error) => {
            Line::new(Verdict::Fail, about, "configuration", chain(&error)).maybe_hint(error.hint())
        }
    }
}

fn of_hook(about: &str, name: &str, hook: &HookProgram) -> Line {
    let check = format!("hook {name}");
    let path = &hook.path;
    match rustix::fs::access(path, rustix::fs::Access::EXEC_OK) {
        Ok(()) => Line::new(Verdict::Ok, about, check, path.display().to_string()),
        Err(error) => {
            let why = io::Error::from(error);
            Line::new(Verdict::Fail, about, check, format!("{} cannot be run: {why}", path.display()))
                .hint("install it there, make it executable, or correct `hooks`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_they_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| of_path("source files", path, readable(path));
        assert_eq!(told(folder.path()).verdict, Verdict::Ok);
        let gone = told(&folder.path().join("none"));
        assert_eq!((gone.verdict, gone.told.as_str()), (Verdict::Fail, "is not there"));
        let denied = of_path("source files", Path::new("/x"), Err(io::ErrorKind::PermissionDenied.into()));
        assert!(denied.verdict == Verdict::Fail && denied.hint.is_some());
    }

    #[test]
    fn a_tree_that_was_not_looked_at_wholly_is_told() {
        let size = |is_whole| Size { bytes: 5 << 30, changed_bytes: 0, is_whole };
        assert!(not_whole("source files", size(true)).is_none());
        let line = not_whole("source files", size(false)).unwrap();
        assert!(
            line.verdict == Verdict::NotTried && line.told.contains("5.00 GiB and more"),
            "{}",
            line.told
        );
    }

    #[test]
    fn a_hook_must_be_there_and_executable() {
        let hook =
            |path: &str| of_hook("it", "before", &HookProgram { path: path.into(), arguments: Vec::new() });
        assert_eq!(hook("/bin/sh").verdict, Verdict::Ok);
        assert_eq!(hook("/etc/passwd").verdict, Verdict::Fail);
    }
}
