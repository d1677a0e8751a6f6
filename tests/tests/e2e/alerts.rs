//! Who is told of what, when, and how often.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use pgproof_tests::daemon::{Daemon, PATIENCE};
use pgproof_tests::receiver::{Encryption, MailServer, Receiver, make_certificates};
use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};
use serde_json::Value;
use sha2::Sha256;

use crate::bad_days::{is_told, rewrite_policy};

/// Not known, as Nagios has it.
const UNKNOWN: Option<i32> = Some(3);

const FAILED: i32 = 1;
const USAGE: i32 = 2;
/// Stands in the address of a route, which is a secret, and nowhere else.
const PLANTED: &str = "hook-T0KEN-in-the-path";

fn webhook(receiver: &Receiver, path: &str) -> String {
    format!("kind = \"webhook\"\nurl = \"{}\"\ntime_limit = \"2s\"\n", receiver.url(path))
}

fn bodies(receiver: &Receiver, path: &str) -> Vec<Value> {
    let requests = receiver.requests(path);
    requests.iter().map(|request| serde_json::from_str(&request.body).expect("JSON")).collect()
}

fn events(receiver: &Receiver, path: &str) -> Vec<String> {
    bodies(receiver, path).iter().map(|body| body["event"].as_str().expect("an event").to_owned()).collect()
}

#[test]
fn failure_is_told_once_and_its_end_once_and_good_backups_ping() {
    let receiver = Receiver::start();
    let lines = format!(
        "[alerts.routes.oncall]\n{}[alerts.routes.dead-man]\nkind = \"ping\"\nurl = \"{}\"\n",
        webhook(&receiver, "/oncall"),
        receiver.url("/ping"),
    );
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!((receiver.requests("/oncall").len(), receiver.requests("/ping").len()), (0, 1));

    sandbox.server.stop();
    for _ in 0..2 {
        assert_eq!(sandbox.run(&["backup", SOURCE]).code, Some(FAILED));
    }
    assert_eq!(events(&receiver, "/oncall"), ["raised"], "two failures are one alert");
    assert_eq!(receiver.requests("/ping").len(), 1, "a failed backup pings nobody");
    let told = &bodies(&receiver, "/oncall")[0];
    assert_eq!((told["kind"].as_str(), told["severity"].as_str()), (Some("run_failed"), Some("P3")));
    assert!(told["text"].as_str().expect("a text").contains("hint: "), "{told}");
    let listed = sandbox.run_well(&["alert", "list"]).text();
    assert!(listed.contains("P3 app: the backup failed since") && listed.contains("told oncall"), "{listed}");

    sandbox.server.start_again();
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(events(&receiver, "/oncall"), ["raised", "recovered"]);
    assert_eq!(receiver.requests("/ping").len(), 2);
    sandbox.run_well(&["backup", SOURCE]);
    assert_eq!(events(&receiver, "/oncall").len(), 2);
    assert!(sandbox.run_well(&["alert", "list"]).text().contains("nothing was told"));
}

