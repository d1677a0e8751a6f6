//! The policy that `pgproof init` writes.

use super::*;

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
