use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use secrecy::ExposeSecret;

use super::*;

const MESSAGE: &[u8] = b"{\"format\":\"pgproof-manifest\"}\n";

struct Keys {
    folder: tempfile::TempDir,
    key: SigningKey,
    public: String,
}

fn keys() -> Keys {
    let folder = tempfile::tempdir().unwrap();
    let (private, public) = generate("agent@db1");
    write_private(&folder.path().join("key"), private.expose_secret());
    let key = SigningKey::load(&folder.path().join("key")).unwrap();
    assert_eq!(key.public_line(), public);
    Keys { folder, key, public }
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn trusted(line: &str) -> TrustedSigners {
    TrustedSigners::parse(line).unwrap()
}

fn now() -> Timestamp {
    "2026-11-24T02:00:00Z".parse().unwrap()
}

fn ssh_keygen(arguments: &[&str], input: &[u8]) -> bool {
    let mut child = Command::new("ssh-keygen")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait().unwrap().success()
}

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn stock_ssh_keygen_accepts_our_signature_and_notices_changed_bytes() {
    let Keys { folder, key, public } = keys();
    let signature = key.sign(namespace::MANIFEST, MESSAGE).unwrap();
    let signature = write(&folder, "m.sig", &signature);
    let signers = write(&folder, "signers", &format!("agent namespaces=\"pgproof-*\" {public}\n"));
    let (signers, signature) = (signers.to_str().unwrap(), signature.to_str().unwrap());
    let arguments =
        ["-Y", "verify", "-f", signers, "-I", "agent", "-n", namespace::MANIFEST, "-s", signature];
    assert!(ssh_keygen(&arguments, MESSAGE));
    assert!(!ssh_keygen(&arguments, b"something else"));
}

#[test]
fn signatures_of_stock_ssh_keygen_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("id").to_str().unwrap().to_owned();
    assert!(ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", &key], b""));
    let message = write(&folder, "m", std::str::from_utf8(MESSAGE).unwrap());
    for hash in ["sha512", "sha256"] {
        let _ = fs::remove_file(folder.path().join("m.sig"));
        let hash = format!("hashalg={hash}");
        let sign = ["-Y", "sign", "-f", &key, "-n", "pgproof-run", "-O", &hash, message.to_str().unwrap()];
        assert!(ssh_keygen(&sign, b""));
        let signature = fs::read_to_string(folder.path().join("m.sig")).unwrap();
        let public = fs::read_to_string(format!("{key}.pub")).unwrap();
        let signer = trusted(&format!("me@host {public}")).verify("pgproof-run", MESSAGE, &signature, now());
        let ours = SigningKey::load(Path::new(&key)).unwrap();
        let expected = Signer { principal: "me@host".to_owned(), fingerprint: ours.fingerprint() };
        assert_eq!(signer.unwrap(), expected);
    }
}

#[test]
fn each_refusal_has_its_own_name() {
    let Keys { key, public, .. } = keys();
    let (_, stranger) = generate("stranger");
    let signature = key.sign(namespace::MANIFEST, MESSAGE).unwrap();
    let verify = |line: &str, namespace: &str, bytes: &[u8], signature: &str| {
        trusted(line).verify(namespace, bytes, signature, now()).unwrap_err()
    };
    let line = format!("agent {public}");
    let manifest = namespace::MANIFEST;
    assert!(matches!(
        verify(&format!("x {stranger}"), manifest, MESSAGE, &signature),
        SignatureError::UnknownSigner { fingerprint } if fingerprint == key.fingerprint()
    ));
    assert!(matches!(verify("", manifest, MESSAGE, &signature), SignatureError::UnknownSigner { .. }));
    assert!(matches!(
        verify(&line, namespace::REPORT, MESSAGE, &signature),
        SignatureError::WrongNamespace { .. }
    ));
    assert!(matches!(verify(&line, manifest, b"other", &signature), SignatureError::BadSignature { .. }));
    assert!(matches!(
        verify(&format!("agent namespaces=\"pgproof-run,other\" {public}"), manifest, MESSAGE, &signature),
        SignatureError::NamespaceNotAllowed { .. }
    ));
    for malformed in ["", "-----BEGIN SSH SIGNATURE-----\n", &signature.replace("U1NIU0", "AAAAAA"), "é"] {
        assert!(matches!(verify(&line, manifest, MESSAGE, malformed), SignatureError::Malformed { .. }));
    }
    let long = "x".repeat(SIGNATURE_BYTES_MAX + 1);
    assert!(matches!(verify(&line, manifest, MESSAGE, &long), SignatureError::TooLong { .. }));
}

/// What is checked together is judged as it would be alone, wherever the false ones stand.
#[test]
fn many_signatures_are_judged_like_each() {
    let keys: Vec<Keys> = (0..3).map(|_| keys()).collect();
    let lines = [
        keys[0].public.clone(),
        format!("namespaces=\"pgproof-report\" {}", keys[1].public),
        format!("valid-before=\"20260101Z\" {}", keys[2].public),
    ];
    let signers = trusted(&lines.map(|line| format!("host {line}\n")).concat());
    let message = |number: usize| format!("{number}").into_bytes();
    let signed: Vec<_> = (0..60)
        .map(|number| {
            let key = &keys[if number % 20 == 7 { number / 20 } else { 0 }].key;
            let of = if number % 15 == 4 { number + 1 } else { number };
            (message(number), key.sign(namespace::MANIFEST, &message(of)).unwrap())
        })
        .collect();
    for (first, count) in [(0, 4), (0, 60), (40, 20), (5, 1), (4, 1), (0, 0)] {
        let some = &signed[first..first + count];
        let claims = some
            .iter()
            .map(|(bytes, signature)| signers.claim(namespace::MANIFEST, bytes, signature, now()).unwrap());
        let together: Vec<_> = check_all(claims.collect()).into_iter().map(|it| format!("{it:?}")).collect();
        let alone = some.iter().map(|(bytes, signature)| {
            format!("{:?}", signers.verify(namespace::MANIFEST, bytes, signature, now()))
        });
        assert_eq!(together, alone.collect::<Vec<_>>());
        let refused = together.iter().filter(|it| it.starts_with("Err")).count();
        let expected = (first..first + count).filter(|n| n % 15 == 4 || [27, 47].contains(n)).count();
        assert_eq!(refused, expected, "{together:?}");
    }
}

#[test]
fn no_changed_character_of_a_signature_is_accepted() {
    let Keys { key, public, .. } = keys();
    let signers = trusted(&format!("agent {public}"));
    let signature = key.sign(namespace::MANIFEST, MESSAGE).unwrap();
    let body = signature.find('\n').unwrap()..signature.rfind("-----END").unwrap();
    for position in body {
        let mut changed = signature.clone().into_bytes();
        if !changed[position].is_ascii_alphanumeric() {
            continue;
        }
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(signers.verify(namespace::MANIFEST, MESSAGE, &changed, now()).is_err(), "{position}");
    }
}

#[test]
fn a_key_counts_only_within_its_time() {
    let Keys { key, public, .. } = keys();
    let signature = key.sign(namespace::RUN, MESSAGE).unwrap();
    let line = format!("agent valid-after=\"20260101Z\",valid-before=\"202612312359Z\" {public}");
    let verify = |at: &str| trusted(&line).verify(namespace::RUN, MESSAGE, &signature, at.parse().unwrap());
    assert!(verify("2026-01-01T00:00:00Z").is_ok());
    assert!(verify("2026-12-31T23:59:00Z").is_ok());
    assert!(matches!(verify("2025-12-31T23:59:59Z"), Err(SignatureError::NotValidAt { .. })));
    assert!(matches!(verify("2026-12-31T23:59:01Z"), Err(SignatureError::NotValidAt { .. })));
    let to_the_second = trusted(&format!("agent valid-before=\"20261231235930Z\" {public}"));
    let verify_then =
        |at: &str| to_the_second.verify(namespace::RUN, MESSAGE, &signature, at.parse().unwrap());
    assert!(verify_then("2026-12-31T23:59:30Z").is_ok() && verify_then("2026-12-31T23:59:31Z").is_err());
    let renewed = format!("{line}\nagent valid-after=\"20270101Z\" {public}");
    let later = "2027-06-01T00:00:00Z".parse().unwrap();
    assert!(trusted(&renewed).verify(namespace::RUN, MESSAGE, &signature, later).is_ok());
}

#[test]
fn lines_that_mean_something_else_are_refused_with_their_number() {
    let (_, public) = generate("x");
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDA";
    for bad in [
        format!("agent cert-authority {public}"),
        format!("agent valid-before=\"20261231\" {public}"),
        format!("agent valid-before=\"20261331Z\" {public}"),
        format!("agent namespaces=\"!pgproof-run\" {public}"),
        format!("agent namespace=\"pgproof-run\" {public}"),
        format!("agent namespaces=\"a\",namespaces=\"b\" {public}"),
        format!("agent namespaces=\"a {public}"),
        format!("agent {rsa}"),
        public.clone(),
        "agent".to_owned(),
    ] {
        let error = TrustedSigners::parse(&format!("# comment\n\n{bad}\n")).unwrap_err();
        assert_eq!(error.line, 3, "{bad}");
    }
    let options = TrustedSigners::parse(&format!("\"a b\" NAMESPACES=\"pgproof-*,x\" {public}")).unwrap();
    assert_eq!(options.len(), 1);
}

#[test]
fn signing_keys_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    assert!(matches!(SigningKey::load(&path), Err(SignatureError::KeyFile { .. })));
    write_private(&path, "not a key");
    assert!(matches!(SigningKey::load(&path), Err(SignatureError::NotAKey { .. })));
    let (private, _) = generate("x");
    write_private(&path, private.expose_secret());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    let error = SigningKey::load(&path).unwrap_err();
    assert!(matches!(error, SignatureError::KeyTooOpen { mode: 0o660, .. }));
    assert!(error.hint().unwrap().starts_with("chmod 600"));
    let name = folder.path().join("protected").to_str().unwrap().to_owned();
    assert!(ssh_keygen(&["-q", "-t", "ed25519", "-N", "secret", "-f", &name], b""));
    assert!(matches!(SigningKey::load(Path::new(&name)), Err(SignatureError::KeyEncrypted { .. })));
    let name = folder.path().join("ecdsa").to_str().unwrap().to_owned();
    assert!(ssh_keygen(&["-q", "-t", "ecdsa", "-N", "", "-f", &name], b""));
    assert!(matches!(SigningKey::load(Path::new(&name)), Err(SignatureError::KeyAlgorithm { .. })));
}

