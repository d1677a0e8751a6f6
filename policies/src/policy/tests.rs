use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::*;
use crate::alerts::{Kind as AlertKind, Severity};

mod forms;

const DIRECTORY: &str = include_str!("../../examples/directory.toml");
const NIGHTLY: &str = include_str!("../../examples/nightly.toml");
const FILES: &str = include_str!("../../examples/files.toml");
const SEVERAL: &str = include_str!("../../examples/several.toml");
const DEPLOYMENT: &str = include_str!("../../examples/deployment.toml");

const AGE: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN safe";

fn parsed(text: &str) -> Policy {
    Policy::parse(text, "pgproof.toml").unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str) -> String {
    Policy::parse(text, "pgproof.toml").expect_err("the policy has a problem").to_string()
}

/// The problems of a good policy in which `from` was replaced by `to`.
fn problems_with(from: &str, to: &str) -> String {
    assert!(NIGHTLY.contains(from), "{from:?} is not in the example");
    problems(&NIGHTLY.replacen(from, to, 1))
}

fn source(policy: &Policy, name: &str) -> Source {
    policy.sources[&name.parse().unwrap()].clone()
}

#[test]
fn objects_are_locked_for_a_time_that_the_policy_says() {
    let with = |lines: &str| NIGHTLY.replacen("[repository]\n", &format!("[repository]\n{lines}\n"), 1);
    let lock = "object_lock = { mode = \"compliance\", retain = \"35d\" }\ndelete_versions = true";
    let Location::S3 { object_lock, delete_versions, .. } = parsed(&with(lock)).repository.location else {
        panic!()
    };
    let retain = Retain::For(SignedDuration::from_hours(35 * 24));
    assert_eq!(object_lock.as_deref(), Some(&ObjectLock { mode: LockMode::Compliance, retain }));
    assert!(delete_versions);
    let endless = problems(&with("object_lock = { mode = \"forever\" }"));
    assert!(endless.contains("repository.object_lock.mode: must be \"governance\""), "{endless}");
    assert!(endless.contains("repository.object_lock.retain"), "{endless}");
    let by_class = |further: &str| {
        with(&format!("object_lock = {{ mode = \"governance\", retain = \"by class\"{further} }}"))
    };
    let set = parsed(&by_class(", otherwise = \"35d\", yearly = \"90d\"")).repository.location;
    let Location::S3 { object_lock: Some(set), .. } = set else { panic!() };
    let spans = ClassSpans::default().with(Class::Yearly, Some(SignedDuration::from_hours(90 * 24)));
    assert_eq!(set.retain, Retain::ByClass { otherwise: SignedDuration::from_hours(35 * 24), spans });
    let silent = problems(&by_class(""));
    assert!(silent.contains("object_lock.otherwise: must say how long records are locked"), "{silent}");
    let fixed =
        "object_lock = { mode = \"governance\", retain = \"35d\", daily = \"3d\", otherwise = \"1d\" }";
    let mixed = problems(&with(fixed));
    for key in ["daily", "otherwise"] {
        assert!(mixed.contains(&format!("object_lock.{key}: has a meaning with `retain = ")), "{mixed}");
    }
    let in_directory =
        problems(&DIRECTORY.replacen("[repository]\n", "[repository]\ndelete_versions = true\n", 1));
    assert!(in_directory.contains("for an s3:// location only"), "{in_directory}");
    let share = |percent: &str| {
        problems_with("monthly = 12 }", &format!("monthly = 12, remove_share_max = {percent} }}"))
    };
    assert!(share("0").contains("remove_share_max"), "{}", share("0"));
}

#[test]
fn every_example_is_tested_and_parses() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        parsed(&std::fs::read_to_string(&path).unwrap());
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["deployment.toml", "directory.toml", "files.toml", "nightly.toml", "several.toml"]);
}

