//! What sources of every kind, and databases, have.

use super::*;

#[test]
fn what_is_left_out_is_named_with_its_schema() {
    let with = |pattern: &str| {
        SEVERAL.replacen("\"public.page_cache\"", &format!("\"{}\"", pattern.replace('"', "\\\"")), 1)
    };
    for sound in ["*.visits", "public.*", "\"odd.name\".t", "shop.public.visits"] {
        let policy = parsed(&with(sound));
        assert_eq!(database_of(&source(&policy, "shop")).exclude_table_data, [sound]);
    }
    for bare in ["visits", "\"odd.name\"", "v*"] {
        let problems = problems(&with(bare));
        assert!(problems.contains("exclude_table_data[0]: must name a schema too"), "{problems}");
    }
}

#[test]
fn exactly_one_way_to_connect() {
    let both = problems_with("password_file =", "service = \"app\"\npassword_file =");
    assert!(both.contains("sources.app.service: must be the only one"), "{both}");
    let denied = problems(&DIRECTORY.replacen("from_environment = true", "from_environment = false", 1));
    assert!(denied.contains("from_environment: must be true or be left out, got false"), "{denied}");
}

/// A source of which these lines are a part.
fn with_lines(lines: &str) -> Result<Policy, PolicyProblems> {
    let section = "[sources.app]\n";
    assert!(NIGHTLY.contains(section), "the example has another source");
    Policy::parse(&NIGHTLY.replacen(section, &format!("{section}{lines}\n"), 1), "pgproof.toml")
}

#[test]
fn timing_and_hooks_are_read_and_have_defaults() {
    let plain = source(&parsed(NIGHTLY), "app");
    assert_eq!((plain.timing, plain.hooks.clone()), (Timing::default(), Hooks::default()));
    assert_eq!(parsed(NIGHTLY).agent.concurrency, CONCURRENCY_DEFAULT);
    let policy = with_lines(
        "jitter = \"20m\"\ndeadline = \"6h\"\n\
         pause = [{ days = \"mon-fri\", from = \"08:00\", to = \"18:00\", reason = \"office\" }]\n\
         hooks = { before = [\"/usr/bin/x\", \"-v\"], on_failure = [\"/bin/y\"], time_limit = \"30s\" }",
    )
    .unwrap_or_else(|problems| panic!("{problems}"));
    let Source { timing, hooks, .. } = source(&policy, "app");
    assert_eq!(
        (timing.jitter, timing.deadline),
        (SignedDuration::from_mins(20), Some(SignedDuration::from_hours(6)))
    );
    assert!(timing.pauses.at("2026-11-24T12:00:00Z".parse().unwrap(), &TimeZone::UTC).is_some());
    let program = |path: &str, arguments: &[&str]| HookProgram {
        path: path.into(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
    };
    assert_eq!((hooks.before, hooks.after), (Some(program("/usr/bin/x", &["-v"])), None));
    assert_eq!(
        (hooks.on_failure, hooks.time_limit),
        (Some(program("/bin/y", &[])), SignedDuration::from_secs(30))
    );
}

#[test]
fn timing_and_hooks_that_make_no_sense_are_refused() {
    for (lines, problem) in [
        ("jitter = \"2d\"", "must be shorter than the shortest time between two runs"),
        ("pause = [{ from = \"00:00\", to = \"24:00\" }]", "must leave some time of the week"),
        ("pause = [{ from = \"08:00\" }]", "pause[0].to"),
        ("pause = [{ from = \"08:00\", to = \"08:00\" }]", "must be another time than `from`"),
        ("pause = [{ days = \"1-5\", from = \"08:00\", to = \"09:00\" }]", "must be days such as"),
        ("pause = { from = \"08:00\", to = \"09:00\" }", "must be a list of tables"),
        ("hooks = { before = [] }", "must be a program's whole path"),
        ("hooks = { after = [\"quiesce\"] }", "must be a program's whole path"),
        ("hooks = { befor = [\"/bin/x\"] }", "did you mean `before`?"),
    ] {
        let told = with_lines(lines).expect_err(lines).to_string();
        assert!(told.contains(problem), "{lines}: {told}");
    }
    let without = "\n[sources.other]\nkind = \"postgres\"\nservice = \"x\"\nretention = { last = 1 }\ndeadline = \"1h\"\n";
    let told = problems(&format!("{NIGHTLY}{without}"));
    assert!(told.contains("must be left out where there is no `schedule`"), "{told}");
    let told = problems(&format!("{NIGHTLY}\n[agent]\nconcurrency = 0\n"));
    assert!(told.contains("agent.concurrency"), "{told}");
}

#[test]
fn a_configuration_says_what_it_is_and_no_other_kind_can_be_drilled() {
    let source = "[sources.settings]\nkind = \"config\"\nretention = { daily = 30 }\n";
    let of = |lines: &str| Policy::parse(&format!("{DIRECTORY}\n{source}{lines}"), "p.toml");
    let policy = of(
        "files = [\"/etc/app/*.toml\"]\nenvironment = { names = [\"APP_*\"], units = [\"app@1.service\"] }\n",
    )
    .unwrap();
    let Kind::Config(config) = &policy.sources[&"settings".parse().unwrap()].kind else {
        panic!("no config")
    };
    assert_eq!((config.files.len(), config.environment.as_ref().unwrap().units.len()), (1, 1));
    for (lines, problem) in [
        ("", "must name a file"),
        ("files = [\"etc/app\"]\n", "must be an absolute path"),
        ("environment = { names = [\"A\"] }\n", "must say where"),
        ("environment = { process = true }\n", "must say which variables"),
        ("environment = { names = [\"A\"], units = [\"../x.service\"] }\n", "must be the name of a unit"),
        (
            "files = [\"/etc/app\"]\nverification = { schedule = \"0 4 * * 0\" }\n",
            "only databases are drilled",
        ),
        ("files = [\"/etc/app\"]\nconnection = \"postgresql:///app\"\n", "is no known key"),
    ] {
        let problems = of(lines).unwrap_err().to_string();
        assert!(problems.contains(problem), "{problem} is not in:\n{problems}");
    }
}
