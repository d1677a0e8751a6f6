//! Reports as reviewers get them: exported, checked without the repository, read in a browser, printed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use pgproof_tests::browser;
use pgproof_tests::postgres_server::succeed;
use pgproof_tests::sandbox::{Outcome, RepositoryKind, SOURCE, Sandbox};

/// Something is not what was signed.
const CHECK_FAILED: i32 = 4;

/// A sandbox with so many drills, whose reports were exported to the folder `out`.
fn exported(drills: usize) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    sandbox.run_well(&["backup", SOURCE]);
    for _ in 0..drills {
        assert_eq!(sandbox.drill(&[])["verdict"], "passed");
    }
    let out = sandbox.path("out");
    verify_well(&sandbox, &["report", "export", SOURCE, "--to", &out.to_string_lossy()]);
    (sandbox, out)
}

fn verify_well(sandbox: &Sandbox, arguments: &[&str]) -> Outcome {
    let outcome = sandbox.verify(arguments);
    assert!(outcome.succeeded(), "{arguments:?}\n{}\n{}", outcome.text(), outcome.stderr);
    outcome
}

/// Checks a folder as somebody does who has the files and the signers' keys: there is no policy.
fn check(sandbox: &Sandbox, folder: &Path) -> Outcome {
    let mut command = Command::new(pgproof_tests::binaries::pgproof_verifier());
    command.args(["--policy", "/nonexistent", "report", "check"]).arg(folder);
    command.arg("--signers").arg(sandbox.path("trusted_signers")).env_clear();
    command.output().expect("the verifier runs").into()
}

/// The files of one report, without their endings.
fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let names = files.filter_map(|file| file.to_string_lossy().strip_suffix(".json").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn file(folder: &Path, name: &str, ending: &str) -> PathBuf {
    folder.join(format!("{name}.{ending}"))
}

/// A copy of the folder in which something was changed must be called bad, in these words.
fn assert_noticed(sandbox: &Sandbox, folder: &Path, what: &[&str], change: impl FnOnce(&Path)) {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    let untouched = check(sandbox, copy.path());
    assert_eq!(untouched.code, Some(0), "{}", untouched.text());
    change(copy.path());
    let outcome = check(sandbox, copy.path());
    assert_eq!(outcome.code, Some(CHECK_FAILED), "{what:?}\n{}\n{}", outcome.text(), outcome.stderr);
    for what in what {
        assert!(outcome.text().contains(what), "{what:?} is not in\n{}", outcome.text());
    }
}

#[test]
fn every_change_to_exported_reports_is_named() {
    let (sandbox, out) = exported(3);
    let names = names(&out);
    assert_eq!(names.len(), 3);
    let well = check(&sandbox, &out);
    assert_eq!(well.code, Some(0), "{}\n{}", well.text(), well.stderr);
    assert!(well.text().contains("app: 3 reports well signed; the newest is number 3"), "{}", well.text());
    assert!(well.text().contains("cannot show that the newest reports are missing"), "{}", well.text());
    verify_well(&sandbox, &["report", "check", "--source", SOURCE]);

    assert_noticed(&sandbox, &out, &["badly signed: signature does not match the bytes"], |copy| {
        let path = file(copy, &names[0], "json");
        let text = fs::read_to_string(&path).expect("a report").replacen("\"passed\"", "\"passeD\"", 1);
        fs::write(&path, text.replacen("passeD", "failed", 1)).expect("own file");
    });
    assert_noticed(&sandbox, &out, &["app: report 2 is missing"], |copy| {
        for ending in ["json", "json.sig", "html", "csv"] {
            fs::remove_file(file(copy, &names[1], ending)).expect("a file");
        }
    });
    let exchanged = [format!("{}.json: holds the report that belongs into {}.json", names[0], names[1])];
    assert_noticed(&sandbox, &out, &[&exchanged[0]], |copy| {
        for ending in ["json", "json.sig", "html", "csv"] {
            let (first, second) = (file(copy, &names[0], ending), file(copy, &names[1], ending));
            fs::rename(&first, copy.join("kept")).expect("a file");
            fs::rename(&second, &first).expect("a file");
            fs::rename(copy.join("kept"), &second).expect("a file");
        }
    });
    assert_noticed(&sandbox, &out, &["badly signed: signer SHA256:", "is not trusted"], |copy| {
        let path = file(copy, &names[2], "json");
        let mut report: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).expect("a report")).expect("JSON");
        report["finished_at"] = "2020-01-01T00:00:00Z".into();
        fs::write(&path, report.to_string()).expect("own file");
        let signature = file(copy, &names[2], "json.sig");
        fs::remove_file(&signature).expect("a signature");
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-Y", "sign", "-n", "pgproof-report", "-f"]).arg(sandbox.path("foreign_signing_key"));
        succeed(sign.arg(&path));
        assert!(signature.exists());
    });
    assert_noticed(&sandbox, &out, &["page is not what the report says"], |copy| {
        let path = file(copy, &names[1], "html");
        let text = fs::read_to_string(&path).expect("a page").replace("all equal", "all  equal");
        fs::write(&path, text).expect("own file");
    });
    assert_noticed(&sandbox, &out, &["report has no signature"], |copy| {
        fs::remove_file(file(copy, &names[0], "json.sig")).expect("a signature");
    });
}