#[test]
fn debug_output_holds_no_secret() {
    let Keys { key, .. } = keys();
    assert_eq!(format!("{key:?}"), format!("SigningKey {{ fingerprint: {:?}, .. }}", key.fingerprint()));
}

#[test]
fn a_comment_stays_on_the_line_of_its_key() {
    let (_, line) = generate("one\nhost ssh-ed25519\u{7}");
    assert!(line.lines().count() == 1 && line.ends_with(" onehost ssh-ed25519"), "{line:?}");
}

#[test]
fn trusted_lines_are_counted() {
    let line = |name: &str| format!("{name} {}\n", generate("a test").1);
    let two = TrustedSigners::parse(&format!("# nobody\n{}{}", line("a"), line("b"))).unwrap();
    assert_eq!(two.len(), 2);
}

#[test]
fn namespaces_are_patterns_and_lists_of_them() {
    let Keys { key, public, .. } = keys();
    let signature = key.sign(namespace::MANIFEST, MESSAGE).unwrap();
    let is_permitted = |options: &str| {
        let signers = trusted(&format!("agent {options} {public}"));
        signers.verify(namespace::MANIFEST, MESSAGE, &signature, now()).is_ok()
    };
    for good in [
        "pgproof-manifest",
        "*",
        "pgproof-*",
        "*-manifest",
        "pg*man*t",
        "pgproof-?anifest",
        "other,pgproof-*",
    ] {
        assert!(is_permitted(&format!("namespaces=\"{good}\"")), "{good}");
    }
    for bad in
        ["pgproof-manifes", "pgproof-manifest?", "?", "*x", "pgproof-r*", "pgproof", "other,pgproof-run"]
    {
        assert!(!is_permitted(&format!("namespaces=\"{bad}\"")), "{bad}");
    }
    let odd = format!("agent valid-after=\"20200101Z\",,valid-before=\"20990101Z\" {public}");
    assert!(TrustedSigners::parse(&odd).unwrap_err().to_string().contains("malformed"));
}

