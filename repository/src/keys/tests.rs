use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::*;

#[derive(Debug)]
struct Says(&'static str);

impl KeyPrompts for Says {
    fn message(&self, _text: &str) {}

    fn passphrase(&self, _description: &str) -> Option<SecretString> {
        Some(SecretString::from(self.0))
    }
}

fn encrypt(lines: &[String]) -> Vec<u8> {
    let recipients = Recipients::parse(lines).unwrap();
    let mut writer = recipients.encrypt_writer(Vec::new()).unwrap();
    writer.write_all(b"secret").unwrap();
    writer.finish().unwrap()
}

fn decrypt(file: &[u8], identities: &Identities) -> Result<Vec<u8>, KeyError> {
    let key = KnownFileKey::unwrap(file, identities)?;
    let decryptor = age::Decryptor::new(file).unwrap();
    let mut plain = Vec::new();
    decryptor.decrypt(std::iter::once(&key as _)).unwrap().read_to_end(&mut plain).unwrap();
    Ok(plain)
}

fn identity_file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn load(path: &Path) -> Result<Identities, KeyError> {
    Identities::load(&[path], Arc::new(NoPrompts))
}

fn load_with(path: &Path, passphrase: &'static str) -> Result<Identities, KeyError> {
    Identities::load(&[path], Arc::new(Says(passphrase)))
}

fn ssh_key(folder: &Path, kind: &str, passphrase: &str) -> (PathBuf, String) {
    let path = folder.join(format!("id_{kind}_{}", passphrase.len()));
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "somebody", "-f"])
        .arg(&path)
        .status();
    assert!(status.unwrap().success());
    let public = fs::read_to_string(path.with_extension("pub")).unwrap();
    (path, public.trim().to_owned())
}

#[test]
fn any_of_several_recipients_opens_it() {
    let folder = tempfile::tempdir().unwrap();
    let (one, first) = generate_identity();
    let (two, second) = generate_identity();
    let (other, _) = generate_identity();
    let file = encrypt(&[first, second]);
    for secret in [&one, &two] {
        let path = identity_file(folder.path(), "id", secret.expose_secret().as_bytes());
        assert_eq!(decrypt(&file, &load(&path).unwrap()).unwrap(), b"secret");
    }
    let path = identity_file(folder.path(), "id", other.expose_secret().as_bytes());
    assert!(matches!(decrypt(&file, &load(&path).unwrap()), Err(KeyError::NoMatchingIdentity)));
    let several = format!("# two\n{}\n\n{}\n", other.expose_secret(), two.expose_secret());
    let path = identity_file(folder.path(), "id", several.as_bytes());
    assert_eq!(decrypt(&file, &load(&path).unwrap()).unwrap(), b"secret");
}

#[test]
fn ssh_keys_open_it_protected_ones_too() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["ed25519", "rsa"] {
        let (path, public) = ssh_key(folder.path(), kind, "");
        let file = encrypt(std::slice::from_ref(&public));
        assert_eq!(decrypt(&file, &load(&path).unwrap()).unwrap(), b"secret");
        assert_eq!(format!("{} somebody", Recipients::parse([&public]).unwrap().public_lines()[0]), public);
    }
    let (path, public) = ssh_key(folder.path(), "ed25519", "open sesame");
    let file = encrypt(&[public]);
    assert_eq!(decrypt(&file, &load_with(&path, "open sesame").unwrap()).unwrap(), b"secret");
    assert!(matches!(load_with(&path, "wrong"), Err(KeyError::WrongPassphrase { .. })));
    assert!(matches!(load(&path), Err(KeyError::PassphraseNeeded { .. })));
    let (path, _) = ssh_key(folder.path(), "ecdsa", "");
    assert!(matches!(load(&path), Err(KeyError::NotAnIdentity { .. })));
}

