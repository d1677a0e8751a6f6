//! What is said of a policy that is wrong.

use super::*;

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
fn durations_are_more_than_nothing_and_of_fixed_length() {
    let day = SignedDuration::from_hours(24);
    assert_eq!(values::duration("7d"), Some(day * 7));
    assert_eq!(values::duration("1h 30m"), Some(SignedDuration::from_mins(90)));
    assert_eq!(values::duration("2 weeks"), Some(day * 14));
    for bad in ["", "0s", "-1h", "1h ago", "1mo", "1y", "5", "soon"] {
        assert_eq!(values::duration(bad), None, "{bad:?}");
    }
}