#[test]
fn the_smallest_policy_has_the_stated_defaults() {
    let policy = parsed(DIRECTORY);
    assert_eq!(policy.repository.location, Location::Directory { path: "/var/backups/pgproof".into() });
    assert_eq!(policy.recipients, [AGE]);
    assert!(policy.recipients_waiver.is_some());
    assert_eq!(policy.time_zone(), TimeZone::UTC);
    assert!(!policy.refuse_vulnerable_clients);
    let app = source(&policy, "app");
    let postgres = database_of(&app);
    assert_eq!(postgres.connection, Connection::Environment);
    assert_eq!((postgres.lock_wait, postgres.snapshot_max), (LOCK_WAIT_DEFAULT, None));
    assert_eq!((app.schedule.as_ref(), app.verification.as_ref()), (None, None));
    assert_eq!((app.compression_level, app.jobs), (COMPRESSION_LEVEL_DEFAULT, JOBS_DEFAULT));
    assert_eq!(app.no_progress_timeout, NO_PROGRESS_TIMEOUT_DEFAULT);
    assert_eq!(app.retention, Retention { last: 7, ..Retention::default() });
}

#[test]
fn the_nightly_policy_says_what_it_says() {
    let policy = parsed(NIGHTLY);
    let Location::S3 { bucket, prefix, sse, max_parts, path_style, .. } = &policy.repository.location else {
        panic!("not a bucket");
    };
    assert_eq!((bucket.as_str(), prefix.as_str()), ("example-backups", "production"));
    assert_eq!(*sse, Some(Sse::Kms { key_id: Some("alias/backups".to_owned()) }));
    assert_eq!((*max_parts, *path_style), (None, None));
    assert_eq!(policy.recipients, [AGE, SSH]);
    assert_eq!(policy.recipients_waiver, None);
    assert!(policy.refuse_vulnerable_clients);

    let app = source(&policy, "app");
    assert_eq!(app.name.as_str(), "app");
    assert_eq!(app.schedule.as_deref(), Some("0 2 * * *"));
    assert_eq!(
        app.retention,
        Retention { daily: 30, monthly: 12, gate_verified: true, ..Retention::default() }
    );
    assert_eq!(app.objectives.recovery_point, Some(SignedDuration::from_hours(1)));
    assert_eq!(app.objectives.recovery_time, Some(SignedDuration::from_hours(2)));
    let verification = app.verification.unwrap();
    assert_eq!(verification.schedule, "0 4 * * 0");
    assert_eq!(verification.checks.len(), 2);
    assert_eq!(verification.checks[0].expect, Expectation::Equals("t".to_owned()));
    assert_eq!(verification.checks[1].role.as_deref(), Some("shop"));
    assert_eq!(verification.checks[1].time_limit, SignedDuration::from_mins(2));
    assert_eq!((verification.jitter, verification.older_per_run_max), (SignedDuration::from_mins(30), 4));
    assert_eq!(verification.window, SignedDuration::from_hours(90 * 24));
    // Its only shortfall is the one that it speaks of.
    let shortfalls = crate::objective::shortfalls(&policy, "2026-11-24T00:00:00Z".parse().unwrap());
    assert!(
        matches!(shortfalls[..], [crate::objective::Shortfall::ScheduleTooSparse { .. }]),
        "{shortfalls:?}"
    );
}

#[test]
fn what_the_nightly_policy_leaves_as_comments_can_be_used() {
    let used = NIGHTLY
        .replace("# missing_extensions", "missing_extensions")
        .replace("# [[sources", "[[sources")
        .replace("# check =", "check =")
        .replace("# reason =", "reason =")
        .replace("# until =", "until =");
    let verification = source(&parsed(&used), "app").verification.unwrap();
    assert_eq!(verification.missing_extensions, ["postgis"]);
    assert_eq!(verification.exceptions[0].check, "collations");
    assert_eq!(source(&parsed(NIGHTLY), "app").verification.unwrap().exceptions, []);
}

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
fn several_sources_keep_to_themselves() {
    let policy = parsed(SEVERAL);
    let names: Vec<&str> = policy.sources.keys().map(SourceName::as_str).collect();
    assert_eq!(names, ["books", "shop", "staging"]);
    assert_eq!(policy.time_zone().iana_name(), Some("Europe/Berlin"));
    let shop = source(&policy, "shop");
    let postgres = database_of(&shop);
    assert_eq!(postgres.exclude_table_data, ["public.page_cache"]);
    assert_eq!(postgres.lock_wait, SignedDuration::from_secs(30));
    assert_eq!(postgres.snapshot_max, Some(SignedDuration::from_mins(30)));
    assert_eq!(postgres.client_dirs.len(), 2);
    assert_eq!(shop.objectives.recovery_time, Some(SignedDuration::from_mins(90)));
    assert_eq!(source(&policy, "staging").retention.within, Some(SignedDuration::from_hours(7 * 24)));
    assert!(source(&policy, "books").retention.keep_all);
}