#[test]
fn the_command_on_the_page_verifies_the_report_with_stock_tools() {
    let (sandbox, out) = exported(1);
    let name = names(&out).remove(0);
    fs::copy(sandbox.path("trusted_signers"), out.join("trusted_signers")).expect("a copy");
    let page = fs::read_to_string(file(&out, &name, "html")).expect("a page");
    let (_, rest) = page.split_once("<pre>").expect("the command");
    let (command, _) = rest.split_once("</pre>").expect("its end");
    let command = [("&#34;", "\""), ("&#60;", "<"), ("&#38;", "&")]
        .iter()
        .fold(command.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain));
    let run = || Command::new("bash").args(["-c", &command]).current_dir(&out).output().expect("bash");
    let good = run();
    assert!(String::from_utf8_lossy(&good.stdout).contains("Good \"pgproof-report\" signature"), "{good:?}");
    let path = file(&out, &name, "json");
    fs::write(&path, fs::read_to_string(&path).expect("a report").replacen("app", "apq", 1))
        .expect("own file");
    assert!(!run().status.success());
}

#[test]
fn a_real_report_is_valid_by_the_printed_schema_and_by_no_other_fields() {
    let (sandbox, out) = exported(1);
    let schema = verify_well(&sandbox, &["report", "schema"]).json();
    let validator =
        jsonschema::draft202012::options().should_validate_formats(true).build(&schema).expect("a schema");
    let bytes = fs::read(file(&out, &names(&out)[0], "json")).expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    if let Err(error) = validator.validate(&report) {
        panic!("{error} at {}\n{report:#}", error.instance_path());
    }
    let mut further = report.clone();
    further["database"]["further"] = 1.into();
    assert!(!validator.is_valid(&further));
    let mut missing = report.clone();
    missing.as_object_mut().expect("an object").remove("coverage");
    assert!(!validator.is_valid(&missing));
}

#[test]
fn a_browser_shows_the_page_at_every_width_and_prints_all_of_it() {
    let (_sandbox, out) = exported(2);
    let name = names(&out).remove(1);
    let page = file(&out, &name, "html");
    for path in [&page, &out.join("index.html")] {
        for width in [360, 1280] {
            let measured = browser::measure(path, width);
            assert_eq!(measured.window_width, width, "{measured:?}");
            assert_eq!(measured.overflow, 0, "{} overflows: {measured:?}", path.display());
            assert!(measured.height > 300, "{measured:?}");
        }
    }
    let (text, sheets) = browser::print(&page);
    assert!(sheets >= 2, "{sheets} sheets\n{text}");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(file(&out, &name, "json")).expect("a report")).expect("JSON");
    assert!(text.contains("Restored and proved"), "{text}");
    // What can be folded on the screen is open on paper.
    for table in report["tables"].as_array().expect("tables") {
        for value in [&table["name"], &table["expected"]["digest"]] {
            let value = value.as_str().expect("a text");
            assert!(text.contains(value), "{value} is not printed\n{text}");
        }
    }
}

