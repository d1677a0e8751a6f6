//! Which forms of a value are taken, at the edges where a form nearly fits.

use super::*;

fn nightly_with(from: &str, to: &str) -> Policy {
    assert!(NIGHTLY.contains(from), "{from:?} is not in the example");
    parsed(&NIGHTLY.replacen(from, to, 1))
}

fn in_repository(lines: &str) -> String {
    NIGHTLY.replacen("[repository]\n", &format!("[repository]\n{lines}\n"), 1)
}

#[test]
fn recipients_are_public_keys() {
    for good in [AGE, SSH, "age1yubikey1qqq", "age1se-x1qqq", "ssh-rsa AAAAB3Nz"] {
        assert!(values::is_recipient(good), "{good}");
    }
    for bad in
        ["", "age1", "age1QQQ", "age1q_q", "xge1qqq", "agequantum", "age1qqq a comment", "ssh-ed25519 BBBB"]
    {
        assert!(!values::is_recipient(bad), "{bad}");
    }
    let nothing = problems(&DIRECTORY.replacen(&format!("recipients = [\"{AGE}\"]\n"), "", 1));
    assert!(nothing.contains("keys.recipients: must list the public keys"), "{nothing}");
}

#[test]
fn addresses_hold_nothing_odd() {
    for bad in ["postgresql:///a b", "postgresql:///a\u{7}b"] {
        assert_eq!(values::connection_problem(bad), Some("must hold no white space"), "{bad:?}");
    }
    for bad in ["https://a b", "https://a\u{7}b", "https://a@b"] {
        assert!(matches!(values::endpoint(bad), values::Endpoint::Malformed), "{bad:?}");
    }
    let here = values::endpoint("http://localhost:elsewhere.example.org");
    assert!(matches!(here, values::Endpoint::PlainToAnotherHost));
}

#[test]
fn buckets_and_folders_have_plain_names() {
    let at = |location: &str| DIRECTORY.replacen("file:///var/backups/pgproof", location, 1);
    for good in ["s3://a.b-c", "s3://0ab", "file:///srv/back ups"] {
        parsed(&at(good));
    }
    for bad in ["s3://-abc", "s3://abc-", "s3://.abc", "s3://a_b", "file:///srv/%20", "file:///srv/\\u0007"] {
        assert!(problems(&at(bad)).contains("repository.location: must be"), "{bad}");
    }
}

#[test]
fn words_with_a_meaning_are_taken() {
    let location =
        parsed(&in_repository("conditional_writes = \"honoured\"\nchecksums = \"crc32c\"")).repository;
    let Location::S3 { conditional_writes, checksums, .. } = location.location else {
        panic!("not a bucket")
    };
    assert_eq!((conditional_writes, checksums), (Some(ConditionalWrites::Honoured), Some(Checksums::Crc32c)));
    let plain =
        NIGHTLY.lines().filter(|line| !line.starts_with("sse_kms_key")).collect::<Vec<_>>().join("\n");
    let Location::S3 { sse, .. } =
        parsed(&plain.replacen("\"aws:kms\"", "\"AES256\"", 1)).repository.location
    else {
        panic!("not a bucket")
    };
    assert_eq!(sse, Some(Sse::Aes256));
    let class = |name: &str| {
        let text = NIGHTLY.replacen("\"STANDARD_IA\"", &format!("\"{name}\""), 1);
        Policy::parse(&text, "pgproof.toml").is_ok()
    };
    assert_eq!(["STANDARD_IA", "", "standard_ia", "DEEP_ARCHIVE"].map(class), [true, false, false, false]);
}

#[test]
fn a_file_may_have_its_greatest_length() {
    let longest = format!("{NIGHTLY}{}", "#".repeat(POLICY_BYTES_MAX - NIGHTLY.len()));
    assert_eq!(parsed(&longest), parsed(NIGHTLY));
}

#[test]
fn problems_say_what_to_do_and_kinds_their_names() {
    let problems = Policy::parse("", "pgproof.toml").unwrap_err();
    assert!(problems.hint().unwrap().starts_with("Nothing was done."));
    let kinds = [parsed(NIGHTLY), parsed(FILES), parsed(SEVERAL)]
        .iter()
        .flat_map(|policy| policy.sources.values().map(|source| source.kind.name()).collect::<Vec<_>>())
        .collect::<std::collections::BTreeSet<_>>();
    assert!(kinds.contains("postgres") && kinds.contains("files"), "{kinds:?}");
    assert!(kinds.iter().all(|kind| ["postgres", "config", "files"].contains(kind)), "{kinds:?}");
}

#[test]
fn a_bad_schedule_is_one_problem() {
    let with = |schedule: &str| {
        let other = "kind = \"postgres\"\nservice = \"x\"\nretention = { last = 1 }\njitter = \"1m\"";
        problems(&format!("{NIGHTLY}\n[sources.other]\n{other}\n{schedule}\n"))
    };
    let told = with("schedule = \"never\"");
    assert!(told.contains("sources.other.schedule") && !told.contains("must be left out"), "{told}");
    assert!(with("").contains("sources.other.jitter: must be left out"));
}

