//! The Helm chart, rendered by helm itself: valid by the published schemas, what the plain manifests are, and closed to values that
//! would take a promise back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use pgproof_tests::binaries;
use pgproof_tests::postgres_server::succeed;
use serde_json::Value;

use crate::kubernetes::{
    OTHER_KINDS, assert_confined, assert_selected, assert_stable, documents, folder, list, pod, text,
    validator,
};

const MINIMAL: &str = "minimal";
/// Helm's option for a release that is not named `pgproof`.
const NAMED: &str = "--name-template";

#[test]
fn every_example_renders_to_what_the_published_schemas_allow() {
    let mut kinds = BTreeSet::new();
    for example in examples() {
        succeed(&mut helm(&["lint", "--strict"], &example, &[]));
        let rendered = render(&example, &[]);
        assert_stable(&rendered);
        assert_selected(&rendered);
        let names: BTreeSet<(&str, &str)> = rendered.iter().map(kind_and_name).collect();
        assert_eq!(names.len(), rendered.len(), "{names:?}");
        let (others, own): (Vec<_>, Vec<_>) =
            rendered.iter().partition(|document| OTHER_KINDS.contains(&text(&document["kind"])));
        kinds.extend(others.iter().chain(&own).map(|document| text(&document["kind"]).to_owned()));

        // JSON is YAML.
        let files = tempfile::tempdir().expect("a folder");
        let mut validate = Command::new(validator("kubernetes-validate"));
        validate.arg("--strict");
        for (number, document) in own.iter().enumerate() {
            let path = files.path().join(format!("{number}.yaml"));
            fs::write(&path, document.to_string()).expect("own file");
            validate.arg(path);
        }
        succeed(&mut validate);

        for pod in own.iter().filter_map(|document| pod(document)) {
            assert_confined(pod);
            assert!(names.contains(&("ServiceAccount", text(&pod["serviceAccountName"]))), "{pod:#}");
            for volume in list(&pod["volumes"]).iter().filter(|volume| volume["configMap"].is_object()) {
                assert!(names.contains(&("ConfigMap", text(&volume["configMap"]["name"]))), "{volume:#}");
            }
        }
    }
    let all = [
        "ConfigMap",
        "CronJob",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    ];
    assert_eq!(kinds, all.map(str::to_owned).into());
}

#[test]
fn the_chart_is_what_the_plain_manifests_are() {
    let base = ["agent", "verifier", "network-policies", "disruption-budgets"];
    let plain = base.iter().flat_map(|name| documents(&folder().join(format!("base/{name}.yaml"))));
    let mut rendered = essences(render(MINIMAL, &[]));
    let maps: Vec<_> = ["pgproof-agent", "pgproof-verifier"]
        .iter()
        .map(|name| rendered.remove(&("ConfigMap".to_owned(), (*name).to_owned())).expect("a policy"))
        .collect();
    assert_eq!(rendered, essences(plain));
    for (map, policy) in maps.iter().zip(["pgproof.toml", "verifier.toml"]) {
        assert_eq!(text(&map["data"]["pgproof.toml"]), in_base(policy));
        assert_eq!(text(&map["data"]["trusted_signers"]), in_base("trusted_signers"));
    }

    let cron_job = ("CronJob".to_owned(), "pgproof-agent".to_owned());
    let plain = essences(documents(&folder().join("cronjob/agent.yaml")));
    assert_eq!(essences(render(MINIMAL, &["agent.mode=cronjob"]))[&cron_job], plain[&cron_job]);

    let monitoring = ["monitoring.serviceMonitors=true", "monitoring.rules=true"];
    let mut rendered = essences(render(MINIMAL, &monitoring));
    rendered.retain(|(kind, _), _| OTHER_KINDS.contains(&kind.as_str()));
    let plain = ["service-monitors", "prometheus-rule"].map(|name| format!("monitoring/{name}.yaml"));
    assert_eq!(rendered, essences(plain.iter().flat_map(|name| documents(&folder().join(name)))));
}

