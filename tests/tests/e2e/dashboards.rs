//! Dashboards and alert rules: every metric in them is one that the programs export, and promtool agrees with the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use pgproof_tests::binaries;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::{SOURCE, Sandbox};
use serde_json::Value;

#[test]
fn every_metric_that_is_asked_for_is_exported() {
    let sandbox = Sandbox::small().with_policy_lines(
        "schedule = \"0 2 * * *\"\nobjectives = { recovery_point = \"25h\", recovery_time = \"2h\" }\n\
         [sources.app.verification]\nschedule = \"0 4 * * 0\"\n[monitoring]\ntextfile = \"metrics.prom\"\n",
    );
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(sandbox.verify(&["drill", SOURCE]).code, Some(0));
    sandbox.run_well(&["backup", SOURCE]);
    let sample = fs::read_to_string(sandbox.path("metrics.prom")).expect("a text file of metrics");
    let exported = names(sample.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"));
    assert!(exported.len() > 15, "{exported:?}");
    let rules = fs::read_to_string(folder().join("pgproof.rules.yml")).expect("rules");
    let cases = fs::read_to_string(folder().join("pgproof.tests.yml")).expect("cases");
    let asked = names(rules + &cases + &queries().join("\n"));
    let unknown: Vec<_> = asked.difference(&exported).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {exported:?}");
    let unused: Vec<_> = exported.difference(&asked).collect();
    assert_eq!(
        unused,
        ["pgproof_backup_last_attempt_timestamp_seconds"],
        "a new metric belongs on the dashboard"
    );
}

#[test]
fn promtool_finds_rules_and_queries_well_formed_and_the_cases_come_true() {
    let promtool = binaries::workspace().join("target/testbed/promtool");
    assert!(promtool.exists(), "{} is missing; tests/run --setup-only fetches it", promtool.display());
    let run = |arguments: &[&str]| succeed(Command::new(&promtool).args(arguments).current_dir(folder()));
    run(&["check", "rules", "pgproof.rules.yml"]);
    run(&["test", "rules", "pgproof.tests.yml"]);

    // promtool reads queries of dashboards and of the manual when they stand in rules.
    let records = queries().into_iter().chain(of_the_manual()).enumerate().map(|(number, query)| {
        let query = serde_json::to_string(&query.replace("$source", ".*").replace("$repository", ".*"))
            .expect("a string");
        format!("      - record: dashboard:query:{number}\n        expr: {query}\n")
    });
    let text = format!("groups:\n  - name: dashboard\n    rules:\n{}", records.collect::<String>());
    let file = tempfile::Builder::new().suffix(".yml").tempfile().expect("a temporary file");
    fs::write(file.path(), text).expect("own file");
    run(&["check", "rules", &file.path().to_string_lossy()]);
}

#[test]
fn no_alert_is_without_a_case_or_named_as_such() {
    let rules = fs::read_to_string(folder().join("pgproof.rules.yml")).expect("rules");
    let cases = fs::read_to_string(folder().join("pgproof.tests.yml")).expect("cases");
    let of = |text: &str, head: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(head));
        lines.map(|name| name.trim().to_owned()).collect()
    };
    let (alerts, tried) = (of(&rules, "- alert:"), of(&cases, "alertname:"));
    assert!(tried.is_subset(&alerts), "{:?}", tried.difference(&alerts));
    let untried: Vec<_> = alerts.difference(&tried).map(String::as_str).collect();
    let known = [
        "PgproofClocksDisagree",
        "PgproofRecoveryPointMissed",
        "PgproofRecoveryTimeNear",
        "PgproofRemovalUnfinished",
    ];
    assert_eq!(untried, known, "one threshold each, and nothing to go wrong");
}

#[test]
fn no_source_speaks_for_another_of_its_name() {
    let folder = folder();
    let others = ["docs/monitoring.md", "packaging/kubernetes/monitoring/prometheus-rule.yaml"];
    let others = others.map(|path| binaries::workspace().join(path));
    let files = ["pgproof.rules.yml", "grafana.json"].map(|name| folder.join(name));
    for path in files.into_iter().chain(others) {
        let text = fs::read_to_string(&path).expect("a file with queries");
        let spaceless = text.replace(' ', "");
        let joined = spaceless.matches("on(").count() + spaceless.matches("by(").count();
        let by_both =
            ["on", "by"].map(|word| spaceless.matches(&format!("{word}(repository,source")).count());
        assert!(joined > 0 && joined == by_both.iter().sum::<usize>(), "{}", path.display());
    }
    for query in queries() {
        assert!(!query.contains("$source") || query.contains("repository=~\"$repository\""), "{query}");
    }
}

#[test]
fn panels_lie_side_by_side() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{}", panel["title"]);
        let at = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
    }
}

fn folder() -> PathBuf {
    binaries::workspace().join("packaging/dashboards")
}

fn dashboard() -> Value {
    let text = fs::read_to_string(folder().join("grafana.json")).expect("a dashboard");
    serde_json::from_str(&text).expect("JSON")
}

fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

/// In the manual a line that is set in goes on with the one before.
fn of_the_manual() -> Vec<String> {
    let path = binaries::workspace().join("docs/monitoring.md");
    let page = fs::read_to_string(path).expect("a page").replace("\n  ", " ");
    let block = page.split("```promql\n").nth(1).and_then(|rest| rest.split("```").next());
    let queries: Vec<_> = block.expect("a block of queries").lines().map(str::to_owned).collect();
    assert_eq!(queries.len(), 3, "{queries:#?}");
    queries
}

/// Every word that begins like a metric of ours.
fn names(text: String) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("pgproof_")).map(str::to_owned).collect()
}