#[test]
fn route_that_is_down_is_told_by_the_others_and_costs_no_backup() {
    let (down, works) = (Receiver::start(), Receiver::start());
    down.answer(500);
    let lines = format!(
        "[alerts.routes.down]\n{}[alerts.routes.works]\n{}",
        webhook(&down, &format!("/{PLANTED}")),
        webhook(&works, "/")
    );
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.stop();
    let failed = sandbox.run(&["backup", SOURCE]);
    assert_eq!(failed.code, Some(FAILED));
    assert!(
        failed.stderr.contains("an alert did not get through: the server answered 500"),
        "{}",
        failed.stderr
    );
    let kinds: Vec<_> =
        bodies(&works, "/").iter().map(|body| body["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["run_failed", "notifier_failed"]);
    // What it did not take is told when it works again, and then that it is over.
    down.answer(200);
    let before = down.requests(&format!("/{PLANTED}")).len();
    assert_eq!(sandbox.run(&["backup", SOURCE]).code, Some(FAILED));
    assert_eq!(down.requests(&format!("/{PLANTED}")).len(), before + 1);
    down.answer(404);
    sandbox.server.start_again();
    let made = sandbox.run(&["backup", SOURCE]);
    let words = ["the backup is good and stored", "an alert did not get through", "route \"down\""];
    is_told(&made, FAILED, &words, "alert test");
    assert_eq!(sandbox.good_backups().len(), 2, "a backup is none the worse for it");
    let tested = sandbox.run(&["alert", "test"]);
    is_told(&tested, FAILED, &["route \"down\"", "the server answered 404"], "alert test");
    assert!(tested.text().contains("works            taken"), "{tested:?}");
    is_told(&sandbox.run(&["alert", "test", "--route", "other"]), USAGE, &["no route"], "down, works");
    for told in [&failed.stderr, &made.stderr, &tested.stderr] {
        assert!(!told.contains(PLANTED), "the address of a route is shown: {told}");
    }
}

#[test]
fn mail_program_and_signed_webhook_get_the_same_message() {
    let (receiver, mail_server) = (Receiver::start(), MailServer::start());
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let (program, output) = (sandbox.path("tell"), sandbox.path("told"));
    fs::write(&program, format!("#!/bin/sh\nexec cat >{}\n", output.display())).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("rights");
    let (secret, hook) = (sandbox.path("secret"), sandbox.path("hook"));
    fs::write(&secret, "s3cret\n").expect("a file");
    fs::write(&hook, receiver.url("/signed") + "\n").expect("a file");
    let lines = format!(
        "[alerts.routes.a]\nkind = \"command\"\ncommand = [\"{}\"]\n\
         [alerts.routes.b]\nkind = \"email\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nplain_reason = \"a test\"\n\
         from = \"pgproof@example.org\"\nto = [\"oncall@example.org\"]\n\
         [alerts.routes.c]\nkind = \"webhook\"\nurl_file = \"{}\"\nsecret_file = \"{}\"\n\
         [alerts.routes.d]\nkind = \"slack\"\nurl = \"{}\"\nseverities = [\"P1\"]\n\
         [alerts.severities]\nrun_failed = \"P2\"\n",
        program.display(),
        mail_server.port(),
        hook.display(),
        secret.display(),
        receiver.url("/slack"),
    );
    let sandbox = sandbox.with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    sandbox.server.stop();
    assert_eq!(sandbox.run(&["backup", SOURCE]).code, Some(FAILED));
    let piped: Value = serde_json::from_slice(&fs::read(&output).expect("a message")).expect("JSON");
    assert_eq!(
        (piped["subject"].as_str(), piped["severity"].as_str()),
        (Some("the backup failed"), Some("P2"))
    );
    let mails = mail_server.mails();
    assert_eq!(mails.len(), 1);
    for part in ["RCPT TO:<oncall@example.org>", "Subject: [P2] app: the backup failed", "hint: "] {
        assert!(mails[0].contains(part), "{part} is not in:\n{}", mails[0]);
    }
    let signed = receiver.requests("/signed");
    assert_eq!(signed.len(), 1);
    let mut mac = Hmac::<Sha256>::new_from_slice(b"s3cret").expect("a key");
    mac.update(signed[0].body.as_bytes());
    let expected = HEXLOWER.encode(&mac.finalize().into_bytes());
    assert!(signed[0].headers.contains(&format!("x-pgproof-signature-256: sha256={expected}")), "{signed:?}");
    assert_eq!(receiver.requests("/slack").len(), 0, "a route gets its severities only");
    sandbox.run_well(&["alert", "test", "--route", "d"]);
    assert!(receiver.requests("/slack")[0].body.contains("nothing is the matter"));
}

#[test]
fn mail_goes_encrypted_to_whom_the_certificate_names_or_not_at_all() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let folder = sandbox.path("certificates");
    fs::create_dir(&folder).expect("a folder");
    make_certificates(&folder);
    let [starttls, implicit] =
        [Encryption::Starttls, Encryption::Implicit].map(|how| MailServer::start_encrypted(&folder, how));
    let route = |name: &str, tls: &str, port: u16, host: &str, trusts: bool| {
        let authority = format!("ca_file = \"{}\"\n", folder.join("authority.crt").display());
        format!(
            "[alerts.routes.{name}]\nkind = \"email\"\nhost = \"{host}\"\nport = {port}\ntls = \"{tls}\"\ntime_limit = \"5s\"\n\
             from = \"pgproof@example.org\"\nto = [\"oncall@example.org\"]\n{}",
            if trusts { &authority } else { "" }
        )
    };
    let lines = [
        route("a", "starttls", starttls.port(), "localhost", true),
        route("b", "implicit", implicit.port(), "localhost", true),
        route("unknown-authority", "starttls", starttls.port(), "localhost", false),
        route("another-name", "implicit", implicit.port(), "127.0.0.1", true),
    ];
    let sandbox = sandbox.with_policy_lines(&lines.concat());
    for good in ["a", "b"] {
        sandbox.run_well(&["alert", "test", "--route", good]);
    }
    assert_eq!((starttls.mails().len(), implicit.mails().len()), (1, 1));
    assert!(starttls.mails()[0].contains("nothing is the matter"), "{:?}", starttls.mails());
    for bad in ["unknown-authority", "another-name"] {
        is_told(&sandbox.run(&["alert", "test", "--route", bad]), FAILED, &[bad], "alert test");
    }
    assert_eq!((starttls.mails().len(), implicit.mails().len()), (1, 1));
}

/// Whatever stands in the way: a timer's backup that cannot even begin is not silent.
#[test]
fn backup_without_a_repository_is_told_too() {
    let receiver = Receiver::start();
    let lines = format!("[alerts.routes.oncall]\n{}", webhook(&receiver, "/"));
    let sandbox = Sandbox::small().with_policy_lines(&lines);
    rewrite_policy(&sandbox, "s3://backups/", "s3://no-such-bucket/");
    sandbox.proxy.add(Rule::new(Fault::Status(404)).containing("/no-such-bucket"));
    is_told(&sandbox.run(&["backup", SOURCE]), FAILED, &["no bucket or folder"], "create the bucket");
    let told = bodies(&receiver, "/");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0]["text"].as_str().expect("a text").contains("no bucket or folder"), "{told:?}");
}