#[test]
fn a_store_is_described_by_its_provider_and_what_is_said_beside() {
    let with = |lines: &str| NIGHTLY.replacen("[repository]\n", &format!("[repository]\n{lines}\n"), 1);
    let policy = parsed(&with(
        "provider = \"garage\"\nconditional_writes = \"ignored\"\nchecksums = \"md5\"\nmax_parts = 1000",
    ));
    let Location::S3 { provider, conditional_writes, checksums, max_parts, .. } = policy.repository.location
    else {
        panic!("not a bucket");
    };
    assert_eq!((provider, max_parts), (Some(Provider::Garage), Some(1_000)));
    assert_eq!((conditional_writes, checksums), (Some(ConditionalWrites::Ignored), Some(Checksums::Md5)));
    for (line, told) in [
        ("provider = \"gcs\"", "repository.provider: must be one of \"aws\", \"minio\""),
        ("conditional_writes = true", "repository.conditional_writes: must be \"honoured\" or \"ignored\""),
        ("checksums = \"sha1\"", "repository.checksums: must be \"crc32c\" or \"md5\""),
    ] {
        let problems = problems(&with(line));
        assert!(problems.contains(told), "{problems}");
    }
}

#[test]
fn all_problems_are_said_at_once_in_the_order_of_lines() {
    let text = r#"zone = "Europe/Nowhere"
[repository]
location = "ftp://host/backups"
max_parts = 20000
[keys]
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
singing_key = "/etc/pgproof/signing_key"
[sources.App]
kind = "mysql"
connection = "postgresql://backup:secret@db/app"
schedule = "61 2 * * *"
compression_level = "high"
[sources.app.verification]
checks = [{ name = "x", sql = "select 1" }]
[clints]
"#;
    let expected = r#"pgproof.toml:1: zone: must be the name of a time zone such as "Europe/Berlin", got "Europe/Nowhere"
pgproof.toml:3: repository.location: must be "s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix" or "file:///directory", got "ftp://host/backups"
pgproof.toml:4: repository.max_parts: must be a whole number from 1 to 10000, got 20000
pgproof.toml:6: keys.recipients: must list two different keys or more, so that one lost key does not lose every backup, unless `single_recipient_waiver` says why one is enough, got 1
pgproof.toml:7: keys.singing_key: is no known key, did you mean `signing_key`?
pgproof.toml:8: sources.App: a source name must start with a letter or a digit and consist of a-z, 0-9, _ and -, got "App"
pgproof.toml:8: sources.App.retention: must say how many backups are kept, such as `{ daily = 30, monthly = 12 }`, or `{ keep_all = true }`, got nothing
pgproof.toml:9: sources.App.kind: must be "postgres", "files" or "config", got "mysql"
pgproof.toml:10: sources.App.connection: must hold no password, name a `password_file` instead
pgproof.toml:11: sources.App.schedule: must be five cron fields (minute, hour, day, month, weekday) that come true some day, got "61 2 * * *"
pgproof.toml:12: sources.App.compression_level: must be a whole number from 1 to 19, got "high"
pgproof.toml:13: sources.app.connection: must be a connection URI, unless `service` or `from_environment = true` is there, got nothing
pgproof.toml:13: sources.app.kind: must be "postgres", "files" or "config", got nothing
pgproof.toml:13: sources.app.retention: must say how many backups are kept, such as `{ daily = 30, monthly = 12 }`, or `{ keep_all = true }`, got nothing
pgproof.toml:13: sources.app.verification.schedule: must be five cron fields (minute, hour, day, month, weekday) that come true some day, got nothing
pgproof.toml:14: sources.app.verification.checks[0].expect: must be the text of the value that is right, unless `at_least` or `at_most` is there, got nothing
pgproof.toml:15: clints: is no known key, did you mean `clients`?"#;
    assert_eq!(problems(text), expected);
}

