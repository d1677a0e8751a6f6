//! How things stand, as operators, monitoring systems and Prometheus see it: by the age of what counts.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};
use serde_json::Value;

const OK: Option<i32> = Some(0);
const WARNING: Option<i32> = Some(1);
const CRITICAL: Option<i32> = Some(2);
const UNKNOWN: Option<i32> = Some(3);
/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn age_alone_turns_a_good_backup_into_an_alarm() {
    let sandbox = Sandbox::small().with_policy_lines("schedule = \"0 2 * * *\"");
    let never = sandbox.run(&["status", "--json"]);
    assert_eq!((never.code, finding(&never, "backup_age")["state"].as_str()), (CRITICAL, Some("critical")));
    assert!(sandbox.run(&["status"]).text().contains("never"), "a table that hides it");

    sandbox.run_well(&["backup", SOURCE]);
    let fresh = sandbox.run(&["status", "--json"]);
    assert_eq!(fresh.code, OK, "{}", fresh.text());
    let document = fresh.json();
    let source = &document["sources"][0];
    assert_eq!((&document["version"], &source["source"]), (&1.into(), &SOURCE.into()), "{document:#}");
    assert_eq!(source["newest_backup"]["id"], sandbox.good_ids()[0], "{document:#}");
    assert!(source["next_run"].is_string(), "{document:#}");
    // It needs neither identity nor signing key.
    for secret in ["identity.txt", "signing_key"] {
        std::fs::remove_file(sandbox.path(secret)).expect("own file");
    }
    assert_eq!(sandbox.run(&["status"]).code, OK);

    let aged = |warning: &str, critical: &str| {
        format!("alarms = {{ backup_age = {{ warning = \"{warning}\", critical = \"{critical}\" }} }}")
    };
    set_alarms(&sandbox, &aged("1s", "1h"));
    let late = until(&sandbox, WARNING);
    assert!(late.text().contains("warning: backup_age: the newest backup"), "{}", late.text());
    set_alarms(&sandbox, &aged("1s", "2s"));
    let dead = until(&sandbox, CRITICAL);
    assert!(dead.text().contains("critical: backup_age"), "{}", dead.text());
    let line = sandbox.run(&["status", "--nagios"]);
    assert_eq!(line.code, CRITICAL);
    let text = line.text();
    assert!(text.starts_with("PGPROOF CRITICAL - app: backup_age: the newest backup"), "{text}");
    assert_eq!((text.lines().count(), text.matches('|').count()), (1, 1), "{text}");
    assert!(
        text.contains("'app_backup_age'=") && text.contains("s;1;2;0 ") && text.contains("'app_size'="),
        "{text}"
    );
}

#[test]
fn failing_runs_are_named_and_the_good_backup_before_them_counts() {
    let sandbox = Sandbox::small().with_policy_lines("schedule = \"0 2 * * *\"");
    sandbox.run_well(&["backup", SOURCE]);
    let good = sandbox.good_ids();
    sandbox.server.stop();
    for _ in 0..3 {
        assert_ne!(sandbox.run(&["backup", SOURCE]).code, OK);
    }
    let outcome = sandbox.run(&["status", "--json"]);
    assert_eq!(outcome.code, WARNING, "{}", outcome.text());
    assert_eq!(finding(&outcome, "backup_age")["state"], "ok");
    let failing = finding(&outcome, "failing");
    let told = failing["told"].as_str().expect("a sentence");
    assert!(told.starts_with("3 run(s) in a row") && told.contains("cannot connect"), "{told}");
    let source = &outcome.json()["sources"][0];
    assert_eq!(
        (&source["failures_in_a_row"], &source["newest_backup"]["id"]),
        (&3.into(), &good[0].clone().into())
    );
}