#[test]
fn bad_backup_is_told_by_the_verifier_and_stays_told_until_it_is_good() {
    let receiver = Receiver::start();
    let lines = format!("[alerts.routes.oncall]\n{}", webhook(&receiver, "/"));
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    let data = sandbox.object("data.000.zst.age");
    let whole = fs::read(&data).expect("an object");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&data, damaged).expect("an object");
    let verdict = |report: &Value| report["verdict"].as_str().expect("a verdict").to_owned();
    for _ in 0..2 {
        assert_eq!(verdict(&sandbox.drill(&[])), "failed");
    }
    let told = bodies(&receiver, "/");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0]["kind"].as_str(), told[0]["severity"].as_str()), (Some("backup_bad"), Some("P1")));
    fs::write(&data, &whole).expect("an object");
    assert_ne!(verdict(&sandbox.drill(&[])), "failed");
    assert_eq!(events(&receiver, "/"), ["raised", "recovered"]);

    // Or until it is gone.
    fs::write(&data, &whole[1..]).expect("an object");
    assert_eq!(verdict(&sandbox.drill(&[])), "failed");
    let sandbox = sandbox.with_retention("{ last = 1 }");
    sandbox.run_well(&["backup", SOURCE]);
    assert_ne!(verdict(&sandbox.drill(&[])), "failed");
    assert_eq!(events(&receiver, "/"), ["raised", "recovered", "raised"]);
    sandbox.run_well(&["prune", SOURCE, "--yes"]);
    assert_eq!(sandbox.good_backups().len(), 1);
    assert_eq!(events(&receiver, "/"), ["raised", "recovered", "raised", "recovered"]);
}

/// The package's timer may look before anybody was named.
#[test]
fn without_routes_a_look_says_so_and_fails_nothing() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let told = sandbox.run_well(&["alert", "check"]);
    assert!(told.text().contains("the policy has no alert routes"), "{}", told.text());
    assert_eq!(sandbox.run(&["alert", "test"]).code, Some(2));
}