#[test]
fn what_would_lose_data_has_no_default() {
    let empty = problems("");
    for field in ["repository", "keys", "sources"] {
        assert!(
            empty.contains(&format!("pgproof.toml:1: {field}: must be there as a table, got nothing")),
            "{empty}"
        );
    }
    let without = |line: &str| problems_with(line, "");
    assert!(
        without("location = \"s3://example-backups/production\"").contains("repository.location: must be")
    );
    assert!(without("retention = { daily = 30, monthly = 12 }").contains("sources.app.retention: must say"));
    assert!(without("schedule = \"0 4 * * 0\"").contains("verification.schedule: must be"));
    assert!(problems_with("{ daily = 30, monthly = 12 }", "{ daily = 0 }").contains("got no rule"));
    assert!(
        problems_with("{ daily = 30, monthly = 12 }", "{ gate_verified = true }").contains("got no rule")
    );
    assert!(problems_with("daily = 30", "keep_all = true").contains("retention.keep_all: must stand alone"));
    let no_source = problems(&format!("{}[sources]\n", DIRECTORY.split("[sources").next().unwrap()));
    assert!(no_source.contains("sources.<name>: must be there at least once, got nothing"), "{no_source}");
}

#[test]
fn a_file_that_is_not_toml_is_said_by_line() {
    let text = problems("[repository]\nlocation = \n");
    assert!(text.starts_with("pgproof.toml:2: is not TOML: "), "{text}");
    let long = "#".repeat(POLICY_BYTES_MAX + 1);
    assert!(problems(&long).contains("at most 1048576 bytes, got 1048577"));
}

#[test]
fn two_recipients_are_two_keys() {
    let twice = format!("\"{SSH}\"");
    let other_comment = twice.replace("safe", "elsewhere");
    let text = NIGHTLY.replacen(&format!("\"{AGE}\""), &other_comment, 1);
    assert!(problems(&text).contains("keys.recipients: must list two different keys or more"));
    let waived = problems_with("signing_key", "single_recipient_waiver = \"no\"\nsigning_key");
    assert!(waived.contains("single_recipient_waiver: must be left out"), "{waived}");
    let none = problems(&DIRECTORY.replacen(&format!("\"{AGE}\""), "", 1));
    assert!(none.contains("keys.recipients: must list one key at least, got 0"), "{none}");
}

#[test]
fn no_secret_is_repeated() {
    let secret_key = problems_with(AGE, "AGE-SECRET-KEY-1QQQ");
    assert!(secret_key.contains("keys.recipients[0]: must be a public key"));
    let uri = "postgresql://backup@db.example.org/app?sslmode=verify-full";
    let mut all = vec![secret_key];
    for bad in [
        "postgresql://backup:QQQ@db/app",
        "postgresql://db/app?password=QQQ",
        "postgresql://db/app?sslmode=require&pass%77ord=QQQ",
        "postgresql://db/app?SSLPASSWORD=QQQ",
        "host=db password=QQQ",
    ] {
        all.push(problems_with(uri, bad));
    }
    all.push(problems_with("region =", "endpoint = \"https://key:QQQ@host\"\nregion ="));
    all.push(problems_with("password_file =", "password = \"QQQ\"\npassword_file ="));
    assert!(all.last().unwrap().contains("sources.app.password: is no known key"));
    for text in all {
        assert!(!text.contains("QQQ"), "{text}");
    }
}

#[test]
fn plain_http_needs_a_reason_or_this_host() {
    let with = |lines: &str| NIGHTLY.replacen("region =", &format!("{lines}\nregion ="), 1);
    for safe in
        ["https://s3.example.org", "http://127.0.0.1:9000", "http://localhost:9000/", "http://[::1]:9000"]
    {
        parsed(&with(&format!("endpoint = \"{safe}\"")));
    }
    for plain in ["http://s3.example.org", "http://127.0.0.1.example.org", "http://localhost.example.org:80"]
    {
        let text = problems(&with(&format!("endpoint = \"{plain}\"")));
        assert!(text.contains("repository.endpoint: must start with https://"), "{text}");
        let reason = format!("endpoint = \"{plain}\"\nallow_plain_http_reason = \"a wire of our own\"");
        assert!(parsed(&with(&reason)).repository.allow_plain_http_reason.is_some());
    }
    for malformed in ["s3.example.org", "https://", "https://host/path", "ftp://host"] {
        assert!(problems(&with(&format!("endpoint = \"{malformed}\""))).contains("and nothing more"));
    }
}

