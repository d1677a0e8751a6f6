//! The manifests for Kubernetes: valid by the published schemas, and whole: what one names, another makes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgproof_tests::binaries;
use pgproof_tests::postgres_server::{is_root, succeed};
use pgproof_tests::postgres_versions::PostgresVersion;
use pgproof_tests::sandbox::{RepositoryKind, Sandbox};
use serde_json::Value;

/// What kustomize reads itself, and what the Prometheus operator brings: no schema is published with Kubernetes'.
pub(crate) const OTHER_KINDS: [&str; 3] = ["Kustomization", "ServiceMonitor", "PrometheusRule"];

#[test]
fn every_manifest_fits_the_published_schemas() {
    let mut validated = 0;
    for path in manifests() {
        let documents = documents(&path);
        assert!(!documents.is_empty(), "{}", path.display());
        if documents.iter().any(|document| OTHER_KINDS.contains(&text(&document["kind"]))) {
            continue;
        }
        succeed(Command::new(validator("kubernetes-validate")).arg("--strict").arg(&path));
        validated += documents.len();
    }
    assert!(validated > 12, "{validated}");
    // The validator does find what is wrong.
    let broken = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
    let agent = fs::read_to_string(folder().join("base/agent.yaml")).expect("agent.yaml");
    fs::write(broken.path(), agent.replace("containerPort: 9187", "containerPort: many")).expect("own file");
    let outcome = Command::new(validator("kubernetes-validate")).arg("--strict").arg(broken.path()).output();
    assert!(!outcome.expect("kubernetes-validate").status.success());
}

#[test]
fn what_is_named_is_there() {
    for path in manifests().into_iter().filter(|path| path.ends_with("kustomization.yaml")) {
        let here = path.parent().expect("a folder");
        for document in documents(&path) {
            let generated =
                list(&document["configMapGenerator"]).into_iter().flat_map(|made| list(&made["files"]));
            let files = generated.map(|file| text(&file).rsplit('=').next().unwrap_or_default().to_owned());
            let resources = list(&document["resources"]).into_iter().map(|name| text(&name).to_owned());
            for name in resources.chain(files) {
                assert!(here.join(&name).exists(), "{} names {name}", path.display());
            }
        }
    }
    let made = documents(&folder().join("base/kustomization.yaml"));
    let maps: BTreeSet<String> =
        list(&made[0]["configMapGenerator"]).iter().map(|map| text(&map["name"]).to_owned()).collect();
    let images: BTreeSet<String> =
        list(&made[0]["images"]).iter().map(|it| text(&it["name"]).to_owned()).collect();
    let all: Vec<Value> = manifests().iter().flat_map(|path| documents(path)).collect();
    let accounts: BTreeSet<&str> = all
        .iter()
        .filter(|document| document["kind"] == "ServiceAccount")
        .map(|document| text(&document["metadata"]["name"]))
        .collect();
    let pods: Vec<&Value> = all.iter().filter_map(pod).collect();
    assert_eq!(pods.len(), 3);
    for pod in pods {
        assert!(accounts.contains(text(&pod["serviceAccountName"])), "{pod:#}");
        let volumes = list(&pod["volumes"]);
        let names: BTreeSet<&str> = volumes.iter().map(|volume| text(&volume["name"])).collect();
        for volume in volumes.iter().filter(|volume| volume["configMap"].is_object()) {
            assert!(maps.contains(text(&volume["configMap"]["name"])), "{volume:#}");
        }
        for container in list(&pod["containers"]).iter().chain(&list(&pod["initContainers"])) {
            assert!(images.contains(text(&container["image"])), "{container:#}");
            for mount in list(&container["volumeMounts"]) {
                assert!(names.contains(text(&mount["name"])), "{mount:#}");
            }
        }
    }
}

#[test]
fn pods_have_no_power_that_they_do_not_need() {
    let all: Vec<Value> = manifests().iter().flat_map(|path| documents(path)).collect();
    all.iter().filter_map(pod).for_each(assert_confined);
}

#[test]
fn hosts_keep_their_names_and_an_outage_keeps_no_node() {
    let all: Vec<Value> = manifests().iter().flat_map(|path| documents(path)).collect();
    assert_stable(&all);
    assert_selected(&all);
}

