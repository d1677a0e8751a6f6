//! Images, made from the Containerfile by a builder (`buildah`) and run by a runtime (`runc`), without a registry.
//!
//! What would come from one is put in its place: a clean Debian with its own PostgreSQL for the stage that fetches
//! PostgreSQL's packages, and the programs of the tests for the stage that compiles them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::binaries::{pgproof, pgproof_verifier, workspace};
use crate::postgres_server::{is_root, succeed};

/// The version of PostgreSQL that is in Debian 12, and so in these images.
const POSTGRESQL: &str = "15";

/// An image and what was made for it; all of it is gone when it is dropped.
#[derive(Debug)]
pub struct Image {
    folder: tempfile::TempDir,
    storage: &'static str,
    /// Where the image's files lie.
    root: PathBuf,
    /// As Docker tells it: `User`, `Entrypoint`, `Cmd`, `Env`, `Healthcheck`.
    pub settings: Value,
}

/// A container of an image that is to run or runs: an ordinary user, no capabilities, a root that is only read, the host's
/// network.
#[derive(Debug)]
pub struct Container<'a> {
    image: &'a Image,
    name: &'static str,
    mounts: Vec<Value>,
    environment: Vec<String>,
}

impl Image {
    /// Builds a target of the Containerfile.
    ///
    /// # Panics
    /// With all that the builder said, when it fails.
    #[must_use]
    pub fn build(target: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("pgproof-image.").tempdir().expect("a temporary folder");
        let storage = storage_driver(folder.path());
        let mut image = Self { folder, storage, root: PathBuf::new(), settings: Value::Null };
        let base = format!("postgresql=container-image://{}", image.import_debian());
        let built = format!("build={}", image.folder_of_programs().display());
        let mut build = image.builder(&["build", "--pull=never", "--isolation=chroot", "--format=docker"]);
        build.args(["--build-context", &base, "--build-context", &built]);
        build.args(["--build-arg", &format!("POSTGRESQL={POSTGRESQL}"), "--target", target, "--tag", target]);
        build.arg("--file").arg(workspace().join("packaging/container/Containerfile"));
        succeed(build.arg(workspace()));

        let told = image.told(&["inspect", "--type=image", target]);
        let told: Value = serde_json::from_str(&told).expect("the builder's JSON");
        image.settings = told["Docker"]["config"].clone();
        let container = image.told(&["from", "--pull=never", target]);
        image.root = image.told(&["mount", &container]).into();
        image
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn container(&self, name: &'static str) -> Container<'_> {
        let environment = words(&self.settings["Env"]);
        let folder = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options});
        let mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            folder("/dev", &["nosuid", "mode=755"]),
            folder("/dev/shm", &["nosuid", "nodev", "noexec", "mode=1777"]),
            folder("/tmp", &["nosuid", "nodev", "mode=1777"]),
        ];
        Container { image: self, name, mounts, environment }
    }

    fn import_debian(&self) -> String {
        succeed(Command::new(workspace().join("packaging/debian/try")).arg("--tree-only"));
        let tree = std::fs::read_dir(workspace().join("target")).expect("the target folder").flatten();
        let is_tree = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("debian-12-") && name.ends_with(".tar") && !name.contains(".part.")
        };
        let newest = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
        let tree = tree.map(|entry| entry.path()).filter(is_tree).max_by_key(newest).expect("a clean Debian");
        let container = self.told(&["from", "scratch"]);
        succeed(self.builder(&["add", "--quiet", &container]).arg(tree).arg("/"));
        succeed(&mut self.builder(&["commit", "--quiet", "--rm", &container, "localhost/debian"]));
        "localhost/debian".to_owned()
    }

    /// What the stage `build` leaves, as the other stages take it.
    fn folder_of_programs(&self) -> PathBuf {
        let context = self.folder.path().join("built");
        let programs = context.join("source/target/release");
        std::fs::create_dir_all(&programs).expect("own folder");
        for program in [pgproof(), pgproof_verifier()] {
            let name = program.file_name().expect("a program").to_string_lossy().into_owned();
            succeed(Command::new("strip").arg("-o").arg(programs.join(&name)).arg(program));
            std::fs::write(programs.join(format!("{name}.third-parties")), "of a test\n").expect("own file");
        }
        context
    }

    fn builder(&self, arguments: &[&str]) -> Command {
        let mut builder = builder_in(self.folder.path(), self.storage);
        builder.args(arguments);
        builder
    }

    fn told(&self, arguments: &[&str]) -> String {
        String::from_utf8_lossy(&succeed(&mut self.builder(arguments)).stdout).trim().to_owned()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = self.builder(&["umount", "--all"]).output();
        // What the builder wrote is root's.
        let _ = as_root("rm").args(["-rf", "--one-file-system"]).arg(self.folder.path()).status();
    }
}