#[test]
fn locations_are_checked() {
    let at = |location: &str| DIRECTORY.replacen("file:///var/backups/pgproof", location, 1);
    for (location, expected) in [("s3://abc", ""), ("s3://abc/", ""), ("s3://abc/a/b/", "a/b")] {
        let Location::S3 { prefix, .. } = parsed(&at(location)).repository.location else { panic!() };
        assert_eq!(prefix, expected);
    }
    for bad in
        ["s3://", "s3://ab", "s3://A-bucket", "s3://abc/a//b", "s3://abc/../b", "file://host/x", "/var/x"]
    {
        assert!(problems(&at(bad)).contains("repository.location: must be"), "{bad}");
    }
    let region = problems(&at("file:///x\"\nregion = \"eu"));
    assert!(region.contains("repository.region: has a meaning for an s3:// location only"), "{region}");
    for (location, expected) in [
        (
            "gs://my_bucket.example.org/a",
            Location::Google { bucket: "my_bucket.example.org".into(), prefix: "a".into(), endpoint: None },
        ),
        (
            "az://backups\"\naccount = \"house\"\nendpoint = \"https://house.blob.core.chinacloudapi.cn",
            Location::Azure {
                container: "backups".into(),
                prefix: String::new(),
                account: Some("house".into()),
                endpoint: Some("https://house.blob.core.chinacloudapi.cn".into()),
                path_style: false,
            },
        ),
    ] {
        assert_eq!(parsed(&at(location)).repository.location, expected);
    }
    for bad in ["gs://ab", "gs://-abc", "gs://a..b", "az://a--b", "az://A-container", "az://under_score"] {
        assert!(problems(&at(bad)).contains("repository.location: must be"), "{bad}");
    }
    for (location, said) in [
        ("gs://abc\"\nregion = \"eu", "repository.region: has a meaning for an s3:// location only"),
        ("gs://abc\"\naccount = \"abc", "repository.account: has a meaning for an az:// location only"),
        ("az://abc\"\naccount = \"A", "repository.account: must be the name of a storage account"),
        (
            "file:///x\"\npath_style = true # \"",
            "path_style: has a meaning for an s3:// or az:// location only",
        ),
        ("gs://abc\"\ndelete_versions = true # \"", "give the bucket object versioning"),
    ] {
        let text = problems(&at(location));
        assert!(text.contains(said), "{text}");
    }
    assert!(problems_with("STANDARD_IA", "DEEP_ARCHIVE").contains("repository.storage_class"));
    assert!(problems_with("\"aws:kms\"", "\"AES256\"").contains("repository.sse_kms_key: has a meaning"));
}

#[test]
fn exactly_one_way_to_connect() {
    let both = problems_with("password_file =", "service = \"app\"\npassword_file =");
    assert!(both.contains("sources.app.service: must be the only one"), "{both}");
    let denied = problems(&DIRECTORY.replacen("from_environment = true", "from_environment = false", 1));
    assert!(denied.contains("from_environment: must be true or be left out, got false"), "{denied}");
}

#[test]
fn durations_are_more_than_nothing_and_of_fixed_length() {
    let day = SignedDuration::from_hours(24);
    assert_eq!(values::duration("7d"), Some(day * 7));
    assert_eq!(values::duration("1h 30m"), Some(SignedDuration::from_mins(90)));
    assert_eq!(values::duration("2 weeks"), Some(day * 14));
    for bad in ["", "0s", "-1h", "1h ago", "1mo", "1y", "5", "soon"] {
        assert_eq!(values::duration(bad), None, "{bad:?}");
    }
}

#[test]
fn verification_turns_the_gate_on_unless_the_policy_says_no() {
    let text = NIGHTLY.replacen("monthly = 12 }", "monthly = 12, gate_verified = false }", 1);
    assert!(!source(&parsed(&text), "app").retention.gate_verified);
}

#[test]
fn checks_have_names_of_their_own() {
    let check = "{ name = \"orders exist\", sql = \"select true\", expect = \"t\" }";
    let text = problems_with("checks = [", &format!("checks = [{check}, "));
    assert!(text.contains("checks[1].name: must be a name of its own, got \"orders exist\" again"), "{text}");
}