#[test]
fn variables_come_from_somewhere_and_units_have_whole_names() {
    let of = |lines: &str| {
        let source = "[sources.settings]\nkind = \"config\"\nretention = { daily = 30 }\n";
        Policy::parse(
            &format!("{DIRECTORY}\n{source}environment = {{ names = [\"A\"], {lines} }}\n"),
            "p.toml",
        )
    };
    for good in ["process = true", "env_files = [\"/etc/x.env\"]", "units = [\"x.service\"]"] {
        assert!(of(good).is_ok(), "{good}");
    }
    for bad in ["app", ".service", "a b.service", "a/b.service"] {
        let told = of(&format!("units = [\"{bad}\"]")).unwrap_err().to_string();
        assert!(told.contains("must be the name of a unit"), "{told}");
    }
    let nowhere = of("process = false").unwrap_err().to_string();
    let line = DIRECTORY.lines().count() + 5;
    assert!(nowhere.starts_with(&format!("p.toml:{line}: sources.settings.environment:")), "{nowhere}");
}

#[test]
fn thresholds_and_bounds_may_be_equal() {
    let alarms = "[sources.app.alarms]\nbackup_age = { warning = \"2h\", critical = \"2h\" }";
    parsed(&format!("{NIGHTLY}\n{alarms}\n"));
    nightly_with("expect = \"t\"", "at_least = 3, at_most = 3");
}

#[test]
fn expectations_are_said_in_words() {
    let between = |at_least, at_most| Expectation::Between { at_least, at_most }.to_string();
    assert_eq!(Expectation::Equals("t".to_owned()).to_string(), "\"t\"");
    assert_eq!(between(Some(1.0), Some(2.5)), "from 1 to 2.5");
    assert_eq!(
        (between(Some(1.0), None), between(None, Some(2.0))),
        ("at least 1".into(), "at most 2".into())
    );
    assert_eq!(between(None, None), "a number");
}

#[test]
fn a_scratch_server_is_read_and_its_databases_have_plain_names() {
    let scratch = |prefix: &str| {
        let source =
            "kind = \"postgres\"\nservice = \"x\"\nretention = { last = 1 }\nschedule = \"0 2 * * *\"";
        let server =
            format!("connection = \"postgresql://scratch/postgres\"\ndatabase_prefix = \"{prefix}\"");
        let drills = format!("schedule = \"0 4 * * 0\"\n[sources.x.verification.scratch]\n{server}");
        let text = format!("{DIRECTORY}\n[sources.x]\n{source}\n[sources.x.verification]\n{drills}\n");
        let policy = Policy::parse(&text, "pgproof.toml").map_err(|problems| problems.to_string())?;
        let verification = self::source(&policy, "x").verification.unwrap();
        Ok::<_, String>(verification.scratch.unwrap().database_prefix)
    };
    for good in ["p", "a_1", &"x".repeat(30)] {
        assert_eq!(scratch(good), Ok(good.to_owned()));
    }
    for bad in ["", "A", "a-b", "a b", &"x".repeat(31)] {
        assert!(scratch(bad).unwrap_err().contains("must be a-z, 0-9 and _"), "{bad:?}");
    }
}

#[test]
fn routes_are_read_as_they_are_written() {
    let route = |lines: &str| {
        let policy = Policy::parse(&format!("{NIGHTLY}\n[alerts.routes.x]\n{lines}\n"), "pgproof.toml");
        policy.map(|policy| policy.alerts.unwrap().routes["x"].delivery.clone())
    };
    let mail = |tls: &str| {
        let written = route(&format!(
            "kind = \"email\"\nhost = \"x\"\nfrom = \"a@b\"\nto = [\"c@d\"]\ntls = \"{tls}\""
        ));
        let Ok(Delivery::Email(email)) = written else { panic!("no mail: {written:?}") };
        (email.tls, email.port)
    };
    assert_eq!((mail("starttls"), mail("implicit")), ((Tls::Starttls, 587), (Tls::Implicit, 465)));
    for address in ["https://hooks.example.org/x", "http://127.0.0.1/x"] {
        let slack = route(&format!("kind = \"slack\"\nurl = \"{address}\"")).unwrap();
        let Delivery::Slack { url } = slack else { panic!("{slack:?}") };
        assert_eq!((&url, format!("{url:?}").as_str()), (&Url::Written(address.to_owned()), "Written(…)"));
    }
    assert_eq!(format!("{:?}", Url::InFile("/etc/x".into())), "InFile(\"/etc/x\")");
    assert!(route("kind = \"command\"\ncommand = [\"/bin/true\"]").is_ok());
    let missing = route("kind = \"command\"").unwrap_err().to_string();
    assert!(missing.contains("command: must be a program and its arguments"), "{missing}");
}

#[test]
fn the_template_names_what_a_store_needs_and_a_folder_does_not() {
    let of = |location: &str, endpoint: Option<&str>, region: Option<&str>, provider| {
        let (endpoint, region) = (endpoint.map(str::to_owned), region.map(str::to_owned));
        let about = Template {
            endpoint,
            region,
            provider,
            ignores_conditions: false,
            location: location.to_owned(),
            source: "app".parse().unwrap(),
            connection: Connection::Environment,
            recipients: vec![AGE.to_owned(), SSH.to_owned()],
            single_recipient_waiver: None,
            signing_key: "key".into(),
            trusted_signers: "signers".into(),
            identity_file: None,
        };
        template(&about).contains("region =")
    };
    assert!(of("s3://abc", None, None, None));
    assert!(!of("file:///srv/backups", None, None, None));
    // Said where it has no meaning, so that reading the policy refuses it.
    assert!(of("file:///srv/backups", Some("https://x"), None, None));
    assert!(of("file:///srv/backups", None, Some("eu"), None));
    assert!(of("file:///srv/backups", None, None, Some(Provider::Minio)));
}
