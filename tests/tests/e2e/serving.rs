//! Pages for reviewers, in a browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use pgproof_tests::browser;
use pgproof_tests::daemon::{Daemon, PATIENCE};
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::{RepositoryKind, SOURCE, Sandbox};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The server, and where it is.
struct Serving {
    child: Child,
    site: String,
}

impl Serving {
    fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0"];
        all.extend(arguments);
        let mut command = sandbox.verifier_command(&all);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("pgproof-verifier");
        let stdout = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let site =
            line.trim().strip_prefix("serving ").expect("where it is").trim_end_matches('/').to_owned();
        Self { child, site }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.site)
    }

    /// Ends it as a service manager does.
    fn stop(mut self) {
        succeed(Command::new("kill").args(["-TERM", &self.child.id().to_string()]));
        let deadline = std::time::Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(std::time::Instant::now() < deadline, "it does not end"),
            }
        };
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With `PGPROOF_SAMPLE_PAGES=DIR` it leaves pictures of the pages there to be looked at.
fn picture(url: &str, name: &str) {
    let Some(folder) = std::env::var_os("PGPROOF_SAMPLE_PAGES").map(PathBuf::from) else { return };
    for (kind, width, dark) in [("desk", 1280, false), ("desk-dark", 1280, true), ("phone", 500, false)] {
        browser::picture(url, width, dark, &folder.join(format!("{name}-{kind}.png")));
    }
}

#[test]
fn reviewers_see_sources_reports_and_an_outage_in_a_browser() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory).with_policy_lines(&format!(
        "schedule = \"0 2 * * *\"\nobjectives = {{ recovery_point = \"26h\", recovery_time = \"4h\" }}\n\
         [sources.{SOURCE}.verification]\nschedule = \"0 4 * * *\""
    ));
    sandbox.run_well(&["backup", SOURCE]);
    for _ in 0..2 {
        assert_eq!(sandbox.drill(&[])["verdict"], "passed");
    }
    // What somebody else wrote there.
    let report = sandbox
        .objects_named(".json")
        .into_iter()
        .find(|path| path.to_string_lossy().contains("verifications"));
    let report = report.expect("a report");
    let foreign = report.with_file_name("20261101T040000000Z.json");
    std::fs::write(&foreign, "{\"<script>alert(1)</script>\": 1}").expect("own file");
    // Neither identity nor signing key is there where reviewers look.
    for secret in ["identity.txt", "signing_key"] {
        std::fs::rename(sandbox.path(secret), sandbox.path(&format!("{secret}.away"))).expect("own file");
    }
    let serving = Serving::start(&sandbox, &[]);
    let sources = browser::visit(&serving.url("/"));
    // What cannot be used is worth a look.
    assert!(sources.contains("0 of 1 source protected") && sources.contains("cannot be used"), "{sources}");
    let source = browser::visit(&serving.url(&format!("/sources/{SOURCE}")));
    assert!(source.contains("Report 2") && source.contains("<svg"), "{source}");
    assert!(source.contains("not trusted: ") && !source.contains("<script"), "{source}");
    let path = source.split("href=\"").find(|rest| rest.contains(">Report 2<")).expect("a link");
    let path = path.split('"').next().expect("a path").to_owned();
    let page = browser::visit(&serving.url(&path));
    assert!(page.contains("Well signed, and in its place in the chain"), "{page}");
    assert!(page.contains("Restored and proved"), "{page}");
    let audit = browser::visit(&serving.url(&format!("/sources/{SOURCE}/audit")));
    assert!(audit.contains("1 thing does not check"), "{audit}");
    let report_path = path.as_str();
    for (name, path, text) in [
        ("sources", "/", &sources),
        ("source", "/sources/app", &source),
        ("report", report_path, &page),
        ("audit", "/sources/app/audit", &audit),
    ] {
        picture(&serving.url(path), name);
        let saved = sandbox.path(&format!("{name}.html"));
        std::fs::write(&saved, text).expect("own file");
        // The narrowest telephone; on a desk there is more room.
        let measured = browser::measure(&saved, 360);
        assert_eq!((measured.window_width, measured.overflow), (360, 0), "{name}: {measured:?}");
    }
    serving.stop();

    let token = sandbox.path("token");
    std::fs::write(&token, TOKEN).expect("own file");
    let mode = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(&token, mode(0o600)).expect("own file");
    let token = token.to_string_lossy().into_owned();
    let serving = Serving::start(&sandbox, &["--token-file", &token]);
    let closed = browser::visit(&serving.url("/sources/app"));
    assert!(closed.contains("name=\"token\"") && !closed.contains("Report 2"), "{closed}");
    picture(&serving.url("/"), "closed");
    serving.stop();
    let open = sandbox.verify(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.code, Some(2), "{}", open.stderr);
    assert!(open.stderr.contains("there is no token"), "{}", open.stderr);

    let serving = Serving::start(&sandbox, &[]);
    std::fs::rename(sandbox.repository_folder(), sandbox.path("away")).expect("own folder");
    let outage = browser::visit(&serving.url("/"));
    assert!(outage.contains("The repository cannot be read") && outage.contains("unknown"), "{outage}");
    assert!(!outage.contains(">never<"), "an outage that looks like an empty repository\n{outage}");
    picture(&serving.url("/"), "outage");
    serving.stop();
}

#[test]
fn pages_go_by_the_policy_as_it_was_read_last() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.run_well(&["backup", SOURCE]);
    // Nobody else takes the port in the moment until it is served.
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").to_string();
    let serving = Daemon::start(sandbox.verifier_command(&["serve", "--listen", &address]));
    let deadline = std::time::Instant::now() + PATIENCE;
    while TcpStream::connect(&address).is_err() {
        assert!(std::time::Instant::now() < deadline, "it does not listen");
    }
    let policy = std::fs::read_to_string(sandbox.policy()).expect("the policy");
    std::fs::write(sandbox.policy(), policy.replace("[repository]", "[repositry]")).expect("own file");
    serving.signal("HUP");
    serving.wait_for("stays in force");
    assert!(page(&address).contains(&format!("/sources/{SOURCE}")), "{}", page(&address));
    let renamed = policy.replace(&format!("[sources.{SOURCE}"), "[sources.renamed");
    std::fs::write(sandbox.policy(), renamed).expect("own file");
    serving.signal("HUP");
    serving.wait_for("the policy was read again");
    let page = page(&address);
    assert!(page.contains("/sources/renamed") && !page.contains(&format!("/sources/{SOURCE}\"")), "{page}");
    serving.signal("TERM");
    assert_eq!(serving.ended(), Some(0));
}

/// The page of all sources.
fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a server");
    let request = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a page");
    answer
}