#[test]
fn expectations_are_a_text_or_a_range() {
    let between = |at_least, at_most| Expectation::Between { at_least, at_most };
    assert!(Expectation::Equals("t".to_owned()).is_met_by("t"));
    assert!(!Expectation::Equals("1".to_owned()).is_met_by("1.0"));
    assert!(between(Some(1.0), None).is_met_by("12"));
    assert!(!between(Some(1.0), Some(2.5)).is_met_by("2.6"));
    assert!(!between(None, None).is_met_by("many"));
    let text = problems_with("expect = \"t\"", "expect = \"t\", at_least = 3");
    assert!(text.contains("checks[0].expect: must be left out beside"), "{text}");
    let text = problems_with("expect = \"t\"", "at_least = 3, at_most = 2");
    assert!(text.contains("checks[0].at_most: must not be below"), "{text}");
}

#[test]
fn no_exception_stands_in_for_the_proof_itself() {
    let exception = |check: &str| {
        format!(
            "exceptions = [{{ check = \"{check}\", reason = \"r\", until = \"2027-03-31\" }}]\nchecks = ["
        )
    };
    let text = problems_with("checks = [", &exception("tables"));
    assert!(text.contains("exceptions[0].check: must be none of signature"), "{text}");
    let policy = parsed(&NIGHTLY.replacen("checks = [", &exception("collations"), 1));
    let found = source(&policy, "app").verification.unwrap().exceptions;
    assert_eq!(found[0].until, jiff::civil::date(2027, 3, 31));
}

#[test]
fn the_verifier_has_keys_and_credentials_of_its_own() {
    let section =
        "[verifier]\nidentity_files = [\"/v/identity\"]\nsigning_key = \"/v/key\"\nprofile = \"verifier\"\n";
    let policy = parsed(&format!("{NIGHTLY}\n{section}"));
    let own = policy.clone().for_verifier();
    assert_eq!(own.signing_key.as_deref(), Some("/v/key".as_ref()));
    assert_eq!(own.identity_files, [PathBuf::from("/v/identity")]);
    let profile = |policy: &Policy| match &policy.repository.location {
        Location::S3 { profile, .. } => profile.clone(),
        _ => None,
    };
    assert_eq!((profile(&policy), profile(&own)), (None, Some("verifier".to_owned())));
}

#[test]
fn the_template_parses_and_says_what_it_was_told() {
    let mut about = Template {
        endpoint: None,
        region: None,
        provider: None,
        ignores_conditions: false,
        location: "s3://example-backups/production".to_owned(),
        source: "app".parse().unwrap(),
        connection: Connection::Uri("postgresql://backup@db.example.org/app".to_owned()),
        recipients: vec![AGE.to_owned(), SSH.to_owned()],
        single_recipient_waiver: None,
        signing_key: "/etc/pgproof/signing_key".into(),
        trusted_signers: "/etc/pgproof/trusted_signers".into(),
        identity_file: Some("/root/identity.txt".into()),
    };
    let text = template(&about);
    assert!(text.contains("# identity_files = [\"/root/identity.txt\"]"), "{text}");
    let policy = parsed(&text);
    assert_eq!(policy.recipients, about.recipients);
    assert_eq!(policy.signing_key.as_ref(), Some(&about.signing_key));
    assert_eq!(policy.trusted_signers.as_ref(), Some(&about.trusted_signers));
    assert!(policy.identity_files.is_empty());
    let postgres = database_of(&source(&policy, "app"));
    assert_eq!(postgres.connection, about.connection);

    about.location = "file:///srv/backups".to_owned();
    about.recipients.pop();
    about.single_recipient_waiver = Some("a \"trial\"".to_owned());
    for connection in [Connection::Service("app".to_owned()), Connection::Environment] {
        about.connection = connection;
        let policy = parsed(&template(&about));
        assert_eq!(policy.recipients_waiver, about.single_recipient_waiver);
        let postgres = database_of(&source(&policy, "app"));
        assert_eq!(postgres.connection, about.connection);
    }
}

