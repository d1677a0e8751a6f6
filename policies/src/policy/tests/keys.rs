//! The section `[keys]`.

use super::*;

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