#[test]
fn identity_files_protected_by_a_passphrase_open_it() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, recipient) = generate_identity();
    let file = encrypt(&[recipient]);
    let protect = |armor: bool, doublings: u8| {
        let mut passphrase = age::scrypt::Recipient::new(SecretString::from("open sesame"));
        passphrase.set_work_factor(doublings);
        let text = secret.expose_secret().as_bytes();
        match armor {
            true => age::encrypt_and_armor(&passphrase, text).unwrap().into_bytes(),
            false => age::encrypt(&passphrase, text).unwrap(),
        }
    };
    for armor in [false, true] {
        let path = identity_file(folder.path(), "protected", &protect(armor, 4));
        assert_eq!(decrypt(&file, &load_with(&path, "open sesame").unwrap()).unwrap(), b"secret");
        assert!(matches!(load_with(&path, "wrong"), Err(KeyError::WrongPassphrase { .. })));
        assert!(matches!(load(&path), Err(KeyError::PassphraseNeeded { .. })));
    }
    let greedy = replace(&protect(false, 4), b" 4\n", b" 40\n");
    let path = identity_file(folder.path(), "greedy", &greedy);
    assert!(matches!(load_with(&path, "open sesame"), Err(KeyError::ExcessiveWork { required: 40, .. })));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn identity_files_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(load(&folder.path().join("absent")), Err(KeyError::IdentityFile { .. })));
    let path = identity_file(folder.path(), "empty", b"# nothing\n");
    assert!(matches!(load(&path), Err(KeyError::NotAnIdentity { .. })));
    let path = identity_file(folder.path(), "text", b"hello AGE\n");
    let error = load(&path).unwrap_err();
    assert!(matches!(&error, KeyError::NotAnIdentity { reason, .. } if !reason.contains("hello")), "{error}");
    let (secret, recipient) = generate_identity();
    let to_key = encrypt(&[recipient]);
    let path = identity_file(folder.path(), "to-key", &to_key);
    assert!(matches!(load_with(&path, "x"), Err(KeyError::NotAnIdentity { .. })));
    let path = identity_file(folder.path(), "open", secret.expose_secret().as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = load(&path).unwrap_err();
    assert!(matches!(error, KeyError::IdentityTooOpen { mode: 0o644, .. }));
    assert!(error.hint().unwrap().starts_with("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(load(&path).is_ok());
    assert!(matches!(Identities::load::<&Path>(&[], Arc::new(NoPrompts)), Err(KeyError::NoIdentities)));
    let absent = "AGE-PLUGIN-YUBIKEY-1QQQSYQCYQ5RQWZQFPG9SCRGWPUGPZYSNZS23V9CCRYDPK8QARC0SQLZ7DP";
    let path = identity_file(folder.path(), "plugin", absent.as_bytes());
    assert!(load(&path).is_err());
}

#[test]
fn recipients_that_cannot_be_used_are_named_by_their_line() {
    let (secret, recipient) = generate_identity();
    assert!(matches!(Recipients::parse::<&str>([]), Err(KeyError::NoRecipients)));
    for bad in
        ["", "age1", "age1qqqq", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 AAAA", secret.expose_secret()]
    {
        let error = Recipients::parse([recipient.as_str(), bad]).unwrap_err();
        assert!(matches!(error, KeyError::BadRecipient { line: 2, .. }), "{bad}");
        assert!(!error.to_string().contains(secret.expose_secret()));
    }
    let twice = format!("  {recipient} ");
    let error = Recipients::parse([recipient.as_str(), twice.as_str()]).unwrap_err();
    assert!(matches!(error, KeyError::DuplicateRecipient { line: 2, first: 1 }));
    assert_eq!(Recipients::parse([twice]).unwrap().public_lines(), [recipient]);
}

#[test]
fn a_changed_header_is_refused_and_debug_output_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, recipient) = generate_identity();
    let mut file = encrypt(&[recipient]);
    let path = identity_file(folder.path(), "id", secret.expose_secret().as_bytes());
    let identities = load(&path).unwrap();
    let key = KnownFileKey::unwrap(&file[..], &identities).unwrap();
    assert_eq!(format!("{key:?}"), "KnownFileKey(…)");
    assert!(!format!("{identities:?}").contains("SECRET"));
    let mac = file.windows(4).position(|window| window == b"--- ").unwrap() + 5;
    file[mac] = if file[mac] == b'A' { b'B' } else { b'A' };
    assert!(matches!(KnownFileKey::unwrap(&file[..], &identities), Err(KeyError::Header { .. })));
    assert!(matches!(KnownFileKey::unwrap(&b"no age"[..], &identities), Err(KeyError::Header { .. })));
}

/// Whatever secret somebody pastes by mistake, the message does not hand it on.
#[test]
fn secret_keys_among_recipients_are_refused_and_not_shown() {
    let plugin = "AGE-PLUGIN-YUBIKEY-1QQQSYQCYQ5RQWZQFPG9SCRGWPUGPZYSNZS23V9CCRYDPK8QARC0SQLZ7DP";
    let age = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    for secret in [plugin, age, "-----BEGIN OPENSSH PRIVATE KEY-----"] {
        let error = Recipients::parse([secret]).unwrap_err();
        let KeyError::BadRecipient { line: 1, reason } = &error else { panic!("{error:?}") };
        assert!(reason.contains("secret key") && !reason.contains(&secret[..12]), "{reason}");
    }
    // What is none is told by its beginning.
    let reason = Recipients::parse(["somebody@example.org, who is no key"]).unwrap_err().to_string();
    assert!(reason.contains("\"somebody@example.org, wh\""), "{reason}");
}

#[test]
fn only_what_can_be_an_identity_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, _) = generate_identity();
    let padded = |bytes: usize| {
        let comment = "#".repeat(bytes - secret.expose_secret().len() - 2);
        format!("{comment}\n{}\n", secret.expose_secret())
    };
    for (bytes, is_one) in [(1 << 20, true), ((1 << 20) + 1, false), (2 << 20, false)] {
        let path = identity_file(folder.path(), "long", padded(bytes).as_bytes());
        let loaded = load(&path);
        assert_eq!(loaded.is_ok(), is_one, "{bytes}: {loaded:?}");
        assert!(is_one || matches!(loaded, Err(KeyError::IdentityFile { .. })));
    }
}