#[test]
fn a_part_can_be_left_out_and_a_fleet_spread() {
    let rendered = essences(render("cronjob", &[]));
    assert!(rendered.keys().all(|(_, name)| !name.contains("verifier")), "{:?}", rendered.keys());
    let rendered = render("fleet", &[]);
    let of = |kind: &str, name: &str| {
        rendered.iter().find(|document| kind_and_name(document) == (kind, name)).expect("a document").clone()
    };
    let deployment = of("Deployment", "pgproof-agent");
    assert_eq!(deployment["spec"]["replicas"], 6);
    let image = text(&pod(&deployment).expect("a pod")["containers"][0]["image"]).to_owned();
    assert!(image.starts_with("registry.example.org:5000/team/pgproof@sha256:"), "{image}");
    let verifier = of("Deployment", "pgproof-verifier");
    let volumes = list(&pod(&verifier).expect("a pod")["volumes"]);
    let scratch = volumes.iter().find(|volume| volume["name"] == "scratch").expect("a volume");
    assert_eq!(scratch["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"], "fast");
    // The verifier reaches the servers that it was given, and none of the agent's.
    let reached = of("NetworkPolicy", "pgproof-scratch-servers")["spec"]["egress"].to_string();
    assert!(reached.contains("scratch") && !reached.contains("shop"), "{reached}");
    // Names, the store, and what hands out a role's credentials.
    let reached = &of("NetworkPolicy", "pgproof-store")["spec"]["egress"];
    assert_eq!(reached[0]["to"][1]["ipBlock"]["cidr"], "169.254.20.10/32", "{reached:#}");
    assert_eq!(list(&reached[0]["ports"]).iter().map(|it| &it["port"]).collect::<Vec<_>>(), [5353, 5353]);
    assert_eq!(reached[2]["to"][0]["ipBlock"]["cidr"], "169.254.170.23/32", "{reached:#}");
    assert_eq!(reached[2]["ports"], serde_json::json!([{ "protocol": "TCP", "port": 80 }]));
}

#[test]
fn what_would_take_a_promise_back_is_refused() {
    let policies = tempfile::tempdir().expect("a folder");
    let loopback = policies.path().join("loopback.toml");
    fs::write(&loopback, in_base("pgproof.toml").replace("0.0.0.0:9187", "127.0.0.1:9187"))
        .expect("own file");
    let broken = policies.path().join("broken.toml");
    fs::write(&broken, "[repository\n").expect("own file");
    let base = |name: &str| folder().join("base").join(name).display().to_string();
    let cases = [
        ("--set", "agent.secrets.keys=".to_owned(), "/agent/secrets/keys"),
        ("--set", "verifier.secrets.keys=null".to_owned(), "/verifier/secrets"),
        ("--set", "agent.secrets.key=other".to_owned(), "'key' not allowed"),
        ("--set", "agents.replicas=3".to_owned(), "'agents' not allowed"),
        ("--set", "agent.replicas=0".to_owned(), "/agent/replicas"),
        ("--set", "agent.mode=job".to_owned(), "/agent/mode"),
        ("--set", "agent.image.tag=latest".to_owned(), "/agent/image/tag"),
        ("--set", "verifier.image.repository=".to_owned(), "/verifier/image/repository"),
        ("--set", "agent.image.repository=example.org/pgproof:latest".to_owned(), "/agent/image/repository"),
        ("--set", "agent.image.digest=sha256:12".to_owned(), "/agent/image/digest"),
        ("--set", "verifier.resources.limits.memory=null".to_owned(), "/verifier/resources/limits"),
        ("--set", "verifier.securityContext.runAsUser=0".to_owned(), "'securityContext' not allowed"),
        ("--set", "agent.volumeMounts[0].name=v".to_owned(), "/agent/volumeMounts/0"),
        ("--set", "agent.databases[0].block=10.0.0.0/8".to_owned(), "/agent/databases/0"),
        ("--set", "network.storePorts=null".to_owned(), "/network"),
        ("--set", "network.dnsPorts=null".to_owned(), "/network"),
        (
            "--set",
            "network.credentialBlocks[0].block=169.254.170.23/32".to_owned(),
            "/network/credentialBlocks/0",
        ),
        ("--set-file", "trustedSigners=/dev/null".to_owned(), "/trustedSigners"),
        ("--set-file", "agent.policy=/dev/null".to_owned(), "/agent/policy"),
        ("--set", "verifier.secrets.keys=pgproof-agent".to_owned(), "are one secret"),
        ("--set", "verifier.secrets.store=pgproof-agent-s3".to_owned(), "are one secret"),
        ("--set-file", format!("agent.policy={}", base("verifier.toml")), "names identity_files"),
        ("--set-file", format!("verifier.policy={}", base("pgproof.toml")), "names no identity_files"),
        (
            "--set-file",
            format!("agent.policy={}", loopback.display()),
            "agent.policy needs `[monitoring] listen",
        ),
        ("--set-file", format!("agent.policy={}", broken.display()), "agent.policy is not TOML"),
    ];
    for (option, value, expected) in cases {
        let mut command = helm(&["template"], MINIMAL, &[]);
        let outcome = command.args([option, &value]).output().expect("helm");
        let told = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert!(!outcome.status.success() && told.contains(expected), "{value}: {told}");
    }
}