impl Container<'_> {
    /// Shows it a file or folder of the host, to be read.
    #[must_use]
    pub fn with(mut self, source: &Path, destination: &Path) -> Self {
        self.mounts.push(json!({
            "destination": destination, "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid", "nodev"]
        }));
        self
    }

    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The image's entry point with these arguments in the place of its own, ready to run; `&[]` takes its own.
    ///
    /// # Panics
    /// When the bundle cannot be written.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let settings = &self.image.settings;
        let mut all = words(&settings["Entrypoint"]);
        if arguments.is_empty() {
            all.extend(words(&settings["Cmd"]));
        } else {
            all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        }
        let user = settings["User"].as_str().unwrap_or_default();
        let (uid, gid) = user.split_once(':').expect("a user and a group");
        let id = |text: &str| text.parse::<u32>().expect("a number, which needs no list of users");
        let bundle = self.bundle();
        std::fs::create_dir_all(&bundle).expect("own folder");
        let configuration = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": id(uid), "gid": id(gid)}, "args": all, "env": self.environment, "cwd": "/",
                "noNewPrivileges": true, "capabilities": {}
            },
            "root": {"path": self.image.root, "readonly": true},
            "mounts": self.mounts,
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]}
        });
        std::fs::write(bundle.join("config.json"), configuration.to_string()).expect("own file");
        let mut run = self.runtime("run");
        run.arg("--bundle").arg(&bundle).arg(self.id());
        run
    }

    /// Another program in the running container, ready to run: its health check, for instance.
    #[must_use]
    pub fn inside(&self, program: &[&str]) -> Command {
        let mut exec = self.runtime("exec");
        exec.arg(self.id()).args(program);
        exec
    }

    /// Sends its first process a signal: `TERM`.
    pub fn signal(&self, name: &str) {
        succeed(self.runtime("kill").args([&self.id(), name]));
    }

    fn runtime(&self, verb: &str) -> Command {
        let mut runtime = as_root("runc");
        runtime.arg("--root").arg(self.image.folder.path().join("containers")).arg(verb);
        runtime
    }

    fn bundle(&self) -> PathBuf {
        self.image.folder.path().join("bundles").join(self.name)
    }

    /// Its name among all containers of the host, whose control groups are named so.
    fn id(&self) -> String {
        let folder = self.image.folder.path().file_name().expect("a folder of its own").to_string_lossy();
        format!("{}-{}", folder.replace('.', "-"), self.name)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // It may never have been run, or have ended.
        let _ = self.runtime("delete").args(["--force", &self.id()]).output();
    }
}

/// The builder with a store of its own.
fn builder_in(folder: &Path, storage: &str) -> Command {
    let mut builder = as_root("buildah");
    builder.arg("--root").arg(folder.join("store")).arg("--runroot").arg(folder.join("run"));
    builder.args(["--storage-driver", storage]);
    builder
}

/// Layers that lie over one another where the kernel can do that here, which is the faster way, or else copies.
fn storage_driver(folder: &Path) -> &'static str {
    let probe = folder.join("probe");
    let works = builder_in(&probe, "overlay").arg("info").output().is_ok_and(|probe| probe.status.success());
    if works { "overlay" } else { "vfs" }
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Builder and runtime need root here: an ordinary user's want ranges of subordinate users that a machine may not have.
fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}