/// What a plugin asks is asked of whoever is there, and an unattended host answers nothing.
#[test]
fn questions_reach_who_can_answer_them() {
    use age::Callbacks;

    #[derive(Debug)]
    struct Answers(std::sync::Mutex<Vec<String>>);

    impl KeyPrompts for Answers {
        fn message(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }

        fn passphrase(&self, _description: &str) -> Option<SecretString> {
            Some(SecretString::from("1234"))
        }

        fn confirm(&self, _question: &str, _yes: &str, _no: Option<&str>) -> Option<bool> {
            Some(true)
        }

        fn public_text(&self, _description: &str) -> Option<String> {
            Some("slot 1".to_owned())
        }
    }

    let answers = Arc::new(Answers(std::sync::Mutex::default()));
    let bridge = prompts::Bridge(answers.clone());
    bridge.display_message("touch the key");
    assert_eq!(*answers.0.lock().unwrap(), ["touch the key"]);
    assert_eq!(bridge.request_passphrase("PIN").unwrap().expose_secret(), "1234");
    assert_eq!(bridge.confirm("really?", "yes", None), Some(true));
    assert_eq!(bridge.request_public_string("slot").as_deref(), Some("slot 1"));
    let nobody = prompts::Bridge(Arc::new(NoPrompts));
    assert!(nobody.request_passphrase("PIN").is_none() && nobody.request_public_string("slot").is_none());
    assert_eq!(nobody.confirm("really?", "yes", None), None);
}

#[test]
fn what_an_operator_can_mend_has_a_hint() {
    let path = || PathBuf::from("identity");
    let file = |kind: std::io::ErrorKind| KeyError::IdentityFile { path: path(), source: kind.into() };
    let reason = || "it is empty".to_owned();
    for (error, expected) in [
        (file(std::io::ErrorKind::PermissionDenied), "the identity's owner"),
        (file(std::io::ErrorKind::NotFound), "keys.identity_files"),
        (KeyError::NoMatchingIdentity, "the manifest lists"),
        (KeyError::NoIdentities, "name an identity file"),
        (KeyError::BadRecipient { line: 1, reason: reason() }, "a public key"),
        (KeyError::NotAnIdentity { path: path(), reason: reason() }, "AGE-SECRET-KEY-1"),
        (KeyError::WrongPassphrase { path: path() }, "the right passphrase"),
        (KeyError::PassphraseNeeded { path: path() }, "at a terminal"),
    ] {
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(expected), "{error}: {hint}");
    }
    assert_eq!(KeyError::NoRecipients.hint(), None);
}