#[test]
fn a_cron_jobs_name_is_not_too_long() {
    for (letters, fits) in [(46, true), (47, false)] {
        let name = "r".repeat(letters);
        let outcome = helm(&["template", NAMED, &name], "cronjob", &[]).output().expect("helm");
        let told = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert_eq!(
            (outcome.status.success(), told.contains("longer than 46 characters")),
            (fits, !fits),
            "{told}"
        );
    }
}

#[test]
fn notes_name_the_secrets_and_what_comes_next() {
    let notes = |example: &str, values: &[&str]| {
        let mut command = helm(&["install", "--dry-run=client"], example, values);
        let told = String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned();
        told.split_once("\nNOTES:\n").expect("notes").1.to_owned()
    };
    let minimal = notes(MINIMAL, &[]);
    for secret in ["pgproof-agent", "pgproof-agent-s3", "pgproof-verifier", "pgproof-verifier-s3"] {
        assert!(minimal.contains(&format!("secret {secret} ")), "{minimal}");
    }
    assert!(minimal.contains("deploy/pgproof-agent -- pgproof --policy /etc/pgproof/pgproof.toml doctor"));
    assert!(!minimal.contains("WARNING"), "{minimal}");
    let cron_job = notes("cronjob", &["agent.databases=null"]);
    assert!(cron_job.contains("create job --from=cronjob/pgproof-agent"), "{cron_job}");
    assert!(cron_job.contains("agent.databases is empty") && cron_job.contains("without a verifier"));
}

#[test]
fn chart_and_manifests_are_of_this_version() {
    let chart = &documents(&chart().join("Chart.yaml"))[0];
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    for image in list(&documents(&folder().join("base/kustomization.yaml"))[0]["images"]) {
        assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"), "{image}");
    }
}

fn chart() -> PathBuf {
    folder().join("chart")
}

fn examples() -> Vec<String> {
    let files = fs::read_dir(chart().join("examples")).expect("a folder");
    let names = files.map(|entry| entry.expect("an entry").path());
    let names: Vec<_> =
        names.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    assert!(names.len() > 2, "{names:?}");
    names
}

/// Helm at work on the chart with an example's values, the policies of the plain manifests, and some values more.
fn helm(verb: &[&str], example: &str, values: &[&str]) -> Command {
    let program = binaries::workspace().join("target/testbed/helm");
    assert!(program.exists(), "{} is missing; tests/run --setup-only installs it", program.display());
    let mut command = Command::new(program);
    command.env("KUBECONFIG", "/dev/null").args(verb);
    if verb[0] != "lint" && !verb.contains(&NAMED) {
        command.arg("pgproof");
    }
    command.arg(chart()).arg("--values").arg(chart().join(format!("examples/{example}.yaml")));
    for (value, file) in [
        ("agent.policy", "pgproof.toml"),
        ("verifier.policy", "verifier.toml"),
        ("trustedSigners", "trusted_signers"),
    ] {
        command.arg("--set-file").arg(format!("{value}={}", folder().join("base").join(file).display()));
    }
    for value in values {
        command.args(["--set", value]);
    }
    command
}

fn render(example: &str, values: &[&str]) -> Vec<Value> {
    let Output { stdout, .. } = succeed(&mut helm(&["template"], example, values));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), stdout).expect("own file");
    documents(file.path()).into_iter().filter(|document| !document.is_null()).collect()
}

/// What each document asks for, without what only says whose it is: labels of the release, images, the version.
fn essences(documents: impl IntoIterator<Item = Value>) -> BTreeMap<(String, String), Value> {
    let named = documents.into_iter().map(|document| {
        let (kind, name) = kind_and_name(&document);
        ((kind.to_owned(), name.to_owned()), without_origin(document))
    });
    named.collect()
}

fn without_origin(value: Value) -> Value {
    const OF_ORIGIN: [&str; 5] =
        ["app.kubernetes.io/instance", "image", "imagePullPolicy", "metadata", "optional"];
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(key, _)| !OF_ORIGIN.contains(&key.as_str()));
            let fields = fields.map(|(key, value)| (key, without_origin(value)));
            fields.filter(|(key, value)| key != "matchLabels" || *value != serde_json::json!({})).collect()
        }
        Value::Array(values) => values.into_iter().map(without_origin).collect(),
        other => other,
    }
}

fn kind_and_name(document: &Value) -> (&str, &str) {
    (text(&document["kind"]), text(&document["metadata"]["name"]))
}

fn in_base(name: &str) -> String {
    fs::read_to_string(folder().join("base").join(name)).expect("its file")
}