#[test]
fn a_report_directory_gets_every_report_and_its_failure_loses_none() {
    let sandbox = Sandbox::small_in(RepositoryKind::Directory);
    let folder = sandbox.path("reports");
    let lines = format!("[verifier]\nreport_directory = \"{}\"\n", folder.display());
    let sandbox = sandbox.with_policy_lines(&lines);
    sandbox.run_well(&["backup", SOURCE]);
    let first = verify_well(&sandbox, &["drill", SOURCE]);
    let name = names(&folder).remove(0);
    let page = file(&folder, &name, "html");
    assert!(first.text().contains(&page.display().to_string()), "{}", first.text());
    for ending in ["json", "json.sig", "html", "csv"] {
        assert!(file(&folder, &name, ending).exists(), "{ending}");
    }
    assert_eq!(check(&sandbox, &folder).code, Some(0));

    fs::rename(&folder, sandbox.path("moved")).expect("a folder");
    File::create(&folder).expect("a file in its place");
    let second = sandbox.verify(&["drill", SOURCE]);
    assert_eq!(second.code, Some(1), "{}\n{}", second.text(), second.stderr);
    assert!(second.stderr.contains("the report is stored and could not be written"), "{}", second.stderr);
    let listed = verify_well(&sandbox, &["report", "list", "--json"]).json();
    assert_eq!(listed.as_array().expect("a list").len(), 2, "{listed:#}");
    assert_eq!(listed[1]["verdict"], "passed", "{listed:#}");
}

#[test]
fn reports_of_strangers_are_listed_with_their_problem() {
    let (sandbox, _) = exported(1);
    let shown = verify_well(&sandbox, &["report", "show", SOURCE, "1", "--json"]).json();
    assert_eq!(shown["number"], 1);
    let sandbox = sandbox.trusting_only_a_stranger();
    let listed = verify_well(&sandbox, &["report", "list", SOURCE]);
    assert!(
        listed.text().contains("PROBLEM") && listed.text().contains("is not trusted"),
        "{}",
        listed.text()
    );
    let shown = sandbox.verify(&["report", "show", SOURCE]);
    assert_eq!(shown.code, Some(3), "{}", shown.stderr);
    let checked = sandbox.verify(&["report", "check", "--source", SOURCE]);
    assert_eq!(checked.code, Some(CHECK_FAILED), "{}", checked.text());
}

#[test]
fn a_period_report_is_signed_and_follows_from_its_reports() {
    let (sandbox, out) = exported(2);
    let span = ["--from", "2020-01-01", "--until", "2099-12-31"];
    let mut arguments = vec!["report", "period", SOURCE, "--to"];
    let folder = out.to_string_lossy().into_owned();
    arguments.push(&folder);
    arguments.extend(span);
    verify_well(&sandbox, &arguments);
    let name = format!("period-{SOURCE}-2020-01-01-2099-12-31");
    let period: serde_json::Value =
        serde_json::from_slice(&fs::read(file(&out, &name, "json")).expect("a period report")).expect("JSON");
    assert_eq!(
        (&period["verdicts"]["passed"], period["drills"].as_array().map(Vec::len)),
        (&2.into(), Some(2))
    );
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "verify", "-n", "pgproof-report-period", "-I", "backup-host@example.org", "-f"]);
    verify.arg(sandbox.path("trusted_signers")).arg("-s").arg(file(&out, &name, "json.sig"));
    succeed(verify.stdin(File::open(file(&out, &name, "json")).expect("a period report")));
    let measured = browser::measure(&file(&out, &name, "html"), 360);
    assert_eq!((measured.window_width, measured.overflow), (360, 0), "{measured:?}");
    assert_eq!(check(&sandbox, &out).code, Some(0), "{}", check(&sandbox, &out).text());
    assert_noticed(&sandbox, &out, &["does not follow from the reports", "badly signed"], |copy| {
        let path = file(copy, &name, "json");
        let text = fs::read_to_string(&path).expect("a period report");
        fs::write(&path, text.replacen("\"passed\": 2", "\"passed\": 3", 1)).expect("own file");
    });
}