#[test]
fn silence_is_told_by_a_timer_and_by_the_daemon() {
    let receiver = Receiver::start();
    let lines = format!(
        "alarms = {{ backup_age = {{ warning = \"1s\", critical = \"2s\" }} }}\n\
         [alerts.routes.oncall]\n{}severities = [\"P1\"]\n[monitoring]\nlisten = \"127.0.0.1:0\"\nrefresh = \"1s\"\n",
        webhook(&receiver, "/")
    );
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    let deadline = Instant::now() + Duration::from_secs(30);
    // No backup comes: the next looks tell it, once.
    while receiver.requests("/").is_empty() {
        assert!(Instant::now() < deadline, "a backup that is too old is told by nobody");
        sandbox.run_well(&["alert", "check"]);
    }
    sandbox.run_well(&["alert", "check"]);
    let told = bodies(&receiver, "/");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0]["kind"].as_str(), told[0]["severity"].as_str()), (Some("no_backup"), Some("P1")));

    let lines = format!(
        "schedule = \"0 0 1 1 *\"\nalarms = {{ backup_age = {{ warning = \"1h\", critical = \"2h\" }} }}\n\
         [alerts.routes.oncall]\n{}[monitoring]\nrefresh = \"1s\"\n",
        webhook(&receiver, "/")
    );
    let sandbox = sandbox.with_policy_lines(&lines);
    let daemon = Daemon::start(sandbox.command(&["run"]));
    receiver.wait_until("/", |requests| {
        requests.last().is_some_and(|request| request.body.contains("\"event\":\"recovered\""))
    });
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(0));
}

#[test]
fn a_folder_that_is_away_is_told_waited_for_and_never_made() {
    let receiver = Receiver::start();
    let lines = format!(
        "schedule = \"0 0 1 1 *\"\n[alerts.routes.oncall]\n{}[monitoring]\nrefresh = \"1s\"\n\
         [verifier]\nmonitoring = {{ refresh = \"1s\" }}\n",
        webhook(&receiver, "/oncall")
    );
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    let (folder, away) = (sandbox.repository_folder(), sandbox.path("away"));
    fs::rename(&folder, &away).expect("own folder");
    let status = sandbox.run(&["status"]);
    assert_eq!(status.code, UNKNOWN, "{}", status.text());
    assert!(status.text().contains("no bucket or folder"), "{}", status.text());
    for arguments in [&["list", SOURCE][..], &["backup", "--all", "--due"], &["audit"], &["doctor"]] {
        let outcome = sandbox.run(arguments);
        assert!(!outcome.succeeded(), "{arguments:?}: {}", outcome.text());
        let told = format!("{}{}", outcome.text(), outcome.stderr);
        assert!(told.contains("mount the disk that it lies on"), "{arguments:?}: {told}");
    }
    assert!(!folder.exists(), "made where a disk is to be mounted");

    // Where the disk would be mounted lies an empty folder.
    fs::create_dir(&folder).expect("own folder");
    let outcome = sandbox.run(&["backup", "--all", "--due"]);
    assert!(
        !outcome.succeeded() && outcome.stderr.contains("there is no repository at"),
        "{}",
        outcome.stderr
    );
    let agent = Daemon::start(sandbox.command(&["run"]));
    agent.wait_for("there is no repository at");
    let verifier = Daemon::start(sandbox.verifier_command(&["run"]));
    verifier.wait_for("there is no repository at");
    verifier.wait_for("trying again");
    wait_until("nobody was told", || !events(&receiver, "/oncall").is_empty());
    assert_eq!(fs::read_dir(&folder).expect("own folder").count(), 0, "something was put there");

    verifier.signal("TERM");
    assert_eq!(verifier.ended(), Some(0));

    fs::remove_dir(&folder).expect("own folder");
    fs::rename(&away, &folder).expect("own folder");
    agent.wait_for("nothing is due");
    agent.signal("TERM");
    assert_eq!(agent.ended(), Some(0));
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
    }
}