#[test]
fn what_is_not_signed_or_gone_is_said_and_not_counted() {
    let sandbox = Sandbox::small().with_policy_lines("schedule = \"0 2 * * *\"");
    sandbox.run_well(&["backup", SOURCE]);
    let first = sandbox.good_ids().remove(0);
    // Ids of one second sort by chance.
    let deadline = Instant::now() + PATIENCE;
    let mut second = first.clone();
    while second[..16] == first[..16] {
        assert!(Instant::now() < deadline, "seconds stand still");
        sandbox.run_well(&["backup", SOURCE]);
        second = sandbox.good_ids().pop().expect("a backup");
    }
    let sandbox_file = |name: &str| sandbox.object(&format!("{second}/{name}"));
    let signature = std::fs::read(sandbox_file("manifest.json.sig")).expect("a signature");
    std::fs::remove_file(sandbox_file("manifest.json.sig")).expect("own file");
    let outcome = sandbox.run(&["status", "--json"]);
    assert_eq!(outcome.code, WARNING, "{}", outcome.text());
    let told = finding(&outcome, "unreadable")["told"].to_string();
    assert!(told.contains(&format!("{second}: it is not signed")), "{told}");
    assert_ne!(outcome.json()["sources"][0]["newest_backup"]["id"], second);

    let folder = sandbox_file("manifest.json").parent().expect("a folder").to_owned();
    std::fs::write(folder.join("manifest.json.sig"), signature).expect("own file");
    std::fs::remove_file(folder.join("manifest.json")).expect("own file");
    let outcome = sandbox.run(&["status", "--json"]);
    let told = finding(&outcome, "unreadable")["told"].to_string();
    assert!(told.contains(&format!("{second}: its run made a backup, and the manifest is gone")), "{told}");
    assert_eq!(outcome.code, WARNING, "{}", outcome.text());
}

#[test]
fn a_bucket_that_does_not_answer_is_unknown_and_never_well() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let text = std::fs::read_to_string(sandbox.policy()).expect("own file");
    std::fs::write(sandbox.policy(), text.replace(&sandbox.proxy.url(), "http://127.0.0.1:1"))
        .expect("own file");
    let outcome = sandbox.run(&["status", "--json"]);
    assert_eq!(outcome.code, UNKNOWN, "{} {}", outcome.text(), outcome.stderr);
    assert_eq!(finding(&outcome, "backup_age")["state"], "unknown");
    assert_eq!(outcome.json()["sources"][0]["newest_backup"], Value::Null);
    let line = sandbox.run(&["status", "--nagios"]);
    assert_eq!(line.code, UNKNOWN);
    assert!(line.text().starts_with("PGPROOF UNKNOWN - app: repository: cannot be read"), "{}", line.text());
    // So is a policy that is wrong.
    std::fs::write(sandbox.policy(), "[repository]\n").expect("own file");
    let line = sandbox.run(&["status", "--nagios"]);
    assert_eq!(line.code, UNKNOWN);
    assert!(line.text().starts_with("PGPROOF UNKNOWN - "), "{}", line.text());
}

#[test]
fn runs_leave_a_textfile_or_say_that_they_could_not() {
    let sandbox = Sandbox::small();
    let file = sandbox.path("pgproof.prom");
    let asked = |path: &Path| format!("[monitoring]\ntextfile = \"{}\"", path.display());
    let sandbox = sandbox.with_policy_lines(&asked(&file));
    sandbox.run_well(&["backup", SOURCE]);
    let text = std::fs::read_to_string(&file).expect("the text file");
    let names = checked_metrics(&text);
    assert!(names.contains("pgproof_backup_last_success_timestamp_seconds"), "{text}");
    assert_eq!(file.metadata().expect("a file").permissions().mode() & 0o777, 0o644);
    check_with_promtool(&file);
    std::fs::remove_file(&file).expect("own file");
    sandbox.run_well(&["prune", SOURCE]);
    assert!(file.exists());

    let sandbox = sandbox.with_policy_lines(&asked(Path::new("/nonexistent/pgproof.prom")));
    let outcome = sandbox.run(&["backup", SOURCE]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the metrics cannot be written to /nonexistent/pgproof.prom"));
    assert_eq!(sandbox.good_ids().len(), 2);
}

#[test]
fn the_verifier_answers_while_it_drills_by_schedule() {
    let sandbox = Sandbox::small();
    sandbox.run_well(&["backup", SOURCE]);
    let (port, file) = (free_port(), sandbox.path("verifier.prom"));
    let sandbox = sandbox.with_policy_lines(&format!(
        "[sources.{SOURCE}.verification]\nschedule = \"0 0 1 1 *\"\n[verifier.monitoring]\n\
         listen = \"127.0.0.1:{port}\"\nrefresh = \"1s\"\ntextfile = \"{}\"",
        file.display()
    ));
    let mut command = sandbox.verifier_command(&["run"]);
    let daemon = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("pgproof-verifier");
    let daemon = Stopped(daemon);
    let proved = "pgproof_proof_last_success_timestamp_seconds{";
    let text = poll(port, "/metrics", |status, text| status == "200" && text.contains(proved));
    checked_metrics(&text);
    poll(port, "/health/ready", |status, _| status == "200");
    let text = poll(port, "/health/detailed", |_, text| text.contains("\"at_work_since\": null"));
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let source = &document["standing"]["sources"][0];
    assert_eq!(source["newest_proof"]["backup"], sandbox.good_ids()[0], "{document:#}");
    assert_eq!(poll(port, "/health/live", |status, _| status == "200"), "live\n");
    drop(daemon);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "somebody still listens");

    assert!(!file.exists(), "a daemon serves, it writes no file");
    assert_eq!(sandbox.verify(&["run", "--once"]).code, OK);
    std::fs::remove_file(&file).expect("the text file of a run for timers");
    assert_eq!(sandbox.drill(&[])["verdict"], "passed");
    let names = checked_metrics(&std::fs::read_to_string(&file).expect("the text file"));
    assert!(names.contains("pgproof_proof_recovery_duration_seconds"), "{names:?}");
}

