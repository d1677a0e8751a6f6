//! Many repositories side by side, one of which does not answer.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use pgproof_tests::sandbox::{SOURCE, Sandbox};

/// What a repository may take that never answers, and all the rest of it.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_repository_that_is_silent_is_unknown_and_holds_up_no_other() {
    let sandbox = Sandbox::small().with_policy_lines("schedule = \"0 2 * * *\"");
    sandbox.run_well(&["backup", SOURCE, "--hold"]);
    // It takes every connection and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", silent.local_addr().expect("an address"));
    let text = std::fs::read_to_string(sandbox.policy()).expect("own file");
    let other = sandbox.path("silent.toml");
    std::fs::write(&other, text.replace(&sandbox.proxy.url(), &address)).expect("own file");
    let began = Instant::now();
    let (own, other) = (sandbox.policy().display().to_string(), other.display().to_string());
    let outcome = sandbox.run(&["fleet", &own, &other, "--deadline", "2", "--json"]);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    // Not known is the worst here, and has Nagios's number.
    assert_eq!(outcome.code, Some(3), "{}\n{}", outcome.text(), outcome.stderr);
    let document = outcome.json();
    let (first, second) = (&document["sources"][0], &document["sources"][1]);
    assert_eq!((&first["source"], &first["protection"]), (&SOURCE.into(), &"unknown".into()), "{document:#}");
    assert!(first["reasons"][0].as_str().expect("a reason").contains("no answer"), "{document:#}");
    assert!(first["hint"].as_str().expect("a hint").contains("--deadline"), "{document:#}");
    let away = sandbox.path("away.toml");
    let of_s3 = ["location =", "region =", "endpoint =", "path_style ="];
    let lines = text.lines().filter(|line| !of_s3.iter().any(|key| line.starts_with(key)));
    let lines: Vec<&str> = lines.collect();
    let folder =
        lines.join("\n").replace("[repository]", "[repository]\nlocation = \"file:///nowhere/at/all\"");
    std::fs::write(&away, folder).expect("own file");
    let told = sandbox.run(&["fleet", &away.display().to_string()]);
    assert!(told.code == Some(3) && told.text().contains("\nhint: mount the disk"), "{}", told.text());
    assert_eq!(
        (&second["source"], &second["protection"]),
        (&SOURCE.into(), &"protected".into()),
        "{document:#}"
    );
    assert_eq!((&second["holds"], &second["locked_until"]), (&1.into(), &"none".into()), "{document:#}");
    drop(silent);

    let table = sandbox.run(&["fleet"]);
    assert_eq!(table.code, Some(0), "{}\n{}", table.text(), table.stderr);
    assert!(
        table.text().contains("1 held") && table.text().contains("1 protected, in 1 repository"),
        "{}",
        table.text()
    );
    let misspelt = sandbox.path("fleet.toml");
    std::fs::write(&misspelt, "[repositories.a]\npolcy = \"a.toml\"\n").expect("own file");
    let outcome = sandbox.run(&["fleet", &misspelt.to_string_lossy()]);
    assert_eq!(outcome.code, Some(3));
    assert!(outcome.stderr.contains("did you mean `policy`?"), "{}", outcome.stderr);
    let twice = sandbox.run(&["fleet", &own, &own]);
    assert!(twice.code == Some(3) && twice.stderr.contains("is named twice"), "{}", twice.stderr);
}