#[test]
fn every_line_of_the_template_that_is_switched_off_is_a_good_one() {
    let about = Template {
        endpoint: Some("https://s3.example.org".to_owned()),
        region: None,
        provider: Some(Provider::Minio),
        ignores_conditions: true,
        location: "s3://example-backups/production".to_owned(),
        source: "app".parse().unwrap(),
        connection: Connection::Environment,
        recipients: vec![AGE.to_owned(), SSH.to_owned()],
        single_recipient_waiver: None,
        signing_key: "key".into(),
        trusted_signers: "signers".into(),
        identity_file: None,
    };
    let switched_on: Vec<String> = template(&about)
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with('[') => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let policy = parsed(&switched_on.join("\n"));
    assert_eq!(policy.zone.as_deref(), Some("Europe/Berlin"));
    assert!(source(&policy, "app").verification.is_some());
    assert_eq!(policy.identity_files.len(), 1);
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

#[test]
fn alarms_are_pairs_in_their_order() {
    let with = |alarms: &str| format!("{NIGHTLY}\n[sources.app.alarms]\n{alarms}\n");
    let policy = parsed(&with("backup_age = { warning = \"2h\", critical = \"4h\" }"));
    let hours = SignedDuration::from_hours;
    let alarms = policy.sources.values().find_map(|source| source.alarms.backup_age);
    assert_eq!(alarms, Some(Thresholds { warning: hours(2), critical: hours(4) }));
    let told = problems(&with("backup_age = { warning = \"4h\", critical = \"2h\" }"));
    assert!(told.contains("must not be shorter than `warning`"), "{told}");
    let told = problems(&with("proof_age = { warning = \"4h\" }\nbackup_rage = 1"));
    assert!(told.contains("proof_age.critical") && told.contains("did you mean `backup_age`"), "{told}");
}

#[test]
fn a_health_server_listens_to_this_machine_unless_a_reason_is_given() {
    let with =
        |lines: &str| format!("{NIGHTLY}\n[monitoring]\n{lines}\n[verifier.monitoring]\nrefresh = \"1m\"\n");
    let policy = parsed(&with("listen = \"[::1]:9187\"\ntextfile = \"/var/lib/x/pgproof.prom\""));
    assert_eq!(policy.monitoring.listen, "[::1]:9187".parse().ok());
    assert_eq!(policy.monitoring.refresh, REFRESH_DEFAULT);
    // The verifier has its own, or none: never the agent's.
    let own = policy.for_verifier().monitoring;
    assert_eq!((own.listen, own.textfile, own.refresh), (None, None, SignedDuration::from_mins(1)));
    for public in ["0.0.0.0:9187", "[::]:9187", "192.0.2.1:9187"] {
        let told = problems(&with(&format!("listen = \"{public}\"")));
        assert!(told.contains("must be a loopback address"), "{told}");
        parsed(&with(&format!("listen = \"{public}\"\npublic_listen_reason = \"behind a firewall\"")));
    }
    assert!(problems(&with("listen = \"9187\"")).contains("an address and a port"));
}

fn database_of(source: &Source) -> PostgresSource {
    match &source.kind {
        Kind::Postgres(postgres) => postgres.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_source_of_files_says_what_is_taken() {
    let policy = parsed(FILES);
    let uploads = FilesSource {
        paths: vec!["/srv/uploads".into()],
        exclude: vec!["*.tmp".to_owned(), "/srv/uploads/cache".to_owned()],
        incremental: Some(Incremental { full_every: SignedDuration::from_hours(7 * 24), chain_max: 14 }),
        ..FilesSource::default()
    };
    assert_eq!(source(&policy, "uploads").kind, Kind::Files(uploads));
    let logs = FilesSource {
        paths: vec!["/var/log".into()],
        include: vec!["*.log".to_owned(), "*.gz".to_owned()],
        one_file_system: true,
        ..FilesSource::default()
    };
    assert_eq!(source(&policy, "logs").kind, Kind::Files(logs));
}

#[test]
fn what_a_source_of_files_cannot_be_is_said() {
    let head = FILES.split("[sources.uploads]").next().unwrap();
    let found = |lines: &str| {
        let text =
            format!("{head}[sources.uploads]\nkind = \"files\"\nretention = {{ daily = 7 }}\n{lines}\n");
        Policy::parse(&text, "p.toml").unwrap_err().to_string()
    };
    for (lines, problem) in [
        ("paths = []", "paths: must list the folders"),
        ("", "paths: must list the folders"),
        ("paths = [\"srv\"]", "paths[0]: must be an absolute path without `..`, got \"srv\""),
        ("paths = [\"/srv/../etc\"]", "paths[0]: must be an absolute path"),
        ("paths = [\"/srv\"]\nexclude = [\"a[\"]", "exclude[0]: must be a pattern"),
        ("paths = [\"/srv\"]\nconnection = \"postgresql:///app\"", "connection: is no known key"),
        ("paths = [\"/srv\"]\nsnapshot_max = \"1h\"", "snapshot_max: is no known key"),
        ("paths = [\"/srv\"]\njobs = 4", "jobs: must be left out"),
        ("paths = [\"/srv\"]\n[sources.uploads.verification]", "verification: must be left out"),
    ] {
        let found = found(lines);
        assert!(found.contains(problem), "{lines}: {found}");
    }
}

#[test]
fn an_incremental_backup_that_could_never_be_is_refused() {
    let head = FILES.split("[sources.uploads]").next().unwrap();
    let found = |lines: &str| {
        let source =
            "kind = \"files\"\npaths = [\"/srv\"]\nretention = { daily = 7 }\nschedule = \"30 2 * * *\"";
        Policy::parse(&format!("{head}[sources.uploads]\n{source}\n{lines}\n"), "p.toml")
    };
    for (given, problem) in [
        ("{}", "incremental.full_every: must say how long"),
        ("{ full_every = \"7d\" }", "incremental.chain_max: must say how many"),
        (
            "{ full_every = \"7d\", chain_max = 0 }",
            "incremental.chain_max: must be a whole number from 1 to 100",
        ),
        (
            "{ full_every = \"7d\", chain_max = 101 }",
            "incremental.chain_max: must be a whole number from 1 to 100",
        ),
        ("{ full_every = \"weekly\", chain_max = 7 }", "incremental.full_every: must be a duration"),
        ("{ full_every = \"7d\", chain_max = 7, chain_min = 1 }", "incremental.chain_min: is no known key"),
        ("true", "incremental: must be a table"),
        (
            "{ full_every = \"1d\", chain_max = 7 }",
            "uploads.incremental: must have a `full_every` longer than",
        ),
    ] {
        let found = found(&format!("incremental = {given}")).unwrap_err().to_string();
        assert!(found.contains(problem), "{given}: {found}");
    }
    assert!(found("incremental = { full_every = \"2d\", chain_max = 1 }").is_ok());
    let given = "incremental = { full_every = \"7d\", chain_max = 7 }\nretention =";
    let elsewhere = problems_with("retention =", given);
    assert!(elsewhere.contains("sources.app.incremental: must be left out"), "{elsewhere}");
}

#[test]
fn routes_say_who_is_told_and_addresses_are_not_repeated() {
    let policy = parsed(DEPLOYMENT);
    let alerts = policy.alerts.clone().unwrap();
    assert_eq!(alerts.severity(AlertKind::RunFailed), Severity::P4);
    assert_eq!(alerts.severity(AlertKind::BackupBad), Severity::P1);
    let names: Vec<_> = alerts.routes.keys().map(String::as_str).collect();
    assert_eq!(names, ["dead-man", "oncall", "team"]);
    let Delivery::Email(email) = &alerts.routes["team"].delivery else { panic!("no mail") };
    assert_eq!((email.port, email.tls), (587, Tls::Starttls));
    let with = |lines: &str| problems(&format!("{NIGHTLY}\n[alerts.routes.x]\n{lines}\n"));
    for (lines, problem) in [
        ("kind = \"pigeon\"", "must be \"webhook\""),
        ("kind = \"slack\"", "url_file: must name the file"),
        ("kind = \"slack\"\nurl = \"ftp://x/T0KEN\"", "must begin with https://"),
        ("kind = \"slack\"\nurl = \"https://x\"\nseverities = [\"P5\"]", "must be \"P1\""),
        ("kind = \"command\"\ncommand = [\"sh\"]", "must be a program's whole path"),
        ("kind = \"email\"\nhost = \"x\"\nfrom = \"a@b\"\nto = [\"c@d\"]\ntls = \"none\"", "plain_reason"),
        ("kind = \"email\"\nhost = \"x\"\nfrom = \"a@b\"\nto = [\"c@d\"]\nusername = \"u\"", "password_file"),
    ] {
        let told = with(lines);
        assert!(told.contains(problem) && !told.contains("T0KEN"), "{problem} is not in:\n{told}");
    }
    assert!(!format!("{policy:?}").contains("T0KEN"));
}