/// Gives the source these alarms in place of those that it has; keys may be gone by then.
fn set_alarms(sandbox: &Sandbox, lines: &str) {
    let text = std::fs::read_to_string(sandbox.policy()).expect("own file");
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("alarms")).collect();
    std::fs::write(sandbox.policy(), format!("{}\n{lines}\n", kept.join("\n"))).expect("own file");
}

fn until(sandbox: &Sandbox, code: Option<i32>) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = sandbox.run(&["status"]);
        if outcome.code == code {
            return outcome;
        }
        assert!(Instant::now() < deadline, "never {code:?}: {}", outcome.text());
    }
}

fn finding(outcome: &Outcome, aspect: &str) -> Value {
    let document = outcome.json();
    let findings = document["sources"][0]["findings"].as_array().expect("findings").clone();
    findings
        .into_iter()
        .find(|finding| finding["aspect"] == aspect)
        .unwrap_or_else(|| panic!("no {aspect} in {document:#}"))
}

/// A daemon that is asked to end, and must end well.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        succeed(Command::new("kill").args(["-TERM", &self.0.id().to_string()]));
        let ended = self.0.wait().expect("its end");
        assert!(ended.success() || std::thread::panicking(), "{ended}");
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound port").port()
}

fn poll(port: u16, path: &str, is_enough: impl Fn(&str, &str) -> bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(port, path).unwrap_or_default();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        if is_enough(head.split(' ').nth(1).unwrap_or_default(), body) {
            return body.to_owned();
        }
        assert!(Instant::now() < deadline, "{path}: {answer}");
    }
}

fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Every rule of the text format that these metrics use; gives the families' names.
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
fn checked_metrics(text: &str) -> BTreeSet<String> {
    let (mut helped, mut typed, mut samples) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"# EOF"), "{text}");
    assert!(text.ends_with('\n'));
    for line in &lines[..lines.len() - 1] {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(!help.trim().is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(kind == "gauge" && helped.contains(name) && typed.insert(name.to_owned()), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').expect("labels");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.starts_with("pgproof_") && name.chars().all(plain), "{line}");
            assert!(typed.contains(name), "{line} before its type");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            for label in labels.strip_suffix('}').expect("an end of labels").split(',') {
                let (key, value) = label.split_once('=').expect("a label");
                assert!(key.chars().all(plain), "{line}");
                assert!(value.len() > 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
            }
            assert!(samples.insert(series.to_owned()), "{series} twice");
        }
    }
    assert_eq!(helped, typed);
    typed
}

/// Prometheus' own judgement, where it is installed.
fn check_with_promtool(file: &Path) {
    let text = std::fs::File::open(file).expect("the text file");
    match Command::new("promtool").args(["check", "metrics"]).stdin(text).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("not run: promtool is not installed");
        }
        other => {
            let checked = other.expect("promtool");
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        }
    }
}
