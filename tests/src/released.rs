//! Repositories as released versions wrote them, kept for ever in `tests/fixtures/repositories/VERSION`: what every later
//! version is held to read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::binaries::workspace;
use crate::clock;
use crate::postgres_server::succeed;
use crate::postgres_versions::PostgresVersion;
use crate::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};

/// The source of files, backed up whole and then incrementally.
pub const UPLOADS: &str = "uploads";
/// The source of configuration.
pub const SETTINGS: &str = "settings";
/// A line of its environment file.
pub const VARIABLE: &str = "APP_MODE=fast";

const KEYS: [&str; 4] = ["identity.txt", "signing_key", "signing_key.pub", "trusted_signers"];

const SCHEMA: &str = "create table customers (id int primary key, name text not null, data jsonb); \
    insert into customers select n, 'Kundin ' || n, jsonb_build_object('n', n, 'ü', null) from generate_series(1, 50) n; \
    create table orders (id serial primary key, customer int references customers, total numeric(12,2), note bytea); \
    insert into orders (customer, total, note) select 1 + n % 50, n * 1.25, decode(md5(n::text), 'hex') \
    from generate_series(1, 1500) n; \
    create index on orders (customer); create view totals as select customer, sum(total) from orders group by 1; \
    select lo_from_bytea(4242, convert_to(repeat('large ', 500), 'UTF8'))";

/// Says of a database what must be the same after a restore.
const QUESTION: &str = "select count(*), md5(string_agg(it::text, ';' order by id)) from customers it \
    union all select count(*), md5(string_agg(it::text, ';' order by id)) from orders it \
    union all select count(*), md5(string_agg(it::text, ';' order by customer)) from totals it \
    union all select last_value, md5(lo_get(4242)) from orders_id_seq";

/// The folder of each version's repository.
///
/// # Panics
/// When the fixtures cannot be listed.
#[must_use]
pub fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(root()).expect("the fixtures").map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// What the version's repository must come to, as it was when it was made.
///
/// # Panics
/// When it is missing.
#[must_use]
pub fn expectations(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("expected.json")).expect("what is expected");
    serde_json::from_str(&text).expect("JSON")
}

/// A sandbox with a copy of that repository, its keys, and today's programs.
#[must_use]
pub fn sandbox_with(folder: &Path) -> Sandbox {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::Directory);
    copy(&folder.join("repository"), &sandbox.path("repository"));
    for name in KEYS {
        copy(&folder.join("keys").join(name), &sandbox.path(name));
        // What is kept in a repository of git is everybody's to read.
        fs::set_permissions(sandbox.path(name), fs::Permissions::from_mode(0o600)).expect("own file");
    }
    let files = sandbox.path("source");
    with_sources(sandbox, &files)
}

/// Makes the repository of this version. Its files are backed up in a few minutes' time, since a host does not trust the times of
/// files that it has only just seen.
///
/// # Panics
/// When it is there already, or anything fails.
pub fn make() {
    let target = root().join(env!("CARGO_PKG_VERSION"));
    assert!(!target.exists(), "{} is there: what a release wrote is not written anew", target.display());
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::Directory);
    let files = tempfile::tempdir().expect("a folder");
    let sandbox = with_sources(sandbox, files.path());
    sandbox.server.create_database(SOURCE);
    sandbox.server.psql(SOURCE, SCHEMA);
    fs::create_dir(files.path().join(UPLOADS)).expect("a folder");
    let upload = |name: &str, text: &str| {
        fs::write(files.path().join(UPLOADS).join(name), text.repeat(40)).expect("own file");
    };
    upload("first.txt", "an upload that stays\n");
    upload("second.txt", "an upload that changes\n");
    std::os::unix::fs::symlink("first.txt", files.path().join(UPLOADS).join("link")).expect("a link");
    fs::write(files.path().join("app.toml"), "answer = 42\n").expect("own file");
    fs::write(files.path().join("app.env"), format!("{VARIABLE}\n")).expect("own file");

    sandbox.run_well(&["snapshot", "--reason", "release", "--source", SOURCE, "--source", SETTINGS]);
    let drilled = sandbox.drill(&[]);
    assert_eq!(drilled["verdict"], "passed", "{drilled:#}");
    let mut uploads = Vec::new();
    for minutes in [3, 6] {
        let made = clock::offset(&sandbox.command(&["backup", UPLOADS, "--json"]), &format!("+{minutes}m"));
        let made = Outcome::from({ made }.output().expect("faketime is installed"));
        assert!(made.succeeded(), "{}", made.stderr);
        let manifest = made.json()["manifest"].clone();
        assert_eq!(manifest["chain"].is_object(), minutes > 3, "{manifest:#}");
        uploads.push(json!({"backup": manifest["id"], "files": digests(&files.path().join(UPLOADS))}));
        upload("second.txt", "an upload that changed\n");
        upload("third.txt", "an upload that is new\n");
    }
    let app = sandbox.good_ids().remove(0);
    sandbox.run_well(&["hold", SOURCE, &app, "--reason", "kept with the release"]);

    let expected = json!({
        "app": {"backup": app, "question": QUESTION, "answer": sandbox.server.psql(SOURCE, QUESTION)},
        "settings": {"files": digests(&files.path().join("app.toml"))},
        "uploads": uploads,
    });
    fs::create_dir_all(target.join("keys")).expect("a folder");
    for name in KEYS {
        copy(&sandbox.path(name), &target.join("keys").join(name));
    }
    copy(&sandbox.path("repository"), &target.join("repository"));
    fs::write(target.join("expected.json"), format!("{expected:#}\n")).expect("own file");
    println!("{}", target.display());
}

/// The files in a folder, or one file: of each its SHA-256, or where a link leads to.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn digests(path: &Path) -> BTreeMap<String, String> {
    if path.is_dir() && !path.is_symlink() {
        let entries = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
        return entries.flat_map(|path| digests(&path)).collect();
    }
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let digest = match fs::read_link(path) {
        Ok(to) => format!("-> {}", to.display()),
        Err(_) => data_encoding::HEXLOWER.encode(&Sha256::digest(fs::read(path).expect("a file"))),
    };
    BTreeMap::from([(name, digest)])
}

fn root() -> PathBuf {
    workspace().join("tests/fixtures/repositories")
}

fn with_sources(sandbox: Sandbox, files: &Path) -> Sandbox {
    let files = files.display();
    sandbox.with_policy_lines(&format!(
        "[sources.{UPLOADS}]\nkind = \"files\"\npaths = [\"{files}/{UPLOADS}\"]\n\
         incremental = {{ full_every = \"7d\", chain_max = 14 }}\nretention = {{ daily = 30 }}\n\
         [sources.{SETTINGS}]\nkind = \"config\"\nfiles = [\"{files}/*.toml\"]\n\
         environment = {{ names = [\"APP_*\"], env_files = [\"{files}/app.env\"] }}\nretention = {{ daily = 30 }}"
    ))
}

fn copy(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg("-r").arg("--no-target-directory").arg(from).arg(to));
}
