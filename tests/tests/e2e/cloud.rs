//! The policies of `packaging/cloud` give each program what it needs, and nobody the power of another.

use std::path::PathBuf;
use std::process::Command;

use pgproof_tests::binaries;
use pgproof_tests::moto::Moto;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::s3_server::BUCKET;
use pgproof_tests::sandbox::{Outcome, PREFIX, SOURCE, Sandbox};

const FAILED: i32 = 1;

/// A source in a bucket where every request is checked.
struct World {
    moto: Moto,
    sandbox: Sandbox,
}

impl World {
    fn new() -> Self {
        let moto = Moto::with_users(&policies(), BUCKET, PREFIX);
        let sandbox = Sandbox::small().with_retention("{ daily = 1 }");
        let text = std::fs::read_to_string(sandbox.policy()).expect("a policy");
        let elsewhere = text.replace(&sandbox.proxy.url(), &moto.url());
        assert_ne!(text, elsewhere);
        std::fs::write(sandbox.policy(), elsewhere).expect("own file");
        Self { moto, sandbox }
    }

    fn run(&self, user: &str, arguments: &[&str]) -> Outcome {
        ended(self.moto.sign_in(&mut self.sandbox.command(arguments), user))
    }

    fn verify(&self, user: &str, arguments: &[&str]) -> Outcome {
        ended(self.moto.sign_in(&mut self.sandbox.verifier_command(arguments), user))
    }

    fn ids(&self) -> Vec<String> {
        let good = well(self.run("restorer", &["list", SOURCE, "--json"])).good_backups();
        good.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect()
    }
}

#[test]
fn each_has_its_own_power_and_no_others() {
    let world = World::new();
    let run = |user: &str, arguments: &[&str]| world.run(user, arguments);
    well(run("agent", &["backup", SOURCE]));
    well(run("agent", &["backup", SOURCE, "--hold", "--reason", "a test"]));
    well(run("agent", &["snapshot", "--reason", "a test"]));
    let ids = world.ids();
    assert_eq!(ids.len(), 3);

    // A drill puts its report; the verifier's credentials make no backup, and remove none.
    well(world.verify("verifier", &["drill", SOURCE]));
    denied(world.verify("agent", &["drill", SOURCE]));
    denied(run("verifier", &["backup", SOURCE]));
    denied(run("verifier", &["prune", SOURCE, "--yes"]));

    // A restoring host reads, says so, and writes nothing else.
    let restored = well(run("restorer", &["restore", SOURCE, "--at", "now", "--into", "restored"]));
    assert!(!restored.stderr.contains("no record of this act"), "{}", restored.stderr);
    denied(run("restorer", &["backup", SOURCE]));
    denied(world.verify("restorer", &["drill", SOURCE]));

    // The agent sees what would go and cannot make it go, nor give back what it held.
    well(run("agent", &["prune", SOURCE, "--dry-run"]));
    denied(run("agent", &["prune", SOURCE, "--yes"]));
    denied(run("agent", &["release", SOURCE, &ids[1]]));
    assert_eq!(world.ids(), ids);

    denied(run("pruner", &["backup", SOURCE]));
    denied(world.verify("pruner", &["drill", SOURCE]));
    well(run("pruner", &["prune", SOURCE, "--yes"]));
    assert_eq!(world.ids(), ids[1..], "the held one stays, and the newest");
    well(run("pruner", &["release", SOURCE, &ids[1]]));
    well(run("pruner", &["prune", SOURCE, "--yes"]));
    assert_eq!(world.ids(), ids[2..]);
    let audit = well(run("restorer", &["audit", SOURCE])).text();
    assert!(audit.contains("all of which check"), "{audit}");
}

#[test]
fn terraform_reads_and_names_what_is_there() {
    let python = binaries::workspace().join("target/testbed/validators/bin/python");
    assert!(python.exists(), "{} is missing; tests/run --setup-only installs it", python.display());
    let folder = policies().join("terraform");
    let program = "import hcl2, json, pathlib, sys\n\
        print(json.dumps({p.name: hcl2.loads(p.read_text()) for p in pathlib.Path(sys.argv[1]).glob('*.tf')}))";
    let output = succeed(Command::new(python).args(["-c", program]).arg(&folder));
    let files: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(files.as_object().map(|files| files.len()), Some(3), "{files:#}");
    let main = std::fs::read_to_string(folder.join("main.tf")).expect("main.tf");
    let variables = std::fs::read_to_string(folder.join("variables.tf")).expect("variables.tf");
    let used = main.split("var.").skip(1).map(|rest| {
        rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default()
    });
    for name in used {
        assert!(variables.contains(&format!("variable \"{name}\" {{")), "var.{name} is not declared");
    }
    for power in ["agent", "verifier", "restorer", "pruner"] {
        assert!(main.contains(&format!("\"{power}\"")) && policies().join(format!("{power}.json")).exists());
    }
}

fn policies() -> PathBuf {
    binaries::workspace().join("packaging/cloud")
}

fn ended(command: &mut Command) -> Outcome {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}

fn well(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, Some(0), "{}\n{}", outcome.text(), outcome.stderr);
    outcome
}

fn denied(outcome: Outcome) {
    assert_eq!(outcome.code, Some(FAILED), "{}\n{}", outcome.text(), outcome.stderr);
    let told = outcome.stderr.to_lowercase();
    assert!(told.contains("denied") || told.contains("not allowed"), "{}", outcome.stderr);
}