/// Asked before the work, with the answer that the signature would get.
#[test]
fn whether_a_signature_would_count_is_known_before_it_is_made() {
    let Keys { key, public, .. } = keys();
    let line = format!("agent namespaces=\"{}\",valid-before=\"20261231Z\" {public}", namespace::RUN);
    let (signers, strangers) = (trusted(&line), trusted(&format!("other {}", keys().public)));
    let (before, after) = ("2026-11-24T00:00:00Z".parse().unwrap(), "2027-01-01T00:00:00Z".parse().unwrap());
    signers.would_accept(&key, namespace::RUN, before).unwrap();
    for (signers, namespace, at, name) in [
        (&signers, namespace::RUN, after, "NotValidAt"),
        (&signers, namespace::MANIFEST, before, "NamespaceNotAllowed"),
        (&strangers, namespace::RUN, before, "UnknownSigner"),
    ] {
        let error = signers.would_accept(&key, namespace, at).unwrap_err();
        assert!(format!("{error:?}").starts_with(name), "{error:?}");
    }
    assert!(!signers.is_empty() && trusted("# nobody").is_empty());
}

#[test]
fn what_an_operator_can_mend_has_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let Keys { key, public, .. } = keys();
    let signature = key.sign(namespace::RUN, MESSAGE).unwrap();
    let verify =
        |line: &str| trusted(line).verify(namespace::RUN, MESSAGE, &signature, now()).unwrap_err().hint();
    let file =
        |kind: std::io::ErrorKind| SignatureError::KeyFile { path: "key".into(), source: kind.into() }.hint();
    let not_a_key = folder.path().join("text");
    write_private(&not_a_key, "hello");
    let encrypted = SignatureError::KeyEncrypted { path: "key".into() };
    for (hint, expected) in [
        (verify(&format!("other {}", keys().public)), "if you know this key"),
        (verify(&format!("agent namespaces=\"{}\" {public}", namespace::MANIFEST)), "namespaces="),
        (file(std::io::ErrorKind::PermissionDenied), "the key's owner"),
        (file(std::io::ErrorKind::NotFound), "ssh-keygen -t ed25519"),
        (SigningKey::load(&not_a_key).unwrap_err().hint(), "ssh-keygen -t ed25519"),
        (encrypted.hint(), "ssh-keygen -p -N '' -f key"),
        (TrustedSigners::parse("agent").unwrap_err().hint(), "a line reads: principal"),
    ] {
        assert!(hint.as_deref().is_some_and(|hint| hint.contains(expected)), "{expected}: {hint:?}");
    }
}