#[test]
fn keys_are_copied_again_when_their_container_is() {
    let pods = manifests().into_iter().flat_map(|path| documents(&path));
    let commands: Vec<_> = pods
        .filter_map(|document| pod(&document).map(|pod| pod["initContainers"][0]["command"].clone()))
        .collect();
    assert_eq!(commands.len(), 3);
    for command in commands {
        let folder = tempfile::tempdir().expect("a folder");
        let (given, copies) = (folder.path().join("given"), folder.path().join("copies"));
        for path in [&given, &copies] {
            fs::create_dir(path).expect("own folder");
            fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("own folder");
        }
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("own folder");
        fs::write(given.join("signing_key"), "a key").expect("own file");
        // As a mounted secret is to a user of its group.
        fs::set_permissions(given.join("signing_key"), PermissionsExt::from_mode(0o444)).expect("own file");
        let line = text(&command[2]).replace("/run/secrets/given", &given.to_string_lossy());
        let line = line.replace("/run/secrets/pgproof", &copies.to_string_lossy());
        for _ in 0..2 {
            // Root would need no `-f`.
            let mut copy = Command::new(if is_root() { "setpriv" } else { "env" });
            copy.args(
                is_root()
                    .then_some(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
                    .into_iter()
                    .flatten(),
            );
            succeed(copy.args([text(&command[0]), text(&command[1]), &line]));
        }
        let mode = fs::metadata(copies.join("signing_key")).expect("a copy").permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
    }
}

#[test]
fn the_operators_rules_are_those_of_the_dashboards() {
    let rules = documents(&binaries::workspace().join("packaging/dashboards/pgproof.rules.yml"));
    let operators = documents(&folder().join("monitoring/prometheus-rule.yaml"));
    assert_eq!(operators[0]["spec"]["groups"], rules[0]["groups"]);
}

#[test]
fn the_policies_in_them_are_sound() {
    let sandbox = Sandbox::new(PostgresVersion::V15, RepositoryKind::Directory);
    let here = sandbox.path("");
    for (name, program) in [("pgproof.toml", "agent"), ("verifier.toml", "verifier")] {
        let text = fs::read_to_string(folder().join("base").join(name)).expect("a policy");
        let text = text.replace("/run/secrets/pgproof", &here.to_string_lossy());
        let text = text
            .replace("/etc/pgproof-verifier/", "/etc/pgproof/")
            .replace("/etc/pgproof", &here.to_string_lossy());
        fs::copy(folder().join("base/trusted_signers"), sandbox.path("trusted_signers")).expect("own file");
        fs::write(sandbox.policy(), text).expect("own file");
        let checked = sandbox.run_well(&["policy", "check"]);
        assert!(checked.text().contains("is sound"), "{program}: {}", checked.text());
    }
}

pub(crate) fn assert_confined(pod: &Value) {
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in list(&pod["containers"]).iter().chain(&list(&pod["initContainers"])) {
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{container:#}");
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert!(container["resources"]["limits"]["memory"].is_string());
    }
}

/// A pod's own name would be another host in each record, and a budget of ready pods alone would hold every node in an outage.
pub(crate) fn assert_stable(documents: &[Value]) {
    for document in documents {
        if let Some(pod) = pod(document) {
            assert_eq!(pod["hostname"], pod["serviceAccountName"], "{document:#}");
        }
        if document["kind"] == "PodDisruptionBudget" {
            assert_eq!(document["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow", "{document:#}");
        }
    }
}

/// Whatever selects pods or services selects some of these.
pub(crate) fn assert_selected(documents: &[Value]) {
    let templates = documents.iter().filter_map(pod_template);
    let pods: Vec<&Value> = templates.map(|template| &template["metadata"]["labels"]).collect();
    let of_kind = |kind: &'static str| documents.iter().filter(move |document| document["kind"] == kind);
    let services: Vec<&Value> = of_kind("Service").map(|service| &service["metadata"]["labels"]).collect();
    for document in documents {
        let spec = &document["spec"];
        match text(&document["kind"]) {
            "Deployment" => {
                let own = &spec["template"]["metadata"]["labels"];
                assert_selects(&spec["selector"], &[own], document);
                for spread in list(&spec["template"]["spec"]["topologySpreadConstraints"]) {
                    assert_selects(&spread["labelSelector"], &[own], document);
                }
            }
            "Service" => {
                assert_selects(&serde_json::json!({ "matchLabels": spec["selector"] }), &pods, document)
            }
            "PodDisruptionBudget" => assert_selects(&spec["selector"], &pods, document),
            "NetworkPolicy" => assert_selects(&spec["podSelector"], &pods, document),
            "ServiceMonitor" => assert_selects(&spec["selector"], &services, document),
            _ => {}
        }
    }
}

fn assert_selects(selector: &Value, among: &[&Value], document: &Value) {
    let equal: Vec<_> = selector["matchLabels"].as_object().into_iter().flatten().collect();
    let one_of = list(&selector["matchExpressions"]);
    assert!(!equal.is_empty() || !one_of.is_empty(), "{document:#} selects everything");
    assert!(one_of.iter().all(|it| it["operator"] == "In"), "{document:#}");
    let is_selected = |labels: &Value| {
        equal.iter().all(|(key, value)| labels[key.as_str()] == **value)
            && one_of.iter().all(|it| list(&it["values"]).contains(&labels[text(&it["key"])]))
    };
    assert!(among.iter().any(|labels| is_selected(labels)), "{document:#} selects none of {among:#?}");
}

pub(crate) fn folder() -> PathBuf {
    binaries::workspace().join("packaging/kubernetes")
}

fn manifests() -> Vec<PathBuf> {
    let folders = ["base", "cronjob", "monitoring"].map(|name| folder().join(name));
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let mut paths: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

/// The YAML documents of a file.
pub(crate) fn documents(path: &Path) -> Vec<Value> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let output = succeed(Command::new(validator("python")).args(["-c", program]).arg(path));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

pub(crate) fn validator(name: &str) -> PathBuf {
    let program = binaries::workspace().join("target/testbed/validators/bin").join(name);
    assert!(program.exists(), "{} is missing; tests/run --setup-only installs it", program.display());
    program
}

pub(crate) fn pod(document: &Value) -> Option<&Value> {
    pod_template(document).map(|template| &template["spec"])
}

fn pod_template(document: &Value) -> Option<&Value> {
    match text(&document["kind"]) {
        "Deployment" => Some(&document["spec"]["template"]),
        "CronJob" => Some(&document["spec"]["jobTemplate"]["spec"]["template"]),
        _ => None,
    }
}

pub(crate) fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
